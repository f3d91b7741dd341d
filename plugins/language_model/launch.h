// The language model over several rows of several sequences: prefill, and every decode step that is not one token of one
// sequence. What the kernels' side and TensorRT's side know of each other.
#pragma once
#include <cuda_runtime_api.h>
#include <stddef.h>

#include "../common/model.h"

namespace spatiallm {

struct LanguageModelTensors {  // addresses on the device
  int batch, rows;             // B sequences of T new rows each
  int past_rows;               // M rows of a cache prefix; 0: none
  int causal;                  // 0: every valid new row sees all valid new rows of its sequence
  int all_logits;              // 1: of all new rows, [B, T, V]; 0: of the last valid one of each sequence, [B, V]
  const int *ids;              // [B, T]
  const void *point_embeds;    // [B, T, C]; null: no point tokens
  const unsigned char *point_mask;           // [B, T]; null: no point tokens
  const float *cos_3d, *sin_3d;              // [B, T, D], of point tokens; null: none
  const float *cos_1d, *sin_1d;              // [B, T, D]
  const int *lengths;                        // [B], valid new rows, which come first; null: all
  const int *past_length;                    // [B], valid rows of `past`; null: none
  const void *past;                          // [M, B, 2L*K, D]: keys of all layers, then values
  ModelWeights weights;
  float *logits;
  void *new_rows;  // [T, B, 2L*K, D]
};

// Bytes that `language_model_run` works in for these sizes and smaller ones; 0 for a model that does not fit.
size_t language_model_workspace(const ModelSizes &, int batch, int rows, int past_rows, int all_logits) noexcept;

// Calls that came before, so that one of the same shapes and addresses is launched as a whole: a prefill is up to 220 launches,
// which keep a slow host busy for longer than the GPU. For one caller at a time; it owns what it captured.
class Graphs;
Graphs *new_graphs() noexcept;  // null where there is no memory
void delete_graphs(Graphs *) noexcept;

// Launches everything on the stream, waits for nothing, and may be captured into a graph. 0, or 1 with a sentence in `why`.
// Any ids, lengths and past_length are safe: none makes an address out of range. `graphs` may be null.
int language_model_run(const ModelSizes &, const LanguageModelTensors &, void *workspace, cudaStream_t, Graphs *graphs,
                       char *why, size_t why_bytes) noexcept;

// Why the kernels cannot run a model, or null.
const char *language_model_misfit(const ModelSizes &) noexcept;

}  // namespace spatiallm
