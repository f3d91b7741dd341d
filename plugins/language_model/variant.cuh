// The kernels of one half type on a GPU. HALF_IS_BF16 says which, VARIANT names what this defines (fp16.cu, bf16.cu).
#include <cstdlib>
#include <cstring>

#include "maps.h"
#include "products.h"
#include "variant.h"

namespace {

#include "run.cuh"

constexpr size_t DEFAULT_SHARED = 48 << 10;  // bytes that a kernel may have without asking

// Kernels for other kinds of GPU have no tiled products in them, and a 9.0 runs what was compiled for an older one.
constexpr bool compiled_for_warpgroups() {
  for (int kind : {__CUDA_ARCH_LIST__})
    if (kind == 900) return true;
  return false;
}

class Device {
 public:
  explicit Device(cudaStream_t stream) : stream_(stream) {}

  void chain(bool ours) { early_ = ours, first_ = true; }

  template <class Arguments>
  bool launch(void (*kernel)(Arguments), unsigned blocks, unsigned threads, size_t shared, const Arguments &arguments) {
    return launched(kernel, blocks, threads, shared, 1, arguments);
  }

  // Of a GPU that tiled products were compiled for, unless SPATIALLM_PRODUCTS=cublaslt asks for the others.
  int multiprocessors() const {
    static const char *const asked = std::getenv("SPATIALLM_PRODUCTS");
    int device = 0, major = 0, count = 0;
    if (!compiled_for_warpgroups() || (asked != nullptr && std::strcmp(asked, "cublaslt") == 0) ||
        cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess || major != 9 ||
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
      return 0;
    return count;
  }

  bool tiled(const TiledProduct &p, const Tiling &t) {
    TiledArguments a = arguments_of(p, t);
    const TiledKernel kernel = tiled_kernel_of(t.width, p.kind);
    const int weight_rows = p.kind == GATED ? 2 * p.out : p.out;
    failed_ = kernel.run == nullptr ? "no product was compiled for these sizes" : nullptr;
    const int box = weight_box(p.kind, t.across);
    if (failed_ == nullptr) failed_ = spatiallm::describe(a.weight, p.weight, weight_rows, p.in, box, HALF_IS_BF16);
    if (failed_ == nullptr) failed_ = spatiallm::describe(a.given, p.given, p.tokens, p.in, a.box, HALF_IS_BF16);
    const int cluster = t.across * t.along;
    return failed_ == nullptr && launched(kernel.run, t.clusters * cluster, TILED_THREADS, kernel.bytes, cluster, a);
  }

  bool product(const Product &p, void *workspace) {
    const spatiallm::HalfProduct wanted{p.weight, p.given, p.made, p.out, p.in, p.rows, p.adds, p.halves, HALF_IS_BF16};
    failed_ = spatiallm::multiply(wanted, workspace, stream_);
    return failed_ == nullptr;
  }

  const char *failed() const { return failed_; }

 private:
  // Its blocks may come to their places while the kernel before ends; each waits before it looks at what that one wrote. Not
  // those of the first: so all that was there before the call is there for all of its kernels.
  template <class Arguments>
  bool launched(void (*kernel)(Arguments), unsigned blocks, unsigned threads, size_t shared, unsigned cluster,
                const Arguments &arguments) {
    if (shared > DEFAULT_SHARED &&
        !succeeded(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared)))
      return false;
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = cluster, attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks), config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared, config.stream = stream_;
    config.attrs = early_ && !first_ ? attributes : attributes + 1;
    config.numAttrs = (early_ && !first_) + (cluster > 1);
    first_ = false;
    return succeeded(cudaLaunchKernelEx(&config, kernel, arguments));
  }

  bool succeeded(cudaError_t error) {
    failed_ = error == cudaSuccess ? nullptr : cudaGetErrorString(error);
    return error == cudaSuccess;
  }

  cudaStream_t stream_;
  bool early_ = false, first_ = true;
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
