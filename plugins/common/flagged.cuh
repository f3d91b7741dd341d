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

__device__ __forceinline__ void give_halves(Flagged *to, unsigned turn, float low, float high) {
  store_pair(to, to_halves(low, high), turn);
}

// A first look at two neighbours, at a multiple of 16 bytes; `insist` goes on until both are of this turn.
__device__ __forceinline__ uint4 look(const Flagged *from) { return load_pairs(from); }

__device__ __forceinline__ void insist(const Flagged *from, unsigned turn, uint4 &seen) {
  Patience patience;
  while (seen.y != turn || seen.w != turn) {
    patience.lose();
    seen = load_pairs(from);
  }
}

// COUNT neighbours, an even number of them.
template <int COUNT>
__device__ __forceinline__ void take(const Flagged *from, unsigned turn, float (&values)[COUNT]) {
  uint4 seen[COUNT / 2];
#pragma unroll
  for (int i = 0; i < COUNT / 2; ++i) seen[i] = look(from + 2 * i);
#pragma unroll
  for (int i = 0; i < COUNT / 2; ++i) {
    insist(from + 2 * i, turn, seen[i]);
    values[2 * i] = __uint_as_float(seen[i].x), values[2 * i + 1] = __uint_as_float(seen[i].z);
  }
}

// Two values at any places.
__device__ __forceinline__ void take(const Flagged *one, const Flagged *two, unsigned turn, float &a, float &b) {
  uint2 x = load_pair(one), y = load_pair(two);
  Patience patience;
  while (x.y != turn || y.y != turn) {
    patience.lose();
    x = load_pair(one), y = load_pair(two);
  }
  a = __uint_as_float(x.x), b = __uint_as_float(y.x);
}

// Until a place has been written in this turn or a later one.
__device__ __forceinline__ void wait_turn(const Flagged *place, unsigned turn) {
  Patience patience;
  while ((int)(load_pair(place).y - turn) < 0) patience.lose();
}
