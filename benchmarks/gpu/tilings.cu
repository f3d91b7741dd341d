// Tilings of the language model's products, measured: microseconds of each beside what tiling.h reckons, and of cuBLASLt.
//
//   nvcc -std=c++17 -O3 -arch=sm_90a -diag-suppress 177 -Iplugins -o tilings benchmarks/gpu/tilings.cu \
//     plugins/language_model/maps.cpp plugins/language_model/products.cpp -ldl
//   ./tilings                        # every product of both models, 776 tokens and others
//   ./tilings 776 8                  # of so many tokens
//
// A line of JSON for each product: what was chosen, all others by their time, and cuBLASLt. Times are of a product with what
// follows it: the norm that adds its parts up, rotation or activation where that is a kernel of its own. Launches follow
// each other in a CUDA graph over weights that together do not fit into the second-level cache, as layers do. Every tiling is
// compared with cuBLASLt's result before; one that is off by more than rounding is an error (exit code 1; 2 without a GPU).
#define HALF_IS_BF16 0
#define VARIANT tilings
#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "language_model/launch.h"
namespace spatiallm::tilings {
size_t workspace(const ModelSizes &, int, int, int, int) noexcept;
const char *run(const ModelSizes &, const LanguageModelTensors &, void *, cudaStream_t) noexcept;
}  // namespace spatiallm::tilings
#include "language_model/variant.cuh"

namespace {

constexpr int LAUNCHES = 24;       // in a graph
constexpr size_t COLD = 160 << 20;  // bytes of weights that go by

void need(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  exit(2);
}

__global__ void fill(Half *to, size_t count, unsigned seed, float scale) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
    unsigned x = (unsigned)i * 2654435761u + seed;
    x ^= x >> 16, x *= 0x85ebca6bu, x ^= x >> 13, x *= 0xc2b2ae35u, x ^= x >> 16;
    to[i] = float_to_fp16(((int)(x & 0xffff) - 32768) * scale / 32768);
  }
}

// Largest difference of a product's parts, put together, from what is wanted, and the largest value.
__global__ void differ(const void *made, const float *wanted, const Half *wanted_halves, int parts, size_t count, float *worst) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
    float value = 0;
    if (parts == 0) value = to_float(((const Half *)made)[i]);
    for (int part = 0; part < parts; ++part) value += ((const float *)made)[part * count + i];
    const float want = parts == 0 ? to_float(wanted_halves[i]) : wanted[i], off = fabsf(value - want);
    atomicMax((int *)worst, __float_as_int(off == off ? off : 1e30f));  // none is negative
    atomicMax((int *)worst + 1, __float_as_int(fabsf(want)));
  }
}

struct Weight {
  const char *name;
  Kind kind;
  int out, in, heads, kv_heads;  // heads: of a product that is rotated, whether at once or behind
};

struct Bench {
  const Weight w;
  int tokens;
  cudaStream_t stream;
  std::vector<Half *> weights;
  Half *given, *both, *made, *wanted_made, *gain;
  float *parts, *wanted, *residual, *tables, *worst;
  void *workspace;
  std::vector<void *> all;

  template <class T>
  void take(T *&place, size_t count) {
    need(cudaMalloc(&place, count * sizeof(T)), "memory");
    all.push_back(place);
  }

  size_t count() const { return (size_t)tokens * w.out; }
  long long floats() const { return std::max<long long>(4 * count(), std::min<long long>(16 * count(), 1024ll * w.out)); }

  Bench(const Weight &weight, int rows, cudaStream_t on) : w(weight), tokens(rows), stream(on) {
    const size_t each = (size_t)(w.kind == GATED ? 2 : 1) * w.out * w.in;
    take(given, (size_t)tokens * w.in), take(both, 2 * count()), take(made, count()), take(wanted_made, count());
    take(gain, w.out), take(parts, floats()), take(wanted, count()), take(residual, count());
    take(tables, (size_t)4 * tokens * HEAD_DIM), take(worst, 2);
    unsigned char *bytes;
    take(bytes, PRODUCT_BYTES), workspace = bytes;
    random(given, (size_t)tokens * w.in, 1, 1), random(gain, w.out, 2, 1);
    cudaMemsetAsync(residual, 0, count() * 4, stream);
    random((Half *)tables, (size_t)8 * tokens * HEAD_DIM, 5, 1);
    for (size_t i = 0; i < std::min<size_t>(LAUNCHES, COLD / (2 * each) + 1); ++i) {
      weights.push_back(nullptr), take(weights[i], each);
      random(weights[i], each, 7 * i + 3, 0.1f);
    }
  }
  ~Bench() { for (void *p : all) cudaFree(p); }

