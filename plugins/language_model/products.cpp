#include "products.h"

#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <tuple>

#include "cublaslt.h"

namespace spatiallm {

using namespace lt;

namespace {

typedef std::tuple<int, int, int, int> Key;  // out, in, rows, kind

Key key_of(HalfProduct const &p, int rows) noexcept { return {p.out, p.in, rows, kind_of(p)}; }

bool find_algorithm(Library const &lt, Handle handle, HalfProduct const &p, int rows, Algorithm &algorithm) noexcept {
  Descriptors const d(lt, p, rows, PRODUCT_BYTES);
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

  Prepared(Library const &lt, HalfProduct const &p, Algorithm const &chosen) noexcept
      : descriptors(lt, p, p.rows, PRODUCT_BYTES), algorithm(chosen) {}
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
std::shared_ptr<Prepared const> prepare(Library const &lt, Device &here, HalfProduct const &p, bool exactly) {
  int const rows = exactly ? p.rows : rounded(p.rows);
  Algorithm algorithm{};
  auto const known = here.algorithms.find(key_of(p, rows));
  if (known != here.algorithms.end() && !exactly)
    algorithm = known->second;
  else if (!find_algorithm(lt, here.handle, p, rows, algorithm))
    return nullptr;
  else if (!exactly)
    here.algorithms.emplace(key_of(p, rows), algorithm);
  auto made = std::make_shared<Prepared const>(lt, p, algorithm);
  if (!made->descriptors.whole) return nullptr;
  if (here.prepared.size() >= MOST_PREPARED) here.prepared.clear();
  return here.prepared[key_of(p, p.rows)] = made;
}

// What is ready for a product.
std::shared_ptr<Prepared const> prepared(Library const &lt, int device, HalfProduct const &p, bool exactly) {
  std::lock_guard<std::mutex> lock(guard);
  Device &here = devices()[device];
  auto const known = here.prepared.find(key_of(p, p.rows));
  return known != here.prepared.end() && !exactly ? known->second : prepare(lt, here, p, exactly);
}

}  // namespace

Handle lt::handle() {
  int device = 0;
  if (!library().whole || cudaGetDevice(&device) != cudaSuccess) return nullptr;
  std::lock_guard<std::mutex> lock(guard);
  Handle &handle = devices()[device].handle;
  return handle != nullptr || library().create(&handle) == 0 ? handle : nullptr;
}

char const *multiply(HalfProduct const &p, void *workspace, cudaStream_t stream) noexcept try {
  Library const &lt = library();
  if (!lt.whole) return lt.why;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return "there is no current CUDA device";
  Handle const handle = lt::handle();
  if (handle == nullptr) return "cuBLASLt could not be started on this device";
  float const one = 1.0f, add = p.adds ? 1.0f : 0.0f;
  for (bool exactly : {false, true}) {
    auto const ready = prepared(lt, device, p, exactly);
    if (ready == nullptr) return "cuBLASLt has no algorithm or no memory for one of the products";
    Descriptors const &d = ready->descriptors;
    if (lt.run(handle, d.operation, &one, p.weight, d.weight, p.given, d.given, &add, p.made, d.made, p.made, d.made,
               &ready->algorithm, workspace, PRODUCT_BYTES, stream) == 0)
      return nullptr;
  }
  return "cuBLASLt refused one of the products";
} catch (std::bad_alloc const &) {
  return "the host has no memory for one of the products";
}

}  // namespace spatiallm
