// Matrix-vector products over rows that come through the ring, on tensor cores.
//
// Eight rows are a tile. The instruction multiplies them with eight vectors at a time, but there is one vector only. The
// other seven places are used for something else: in shared memory the rows of a checkpoint lie a multiple of 128 bytes
// apart, so that the same columns of eight rows are in the same banks. Therefore row r starts r places of 16 bytes further
// in each 128, and so does vector r: the eight vectors are one vector, rotated, and the eight results that belong together
// are the diagonal. No bank conflicts, weights as they are in the checkpoint.
//
// Columns are cut in groups of 64, and these over KSPLIT warps; WARPS / KSPLIT sets of warps take some tiles at a time: where
// there are few rows, one or two with the rows on the instruction's right side (`few_rows`), where there are many, pairs of
// tiles on its left, which has room for sixteen rows (`many_rows`). What the KSPLIT warps have lies side by side in shared
// memory and is summed in a fixed order by whoever reads it.
#pragma once
#include "flagged.cuh"
#include "numbers.cuh"
#include "ring.cuh"

// Which columns a warp has.
template <int K_, int KSPLIT_>
struct Columns {
  static constexpr int K = K_, KSPLIT = KSPLIT_, GROUPS = K / 64, COUNT = (GROUPS + KSPLIT - 1) / KSPLIT;
  static_assert(K % 64 == 0 && KSPLIT <= WARPS, "whole groups, and a warp for each part");
  const unsigned lane, warp, part;

  __device__ __forceinline__ explicit Columns(unsigned thread)
      : lane(thread % 32), warp(thread / 32), part(thread / 32 % KSPLIT) {}

  // Which group comes at place i of this warp, or -1.
  __device__ __forceinline__ int group(int i) const {
    const int g = part + i * KSPLIT;
    return (i + 1) * KSPLIT <= GROUPS || g < GROUPS ? g : -1;
  }

  // Of the group at place i of halves in shared memory, two a word: two neighbours from each of eight places, beginning at
  // place lane / 4.
  __device__ __forceinline__ void read(const unsigned *words, int i, unsigned (&x)[8]) const {
    const int g = group(i);
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = g < 0 ? 0 : words[g * 32 + (j + lane / 4) % 8 * 4 + lane % 4];
  }

  // Fetch this warp's part of what the grid is writing, two halves with a flag, into shared memory.
  __device__ __forceinline__ void take(const Flagged *values, unsigned turn, unsigned *words) const {
    uint2 seen[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; ++i) seen[i] = load_pair(values + max(group(i), 0) * 32 + lane);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const int at = max(group(i), 0) * 32 + lane;
      Patience patience;
      while (seen[i].y != turn) patience.lose(), seen[i] = load_pair(values + at);
      if (group(i) >= 0) words[at] = seen[i].x;
    }
    __syncwarp();
  }
};

// sums[part * LIMIT + row] for the next `rows` rows of the stream (at most LIMIT) and each of the KSPLIT parts of a row; the
// vector is read when it is needed.
template <int TILES, int LIMIT, int K, int KSPLIT>
__device__ __forceinline__ void few_rows(Consumer &stream, const unsigned char *ring, const Columns<K, KSPLIT> &columns,
                                         const unsigned *words, unsigned rows, float *sums) {
  constexpr unsigned CHAINS = TILES >= 4 ? 1 : 4 / TILES, AT_ONCE = 8 * TILES, STRIDE = WARPS / KSPLIT * AT_ONCE;
  constexpr unsigned ROW_BYTES = 2 * K;
  static_assert(AT_ONCE * ROW_BYTES + SLOT_BYTES <= RING_BYTES, "the ring must hold what a warp takes at a time");
  const unsigned lane = columns.lane, warp = columns.warp, base = stream.position;
  const unsigned place = (lane / 8 + lane) % 8 * 16;  // of the first four of a group
  for (unsigned first = warp / KSPLIT * AT_ONCE; first < rows && warp < WARPS / KSPLIT * KSPLIT; first += STRIDE) {
    stream.release(base + first * ROW_BYTES);  // what other sets take, and what this one has read
    stream.wait(base + min(first + AT_ONCE, rows) * ROW_BYTES);
    float sum[TILES][CHAINS][2] = {};
    unsigned start[TILES];
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
      start[tile] = (base + min(first + tile * 8 + lane % 8, rows - 1) * ROW_BYTES) % RING_BYTES;
#pragma unroll 2
    for (int i = 0; i < columns.COUNT; ++i) {
      const unsigned offset = max(columns.group(i), 0) * 128;
      unsigned x[8];
      columns.read(words, i, x);
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile) {
        unsigned at = start[tile] + offset;
        if (at >= RING_BYTES) at -= RING_BYTES;  // a group is never cut: all is in multiples of 128
        unsigned low[4], high[4];
        load_matrices(low, ring + at + place);
        load_matrices(high, ring + at + (place ^ 64));
        multiply(sum[tile][0], x[0], x[1], low[0], low[1]);
        multiply(sum[tile][1 % CHAINS], x[2], x[3], low[2], low[3]);
        multiply(sum[tile][2 % CHAINS], x[4], x[5], high[0], high[1]);
        multiply(sum[tile][3 % CHAINS], x[6], x[7], high[2], high[3]);
      }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
      float diagonal = 0;
#pragma unroll
      for (int chain = 0; chain < CHAINS; ++chain)
        diagonal += lane / 4 % 2 == 0 ? sum[tile][chain][0] : sum[tile][chain][1];
      const unsigned row = first + tile * 8 + lane / 4;
      if (lane % 4 == lane / 8 && row < rows) sums[columns.part * LIMIT + row] = diagonal;
    }
  }
  stream.position = base + rows * ROW_BYTES;
  stream.release(stream.position);
}

