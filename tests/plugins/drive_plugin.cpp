// The nodes behind TensorRT's interface as TensorRT would use them, on the CPU: the kernels are functions that note what they
// were given. Prints a line for each fact; the test knows what they must be.
#include <cstdio>
#include <cstring>
#include <vector>

#include "decode_step/plugin.h"
#include "language_model/plugin.h"
#include "shell/mask.h"

#if NV_TENSORRT_MAJOR >= 10
#include "shell/plugin_v3.h"
#else
#include "shell/plugin_v2.h"
#endif

using namespace nvinfer1;
using namespace spatiallm;

constexpr int LAYERS = 2, TENSORS = ENDS + LAYERS * LAYER_TENSORS, MANY = 1 << 20;
static bool fits = true;
static DecodeStepTensors step_seen;
static LanguageModelTensors model_seen;
static void const *layers_seen[LAYERS * LAYER_TENSORS];
static void *workspace_seen;
static int narrowed;

static void note_layers(ModelWeights const &weights, void *workspace) {
  std::memcpy(layers_seen, weights.layers, sizeof layers_seen);
  workspace_seen = workspace;
}

static cudaError_t note(DecodeStepTensors const &t, void *workspace, cudaStream_t) {
  step_seen = t, note_layers(t.weights, workspace);
  return cudaSuccess;
}

static const DecodeStep step = {{256, 256, LAYERS, 4, 2, 64, 1000, BIAS, 0, 1e-6f}, 4096, [](int) { return fits; }, note};
const DecodeStep *const spatiallm::decode_steps[] = {&step, nullptr};

class spatiallm::Graphs {};
static int graphs_alive, graphs_wrong;

Graphs *spatiallm::new_graphs() noexcept { return ++graphs_alive, new Graphs; }

void spatiallm::delete_graphs(Graphs *graphs) noexcept {
  --graphs_alive;
  delete graphs;
}

int spatiallm::language_model_run(ModelSizes const &, LanguageModelTensors const &t, void *workspace, cudaStream_t,
                                  Graphs *graphs, char *, size_t) noexcept {
  model_seen = t, note_layers(t.weights, workspace);
  graphs_wrong += graphs == nullptr;
  return 0;
}

size_t spatiallm::language_model_workspace(ModelSizes const &, int batch, int rows, int past_rows, int all) noexcept {
  return 1000000 * batch + 10000 * rows + 10 * past_rows + all;
}

char const *spatiallm::language_model_misfit(ModelSizes const &s) noexcept {
  return s.head_dim == 64 && s.layers >= 1 && s.layers <= MAX_LAYERS ? nullptr : "other heads were expected";
}

cudaError_t spatiallm::narrow_mask(const int *, unsigned char *, int count, cudaStream_t) noexcept {
  narrowed = count;
  return cudaSuccess;
}

extern "C" char const *cudaGetErrorString(cudaError_t) { return "an error"; }

static PluginTensorDesc tensor(DataType type, std::vector<int> const &sizes) {
  PluginTensorDesc made{};
  made.type = type, made.format = TensorFormat::kLINEAR, made.dims.nbDims = sizes.size();
  for (size_t i = 0; i < sizes.size(); ++i) made.dims.d[i] = sizes[i];
  return made;
}

constexpr DataType I = DataType::kINT32, F = DataType::kFLOAT, H = DataType::kHALF;

static std::vector<PluginTensorDesc> decode_tensors(int b, int t, int m) {
  return {tensor(I, {b, t}), tensor(F, {b, t, 64}), tensor(F, {b, t, 64}), tensor(I, {b}), tensor(H, {m, b, 8, 64}),
          tensor(H, {MANY}), tensor(F, {b, t, 1000}), tensor(H, {t, b, 8, 64})};
}

static std::vector<PluginTensorDesc> prefill_tensors(int b, int s) {
  PluginTensorDesc const angles = tensor(F, {b, s, 64});
  return {tensor(I, {b, s}), tensor(H, {b, s, 256}), tensor(I, {b, s}), angles, angles, angles, angles, tensor(I, {b}),
          tensor(H, {MANY}), tensor(F, {b, 1000}), tensor(H, {s, b, 8, 64})};
}

// All fields but the last may be left out.
struct Given {
  int numbers[10] = {256, 256, LAYERS, 4, 2, 64, 1000, BIAS, 0, TIED};
  int causal = 1, offsets[TENSORS], offsets_length = TENSORS;
  float epsilon = 1e-6f;

  Given() {
    for (int i = 0; i < TENSORS; ++i) offsets[i] = 1 + i;  // where they lie is checked against the end alone
    if (TIED) offsets[2] = offsets[0];
    for (int layer = 0; layer < LAYERS && !BIAS; ++layer) offsets[ENDS + LAYER_TENSORS * layer + 2] = -1;
  }

