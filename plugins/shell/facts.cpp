#include "facts.h"

#include <cstdio>
#include <cstring>

#include "../language_model/launch.h"

using namespace nvinfer1;

namespace spatiallm {

namespace {

enum Field { EPSILON = 10, OFFSETS = 11, CAUSAL = 12 };

constexpr char const *NAMES[MAX_FIELDS] = {"hidden",   "intermediate", "layers", "heads",   "kv_heads", "head_dim", "vocabulary",
                                           "qkv_bias", "bf16",         "tied",   "epsilon", "offsets",  "causal"};

void *place_of(Facts &facts, int field) noexcept {
  ModelSizes &s = facts.sizes;
  void *places[MAX_FIELDS] = {&s.hidden,     &s.intermediate, &s.layers, &s.heads,    &s.kv_heads, &s.head_dim,
                              &s.vocabulary, &s.qkv_bias,     &s.bf16,   &facts.tied, &s.epsilon,  facts.offsets,
                              &facts.causal};
  return places[field];
}

PluginFieldType type_of(int field) noexcept {
  return field == EPSILON ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32;
}

int count(bool causal) noexcept { return causal ? MAX_FIELDS : MAX_FIELDS - 1; }

bool refuse(char const *plugin, char const *form, char const *word) noexcept {
  char text[192];
  std::snprintf(text, sizeof text, form, word);
  complain(plugin, text);
  return false;
}

// How many values a tensor has; 0 for a qkv_bias that is not there.
long long values_of(ModelSizes const &s, int tensor) noexcept {
  long long const hidden = s.hidden, head_dim = s.head_dim, queries = s.heads * head_dim, qkv = queries + 2 * s.kv_heads * head_dim;
  if (tensor < ENDS) return tensor == 1 ? hidden : hidden * s.vocabulary;
  switch ((tensor - ENDS) % LAYER_TENSORS) {
    case 1: return qkv * hidden;
    case 2: return s.qkv_bias ? qkv : 0;
    case 3: return hidden * queries;
    case 5: return 2 * hidden * s.intermediate;
    case 6: return hidden * s.intermediate;
    default: return hidden;
  }
}

}  // namespace

bool read_facts(char const *plugin, bool causal, PluginFieldCollection const *given, Facts &facts) noexcept {
  unsigned found = 0;
  int offsets = 0;
  for (int i = 0; given != nullptr && i < given->nbFields; ++i) {
    PluginField const &from = given->fields[i];
    for (int field = 0; field < count(causal); ++field) {
      if (std::strcmp(from.name, NAMES[field]) != 0 || from.type != type_of(field) || from.data == nullptr) continue;
      int const length = field == OFFSETS ? from.length : 1;
      if (length < 1 || length > MAX_TENSORS) continue;
      std::memcpy(place_of(facts, field), from.data, 4 * static_cast<size_t>(length));
      found |= 1U << field;
      if (field == OFFSETS) offsets = length;
    }
  }
  for (int field = 0; field < count(causal); ++field)
    if (!(found >> field & 1U)) return refuse(plugin, "the node has no usable %s; export the bundle again", NAMES[field]);
  if (!check_facts(plugin, facts)) return false;
  return offsets == facts.tensors() || refuse(plugin, "the node has not one of %s for each tensor", "offsets");
}

bool check_facts(char const *plugin, Facts const &facts) noexcept {
  if (char const *reason = language_model_misfit(facts.sizes)) return refuse(plugin, "the model does not fit: %s", reason);
  for (int tensor = 0; tensor < facts.tensors(); ++tensor)
    if ((facts.offsets[tensor] < 0) != (values_of(facts.sizes, tensor) == 0))
      return refuse(plugin, "a tensor of the model has no place among the %s", "offsets");
  return true;
}

PluginFieldCollection const *field_names(bool causal) noexcept {
  static struct Names {  // made once, by whichever thread comes first
    PluginField fields[MAX_FIELDS];
    PluginFieldCollection collections[2] = {{count(false), fields}, {count(true), fields}};

    Names() noexcept {
      for (int field = 0; field < MAX_FIELDS; ++field) fields[field] = PluginField(NAMES[field], nullptr, type_of(field), 1);
    }
  } const names;
  return &names.collections[causal];
}

PluginFieldCollection const *FieldValues::of(Facts &facts, bool causal) noexcept {
  for (int field = 0; field < count(causal); ++field)
    values_[field] = PluginField(NAMES[field], place_of(facts, field), type_of(field), field == OFFSETS ? facts.tensors() : 1);
  collection_ = PluginFieldCollection{count(causal), values_};
  return &collection_;
}

bool offsets_fit(Facts const &facts, long long values) noexcept {
  constexpr int HALF_BYTES = 2;
  for (int tensor = 0; tensor < facts.tensors(); ++tensor) {
    long long const wanted = values_of(facts.sizes, tensor);
    if (wanted > 0 && facts.offsets[tensor] * (OFFSET_BYTES / HALF_BYTES * 1LL) + wanted > values) return false;
  }
  return true;
}

PlacedWeights::PlacedWeights(Facts const &facts, void const *file) noexcept : layers{}, weights{} {
  auto place = [&](int tensor) -> void const * {
    if (facts.offsets[tensor] < 0) return nullptr;
    return static_cast<char const *>(file) + static_cast<size_t>(facts.offsets[tensor]) * OFFSET_BYTES;
  };
  for (int i = 0; i < facts.sizes.layers * LAYER_TENSORS; ++i) layers[i] = place(ENDS + i);
  weights.embedding = place(0), weights.final_norm = place(1), weights.head = place(2);
  weights.layers = layers;
}

}  // namespace spatiallm
