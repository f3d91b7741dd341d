// The language model as a sequence of products and kernels. `Device` launches them: variant.cuh on a GPU, the tests on a CPU.
//
//   bool Device::launch(kernel, unsigned blocks, unsigned threads, size_t shared_bytes, arguments)
//   bool Device::product(Product)
//   int Device::multiprocessors()            // of a GPU that takes tiled products; else 0
//   void Device::chain(bool ours)            // what follows the first kernel may start early: all products are ours
//   bool Device::tiled(TiledProduct, Tiling)
#pragma once
#include "attention.cuh"
#include "launch.h"
#include "tiled.cuh"

// made [rows, out] = given [rows, in] * weight [out, in] transposed, and added to what is there where `adds`. Sums are float32.
struct Product {
  const Half *weight, *given;
  void *made;
  int out, in, rows;
  bool adds, halves;  // halves: `made` is rounded to half, else it is float32
};

constexpr size_t ALIGNMENT = 256;
constexpr size_t PRODUCT_BYTES = 32u << 20;  // what a product may work in
constexpr int GRID = 264;                    // blocks that keep a large GPU busy: attention cuts keys until it has so many

using spatiallm::LanguageModelTensors;
using spatiallm::ModelSizes;

// Sizes that follow from those of the model and of the call.
struct Shape {
  int rows, queries, qkv, stride;  // B*T; H*D; (H+2K)*D; halves of one (t, b) of the cache
  int group;

  Shape(const ModelSizes &s, int batch, int count)
      : rows(batch * count),
        queries(s.heads * s.head_dim),
        qkv((s.heads + 2 * s.kv_heads) * s.head_dim),
        stride(2 * s.layers * s.kv_heads * s.head_dim),
        group(s.heads / s.kv_heads) {}
};

inline int ceil_div(long long a, long long b) { return (int)((a + b - 1) / b); }

// Into how many pieces keys are cut where tiles of queries alone leave the GPU idle.
inline int pieces_of(const ModelSizes &s, int batch, int query_rows, int keys) {
  const int tiles = ceil_div((long long)query_rows * (s.heads / s.kv_heads), TILE) * s.kv_heads * batch;
  const int most = ceil_div(keys, TILE) < MAX_PIECES ? ceil_div(keys, TILE) : MAX_PIECES, wanted = GRID / tiles;
  return wanted < 1 ? 1 : wanted < most ? wanted : most;
}

// Floats of partial results that hold those of a call of these sizes and of every smaller one. Keys are cut only while tiles
// leave blocks of the grid idle, so a smaller call may have more pieces of its rows, but never more than the grid has tiles.
inline size_t partial_floats(const ModelSizes &s, size_t rows, int keys) {
  const size_t most = ceil_div(keys, TILE) < MAX_PIECES ? ceil_div(keys, TILE) : MAX_PIECES, all = rows * s.heads * most;
  return most < 2 ? 0 : (all < (size_t)GRID * TILE ? all : (size_t)GRID * TILE) * PARTIAL;
}

// Rows times channels from which on cuBLASLt is faster (H100, eight widths of tiles, Llama-1B: 1,100 and 2,048 rows; Qwen-0.5B is
// not yet at 2,048).
constexpr size_t MANY = 1u << 21;

// Floats for the parts of a product's sums: few rows are cut into many parts, many into few. cuBLASLt makes one.
inline size_t part_floats(const ModelSizes &s, size_t rows) {
  const size_t qkv = (s.heads + 2 * s.kv_heads) * s.head_dim, widest = qkv > (size_t)s.hidden ? qkv : s.hidden;
  const size_t tiled = rows * s.hidden < MANY ? rows : MANY / s.hidden, few = tiled * 16 < 1024 ? tiled * 16 : 1024;
  const size_t parts = (tiled * 4 > few ? tiled * 4 : few) * widest;
  return parts > rows * qkv ? parts : rows * qkv;
}

// Where everything lies in the workspace; `bytes` is its size, no less than that of smaller calls. With null as its beginning it
// only measures.
struct Workspace {
  float *residual, *parts, *partial, *last_residual;
  Half *normed, *queries, *mixed, *both, *active, *last_queries;
  unsigned char *product;
  size_t bytes = 0;

  Workspace(const ModelSizes &s, int batch, int count, int past_rows, bool all_logits, unsigned char *start) : start_(start) {
    const Shape shape(s, batch, count);
    const size_t rows = shape.rows, width = s.hidden, inner = s.intermediate, last = all_logits ? 0 : batch;
    take(residual, rows * width), take(normed, rows * width), take(parts, part_floats(s, rows));
    take(queries, rows * shape.queries), take(mixed, rows * shape.queries);
    take(both, rows * 2 * inner), take(active, rows * inner);
    take(last_residual, last * width), take(last_queries, last * shape.queries);
    take(partial, partial_floats(s, rows, past_rows + count));
    take(product, PRODUCT_BYTES);
  }

