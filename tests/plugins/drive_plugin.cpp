// The plugin's shells as TensorRT would use them, on the CPU: the kernel is a function that notes what it was given. Prints
// a line for each fact; the test knows what they must be.
#include <cstdio>
#include <cstring>
#include <vector>

#include "decode_step/plugin.h"

using namespace nvinfer1;

static spatiallm::DecodeStepTensors seen;
static void const *seen_layers[2 * spatiallm::LAYER_TENSORS];

static cudaError_t note(spatiallm::DecodeStepTensors const &t, void *, cudaStream_t) {
  seen = t;
  std::memcpy(seen_layers, t.layers, sizeof seen_layers);
  return cudaSuccess;
}

static const spatiallm::DecodeStep step = {{256, 256, 2, 4, 2, 64, 1000, BIAS, 0, 1e-6f}, 4096, note};
const spatiallm::DecodeStep *const spatiallm::decode_steps[] = {&step, nullptr};

extern "C" char const *cudaGetErrorString(cudaError_t) { return "an error"; }

static PluginTensorDesc tensor(DataType type, std::vector<int> const &sizes) {
  PluginTensorDesc made{};
  made.type = type, made.format = TensorFormat::kLINEAR, made.dims.nbDims = sizes.size();
  for (size_t i = 0; i < sizes.size(); ++i) made.dims.d[i] = sizes[i];
  return made;
}

static std::vector<PluginTensorDesc> tensors() {
  DataType const i = DataType::kINT32, f = DataType::kFLOAT, h = DataType::kHALF;
  std::vector<PluginTensorDesc> all = {tensor(i, {1, 1}), tensor(f, {1, 1, 64}), tensor(f, {1, 1, 64}), tensor(i, {1}),
                                       tensor(h, {512, 1, 8, 64}), tensor(h, {1000, 256}), tensor(h, {256})};
  if (!TIED) all.push_back(tensor(h, {1000, 256}));
  for (int layer = 0; layer < 2; ++layer) {
    all.push_back(tensor(h, {256})), all.push_back(tensor(h, {512, 256}));
    if (BIAS) all.push_back(tensor(h, {512}));
    all.push_back(tensor(h, {256, 256})), all.push_back(tensor(h, {256}));
    all.push_back(tensor(h, {512, 256})), all.push_back(tensor(h, {256, 256}));
  }
  all.push_back(tensor(f, {1, 1, 1000})), all.push_back(tensor(h, {1, 1, 8, 64}));
  return all;
}

int main() {
  int numbers[] = {256, 256, 2, 4, 2, 64, 1000, BIAS, 0, TIED};
  float epsilon = 1e-6f;
  char const *names[] = {"hidden",   "intermediate", "layers",     "heads",    "kv_heads",
                         "head_dim", "vocabulary",   "qkv_bias", "bf16", "tied"};
  std::vector<PluginField> fields;
  for (int i = 0; i < 10; ++i) fields.emplace_back(names[i], &numbers[i], PluginFieldType::kINT32, 1);
  fields.emplace_back("epsilon", &epsilon, PluginFieldType::kFLOAT32, 1);
  PluginFieldCollection given{11, fields.data()}, short_of_one{10, fields.data()};
  spatiallm::Facts facts{}, other{};
  std::printf("read %d\n", spatiallm::Node::read(&given, facts));
  std::printf("read without epsilon %d\n", spatiallm::Node::read(&short_of_one, other));
  numbers[0] = 512;
  std::printf("read another model %d\n", spatiallm::Node::read(&given, other));

  spatiallm::Node node(facts);
  std::vector<PluginTensorDesc> all = tensors();
  int const inputs = all.size() - 2;
  std::printf("inputs %d\n", node.inputs() == inputs);
  int good = 0, wrong_type = 0, wrong_format = 0, wrong_shape = 0;
  for (size_t place = 0; place < all.size(); ++place) {
    PluginTensorDesc const right = all[place];
    PluginTensorDesc type = right, format = right, shape = right;
    type.type = DataType::kINT8, format.format = TensorFormat::kCHW4, ++shape.dims.d[shape.dims.nbDims - 1];
    good += node.supports(place, right, inputs, 2);
    wrong_type += node.supports(place, type, inputs, 2), wrong_format += node.supports(place, format, inputs, 2);
    wrong_shape += node.supports(place, shape, inputs, 2);
  }
  std::printf("supports %d %d %d %d\n", good == inputs + 2, wrong_type, wrong_format, wrong_shape);
  all[4].dims.d[0] = -1;
  std::printf("any prefix %d\n", node.supports(4, all[4], inputs, 2));
  all[4].dims.d[0] = 512;

  std::vector<char> memory(all.size());
  std::vector<void const *> addresses;
  for (int i = 0; i < inputs; ++i) addresses.push_back(&memory[i]);
  void *outputs[] = {&memory[inputs], &memory[inputs + 1]};
  std::printf("run %d\n", node.run(all.data(), addresses.data(), outputs, nullptr, nullptr));
  auto place = [&](void const *address) { return address == nullptr ? -1 : int((char const *)address - memory.data()); };
  std::printf("given %d %d %d %d %d", place(seen.token), place(seen.cos), place(seen.sin), place(seen.past_length),
              place(seen.past));
  std::printf(" %d %d %d %d %d", place(seen.embedding), place(seen.final_norm), place(seen.head), place(seen.logits),
              place(seen.rows));
  std::printf(" rows %d layers", seen.past_rows);
  for (void const *address : seen_layers) std::printf(" %d", place(address));
  all[0].dims.d[1] = 2;
  std::printf("\ntwo tokens %d\n", node.run(all.data(), addresses.data(), outputs, nullptr, nullptr));
  PluginFieldCollection const *again = node.fields();
  spatiallm::Facts back{};
  std::printf("fields come back %d\n", spatiallm::Node::read(again, back) && !std::memcmp(&back, &facts, sizeof back));
}
