// cuBLASLt, looked for when it is first needed: whoever runs TensorRT or PyTorch has it, in whatever version.
#pragma once
#include <dlfcn.h>
#include <library_types.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "products.h"

namespace spatiallm::lt {

// As much of cuBLASLt's interface as is used; names and numbers are those of cublasLt.h (11 to 13).
typedef struct LtContext *Handle;
typedef struct LtOpaque *Descriptor;
struct Algorithm {
  std::uint64_t data[8];
};
struct Found {
  Algorithm algorithm;
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};
constexpr int COMPUTE_32F = 68, TRANSPOSED = 1;
constexpr int DESC_TRANSA = 3, PREF_MAX_WORKSPACE_BYTES = 1;

struct Library {
  int (*create)(Handle *);
  int (*destroy)(Handle);
  int (*create_operation)(Descriptor *, int compute, cudaDataType scale);
  int (*set_operation)(Descriptor, int attribute, void const *, size_t);
  int (*destroy_operation)(Descriptor);
  int (*create_layout)(Descriptor *, cudaDataType, std::uint64_t rows, std::uint64_t columns, std::int64_t stride);
  int (*destroy_layout)(Descriptor);
  int (*create_preference)(Descriptor *);
  int (*set_preference)(Descriptor, int attribute, void const *, size_t);
  int (*destroy_preference)(Descriptor);
  int (*find)(Handle, Descriptor operation, Descriptor a, Descriptor b, Descriptor c, Descriptor d, Descriptor preference,
              int wanted, Found *, int *found);
  int (*run)(Handle, Descriptor operation, void const *alpha, void const *a, Descriptor, void const *b, Descriptor,
             void const *beta, void const *c, Descriptor, void *d, Descriptor, Algorithm const *, void *workspace, size_t,
             cudaStream_t);
  bool whole = false;
  char why[512] = "libcublasLt was not found or does not run with this driver; install CUDA's cuBLAS, add its folder to "
                  "LD_LIBRARY_PATH, or name the file in SPATIALLM_CUBLASLT";  // where it is not whole

  // The newest that can be started here: an older one took 1.28 times as long for a prefill (docs/LOG.md). SPATIALLM_CUBLASLT
  // names another file, in whose place no other is taken.
  Library() noexcept {
    char const *const named = std::getenv("SPATIALLM_CUBLASLT");
    if (named != nullptr && named[0] != '\0') {
      if (!open(named))
        std::snprintf(why, sizeof why, "SPATIALLM_CUBLASLT names %.300s, which cannot be loaded or does not run with this driver",
                      named);
      return;
    }
    for (char const *name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11", "libcublasLt.so"})
      if (open(name)) return;
  }

 private:
  bool open(char const *name) noexcept {
    void *const file = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (file == nullptr) return false;
    Handle probe = nullptr;
    whole = take_all(file) && create(&probe) == 0;
    if (whole)
      destroy(probe);
    else
      dlclose(file);
    return whole;
  }

  bool take_all(void *file) noexcept {
    return take(file, create, "cublasLtCreate") && take(file, destroy, "cublasLtDestroy") &&
           take(file, create_operation, "cublasLtMatmulDescCreate") &&
           take(file, set_operation, "cublasLtMatmulDescSetAttribute") &&
           take(file, destroy_operation, "cublasLtMatmulDescDestroy") &&
           take(file, create_layout, "cublasLtMatrixLayoutCreate") &&
           take(file, destroy_layout, "cublasLtMatrixLayoutDestroy") &&
           take(file, create_preference, "cublasLtMatmulPreferenceCreate") &&
           take(file, set_preference, "cublasLtMatmulPreferenceSetAttribute") &&
           take(file, destroy_preference, "cublasLtMatmulPreferenceDestroy") &&
           take(file, find, "cublasLtMatmulAlgoGetHeuristic") && take(file, run, "cublasLtMatmul");
  }

  template <class F>
  static bool take(void *file, F &function, char const *name) noexcept {
    function = reinterpret_cast<F>(dlsym(file, name));
    return function != nullptr;
  }
};

inline Library const &library() noexcept {
  static Library const loaded;
  return loaded;
}

// Descriptors of one product, given back at the end.
struct Descriptors {
  Descriptor operation = nullptr, weight = nullptr, given = nullptr, made = nullptr, preference = nullptr;
  bool whole = false;

  Descriptors(Library const &lt, HalfProduct const &p, int rows, size_t workspace_bytes) noexcept : lt_(lt) {
    cudaDataType const half = p.bf16 ? CUDA_R_16BF : CUDA_R_16F, type = p.halves ? half : CUDA_R_32F;
    int const transposed = TRANSPOSED;
    // Column-major, as cuBLASLt has it: made^T [out, rows] = weight [in, out]^T * given^T [in, rows].
    whole = lt.create_operation(&operation, COMPUTE_32F, CUDA_R_32F) == 0 &&
            lt.set_operation(operation, DESC_TRANSA, &transposed, sizeof transposed) == 0 &&
            lt.create_layout(&weight, half, p.in, p.out, p.in) == 0 &&
            lt.create_layout(&given, half, p.in, rows, p.in) == 0 && lt.create_layout(&made, type, p.out, rows, p.out) == 0 &&
            lt.create_preference(&preference) == 0 &&
            lt.set_preference(preference, PREF_MAX_WORKSPACE_BYTES, &workspace_bytes, sizeof workspace_bytes) == 0;
  }
  ~Descriptors() {
    if (operation != nullptr) lt_.destroy_operation(operation);
    for (Descriptor layout : {weight, given, made})
      if (layout != nullptr) lt_.destroy_layout(layout);
    if (preference != nullptr) lt_.destroy_preference(preference);
  }
  Descriptors(Descriptors const &) = delete;

 private:
  Library const &lt_;
};

// The handle of the current device, made once. Null where there is none. Throws std::bad_alloc.
Handle handle();

// Prompts differ in length, and asking takes longer than some products: lengths in the same 32 share an algorithm.
constexpr int FEW_ROWS = 16, ROWS_STEP = 32;
inline int rounded(int rows) noexcept { return rows <= FEW_ROWS ? rows : (rows + ROWS_STEP - 1) / ROWS_STEP * ROWS_STEP; }
inline int kind_of(HalfProduct const &p) noexcept { return p.adds + 2 * p.halves + 4 * p.bf16; }

}  // namespace spatiallm::lt
