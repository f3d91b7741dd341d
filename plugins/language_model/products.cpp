#include "products.h"

#include <dlfcn.h>
#include <library_types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

namespace spatiallm {

namespace {

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

  Library() noexcept {
    void *file = nullptr;
    for (char const *name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11", "libcublasLt.so"})
      if ((file = dlopen(name, RTLD_NOW | RTLD_NOLOAD)) != nullptr) break;  // one that is in use already
    for (char const *name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11", "libcublasLt.so"})
      if (file == nullptr) file = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    whole = file != nullptr && take(file, create, "cublasLtCreate") &&
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

 private:
  template <class F>
  static bool take(void *file, F &function, char const *name) noexcept {
    function = reinterpret_cast<F>(dlsym(file, name));
    return function != nullptr;
  }
};

Library const &library() noexcept {
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

typedef std::tuple<int, int, int, int> Key;  // out, in, rows, kind

// Prompts differ in length, and asking takes longer than some products: lengths in the same 64 share an algorithm.
int rounded(int rows) noexcept { return rows <= 16 ? rows : (rows + 63) / 64 * 64; }

Key key_of(HalfProduct const &p, int rows) noexcept { return {p.out, p.in, rows, p.adds + 2 * p.halves + 4 * p.bf16}; }

bool find_algorithm(Library const &lt, Handle handle, HalfProduct const &p, int rows, size_t workspace_bytes,
                    Algorithm &algorithm) noexcept {
  Descriptors const d(lt, p, rows, workspace_bytes);
  Found found{};
  int count = 0;
  if (!d.whole || lt.find(handle, d.operation, d.weight, d.given, d.made, d.made, d.preference, 1, &found, &count) != 0)
    return false;
  algorithm = found.algorithm;
  return count > 0;
}

// A product that is ready to be launched: descriptors take longer to make than the launch.
struct Prepared {
  Descriptors descriptors;
  Algorithm algorithm;

  Prepared(Library const &lt, HalfProduct const &p, size_t workspace_bytes, Algorithm const &chosen) noexcept
      : descriptors(lt, p, p.rows, workspace_bytes), algorithm(chosen) {}
};

constexpr size_t MOST_PREPARED = 1024;

struct Device {
  Handle handle = nullptr;
  std::map<Key, Algorithm> algorithms;  // by rounded rows
  std::map<Key, std::shared_ptr<Prepared const>> prepared;
};

std::mutex guard;  // of all devices
std::map<int, Device> &devices() {
  static auto *all = new std::map<int, Device>;  // never destroyed: CUDA may be gone before it would be
  return *all;
}

// Null where cuBLASLt has no algorithm or no memory. `exactly`: not that of the rounded length, which need not take every one.
std::shared_ptr<Prepared const> prepare(Library const &lt, Device &here, HalfProduct const &p, size_t workspace_bytes,
                                        bool exactly) {
  int const rows = exactly ? p.rows : rounded(p.rows);
  Algorithm algorithm{};
  auto const known = here.algorithms.find(key_of(p, rows));
  if (known != here.algorithms.end() && !exactly)
    algorithm = known->second;
  else if (!find_algorithm(lt, here.handle, p, rows, workspace_bytes, algorithm))
    return nullptr;
  else if (!exactly)
    here.algorithms.emplace(key_of(p, rows), algorithm);
  auto made = std::make_shared<Prepared const>(lt, p, workspace_bytes, algorithm);
  if (!made->descriptors.whole) return nullptr;
  if (here.prepared.size() >= MOST_PREPARED) here.prepared.clear();
  return here.prepared[key_of(p, p.rows)] = made;
}

// What is ready for a product, and the library's handle.
std::shared_ptr<Prepared const> prepared(Library const &lt, int device, HalfProduct const &p, size_t workspace_bytes,
                                         bool exactly, Handle &handle) {
  std::lock_guard<std::mutex> lock(guard);
  Device &here = devices()[device];
  if (here.handle == nullptr && lt.create(&here.handle) != 0) return nullptr;
  handle = here.handle;
  auto const known = here.prepared.find(key_of(p, p.rows));
  return known != here.prepared.end() && !exactly ? known->second : prepare(lt, here, p, workspace_bytes, exactly);
}

}  // namespace

char const *multiply(HalfProduct const &p, void *workspace, size_t workspace_bytes, cudaStream_t stream) noexcept {
  Library const &lt = library();
  if (!lt.whole) return "libcublasLt was not found; install CUDA's cuBLAS, or add its folder to LD_LIBRARY_PATH";
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return "there is no current CUDA device";
  float const one = 1.0f, add = p.adds ? 1.0f : 0.0f;
  for (bool exactly : {false, true}) {
    Handle handle = nullptr;
    auto const ready = prepared(lt, device, p, workspace_bytes, exactly, handle);
    if (ready == nullptr) return "cuBLASLt has no algorithm or no memory for one of the products";
    Descriptors const &d = ready->descriptors;
    if (lt.run(handle, d.operation, &one, p.weight, d.weight, p.given, d.given, &add, p.made, d.made, p.made, d.made,
               &ready->algorithm, workspace, workspace_bytes, stream) == 0)
      return nullptr;
  }
  return "cuBLASLt refused one of the products";
}

}  // namespace spatiallm