 private:
  template <class T>
  void take(T *&place, size_t count) {
    place = start_ == nullptr ? nullptr : (T *)(start_ + bytes);
    bytes += (count * sizeof(T) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  }

  unsigned char *start_;
};

// One call.
template <class Device>
class Run {
 public:
  Run(Device &device, const ModelSizes &sizes, const LanguageModelTensors &tensors, void *workspace)
      : device_(device),
        s_(sizes),
        t_(tensors),
        shape_(sizes, tensors.batch, tensors.rows),
        w_(sizes, tensors.batch, tensors.rows, tensors.past_rows, tensors.all_logits, (unsigned char *)workspace) {}

  // False where the device would not.
  bool all() {
    bool good = begin();
    for (int layer = 0; layer < s_.layers && good; ++layer) good = this->layer(layer);
    return good && head();
  }

 private:
  enum Tensor { INPUT_NORM, QKV, QKV_BIAS, O, POST_NORM, GATE_UP, DOWN };

  const Half *weight(int layer, Tensor which) const {
    return (const Half *)t_.weights.layers[layer * spatiallm::LAYER_TENSORS + which];
  }

  bool begin() {
    multiprocessors_ = (size_t)shape_.rows * s_.hidden < MANY ? device_.multiprocessors() : 0;
    device_.chain(multiprocessors_ > 0);
    rows_ = shape_.rows, queries_ = t_.rows, residual_ = w_.residual, asked_ = w_.queries, last_ = false;
    const EmbedArguments a{t_.ids, (const Half *)t_.weights.embedding, (const Half *)t_.point_embeds, t_.point_mask,
                           weight(0, INPUT_NORM), residual_, w_.normed, s_.hidden, s_.vocabulary, s_.epsilon};
    return device_.launch(OF_WIDTH(embed, s_.hidden), rows_, ROW_THREADS, SUM_BYTES, a);
  }

  bool layer(int layer) {
    const bool last = layer == s_.layers - 1;
    const Half *next = last ? (const Half *)t_.weights.final_norm : weight(layer + 1, INPUT_NORM);
    return rotated(layer) && (!last || t_.all_logits || shortened()) && attended(layer) &&
           added(weight(layer, O), w_.mixed, shape_.queries) && normed(weight(layer, POST_NORM)) &&
           activated(weight(layer, GATE_UP)) && added(weight(layer, DOWN), w_.active, s_.intermediate) && normed(next);
  }

  bool product(const Half *weight, const Half *given, void *made, int out, int in, bool adds, bool halves) {
    return device_.product({weight, given, made, out, in, rows_, adds, halves}, w_.product);
  }

  // The tiling of a product; the same few come again in each layer.
  const Tiling &tiling(const TiledProduct &p) {
    const long long floats = p.made == w_.parts ? (long long)part_floats(s_, rows_) : 0;  // 0: no parts, such as of logits
    for (const Known &known : known_)
      if (known.wanted.kind == p.kind && known.wanted.out == p.out && known.wanted.in == p.in &&
          known.wanted.tokens == p.tokens && known.wanted.part_floats == floats)
        return known.tiling;
    Known &known = known_[next_++ % KNOWN];
    known.wanted = {p.kind, p.out, p.in, p.tokens, multiprocessors_, floats};
    known.tiling = choose_tiling(known.wanted);
    return known.tiling;
  }

  // Into parts, for a kernel that adds them up; cuBLASLt makes one.
  bool summed(const TiledProduct &p) {
    parts_ = {w_.parts, 1, (size_t)rows_ * p.out};
    if (multiprocessors_ == 0) return product(p.weight, p.given, p.made, p.out, p.in, false, false);
    parts_.count = tiling(p).splits;
    return device_.tiled(p, tiling(p));
  }

  // Added to the residual stream, at the latest by the norm that follows.
  bool added(const Half *weight, const Half *given, int in) {
    if (multiprocessors_ > 0) return summed({SUMS, weight, given, w_.parts, s_.hidden, in, rows_, {}});
    parts_ = {};
    return product(weight, given, residual_, s_.hidden, in, true, false);
  }

  bool head() {
    const Half *weight = (const Half *)t_.weights.head;
    if (multiprocessors_ == 0) return product(weight, w_.normed, t_.logits, s_.vocabulary, s_.hidden, false, false);
    const TiledProduct p{SUMS, weight, w_.normed, t_.logits, s_.vocabulary, s_.hidden, rows_, {}};
    return device_.tiled(p, tiling(p));
  }

  Half *fresh(int layer) const { return (Half *)t_.new_rows + (size_t)layer * s_.kv_heads * HEAD_DIM; }
  const Half *past(int layer) const {
    return t_.past_rows == 0 ? nullptr : (const Half *)t_.past + (size_t)layer * s_.kv_heads * HEAD_DIM;
  }

