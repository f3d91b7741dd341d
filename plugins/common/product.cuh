// Matrix-vector products over rows that come through the ring, on tensor cores.
//
// Eight rows are a tile. The instruction multiplies them with eight vectors at a time, but there is one vector only. The
// other seven places are used for something else: in shared memory rows lie a multiple of 128 bytes apart, so that the same
// columns of eight rows are in the same banks. Therefore row r starts r places of 16 bytes further in each 128, and so does
// vector r: the eight vectors are one vector, rotated, and the eight results that belong together are the diagonal. No bank
// conflicts, weights as they are in the checkpoint.
//
// Columns are cut in groups of 64. A chunk of the stream has one or two tiles of rows and WIDE groups, and SPLIT warps have
// some groups of it each; other warps only give it back. What these warps have lies side by side in shared memory and is
// summed in a fixed order by whoever reads it.
#pragma once
#include "flagged.cuh"
#include "numbers.cuh"
#include "ring.cuh"

// How a matrix of K columns is cut, for the producer as for the consumers. Whole rows are best: they come in one copy.
template <int K_, int SPLIT_, int HEIGHT_>
struct Cut {
  static constexpr int K = K_, SPLIT = SPLIT_, HEIGHT = HEIGHT_, ROWS = 8 * HEIGHT, GROUPS = K / 64;
  static constexpr int LARGEST = CHUNK_BYTES / (ROWS * 128);  // groups that would fit
  static constexpr int EVEN = LARGEST < SPLIT ? SPLIT : LARGEST / SPLIT * SPLIT;
  // Groups of a chunk: all, or as many for each warp.
  static constexpr int WIDE = GROUPS <= LARGEST || GROUPS < EVEN ? GROUPS : EVEN;
  static constexpr int PARTS = (GROUPS + WIDE - 1) / WIDE;                  // chunks of the same rows
  static constexpr int COUNT = (WIDE + SPLIT - 1) / SPLIT;                  // groups of a chunk that a warp has, at most
  static_assert(K % 64 == 0 && SPLIT <= WARPS && SPLIT <= GROUPS, "whole groups, and a warp for each part");
  static_assert(ROWS * WIDE * 128 <= RING_BYTES, "the ring must hold a chunk");

  // Groups of a part.
  __device__ __forceinline__ static constexpr int groups(int part) { return part + 1 < PARTS ? WIDE : GROUPS - part * WIDE; }
};

// Rows that lie one behind the other, `split` of them from `first` on, all others from `second` on.
struct RowSource {
  const Half *first, *second;
  unsigned split;
};

// Append so many of them to the stream.
template <class Cut>
__device__ __forceinline__ void push_rows(Producer &producer, unsigned rows, const RowSource &source) {
#pragma unroll 1
  for (unsigned first = 0; first < rows; first += Cut::ROWS) {
    const unsigned last = min(first + Cut::ROWS, rows);
#pragma unroll 1
    for (int part = 0; part < Cut::PARTS; ++part) {
      const unsigned pitch = Cut::groups(part) * 128;
      producer.begin((last - first) * pitch);
      for (unsigned row = first, end; row < last; row = end) {
        const bool second = row >= source.split;
        end = Cut::PARTS > 1 ? row + 1 : second ? last : min(last, source.split);  // whole rows follow each other
        const Half *from = second ? source.second : source.first;
        from += (long long)(second ? row - source.split : row) * Cut::K;
        producer.copy(from + part * Cut::WIDE * 64, (end - row) * pitch);
      }
      producer.end();
    }
  }
}

// Which columns a warp has.
template <class Cut_>
struct Columns : Cut_ {
  typedef Cut_ Cut;
  const unsigned lane, warp;

  __device__ __forceinline__ explicit Columns(unsigned thread) : lane(thread % 32), warp(thread / 32) {}

  // Which group of a part comes at place i of this warp, or -1.
  __device__ __forceinline__ int group(int part, int i) const {
    const int g = warp + i * Cut::SPLIT;
    return warp < Cut::SPLIT && g < Cut::groups(part) ? g : -1;
  }

  // The same among all groups of a row, and this warp's first one again where it has none there: nobody else writes that.
  __device__ __forceinline__ int group_of_row(int part, int i) const {
    const int g = group(part, i);
    return g < 0 ? warp : part * Cut::WIDE + g;
  }
};

// The vector in shared memory, two halves a word, read when it is needed.
template <class Cut>
struct Stored : Columns<Cut> {
  static constexpr int UNROLLED = 1;  // parts of a row
  const unsigned *words;

  __device__ __forceinline__ Stored(unsigned thread, const unsigned *words) : Columns<Cut>(thread), words(words) {}

  // Two neighbours from each of eight places, beginning at place lane / 4; nothing, where others may be writing, of a warp
  // that has no part in this.
  __device__ __forceinline__ void read(int part, int i, unsigned (&x)[8]) const {
    const unsigned *from = words + this->group_of_row(part, i) * 32 + this->lane % 4;
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = this->warp < Cut::SPLIT ? from[(j + this->lane / 4) % 8 * 4] : 0;
  }

  // Fetch this warp's part of what the grid is writing, two halves with a flag, into shared memory.
  __device__ __forceinline__ void take(const Flagged *values, unsigned turn, unsigned *words) const {
    constexpr int COUNT = Cut::PARTS * Cut::COUNT;  // a pair of neighbours of two groups, one in each half of the warp
    const unsigned half = this->lane / 16, at = this->lane % 16 * 2;
    if (this->warp >= Cut::SPLIT) return;
    const auto place = [&](int i) {  // of two neighbours; where there is no group, those of another one again
      const int n = 2 * i + half, part = n / Cut::COUNT, g = part < Cut::PARTS ? this->group(part, n % Cut::COUNT) : -1;
      return (g < 0 ? min(this->warp, Cut::GROUPS - 1) : part * Cut::WIDE + g) * 32 + at;
    };
    uint4 seen[(COUNT + 1) / 2];
    take_pairs(turn, seen, [&](int i) { return values + place(i); });
#pragma unroll
    for (int i = 0; i < (COUNT + 1) / 2; ++i) *(uint2 *)(words + place(i)) = make_uint2(seen[i].x, seen[i].z);
    __syncwarp();
  }
};

