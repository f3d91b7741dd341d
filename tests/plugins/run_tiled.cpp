// One tiled product on the CPU, called from Python.
#define EMULATED
#include <numeric>

#include "language_model/tiled.cuh"

namespace {

struct Cut {  // what a test may choose; else `choose_tiling` does
  int width, splits, across, along, multiprocessors;
};

Tiling tiling(const Wanted &w, const Cut &c) {
  return c.width == 0 ? choose_tiling(w) : tiling_of(w, c.width, c.splits, c.across, c.along);
}

}  // namespace

extern "C" Tiling tiling_for(int kind, int out, int in, int tokens, int multiprocessors, long long part_floats) {
  return choose_tiling({(Kind)kind, out, in, tokens, multiprocessors, part_floats});
}

// Splits of the tiling, 0 where there is none. Clusters run one after another: none waits for another.
extern "C" int run(const Half *weight, const Half *given, void *made, int kind, int out, int in, int tokens, const Cut *cut,
                   unsigned seed) {
  const Tiling t = tiling({(Kind)kind, out, in, tokens, cut->multiprocessors, 1ll << 40}, *cut);
  const TiledKernel kernel = tiled_kernel_of(t.width, (Kind)kind);
  if (t.clusters < 1 || kernel.run == nullptr) return 0;
  TiledArguments a = arguments_of({(Kind)kind, weight, given, made, out, in, tokens, {}}, t);
  a.weight = {weight, kind == GATED ? 2 * out : out, in, weight_box((Kind)kind, t.across)};
  a.given = {given, tokens, in, a.box};
  const unsigned blocks = t.across * t.along;
  for (int cluster = 0; cluster < t.clusters; ++cluster)
    emulated::launch(blocks, TILED_THREADS, kernel.bytes, seed + cluster, [&] { kernel.run(a); }, cluster * blocks);
  return t.splits;
}