  // Keys and values into the new rows, queries for attention: at once, or, where that is faster, from sums in parts.
  bool rotated(int layer) {
    const Half *qkv = weight(layer, QKV);
    RotateArguments a{{}, weight(layer, QKV_BIAS), t_.cos_3d, t_.sin_3d, t_.cos_1d, t_.sin_1d, t_.point_mask,
                      w_.queries, fresh(layer), fresh(s_.layers + layer), t_.batch, t_.rows, s_.heads, s_.kv_heads,
                      shape_.stride};
    const TiledProduct at_once{ROTATED, qkv, w_.normed, nullptr, shape_.qkv, s_.hidden, rows_, a};
    const TiledProduct in_parts{SUMS, qkv, w_.normed, w_.parts, shape_.qkv, s_.hidden, rows_, {}};
    if (multiprocessors_ > 0 && tiling(at_once).cycles < tiling(in_parts).cycles) return device_.tiled(at_once, tiling(at_once));
    if (!summed(in_parts)) return false;
    a.qkv = parts_;
    const int units = (s_.heads + 2 * s_.kv_heads) * 8, threads = ceil_div(units, 32) * 32;
    return device_.launch(rotate, rows_, threads < ROTATE_THREADS ? threads : ROTATE_THREADS, 0, a);
  }

  // From here on only the last row of each sequence is of interest.
  bool shortened() {
    const LastArguments a{residual_, w_.queries, t_.lengths, w_.last_residual, w_.last_queries, t_.rows, s_.hidden,
                          shape_.queries};
    rows_ = t_.batch, queries_ = 1, residual_ = w_.last_residual, asked_ = w_.last_queries, last_ = true;
    return device_.launch(take_last, t_.batch, ROW_THREADS, 0, a);
  }

  bool attended(int layer) {
    const int pieces = pieces_of(s_, t_.batch, queries_, t_.past_rows + t_.rows);
    const int tiles = ceil_div((long long)queries_ * shape_.group, TILE);
    const AttendArguments a{asked_, fresh(layer), past(layer), t_.lengths, t_.past_rows == 0 ? nullptr : t_.past_length,
                            w_.mixed, w_.partial, t_.batch, queries_, t_.rows, t_.past_rows, shape_.group, s_.heads,
                            s_.kv_heads, shape_.stride, s_.layers * s_.kv_heads * HEAD_DIM, t_.causal, last_, tiles, pieces,
                            (unsigned)((1ull << 32) / shape_.group + ((1ull << 32) % shape_.group != 0)),
                            LOG2E / sqrtf(HEAD_DIM)};
    const int blocks = tiles * t_.batch * s_.kv_heads * pieces;
    if (!device_.launch(blocks > GRID ? attend<2> : attend<1>, blocks, ATTEND_THREADS, ATTEND_BYTES, a)) return false;
    const CombineArguments c{w_.partial, w_.mixed, pieces};
    return pieces == 1 || device_.launch(combine, rows_ * s_.heads, HEAD_DIM, 0, c);
  }

  bool normed(const Half *gain) {
    const NormArguments a{residual_, parts_, gain, w_.normed, s_.hidden, s_.epsilon};
    return device_.launch(OF_WIDTH(norm, s_.hidden), rows_, ROW_THREADS, SUM_BYTES, a);
  }

  bool activated(const Half *weight) {
    if (multiprocessors_ > 0) {
      const TiledProduct p{GATED, weight, w_.normed, w_.active, s_.intermediate, s_.hidden, rows_, {}};
      return device_.tiled(p, tiling(p));
    }
    if (!product(weight, w_.normed, w_.both, 2 * s_.intermediate, s_.hidden, false, true)) return false;
    const long long count = (long long)rows_ * s_.intermediate / EIGHT;
    const ActivateArguments a{w_.both, w_.active, s_.intermediate, count};
    return device_.launch(activate, ceil_div(count, ROW_THREADS), ROW_THREADS, 0, a);
  }

  struct Known {
    Wanted wanted{};
    Tiling tiling{};
  };

  static constexpr int KNOWN = 12;  // six products, of all rows and of the last ones
  static constexpr size_t SUM_BYTES = ROW_THREADS / 32 * sizeof(float);

  Device &device_;
  const ModelSizes &s_;
  const LanguageModelTensors &t_;
  const Shape shape_;
  const Workspace w_;
  int rows_ = 0, queries_ = 0;  // rows that are worked on: all, then the last of each sequence
  float *residual_ = nullptr;
  const Half *asked_ = nullptr;
  bool last_ = false;
  int multiprocessors_ = 0;  // 0: products are cuBLASLt's
  Parts parts_{};            // that the last product has left
  Known known_[KNOWN];
  int next_ = 0;
};