  template <class Kind>
  bool read(Facts &facts, char const *without = "") const {
    char const *names[] = {"hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim", "vocabulary", "qkv_bias",
                           "bf16",   "tied"};
    std::vector<PluginField> fields;
    for (int i = 0; i < 10; ++i) fields.emplace_back(names[i], &numbers[i], PluginFieldType::kINT32, 1);
    fields.emplace_back("epsilon", &epsilon, PluginFieldType::kFLOAT32, 1);
    fields.emplace_back("offsets", offsets, PluginFieldType::kINT32, offsets_length);
    fields.emplace_back("causal", &causal, PluginFieldType::kINT32, 1);
    std::vector<PluginField> kept;
    for (PluginField const &field : fields)
      if (std::strcmp(field.name, without) != 0) kept.push_back(field);
    PluginFieldCollection const given{static_cast<int>(kept.size()), kept.data()};
    facts = Facts{};
    return read_facts(Kind::NAME, Kind::CAUSAL, &given, facts);
  }
};

template <class Kind>
static Facts read(char const *kind) {
  Facts facts{}, other{};
  Given given, far, few, none;
  std::printf("%s: read %d", kind, given.read<Kind>(facts));
  for (char const *name : {"epsilon", "offsets", "causal"}) std::printf(" without %s %d", name, given.read<Kind>(other, name));
  few.offsets_length = TENSORS - 1;
  none.offsets[4] = -1;
  far.numbers[5] = 80;
  std::printf(" few %d none %d misfit %d", few.read<Kind>(other), none.read<Kind>(other), far.read<Kind>(other));
  std::printf(" checked %d\n", check_facts(Kind::NAME, facts));
  return facts;
}

template <class Kind>
static void support(Kind const &node, std::vector<PluginTensorDesc> const &all) {
  int const inputs = Kind::INPUTS;
  int good = 0, unknown = 0, wrong_type = 0, wrong_format = 0, wrong_shape = 0;
  for (size_t place = 0; place < all.size(); ++place) {
    PluginTensorDesc type = all[place], format = type, shape = type, open = type;
    type.type = DataType::kINT8, format.format = TensorFormat::kCHW4, ++shape.dims.nbDims;
    for (int axis = 0; axis < open.dims.nbDims; ++axis) open.dims.d[axis] = -1;
    good += supports(node, place, all[place], inputs, 2), unknown += supports(node, place, open, inputs, 2);
    wrong_type += supports(node, place, type, inputs, 2), wrong_format += supports(node, place, format, inputs, 2);
    wrong_shape += supports(node, place, shape, inputs, 2);
  }
  int const count = all.size();
  std::printf("supports %d %d %d %d %d", good == count, unknown == count, wrong_type, wrong_format, wrong_shape);
  std::printf(" others %d\n", supports(node, 0, all[0], inputs + 1, 2) || supports(node, 0, all[0], inputs, 3));
}

// Both interfaces ask for the largest shapes, in their own ways.
template <class Kind>
static size_t workspace(Facts const &facts, std::vector<PluginTensorDesc> const &largest) {
#if NV_TENSORRT_MAJOR >= 10
  std::vector<DynamicPluginTensorDesc> ranges(largest.size());
  for (size_t i = 0; i < largest.size(); ++i) ranges[i].max = largest[i].dims;
  return PluginV3<Kind>(facts).getWorkspaceSize(ranges.data(), Kind::INPUTS, nullptr, 2);
#else
  return PluginV2<Kind>(facts).getWorkspaceSize(largest.data(), Kind::INPUTS, nullptr, 2);
#endif
}

template <class Kind>
static void come_back(Facts const &facts) {
  Facts back{};
#if NV_TENSORRT_MAJOR >= 10
  PluginV3<Kind> plugin(facts);
  bool const read = read_facts(Kind::NAME, Kind::CAUSAL, plugin.getFieldsToSerialize(), back);
#else
  PluginV2<Kind> plugin(facts);
  std::vector<char> bytes(plugin.getSerializationSize());
  plugin.serialize(bytes.data());
  IPluginV2 *made = CreatorV2<Kind>::only()->deserializePlugin("", bytes.data(), bytes.size());
  bool const read = made != nullptr && CreatorV2<Kind>::only()->deserializePlugin("", bytes.data(), 4) == nullptr;
  if (made != nullptr) made->serialize(&back), made->destroy();
#endif
  std::printf("facts come back %d\n", read && !std::memcmp(&back, &facts, sizeof back));
}

// A call over addresses that are places: input i at i, the weight file at 1000, outputs behind the inputs.
static char memory[1 << 16];

template <class Kind>
static int run(Kind const &node, std::vector<PluginTensorDesc> const &all) {
  void const *inputs[Kind::INPUTS];
  for (int i = 0; i < Kind::INPUTS; ++i) inputs[i] = &memory[i];
  inputs[Kind::INPUTS - 1] = &memory[1000];
  void *outputs[] = {&memory[100], &memory[101]};
  step_seen = {}, model_seen = {}, narrowed = 0;
  return node.run(all.data(), inputs, outputs, &memory[4096], nullptr);
}

