// What becomes of a tile's sums: parts as they are, activated gates, or heads with bias and rotation.
#pragma once
#include "fetch.cuh"

#if defined(WARPGROUPS) || defined(EMULATED)

// Sums of a tile as a thread has them: of channels `channel` and 8 further, and of tokens `token`, the next, and eights further.
struct Place {
  int channel, token;

  __device__ __forceinline__ explicit Place(const Tile &tile) {
    channel = tile.channel + (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4;
    token = tile.token + (int)threadIdx.x % 4 * 2;
  }
};

template <int WIDTH>
__device__ __forceinline__ void write_sums(const TiledArguments &a, const Tile &tile, const float (&sum)[WIDTH / 8][4]) {
  const Place p(tile);
  float *to = (float *)a.made + ((size_t)tile.part * a.tokens + p.token) * a.out + p.channel;
  const bool low = p.channel < a.out, high = p.channel + 8 < a.out;
#pragma unroll
  for (int n = 0; n < WIDTH / 8; ++n, to += (size_t)8 * a.out) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if (p.token + n * 8 + j >= a.tokens) continue;
      if (low) to[(size_t)j * a.out] = sum[n][j];
      if (high) to[(size_t)j * a.out + 8] = sum[n][2 + j];
    }
  }
}

// Through shared memory, half of the tokens at a time, so that each goes out in pieces of 128 bytes.
template <int WIDTH>
__device__ __forceinline__ void write_gated(const TiledArguments &a, const Tile &tile, const float (&gate)[WIDTH / 8][4],
                                            const float (&up)[WIDTH / 8][4], Half *staging) {
  constexpr int ALL = WIDTH / 8, PART = (ALL + 1) / 2;
  const int thread = threadIdx.x % 128, lane = threadIdx.x % 32, warp = thread / 32;
  const int channel = tile.channel + thread % 8 * 8;
  staging += threadIdx.x / 128 * PART * 8 * 64;
#pragma unroll
  for (int first = 0; first < ALL; first += PART) {
#pragma unroll
    for (int n = first; n < first + PART && n < ALL; ++n) {
      Half *to = staging + place((n - first) * 8 + lane % 8, warp * 2 + lane / 8 % 2);
      store_transposed(to, to_halves(gated(gate[n][0], up[n][0]), gated(gate[n][1], up[n][1])),
                       to_halves(gated(gate[n][2], up[n][2]), gated(gate[n][3], up[n][3])));
    }
    sync_warpgroup();
    for (int at = thread / 8; at < PART * 8; at += 16) {
      const int token = tile.token + first * 8 + at;
      if (first * 8 + at < WIDTH && token < a.tokens && channel < a.out)
        *(uint4 *)((Half *)a.made + (size_t)token * a.out + channel) = *(const uint4 *)(staging + place(at, thread % 8));
    }
    sync_warpgroup();
  }
}

// The same for a head: its channels of a token come together again there.
template <int WIDTH>
__device__ __forceinline__ void write_rotated(const TiledArguments &a, const Tile &tile, const float (&sum)[WIDTH / 8][4],
                                              Half *staging) {
  constexpr int ALL = WIDTH / 8, PART = (ALL + 1) / 2;
  const int thread = threadIdx.x % 128, lane = threadIdx.x % 32, warp = thread / 32, team = threadIdx.x / 128;
  const int head = tile.channel / HEAD_DIM + team, d = thread % 8 * 4;
  float *laid = (float *)staging + team * PART * 8 * ROTATED_PITCH;
#pragma unroll
  for (int first = 0; first < ALL; first += PART) {
#pragma unroll
    for (int n = first; n < first + PART && n < ALL; ++n) {
      float *to = laid + ((n - first) * 8 + lane % 4 * 2) * ROTATED_PITCH + warp * 16 + lane / 4;
      to[0] = sum[n][0], to[ROTATED_PITCH] = sum[n][1], to[8] = sum[n][2], to[ROTATED_PITCH + 8] = sum[n][3];
    }
    sync_warpgroup();
#pragma unroll
    for (int i = 0; i < (PART + 1) / 2; ++i) {
      const int at = thread / 8 + i * 16, token = tile.token + first * 8 + at;
      if (at >= PART * 8 || first * 8 + at >= WIDTH || token >= a.tokens || head * HEAD_DIM >= a.out) continue;
      const float *from = laid + at * ROTATED_PITCH + d;
      const float4 x = *(const float4 *)from, y = *(const float4 *)(from + HALF_DIM);
      float low[4] = {x.x, x.y, x.z, x.w}, high[4] = {y.x, y.y, y.z, y.w};
      rotate_four(a.rotate, Token(a.rotate, token), head, d, low, high);
    }
    sync_warpgroup();
  }
}

#endif
