// The functions of plugins/common/warpgroups.cuh on the CPU. All blocks of a launch are one cluster.
#pragma once
#include "emulated.h"

inline void wait_for_earlier() {}
inline void launch_later() {}
inline void show_to_warpgroups() {}

// ---- products: each thread computes what is its own of the sums, as late as it may, so that tiles must be there until then

typedef unsigned long long TileAt;  // in units of 16 bytes

inline TileAt tile_at(const void *tile) { return (uintptr_t)tile / 16; }

inline const unsigned short &of_tile(TileAt tile, int row, int column) {
  return ((const unsigned short *)(tile * 16))[row * 64 + (column / 8 ^ row % 8) * 8 + column % 8];
}

// Sixteen halves of a row, as floats.
inline void halves_of(float (&to)[16], TileAt tile, int row, int step) {
  for (int k = 0; k < 16; ++k) to[k] = half_of(of_tile(tile, row, step * 16 + k), 0);
}

template <int WIDTH>
void multiply_now(float (*sum)[4], TileAt a, TileAt b, int step) {
  const int row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  float low[16], high[16], given[16];
  halves_of(low, a, row, step), halves_of(high, a, row + 8, step);
  for (int n = 0; n < WIDTH / 8; ++n)
    for (int j = 0; j < 2; ++j) {
      halves_of(given, b, n * 8 + threadIdx.x % 4 * 2 + j, step);
      for (int k = 0; k < 16; ++k) sum[n][j] += low[k] * given[k], sum[n][2 + j] += high[k] * given[k];
    }
}

template <int WIDTH>
void multiply_tiles(float (&sum)[WIDTH / 8][4], TileAt a, TileAt b, int step) {
  float (*const to)[4] = sum;
  emulated::fibers[emulated::current]->products.push_back([=] { multiply_now<WIDTH>(to, a, b, step); });
}

template <int GROUPS>
void keep_in_place(float (&)[GROUPS][4]) {}
inline void multiply_fence() { __syncwarp(); }  // these are for all lanes of a warp together
inline void multiply_pass() {
  emulated::Fiber &fiber = *emulated::fibers[emulated::current];
  fiber.passes.push_back(std::move(fiber.products));
  fiber.products.clear();
}
template <int left>
void multiply_wait() {
  auto &passes = emulated::fibers[emulated::current]->passes;
  for (; passes.size() > left; passes.erase(passes.begin()))
    for (auto &product : passes.front()) product();
  __syncwarp();
}

template <int count>
void fewer_registers() {}
template <int count>
void more_registers() {}

inline void sync_warpgroup() { emulated::pass(emulated::fibers[emulated::current]->home->gates[threadIdx.x / 128 + 1], 128); }

inline void store_transposed(void *column, unsigned first, unsigned second) {
  auto &w = emulated::warp();
  const int lane = threadIdx.x % 32;
  w.rows[lane] = (const unsigned short *)column;
  emulated::pass(w.gate, 32);
  const unsigned given[2] = {first, second};
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j)
      const_cast<unsigned short *>(w.rows[8 * i + lane % 4 * 2 + j])[lane / 4] = (unsigned short)(given[i] >> 16 * j);
  emulated::pass(w.gate, 32);
}

// ---- clusters

inline unsigned rank_in_cluster() { return blockIdx.x % emulated::resident.size(); }

inline void sync_cluster() {
  static emulated::Gate gate;
  emulated::pass(gate, emulated::fibers.size());
}

// What lies in the block of this rank where `p` lies in this thread's.
template <class T>
T *in_block(T *p, unsigned rank) {
  if (emulated::resident[rank]->running == 0) fprintf(stderr, "a block of the cluster is gone\n"), abort();
  return (T *)(emulated::resident[rank]->shared + ((unsigned char *)p - emulated::fibers[emulated::current]->home->shared));
}

inline void barrier_arrive_at(Barrier *barrier, unsigned rank) { barrier_arrive(in_block(barrier, rank)); }

inline void expect_map(const TensorMap *) {}

inline void copy_tile(void *to, const TensorMap *given, int column, int row, Barrier *barrier, unsigned short blocks) {
  const TensorMap map = *given;
  for (unsigned rank = 0; blocks >> rank != 0; ++rank) {
    if ((blocks >> rank & 1) == 0) continue;
    if (rank >= emulated::resident.size()) fprintf(stderr, "a copy goes to no block of the cluster\n"), abort();
    unsigned short *there = (unsigned short *)in_block((unsigned char *)to, rank);
    Barrier *const hears = in_block(barrier, rank);
    memset(there, 0xff, map.box_rows * 128);
    emulated::flying.push_back([=] {
      for (int r = 0; r < map.box_rows; ++r)
        for (int c = 0; c < 64; ++c) {
          const bool real = row + r < map.rows && column + c < map.columns;
          there[r * 64 + (c / 8 ^ r % 8) * 8 + c % 8] = real ? map.start[(size_t)(row + r) * map.columns + column + c] : 0;
        }
      words(hears).bytes16 -= map.box_rows * 8;
      barrier_settle(hears);
    });
  }
}
