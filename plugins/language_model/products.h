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

// Which of cuBLASLt's algorithms was the fastest for a product of so many rows, on one device with one version of it.
struct TunedProduct {
  int out, in, rows, kind;
  unsigned long long algorithm[8];
};

// What choices are good for: the device and cuBLASLt's version, or 0 where there is none.
unsigned long long products_stamp() noexcept;

// Measure a product of `rows` rows with weights that are not in the cache. False where that cannot be done here: the library's own
// choice stays. Allocates 128 MB and waits for the device: for the time of building, not of running.
bool tune_product(HalfProduct const &, TunedProduct &made) noexcept;

// Use choices from now on, where they are for this device and this version.
void adopt_products(TunedProduct const *, size_t count, unsigned long long stamp) noexcept;

}  // namespace spatiallm
