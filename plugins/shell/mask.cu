#include "mask.h"

namespace {

constexpr int THREADS = 256;

__global__ void narrow(const int *mask, unsigned char *bytes, int count) {
  const int at = blockIdx.x * THREADS + threadIdx.x;
  if (at < count) bytes[at] = mask[at] != 0;
}

}  // namespace

cudaError_t spatiallm::narrow_mask(const int *mask, unsigned char *bytes, int count, cudaStream_t stream) noexcept {
  void *values[] = {&mask, &bytes, &count};
  return cudaLaunchKernel((const void *)narrow, dim3((count + THREADS - 1) / THREADS), dim3(THREADS), values, 0, stream);
}
