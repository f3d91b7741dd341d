// A node over TensorRT's interface of version 3, from 10 on.
#pragma once
#include <new>

#include "node.h"

namespace spatiallm {

template <class Kind>
class PluginV3 final : public nvinfer1::IPluginV3,
                       public nvinfer1::IPluginV3OneCore,
                       public nvinfer1::IPluginV3OneBuild,
                       public nvinfer1::IPluginV3OneRuntime {
  using Tensor = nvinfer1::PluginTensorDesc;
  using Range = nvinfer1::DynamicPluginTensorDesc;
  using Shape = nvinfer1::DimsExprs;

 public:
  explicit PluginV3(Facts const &facts) noexcept : node_(facts), facts_(facts) {}

  nvinfer1::IPluginV3 *clone() noexcept override { return new (std::nothrow) PluginV3(facts_); }

  nvinfer1::IPluginCapability *getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore *>(this);
      case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild *>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime *>(this);
    }
    return nullptr;
  }

  char const *getPluginName() const noexcept override { return Kind::NAME; }
  char const *getPluginVersion() const noexcept override { return PLUGIN_VERSION; }
  char const *getPluginNamespace() const noexcept override { return PLUGIN_NAMESPACE; }
  int getNbOutputs() const noexcept override { return Kind::OUTPUTS; }

  int getOutputDataTypes(nvinfer1::DataType *types, int outputs, nvinfer1::DataType const *, int) const noexcept override {
    for (int output = 0; output < outputs; ++output) types[output] = node_.type(Kind::INPUTS + output);
    return 0;
  }

  int getOutputShapes(Shape const *inputs, int, Shape const *, int, Shape *shapes, int outputs,
                      nvinfer1::IExprBuilder &build) noexcept override {
    for (int output = 0; output < outputs; ++output) shapes[output] = node_.shape(output, inputs, build);
    return 0;
  }

  bool supportsFormatCombination(int place, Range const *all, int inputs, int outputs) noexcept override {
    return supports(node_, place, all[place].desc, inputs, outputs);
  }

  int configurePlugin(Range const *, int, Range const *, int) noexcept override { return 0; }

  size_t getWorkspaceSize(Range const *inputs, int, Range const *, int) const noexcept override {
    nvinfer1::Dims largest[Kind::INPUTS];
    for (int place = 0; place < Kind::INPUTS; ++place) largest[place] = inputs[place].max;
    return node_.workspace(largest);
  }

  int onShapeChange(Tensor const *, int, Tensor const *, int) noexcept override { return 0; }

  int enqueue(Tensor const *descriptions, Tensor const *, void const *const *inputs, void *const *outputs,
              void *workspace, cudaStream_t stream) noexcept override {
    return node_.run(descriptions, inputs, outputs, workspace, stream);
  }

  nvinfer1::IPluginV3 *attachToContext(nvinfer1::IPluginResourceContext *) noexcept override { return clone(); }

  nvinfer1::PluginFieldCollection const *getFieldsToSerialize() noexcept override {
    return values_.of(facts_, Kind::CAUSAL);
  }

 private:
  Kind node_;
  Facts facts_;  // what `values_` point to
  FieldValues values_;
};

template <class Kind>
class CreatorV3 final : public nvinfer1::IPluginCreatorV3One {
 public:
  static CreatorV3 *only() noexcept {
    static CreatorV3 creator;
    return &creator;
  }

  char const *getPluginName() const noexcept override { return Kind::NAME; }
  char const *getPluginVersion() const noexcept override { return PLUGIN_VERSION; }
  char const *getPluginNamespace() const noexcept override { return PLUGIN_NAMESPACE; }
  nvinfer1::PluginFieldCollection const *getFieldNames() noexcept override { return field_names(Kind::CAUSAL); }

  nvinfer1::IPluginV3 *createPlugin(char const *, nvinfer1::PluginFieldCollection const *fields,
                                    nvinfer1::TensorRTPhase) noexcept override {
    Facts facts{};
    return read_facts(Kind::NAME, Kind::CAUSAL, fields, facts) ? new (std::nothrow) PluginV3<Kind>(facts) : nullptr;
  }
};

}  // namespace spatiallm
