// What is done to each row by itself: embedding, norm, rotation, activation. The residual stream is float32, all that goes into
// a product is half, rounded once. A block of ROW_THREADS has a row, unless said.
#pragma once
#include "../common/warpgroups.cuh"

constexpr int ROW_THREADS = 128, EIGHT = 8;           // threads, and neighbours that one of them handles at a time
constexpr int ROTATE_THREADS = 512;  // at most
constexpr int MAX_HIDDEN = 4096;
constexpr int HEAD_DIM = 64, HALF_DIM = HEAD_DIM / 2;

struct Eight {
  float v[EIGHT];
};

__device__ __forceinline__ Eight load_eight(const float *p) {
  const float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

__device__ __forceinline__ Eight load_eight(const Half *p) {
  const uint4 bits = *(const uint4 *)p;
  const float2 a = to_floats(bits.x), b = to_floats(bits.y), c = to_floats(bits.z), d = to_floats(bits.w);
  return {{a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y}};
}

__device__ __forceinline__ void store_eight(float *p, const Eight &e) {
  ((float4 *)p)[0] = make_float4(e.v[0], e.v[1], e.v[2], e.v[3]);
  ((float4 *)p)[1] = make_float4(e.v[4], e.v[5], e.v[6], e.v[7]);
}

__device__ __forceinline__ void store_eight(Half *p, const Eight &e) {
  *(uint4 *)p = make_uint4(to_halves(e.v[0], e.v[1]), to_halves(e.v[2], e.v[3]), to_halves(e.v[4], e.v[5]),
                           to_halves(e.v[6], e.v[7]));
}

__device__ __forceinline__ int clamped(int value, int low, int high) { return max(low, min(value, high)); }

// Over the threads of a block; once in a kernel.
__device__ __forceinline__ float sum_of_block(float value) {
  value = sum_of_warp(value);
  float *sums = (float *)dynamic_shared();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
  for (int warp = 0; warp < ROW_THREADS / 32; ++warp) total += sums[warp];
  return total;
}

// What a product has given: parts of its sums, which are added up in order.
struct Parts {
  const float *sums;  // [count, R, width]
  int count;
  size_t stride;      // R * width
};

// A row in the registers of a block: each thread has the eights at threadIdx.x, threadIdx.x + ROW_THREADS, ...
template <int EIGHTS>
struct Row {
  Eight x[EIGHTS] = {};

  __device__ __forceinline__ static int at(int i) { return ((int)threadIdx.x + i * ROW_THREADS) * EIGHT; }

  template <class T>
  __device__ __forceinline__ void load(const T *from, int width) {
#pragma unroll
    for (int i = 0; i < EIGHTS; ++i)
      if (at(i) < width) x[i] = load_eight(from + at(i));
  }

  // In order, but asked for several at a time.
  __device__ __forceinline__ void add(const Parts &parts, size_t from, int width) {
    constexpr int AT_ONCE = EIGHTS > 2 ? 1 : 4 / EIGHTS;
    for (int first = 0; first < parts.count; first += AT_ONCE) {
      Row more[AT_ONCE];
#pragma unroll
      for (int part = 0; part < AT_ONCE; ++part)
        if (first + part < parts.count) more[part].load(parts.sums + (first + part) * parts.stride + from, width);
#pragma unroll
      for (int part = 0; part < AT_ONCE; ++part)
#pragma unroll
        for (int i = 0; i < EIGHTS; ++i)
          for (int j = 0; j < EIGHT; ++j) x[i].v[j] += more[part].x[i].v[j];
    }
  }

  __device__ __forceinline__ void store(float *to, int width) const {
#pragma unroll
    for (int i = 0; i < EIGHTS; ++i)
      if (at(i) < width) store_eight(to + at(i), x[i]);
  }

  // x over the root of its mean square, times gain.
  __device__ __forceinline__ void store_norm(Row gains, Half *to, int width, float epsilon) const {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < EIGHTS; ++i)
      for (int j = 0; j < EIGHT; ++j) squares += x[i].v[j] * x[i].v[j];
    const float scale = 1.0f / sqrtf(sum_of_block(squares) / width + epsilon);
#pragma unroll
    for (int i = 0; i < EIGHTS; ++i) {
      for (int j = 0; j < EIGHT; ++j) gains.x[i].v[j] *= x[i].v[j] * scale;
      if (at(i) < width) store_eight(to + at(i), gains.x[i]);
    }
  }
};

