// The stream of weights through shared memory. Weights depend on nothing, so one warp asks for them in the order in which
// they will be read, as far ahead as there is room, across phases, layers and steps; the memory never waits for the grid.
//
// The stream is one sequence of bytes, cut into slots; byte s of it lies at s % RING_BYTES. The producer fills a slot when
// all consumer warps have released what was there before. A warp waits for and releases slots strictly in order, which
// keeps the parities of their barriers unambiguous.
#pragma once
#include "waiting.cuh"

constexpr unsigned RING_BYTES = SLOTS * SLOT_BYTES;

struct RingBarriers {
  Barrier full[SLOTS], empty[SLOTS];
};

__device__ __forceinline__ void init_ring(RingBarriers &barriers, int consumer_warps) {
  for (int slot = 0; slot < SLOTS; ++slot) {
    barrier_init(&barriers.full[slot], 1);
    barrier_init(&barriers.empty[slot], consumer_warps);
  }
  barriers_ready();
}

// One place in the sequence of slots.
struct SlotCursor {
  unsigned slot = 0, parity = 0;
  __device__ __forceinline__ void next() {
    if (++slot == SLOTS) slot = 0, parity ^= 1;
  }
};

// The one thread that fills the ring. No more than `flight` slots are on their way at a time: that is enough for the memory's
// full speed, and more would only make everybody else's loads wait in the same queues.
struct Producer {
  unsigned char *ring;
  RingBarriers *barriers;
  unsigned long long policy;
  SlotCursor at, landed;
  unsigned filled = 0, flying = 0;
  const unsigned flight;

  __device__ Producer(unsigned char *ring, RingBarriers *barriers, unsigned flight)
      : ring(ring), barriers(barriers), policy(read_once()), flight(flight) {}

  // Append bytes of global memory, a multiple of 16 at a multiple of 16, to the stream.
  __device__ void push(const void *source, unsigned bytes) {
    const unsigned char *from = (const unsigned char *)source;
    while (bytes > 0) {
      if (filled == 0) begin_slot();
      const unsigned count = min(bytes, SLOT_BYTES - filled);
      barrier_expect(&barriers->full[at.slot], count);
      copy_bulk(ring + at.slot * SLOT_BYTES + filled, from, count, &barriers->full[at.slot], policy);
      from += count, bytes -= count, filled += count;
      if (filled == SLOT_BYTES) flush();
    }
  }

  __device__ __forceinline__ void begin_slot() {
    if (flying == flight) {
      barrier_wait(&barriers->full[landed.slot], landed.parity);
      landed.next();
      --flying;
    }
    barrier_wait(&barriers->empty[at.slot], at.parity ^ 1);
    ++flying;
  }

  // Hand the slot over as it is.
  __device__ void flush() {
    if (filled == 0) return;
    barrier_arrive(&barriers->full[at.slot]);
    at.next();
    filled = 0;
  }
};

// What one consumer warp knows of the stream.
struct Consumer {
  RingBarriers *barriers;
  unsigned position = 0;  // of the product that is being computed, in the stream
  SlotCursor ready, released;
  long long stalled = 0;                     // cycles, where PROFILE is on
  unsigned ready_end = 0, released_end = 0;  // up to where the stream is readable, and was given back

  // Make the stream readable up to `end`.
  __device__ __forceinline__ void wait(unsigned end) {
    while ((int)(ready_end - end) < 0) {
#if PROFILE
      const long long began = clock64();
#endif
      barrier_wait(&barriers->full[ready.slot], ready.parity);
#if PROFILE
      stalled += clock64() - began;
#endif
      ready.next();
      ready_end += SLOT_BYTES;
    }
  }

  // Give back all slots that end at or before `end`. Every lane has read what it needs from them.
  __device__ __forceinline__ void release(unsigned end) {
    while ((int)(released_end + SLOT_BYTES - end) <= 0) {
      wait(released_end + SLOT_BYTES);  // a slot that this warp had nothing to read from
      __syncwarp();                     // every lane has read, and has seen that there was something to read
      if (threadIdx.x % 32 == 0) barrier_arrive(&barriers->empty[released.slot]);
      released.next();
      released_end += SLOT_BYTES;
    }
  }
};
