// The operator for both half types, behind checks of what it is asked for.
#include <cstdio>
#include <functional>
#include <new>

#include "graphs.h"
#include "variant.h"

namespace spatiallm {

namespace {

constexpr int HEAD_DIM = 64, MAX_HIDDEN = 4096, MAX_INNER = 1 << 18, MAX_HEADS = 256;  // of the kernels
constexpr long long MOST = 1LL << 31;            // elements of one buffer, as TensorRT has it

// Rows of the largest buffers that do not overflow.
char const *unfit(ModelSizes const &s, LanguageModelTensors const &t) noexcept {
  if (t.batch < 1 || t.rows < 1 || t.past_rows < 0) return "at least one sequence of one new row was expected";
  long long const rows = static_cast<long long>(t.batch) * t.rows;
  long long const row = 2LL * s.layers * s.kv_heads * HEAD_DIM;
  if (rows * 2 * s.intermediate >= MOST || rows * row >= MOST) return "there are too many new rows for one call";
  if (rows * s.heads * HEAD_DIM >= MOST) return "there are too many new rows for one call";
  if (static_cast<long long>(t.batch) * t.past_rows * row >= MOST) return "the cache is too large for one call";
  if ((t.point_mask == nullptr) != (t.point_embeds == nullptr) || (t.point_mask != nullptr && t.cos_3d == nullptr))
    return "a point mask comes with embeddings and angles of the point tokens";
  return nullptr;
}

template <class Launch>
char const *run_in(Graphs &graphs, ModelSizes const &s, LanguageModelTensors const &t, void *workspace, cudaStream_t stream,
                   Launch const &launch) noexcept try {
  return graphs.run(key_of(s, t, workspace), stream, std::ref(launch));
} catch (std::bad_alloc const &) {
  return "the host has no memory for the call";
}

}  // namespace

char const *language_model_misfit(ModelSizes const &s) noexcept {
  if (s.head_dim != HEAD_DIM) return "heads of 64 channels were expected";
  if (s.hidden < 8 || s.hidden % 8 != 0 || s.hidden > MAX_HIDDEN) return "a hidden state of 8 to 4096 channels, a multiple of 8, was expected";
  if (s.intermediate < 8 || s.intermediate % 8 != 0 || s.intermediate > MAX_INNER) return "an inner size of 8 to 262144, a multiple of 8, was expected";
  if (s.heads > MAX_HEADS) return "at most 256 query heads were expected";
  if (s.kv_heads < 1 || s.heads < 1 || s.heads % s.kv_heads != 0) return "query heads that are a multiple of key heads were expected";
  if (s.layers < 1 || s.layers > MAX_LAYERS) return "1 to 64 layers were expected";
  return s.vocabulary < 1 ? "a vocabulary was expected" : nullptr;
}

Graphs *new_graphs() noexcept { return new (std::nothrow) Graphs; }
void delete_graphs(Graphs *graphs) noexcept { delete graphs; }

size_t language_model_workspace(ModelSizes const &s, int batch, int rows, int past_rows, int all_logits) noexcept {
  if (language_model_misfit(s) != nullptr) return 0;
  return (s.bf16 ? bf16::workspace : fp16::workspace)(s, batch, rows, past_rows, all_logits);
}

int language_model_run(ModelSizes const &s, LanguageModelTensors const &t, void *workspace, cudaStream_t stream,
                       Graphs *graphs, char *why, size_t why_bytes) noexcept {
  auto launch = [&](cudaStream_t on) { return (s.bf16 ? bf16::run : fp16::run)(s, t, workspace, on); };
  char const *reason = language_model_misfit(s);
  if (reason == nullptr) reason = unfit(s, t);
  if (reason == nullptr)
    reason = graphs == nullptr ? launch(stream) : run_in(*graphs, s, t, workspace, stream, launch);
  if (reason != nullptr) std::snprintf(why, why_bytes, "%s", reason);
  return reason == nullptr ? 0 : 1;
}

}  // namespace spatiallm