  void random(Half *to, size_t count, unsigned seed, float scale) {
    fill<<<264, 256, 0, stream>>>(to, count, seed, scale);
  }

  RotateArguments rotation(const Parts &qkv, Half *to) const {
    Half *rows = to + (size_t)tokens * w.heads * HEAD_DIM;
    const size_t table = (size_t)tokens * HEAD_DIM;
    return {qkv, gain, tables, tables + table, tables + 2 * table, tables + 3 * table, nullptr, to, rows,
            rows + w.kv_heads * HEAD_DIM, 1, tokens, w.heads, w.kv_heads, 2 * w.kv_heads * HEAD_DIM};
  }

  // What adds the parts up.
  bool behind(Device &device, const Parts &sums, Half *to) const {
    if (w.heads > 0) return device.launch(rotate, tokens, ROTATE_THREADS, 0, rotation(sums, to));
    const NormArguments a{residual, sums, gain, to, w.out, 1e-6f};
    return device.launch(OF_WIDTH(norm, w.out), tokens, ROW_THREADS, ROW_THREADS / 32 * 4, a);
  }

  bool plain(Device &device, int i) const {
    const Half *weight = weights[i % weights.size()];
    if (w.kind == GATED) {
      const ActivateArguments a{both, wanted_made, w.out, (long long)count() / EIGHT};
      return device.product({weight, given, both, 2 * w.out, w.in, tokens, false, true}, workspace) &&
             device.launch(activate, ceil_div(a.count, ROW_THREADS), ROW_THREADS, 0, a);
    }
    return device.product({weight, given, wanted, w.out, w.in, tokens, false, false}, workspace) &&
           behind(device, {w.heads > 0 ? wanted : nullptr, w.heads > 0, 0}, wanted_made);
  }

  bool tiled(Device &device, const Tiling &t, int i, bool alone = false) const {
    void *to = w.kind == SUMS ? (void *)parts : made;
    return device.tiled({w.kind, weights[i % weights.size()], given, to, w.out, w.in, tokens, rotation({}, made)}, t) &&
           (alone || w.kind != SUMS || behind(device, {parts, t.splits, count()}, made));
  }

  double microseconds(const std::function<bool(Device &, int)> &one) const {
    Device device(stream);
    device.chain(true);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    cudaEvent_t begin, end;
    if (!one(device, 0)) return fprintf(stderr, "%s\n", device.failed()), -1;
    need(cudaStreamSynchronize(stream), "a launch");
    need(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < LAUNCHES; ++i) one(device, i);
    need(cudaStreamEndCapture(stream, &graph), "capture");
    need(cudaGraphInstantiate(&ready, graph, 0), "graph");
    cudaEventCreate(&begin), cudaEventCreate(&end);
    std::vector<float> times;
    for (int run = 0; run < 8; ++run) {
      float ms = 0;
      cudaEventRecord(begin, stream);
      cudaGraphLaunch(ready, stream);
      cudaEventRecord(end, stream);
      need(cudaEventSynchronize(end), "a graph");
      cudaEventElapsedTime(&ms, begin, end);
      if (run >= 3) times.push_back(ms);
    }
    cudaGraphExecDestroy(ready), cudaGraphDestroy(graph), cudaEventDestroy(begin), cudaEventDestroy(end);
    std::sort(times.begin(), times.end());
    return times[times.size() / 2] * 1e3 / LAUNCHES;
  }

