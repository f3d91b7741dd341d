#include "maps.h"

#include <cuda_runtime_api.h>

namespace spatiallm {

namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// Asked of the driver that is there, so that nothing has to be linked.
Encode find() noexcept {
  void *function = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  cudaError_t const error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
  cudaError_t const error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
  return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(function) : nullptr;
}

}  // namespace

const char *describe(TensorMap &map, const void *start, int rows, int columns, int box_rows, bool bf16) noexcept {
  static Encode const encode = find();
  if (encode == nullptr) return "the driver cannot describe matrices for copies of tiles: it is older than CUDA 12";
  cuuint64_t const sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  cuuint64_t const pitch[] = {sizes[0] * 2};
  cuuint32_t const box[] = {64, static_cast<cuuint32_t>(box_rows)}, steps[] = {1, 1};
  CUresult const made = encode(&map, bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
                               const_cast<void *>(start), sizes, pitch, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                               CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return made == CUDA_SUCCESS ? nullptr : "the driver refused to describe a matrix for copies of tiles";
}

}  // namespace spatiallm
