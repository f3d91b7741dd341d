// Products of half matrices with sums in float32, by cuBLASLt (cublaslt.h).
#pragma once
#include <cuda_runtime_api.h>
#include <stddef.h>

namespace spatiallm {

// made [rows, out] = given [rows, in] * weight [out, in] transposed (+ made, where `adds`), all row-major.
struct HalfProduct {
  const void *weight, *given;
  void *made;
  int out, in, rows;
  bool adds, halves, bf16;  // halves: `made` is half, else float32
};

constexpr size_t PRODUCT_BYTES = 32u << 20;  // what a product may work in

// Null, or why not. Launches on the stream of the current device; PRODUCT_BYTES of `workspace` are its own until the stream has passed.
const char *multiply(const HalfProduct &, void *workspace, cudaStream_t) noexcept;

}  // namespace spatiallm