struct EmbedArguments {
  const int *ids;                   // [R]
  const Half *embedding, *points;   // [V, C], [R, C]
  const unsigned char *point_mask;  // [R], or null
  const Half *gain;                 // of the first norm
  float *residual;                  // [R, C]
  Half *normed;                     // [R, C]
  int width, vocabulary;
  float epsilon;
};

// A row's embedding, or that of its point token, and the first norm of it.
template <int EIGHTS>
__global__ void __launch_bounds__(ROW_THREADS) embed(const __grid_constant__ EmbedArguments a) {
  const size_t row = blockIdx.x;
  Row<EIGHTS> x, gains;
  gains.load(a.gain, a.width);
  launch_later();
  wait_for_earlier();
  const bool point = a.point_mask != nullptr && a.point_mask[row] != 0;
  const size_t token = clamped(a.ids[row], 0, a.vocabulary - 1);
  x.load(point ? a.points + row * a.width : a.embedding + token * a.width, a.width);
  x.store(a.residual + row * a.width, a.width);
  x.store_norm(gains, a.normed + row * a.width, a.width, a.epsilon);
}

struct NormArguments {
  float *residual;        // [R, C]
  Parts more;             // that are added to it
  const Half *gain;       // [C]
  Half *normed;           // [R, C]
  int width;
  float epsilon;
};

template <int EIGHTS>
__global__ void __launch_bounds__(ROW_THREADS) norm(const __grid_constant__ NormArguments a) {
  const size_t row = blockIdx.x;
  Row<EIGHTS> x, gains;
  gains.load(a.gain, a.width);  // does not depend on what came before
  launch_later();
  wait_for_earlier();
  x.load(a.residual + row * a.width, a.width);
  x.add(a.more, row * a.width, a.width);
  if (a.more.count > 0) x.store(a.residual + row * a.width, a.width);
  x.store_norm(gains, a.normed + row * a.width, a.width, a.epsilon);
}

// The kernel for rows of this width, of which a block holds one: embed and norm by what EIGHTS they were compiled for.
#define OF_WIDTH(kernel, width)                                                    \
  ((width) <= ROW_THREADS * EIGHT       ? kernel<1>                                \
   : (width) <= ROW_THREADS * EIGHT * 2 ? kernel<2>                                \
                                        : kernel<MAX_HIDDEN / (ROW_THREADS * EIGHT)>)

struct RotateArguments {
  Parts qkv;                                         // [B*T, (H+2K)*D]
  const Half *bias;                                  // [(H+2K)*D], or null
  const float *cos_3d, *sin_3d, *cos_1d, *sin_1d;    // [B*T, D]
  const unsigned char *point_mask;                   // [B*T], or null
  Half *queries;                                     // [B*T, H*D]
  Half *keys, *values;                               // this layer's heads in row (t, b) of the new rows
  int batch, rows, heads, kv_heads, row_stride;      // halves from one (t, b) to the next
};

// x * cos + rotate_half(x) * sin; entries d and d + D/2 may turn by different angles, as those of point tokens do.
__device__ __forceinline__ void turn(float (&low)[4], float (&high)[4], const float *cosines, const float *sines) {
  const float4 c = __ldg((const float4 *)cosines), d = __ldg((const float4 *)(cosines + HALF_DIM));
  const float4 s = __ldg((const float4 *)sines), t = __ldg((const float4 *)(sines + HALF_DIM));
  const float cl[4] = {c.x, c.y, c.z, c.w}, ch[4] = {d.x, d.y, d.z, d.w};
  const float sl[4] = {s.x, s.y, s.z, s.w}, sh[4] = {t.x, t.y, t.z, t.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float x = low[j], y = high[j];
    low[j] = x * cl[j] - y * sl[j];
    high[j] = y * ch[j] + x * sh[j];
  }
}

__device__ __forceinline__ void add_four(float (&to)[4], const Half *from) {
  const uint2 bits = __ldg((const uint2 *)from);
  const float2 a = to_floats(bits.x), b = to_floats(bits.y);
  to[0] += a.x, to[1] += a.y, to[2] += b.x, to[3] += b.y;
}

__device__ __forceinline__ void add_four(float (&to)[4], const Parts &parts, size_t from) {
#pragma unroll 4
  for (int part = 0; part < parts.count; ++part) {
    const float4 more = *(const float4 *)(parts.sums + part * parts.stride + from);
    to[0] += more.x, to[1] += more.y, to[2] += more.z, to[3] += more.w;
  }
}

// Where a row's angles are, and where its new cache row begins.
struct Token {
  const float *cosines, *sines;
  size_t row, cached;

