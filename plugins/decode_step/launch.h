// What the kernel's side and TensorRT's side know of each other: sizes, addresses, one function.
#pragma once
#include <cuda_runtime_api.h>

#include "../common/model.h"

namespace spatiallm {

struct DecodeStepTensors {  // addresses on the device
  const int *token, *past_length;
  const float *cos, *sin;  // [D], of the position `past_length`
  const void *past;        // [past_rows, 2L*K, D]
  int past_rows;
  ModelWeights weights;
  float *logits;  // [V]
  void *rows;     // [2L*K, D]
};

// The kernel, compiled for one model.
struct DecodeStep {
  ModelSizes sizes;
  size_t workspace_bytes;
  // Whether the current device can run it over so many rows of a cache.
  bool (*fits)(int past_rows);
  // One memset and one cooperative launch; nothing waits for the device, and nothing on the host is read later, so that the
  // call may be captured into a graph. The whole grid must be resident, a block for each multiprocessor: no other kernel
  // that waits for its own grid may run on the device at the same time.
  cudaError_t (*launch)(const DecodeStepTensors &, void *workspace, cudaStream_t);
};

extern const DecodeStep *const decode_steps[];  // all that the library has; null at the end

inline bool same(const ModelSizes &a, const ModelSizes &b) noexcept {
  return a.hidden == b.hidden && a.intermediate == b.intermediate && a.layers == b.layers && a.heads == b.heads &&
         a.kv_heads == b.kv_heads && a.head_dim == b.head_dim && a.vocabulary == b.vocabulary &&
         a.qkv_bias == b.qkv_bias && a.bf16 == b.bf16 && a.epsilon == b.epsilon;
}

// The kernel for a model, or null.
inline const DecodeStep *find_decode_step(const ModelSizes &sizes) noexcept {
  for (const DecodeStep *const *step = decode_steps; *step != nullptr; ++step)
    if (same((*step)->sizes, sizes)) return *step;
  return nullptr;
}

}  // namespace spatiallm