static int place(void const *address) {
  return address == nullptr ? -1 : static_cast<int>(static_cast<char const *>(address) - memory);
}

static void print_weights(ModelWeights const &weights) {
  std::printf("weights %d %d %d", place(weights.embedding), place(weights.final_norm), place(weights.head));
  for (void const *address : layers_seen) std::printf(" %d", place(address));
  std::printf("\n");
}

static void print_model() {
  LanguageModelTensors const &t = model_seen;
  std::printf("general %d %d %d causal %d all %d:", t.batch, t.rows, t.past_rows, t.causal, t.all_logits);
  for (void const *address : {(void const *)t.ids, t.point_embeds, (void const *)t.point_mask, (void const *)t.cos_3d,
                              (void const *)t.sin_3d, (void const *)t.cos_1d, (void const *)t.sin_1d,
                              (void const *)t.lengths, (void const *)t.past_length, t.past, (void const *)t.logits,
                              (void const *)t.new_rows, (void const *)workspace_seen})
    std::printf(" %d", place(address));
  std::printf("\n");
}

template <class Kind>
static void refuse(Kind const &node, std::vector<PluginTensorDesc> all) {
  int refused = 0, count = Kind::INPUTS - 1;
  for (int input = 0; input < count; ++input) {
    std::vector<PluginTensorDesc> other = all;
    ++other[input].dims.d[other[input].dims.nbDims - 1];
    refused += run(node, other) == 1;
  }
  all[count].dims.d[0] = 64;  // values: the file ends before its tensors do
  std::printf("refused %d of %d, a short file %d\n", refused, count, run(node, all));
}

static void drive_decode() {
  Facts const facts = read<DecodeNode>("decode");
  DecodeNode const node(facts);
  support(node, decode_tensors(3, 2, 512));
  std::printf("one token %d:", run(node, decode_tensors(1, 1, 512)));
  for (void const *address : {(void const *)step_seen.token, (void const *)step_seen.cos, (void const *)step_seen.sin,
                              (void const *)step_seen.past_length, step_seen.past, (void const *)step_seen.logits,
                              (void const *)step_seen.rows, (void const *)workspace_seen})
    std::printf(" %d", place(address));
  std::printf(" past %d\n", step_seen.past_rows);
  print_weights(step_seen.weights);
  fits = false;
  std::printf("too small a device %d ", run(node, decode_tensors(1, 1, 512)));
  print_model();
  fits = true;
  std::printf("a batch %d ", run(node, decode_tensors(3, 2, 512)));
  print_model();
  print_weights(model_seen.weights);
  Facts other = facts;
  other.sizes.vocabulary = 999;  // the library has no kernel for it
  std::vector<PluginTensorDesc> one = decode_tensors(1, 1, 512);
  std::printf("another model %d", run(DecodeNode(other), one));
  std::printf(" kernel %d general %d\n", step_seen.past_rows, model_seen.batch);
  refuse(node, one);
  std::printf("workspace %zu %zu\n", workspace<DecodeNode>(facts, decode_tensors(3, 2, 512)),
              workspace<DecodeNode>(facts, decode_tensors(-1, -1, -1)));
  come_back<DecodeNode>(facts);
}

static void drive_prefill() {
  Facts facts = read<PrefillNode>("prefill");
  support(PrefillNode(facts), prefill_tensors(3, 100));
  std::printf("a prompt %d ", run(PrefillNode(facts), prefill_tensors(3, 100)));
  print_model();
  print_weights(model_seen.weights);
  std::printf("narrowed %d ", narrowed);
  facts.causal = 0;
  std::printf("full %d", run(PrefillNode(facts), prefill_tensors(1, 7)));
  std::printf(" causal %d\n", model_seen.causal);
  refuse(PrefillNode(facts), prefill_tensors(2, 7));
  std::printf("workspace %zu\n", workspace<PrefillNode>(facts, prefill_tensors(3, 100)));
  come_back<PrefillNode>(facts);
}

// The embedding or the head ends last, whichever begins last.
static void drive_ends() {
  Given given;
  Facts facts{};
  given.read<DecodeNode>(facts);
  long long const end = 8LL * (TIED ? facts.offsets[0] : facts.offsets[2]) + 256 * 1000;
  std::printf("ends %d %d", offsets_fit(facts, end), offsets_fit(facts, end - 1));
  facts.sizes.heads = 1 << 26;  // times 64 is more than an int holds
  std::printf(" wide %d\n", offsets_fit(facts, end));
}

int main() {
  drive_decode();
  drive_prefill();
  drive_ends();
  std::printf("graphs left %d missed %d\n", graphs_alive, graphs_wrong);
}
