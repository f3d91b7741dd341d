// A node over TensorRT's dynamic interface of version 2, which 8.6 has and 10 and 11 still accept.
#pragma once
#include <cstring>
#include <new>
#include <string>

#include "node.h"

namespace spatiallm {

template <class Kind>
class PluginV2 final : public nvinfer1::IPluginV2DynamicExt {
  using Tensor = nvinfer1::PluginTensorDesc;
  using Range = nvinfer1::DynamicPluginTensorDesc;

 public:
  explicit PluginV2(Facts const &facts) noexcept : node_(facts) {}

  char const *getPluginType() const noexcept override { return Kind::NAME; }
  char const *getPluginVersion() const noexcept override { return PLUGIN_VERSION; }
  int getNbOutputs() const noexcept override { return Kind::OUTPUTS; }
  int initialize() noexcept override { return 0; }
  void terminate() noexcept override {}
  void destroy() noexcept override { delete this; }
  size_t getSerializationSize() const noexcept override { return sizeof(Facts); }
  void serialize(void *buffer) const noexcept override { std::memcpy(buffer, &node_.facts(), sizeof(Facts)); }
  void setPluginNamespace(char const *name) noexcept override { namespace_ = name; }
  char const *getPluginNamespace() const noexcept override { return namespace_.c_str(); }

  nvinfer1::DataType getOutputDataType(int output, nvinfer1::DataType const *, int) const noexcept override {
    return node_.type(Kind::INPUTS + output);
  }

  nvinfer1::IPluginV2DynamicExt *clone() const noexcept override {
    PluginV2 *copy = new (std::nothrow) PluginV2(node_.facts());
    if (copy != nullptr) copy->namespace_ = namespace_;
    return copy;
  }

  nvinfer1::DimsExprs getOutputDimensions(int output, nvinfer1::DimsExprs const *inputs, int,
                                          nvinfer1::IExprBuilder &build) noexcept override {
    return node_.shape(output, inputs, build);
  }

  bool supportsFormatCombination(int place, Tensor const *all, int inputs, int outputs) noexcept override {
    return supports(node_, place, all[place], inputs, outputs);
  }

  void configurePlugin(Range const *, int, Range const *, int) noexcept override {}

  size_t getWorkspaceSize(Tensor const *inputs, int, Tensor const *, int) const noexcept override {
    nvinfer1::Dims largest[Kind::INPUTS];
    for (int place = 0; place < Kind::INPUTS; ++place) largest[place] = inputs[place].dims;
    return node_.workspace(largest);
  }

  int enqueue(Tensor const *descriptions, Tensor const *, void const *const *inputs, void *const *outputs,
              void *workspace, cudaStream_t stream) noexcept override {
    return node_.run(descriptions, inputs, outputs, workspace, stream);
  }

 private:
  Kind node_;
  std::string namespace_;
};

template <class Kind>
class CreatorV2 final : public nvinfer1::IPluginCreator {
 public:
  static CreatorV2 *only() noexcept {
    static CreatorV2 creator;
    return &creator;
  }

  char const *getPluginName() const noexcept override { return Kind::NAME; }
  char const *getPluginVersion() const noexcept override { return PLUGIN_VERSION; }
  nvinfer1::PluginFieldCollection const *getFieldNames() noexcept override { return field_names(Kind::CAUSAL); }
  void setPluginNamespace(char const *name) noexcept override { namespace_ = name; }
  char const *getPluginNamespace() const noexcept override { return namespace_.c_str(); }

  nvinfer1::IPluginV2 *createPlugin(char const *, nvinfer1::PluginFieldCollection const *fields) noexcept override {
    Facts facts{};
    return read_facts(Kind::NAME, Kind::CAUSAL, fields, facts) ? new (std::nothrow) PluginV2<Kind>(facts) : nullptr;
  }

  nvinfer1::IPluginV2 *deserializePlugin(char const *, void const *data, size_t bytes) noexcept override {
    Facts facts{};
    if (bytes != sizeof facts) {
      complain(Kind::NAME, "the engine was built with another version of the library; build it again");
      return nullptr;
    }
    std::memcpy(&facts, data, sizeof facts);
    return check_facts(Kind::NAME, facts) ? new (std::nothrow) PluginV2<Kind>(facts) : nullptr;
  }

 private:
  std::string namespace_{PLUGIN_NAMESPACE};
};

}  // namespace spatiallm
