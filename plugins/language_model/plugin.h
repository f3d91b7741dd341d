// A whole prompt as a node of TensorRT.
//
// Inputs: input_ids [B, S] int32, point_embeds [B, S, C], point_mask [B, S] int32, cos_3d, sin_3d, cos_1d, sin_1d [B, S, D]
// float32, lengths [B] int32, weights [N]. Outputs: logits [B, V] float32, rows [S, B, 2L*K, D]. All else has the model's
// type.
#pragma once
#include "../shell/node.h"

namespace spatiallm {

class PrefillNode : public Node {
 public:
  static constexpr char NAME[] = "SpatialLMPrefill";
  static constexpr int INPUTS = 9;
  static constexpr bool CAUSAL = true;  // it has such a field

  using Node::Node;

  nvinfer1::DataType type(int place) const noexcept;  // of an input, or of an output behind the inputs
  bool has_shape(int place, nvinfer1::Dims const &dims, Extents const &extents) const noexcept;
  nvinfer1::DimsExprs shape(int output, nvinfer1::DimsExprs const *inputs, nvinfer1::IExprBuilder &build) const noexcept;
  size_t workspace(nvinfer1::Dims const *largest) const noexcept;  // for inputs of these sizes or smaller ones
  int run(nvinfer1::PluginTensorDesc const *descriptions, void const *const *inputs, void *const *outputs,
          void *workspace, cudaStream_t stream) const noexcept;
};

}  // namespace spatiallm
