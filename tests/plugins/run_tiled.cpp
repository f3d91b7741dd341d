// One tiled product on the CPU, called from Python.
#define EMULATED
#include "language_model/tiled.cuh"

namespace {

struct Cut {  // what a test may choose
  int width, splits, across, along, multiprocessors;
};

struct Rotation {  // RotateArguments without sums
  const Half *bias;
  const float *cos_3d, *sin_3d, *cos_1d, *sin_1d;
  const unsigned char *point_mask;
  Half *queries, *keys, *values;
  int batch, rows, heads, kv_heads, row_stride;
};

// Clusters run one after another: none waits for another. Copies land soon or, where the seed is odd, as late as they can.
void run(const TiledProduct &p, const Tiling &t, const TiledKernel &kernel, unsigned seed) {
  TiledArguments a = arguments_of(p, t);
  a.weight = {p.weight, p.kind == GATED ? 2 * p.out : p.out, p.in, weight_box(p.kind, t.across)};
  a.given = {p.given, p.tokens, p.in, a.box};
  const unsigned blocks = t.across * t.along, shared = kernel.bytes - TILE_ALIGNMENT;  // it is aligned here
  emulated::late = seed % 2 == 1;
  for (int cluster = 0; cluster < t.clusters; ++cluster)
    emulated::launch(blocks, TILED_THREADS, shared, seed + cluster, [&] { kernel.run(a); }, cluster * blocks);
}

}  // namespace

extern "C" int kernel_stages(int kind, int width) { return stages_of(width, (Kind)kind); }

// Tiles that each block of the busiest cluster takes; 0 where there is no kernel.
extern "C" int run_tiled(const Half *weight, const Half *given, void *made, const Rotation *r, int kind, int out, int in, int tokens,
                         const Cut *cut, unsigned seed) {
  const Tiling t = tiling_of({(Kind)kind, out, in, tokens, cut->multiprocessors, 1ll << 40}, cut->width, cut->splits, cut->across, cut->along);
  const TiledKernel kernel = tiled_kernel_of(t.width, (Kind)kind);
  if (t.clusters < 1 || kernel.run == nullptr) return 0;
  RotateArguments rotate{};
  if (r != nullptr)
    rotate = {{},         r->bias, r->cos_3d, r->sin_3d, r->cos_1d, r->sin_1d,   r->point_mask, r->queries,
              r->keys,    r->values, r->batch, r->rows,   r->heads,  r->kv_heads, r->row_stride};
  run({(Kind)kind, weight, given, made, out, in, tokens, rotate}, t, kernel, seed);
  return up((long long)(t.rows / t.along) * (t.columns / t.across) * t.splits, t.clusters);
}
