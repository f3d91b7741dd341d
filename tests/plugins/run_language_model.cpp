// The language model's kernels on the CPU, called from Python; products are plain loops, or tiled ones.
#define EMULATED
#include "language_model/run.cuh"

class Device {
 public:
  Device(unsigned seed, int multiprocessors) : seed_(seed), multiprocessors_(multiprocessors) {}

  int rotated = 0;  // layers whose queries, keys and values were rotated at once, not from parts

  int multiprocessors() const { return multiprocessors_; }
  void chain(bool) {}

  template <class Arguments>
  bool launch(void (*kernel)(Arguments), unsigned blocks, unsigned threads, size_t shared, const Arguments &arguments) {
    for (unsigned block = 0; block < blocks; ++block)  // none waits for another
      emulated::launch(1, threads, shared, seed_++, [&] { kernel(arguments); }, block);
    return true;
  }

  bool tiled(const TiledProduct &p, const Tiling &t) {
    rotated += p.kind == ROTATED;
    const TiledKernel kernel = tiled_kernel_of(t.width, p.kind);
    TiledArguments a = arguments_of(p, t);
    a.weight = {p.weight, p.kind == GATED ? 2 * p.out : p.out, p.in, weight_box(p.kind, t.across)};
    a.given = {p.given, p.tokens, p.in, a.box};
    const unsigned blocks = t.across * t.along;
    for (int cluster = 0; cluster < t.clusters; ++cluster)
      emulated::launch(blocks, TILED_THREADS, kernel.bytes, seed_++, [&] { kernel.run(a); }, cluster * blocks);
    return t.clusters > 0;
  }

  bool product(const Product &p, void *workspace) {
    memset(workspace, 0xff, PRODUCT_BYTES);  // it is the product's
    for (int row = 0; row < p.rows; ++row)
      for (int out = 0; out < p.out; ++out) {
        const size_t at = (size_t)row * p.out + out;
        float sum = p.adds ? ((float *)p.made)[at] : 0;
        for (int in = 0; in < p.in; ++in)
          sum += to_float(p.given[(size_t)row * p.in + in]) * to_float(p.weight[(size_t)out * p.in + in]);
        if (p.halves) ((Half *)p.made)[at] = to_half(sum);
        else ((float *)p.made)[at] = sum;
      }
    return true;
  }

 private:
  unsigned seed_;
  int multiprocessors_;
};

extern "C" size_t workspace_bytes(const ModelSizes *sizes, int batch, int rows, int past_rows, int all_logits) {
  return Workspace(*sizes, batch, rows, past_rows, all_logits, nullptr).bytes;
}

// Layers that were rotated at once; negative where the device would not.
extern "C" int run(const ModelSizes *sizes, const LanguageModelTensors *tensors, void *workspace, unsigned seed,
                   int multiprocessors) {
  Device device(seed, multiprocessors);
  return Run<Device>(device, *sizes, *tensors, workspace).all() ? device.rotated : -1;
}