  __device__ __forceinline__ Token(const RotateArguments &a, int at) : row(at) {
    const int b = at / a.rows, t = at - b * a.rows;
    const bool point = a.point_mask != nullptr && __ldg(a.point_mask + at) != 0;
    cosines = (point ? a.cos_3d : a.cos_1d) + row * HEAD_DIM, sines = (point ? a.sin_3d : a.sin_1d) + row * HEAD_DIM;
    cached = ((size_t)t * a.batch + b) * a.row_stride;
  }
};

// Bias (in float32: keys are as large as 130) and rotation of channels d to d + 3 of a head and of those half a head further;
// queries go to attention, keys and values into the new cache rows.
__device__ __forceinline__ void rotate_four(const RotateArguments &a, const Token &token, int head, int d, float (&low)[4],
                                            float (&high)[4]) {
  const int at = head * HEAD_DIM + d;
  if (a.bias != nullptr) add_four(low, a.bias + at), add_four(high, a.bias + at + HALF_DIM);
  if (head < a.heads + a.kv_heads) turn(low, high, token.cosines + d, token.sines + d);
  Half *to = head < a.heads ? a.queries + token.row * a.heads * HEAD_DIM + at
             : head < a.heads + a.kv_heads ? a.keys + token.cached + (head - a.heads) * HEAD_DIM + d
                                           : a.values + token.cached + (head - a.heads - a.kv_heads) * HEAD_DIM + d;
  *(uint2 *)to = make_uint2(to_halves(low[0], low[1]), to_halves(low[2], low[3]));
  *(uint2 *)(to + HALF_DIM) = make_uint2(to_halves(high[0], high[1]), to_halves(high[2], high[3]));
}

// A row a block, eight threads a head.
__global__ void __launch_bounds__(ROTATE_THREADS) rotate(const __grid_constant__ RotateArguments a) {
  const int heads = a.heads + 2 * a.kv_heads;
  launch_later();
  wait_for_earlier();
  const Token token(a, blockIdx.x);
  for (int unit = threadIdx.x; unit < heads * 8; unit += blockDim.x) {
    const int head = unit / 8, d = unit % 8 * 4;
    const size_t from = (token.row * heads + head) * HEAD_DIM + d;
    float low[4] = {}, high[4] = {};
    add_four(low, a.qkv, from), add_four(high, a.qkv, from + HALF_DIM);
    rotate_four(a, token, head, d, low, high);
  }
}

struct ActivateArguments {
  const Half *both;  // [R, 2I], gate and up
  Half *made;        // [R, I]
  int width;         // I
  long long count;   // eights of all rows together
};

// silu(gate) * up.
__device__ __forceinline__ float gated(float gate, float up) { return __fdividef(gate, 1.0f + __expf(-gate)) * up; }

// A thread each eight.
__global__ void __launch_bounds__(ROW_THREADS) activate(const __grid_constant__ ActivateArguments a) {
  const long long unit = (long long)blockIdx.x * ROW_THREADS + threadIdx.x;
  launch_later();
  wait_for_earlier();
  if (unit >= a.count) return;
  const long long row = unit / (a.width / EIGHT), at = unit % (a.width / EIGHT) * EIGHT;
  const Half *from = a.both + row * 2 * a.width + at;
  Eight gate = load_eight(from);
  const Eight up = load_eight(from + a.width);
  for (int j = 0; j < EIGHT; ++j) gate.v[j] = gated(gate.v[j], up.v[j]);
  store_eight(a.made + row * a.width + at, gate);
}

struct LastArguments {
  const float *residual;  // [B*T, C]
  const Half *queries;    // [B*T, Q]
  const int *lengths;     // [B], or null: all
  float *last_residual;   // [B, C]
  Half *last_queries;     // [B, Q]
  int rows, width, query_width;
};

// The last valid row of each sequence, a block each: behind the last layer's keys and values only those are of interest.
__global__ void __launch_bounds__(ROW_THREADS) take_last(const __grid_constant__ LastArguments a) {
  launch_later();
  wait_for_earlier();
  const size_t b = blockIdx.x, t = a.lengths == nullptr ? a.rows - 1 : clamped(a.lengths[b] - 1, 0, a.rows - 1);
  const size_t row = b * a.rows + t;
  for (int at = threadIdx.x * EIGHT; at < a.width; at += ROW_THREADS * EIGHT)
    store_eight(a.last_residual + b * a.width + at, load_eight(a.residual + row * a.width + at));
  for (int at = threadIdx.x * EIGHT; at < a.query_width; at += ROW_THREADS * EIGHT)
    *(uint4 *)(a.last_queries + b * a.query_width + at) = *(const uint4 *)(a.queries + row * a.query_width + at);
}
