// The operator's host side on a CPU: launches, graphs of calls, products by a cuBLASLt that computes nothing. CUDA is functions
// that count. Prints a line for each fact; the test knows what they must be. Arguments: the device's compute capability, its
// first number; whether the driver is an old one.
#define EMULATED
#include "common/machine.cuh"

#include <atomic>
#include <new>
#include <thread>

#define HALF_IS_BF16 0
#define VARIANT fp16
#include "counting_cuda.h"
#include "language_model/graphs.h"
#include "language_model/maps.cpp"  // here, so that its maps are the emulation's
#include "language_model/variant.cuh"

static thread_local long memory_left = -1;  // allocations until one fails; negative: none does

void *operator new(size_t bytes) {
  if (memory_left == 0) throw std::bad_alloc();
  if (memory_left > 0) --memory_left;
  if (void *made = std::malloc(bytes)) return made;
  throw std::bad_alloc();
}
void operator delete(void *p) noexcept { std::free(p); }
void operator delete(void *p, size_t) noexcept { std::free(p); }

size_t spatiallm::bf16::workspace(ModelSizes const &, int, int, int, int) noexcept { return 0; }
char const *spatiallm::bf16::run(ModelSizes const &, LanguageModelTensors const &, void *, cudaStream_t) noexcept { return ""; }

static const ModelSizes SIZES = {256, 192, 2, 4, 2, 64, 100, 0, 0, 1e-6f};
alignas(ALIGNMENT) static char memory[4096];

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
  bool warm = false;  // the call was there before, and is captured
  for (char const *name : {"launch", "attribute", "describe", "stream", "begin", "instantiate", "replay"}) {
    spatiallm::Graphs *kept = spatiallm::new_graphs();
    if (std::strcmp(name, "stream") == 0) warm = true;
    if (warm) call(kept, 3);
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

static void clusters() {
  Device device(nullptr);
  if (device.multiprocessors() == 0) return;
  look = [](void const *given) {
    TiledArguments const &a = *static_cast<TiledArguments const *>(given);
    std::printf("weight [%d, %d] by %d, given [%d, %d] by %d, ", a.weight.rows, a.weight.columns, a.weight.box_rows, a.given.rows,
                a.given.columns, a.given.box_rows);
  };
  for (Kind kind : {SUMS, GATED, ROTATED})
    for (int shape = 0; shape < 3; ++shape) {
      Half const *at = (Half const *)memory;
      Tiling const t = tiling_of({kind, 384, 200, 300, 132, 0}, 136, 1, 1 + (shape == 1), 1 + (shape == 2));
      bool const good = device.tiled({kind, at, at, memory, 384, 200, 300, {}}, t);
      std::printf("%d: %u blocks of %u threads by %u\n", good, latest.blocks, latest.threads, latest.cluster);
    }
  look = nullptr;
}

// Launches of few rows, and of so many that cuBLASLt is faster.
static void chained() {
  for (int rows : {3, (int)(MANY / SIZES.hidden)}) {
    int const e = early, l = late, failed = call(nullptr, rows);
    std::printf("%d rows: %d early %d late %d\n", rows, failed, early > e, late - l);
  }
}

int main(int count, char **given) {
  if (count > 1) capability = std::atoi(given[1]);
  old_driver = count > 2;
  in_order();
  if (call(nullptr, 3) != 0) return call(nullptr, 3, "products"), 0;
  chained();
  clusters();
  failing();
  without_memory();
  side_by_side();
  unfit();
  std::printf("left: graphs %d executable %d streams %d\n", (int)graphs, (int)execs, (int)streams);
}
