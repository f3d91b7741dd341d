#include "graphs.h"

#include <algorithm>

namespace spatiallm {

namespace {

template <class T>
void append(Key &key, T const &value) {
  key.append(reinterpret_cast<char const *>(&value), sizeof value);
}

}  // namespace

Key key_of(ModelSizes const &s, LanguageModelTensors const &t, void *workspace) {
  Key key;
  append(key, s), append(key, workspace);
  for (int count : {t.batch, t.rows, t.past_rows, t.causal, t.all_logits}) append(key, count);
  void const *const addresses[] = {t.ids,    t.point_embeds, t.point_mask,  t.cos_3d, t.sin_3d,            t.cos_1d,
                                   t.sin_1d, t.lengths,      t.past_length, t.past,   t.weights.embedding, t.weights.final_norm,
                                   t.logits, t.new_rows,     t.weights.head};
  append(key, addresses);
  for (int i = 0; i < s.layers * LAYER_TENSORS; ++i) append(key, t.weights.layers[i]);
  return key;
}

Graphs::~Graphs() {
  for (Entry &entry : entries_)
    if (entry.graph != nullptr) cudaGraphExecDestroy(entry.graph);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

char const *Graphs::run(Key const &key, cudaStream_t stream, Launch const &launch) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(stream, &status) != cudaSuccess || status != cudaStreamCaptureStatusNone) return launch(stream);
  auto const found = std::find_if(entries_.begin(), entries_.end(), [&](Entry const &entry) { return entry.key == key; });
  if (found == entries_.end()) {
    entries_.push_front({key});
    if (entries_.size() > KEPT) {
      if (entries_.back().graph != nullptr) cudaGraphExecDestroy(entries_.back().graph);
      entries_.pop_back();
    }
    return launch(stream);
  }
  entries_.splice(entries_.begin(), entries_, found);
  if (found->graph == nullptr && !found->refused) found->refused = (found->graph = capture(launch)) == nullptr;
  if (found->graph == nullptr) return launch(stream);
  cudaError_t const error = cudaGraphLaunch(found->graph, stream);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Null where it cannot be captured; the launches work without it.
cudaGraphExec_t Graphs::capture(Launch const &launch) noexcept {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t made = nullptr;
  if (stream_ == nullptr && cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) != cudaSuccess) return nullptr;
  if (cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return nullptr;
  bool const good = launch(stream_) == nullptr;
  if (cudaStreamEndCapture(stream_, &graph) != cudaSuccess) graph = nullptr;
  if (!good || graph == nullptr || cudaGraphInstantiate(&made, graph, 0) != cudaSuccess) made = nullptr;
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (made == nullptr) cudaGetLastError();  // nobody shall find it later
  return made;
}

}  // namespace spatiallm
