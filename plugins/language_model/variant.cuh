// The kernels of one half type on a GPU. HALF_IS_BF16 says which, VARIANT names what this defines (fp16.cu, bf16.cu).
#include <cstdio>

#include "products.h"
#include "variant.h"

namespace {

#include "run.cuh"

constexpr size_t DEFAULT_SHARED = 48 << 10;  // bytes that a kernel may have without asking

class Device {
 public:
  explicit Device(cudaStream_t stream) : stream_(stream) {}

  template <class Arguments>
  bool launch(void (*kernel)(Arguments), unsigned blocks, unsigned threads, size_t shared, const Arguments &arguments) {
    if (shared > DEFAULT_SHARED &&
        !succeeded(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared)))
      return false;
    void *values[] = {const_cast<Arguments *>(&arguments)};  // not <<<>>>, which leaves its error among those of other calls
    return succeeded(cudaLaunchKernel((const void *)kernel, dim3(blocks), dim3(threads), values, shared, stream_));
  }

  bool product(const Product &p, void *workspace) {
    const spatiallm::HalfProduct wanted{p.weight, p.given, p.made, p.out, p.in, p.rows, p.adds, p.halves, HALF_IS_BF16};
    failed_ = spatiallm::multiply(wanted, workspace, stream_);
    return failed_ == nullptr;
  }

  const char *failed() const { return failed_; }

 private:
  bool succeeded(cudaError_t error) {
    failed_ = error == cudaSuccess ? nullptr : cudaGetErrorString(error);
    return error == cudaSuccess;
  }

  cudaStream_t stream_;
  const char *failed_ = nullptr;
};

}  // namespace

size_t spatiallm::VARIANT::workspace(const ModelSizes &sizes, int batch, int rows, int past_rows, int all_logits) noexcept {
  return Workspace(sizes, batch, rows, past_rows, all_logits, nullptr).bytes;
}

const char *spatiallm::VARIANT::run(const ModelSizes &sizes, const LanguageModelTensors &tensors, void *workspace,
                                    cudaStream_t stream) noexcept {
  Device device(stream);
  const bool good = Run<Device>(device, sizes, tensors, workspace).all();
  return good ? nullptr : device.failed() == nullptr ? "a kernel was not launched" : device.failed();
}
