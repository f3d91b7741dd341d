// Waiting with a limit: whatever goes wrong in a grid that waits for itself ends as an error of the launch, never as a
// hang of the device.
#pragma once
#include "machine.cuh"

constexpr unsigned long long LONGEST_WAIT = 2000000000ull;  // ns

struct Patience {
  unsigned tries = 0;
  unsigned long long since = 0;
  // One more vain look. Traps when the first of them is two seconds ago.
  __device__ __forceinline__ void lose() {
    relax();
    if ((++tries & 1023u) != 0) return;
    const unsigned long long now = nanoseconds();
    if (since == 0) since = now;
    if (now - since > LONGEST_WAIT) __trap();
  }
};

// Until a count, which only ever grows, has come to `target`.
__device__ __forceinline__ void wait_for(const unsigned *counter, unsigned target) {
  Patience patience;
  while ((int)(load_acquire(counter) - target) < 0) patience.lose();
}

__device__ __forceinline__ void barrier_wait(Barrier *barrier, unsigned parity) {
  Patience patience;
  while (!barrier_try(barrier, parity)) patience.lose();
}