// The vector, kept in registers for many rows.
template <int K, int KSPLIT>
struct Kept : Columns<K, KSPLIT> {
  unsigned x[Columns<K, KSPLIT>::COUNT][8];

  __device__ __forceinline__ Kept(unsigned thread, const unsigned *words) : Columns<K, KSPLIT>(thread) {
#pragma unroll
    for (int i = 0; i < this->COUNT; ++i) this->read(words, i, x[i]);
  }
};

// The same as `few_rows`; DOUBLES pairs of tiles at a time.
template <int DOUBLES, int LIMIT, int K, int KSPLIT>
__device__ __forceinline__ void many_rows(Consumer &stream, const unsigned char *ring, const Kept<K, KSPLIT> &vector,
                                          unsigned rows, float *sums) {
  constexpr unsigned AT_ONCE = 16 * DOUBLES, STRIDE = WARPS / KSPLIT * AT_ONCE, ROW_BYTES = 2 * K;
  static_assert(AT_ONCE * ROW_BYTES + SLOT_BYTES <= RING_BYTES, "the ring must hold what a warp takes at a time");
  const unsigned lane = vector.lane, warp = vector.warp, base = stream.position;
  const unsigned even = (lane / 16 + lane) % 8 * 16, odd = (lane / 16 + lane + 2) % 8 * 16;  // of two steps of a group
  for (unsigned first = warp / KSPLIT * AT_ONCE; first < rows && warp < WARPS / KSPLIT * KSPLIT; first += STRIDE) {
    stream.release(base + first * ROW_BYTES);  // what other sets take, and what this one has read
    stream.wait(base + min(first + AT_ONCE, rows) * ROW_BYTES);
    float sum[DOUBLES][2][4] = {};
    unsigned start[DOUBLES];
#pragma unroll
    for (int pair = 0; pair < DOUBLES; ++pair)
      start[pair] = (base + min(first + pair * 16 + lane % 16, rows - 1) * ROW_BYTES) % RING_BYTES;
#pragma unroll
    for (int i = 0; i < vector.COUNT; ++i) {
      const unsigned offset = max(vector.group(i), 0) * 128;
#pragma unroll
      for (int pair = 0; pair < DOUBLES; ++pair) {
        unsigned at = start[pair] + offset;
        if (at >= RING_BYTES) at -= RING_BYTES;
        unsigned weights[4][4];
        load_matrices(weights[0], ring + at + even);
        load_matrices(weights[1], ring + at + odd);
        load_matrices(weights[2], ring + at + (even ^ 64));
        load_matrices(weights[3], ring + at + (odd ^ 64));
#pragma unroll
        for (int step = 0; step < 4; ++step)
          multiply(sum[pair][step % 2], weights[step], vector.x[i][2 * step], vector.x[i][2 * step + 1]);
      }
    }
#pragma unroll
    for (int pair = 0; pair < DOUBLES; ++pair)
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        const float low = sum[pair][0][2 * tile] + sum[pair][1][2 * tile];
        const float high = sum[pair][0][2 * tile + 1] + sum[pair][1][2 * tile + 1];
        const unsigned row = first + pair * 16 + tile * 8 + lane / 4;
        if (lane % 4 == lane / 8 && row < rows) sums[vector.part * LIMIT + row] = lane / 4 % 2 == 0 ? low : high;
      }
  }
  stream.position = base + rows * ROW_BYTES;
  stream.release(stream.position);
}

// One row's sum of what a product left.
template <int KSPLIT, int LIMIT>
__device__ __forceinline__ float row_sum(const float *sums, int row) {
  float part[KSPLIT], sum = 0;
#pragma unroll
  for (int i = 0; i < KSPLIT; ++i) part[i] = sums[i * LIMIT + row];
#pragma unroll
  for (int i = 0; i < KSPLIT; ++i) sum += part[i];
  return sum;
}
