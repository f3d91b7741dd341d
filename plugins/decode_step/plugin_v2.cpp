// The decode step over the dynamic interface of version 2, which TensorRT 8.6 has and 10 and 11 still accept.
#include <cstring>
#include <new>
#include <string>

#include "plugin.h"

using namespace nvinfer1;

namespace spatiallm {

namespace {

class PluginV2 final : public IPluginV2DynamicExt {
 public:
  explicit PluginV2(Facts const &facts) noexcept : node_(facts) {}

  char const *getPluginType() const noexcept override { return PLUGIN_NAME; }
  char const *getPluginVersion() const noexcept override { return PLUGIN_VERSION; }
  int getNbOutputs() const noexcept override { return Node::OUTPUTS; }
  int initialize() noexcept override { return 0; }
  void terminate() noexcept override {}
  void destroy() noexcept override { delete this; }
  size_t getSerializationSize() const noexcept override { return sizeof(Facts); }
  void serialize(void *buffer) const noexcept override { std::memcpy(buffer, &node_.facts(), sizeof(Facts)); }
  void setPluginNamespace(char const *name) noexcept override { namespace_ = name; }
  char const *getPluginNamespace() const noexcept override { return namespace_.c_str(); }

  DataType getOutputDataType(int output, DataType const *, int) const noexcept override {
    return node_.type(node_.inputs() + output);
  }

  IPluginV2DynamicExt *clone() const noexcept override {
    PluginV2 *copy = new (std::nothrow) PluginV2(node_.facts());
    if (copy != nullptr) copy->namespace_ = namespace_;
    return copy;
  }

  DimsExprs getOutputDimensions(int output, DimsExprs const *inputs, int, IExprBuilder &build) noexcept override {
    return node_.shape(output, inputs, build);
  }

  bool supportsFormatCombination(int place, PluginTensorDesc const *all, int inputs, int outputs) noexcept override {
    return node_.supports(place, all[place], inputs, outputs);
  }

  void configurePlugin(DynamicPluginTensorDesc const *, int, DynamicPluginTensorDesc const *, int) noexcept override {}

  size_t getWorkspaceSize(PluginTensorDesc const *, int, PluginTensorDesc const *, int) const noexcept override {
    return node_.workspace();
  }

  int enqueue(PluginTensorDesc const *descriptions, PluginTensorDesc const *, void const *const *inputs,
              void *const *outputs, void *workspace, cudaStream_t stream) noexcept override {
    return node_.run(descriptions, inputs, outputs, workspace, stream);
  }

 private:
  Node node_;
  std::string namespace_;
};

class CreatorV2 final : public IPluginCreator {
 public:
  char const *getPluginName() const noexcept override { return PLUGIN_NAME; }
  char const *getPluginVersion() const noexcept override { return PLUGIN_VERSION; }
  PluginFieldCollection const *getFieldNames() noexcept override { return Node::field_names(); }
  void setPluginNamespace(char const *name) noexcept override { namespace_ = name; }
  char const *getPluginNamespace() const noexcept override { return namespace_.c_str(); }

  IPluginV2 *createPlugin(char const *, PluginFieldCollection const *fields) noexcept override {
    Facts facts{};
    return Node::read(fields, facts) ? new (std::nothrow) PluginV2(facts) : nullptr;
  }

  IPluginV2 *deserializePlugin(char const *, void const *data, size_t bytes) noexcept override {
    Facts facts{};
    if (bytes == sizeof facts) std::memcpy(&facts, data, sizeof facts);
    if (bytes == sizeof facts && find_decode_step(facts.sizes) != nullptr) return new (std::nothrow) PluginV2(facts);
    complain("SpatialLMDecodeStep: the library has no kernel for this engine; build it with the sizes of the model");
    return nullptr;
  }

 private:
  std::string namespace_{PLUGIN_NAMESPACE};
};

}  // namespace

IPluginCreator *creator_v2() noexcept {
  static CreatorV2 creator;
  return &creator;
}

}  // namespace spatiallm
