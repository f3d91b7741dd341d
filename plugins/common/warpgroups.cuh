// What compute capability 9.0 has beyond machine.cuh: products of warpgroups (four warps) over matrices that stay in shared
// memory, copies of a tile out of a matrix into several blocks of a cluster, kernels that come to their places early.
#pragma once
#include "numbers.cuh"

#ifdef EMULATED
#include "../language_model/map.h"
#include <emulated_clusters.h>
#else

#include "../language_model/map.h"

// A kernel that was launched early (cudaLaunchAttributeProgrammaticStreamSerialization) waits here for all that came before it
// in the stream; and lets what comes behind it be launched early, which then waits in turn.
__device__ __forceinline__ void wait_for_earlier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void launch_later() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define WARPGROUPS 1

#if HALF_IS_BF16
#define HALVES "bf16.bf16"
#else
#define HALVES "f16.f16"
#endif

// What products give: `sum`, eight columns a row of it, and how the instruction names these operands.
#define SUMS_1(n) "+f"(sum[n][0]), "+f"(sum[n][1]), "+f"(sum[n][2]), "+f"(sum[n][3])
#define SUMS_2 SUMS_1(0), SUMS_1(1)
#define SUMS_8 SUMS_2, SUMS_1(2), SUMS_1(3), SUMS_1(4), SUMS_1(5), SUMS_1(6), SUMS_1(7)
#define SUMS_10 SUMS_8, SUMS_1(8), SUMS_1(9)
#define SUMS_12 SUMS_10, SUMS_1(10), SUMS_1(11)
#define SUMS_14 SUMS_12, SUMS_1(12), SUMS_1(13)
#define SUMS_16 SUMS_14, SUMS_1(14), SUMS_1(15)
#define SUMS_17 SUMS_16, SUMS_1(16)
#define SUMS_20 SUMS_17, SUMS_1(17), SUMS_1(18), SUMS_1(19)
#define SUMS_22 SUMS_20, SUMS_1(20), SUMS_1(21)
#define SUMS_25 SUMS_22, SUMS_1(22), SUMS_1(23), SUMS_1(24)
#define SUMS_28 SUMS_25, SUMS_1(25), SUMS_1(26), SUMS_1(27)
#define SUMS_32 SUMS_28, SUMS_1(28), SUMS_1(29), SUMS_1(30), SUMS_1(31)
#define NAMES_2 "%0, %1, %2, %3, %4, %5, %6, %7"
#define NAMES_8 \
  NAMES_2 ", %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
           "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_10 NAMES_8 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define NAMES_12 NAMES_10 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define NAMES_14 NAMES_12 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define NAMES_16 NAMES_14 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_17 NAMES_16 ", %64, %65, %66, %67"
#define NAMES_20 NAMES_17 ", %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define NAMES_22 NAMES_20 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define NAMES_25 NAMES_22 ", %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99"
#define NAMES_28 NAMES_25 ", %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define NAMES_32 NAMES_28 ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// How warpgroups are told where a tile is: in units of 16 bytes, so that one more is one place further. A tile has rows of 64
// halves and lies at a multiple of 1024 bytes; chunk c (16 bytes) of its row r is at c ^ (r % 8).
typedef unsigned long long TileAt;

__device__ __forceinline__ TileAt tile_at(const void *tile) {
  const unsigned long long eight_rows = 1024 >> 4, start = shared_address(tile) >> 4;  // shared memory ends before 2^18
  return start | eight_rows << 16 | eight_rows << 32 | 1ull << 62;
}

// sum [64, WIDTH] += a [64, 16] * b [WIDTH, 16] transposed, for four warps of 16 rows each: of both tiles columns 16 * step to
// 16 * step + 15. Between `multiply_begin` and `multiply_end`, or `multiply_pass` and a wait.
template <int WIDTH>
__device__ __forceinline__ void multiply_tiles(float (&sum)[WIDTH / 8][4], TileAt a, TileAt b, int step);

#define PRODUCT_OF(width, groups, first, second)                                                                        \
  template <>                                                                                                           \
  __device__ __forceinline__ void multiply_tiles<width>(float (&sum)[groups][4], TileAt a, TileAt b, int step) { \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #width "k16.f32." HALVES " {" NAMES_##groups "}, %" #first ", %" #second \
                 ", 1, 1, 1, 0, 0;"                                                                                     \
                 : SUMS_##groups                                                                                        \
                 : "l"(a + step * 2), "l"(b + step * 2));                                 \
  }
