// New tokens over a cache as a node of TensorRT: in one kernel where that can be, else by the language model's own.
//
// Inputs: input_ids [B, T] int32, cos and sin [B, T, D] float32, past_length [B] int32, past [M, B, 2L*K, D], weights [N].
// Outputs: logits [B, T, V] float32, rows [T, B, 2L*K, D]. All else has the model's type.
#pragma once
#include "../shell/node.h"
#include "launch.h"

namespace spatiallm {

class DecodeNode : public Node {
 public:
  static constexpr char NAME[] = "SpatialLMDecodeStep";
  static constexpr int INPUTS = 6;
  static constexpr bool CAUSAL = false;  // it has no such field

  using Node::Node;

  nvinfer1::DataType type(int place) const noexcept;  // of an input, or of an output behind the inputs
  bool has_shape(int place, nvinfer1::Dims const &dims, Extents const &extents) const noexcept;
  nvinfer1::DimsExprs shape(int output, nvinfer1::DimsExprs const *inputs, nvinfer1::IExprBuilder &build) const noexcept;
  size_t workspace(nvinfer1::Dims const *largest) const noexcept;  // for inputs of these sizes or smaller ones
  int run(nvinfer1::PluginTensorDesc const *descriptions, void const *const *inputs, void *const *outputs,
          void *workspace, cudaStream_t stream) const noexcept;
};

}  // namespace spatiallm
