// Grouped-query attention of several rows over a cache prefix and over the new rows themselves, one pass with a running
// maximum. Query heads that share a key head lie side by side, row t * G + g of a tile, so that keys are read once for all.
#pragma once
#include "rows.cuh"

constexpr int TILE = 64, ATTEND_THREADS = 128;    // queries and keys of a tile; each of four warps has 16 queries
constexpr int PITCH = HEAD_DIM + 8;               // halves from one row of a tile to the next: no two lanes meet in a bank
constexpr int TILE_HALVES = TILE * PITCH;
constexpr int ATTEND_BYTES = 5 * TILE_HALVES * 2;  // queries, and keys and values twice
constexpr int PARTIAL = HEAD_DIM + 4;              // floats of a piece's result: sums, maximum, weight
constexpr float LOG2E = 1.4426950408889634f;

struct AttendArguments {
  const Half *queries;                        // [B, Q, H*D]
  const Half *keys, *values;                  // this layer's heads in row (t, b) of the new rows
  const Half *past_keys, *past_values;        // the same of the cache, or null
  const int *lengths, *past_length;           // [B], or null: all, none
  Half *mixed;                                // [B, Q, H*D], where there is one piece
  float *partial;                             // [B, Q, H, pieces, PARTIAL], where there are more
  int batch, query_rows, rows, past_rows;     // B, Q, T, M
  int heads, kv_heads, row_stride;            // halves from one (t, b) to the next
  int causal, last;                           // last: the one query of each sequence is its last valid row
  int tiles, pieces;                          // of queries; of keys
  float scale;                                // of scores, for powers of two
};

// What a block works on.
struct Work {
  int b, head, tile, piece;    // sequence, key head, tile of queries, piece of keys
  int group, first;            // query heads of a key head; position among the new rows of query 0
  int past, length, fresh;     // valid keys of the prefix, of the new rows, and those of the latter that this tile needs
  int past_tiles, begin, end;  // tiles of keys; those of this piece
};

__device__ __forceinline__ Work work_of(const AttendArguments &a) {
  Work w;
  int rest = blockIdx.x;
  w.piece = rest % a.pieces, rest /= a.pieces;
  w.head = rest % a.kv_heads, rest /= a.kv_heads;
  w.b = rest % a.batch;
  w.tile = a.tiles - 1 - rest / a.batch;  // those with most keys first
  w.group = a.heads / a.kv_heads;
  w.length = a.lengths == nullptr ? a.rows : clamped(a.lengths[w.b], 0, a.rows);
  w.past = a.past_length == nullptr ? 0 : clamped(a.past_length[w.b], 0, a.past_rows);
  w.first = a.last ? max(w.length - 1, 0) : 0;
  const int last_query = w.first + (min((w.tile + 1) * TILE, w.group * a.query_rows) - 1) / w.group;
  w.fresh = a.causal ? min(w.length, last_query + 1) : w.length;
  w.past_tiles = (w.past + TILE - 1) / TILE;
  const int all = w.past_tiles + (w.fresh + TILE - 1) / TILE;
  w.begin = all * w.piece / a.pieces, w.end = all * (w.piece + 1) / a.pieces;
  return w;
}

__device__ __forceinline__ void fetch_queries(const AttendArguments &a, const Work &w, Half *to) {
  for (int n = threadIdx.x; n < TILE * 8; n += ATTEND_THREADS) {
    const int row = w.tile * TILE + n / 8;
    const bool real = row < w.group * a.query_rows;
    const size_t query = (size_t)w.b * a.query_rows + (real ? row / w.group : 0);
    const Half *from = a.queries + (query * a.heads + w.head * w.group + row % w.group) * HEAD_DIM + n % 8 * 8;
    copy_async(to + n / 8 * PITCH + n % 8 * 8, from, real);
  }
}

