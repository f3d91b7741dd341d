// The fields of our nodes: the sizes of a language model, and where each of its tensors lies in the weight file, which is
// one input of the node. Needs TensorRT's headers, no library of it.
#pragma once
#include <NvInferRuntime.h>

#include "../common/model.h"

namespace spatiallm {

constexpr char PLUGIN_VERSION[] = "2", PLUGIN_NAMESPACE[] = "";
constexpr int ENDS = 3;  // tensors that are no layer's, which come first: embedding, final_norm, head
constexpr int MAX_TENSORS = ENDS + LAYER_TENSORS * MAX_LAYERS;
constexpr int OFFSET_BYTES = 16;
constexpr int MAX_FIELDS = 13;

void complain(char const *plugin, char const *text) noexcept;  // library.cpp: an error in TensorRT's log

// The fields of a node. Serialized as it is by the interface of version 2.
struct Facts {
  ModelSizes sizes;
  int tied;                  // 1: the head is the embedding
  int causal;                // of prefill alone
  int offsets[MAX_TENSORS];  // in units of OFFSET_BYTES; -1 for a qkv_bias that is not there

  int tensors() const noexcept { return ENDS + LAYER_TENSORS * sizes.layers; }
};

// False, and a word in the log, where a field is missing or says what cannot be. Only prefill has `causal`, the last field.
bool read_facts(char const *plugin, bool causal, nvinfer1::PluginFieldCollection const *given, Facts &facts) noexcept;

// The same for facts that were serialized.
bool check_facts(char const *plugin, Facts const &facts) noexcept;

// The names of all fields, without values.
nvinfer1::PluginFieldCollection const *field_names(bool causal) noexcept;

// The fields with their values, which live as long as this and the facts.
class FieldValues {
 public:
  nvinfer1::PluginFieldCollection const *of(Facts &facts, bool causal) noexcept;

 private:
  nvinfer1::PluginField values_[MAX_FIELDS];
  nvinfer1::PluginFieldCollection collection_;
};

// Whether each tensor lies within a weight file of so many half precision values.
bool offsets_fit(Facts const &facts, long long values) noexcept;

// The tensors of a weight file by their addresses.
struct PlacedWeights {
  PlacedWeights(Facts const &facts, void const *file) noexcept;
  PlacedWeights(PlacedWeights const &) = delete;
  PlacedWeights &operator=(PlacedWeights const &) = delete;

  void const *layers[MAX_LAYERS * LAYER_TENSORS];
  ModelWeights weights;
};

}  // namespace spatiallm
