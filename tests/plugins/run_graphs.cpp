// The operator's graphs over a CUDA that only writes down what it is asked for, called from Python.
#include "language_model/graphs.h"

#include <map>
#include <string>

namespace {

std::string said;                              // what reached the GPU
std::map<const void *, std::string> captured;  // by graph, and by what was made of it
std::string *recording = nullptr;
long count = 0;
int alive = 0;  // executable graphs and streams
bool capturing = false, broken = false;

template <class T>
T make() { return reinterpret_cast<T>(++count); }

}  // namespace

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) { return *stream = make<cudaStream_t>(), ++alive, cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return --alive, cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus *status) {
  return *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone, cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) { return recording = new std::string, cudaSuccess; }
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph) {
  *graph = make<cudaGraph_t>(), captured[*graph] = *recording;
  delete recording, recording = nullptr;
  return broken ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *made, cudaGraph_t graph, unsigned long long) {
  return *made = make<cudaGraphExec_t>(), ++alive, captured[*made] = captured[graph], cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return captured.erase(graph), cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return captured.erase(graph), --alive, cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) { return said += "graph(" + captured[graph] + ") ", cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t) { return "an error"; }

using namespace spatiallm;

extern "C" Graphs *create() { return new Graphs; }
extern "C" void destroy(Graphs *graphs) { delete graphs; }
extern "C" int living() { return alive; }
extern "C" void set(bool is_capturing, bool is_broken) { capturing = is_capturing, broken = is_broken; }

// One call over so many rows with logits at an address: what reached the GPU since the last call.
extern "C" const char *call(Graphs *graphs, int rows, long logits) {
  static std::string answer;
  const ModelSizes sizes{64, 64, 1, 1, 1, 64, 10, 0, 0, 1e-6f};
  const void *layers[LAYER_TENSORS] = {};
  LanguageModelTensors tensors{};
  tensors.rows = rows, tensors.logits = reinterpret_cast<float *>(logits), tensors.weights.layers = layers;
  const char *why = graphs->run(key_of(sizes, tensors, nullptr), nullptr, [&](cudaStream_t) -> const char * {
    (recording == nullptr ? said : *recording) += std::to_string(rows) + "@" + std::to_string(logits) + (recording ? "" : " ");
    return nullptr;
  });
  answer = why == nullptr ? said : why;
  said.clear();
  return answer.c_str();
}
