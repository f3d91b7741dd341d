// A language model of the Qwen2 or Llama family with half precision weights, as all operators are told about it.
#pragma once

namespace spatiallm {

struct ModelSizes {
  int hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, qkv_bias, bf16;
  float epsilon;
};

constexpr int LAYER_TENSORS = 7;  // of each layer: input_norm, qkv, qkv_bias, o, post_norm, gate_up, down
constexpr int MAX_LAYERS = 64;

// Addresses on the device; matrices are [out, in], as in the checkpoint.
struct ModelWeights {
  const void *embedding, *final_norm;  // [V, C], [C]
  const void *head;                    // [V, C]; the embedding where that is tied
  const void *const *layers;           // on the host: [L, LAYER_TENSORS], null for a qkv_bias that is not there
};

}  // namespace spatiallm
