// What the kernel's side and TensorRT's side know of each other: sizes, addresses, one function.
#pragma once
#include <cuda_runtime_api.h>

namespace spatiallm {

struct DecodeStepSizes {
  int hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, qkv_bias, bf16;
  float epsilon;
};

constexpr int LAYER_TENSORS = 7;  // of each layer: input_norm, qkv, qkv_bias, o, post_norm, gate_up, down

struct DecodeStepTensors {  // addresses on the device, but for `layers`
  const int *token, *past_length;
  const float *cos, *sin;               // [D], of the position `past_length`
  const void *past;                     // [past_rows, 2L*K, D]
  int past_rows;
  const void *embedding, *final_norm;   // [V, C], [C]
  const void *head;                     // [V, C]
  const void *const *layers;            // on the host: [L, LAYER_TENSORS], null for a qkv_bias that is not there
  float *logits;                        // [V]
  void *rows;                           // [2L*K, D]
};

// The kernel, compiled for one model.
struct DecodeStep {
  DecodeStepSizes sizes;
  size_t workspace_bytes;
  // One memset and one cooperative launch; nothing waits for the device, and nothing on the host is read later, so that the
  // call may be captured into a graph. The whole grid must be resident, a block for each multiprocessor: no other kernel
  // that waits for its own grid may run on the device at the same time.
  cudaError_t (*launch)(const DecodeStepTensors &, void *workspace, cudaStream_t);
};

extern const DecodeStep *const decode_steps[];  // all that the library has; null at the end

}  // namespace spatiallm