  // Off by how much of the largest value, alone.
  double error(const Tiling &t) const {
    float host[2] = {};
    Device device(stream);
    void *to = w.kind == SUMS ? (void *)parts : made;
    need(cudaMemsetAsync(to, 0xff, w.kind == SUMS ? count() * t.splits * 4 : count() * 2, stream), "memset");
    need(cudaMemsetAsync(worst, 0, 8, stream), "memset");
    if (!tiled(device, t, 0, true)) return 1e30;
    differ<<<264, 256, 0, stream>>>(to, wanted, wanted_made, w.kind == SUMS ? t.splits : 0, count(), worst);
    need(cudaMemcpyAsync(host, worst, 8, cudaMemcpyDeviceToHost, stream), "copy");
    need(cudaStreamSynchronize(stream), "a tiled product");
    return host[0] / host[1];
  }
};

std::string told(const Tiling &t, double us, double error) {
  char text[256];
  snprintf(text, sizeof text,
           "{\"width\": %d, \"splits\": %d, \"across\": %d, \"along\": %d, \"clusters\": %d, \"cycles\": %lld, "
           "\"us\": %.2f, \"error\": %.2g}",
           t.width, t.splits, t.across, t.along, t.clusters, t.cycles, us, error);
  return text;
}

bool same(const Tiling &a, const Tiling &b) {
  return a.width == b.width && a.splits == b.splits && a.across == b.across && a.along == b.along;
}

// How many tilings are wrong.
int measure(const Weight &w, int tokens, cudaStream_t stream) {
  Bench b(w, tokens, stream);
  int device = 0, multiprocessors = 0, bad = 0;
  cudaGetDevice(&device), cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  const double plain = b.microseconds([&](Device &d, int i) { return b.plain(d, i); });
  Device first(stream);
  b.plain(first, 0);
  const Wanted wanted{w.kind, w.out, w.in, tokens, multiprocessors, b.floats()};
  const Tiling chosen = choose_tiling(wanted);
  std::vector<std::pair<double, std::string>> all;
  std::string mine = "null";
  for (int width : WIDTHS)
    for (int splits : SPLITS)
      for (int shape = 0; shape < 3; ++shape) {
        if (splits > (w.kind == SUMS ? up(w.in, STEP_HALVES) : 1) || width > most_width(w.kind)) continue;
        if (splits > 1 && splits * (long long)b.count() > b.floats()) continue;
        const Tiling t = tiling_of(wanted, width, splits, 1 + (shape == 1), 1 + (shape == 2));
        if (t.clusters < 1 || t.cycles > chosen.cycles * 5 / 2) continue;
        const double error = b.error(t), us = b.microseconds([&](Device &d, int i) { return b.tiled(d, t, i); });
        if (!(error < (w.kind == SUMS ? 1e-4 : 2e-3))) ++bad;
        all.emplace_back(us, told(t, us, error));
        if (same(t, chosen)) mine = all.back().second;
      }
  std::sort(all.begin(), all.end());
  printf("{\"product\": \"%s\", \"tokens\": %d, \"cublaslt_us\": %.2f, \"bad\": %d, \"chosen\": %s, \"tilings\": [", w.name,
         tokens, plain, bad, mine.c_str());
  for (size_t i = 0; i < all.size(); ++i) printf("%s%s", i ? ", " : "", all[i].second.c_str());
  printf("]}\n"), fflush(stdout);
  return bad;
}

}  // namespace

int main(int argc, char **argv) {
  std::vector<int> tokens;
  for (int i = 1; i < argc; ++i) tokens.push_back(std::max(1, atoi(argv[i])));
  if (tokens.empty()) tokens = {776, 8};
  const Weight weights[] = {{"qwen qkv", ROTATED, 1152, 896, 14, 2}, {"qwen qkv in parts", SUMS, 1152, 896, 14, 2},
                            {"qwen o", SUMS, 896, 896}, {"qwen gate_up", GATED, 4864, 896}, {"qwen down", SUMS, 896, 4864},
                            {"llama qkv", ROTATED, 3072, 2048, 32, 8}, {"llama qkv in parts", SUMS, 3072, 2048, 32, 8},
                            {"llama o", SUMS, 2048, 2048}, {"llama gate_up", GATED, 8192, 2048}, {"llama down", SUMS, 2048, 8192}};
  cudaStream_t stream;
  need(cudaStreamCreate(&stream), "stream");
  int bad = 0;
  for (int count : tokens)
    for (const Weight &w : weights) bad += measure(w, count, stream);
  return bad > 0;
}
