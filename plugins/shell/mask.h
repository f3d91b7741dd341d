// The mask of point tokens comes as int32, for TensorRT gives plugins no booleans (NvInferRuntimePlugin.h says so of
// PluginTensorDesc); the kernels read bytes.
#pragma once
#include <cuda_runtime_api.h>

namespace spatiallm {

// bytes [count] = mask [count] != 0, on the device.
cudaError_t narrow_mask(const int *mask, unsigned char *bytes, int count, cudaStream_t) noexcept;

}  // namespace spatiallm
