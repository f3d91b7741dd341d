// Grouped-query attention of several rows over a cache prefix and over the new rows themselves, one pass with a running
// maximum. Query heads that share a key head lie side by side, row t * G + g of a tile, so that keys are read once for all.
#pragma once
#include "tiles.cuh"

// What `weigh` takes of a warp's chances [16, TILE]: keys k * 16 to k * 16 + 15 in halves.
__device__ __forceinline__ void take_chances(unsigned (&a)[4], const float (&p)[TILE / 8][4], int k) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = to_halves(p[2 * k + i / 2][i % 2 * 2], p[2 * k + i / 2][i % 2 * 2 + 1]);
}

#ifdef WARPGROUPS

// Queries stay where they are.
struct Queries {
  TileAt tile;
};

__device__ __forceinline__ Queries load_queries(const Half *tile) { return {tile_at(tile)}; }

// scores [64, TILE] of a team: queries times keys, transposed as they lie.
__device__ __forceinline__ void score(float (&scores)[TILE / 8][4], const Queries &q, const Half *keys) {
  const TileAt at = tile_at(keys);
  multiply_begin(scores);
#pragma unroll
  for (int k = 0; k < HEAD_DIM / 16; ++k) multiply_tiles<TILE>(scores, q.tile, at, k);
  multiply_end(scores);
}

// sums [64, D] += chances [64, TILE] times values.
__device__ __forceinline__ void weigh(float (&sums)[HEAD_DIM / 8][4], const float (&p)[TILE / 8][4], const Half *values) {
  unsigned a[TILE / 16][4];
#pragma unroll
  for (int k = 0; k < TILE / 16; ++k) take_chances(a[k], p, k);
  const TileAt at = tile_at(values);
  multiply_begin(sums);
#pragma unroll
  for (int k = 0; k < TILE / 16; ++k) multiply_rows(sums, a[k], at, k);
  multiply_end(sums);
}

#else

// A warp's 16 queries as fragments of a.
struct Queries {
  unsigned fragment[HEAD_DIM / 16][4];
};

__device__ __forceinline__ Queries load_queries(const Half *tile) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x % TEAM_THREADS / 32;
  Queries q;
#pragma unroll
  for (int k = 0; k < HEAD_DIM / 16; ++k)
    load_matrices(q.fragment[k], tile + place(warp * 16 + lane % 16, k * 2 + lane / 16));
  return q;
}

// The same of each warp by itself: scores [16, TILE].
__device__ __forceinline__ void score(float (&scores)[TILE / 8][4], const Queries &q, const Half *keys) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < TILE / 8; n += 2) {
    for (int j = 0; j < 4; ++j) scores[n][j] = scores[n + 1][j] = 0;
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; ++k) {
      unsigned m[4];
      load_matrices(m, keys + place(n * 8 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
      multiply(scores[n], q.fragment[k], m[0], m[1]);
      multiply(scores[n + 1], q.fragment[k], m[2], m[3]);
    }
  }
}

// sums [16, D] of a warp.
__device__ __forceinline__ void weigh(float (&sums)[HEAD_DIM / 8][4], const float (&p)[TILE / 8][4], const Half *values) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < TILE / 16; ++k) {
    unsigned a[4];
    take_chances(a, p, k);
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; n += 2) {
      unsigned m[4];
      load_transposed(m, values + place(k * 16 + lane / 8 % 2 * 8 + lane % 8, n + lane / 16));
      multiply(sums[n], a, m[0], m[1]);
      multiply(sums[n + 1], a, m[2], m[3]);
    }
  }
}

#endif

// Maximum and weight of the two rows that a lane has, 8 apart; the weight is the lane's own part.
struct Running {
  float peak[2] = {LOWEST, LOWEST}, weight[2] = {0, 0};
};

