#include "plugin.h"

#include "../shell/mask.h"

using namespace nvinfer1;

namespace spatiallm {

namespace {

enum Input { IDS, POINT_EMBEDS, POINT_MASK, COS_3D, SIN_3D, COS_1D, SIN_1D, LENGTHS, WEIGHTS };
enum Output { LOGITS, ROWS };

constexpr size_t ALIGNMENT = 256;

// Bytes of the mask of point tokens, which lies in front of the workspace of the model.
size_t mask_bytes(int batch, int rows) noexcept {
  return (static_cast<size_t>(batch) * static_cast<size_t>(rows) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

}  // namespace

DataType PrefillNode::type(int place) const noexcept {
  if (place == IDS || place == POINT_MASK || place == LENGTHS) return DataType::kINT32;
  return (COS_3D <= place && place <= SIN_1D) || place == INPUTS + LOGITS ? DataType::kFLOAT : half();
}

bool PrefillNode::has_shape(int place, Dims const &dims, Extents const &e) const noexcept {
  ModelSizes const &s = facts_.sizes;
  switch (place) {
    case IDS:
    case POINT_MASK: return agree(dims, {e.batch, e.rows});
    case POINT_EMBEDS: return agree(dims, {e.batch, e.rows, s.hidden});
    case LENGTHS: return agree(dims, {e.batch});
    case WEIGHTS: return is_weights(dims);
    case INPUTS + LOGITS: return agree(dims, {e.batch, s.vocabulary});
    case INPUTS + ROWS: return agree(dims, {e.rows, e.batch, cached(), s.head_dim});
    default: return agree(dims, {e.batch, e.rows, s.head_dim});
  }
}

DimsExprs PrefillNode::shape(int output, DimsExprs const *inputs, IExprBuilder &build) const noexcept {
  DimsExprs made{};
  IDimensionExpr const *batch = inputs[IDS].d[0], *rows = inputs[IDS].d[1];
  if (output == LOGITS) {
    made.nbDims = 2;
    made.d[0] = batch, made.d[1] = build.constant(facts_.sizes.vocabulary);
  } else {
    made.nbDims = 4;
    made.d[0] = rows, made.d[1] = batch, made.d[2] = build.constant(cached()), made.d[3] = inputs[COS_1D].d[2];
  }
  return made;
}

size_t PrefillNode::workspace(Dims const *largest) const noexcept {
  int const batch = size(largest[IDS], 0), rows = size(largest[IDS], 1);
  if (batch < 1 || rows < 1) return 0;  // not known yet
  return mask_bytes(batch, rows) + language_model_workspace(facts_.sizes, batch, rows, 0, 0);
}

int PrefillNode::run(PluginTensorDesc const *descriptions, void const *const *inputs, void *const *outputs,
                     void *workspace, cudaStream_t stream) const noexcept {
  Dims const &ids = descriptions[IDS].dims;
  Extents const extents{size(ids, 0), size(ids, 1), 0};
  if (!accepts(*this, descriptions, extents)) return 1;
  unsigned char *const mask = static_cast<unsigned char *>(workspace);
  cudaError_t const error = narrow_mask(at<int>(inputs, POINT_MASK), mask, extents.batch * extents.rows, stream);
  if (error != cudaSuccess) return complain(NAME, cudaGetErrorString(error)), 1;
  PlacedWeights const placed(facts_, inputs[WEIGHTS]);
  LanguageModelTensors t{};
  t.batch = extents.batch, t.rows = extents.rows, t.causal = facts_.causal;
  t.ids = at<int>(inputs, IDS), t.point_embeds = inputs[POINT_EMBEDS], t.point_mask = mask;
  t.cos_3d = at<float>(inputs, COS_3D), t.sin_3d = at<float>(inputs, SIN_3D);
  t.cos_1d = at<float>(inputs, COS_1D), t.sin_1d = at<float>(inputs, SIN_1D);
  t.lengths = at<int>(inputs, LENGTHS), t.weights = placed.weights;
  t.logits = static_cast<float *>(outputs[LOGITS]), t.new_rows = outputs[ROWS];
  char why[256] = "";
  void *const rest = mask + mask_bytes(extents.batch, extents.rows);
  int const failed = language_model_run(facts_.sizes, t, rest, stream, graphs_, why, sizeof why);
  if (failed) complain(NAME, why);
  return failed;
}

}  // namespace spatiallm
