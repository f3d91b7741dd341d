// What the library shows: its version and its kernels for our own code, its creators for TensorRT's registry
// (`load_library`). It needs no symbol of TensorRT, so it can be looked at where that is not loaded.
#include <NvInferRuntime.h>

#include <atomic>
#include <cstdio>

#include "decode_step/plugin.h"
#include "language_model/plugin.h"

#if NV_TENSORRT_MAJOR >= 10 && !defined(SPATIALLM_PLUGINS_V2)
#include "shell/plugin_v3.h"
#else
#include "shell/plugin_v2.h"
#endif

using namespace nvinfer1;
using namespace spatiallm;

#define SHOWN extern "C" __attribute__((visibility("default")))

namespace {
std::atomic<ILoggerFinder *> finder{nullptr};
}

void spatiallm::complain(char const *plugin, char const *text) noexcept {
  ILoggerFinder *found = finder.load();
  ILogger *logger = found == nullptr ? nullptr : found->findLogger();
  char line[384];
  std::snprintf(line, sizeof line, "%s: %s", plugin, text);
  if (logger != nullptr) logger->log(ILogger::Severity::kERROR, line);
}

SHOWN int spatiallm_plugins_version() { return SPATIALLM_PLUGINS_VERSION; }

// The major version of the TensorRT whose headers this was built with.
SHOWN int spatiallm_plugins_tensorrt() { return NV_TENSORRT_MAJOR; }

// What GPUs it was compiled for, e.g. "sm_80,sm_90".
SHOWN char const *spatiallm_plugins_architectures() { return SPATIALLM_PLUGINS_ARCHITECTURES; }

// The sizes of decode kernel `index` as integers, epsilon as the bits of a float32: 1, or 0 where there are not so many.
SHOWN int spatiallm_plugins_decode_step(int index, ModelSizes *sizes) {
  for (int i = 0; decode_steps[i] != nullptr; ++i)
    if (i == index) return *sizes = decode_steps[i]->sizes, 1;
  return 0;
}

// The operators without TensorRT, for tests and measurements: 0, or 1 with a sentence in `why`. One token of one sequence in
// one kernel; its workspace has no bytes where the library has no such kernel.
SHOWN size_t spatiallm_plugins_decode_step_workspace(ModelSizes const *sizes) {
  DecodeStep const *step = find_decode_step(*sizes);
  return step == nullptr ? 0 : step->workspace_bytes;
}

SHOWN int spatiallm_plugins_decode_step_run(ModelSizes const *sizes, DecodeStepTensors const *tensors, void *workspace,
                                            void *stream, char *why, size_t why_bytes) {
  DecodeStep const *step = find_decode_step(*sizes);
  char const *reason = nullptr;
  if (step == nullptr) {
    reason = "the library has no kernel for these sizes";
  } else if (!step->fits(tensors->past_rows)) {
    reason = "the device is none for the kernel, or too small for it";
  } else if (cudaError_t const error = step->launch(*tensors, workspace, static_cast<cudaStream_t>(stream))) {
    reason = cudaGetErrorString(error);
  }
  if (reason != nullptr) std::snprintf(why, why_bytes, "%s", reason);
  return reason == nullptr ? 0 : 1;
}

SHOWN size_t spatiallm_plugins_language_model_workspace(ModelSizes const *sizes, int batch, int rows, int past_rows,
                                                        int all_logits) {
  return language_model_workspace(*sizes, batch, rows, past_rows, all_logits);
}

SHOWN int spatiallm_plugins_language_model(ModelSizes const *sizes, LanguageModelTensors const *tensors, void *workspace,
                                           void *stream, char *why, size_t why_bytes) {
  return language_model_run(*sizes, *tensors, workspace, static_cast<cudaStream_t>(stream), nullptr, why, why_bytes);
}

SHOWN void setLoggerFinder(ILoggerFinder *given) { finder = given; }

#if NV_TENSORRT_MAJOR >= 10 && !defined(SPATIALLM_PLUGINS_V2)
SHOWN IPluginCreatorInterface *const *getCreators(int32_t &count) {
  static IPluginCreatorInterface *const creators[] = {CreatorV3<DecodeNode>::only(), CreatorV3<PrefillNode>::only()};
  count = 2;
  return creators;
}
#else
SHOWN IPluginCreator *const *getPluginCreators(int32_t &count) {
  static IPluginCreator *const creators[] = {CreatorV2<DecodeNode>::only(), CreatorV2<PrefillNode>::only()};
  count = 2;
  return creators;
}
#endif
