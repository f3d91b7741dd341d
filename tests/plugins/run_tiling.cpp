// How calls cut their products, called from Python; nothing is computed.
#define EMULATED
#include "language_model/run.cuh"

namespace {

// Notes what it is given.
struct Device {
  int multiprocessors_;
  const Workspace &w;
  int tilings[3] = {}, plain = 0;

  int multiprocessors() const { return multiprocessors_; }
  void chain(bool) {}

  template <class Arguments>
  bool launch(void (*)(Arguments), unsigned, unsigned, size_t, const Arguments &) { return true; }

  // Parts have the place from `parts` to `queries`; all else is in one part.
  bool tiled(const TiledProduct &p, const Tiling &t) {
    ++tilings[p.kind];
    return fit(p.made, (size_t)t.splits * p.out * p.tokens) && (p.made == w.parts || t.splits == 1) && t.clusters > 0;
  }

  bool product(const Product &p, void *) { return ++plain, fit(p.made, (size_t)p.out * p.rows); }

 private:
  bool fit(const void *made, size_t floats) const {
    return made != w.parts || (unsigned char *)(w.parts + floats) <= (unsigned char *)w.queries;
  }
};

}  // namespace

extern "C" Tiling tiling_for(int kind, int out, int in, int tokens, int multiprocessors, long long part_floats) {
  return choose_tiling({(Kind)kind, out, in, tokens, multiprocessors, part_floats});
}

// Stages of a kernel, and its bytes of dynamic shared memory: 0 where there is none.
extern "C" int kernel_stages(int kind, int width) { return stages_of(width, (Kind)kind); }
extern "C" int kernel_bytes(int kind, int width) { return tiled_kernel_of(width, (Kind)kind).bytes; }

extern "C" long long part_floats_for(const ModelSizes *sizes, int rows) { return (long long)part_floats(*sizes, rows); }

// Whether all that a call writes fits; `counts`: tiled products of each kind, and others.
extern "C" bool call_fits(const ModelSizes *sizes, int batch, int rows, int past_rows, int all_logits, int multiprocessors,
                          int *counts) {
  const std::vector<const void *> layers(sizes->layers * spatiallm::LAYER_TENSORS);
  LanguageModelTensors t{};
  t.batch = batch, t.rows = rows, t.past_rows = past_rows, t.all_logits = all_logits, t.weights.layers = layers.data();
  unsigned char *const start = (unsigned char *)(1ll << 40);  // nothing is there
  const Workspace w(*sizes, batch, rows, past_rows, all_logits, start);
  Device device{multiprocessors, w};
  const bool good = Run<Device>(device, *sizes, t, start).all();
  std::copy(device.tilings, device.tilings + 3, counts), counts[3] = device.plain;
  return good;
}