// Scores become chances relative to the running maximum. Where `masked`, `limit` is the first key of the tile that a row may
// not see.
template <bool masked>
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
        if (masked && n * 8 + column + j >= limit[row]) value = LOWEST;
        peak = max(peak, value);
      }
    peak = max(peak, __shfl_xor_sync(~0u, peak, 1));
    peak = max(peak, __shfl_xor_sync(~0u, peak, 2));
    const float shrink = power_of_two((r.peak[row] - peak) * scale), base = peak * scale;
    float weight = 0;
#pragma unroll
    for (int n = 0; n < TILE / 8; ++n)
      for (int j = 0; j < 2; ++j) {
        float &value = s[n][2 * row + j];
        value = power_of_two(value * scale - base);
        if (masked && n * 8 + column + j >= limit[row]) value = 0;  // also where a row sees nothing, and its peak is LOWEST
        weight += value;
      }
    r.peak[row] = peak, r.weight[row] = r.weight[row] * shrink + weight;
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; ++n) sums[n][2 * row] *= shrink, sums[n][2 * row + 1] *= shrink;
  }
}

// What a lane knows of its two rows, with those of the other teams: teams behind the first lay theirs open in shared memory.
__device__ __forceinline__ void gather_teams(float (&sums)[HEAD_DIM / 8][4], Running &r, float scale) {
  constexpr int LANE = HEAD_DIM / 2 + 4;  // floats, and none more than a multiple of 4, so that few lanes meet in a bank
  const int team = threadIdx.x / TEAM_THREADS;
  float4 *laid = (float4 *)aligned_tiles() + threadIdx.x % TEAM_THREADS * (LANE / 4);
  for (int other = 1; other < TEAMS; ++other) {
    if (team == other) {
#pragma unroll
      for (int n = 0; n < HEAD_DIM / 8; ++n) laid[n] = make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]);
      laid[HEAD_DIM / 8] = make_float4(r.peak[0], r.peak[1], r.weight[0], r.weight[1]);
    }
    __syncthreads();
    if (team == 0) {
      const float4 of = laid[HEAD_DIM / 8];
      const float peaks[2] = {max(r.peak[0], of.x), max(r.peak[1], of.y)};
      const float mine[2] = {power_of_two((r.peak[0] - peaks[0]) * scale), power_of_two((r.peak[1] - peaks[1]) * scale)};
      const float theirs[2] = {power_of_two((of.x - peaks[0]) * scale), power_of_two((of.y - peaks[1]) * scale)};
#pragma unroll
      for (int n = 0; n < HEAD_DIM / 8; ++n) {
        const float4 sum = laid[n];
        sums[n][0] = sums[n][0] * mine[0] + sum.x * theirs[0], sums[n][1] = sums[n][1] * mine[0] + sum.y * theirs[0];
        sums[n][2] = sums[n][2] * mine[1] + sum.z * theirs[1], sums[n][3] = sums[n][3] * mine[1] + sum.w * theirs[1];
      }
      r.weight[0] = r.weight[0] * mine[0] + of.z * theirs[0], r.weight[1] = r.weight[1] * mine[1] + of.w * theirs[1];
      r.peak[0] = peaks[0], r.peak[1] = peaks[1];
    }
    if (other + 1 < TEAMS) __syncthreads();
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
    const int t = by_group(a, query), g = query - t * w.group;
    const size_t at = ((size_t)w.b * a.query_rows + t) * a.heads + w.head * w.group + g;
    if (a.pieces == 1) {
      const float share = weight > 0 ? 1.0f / weight : 0.0f;  // a row that sees nothing gives zeros
      for (int n = 0; n < HEAD_DIM / 8; ++n)
        *(unsigned *)(a.mixed + at * HEAD_DIM + n * 8 + column) =
            to_halves(sums[n][2 * row] * share, sums[n][2 * row + 1] * share);
    } else {
      float *to = a.partial + (at * a.pieces + w.piece) * PARTIAL;
      for (int n = 0; n < HEAD_DIM / 8; ++n)
        *(float2 *)(to + n * 8 + column) = make_float2(sums[n][2 * row], sums[n][2 * row + 1]);
      if (lane % 4 == 0) to[HEAD_DIM] = r.peak[row] * a.scale, to[HEAD_DIM + 1] = weight;
    }
  }
}

