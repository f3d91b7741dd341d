// Values between blocks without a barrier: 32 bits and the turn in which they were written travel in one piece, and readers
// look until the turn is there. One trip through the cache instead of a release, a count, and a read behind it.
//
// A place may be written again as soon as everybody has read it. Here that needs no further waiting: each phase reads what
// all blocks wrote in the phase before, so whoever comes to a place again knows that all others have left it.
#pragma once
#include "numbers.cuh"
#include "waiting.cuh"

struct alignas(8) Flagged {
  unsigned bits, turn;
};

__device__ __forceinline__ void give(Flagged *to, unsigned turn, float value) {
  store_pair(to, __float_as_uint(value), turn);
}

// A value that all blocks look for has COPIES places, `stride` apart, so that fewer blocks ask for each piece of the cache.
__device__ __forceinline__ void give_all(Flagged *to, unsigned stride, unsigned turn, unsigned bits) {
#pragma unroll
  for (int i = 0; i < COPIES; ++i) store_pair(to + i * stride, bits, turn);
}

// Where this block looks.
__device__ __forceinline__ const Flagged *my_copy(const Flagged *from, unsigned stride) {
  return from + blockIdx.x % COPIES * stride;
}

struct Always {
  __device__ __forceinline__ bool operator()(int) const { return true; }
};

// COUNT pairs of neighbours, pair i from(i), at a multiple of 16 bytes, or zeros where it is not `wanted`. All that are missing
// are asked for together: one after another each would cost a trip of its own, even when it has long been there.
template <int COUNT, class From, class Wanted = Always>
__device__ __forceinline__ void take_pairs(unsigned turn, uint4 (&seen)[COUNT], const From &from, const Wanted &wanted = {}) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) seen[i] = {0, wanted(i) ? ~turn : turn, 0, wanted(i) ? ~turn : turn};
  for (Patience patience;; patience.lose()) {
    bool missing = false;
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
      if (seen[i].y != turn || seen[i].w != turn) seen[i] = load_pairs(from(i));
#pragma unroll
    for (int i = 0; i < COUNT; ++i) missing |= seen[i].y != turn || seen[i].w != turn;
    if (!missing) return;
    if (BACKOFF) pause(BACKOFF);
  }
}

// COUNT neighbours, an even number of them.
template <int COUNT>
__device__ __forceinline__ void take(const Flagged *from, unsigned turn, float (&values)[COUNT]) {
  uint4 seen[COUNT / 2];
  take_pairs(turn, seen, [&](int i) { return from + 2 * i; });
#pragma unroll
  for (int i = 0; i < COUNT / 2; ++i)
    values[2 * i] = __uint_as_float(seen[i].x), values[2 * i + 1] = __uint_as_float(seen[i].z);
}
