// Half precision as the checkpoint stores it (fp16, or bf16 where HALF_IS_BF16), without CUDA's headers, which NVRTC may
// not find. Everything is computed in float32.
#pragma once
#include "machine.cuh"

typedef unsigned short Half;  // the bits of one fp16 or bf16 number

constexpr float LOWEST = -3.402823466e38f;  // a masked score; finite, so that no difference of two is NaN

__device__ __forceinline__ float to_float(Half bits) {
#if HALF_IS_BF16
  return __uint_as_float((unsigned)bits << 16);
#else
  return fp16_to_float(bits);
#endif
}

__device__ __forceinline__ Half to_half(float value) {
#if HALF_IS_BF16
  return float_to_bf16(value);
#else
  return float_to_fp16(value);
#endif
}

// Two neighbours in one word, the first in the lower half.
__device__ __forceinline__ unsigned to_halves(float low, float high) {
#if HALF_IS_BF16
  return floats_to_bf16s(low, high);
#else
  return floats_to_fp16s(low, high);
#endif
}

__device__ __forceinline__ float2 to_floats(unsigned pair) {
  return make_float2(to_float((Half)(pair & 0xffffu)), to_float((Half)(pair >> 16)));
}

__device__ __forceinline__ float sum_of_warp(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}
