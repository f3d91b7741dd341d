// Attention of one token over the valid prefix of a stacked, token-major cache: past [M, 2L*K, D] (one sequence). A unit of
// work is a key head and a piece of the prefix, for all GROUP query heads of that key head. ATTENDING warps of a block do it,
// each with 16 of TILE rows: scores, softmax and mix stay in its registers, and what the warps have is put together in shared
// memory at the end. The warp with the newest row rotates the key, writes key and value into the cache and goes on with what
// it wrote.
#pragma once
#include "flagged.cuh"
#include "numbers.cuh"

constexpr int ATTENDING = WARPS < 8 ? WARPS : 8;
constexpr int SLICE = 16, TILE = SLICE * ATTENDING;  // cache rows at a time, of a warp and of all
constexpr int GROUP = HEADS / KV_HEADS;
constexpr int CACHE_ROW = 2 * LAYERS * KV_HEADS * HEAD_DIM;  // numbers that one token keeps
static_assert(HEAD_DIM == 64 && GROUP <= 8, "what the lanes are laid out for");

struct alignas(128) Slice {
  Half keys[SLICE * HEAD_DIM], values[SLICE * HEAD_DIM];  // 16 bytes at place p of row r are at place p ^ r % 8
};

struct PartialMix {  // what a warp has of each head
  float largest[GROUP], total[GROUP];
  alignas(16) float values[GROUP][HEAD_DIM + 8];  // heads in different banks
};

struct Piece {
  int first, count, position;  // rows (a count may be negative: none), and the newest
};

// Where 8 halves of a row begin.
__device__ __forceinline__ int place_of(int row, int eighth) { return row * HEAD_DIM + (eighth ^ row % 8) * 8; }

// One warp asks for its rows of keys and values; rows behind the piece become zeros, the newest is left to `put_newest`.
__device__ __forceinline__ void ask_rows(Slice &memory, const Half *keys, const Half *values, const Piece &piece) {
#pragma unroll 1
  for (int i = this_thread() % 32; i < SLICE * HEAD_DIM / 8; i += 32) {
    const int r = i / (HEAD_DIM / 8), eighth = i % (HEAD_DIM / 8), row = piece.first + r;
    if (r < piece.count && row == piece.position) continue;
    const bool real = r < piece.count;
    const long long at = real ? (long long)row * CACHE_ROW + eighth * 8 : 0;
    copy_async(memory.keys + place_of(r, eighth), keys + at, real);
    copy_async(memory.values + place_of(r, eighth), values + at, real);
  }
}

// x * cos + rotate_half(x) * sin, of channels d and d + D/2 (low, high). Tables are full width, since the two may carry
// different angles.
__device__ __forceinline__ void rotate(float &low, float &high, const float *cos, const float *sin, int d) {
  const float x = low, y = high;
  low = x * cos[d] - y * sin[d];
  high = y * cos[d + HEAD_DIM / 2] + x * sin[d + HEAD_DIM / 2];
}

// The same of a whole row in one warp, of which this lane has channels 2 * lane and the next.
__device__ __forceinline__ void rotate_row(float (&x)[2], const float *cos, const float *sin) {
  const int lane = this_thread() % 32, d = 2 * lane;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float other = __shfl_xor_sync(~0u, x[i], 16);  // the channel half a head away
    x[i] = x[i] * cos[d + i] + (lane < 16 ? -other : other) * sin[d + i];
  }
}

// Where GATHER is 1, the warps that attend fetch queries and newest row together, a head each, instead of all of it each.
struct Gathered {
  unsigned queries[GROUP][HEAD_DIM / 2 + 4];  // rotated and scaled, two halves a word; heads in different banks
  alignas(8) float key[HEAD_DIM], value[HEAD_DIM];  // the key rotated

  __device__ __forceinline__ void take(const Flagged *queries_from, const Flagged *keys, const Flagged *values, unsigned turn,
                                       const float *cos, const float *sin) {
    constexpr int COUNT = (GROUP + 2 + ATTENDING - 1) / ATTENDING;
    const int thread = this_thread(), first = thread / 32, lane = thread % 32;
    const auto from = [&](int row) {
      return (row < GROUP ? queries_from + row * HEAD_DIM : row == GROUP ? keys : values) + 2 * lane;
    };
    uint4 seen[COUNT];
    take_pairs(
        turn, seen, [&](int i) { return from(first + i * ATTENDING); },
        [&](int i) { return first + i * ATTENDING < GROUP + 2; });
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const int row = first + i * ATTENDING;
      if (row >= GROUP + 2) continue;
      float x[2] = {__uint_as_float(seen[i].x), __uint_as_float(seen[i].z)};
      if (row <= GROUP) rotate_row(x, cos, sin);
      const float scale = 0.125f;  // HEAD_DIM ** -0.5
      if (row < GROUP) queries[row][lane] = to_halves(x[0] * scale, x[1] * scale);
      if (row >= GROUP) *(float2 *)((row == GROUP ? key : value) + 2 * lane) = make_float2(x[0], x[1]);
    }
  }
};

// A warp's queries: head lane / 4, rotated and scaled, as what `multiply` takes from the left. Beside them what this lane has
// of the newest row, channels 2 * lane and the next, in a warp that asks for it.
struct Queries {
  unsigned x[8];  // channels 8 * i + 2 * (lane % 4) and the next
  float key[2], value[2];

