// What our nodes have in common beside their fields: how sizes of tensors are compared, and what is asked of every tensor.
#pragma once
#include <initializer_list>

#include "../language_model/launch.h"
#include "facts.h"

namespace spatiallm {

// Sizes that a call decides about; -1 where one is not known yet, or may be any.
struct Extents {
  int batch = -1, rows = -1, past_rows = -1;
};

// An input of a call by its place.
template <class T>
T const *at(void const *const *inputs, int place) noexcept {
  return static_cast<T const *>(inputs[place]);
}

// TensorRT has a node of its own for each execution context, so what a node keeps is one caller's.
class Node {
 public:
  static constexpr int OUTPUTS = 2;  // logits, rows

  explicit Node(Facts const &facts) noexcept : facts_(facts), graphs_(new_graphs()) {}
  ~Node() { delete_graphs(graphs_); }
  Node(Node const &) = delete;
  Node &operator=(Node const &) = delete;

  Facts const &facts() const noexcept { return facts_; }

 protected:
  nvinfer1::DataType half() const noexcept {
#if NV_TENSORRT_MAJOR >= 9
    if (facts_.sizes.bf16) return nvinfer1::DataType::kBF16;
#endif
    return nvinfer1::DataType::kHALF;
  }

  int cached() const noexcept { return 2 * facts_.sizes.layers * facts_.sizes.kv_heads; }  // heads of a cache row

  static int size(nvinfer1::Dims const &dims, int axis) noexcept {
    return axis < dims.nbDims ? static_cast<int>(dims.d[axis]) : -1;
  }

  static bool agree(nvinfer1::Dims const &dims, std::initializer_list<int> expected) noexcept {
    if (dims.nbDims != static_cast<int>(expected.size())) return false;
    for (int axis = 0; axis < dims.nbDims; ++axis) {
      int const wanted = expected.begin()[axis];
      if (wanted >= 0 && dims.d[axis] >= 0 && dims.d[axis] != wanted) return false;
    }
    return true;
  }

  // The weight file [N]: every tensor lies inside, so that none is read beyond its end.
  bool is_weights(nvinfer1::Dims const &dims) const noexcept {
    return dims.nbDims == 1 && (dims.d[0] < 0 || offsets_fit(facts_, dims.d[0]));
  }

  Facts facts_;
  Graphs *graphs_;
};

// Whether a node takes a tensor, by its place among inputs and then outputs.
template <class Kind>
bool supports(Kind const &node, int place, nvinfer1::PluginTensorDesc const &tensor, int inputs, int outputs) noexcept {
#if NV_TENSORRT_MAJOR < 9
  if (node.facts().sizes.bf16) return false;
#endif
  return inputs == Kind::INPUTS && outputs == Kind::OUTPUTS && tensor.format == nvinfer1::TensorFormat::kLINEAR &&
         tensor.type == node.type(place) && node.has_shape(place, tensor.dims, Extents{});
}

// Whether the inputs of a call have the sizes that they must have, with a word in the log where not.
template <class Kind>
bool accepts(Kind const &node, nvinfer1::PluginTensorDesc const *inputs, Extents const &extents) noexcept {
  for (int place = 0; place < Kind::INPUTS; ++place) {
    if (node.has_shape(place, inputs[place].dims, extents)) continue;
    complain(Kind::NAME, place == Kind::INPUTS - 1 ? "the weight file is not the one that the graph was exported with"
                                                   : "an input has other sizes than the model and the others ask for");
    return false;
  }
  return true;
}

}  // namespace spatiallm