// A block: one tile of queries of one key head of one sequence, over one piece of the keys. Where there are many, two share a
// multiprocessor, each with fewer registers.
template <int RESIDENT>
__global__ void __launch_bounds__(ATTEND_THREADS, RESIDENT) attend(const __grid_constant__ AttendArguments a) {
  Half *shared = aligned_tiles(), *stage = shared + TILE_HALVES, *next = stage + STAGE_HALVES;
  launch_later();
  wait_for_earlier();
  const Work w = work_of(a);
  const int team = threadIdx.x / TEAM_THREADS, warp_row = w.tile * TILE + (int)threadIdx.x % TEAM_THREADS / 32 * 16;
  const int row = warp_row + (int)threadIdx.x % 32 / 4;
  // Of this lane's two queries, and of the warp's first: how many new rows each sees.
  const int sees[2] = {seen(a, w, row), seen(a, w, row + 8)}, all_see = seen(a, w, warp_row);
  float sums[HEAD_DIM / 8][4] = {};
  Running running;
  fetch_queries(a, w, shared);
  const Source source(a, w);
  fetch_keys(a, w, source, w.begin, stage);
  copies_done();
  show_to_warpgroups();
  __syncthreads();
  const Queries queries = load_queries(shared);
  if (w.begin >= w.end) __syncthreads();  // teams will lay their sums where the queries lie
  for (int first = w.begin; first < w.end; first += TEAMS) {
    if (first + TEAMS < w.end) fetch_keys(a, w, source, first + TEAMS, next);  // all are done with what was there
    const int tile = first + team;
    if (tile < w.end) {
      const Half *keys = stage + team * 2 * TILE_HALVES;
      const bool past = tile < w.past_tiles;
      const int start = (past ? tile : tile - w.past_tiles) * TILE;
      const int limit[2] = {(past ? w.past : sees[0]) - start, (past ? w.past : sees[1]) - start};
      float scores[TILE / 8][4] = {};
      score(scores, queries, keys);
      if ((past ? w.past : all_see) - start >= TILE)
        soften<false>(scores, sums, running, limit, a.scale);
      else
        soften<true>(scores, sums, running, limit, a.scale);
      weigh(sums, scores, keys + TILE_HALVES);
    }
    copies_done();
    show_to_warpgroups();
    __syncthreads();
    Half *const done = stage;
    stage = next, next = done;
  }
  gather_teams(sums, running, a.scale);
  if (team == 0) store(a, w, sums, running);
}

struct CombineArguments {
  const float *partial;  // [R, pieces, PARTIAL], R rows of heads
  Half *mixed;           // [R, D]
  int pieces;
};

// The pieces of a row together: a block of HEAD_DIM threads each.
__global__ void __launch_bounds__(HEAD_DIM) combine(const __grid_constant__ CombineArguments a) {
  launch_later();
  wait_for_earlier();
  const float *from = a.partial + (size_t)blockIdx.x * a.pieces * PARTIAL;
  const int lane = threadIdx.x % 32;
  const float *mine = from + min(lane, a.pieces - 1) * PARTIAL + HEAD_DIM;  // a lane looks after a piece
  float peak = mine[0], weight = 0, sum = 0;
  for (int offset = 16; offset > 0; offset /= 2) peak = max(peak, __shfl_xor_sync(~0u, peak, offset));
  const float share = power_of_two(mine[0] - peak);
  weight = sum_of_warp(lane < a.pieces ? mine[1] * share : 0.0f);
#pragma unroll 4
  for (int piece = 0; piece < a.pieces; ++piece) sum += from[piece * PARTIAL + threadIdx.x] * __shfl_sync(~0u, share, piece);
  a.mixed[(size_t)blockIdx.x * HEAD_DIM + threadIdx.x] = to_half(weight > 0 ? sum / weight : 0.0f);
}