  __device__ __forceinline__ void take(const Flagged *queries, const Flagged *keys, const Flagged *values, bool newest,
                                       unsigned turn, const float *cos, const float *sin) {
    const int lane = this_thread() % 32, head = min(lane / 4, GROUP - 1), d = lane % 4 * 2;
    const Flagged *from = queries + head * HEAD_DIM + d;
    uint4 seen[10];  // all together: the warp with the newest row is the one that the grid waits for
    take_pairs(turn, seen, [&](int i) { return i < 8 ? from + 8 * i : !newest ? from : (i == 8 ? keys : values) + 2 * lane; });
    key[0] = __uint_as_float(seen[8].x), key[1] = __uint_as_float(seen[8].z);
    value[0] = __uint_as_float(seen[9].x), value[1] = __uint_as_float(seen[9].z);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float a = __uint_as_float(seen[i].x), b = __uint_as_float(seen[i].z);
      float c = __uint_as_float(seen[i + 4].x), e = __uint_as_float(seen[i + 4].z);
      rotate(a, c, cos, sin, 8 * i + d), rotate(b, e, cos, sin, 8 * i + d + 1);
      const float scale = 0.125f;  // HEAD_DIM ** -0.5
      x[i] = to_halves(a * scale, b * scale), x[i + 4] = to_halves(c * scale, e * scale);
    }
  }

  // The same out of shared memory; the key is rotated already.
  __device__ __forceinline__ void read(const Gathered &from) {
    const int lane = this_thread() % 32, head = min(lane / 4, GROUP - 1);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = from.queries[head][4 * i + lane % 4];
#pragma unroll
    for (int i = 0; i < 2; ++i) key[i] = from.key[2 * lane + i], value[i] = from.value[2 * lane + i];
  }

  // The newest row, where the piece has it, also into key_row and value_row [D].
  __device__ __forceinline__ void put_newest(Slice &memory, Half *key_row, Half *value_row, const Piece &piece,
                                             const float *cos, const float *sin) const {
    const int r = piece.position - piece.first, lane = this_thread() % 32, d = 2 * lane;
    if (r < 0 || r >= piece.count) return;
    float k[2] = {key[0], key[1]};
    if (!GATHER) rotate_row(k, cos, sin);
    const int at = place_of(r, d / 8) + d % 8;
    *(unsigned *)(key_row + d) = *(unsigned *)(memory.keys + at) = to_halves(k[0], k[1]);
    *(unsigned *)(value_row + d) = *(unsigned *)(memory.values + at) = to_halves(value[0], value[1]);
  }
};

// What a warp has of head lane / 4: the largest score, the sum of weights relative to it, and of the mix channels
// 8 * i + 2 * (lane % 4) and the next.
struct Mixed {
  float largest = LOWEST, total = 0, values[8][2] = {};

  // A slice more.
  __device__ __forceinline__ void add(const Slice &memory, const Queries &queries, int count) {
    float scores[SLICE / 8][2];
    score(memory, queries, count, scores);
    float peak = largest;
#pragma unroll
    for (int i = 0; i < SLICE / 8; ++i) peak = fmaxf(peak, fmaxf(scores[i][0], scores[i][1]));
    peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 1));
    peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 2));
    const float factor = __expf(largest - peak);
    largest = peak, total *= factor;
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i][0] *= factor, values[i][1] *= factor;
    unsigned weights[SLICE / 8];
    float sum = 0;
#pragma unroll
    for (int i = 0; i < SLICE / 8; ++i) {
      const float a = __expf(scores[i][0] - peak), b = __expf(scores[i][1] - peak);
      sum += a + b;
      weights[i] = to_halves(a, b);
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    total += sum;
    mix(memory, weights);
  }

  // Scores of rows 8 * i + 2 * (lane % 4) and the next.
  __device__ __forceinline__ static void score(const Slice &memory, const Queries &queries, int count,
                                               float (&scores)[SLICE / 8][2]) {
    const int lane = this_thread() % 32;
#pragma unroll
    for (int i = 0; i < SLICE / 8; ++i) {
      scores[i][0] = scores[i][1] = 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        unsigned keys[4];
        load_matrices(keys, memory.keys + place_of(8 * i + lane % 8, 4 * half + lane / 8));
        multiply(scores[i], queries.x[4 * half], queries.x[4 * half + 1], keys[0], keys[1]);
        multiply(scores[i], queries.x[4 * half + 2], queries.x[4 * half + 3], keys[2], keys[3]);
      }
#pragma unroll
      for (int j = 0; j < 2; ++j)
        if (8 * i + lane % 4 * 2 + j >= count) scores[i][j] = LOWEST;
    }
  }

  __device__ __forceinline__ void mix(const Slice &memory, const unsigned (&weights)[SLICE / 8]) {
    const int lane = this_thread() % 32;
#pragma unroll
    for (int step = 0; step < SLICE / 16; ++step)
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        unsigned rows[4];
        load_transposed(rows, memory.values + place_of(16 * step + lane / 8 % 2 * 8 + lane % 8, i + lane / 16));
        multiply(values[i], weights[2 * step], weights[2 * step + 1], rows[0], rows[1]);
        multiply(values[i + 1], weights[2 * step], weights[2 * step + 1], rows[2], rows[3]);
      }
  }

  // For the other warps.
  __device__ __forceinline__ void put(PartialMix &to) const {
    const int lane = this_thread() % 32, head = lane / 4;
    if (head >= GROUP) return;
    if (lane % 4 == 0) to.largest[head] = largest, to.total[head] = total;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      *(float2 *)&to.values[head][8 * i + lane % 4 * 2] = make_float2(values[i][0], values[i][1]);
  }
};
