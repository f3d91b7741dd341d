// What units of attention have found, put together into x, two halves a word. A warp has the heads that it multiplies with
// (a head is a group of columns), its half warps some of the pieces each, a lane four channels and the weight of one piece.
#pragma once
#include "arguments.cuh"

constexpr int BATCH = SPLITS / 2;
static_assert(OutCut::PARTS == 1 || OutCut::WIDE % SPLIT_QUERIES == 0, "whose a head is does not depend on the part");

__device__ __forceinline__ float weight_of_piece(float peak, float sum) {
  float largest = peak;
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, offset));
  float weight = __expf(peak - largest) * sum, total = weight;
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) total += __shfl_xor_sync(~0u, total, offset);
  return weight / total;
}

__device__ __forceinline__ void put_mixed(const Flagged *all, const Flagged *peaks, unsigned turn, int pieces, unsigned *x) {
  const int thread = this_thread(), warp = thread / 32, lane = thread % 32, first = lane / 16 * BATCH;
  if (warp >= SPLIT_QUERIES) return;
#pragma unroll 1
  for (int head = warp; head < HEADS; head += SPLIT_QUERIES) {
    const Flagged *mixed = all + head * SPLITS * (HEAD_DIM / 2) + lane % 16 * 2;
    const Flagged *peak = peaks + (head * SPLITS + min(lane % 16, pieces - 1)) * 2;
    if (PEEK) {  // until all are there, so that a block that waits asks for 2 KB at a time instead of 30
      uint4 seen[1];
      take_pairs(turn, seen, [&](int) { return peak; });
    }
    uint4 part[BATCH + 1];  // of what is not there, the last piece again, or nothing
    take_pairs(
        turn, part, [&](int i) { return i == BATCH ? peak : mixed + min(first + i, pieces - 1) * (HEAD_DIM / 2); },
        [&](int i) { return !PEEK || i == BATCH || first + i < pieces; });
    const bool real = lane % 16 < pieces;
    const float largest = real ? __uint_as_float(part[BATCH].x) : LOWEST, total = real ? __uint_as_float(part[BATCH].z) : 0;
    const float weight = weight_of_piece(largest, total);
    float sum[4] = {};
#pragma unroll
    for (int i = 0; i < BATCH; ++i) {
      const float w = __shfl_sync(~0u, weight, first + i);  // 0 for a piece that is not there
      const float2 low = to_floats(part[i].x), high = to_floats(part[i].z);
      sum[0] += w * low.x, sum[1] += w * low.y, sum[2] += w * high.x, sum[3] += w * high.y;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] += __shfl_xor_sync(~0u, sum[i], 16);
    if (lane < 16)
      ((uint2 *)x)[head * 16 + lane] = make_uint2(to_halves(sum[0], sum[1]), to_halves(sum[2], sum[3]));
  }
  __syncwarp();
}
