#include "plugin.h"

#include <algorithm>

using namespace nvinfer1;

namespace spatiallm {

namespace {

enum Input { IDS, COS, SIN, PAST_LENGTH, PAST, WEIGHTS };
enum Output { LOGITS, ROWS };

int run_in_one_kernel(DecodeStep const &step, ModelWeights const &weights, int past_rows, void const *const *inputs,
                      void *const *outputs, void *workspace, cudaStream_t stream) noexcept {
  DecodeStepTensors t{};
  t.token = at<int>(inputs, IDS), t.past_length = at<int>(inputs, PAST_LENGTH);
  t.cos = at<float>(inputs, COS), t.sin = at<float>(inputs, SIN);
  t.past = inputs[PAST], t.past_rows = past_rows, t.weights = weights;
  t.logits = static_cast<float *>(outputs[LOGITS]), t.rows = outputs[ROWS];
  cudaError_t const error = step.launch(t, workspace, stream);
  if (error != cudaSuccess) complain(DecodeNode::NAME, cudaGetErrorString(error));
  return error == cudaSuccess ? 0 : 1;
}

int run_in_general(ModelSizes const &sizes, ModelWeights const &weights, Extents const &extents, Graphs *graphs,
                   void const *const *inputs, void *const *outputs, void *workspace, cudaStream_t stream) noexcept {
  LanguageModelTensors t{};
  t.batch = extents.batch, t.rows = extents.rows, t.past_rows = extents.past_rows, t.causal = 1, t.all_logits = 1;
  t.ids = at<int>(inputs, IDS), t.cos_1d = at<float>(inputs, COS), t.sin_1d = at<float>(inputs, SIN);
  t.past_length = at<int>(inputs, PAST_LENGTH), t.past = inputs[PAST], t.weights = weights;
  t.logits = static_cast<float *>(outputs[LOGITS]), t.new_rows = outputs[ROWS];
  char why[256] = "";
  int const failed = language_model_run(sizes, t, workspace, stream, graphs, why, sizeof why);
  if (failed) complain(DecodeNode::NAME, why);
  return failed;
}

}  // namespace

DataType DecodeNode::type(int place) const noexcept {
  if (place == IDS || place == PAST_LENGTH) return DataType::kINT32;
  return place == COS || place == SIN || place == INPUTS + LOGITS ? DataType::kFLOAT : half();
}

bool DecodeNode::has_shape(int place, Dims const &dims, Extents const &e) const noexcept {
  int const head_dim = facts_.sizes.head_dim;
  switch (place) {
    case IDS: return agree(dims, {e.batch, e.rows});
    case COS:
    case SIN: return agree(dims, {e.batch, e.rows, head_dim});
    case PAST_LENGTH: return agree(dims, {e.batch});
    case PAST: return agree(dims, {e.past_rows, e.batch, cached(), head_dim});
    case WEIGHTS: return is_weights(dims);
    case INPUTS + LOGITS: return agree(dims, {e.batch, e.rows, facts_.sizes.vocabulary});
    default: return agree(dims, {e.rows, e.batch, cached(), head_dim});
  }
}

DimsExprs DecodeNode::shape(int output, DimsExprs const *inputs, IExprBuilder &build) const noexcept {
  DimsExprs made{};
  IDimensionExpr const *batch = inputs[IDS].d[0], *rows = inputs[IDS].d[1];
  if (output == LOGITS) {
    made.nbDims = 3;
    made.d[0] = batch, made.d[1] = rows, made.d[2] = build.constant(facts_.sizes.vocabulary);
  } else {
    made.nbDims = 4;
    made.d[0] = rows, made.d[1] = batch, made.d[2] = inputs[PAST].d[2], made.d[3] = inputs[PAST].d[3];
  }
  return made;
}

size_t DecodeNode::workspace(Dims const *largest) const noexcept {
  int const batch = size(largest[IDS], 0), rows = size(largest[IDS], 1), past_rows = size(largest[PAST], 0);
  if (batch < 1 || rows < 1 || past_rows < 0) return 0;  // not known yet
  DecodeStep const *step = find_decode_step(facts_.sizes);
  size_t const general = language_model_workspace(facts_.sizes, batch, rows, past_rows, 1);
  return step == nullptr ? general : std::max(general, step->workspace_bytes);
}

int DecodeNode::run(PluginTensorDesc const *descriptions, void const *const *inputs, void *const *outputs,
                    void *workspace, cudaStream_t stream) const noexcept {
  Dims const &ids = descriptions[IDS].dims;
  Extents const extents{size(ids, 0), size(ids, 1), size(descriptions[PAST].dims, 0)};
  if (!accepts(*this, descriptions, extents)) return 1;
  PlacedWeights const placed(facts_, inputs[WEIGHTS]);
  bool const one = extents.batch == 1 && extents.rows == 1;
  DecodeStep const *step = one ? find_decode_step(facts_.sizes) : nullptr;
  if (step != nullptr && step->fits(extents.past_rows))
    return run_in_one_kernel(*step, placed.weights, extents.past_rows, inputs, outputs, workspace, stream);
  return run_in_general(facts_.sizes, placed.weights, extents, graphs_, inputs, outputs, workspace, stream);
}

}  // namespace spatiallm
