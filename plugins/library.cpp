// What the library shows: its version for our own code, its creators for TensorRT's registry (`load_library`). It needs no
// symbol of TensorRT, so it can be looked at where that is not loaded.
#include <NvInferRuntime.h>

#include <atomic>
#include <cstdio>

#include "decode_step/launch.h"

using namespace nvinfer1;

#define SHOWN extern "C" __attribute__((visibility("default")))

namespace spatiallm {

IPluginCreator *creator_v2() noexcept;
#if NV_TENSORRT_MAJOR >= 10
IPluginCreatorInterface *creator_v3() noexcept;
#endif

namespace {
std::atomic<ILoggerFinder *> finder{nullptr};
}

void complain(char const *text) noexcept {
  ILoggerFinder *found = finder.load();
  if (ILogger *logger = found == nullptr ? nullptr : found->findLogger()) logger->log(ILogger::Severity::kERROR, text);
}

}  // namespace spatiallm

SHOWN int spatiallm_plugins_version() { return SPATIALLM_PLUGINS_VERSION; }

// The major version of the TensorRT whose headers this was built with.
SHOWN int spatiallm_plugins_tensorrt() { return NV_TENSORRT_MAJOR; }

// The sizes of kernel `index` as integers, epsilon as the bits of a float32: 1, or 0 where there are not so many.
SHOWN int spatiallm_plugins_decode_step(int index, spatiallm::DecodeStepSizes *sizes) {
  for (int i = 0; spatiallm::decode_steps[i] != nullptr; ++i)
    if (i == index) return *sizes = spatiallm::decode_steps[i]->sizes, 1;
  return 0;
}

SHOWN void setLoggerFinder(ILoggerFinder *given) { spatiallm::finder = given; }

#if NV_TENSORRT_MAJOR >= 10 && !defined(SPATIALLM_PLUGINS_V2)
SHOWN IPluginCreatorInterface *const *getCreators(int32_t &count) {
  static IPluginCreatorInterface *const creators[] = {spatiallm::creator_v3()};
  count = 1;
  return creators;
}
#else
SHOWN IPluginCreator *const *getPluginCreators(int32_t &count) {
  static IPluginCreator *const creators[] = {spatiallm::creator_v2()};
  count = 1;
  return creators;
}
#endif
