// Which algorithm is the fastest, measured: the library's own guess is up to an eighth slower (docs/LOG.md).
#include <cstring>

#include "cublaslt.h"
#include "launch.h"

namespace spatiallm {

using namespace lt;

namespace {

constexpr int MOST_TUNED = 2048;  // rows; longer prompts take what cuBLASLt proposes
constexpr int CANDIDATES = 8, LAUNCHES = 10, ROUNDS = 3;
constexpr size_t COLD = 128u << 20;  // bytes of weights that are gone through, more than a cache holds

// Device memory and events of one measurement, given back at the end.
struct Bench {
  void *weights = nullptr, *given = nullptr, *made = nullptr, *workspace = nullptr;
  cudaStream_t stream = nullptr;
  cudaEvent_t began = nullptr, ended = nullptr;
  size_t copy = 0, copies = 1;
  bool whole = false;

  explicit Bench(HalfProduct const &p) noexcept {
    copy = (static_cast<size_t>(p.out) * p.in * 2 + 255) / 256 * 256;
    copies = COLD / copy > 1 ? COLD / copy : 1;
    size_t const in_bytes = static_cast<size_t>(p.rows) * p.in * 2, made_bytes = static_cast<size_t>(p.rows) * p.out * 4;
    whole = cudaMalloc(&weights, copy * copies) == cudaSuccess && cudaMalloc(&given, in_bytes) == cudaSuccess &&
            cudaMalloc(&made, made_bytes) == cudaSuccess && cudaMalloc(&workspace, PRODUCT_BYTES) == cudaSuccess &&
            cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess &&
            cudaEventCreate(&began) == cudaSuccess && cudaEventCreate(&ended) == cudaSuccess &&
            // Numbers near 1 in either half type: zeros would need less power, and so run faster than any real product.
            cudaMemsetAsync(weights, 0x3c, copy * copies, stream) == cudaSuccess &&
            cudaMemsetAsync(given, 0x3b, in_bytes, stream) == cudaSuccess &&
            cudaMemsetAsync(made, 0, made_bytes, stream) == cudaSuccess;
  }
  ~Bench() {
    if (stream != nullptr) cudaStreamSynchronize(stream), cudaStreamDestroy(stream);
    for (void *memory : {weights, given, made, workspace}) cudaFree(memory);
    for (cudaEvent_t event : {began, ended})
      if (event != nullptr) cudaEventDestroy(event);
    cudaGetLastError();  // nobody shall find it later
  }
  Bench(Bench const &) = delete;
};

// Milliseconds of LAUNCHES launches, the best of some rounds; negative where the algorithm does not run.
float measure(Library const &lt, Handle handle, HalfProduct const &p, Descriptors const &d, Bench const &b,
              Algorithm const &algorithm) noexcept {
  float const one = 1.0f, add = p.adds ? 1.0f : 0.0f;
  float best = -1.0f;
  for (int round = 0; round <= ROUNDS; ++round) {  // the first one warms up
    cudaEventRecord(b.began, b.stream);
    for (int i = 0; i < LAUNCHES; ++i) {
      char const *weights = static_cast<char *>(b.weights) + (round * LAUNCHES + i) % b.copies * b.copy;
      if (lt.run(handle, d.operation, &one, weights, d.weight, b.given, d.given, &add, b.made, d.made, b.made, d.made,
                 &algorithm, b.workspace, PRODUCT_BYTES, b.stream) != 0)
        return -1.0f;
    }
    cudaEventRecord(b.ended, b.stream);
    float ms = 0;
    if (cudaEventSynchronize(b.ended) != cudaSuccess || cudaEventElapsedTime(&ms, b.began, b.ended) != cudaSuccess)
      return -1.0f;
    if (round > 0 && (best < 0 || ms < best)) best = ms;
  }
  return best;
}

constexpr float CLEARLY = 0.98f;  // of the best time so far: less may be noise

}  // namespace

bool tune_product(HalfProduct const &p, TunedProduct &made) noexcept {
  Handle const handle = lt::handle();
  if (handle == nullptr) return false;
  Library const &lt = library();
  Found found[CANDIDATES] = {};
  int count = 0;
  Descriptors const d(lt, p, p.rows, PRODUCT_BYTES);
  Bench const bench(p);
  if (!d.whole || !bench.whole ||
      lt.find(handle, d.operation, d.weight, d.given, d.made, d.made, d.preference, CANDIDATES, found, &count) != 0)
    return false;
  float best = -1.0f;
  int chosen = -1;
  for (int i = 0; i < count; ++i) {
    float const ms = measure(lt, handle, p, d, bench, found[i].algorithm);
    if (ms > 0 && (chosen < 0 || ms < best * CLEARLY)) best = ms, chosen = i;
  }
  if (chosen < 0) return false;
  made = {p.out, p.in, rounded(p.rows), kind_of(p), {}};
  std::memcpy(made.algorithm, found[chosen].algorithm.data, sizeof made.algorithm);
  return true;
}

size_t tune_language_model(ModelSizes const &s, int most_rows, int most_batch, TunedProduct *made, size_t most) noexcept {
  int const queries = s.heads * s.head_dim, qkv = queries + 2 * s.kv_heads * s.head_dim;
  HalfProduct const layer[] = {
      {nullptr, nullptr, nullptr, qkv, s.hidden, 0, false, true, s.bf16 != 0},
      {nullptr, nullptr, nullptr, s.hidden, queries, 0, true, false, s.bf16 != 0},
      {nullptr, nullptr, nullptr, 2 * s.intermediate, s.hidden, 0, false, true, s.bf16 != 0},
      {nullptr, nullptr, nullptr, s.hidden, s.intermediate, 0, true, false, s.bf16 != 0},
  };
  size_t count = 0;
  auto tune = [&](HalfProduct product, int rows) {
    product.rows = rows;
    if (count < most && tune_product(product, made[count])) ++count;
  };
  int const largest = rounded(most_rows < MOST_TUNED ? most_rows : MOST_TUNED);
  for (HalfProduct const &product : layer) {
    for (int rows = 1; rows <= most_batch && rows <= FEW_ROWS; ++rows) tune(product, rows);
    for (int rows = ROWS_STEP; rows <= largest; rows += ROWS_STEP) tune(product, rows);
  }
  return count;
}

}  // namespace spatiallm