// Keys and values of a tile; zeros for those that are not valid, whatever stands there.
__device__ __forceinline__ void fetch_keys(const AttendArguments &a, const Work &w, int tile, Half *keys, Half *values) {
  const bool past = tile < w.past_tiles;
  const int start = (past ? tile : tile - w.past_tiles) * TILE, limit = past ? w.past : w.fresh;
  const Half *key_rows = past ? a.past_keys : a.keys, *value_rows = past ? a.past_values : a.values;
  for (int n = threadIdx.x; n < TILE * 8; n += ATTEND_THREADS) {
    const int key = start + n / 8, to = n / 8 * PITCH + n % 8 * 8;
    const bool real = key < limit;
    const size_t from = ((size_t)(real ? key : 0) * a.batch + w.b) * a.row_stride + w.head * HEAD_DIM + n % 8 * 8;
    copy_async(keys + to, key_rows + from, real);
    copy_async(values + to, value_rows + from, real);
  }
}

// A warp's 16 queries as fragments of a.
struct Queries {
  unsigned fragment[HEAD_DIM / 16][4];
};

__device__ __forceinline__ Queries load_queries(const Half *tile) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Queries q;
#pragma unroll
  for (int k = 0; k < HEAD_DIM / 16; ++k)
    load_matrices(q.fragment[k], tile + (warp * 16 + lane % 16) * PITCH + k * 16 + lane / 16 * 8);
  return q;
}

// scores [16, TILE] of a warp: queries times keys, transposed as they lie.
__device__ __forceinline__ void score(float (&scores)[TILE / 8][4], const Queries &q, const Half *keys) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < TILE / 8; n += 2)
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; ++k) {
      unsigned m[4];
      load_matrices(m, keys + (n * 8 + lane / 16 * 8 + lane % 8) * PITCH + k * 16 + lane / 8 % 2 * 8);
      multiply(scores[n], q.fragment[k], m[0], m[1]);
      multiply(scores[n + 1], q.fragment[k], m[2], m[3]);
    }
}

// sums [16, D] += chances [16, TILE] times values.
__device__ __forceinline__ void weigh(float (&sums)[HEAD_DIM / 8][4], const float (&p)[TILE / 8][4], const Half *values) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < TILE / 16; ++k) {
    const unsigned a[4] = {to_halves(p[2 * k][0], p[2 * k][1]), to_halves(p[2 * k][2], p[2 * k][3]),
                           to_halves(p[2 * k + 1][0], p[2 * k + 1][1]), to_halves(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; n += 2) {
      unsigned m[4];
      load_transposed(m, values + (k * 16 + lane / 8 % 2 * 8 + lane % 8) * PITCH + n * 8 + lane / 16 * 8);
      multiply(sums[n], a, m[0], m[1]);
      multiply(sums[n + 1], a, m[2], m[3]);
    }
  }
}

// Maximum and weight of the two rows that a lane has, 8 apart; the weight is the lane's own part.
struct Running {
  float peak[2] = {LOWEST, LOWEST}, weight[2] = {0, 0};
};

// Scores become chances relative to the running maximum; `limit` is the first key of the tile that a row may not see.
__device__ __forceinline__ void soften(float (&s)[TILE / 8][4], float (&sums)[HEAD_DIM / 8][4], Running &r,
                                       const int (&limit)[2], float scale) {
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float peak = r.peak[row];
#pragma unroll
    for (int n = 0; n < TILE / 8; ++n)
      for (int j = 0; j < 2; ++j) {
        float &value = s[n][2 * row + j];
        value = n * 8 + column + j < limit[row] ? value * scale : LOWEST;
        peak = max(peak, value);
      }
    peak = max(peak, __shfl_xor_sync(~0u, peak, 1));
    peak = max(peak, __shfl_xor_sync(~0u, peak, 2));
    const float shrink = exp2f(r.peak[row] - peak);
    float weight = 0;
#pragma unroll
    for (int n = 0; n < TILE / 8; ++n)
      for (int j = 0; j < 2; ++j) {
        float &value = s[n][2 * row + j];
        value = n * 8 + column + j < limit[row] ? exp2f(value - peak) : 0.0f;
        weight += value;
      }
    r.peak[row] = peak, r.weight[row] = r.weight[row] * shrink + weight;
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; ++n) sums[n][2 * row] *= shrink, sums[n][2 * row + 1] *= shrink;
  }
}

