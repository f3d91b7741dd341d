// What units of attention have found, put together into x, two halves a word. A warp has a head, its half warps some of the
// pieces each, a lane four channels and the weight of one piece.
#pragma once
#include "arguments.cuh"

constexpr int BATCH = SPLITS / 2;

__device__ __forceinline__ float weight_of_piece(const Flagged *peaks, int piece, int pieces, unsigned turn) {
  float peak[2] = {LOWEST, 0};
  if (piece < pieces) take(peaks + piece * 2, turn, peak);
  float largest = peak[0];
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, offset));
  float weight = __expf(peak[0] - largest) * peak[1], total = weight;
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) total += __shfl_xor_sync(~0u, total, offset);
  return weight / total;
}

__device__ __forceinline__ void put_mixed(const Flagged *all, const Flagged *peaks, unsigned turn, int pieces, unsigned *x) {
  const int thread = this_thread(), warp = thread / 32, lane = thread % 32, first = lane / 16 * BATCH;
#pragma unroll 1
  for (int head = warp; head < HEADS; head += WARPS) {
    const Flagged *mixed = all + (head * SPLITS + first) * (HEAD_DIM / 2) + lane % 16 * 2;
    uint4 part[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; ++i)
      if (first + i < pieces) part[i] = look(mixed + i * (HEAD_DIM / 2));
    const float weight = weight_of_piece(peaks + head * SPLITS * 2, lane % 16, pieces, turn);
    float sum[4] = {};
#pragma unroll
    for (int i = 0; i < BATCH; ++i) {
      const float w = __shfl_sync(~0u, weight, first + i);
      if (first + i >= pieces) continue;
      insist(mixed + i * (HEAD_DIM / 2), turn, part[i]);
      const float2 low = to_floats(part[i].x), high = to_floats(part[i].z);
      sum[0] += w * low.x, sum[1] += w * low.y, sum[2] += w * high.x, sum[3] += w * high.y;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] += __shfl_xor_sync(~0u, sum[i], 16);
    if (lane < 16)
      ((uint2 *)x)[head * 16 + lane] = make_uint2(to_halves(sum[0], sum[1]), to_halves(sum[2], sum[3]));
  }
}
