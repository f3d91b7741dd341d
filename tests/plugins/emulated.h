// A CUDA grid on one CPU thread: every CUDA thread is a fiber that gives way where it waits. Slow, but the same source runs,
// with its barriers, shuffles and asynchronous copies; copies arrive late and in any order, and memory that they have yet to
// fill holds NaN. For the functions of plugins/common/machine.cuh, and as much of CUDA C++ as the kernels use.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct Dim {
  unsigned x;
};
struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
using std::max;
using std::min;
inline unsigned min(unsigned a, int b) { return std::min(a, (unsigned)b); }
inline unsigned min(int a, unsigned b) { return std::min((unsigned)a, b); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
inline float __int_as_float(int bits) { return __uint_as_float((unsigned)bits); }
inline int __float_as_int(float x) { int bits; memcpy(&bits, &x, 4); return bits; }
template <class T> T __ldg(const T *p) { return *p; }
template <class T> T __ldcg(const T *p) { return *p; }
inline void __threadfence() {}
inline void __trap() { fprintf(stderr, "trap\n"); abort(); }
inline long long clock64() { return 0; }

namespace emulated {

struct Gate {  // a barrier of threads
  unsigned waiting = 0, turn = 0;
};

struct Warp {
  Gate gate;
  uint32_t values[32];
  const unsigned short *rows[32];
  unsigned fragments[32][4];
};

struct Block {
  std::vector<Warp> warps;
  std::map<int, Gate> gates;
  std::vector<unsigned char> memory;
  unsigned char *shared = nullptr;
  unsigned running = 0;  // threads
};

struct Fiber {
  Dim thread, block;
  Block *home;
  bool begun = false, done = false;
  ucontext_t context;
  jmp_buf place;
  std::unique_ptr<char[]> stack;
  std::vector<std::function<void()>> copies;  // asked for, not yet waited for
  std::vector<std::function<void()>> products;             // of warpgroups
  std::vector<std::vector<std::function<void()>>> passes;  // of those
};

struct Words {  // how a Barrier is laid out here
  uint16_t expected, arrived, phase;
  int16_t bytes16;  // on their way, in units of 16 bytes
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline size_t current = 0, vain = 0;
inline std::mt19937 chance;
inline std::vector<std::function<void()>> flying;  // bulk copies
inline bool late = false;                          // these land when nobody comes forward without them
inline std::function<void()> body;
inline std::vector<Block *> resident;
inline jmp_buf home;
constexpr size_t STACK = 64 << 10, HOPELESS = 200000000;

}  // namespace emulated

inline Dim threadIdx, blockIdx, gridDim, blockDim;

namespace emulated {

inline void enter() {
  body();
  fibers[current]->done = true, --fibers[current]->home->running;
  longjmp(home, 1);
}

inline void go(size_t next) {
  current = next;
  Fiber &fiber = *fibers[next];
  threadIdx = fiber.thread, blockIdx = fiber.block;
  if (fiber.begun) longjmp(fiber.place, 1);
  fiber.begun = true;
  getcontext(&fiber.context);
  fiber.stack.reset(new char[STACK]);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = STACK;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
  setcontext(&fiber.context);
}

inline void next_fiber() {
  for (size_t i = 1; i <= fibers.size(); ++i) {
    const size_t next = (current + i) % fibers.size();
    if (!fibers[next]->done) go(next);
  }
  longjmp(home, 2);
}

// Let the others run. Once in a while a copy lands.
inline void give_way() {
  if (++vain > HOPELESS) fprintf(stderr, "nobody comes forward any more\n"), abort();
  if (!flying.empty() && (late ? vain > 2 * fibers.size() : chance() % 8 == 0)) {
    const size_t i = chance() % flying.size();
    auto copy = flying[i];
    flying[i] = flying.back();
    flying.pop_back();
    copy();
    vain = 0;
  }
  if (setjmp(fibers[current]->place) == 0) next_fiber();
}

inline void pass(Gate &gate, unsigned count) {
  const unsigned turn = gate.turn;
  if (++gate.waiting == count) {
    gate.waiting = 0, ++gate.turn, vain = 0;
    return;
  }
  while (gate.turn == turn) give_way();
}

inline Warp &warp() { return fibers[current]->home->warps[threadIdx.x / 32]; }

inline uint32_t exchange(uint32_t value, int from) {
  Warp &w = warp();
  w.values[threadIdx.x % 32] = value;
  pass(w.gate, 32);
  const uint32_t got = w.values[from & 31];
  pass(w.gate, 32);
  return got;
}

// Run a grid to its end, or so many of its blocks from `first` on. They are all resident, as in a cooperative launch.
inline void launch(unsigned grid, unsigned threads, size_t shared, unsigned seed, std::function<void()> kernel,
                   unsigned first = 0) {
  std::vector<std::unique_ptr<Block>> blocks;
  chance.seed(seed);
  body = kernel, fibers.clear(), resident.clear(), flying.clear(), vain = 0, gridDim = {grid}, blockDim = {threads};
  for (unsigned b = 0; b < grid; ++b) {
    blocks.push_back(std::make_unique<Block>());
    blocks[b]->warps.resize(threads / 32), blocks[b]->running = threads;
    resident.push_back(blocks[b].get());
    blocks[b]->memory.assign(shared + 256, 0xff);  // NaN, in whatever type
    blocks[b]->shared = (unsigned char *)(((uintptr_t)blocks[b]->memory.data() + 127) / 128 * 128);
    for (unsigned t = 0; t < threads; ++t) {
      auto fiber = std::make_unique<Fiber>();
      fiber->thread = {t}, fiber->block = {first + b}, fiber->home = blocks[b].get();
      fibers.push_back(std::move(fiber));
    }
  }
  std::shuffle(fibers.begin(), fibers.end(), chance);
  if (setjmp(home) != 2) {
    size_t left = 0;
    for (auto &fiber : fibers) left += !fiber->done;
    if (left > 0) next_fiber();
  }
  for (auto &block : blocks)
    for (const unsigned char *p = block->shared + shared; p != block->memory.data() + block->memory.size(); ++p)
      if (*p != 0xff) fprintf(stderr, "a kernel writes beyond its shared memory\n"), abort();
}

}  // namespace emulated

inline void __syncwarp() { emulated::pass(emulated::warp().gate, 32); }
inline void __syncthreads() { emulated::pass(emulated::fibers[emulated::current]->home->gates[0], blockDim.x); }
template <class T> T __shfl_sync(unsigned, T value, int from) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  bits = emulated::exchange(bits, from);
  memcpy(&value, &bits, 4);
  return value;
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int offset) {
  return __shfl_sync(mask, value, (int)(threadIdx.x % 32) ^ offset);
}
inline unsigned atomicAdd(unsigned *p, unsigned value) { return (*p += value) - value; }

inline float fp16_to_float(unsigned short bits) {
  const unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, rest = bits & 0x3ffu;
  if (exponent == 0) return std::ldexp((float)rest, -24) * (sign ? -1 : 1);
  return __uint_as_float(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | rest << 13);
}
inline unsigned short float_to_fp16(float value) {  // to the nearest, ties to even
  const unsigned sign = __float_as_uint(value) >> 16 & 0x8000u;
  const float size = std::fabs(value);
  if (value != value) return 0x7e00;
  if (size >= 65520) return sign | 0x7c00u;
  const int exponent = size < 0x1p-14f ? -14 : std::ilogb(size);
  const unsigned steps = (unsigned)std::nearbyint(std::ldexp(size, 10 - exponent));
  return sign | ((exponent + 14 << 10) + steps);  // the leading one of `steps` counts into the exponent
}
inline unsigned short float_to_bf16(float value) {
  unsigned bits;
  memcpy(&bits, &value, 4);
  return value != value ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline unsigned floats_to_fp16s(float low, float high) { return float_to_fp16(low) | (unsigned)float_to_fp16(high) << 16; }
inline unsigned floats_to_bf16s(float low, float high) { return float_to_bf16(low) | (unsigned)float_to_bf16(high) << 16; }
inline float power_of_two(float x) { return std::exp2(x); }
inline unsigned long long nanoseconds() { return 0; }
inline int this_thread() { return threadIdx.x; }
inline void relax() { emulated::give_way(); }
inline void pause(unsigned) {}
inline unsigned char *dynamic_shared() { return emulated::fibers[emulated::current]->home->shared; }
inline void add_release(unsigned *counter) { ++*counter, emulated::vain = 0; }
inline unsigned load_acquire(const unsigned *counter) { return *counter; }
inline void store_pair(void *p, unsigned a, unsigned b) { ((unsigned *)p)[0] = a, ((unsigned *)p)[1] = b, emulated::vain = 0; }
inline uint2 load_pair(const void *p) { return *(const uint2 *)p; }
inline uint4 load_pairs(const void *p) { return *(const uint4 *)p; }
template <int index, int threads> void sync_threads() {
  emulated::pass(emulated::fibers[emulated::current]->home->gates[index], threads);
}
template <int index, int threads> void arrive_threads() {
  emulated::Gate &gate = emulated::fibers[emulated::current]->home->gates[index];
  if (++gate.waiting == threads) gate.waiting = 0, ++gate.turn, emulated::vain = 0;
}

inline emulated::Words &words(Barrier *barrier) { return *(emulated::Words *)barrier; }
inline void barrier_settle(Barrier *barrier) {
  auto &w = words(barrier);
  if (w.arrived == w.expected && w.bytes16 == 0) w.arrived = 0, ++w.phase, emulated::vain = 0;
}
inline void barrier_init(Barrier *barrier, unsigned arrivals) { words(barrier) = {(uint16_t)arrivals, 0, 0, 0}; }
inline void barriers_ready() {}
inline void barrier_arrive(Barrier *barrier) {
  if (++words(barrier).arrived > words(barrier).expected) fprintf(stderr, "too many arrivals\n"), abort();
  barrier_settle(barrier);
}
inline void barrier_expect(Barrier *barrier, unsigned bytes) { words(barrier).bytes16 += bytes / 16; }
inline bool barrier_try(Barrier *barrier, unsigned parity) { return (words(barrier).phase & 1) != parity; }
inline unsigned long long read_once() { return 0; }
inline void copy_bulk(void *to, const void *from, unsigned bytes, Barrier *barrier, unsigned long long) {
  if (bytes % 16 || (uintptr_t)to % 16 || (uintptr_t)from % 16) fprintf(stderr, "a copy is not aligned\n"), abort();
  memset(to, 0xff, bytes);
  emulated::flying.push_back([=] {
    memcpy(to, from, bytes);
    words(barrier).bytes16 -= bytes / 16;
    barrier_settle(barrier);
  });
}
inline void copy_async(void *to, const void *from, bool real) {
  memset(to, 0xff, 16);
  emulated::fibers[emulated::current]->copies.push_back([=] { real ? memcpy(to, from, 16) : memset(to, 0, 16); });
}
inline void copies_done() {
  for (auto &copy : emulated::fibers[emulated::current]->copies) copy();
  emulated::fibers[emulated::current]->copies.clear();
}

// ---- tensor cores: what the 32 lanes hold is laid open, and each takes or computes what is its own

inline unsigned pair_at(const unsigned short *p, int stride) { return p[0] | (unsigned)p[stride] << 16; }

inline void load_matrices(unsigned (&m)[4], const void *row) {
  auto &w = emulated::warp();
  const int lane = threadIdx.x % 32;
  w.rows[lane] = (const unsigned short *)row;
  emulated::pass(w.gate, 32);
  for (int i = 0; i < 4; ++i) m[i] = pair_at(w.rows[8 * i + lane / 4] + lane % 4 * 2, 1);
  emulated::pass(w.gate, 32);
}

inline void load_transposed(unsigned (&m)[4], const void *row) {
  auto &w = emulated::warp();
  const int lane = threadIdx.x % 32;
  w.rows[lane] = (const unsigned short *)row;
  emulated::pass(w.gate, 32);
  for (int i = 0; i < 4; ++i)
    m[i] = w.rows[8 * i + lane % 4 * 2][lane / 4] | (unsigned)w.rows[8 * i + lane % 4 * 2 + 1][lane / 4] << 16;
  emulated::pass(w.gate, 32);
}

inline float half_of(unsigned pair, int i) {
  const unsigned short bits = pair >> 16 * i;
#if HALF_IS_BF16
  return __uint_as_float((unsigned)bits << 16);
#else
  return fp16_to_float(bits);
#endif
}

inline void multiply(float (&sum)[2], unsigned a_low, unsigned a_high, unsigned b_low, unsigned b_high) {
  auto &w = emulated::warp();
  const int lane = threadIdx.x % 32, row = lane / 4;
  const unsigned mine[4] = {a_low, a_high, b_low, b_high};
  memcpy(w.fragments[lane], mine, sizeof mine);
  emulated::pass(w.gate, 32);
  for (int j = 0; j < 2; ++j)
    for (int k = 0; k < 16; ++k) {
      const int column = lane % 4 * 2 + j, from = k % 8 / 2;
      const unsigned a = w.fragments[row * 4 + from][k / 8], b = w.fragments[column * 4 + from][2 + k / 8];
      sum[j] += half_of(a, k % 2) * half_of(b, k % 2);
    }
  emulated::pass(w.gate, 32);
}

inline void multiply(float (&sum)[4], const unsigned (&a)[4], unsigned b_low, unsigned b_high) {
  float lower[2] = {sum[0], sum[1]}, upper[2] = {sum[2], sum[3]};
  multiply(lower, a[0], a[2], b_low, b_high);
  multiply(upper, a[1], a[3], b_low, b_high);
  sum[0] = lower[0], sum[1] = lower[1], sum[2] = upper[0], sum[3] = upper[1];
}