__device__ __forceinline__ void store(const AttendArguments &a, const Work &w, const float (&sums)[HEAD_DIM / 8][4],
                                      const Running &r) {
  const int lane = threadIdx.x % 32, column = lane % 4 * 2;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float weight = r.weight[row];
    weight += __shfl_xor_sync(~0u, weight, 1);
    weight += __shfl_xor_sync(~0u, weight, 2);
    const int query = w.tile * TILE + threadIdx.x / 32 * 16 + row * 8 + lane / 4;
    if (query >= w.group * a.query_rows) continue;
    const size_t at = ((size_t)w.b * a.query_rows + query / w.group) * a.heads + w.head * w.group + query % w.group;
    if (a.pieces == 1) {
      const float share = weight > 0 ? 1.0f / weight : 0.0f;  // a row that sees nothing gives zeros
      for (int n = 0; n < HEAD_DIM / 8; ++n)
        *(unsigned *)(a.mixed + at * HEAD_DIM + n * 8 + column) =
            to_halves(sums[n][2 * row] * share, sums[n][2 * row + 1] * share);
    } else {
      float *to = a.partial + (at * a.pieces + w.piece) * PARTIAL;
      for (int n = 0; n < HEAD_DIM / 8; ++n)
        *(float2 *)(to + n * 8 + column) = make_float2(sums[n][2 * row], sums[n][2 * row + 1]);
      if (lane % 4 == 0) to[HEAD_DIM] = r.peak[row], to[HEAD_DIM + 1] = weight;
    }
  }
}

// A block: one tile of queries of one key head of one sequence, over one piece of the keys.
__global__ void __launch_bounds__(ATTEND_THREADS) attend(const __grid_constant__ AttendArguments a) {
  Half *shared = (Half *)dynamic_shared();
  const Work w = work_of(a);
  float sums[HEAD_DIM / 8][4] = {};
  Running running;
  int position[2];  // of the two queries of this lane among the new rows
  for (int row = 0; row < 2; ++row)
    position[row] = w.first + (w.tile * TILE + (int)threadIdx.x / 32 * 16 + row * 8 + (int)threadIdx.x % 32 / 4) / w.group;
  fetch_queries(a, w, shared);
  Half *keys = shared + TILE_HALVES, *next = shared + 3 * TILE_HALVES;  // values behind them
  if (w.begin < w.end) fetch_keys(a, w, w.begin, keys, keys + TILE_HALVES);
  copies_done();
  __syncthreads();
  const Queries queries = load_queries(shared);
  for (int tile = w.begin; tile < w.end; ++tile) {
    if (tile + 1 < w.end) fetch_keys(a, w, tile + 1, next, next + TILE_HALVES);  // all are done with what was there
    const bool past = tile < w.past_tiles;
    const int start = (past ? tile : tile - w.past_tiles) * TILE;
    int limit[2];
    for (int row = 0; row < 2; ++row)
      limit[row] = (past ? w.past : a.causal ? min(w.length, position[row] + 1) : w.length) - start;
    float scores[TILE / 8][4] = {};
    score(scores, queries, keys);
    soften(scores, sums, running, limit, a.scale);
    weigh(sums, scores, keys + TILE_HALVES);
    copies_done();
    __syncthreads();
    Half *const done = keys;
    keys = next, next = done;
  }
  store(a, w, sums, running);
}

struct CombineArguments {
  const float *partial;  // [R, pieces, PARTIAL], R rows of heads
  Half *mixed;           // [R, D]
  int pieces;
};

// The pieces of a row together: a block of HEAD_DIM threads each.
__global__ void __launch_bounds__(HEAD_DIM) combine(const __grid_constant__ CombineArguments a) {
  const float *from = a.partial + (size_t)blockIdx.x * a.pieces * PARTIAL;
  float peak = LOWEST, weight = 0, sum = 0;
  for (int piece = 0; piece < a.pieces; ++piece) peak = max(peak, from[piece * PARTIAL + HEAD_DIM]);
  for (int piece = 0; piece < a.pieces; ++piece) {
    const float *of = from + piece * PARTIAL, share = exp2f(of[HEAD_DIM] - peak);
    weight += of[HEAD_DIM + 1] * share, sum += of[threadIdx.x] * share;
  }
  a.mixed[(size_t)blockIdx.x * HEAD_DIM + threadIdx.x] = to_half(weight > 0 ? sum / weight : 0.0f);
}
