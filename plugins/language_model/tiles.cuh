// What a block of attention works on, and how it comes into shared memory: tiles of queries, keys and values, in which chunk c
// (16 bytes) of row r is at c ^ (r % 8).
#pragma once
#include "rows.cuh"

constexpr int TILE = 64;                          // queries and keys of a tile; each of four warps has 16 queries
constexpr int TEAMS = 2, TEAM_THREADS = 128;      // of four warps; tiles of keys are dealt among them
constexpr int ATTEND_THREADS = TEAMS * TEAM_THREADS;
constexpr int TILE_HALVES = TILE * HEAD_DIM;
constexpr int TILE_ALIGNMENT = 1024;              // bytes
constexpr int STAGE_HALVES = TEAMS * 2 * TILE_HALVES;                    // keys and values for all teams
constexpr int ATTEND_BYTES = (TILE_HALVES + 2 * STAGE_HALVES) * 2 + TILE_ALIGNMENT;  // queries, and two stages
constexpr int MAX_PIECES = 32;  // a lane looks after each when they are put together
constexpr int PARTIAL = HEAD_DIM + 4;              // floats of a piece's result: sums, maximum, weight
constexpr float LOG2E = 1.4426950408889634f;

struct AttendArguments {
  const Half *queries;                        // [B, Q, H*D]
  const Half *keys, *past_keys;               // this layer's keys in row (t, b) of the new rows; of the cache, or null
  const int *lengths, *past_length;           // [B], or null: all, none
  Half *mixed;                                // [B, Q, H*D], where there is one piece
  float *partial;                             // [B, Q, H, pieces, PARTIAL], where there are more
  int batch, query_rows, rows, past_rows;     // B, Q, T, M
  int group, heads, kv_heads;                 // H / K, H, K
  int row_stride, to_values;                  // halves from one (t, b) to the next, and from keys to their values
  int causal, last;                           // last: the one query of each sequence is its last valid row
  int tiles, pieces;                          // of queries; of keys
  unsigned one_of_group;                      // 2^32 / (H / K), rounded up
  float scale;                                // of scores, for powers of two
};

// row / group, exact while row * group is below 2^32: a division takes ten times as long.
__device__ __forceinline__ int by_group(const AttendArguments &a, int row) {
  return a.one_of_group == 0 ? row : __umulhi(row, a.one_of_group);
}

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
  w.piece = w.b = 0;
  if (a.pieces > 1) w.piece = rest % a.pieces, rest /= a.pieces;
  w.head = rest % a.kv_heads, rest /= a.kv_heads;
  if (a.batch > 1) w.b = rest % a.batch, rest /= a.batch;
  w.tile = a.tiles - 1 - rest;  // those with most keys first
  w.group = a.group;
  w.length = a.lengths == nullptr ? a.rows : clamped(a.lengths[w.b], 0, a.rows);
  w.past = a.past_length == nullptr ? 0 : clamped(a.past_length[w.b], 0, a.past_rows);
  w.first = a.last ? max(w.length - 1, 0) : 0;
  const int last_query = w.first + by_group(a, min((w.tile + 1) * TILE, w.group * a.query_rows) - 1);
  w.fresh = a.causal ? min(w.length, last_query + 1) : w.length;
  w.past_tiles = (w.past + TILE - 1) / TILE;
  const int all = w.past_tiles + (w.fresh + TILE - 1) / TILE;
  w.begin = a.pieces == 1 ? 0 : all * w.piece / a.pieces;
  w.end = a.pieces == 1 ? all : all * (w.piece + 1) / a.pieces;
  return w;
}

constexpr int CHUNKS = HEAD_DIM / 8;                    // of 16 bytes in a row
constexpr int STEP = ATTEND_THREADS / CHUNKS;           // rows that a block copies at a time
static_assert(TILE % STEP == 0 && STEP % 8 == 0, "threads share a tile evenly");

// Where a chunk of a row lies in a tile, so that no two of eight rows' lie in the same banks.
__device__ __forceinline__ int place(int row, int chunk) { return row * HEAD_DIM + (chunk ^ row % 8) * 8; }

__device__ __forceinline__ Half *aligned_tiles() {
  unsigned char *memory = dynamic_shared();
#ifndef EMULATED
  memory += -shared_address(memory) % TILE_ALIGNMENT;
#endif
  return (Half *)memory;
}

__device__ __forceinline__ void fetch_queries(const AttendArguments &a, const Work &w, Half *to) {
  const int chunk = threadIdx.x % CHUNKS;
#pragma unroll
  for (int i = 0; i < TILE / STEP; ++i) {
    const int at = threadIdx.x / CHUNKS + i * STEP, row = w.tile * TILE + at;
    const bool real = row < w.group * a.query_rows;
    const int t = real ? by_group(a, row) : 0, g = real ? row - t * w.group : 0;
    const size_t query = ((size_t)w.b * a.query_rows + t) * a.heads + w.head * w.group + g;
    copy_async(to + place(at, chunk), a.queries + query * HEAD_DIM + chunk * 8, real);
  }
}

// Where this thread finds its part of each key, and what it takes to the next one.
struct Source {
  const Half *past, *fresh;
  int pitch;

  __device__ __forceinline__ Source(const AttendArguments &a, const Work &w) {
    const size_t start = (size_t)w.b * a.row_stride + w.head * HEAD_DIM + threadIdx.x % CHUNKS * 8;
    past = a.past_keys + start, fresh = a.keys + start, pitch = a.batch * a.row_stride;
  }
};

// Keys and values of one tile for each team; zeros for those that are not valid, whatever stands there.
__device__ __forceinline__ void fetch_keys(const AttendArguments &a, const Work &w, const Source &source, int first,
                                           Half *stage) {
  const int row = threadIdx.x / CHUNKS;
  Half *to = stage + place(row, threadIdx.x % CHUNKS);  // steps are of a multiple of eight rows
#pragma unroll
  for (int team = 0; team < TEAMS; ++team, to += 2 * TILE_HALVES) {
    const int tile = first + team;
    if (tile >= w.end) return;
    const bool past = tile < w.past_tiles;
    const int key = (past ? tile : tile - w.past_tiles) * TILE + row, limit = past ? w.past : w.fresh;
    const Half *from = past ? source.past : source.fresh;
#pragma unroll
    for (int i = 0; i < TILE / STEP; ++i) {
      const bool real = key + i * STEP < limit;
      const Half *keys = from + (real ? (key + i * STEP) * source.pitch : 0);  // fewer than 2^31 halves in all
      copy_async(to + i * STEP * HEAD_DIM, keys, real);
      copy_async(to + i * STEP * HEAD_DIM + TILE_HALVES, keys + a.to_values, real);
    }
  }
}

// How many new rows a row of the tile sees; never fewer than the row before it.
__device__ __forceinline__ int seen(const AttendArguments &a, const Work &w, int row) {
  return a.causal ? min(w.length, w.first + by_group(a, row) + 1) : w.length;
}
