// What both of TensorRT's plugin interfaces need of the decode step: its fields, its tensors, and the launch.
//
// Inputs: input_ids [1, 1] int32, cos and sin [1, 1, D] float32, past_length [1] int32, past [M, 1, 2L*K, D]; then the
// weights, as they are in the checkpoint: embedding [V, C], final_norm [C], head [V, C] unless it is the embedding, and of
// each layer input_norm, qkv, qkv_bias where there is one, o, post_norm, gate_up, down. Outputs: logits [1, 1, V] float32,
// rows [1, 1, 2L*K, D]. All else has the model's type.
#pragma once
#include <NvInferRuntime.h>

#include <initializer_list>

#include "launch.h"

namespace spatiallm {

constexpr char PLUGIN_NAME[] = "SpatialLMDecodeStep", PLUGIN_VERSION[] = "1", PLUGIN_NAMESPACE[] = "";

void complain(char const *text) noexcept;  // library.cpp: an error in TensorRT's log

// The fields of a node: what the kernel must have been compiled for. Serialized as it is.
struct Facts {
  DecodeStepSizes sizes;
  int tied;  // 1: the head is the embedding
};


class Node {
 public:
  static constexpr int OUTPUTS = 2;

  explicit Node(Facts const &facts) noexcept : facts_(facts) {}

  Facts const &facts() const noexcept { return facts_; }
  // False, and a word in the log, where a field is missing or the library has no kernel for such a model.
  static bool read(nvinfer1::PluginFieldCollection const *fields, Facts &facts) noexcept;
  static nvinfer1::PluginFieldCollection const *field_names() noexcept;
  // The fields with their values, which live as long as this.
  nvinfer1::PluginFieldCollection const *fields() noexcept;

  int inputs() const noexcept { return 7 + (facts_.tied ? 0 : 1) + facts_.sizes.layers * per_layer(); }
  nvinfer1::DataType type(int place) const noexcept;  // of an input, or of an output behind the inputs
  bool supports(int place, nvinfer1::PluginTensorDesc const &tensor, int inputs, int outputs) const noexcept;
  nvinfer1::DimsExprs shape(int output, nvinfer1::DimsExprs const *inputs, nvinfer1::IExprBuilder &build) const noexcept;
  size_t workspace() const noexcept;
  int run(nvinfer1::PluginTensorDesc const *descriptions, void const *const *inputs, void *const *outputs,
          void *workspace, cudaStream_t stream) const noexcept;

 private:
  int per_layer() const noexcept { return LAYER_TENSORS - 1 + facts_.sizes.qkv_bias; }
  bool has_shape(int place, nvinfer1::Dims const &dims) const noexcept;

  Facts facts_;
  nvinfer1::PluginField values_[11];
  nvinfer1::PluginFieldCollection collection_;
};

DecodeStep const *find_decode_step(DecodeStepSizes const &sizes) noexcept;

}  // namespace spatiallm
