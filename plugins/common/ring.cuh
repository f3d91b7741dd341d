// The stream of weights through shared memory. Weights depend on nothing, so one warp asks for them in the order in which
// they will be read, as far ahead as there is room, across phases, layers and steps; the memory never waits for the grid.
//
// The stream is one sequence of chunks, each as large as what a product takes at a time; they lie one behind the other in a
// ring of RING_BYTES, and the last may go on at its start. Every consumer warp waits for every chunk and gives it back, in
// order, which keeps the parities of the barriers unambiguous. A chunk costs a warp one wait, whatever its size: slots of 8 KB
// cost 200 cycles each.
//
// A warp gives a chunk back by one lane, behind a __syncwarp. compute-sanitizer's racecheck does not carry the order from the
// other lanes to that one, so where CHECKED is 1 each lane gives back what it has read itself.
#pragma once
#include "waiting.cuh"

constexpr unsigned CHUNKS = 32;  // that are in the ring, at most
constexpr unsigned GIVING = CHECKED ? 32 : 1;  // lanes of a warp that give a chunk back

struct RingBarriers {
  Barrier full[CHUNKS], empty[CHUNKS];
  unsigned bytes[CHUNKS];  // of each chunk, which only the producer reads
  volatile unsigned flight;  // bytes on their way, at most; changed by consumers, and any of its values will do at any time
};

__device__ __forceinline__ void init_ring(RingBarriers &barriers, int consumer_warps, unsigned flight) {
  for (unsigned i = 0; i < CHUNKS; ++i) {
    barrier_init(&barriers.full[i], 1);
    barrier_init(&barriers.empty[i], GIVING * consumer_warps);
  }
  barriers.flight = flight;
  barriers_ready();
}

__device__ __forceinline__ unsigned parity_of(unsigned chunk) { return chunk / CHUNKS & 1; }

// The one thread that fills the ring. No more than `flight` bytes are on their way at a time (but a chunk always may): enough
// for the memory's full speed, while more would only make everybody else's loads wait in the same queues.
struct Producer {
  unsigned char *ring;
  RingBarriers *barriers;
  unsigned long long policy;
  unsigned chunk = 0, landed = 0, released = 0;   // the next one; the oldest that may be on its way; that may be in use
  unsigned place = 0, room = RING_BYTES, flying = 0;  // in bytes

  __device__ Producer(unsigned char *ring, RingBarriers *barriers) : ring(ring), barriers(barriers), policy(read_once()) {}

  // A chunk of so many bytes, a multiple of 128; `copy` says where they come from, and `end` ends it.
  __device__ __forceinline__ void begin(unsigned bytes) {
    for (; room < bytes || chunk - released == CHUNKS; ++released) {
      barrier_wait(&barriers->empty[released % CHUNKS], parity_of(released));
      room += barriers->bytes[released % CHUNKS];
    }
    while (flying > 0 && flying + bytes > barriers->flight) land();
    barriers->bytes[chunk % CHUNKS] = bytes;
    room -= bytes, flying += bytes;
    barrier_expect(&barriers->full[chunk % CHUNKS], bytes);
  }

  __device__ __forceinline__ void land() {
    barrier_wait(&barriers->full[landed % CHUNKS], parity_of(landed));
    flying -= barriers->bytes[landed % CHUNKS];
    ++landed;
  }

  // Bytes of global memory, a multiple of 16 at a multiple of 16.
  __device__ __forceinline__ void copy(const void *source, unsigned bytes) {
    const unsigned char *from = (const unsigned char *)source;
    while (bytes > 0) {
      const unsigned count = min(bytes, RING_BYTES - place);
      copy_bulk(ring + place, from, count, &barriers->full[chunk % CHUNKS], policy);
      from += count, bytes -= count, place = place + count == RING_BYTES ? 0 : place + count;
    }
  }

  __device__ __forceinline__ void end() { barrier_arrive(&barriers->full[chunk++ % CHUNKS]); }
};

// What one consumer warp knows of the stream.
struct Consumer {
  RingBarriers *barriers;
  unsigned chunk = 0, place = 0;  // of the chunk that comes next
  long long stalled = 0;          // cycles, where PROFILE is on

  // Until the next chunk is there, at `place` and behind.
  __device__ __forceinline__ void wait() {
#if PROFILE
    const long long began = clock64();
#endif
    barrier_wait(&barriers->full[chunk % CHUNKS], parity_of(chunk));
#if PROFILE
    stalled += clock64() - began;
#endif
  }

  // Give it back. Every lane has read what it needs.
  __device__ __forceinline__ void release(unsigned bytes) {
    __syncwarp();
    if (threadIdx.x % 32 < GIVING) barrier_arrive(&barriers->empty[chunk % CHUNKS]);
    ++chunk, place += bytes;
    if (place >= RING_BYTES) place -= RING_BYTES;
  }
};
