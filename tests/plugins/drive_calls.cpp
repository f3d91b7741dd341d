// The operator's host side on a CPU: launches, graphs of calls, products by a cuBLASLt that computes nothing. CUDA is functions
// that count. Prints a line for each fact; the test knows what they must be.
#define EMULATED
#include "common/machine.cuh"

#include <atomic>
#include <new>
#include <thread>

#define HALF_IS_BF16 0
#define VARIANT fp16
#include "language_model/graphs.h"
#include "language_model/variant.cuh"

static std::atomic<int> launched{0}, captured{0}, replayed{0}, graphs{0}, execs{0}, streams{0};
static thread_local bool capturing;
static thread_local cudaError_t last;         // as CUDA keeps it
static thread_local char const *fails = "";   // the function that fails, and leaves its error
static thread_local long memory_left = -1;    // allocations until one fails; negative: none does

void *operator new(size_t bytes) {
  if (memory_left == 0) throw std::bad_alloc();
  if (memory_left > 0) --memory_left;
  if (void *made = std::malloc(bytes)) return made;
  throw std::bad_alloc();
}
void operator delete(void *p) noexcept { std::free(p); }
void operator delete(void *p, size_t) noexcept { std::free(p); }

static cudaError_t done(char const *name) {
  if (std::strcmp(name, fails) != 0) return cudaSuccess;
  return last = cudaErrorMemoryAllocation;
}

template <class T>
static T *thing() { return reinterpret_cast<T *>(&launched); }

extern "C" {
char const *cudaGetErrorString(cudaError_t) { return "out of memory"; }
cudaError_t cudaGetLastError() { cudaError_t const was = last; return last = cudaSuccess, was; }
cudaError_t cudaPeekAtLastError() { return last; }
cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
cudaError_t cudaFuncSetAttribute(void const *, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaLaunchKernel(void const *, dim3, dim3, void **, size_t, cudaStream_t) {
  ++(capturing ? captured : launched);
  return done("launch");
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *made, unsigned) {
  if (cudaError_t error = done("stream")) return error;
  return *made = thing<CUstream_st>(), ++streams, cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return --streams, cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus *status) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  if (cudaError_t error = done("begin")) return error;
  return capturing = true, cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *made) {
  capturing = false;
  return *made = thing<CUgraph_st>(), ++graphs, cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *made, cudaGraph_t, unsigned long long) {
  if (cudaError_t error = done("instantiate")) return error;
  return *made = thing<CUgraphExec_st>(), ++execs, cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t) { return --graphs, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return --execs, cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return ++replayed, done("replay"); }
}

size_t spatiallm::bf16::workspace(ModelSizes const &, int, int, int, int) noexcept { return 0; }
char const *spatiallm::bf16::run(ModelSizes const &, LanguageModelTensors const &, void *, cudaStream_t) noexcept { return ""; }

static const ModelSizes SIZES = {256, 192, 2, 4, 2, 64, 100, 0, 0, 1e-6f};
static char memory[4096];

// A prompt of so many rows; nothing is read or written. Prints what it took.
static int call(spatiallm::Graphs *kept, int rows, char const *text = nullptr) {
  void const *layers[2 * spatiallm::LAYER_TENSORS] = {};
  LanguageModelTensors t{};
  t.batch = 1, t.rows = rows, t.causal = 1, t.ids = (int const *)memory, t.weights.layers = layers;
  char why[256] = "";
  int const l = launched, c = captured, r = replayed;
  int const failed = spatiallm::language_model_run(SIZES, t, memory, nullptr, kept, why, sizeof why);
  if (text != nullptr)
    std::printf("%s: %d launched %d captured %d replayed %d %s\n", text, failed, launched - l > 0, captured - c > 0, replayed - r, why);
  return failed;
}

static void in_order() {
  spatiallm::Graphs *kept = spatiallm::new_graphs();
  for (char const *text : {"first", "second", "third"}) call(kept, 3, text);
  call(kept, 4, "another");
  for (int rows = 10; rows < 30; ++rows) call(kept, rows), call(kept, rows);
  std::printf("graphs of the last calls %d\n", (int)execs);
  call(kept, 3, "forgotten");
  spatiallm::delete_graphs(kept);
}

// What fails once is not found again by the next call.
static void failing() {
  for (char const *name : {"launch", "stream", "begin", "instantiate", "replay"}) {
    spatiallm::Graphs *kept = spatiallm::new_graphs();
    if (std::strcmp(name, "launch") != 0) call(kept, 3);
    fails = name;
    call(kept, 3, name);
    fails = "";
    call(kept, 5, "then");
    spatiallm::delete_graphs(kept);
  }
}

// Without memory a call says so, whatever it was about to take, and later ones work.
static void without_memory() {
  int said = 0, broken = 0, limit = 0;
  for (bool done = false; !done; ++limit) {
    spatiallm::Graphs *kept = spatiallm::new_graphs();
    memory_left = limit;
    bool const failed = call(kept, 1000 + limit) != 0 || call(kept, 1000 + limit) != 0;
    done = memory_left > 0 && !failed;
    memory_left = -1;
    said += failed;
    for (int i = 0; i < 3; ++i) broken += call(kept, 1000 + limit) != 0;
    spatiallm::delete_graphs(kept);
  }
  std::printf("without memory: said %d broken %d\n", said > 0, broken);
}

static void side_by_side() {
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&failed, i] {
      spatiallm::Graphs *kept = spatiallm::new_graphs();
      for (int n = 0; n < 50; ++n) failed += call(kept, 2000 + n / 3 * (i % 2 + 1));
      spatiallm::delete_graphs(kept);
    });
  for (std::thread &thread : threads) thread.join();
  std::printf("side by side: failed %d\n", (int)failed);
}

static void unfit() {
  ModelSizes wide = SIZES, inner = SIZES, none = SIZES;
  wide.heads = 1 << 26, inner.intermediate = 1 << 30, none.kv_heads = 0;
  for (ModelSizes const &sizes : {wide, inner, none})
    std::printf("unfit: %s, workspace %zu\n", spatiallm::language_model_misfit(sizes),
                spatiallm::language_model_workspace(sizes, 1, 1, 0, 0));
}

int main() {
  in_order();
  if (call(nullptr, 3) != 0) return call(nullptr, 3, "products"), 0;
  failing();
  without_memory();
  side_by_side();
  unfit();
  std::printf("left: graphs %d executable %d streams %d\n", (int)graphs, (int)execs, (int)streams);
}
