// What the kernels ask of the machine beyond CUDA C++: each a function of one instruction. tests/plugins/emulated.h has the
// same functions for the CPU.
#pragma once

typedef unsigned long long Barrier;  // in shared memory: arrivals, and bytes that are on their way

#ifdef EMULATED
#include <emulated.h>
#else

__device__ __forceinline__ float fp16_to_float(unsigned short bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

__device__ __forceinline__ unsigned short float_to_fp16(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

__device__ __forceinline__ unsigned short float_to_bf16(float value) {
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// Two neighbours in one word, the first in the lower half.
__device__ __forceinline__ unsigned floats_to_fp16s(float low, float high) {
  unsigned pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ __forceinline__ unsigned floats_to_bf16s(float low, float high) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// Two to the power of x, to 22 bits.
__device__ __forceinline__ float power_of_two(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

__device__ __forceinline__ unsigned long long nanoseconds() {
  unsigned long long now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

// threadIdx.x as if it could be another one each time. What follows from it would otherwise be computed once for the whole
// kernel and kept, in more registers than there are.
__device__ __forceinline__ int this_thread() {
  int thread = threadIdx.x;
  asm volatile("" : "+r"(thread));
  return thread;
}

// Called in a loop that waits.
__device__ __forceinline__ void relax() {}

// Leave the memory to others for about so many nanoseconds.
__device__ __forceinline__ void pause(unsigned ns) { asm volatile("nanosleep.u32 %0;" ::"r"(ns)); }

__device__ __forceinline__ unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ __forceinline__ unsigned char *dynamic_shared() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

// ---- between blocks

// Add one to a count, behind everything this warp's lanes have written.
__device__ __forceinline__ void add_release(unsigned *counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

__device__ __forceinline__ unsigned load_acquire(const unsigned *counter) {
  unsigned seen;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
  return seen;
}

// Eight bytes in one piece.
__device__ __forceinline__ void store_pair(void *p, unsigned a, unsigned b) {
  asm volatile("{ .reg .b64 v; mov.b64 v, {%1, %2}; st.relaxed.gpu.global.b64 [%0], v; }" ::"l"(p), "r"(a), "r"(b) : "memory");
}

__device__ __forceinline__ uint2 load_pair(const void *p) {
  uint2 v;
  asm volatile("{ .reg .b64 v; ld.relaxed.gpu.global.b64 v, [%2]; mov.b64 {%0, %1}, v; }"
               : "=r"(v.x), "=r"(v.y)
               : "l"(p)
               : "memory");
  return v;
}

// Two neighbours, each in one piece.
__device__ __forceinline__ uint4 load_pairs(const void *p) {
  uint4 v;
  asm volatile(
      "{ .reg .b64 v, w; ld.relaxed.gpu.global.v2.b64 {v, w}, [%4]; mov.b64 {%0, %1}, v; mov.b64 {%2, %3}, w; }"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p)
      : "memory");
  return v;
}

// ---- within a block

// Barrier `index` of the block, for its first `threads` threads.
template <int index, int threads>
__device__ __forceinline__ void sync_threads() {
  asm volatile("bar.sync %0, %1;" ::"n"(index), "n"(threads) : "memory");
}

// Come to that barrier without waiting for the others.
template <int index, int threads>
__device__ __forceinline__ void arrive_threads() {
  asm volatile("bar.arrive %0, %1;" ::"n"(index), "n"(threads) : "memory");
}

__device__ __forceinline__ void barrier_init(Barrier *barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Initialised barriers may be used by copies, behind a __syncthreads.
__device__ __forceinline__ void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void barrier_arrive(Barrier *barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

__device__ __forceinline__ void barrier_expect(Barrier *barrier, unsigned bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

// Has the phase of this parity ended?
__device__ __forceinline__ bool barrier_try(Barrier *barrier, unsigned parity) {
  unsigned done;
  asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
               : "=r"(done)
               : "r"(shared_address(barrier)), "r"(parity)
               : "memory");
  return done != 0;
}

// ---- tensor cores

// Four 8x8 matrices of halves from shared memory; lane l points at row l % 8 of matrix l / 8 and gets of each matrix
// elements 2 * (l % 4) and the next of row l / 4.
__device__ __forceinline__ void load_matrices(unsigned (&m)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same, each transposed on the way.
__device__ __forceinline__ void load_transposed(unsigned (&m)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(row))
               : "memory");
}

#if HALF_IS_BF16
#define MULTIPLY "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#else
#define MULTIPLY "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#endif

// sum [8, 8] += a [8, 16] * b [16, 8], the lower half of the m16n8k16 instruction, whose upper rows are zeros.
// Lane l has of a: row l / 4, columns 2 * (l % 4) and the next, and those 8 further; of b: column l / 4, the same rows;
// of the sum: row l / 4, columns 2 * (l % 4) and the next.
__device__ __forceinline__ void multiply(float (&sum)[2], unsigned a_low, unsigned a_high, unsigned b_low, unsigned b_high) {
  [[maybe_unused]] float upper, other;
  asm(MULTIPLY " {%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%0, %1, %9, %9};"
      : "+f"(sum[0]), "+f"(sum[1]), "=f"(upper), "=f"(other)
      : "r"(a_low), "r"(0), "r"(a_high), "r"(b_low), "r"(b_high), "f"(0.0f));
}

// sum [16, 8] += a [16, 16] * b [16, 8]. Of a, lane l has rows l / 4 and those 8 further of the lower columns, then of the
// upper ones; of the sum, two of row l / 4 and two of the row 8 further.
__device__ __forceinline__ void multiply(float (&sum)[4], const unsigned (&a)[4], unsigned b_low, unsigned b_high) {
  asm(MULTIPLY " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

// Data that is read once and should not push other things out of the cache.
__device__ __forceinline__ unsigned long long read_once() {
  unsigned long long policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// Copy bytes (a multiple of 16, both sides aligned to 16) into shared memory; the barrier hears of it.
__device__ __forceinline__ void copy_bulk(void *to, const void *from, unsigned bytes, Barrier *barrier,
                                          unsigned long long policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
          shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}

// 16 bytes, or 16 zeros; there after `copies_done`.
__device__ __forceinline__ void copy_async(void *to, const void *from, bool real) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(real ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void copies_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#endif