// The same, kept in registers for many rows.
template <class Cut>
struct Kept : Columns<Cut> {
  static constexpr int UNROLLED = Cut::PARTS;  // so that registers have names
  unsigned x[Cut::PARTS * Cut::COUNT][8];

  __device__ __forceinline__ Kept(unsigned thread, const unsigned *words) : Columns<Cut>(thread) {
    const Stored<Cut> stored(thread, words);
#pragma unroll
    for (int i = 0; i < Cut::PARTS * Cut::COUNT; ++i) stored.read(i / Cut::COUNT, i % Cut::COUNT, x[i]);
  }

  __device__ __forceinline__ void read(int part, int i, unsigned (&to)[8]) const {
#pragma unroll
    for (int j = 0; j < 8; ++j) to[j] = x[part * Cut::COUNT + i][j];
  }
};

// What a warp has of one tile of rows: the rows are the instruction's right side.
template <int HEIGHT>
struct Sums {
  static_assert(HEIGHT == 1, "one tile or two");
  float sum[4][2] = {};

  // A group, for this lane from `row` on.
  __device__ __forceinline__ void add(unsigned lane, const unsigned char *row, const unsigned (&x)[8]) {
    const unsigned place = (lane / 8 + lane) % 8 * 16;  // of the first four of a group
    unsigned low[4], high[4];
    load_matrices(low, row + place);
    load_matrices(high, row + (place ^ 64));
    multiply(sum[0], x[0], x[1], low[0], low[1]);
    multiply(sum[1], x[2], x[3], low[2], low[3]);
    multiply(sum[2], x[4], x[5], high[0], high[1]);
    multiply(sum[3], x[6], x[7], high[2], high[3]);
  }

  // Element `odd` of what this lane has of a tile.
  __device__ __forceinline__ float get(int, bool odd) const {
    const float even_sum = sum[0][0] + sum[1][0] + (sum[2][0] + sum[3][0]);
    return odd ? sum[0][1] + sum[1][1] + (sum[2][1] + sum[3][1]) : even_sum;
  }
};

// Of two tiles, as its left side, which has room for sixteen rows.
template <>
struct Sums<2> {
  float sum[2][4] = {};

  __device__ __forceinline__ void add(unsigned lane, const unsigned char *row, const unsigned (&x)[8]) {
    const unsigned even = (lane / 16 + lane) % 8 * 16, odd = (lane / 16 + lane + 2) % 8 * 16;  // of two steps of a group
    unsigned weights[4][4];
    load_matrices(weights[0], row + even);
    load_matrices(weights[1], row + odd);
    load_matrices(weights[2], row + (even ^ 64));
    load_matrices(weights[3], row + (odd ^ 64));
#pragma unroll
    for (int step = 0; step < 4; ++step) multiply(sum[step % 2], weights[step], x[2 * step], x[2 * step + 1]);
  }

  __device__ __forceinline__ float get(int tile, bool odd) const {
    return odd ? sum[0][2 * tile + 1] + sum[1][2 * tile + 1] : sum[0][2 * tile] + sum[1][2 * tile];
  }
};

// sums[warp * LIMIT + row] for the next `rows` rows of the stream (at most LIMIT) and each of SPLIT warps.
template <int LIMIT, class Vector>
__device__ __forceinline__ void product(Consumer &stream, const unsigned char *ring, const Vector &vector, unsigned rows,
                                        float *sums) {
  typedef typename Vector::Cut Cut;
  const unsigned lane = vector.lane;
#pragma unroll 1
  for (unsigned first = 0; first < rows; first += Cut::ROWS) {
    const unsigned count = min(Cut::ROWS, rows - first);
    Sums<Cut::HEIGHT> sum;
#pragma unroll(Vector::UNROLLED)
    for (int part = 0; part < Cut::PARTS; ++part) {
      const unsigned pitch = Cut::groups(part) * 128, start = stream.place + min(lane % Cut::ROWS, count - 1) * pitch;
      stream.wait();
#pragma unroll
      for (int i = 0; i < Cut::COUNT; ++i) {
        const int group = vector.group(part, i);
        if (group < 0) continue;
        unsigned at = start + group * 128, x[8];
        if (at >= RING_BYTES) at -= RING_BYTES;  // a group is never cut: all is in multiples of 128
        vector.read(part, i, x);
        sum.add(lane, ring + at, x);
      }
      stream.release(count * pitch);
    }
#pragma unroll
    for (int tile = 0; tile < Cut::HEIGHT; ++tile) {
      const unsigned row = first + tile * 8 + lane / 4;
      const float diagonal = sum.get(tile, lane / 4 % 2 != 0);
      if (vector.warp < Cut::SPLIT && lane % 4 == lane / 8 && row < rows) sums[vector.warp * LIMIT + row] = diagonal;
    }
  }
}

// One row's sum of what a product left.
template <int SPLIT, int LIMIT>
__device__ __forceinline__ float row_sum(const float *sums, int row) {
  float part[SPLIT], sum = 0;
#pragma unroll
  for (int i = 0; i < SPLIT; ++i) part[i] = sums[i * LIMIT + row];
#pragma unroll
  for (int i = 0; i < SPLIT; ++i) sum += part[i];
  return sum;
}
