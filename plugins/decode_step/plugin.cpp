#include "plugin.h"

#include <cstdio>
#include <cstring>

using namespace nvinfer1;

namespace spatiallm {

namespace {

constexpr int MAX_LAYERS = 64;
constexpr int FIELDS = 11;
constexpr char const *NAMES[FIELDS] = {"hidden",   "intermediate", "layers",     "heads", "kv_heads", "head_dim",
                                       "vocabulary", "qkv_bias",     "bf16", "tied",  "epsilon"};

// Where a field's value lies: ten integers, then epsilon.
void *place_of(Facts &facts, int field) noexcept {
  DecodeStepSizes &s = facts.sizes;
  void *places[FIELDS] = {&s.hidden,     &s.intermediate, &s.layers, &s.heads,    &s.kv_heads, &s.head_dim,
                          &s.vocabulary, &s.qkv_bias,     &s.bf16,   &facts.tied, &s.epsilon};
  return places[field];
}

PluginFieldType type_of(int field) noexcept {
  return field == FIELDS - 1 ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32;
}

bool same(DecodeStepSizes const &a, DecodeStepSizes const &b) noexcept {
  return a.hidden == b.hidden && a.intermediate == b.intermediate && a.layers == b.layers && a.heads == b.heads &&
         a.kv_heads == b.kv_heads && a.head_dim == b.head_dim && a.vocabulary == b.vocabulary &&
         a.qkv_bias == b.qkv_bias && a.bf16 == b.bf16 && a.epsilon == b.epsilon;
}

// A size of -1 is not known yet; an expected one of -1 may be any.
bool agree(Dims const &dims, std::initializer_list<int> expected) noexcept {
  if (dims.nbDims != static_cast<int>(expected.size())) return false;
  for (int axis = 0; axis < dims.nbDims; ++axis) {
    int const wanted = expected.begin()[axis];
    if (wanted >= 0 && dims.d[axis] >= 0 && dims.d[axis] != wanted) return false;
  }
  return true;
}

}  // namespace

DecodeStep const *find_decode_step(DecodeStepSizes const &sizes) noexcept {
  for (DecodeStep const *const *step = decode_steps; *step != nullptr; ++step)
    if (same((*step)->sizes, sizes)) return *step;
  return nullptr;
}

bool Node::read(PluginFieldCollection const *fields, Facts &facts) noexcept {
  unsigned found = 0;
  for (int i = 0; fields != nullptr && i < fields->nbFields; ++i) {
    PluginField const &given = fields->fields[i];
    for (int field = 0; field < FIELDS; ++field)
      if (std::strcmp(given.name, NAMES[field]) == 0 && given.type == type_of(field) && given.data != nullptr)
        std::memcpy(place_of(facts, field), given.data, 4), found |= 1U << field;
  }
  for (int field = 0; field < FIELDS; ++field) {
    if (found >> field & 1U) continue;
    char text[128];
    std::snprintf(text, sizeof text, "%s: the node has no %s; export the bundle again", PLUGIN_NAME, NAMES[field]);
    complain(text);
    return false;
  }
  if (facts.sizes.layers < 1 || facts.sizes.layers > MAX_LAYERS || find_decode_step(facts.sizes) == nullptr) {
    complain("SpatialLMDecodeStep: the library was built for other sizes; build it with those of the model");
    return false;
  }
  return true;
}

PluginFieldCollection const *Node::field_names() noexcept {
  static PluginField names[FIELDS];
  static PluginFieldCollection const collection{FIELDS, names};
  for (int field = 0; field < FIELDS; ++field) names[field] = PluginField(NAMES[field], nullptr, type_of(field), 1);
  return &collection;
}

PluginFieldCollection const *Node::fields() noexcept {
  for (int field = 0; field < FIELDS; ++field)
    values_[field] = PluginField(NAMES[field], place_of(facts_, field), type_of(field), 1);
  collection_ = PluginFieldCollection{FIELDS, values_};
  return &collection_;
}

DataType Node::type(int place) const noexcept {
  if (place == 0 || place == 3) return DataType::kINT32;                              // input_ids, past_length
  if (place == 1 || place == 2 || place == inputs()) return DataType::kFLOAT;  // cos, sin, logits
#if NV_TENSORRT_MAJOR >= 9
  if (facts_.sizes.bf16) return DataType::kBF16;
#endif
  return DataType::kHALF;
}

bool Node::has_shape(int place, Dims const &dims) const noexcept {
  DecodeStepSizes const &s = facts_.sizes;
  int const queries = s.heads * s.head_dim, qkv = queries + 2 * s.kv_heads * s.head_dim;
  int const cached = 2 * s.layers * s.kv_heads;
  if (place == 0) return agree(dims, {1, 1});
  if (place == 1 || place == 2) return agree(dims, {1, 1, s.head_dim});
  if (place == 3) return agree(dims, {1});
  if (place == 4) return agree(dims, {-1, 1, cached, s.head_dim});
  if (place == inputs()) return agree(dims, {1, 1, s.vocabulary});
  if (place == inputs() + 1) return agree(dims, {1, 1, cached, s.head_dim});
  if (place == 5 || (place == 7 && !facts_.tied)) return agree(dims, {s.vocabulary, s.hidden});
  if (place == 6) return agree(dims, {s.hidden});
  int kind = (place - (facts_.tied ? 7 : 8)) % per_layer();
  if (!s.qkv_bias && kind >= 2) ++kind;
  switch (kind) {
    case 1: return agree(dims, {qkv, s.hidden});
    case 2: return agree(dims, {qkv});
    case 3: return agree(dims, {s.hidden, queries});
    case 5: return agree(dims, {2 * s.intermediate, s.hidden});
    case 6: return agree(dims, {s.hidden, s.intermediate});
    default: return agree(dims, {s.hidden});
  }
}

bool Node::supports(int place, PluginTensorDesc const &tensor, int inputs, int outputs) const noexcept {
#if NV_TENSORRT_MAJOR < 9
  if (facts_.sizes.bf16) return false;
#endif
  return inputs == this->inputs() && outputs == OUTPUTS && tensor.format == TensorFormat::kLINEAR &&
         tensor.type == type(place) && has_shape(place, tensor.dims);
}

DimsExprs Node::shape(int output, DimsExprs const *inputs, IExprBuilder &build) const noexcept {
  DimsExprs made{};
  IDimensionExpr const *batch = inputs[0].d[0], *count = inputs[0].d[1];
  if (output == 0) {
    made.nbDims = 3;
    made.d[0] = batch, made.d[1] = count, made.d[2] = build.constant(facts_.sizes.vocabulary);
  } else {
    made.nbDims = 4;
    made.d[0] = count, made.d[1] = batch, made.d[2] = inputs[4].d[2], made.d[3] = inputs[4].d[3];
  }
  return made;
}

size_t Node::workspace() const noexcept {
  DecodeStep const *step = find_decode_step(facts_.sizes);
  return step == nullptr ? 0 : step->workspace_bytes;
}

int Node::run(PluginTensorDesc const *descriptions, void const *const *inputs, void *const *outputs, void *workspace,
              cudaStream_t stream) const noexcept {
  DecodeStep const *step = find_decode_step(facts_.sizes);
  for (int place = 0; place < 5; ++place)
    if (step == nullptr || !has_shape(place, descriptions[place].dims)) {
      complain("SpatialLMDecodeStep: one new token of one sequence was expected");
      return 1;
    }
  void const *const *next = inputs + 5;
  DecodeStepTensors t{};
  t.token = static_cast<int const *>(inputs[0]), t.past_length = static_cast<int const *>(inputs[3]);
  t.cos = static_cast<float const *>(inputs[1]), t.sin = static_cast<float const *>(inputs[2]);
  t.past = inputs[4], t.past_rows = static_cast<int>(descriptions[4].dims.d[0]);
  t.embedding = *next++, t.final_norm = *next++;
  t.head = facts_.tied ? t.embedding : *next++;
  void const *layers[MAX_LAYERS * LAYER_TENSORS];
  for (int i = 0; i < facts_.sizes.layers * LAYER_TENSORS; ++i)
    layers[i] = i % LAYER_TENSORS == 2 && !facts_.sizes.qkv_bias ? nullptr : *next++;
  t.layers = layers;
  t.logits = static_cast<float *>(outputs[0]), t.rows = outputs[1];
  cudaError_t const error = step->launch(t, workspace, stream);
  if (error == cudaSuccess) return 0;
  char text[256];
  std::snprintf(text, sizeof text, "%s: the kernel was not launched (%s)", PLUGIN_NAME, cudaGetErrorString(error));
  complain(text);
  return 1;
}

}  // namespace spatiallm
