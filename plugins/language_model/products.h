// Products of half matrices with sums in float32, by cuBLASLt, which is looked for when it is first needed: whoever runs
// TensorRT or PyTorch has it, and no version is asked for.
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

// Null, or why not. Launches on the stream of the current device; `workspace` is free for it until the stream has passed.
const char *multiply(const HalfProduct &, void *workspace, size_t workspace_bytes, cudaStream_t) noexcept;

}  // namespace spatiallm
