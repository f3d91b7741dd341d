// The decode step over the interface of version 3, from TensorRT 10 on.
#include "plugin.h"

#if NV_TENSORRT_MAJOR >= 10
#include <new>

using namespace nvinfer1;

namespace spatiallm {

namespace {

class PluginV3 final : public IPluginV3, public IPluginV3OneCore, public IPluginV3OneBuild, public IPluginV3OneRuntime {
 public:
  explicit PluginV3(Facts const &facts) noexcept : node_(facts) {}

  IPluginV3 *clone() noexcept override { return new (std::nothrow) PluginV3(node_.facts()); }

  IPluginCapability *getCapabilityInterface(PluginCapabilityType type) noexcept override {
    switch (type) {
      case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore *>(this);
      case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild *>(this);
      case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime *>(this);
    }
    return nullptr;
  }

  char const *getPluginName() const noexcept override { return PLUGIN_NAME; }
  char const *getPluginVersion() const noexcept override { return PLUGIN_VERSION; }
  char const *getPluginNamespace() const noexcept override { return PLUGIN_NAMESPACE; }

  int getNbOutputs() const noexcept override { return Node::OUTPUTS; }

  int getOutputDataTypes(DataType *types, int outputs, DataType const *, int) const noexcept override {
    for (int output = 0; output < outputs; ++output) types[output] = node_.type(node_.inputs() + output);
    return 0;
  }

  int getOutputShapes(DimsExprs const *inputs, int, DimsExprs const *, int, DimsExprs *shapes, int outputs,
                      IExprBuilder &build) noexcept override {
    for (int output = 0; output < outputs; ++output) shapes[output] = node_.shape(output, inputs, build);
    return 0;
  }

  bool supportsFormatCombination(int place, DynamicPluginTensorDesc const *all, int inputs,
                                 int outputs) noexcept override {
    return node_.supports(place, all[place].desc, inputs, outputs);
  }

  int configurePlugin(DynamicPluginTensorDesc const *, int, DynamicPluginTensorDesc const *, int) noexcept override {
    return 0;
  }

  size_t getWorkspaceSize(DynamicPluginTensorDesc const *, int, DynamicPluginTensorDesc const *,
                          int) const noexcept override {
    return node_.workspace();
  }

  int onShapeChange(PluginTensorDesc const *, int, PluginTensorDesc const *, int) noexcept override { return 0; }

  int enqueue(PluginTensorDesc const *descriptions, PluginTensorDesc const *, void const *const *inputs,
              void *const *outputs, void *workspace, cudaStream_t stream) noexcept override {
    return node_.run(descriptions, inputs, outputs, workspace, stream);
  }

  IPluginV3 *attachToContext(IPluginResourceContext *) noexcept override { return clone(); }
  PluginFieldCollection const *getFieldsToSerialize() noexcept override { return node_.fields(); }

 private:
  Node node_;
};

class CreatorV3 final : public IPluginCreatorV3One {
 public:
  char const *getPluginName() const noexcept override { return PLUGIN_NAME; }
  char const *getPluginVersion() const noexcept override { return PLUGIN_VERSION; }
  char const *getPluginNamespace() const noexcept override { return PLUGIN_NAMESPACE; }
  PluginFieldCollection const *getFieldNames() noexcept override { return Node::field_names(); }

  IPluginV3 *createPlugin(char const *, PluginFieldCollection const *fields, TensorRTPhase) noexcept override {
    Facts facts{};
    return Node::read(fields, facts) ? new (std::nothrow) PluginV3(facts) : nullptr;
  }
};

}  // namespace

IPluginCreatorInterface *creator_v3() noexcept {
  static CreatorV3 creator;
  return &creator;
}

}  // namespace spatiallm
#endif