PRODUCT_OF(16, 2, 8, 9)
PRODUCT_OF(64, 8, 32, 33)
PRODUCT_OF(80, 10, 40, 41)
PRODUCT_OF(96, 12, 48, 49)
PRODUCT_OF(112, 14, 56, 57)
PRODUCT_OF(128, 16, 64, 65)
PRODUCT_OF(136, 17, 68, 69)
PRODUCT_OF(160, 20, 80, 81)
PRODUCT_OF(176, 22, 88, 89)
PRODUCT_OF(200, 25, 100, 101)
PRODUCT_OF(224, 28, 112, 113)
PRODUCT_OF(256, 32, 128, 129)

// sum [64, 64] += a [64, 16] * b [16, 64], a in registers, each warp's own 16 rows as for `multiply`, and rows 16 * step to
// 16 * step + 15 of b's tile as they are. The registers of a stay as they are until `multiply_end`.
__device__ __forceinline__ void multiply_rows(float (&sum)[8][4], const unsigned (&a)[4], TileAt b, int step) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." HALVES " {" NAMES_8 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
      : SUMS_8
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b + step * 128));
}

// The compiler knows nothing of the time between: it must neither take sums before they are there nor change them late.
template <int GROUPS>
__device__ __forceinline__ void keep_in_place(float (&sum)[GROUPS][4]) {
#pragma unroll
  for (int n = 0; n < GROUPS; ++n)
#pragma unroll
    for (int j = 0; j < 4; ++j) asm volatile("" : "+f"(sum[n][j])::"memory");
}

__device__ __forceinline__ void multiply_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void multiply_pass() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Until all but `left` passes have ended.
template <int left>
__device__ __forceinline__ void multiply_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}

template <int GROUPS>
__device__ __forceinline__ void multiply_begin(float (&sum)[GROUPS][4]) {
  keep_in_place(sum);
  multiply_fence();
}

template <int GROUPS>
__device__ __forceinline__ void multiply_end(float (&sum)[GROUPS][4]) {
  multiply_pass();
  multiply_wait<0>();
  keep_in_place(sum);
}

// This warpgroup goes on with fewer registers each thread, or with more, once others have given them.
template <int count>
__device__ __forceinline__ void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

template <int count>
__device__ __forceinline__ void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

// Threads of this warpgroup wait for each other.
__device__ __forceinline__ void sync_warpgroup() {
  asm volatile("bar.sync %0, 128;" ::"r"(threadIdx.x / 128 + 1) : "memory");
}

// Two 8x8 matrices of halves, of each elements 2 * (l % 4) and the next of row l / 4 in lane l, go into shared memory
// transposed: lane l < 16 points at where column l % 8 of matrix l / 8 goes.
__device__ __forceinline__ void store_transposed(void *column, unsigned first, unsigned second) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(shared_address(column)), "r"(first),
               "r"(second)
               : "memory");
}

// ---- clusters: blocks that see each other's shared memory

__device__ __forceinline__ unsigned rank_in_cluster() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Behind `barriers_ready`: every block of the cluster has come so far. Orders nothing else.
__device__ __forceinline__ void sync_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Arrive at the barrier that lies in the block of this rank where `barrier` lies here. For who has only read: what it has
// written need not be there for the other block.
__device__ __forceinline__ void barrier_arrive_at(Barrier *barrier, unsigned rank) {
  asm volatile(
      "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::"r"(
          shared_address(barrier)),
      "r"(rank)
      : "memory");
}

__device__ __forceinline__ void expect_map(const TensorMap *map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// The map's box at this row and column, zeros where the matrix has ended, into every block whose bit is set, at the same place
// of each; their barriers at the place of `barrier` hear of it. Rows as `describe_tile` has them.
__device__ __forceinline__ void copy_tile(void *to, const TensorMap *map, int column, int row, Barrier *barrier,
                                          unsigned short blocks) {
  if ((blocks & (blocks - 1)) == 0)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_address(to)),
        "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier))
        : "memory");
  else
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], "
        "[%4], %5;" ::"r"(shared_address(to)),
        "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier)), "h"(blocks)
        : "memory");
}
#endif

// What this thread has written to shared memory is there for multiplications of warpgroups too, behind a barrier.
__device__ __forceinline__ void show_to_warpgroups() {
#ifdef WARPGROUPS
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#endif
