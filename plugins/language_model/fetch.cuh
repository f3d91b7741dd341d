// How steps of tiles come into shared memory: which tiles a block has, the ring of stages, and the warp that asks for copies.
#pragma once
#include "../common/warpgroups.cuh"
#include "tiles.cuh"
#include "tiling.h"

constexpr int MULTIPLYING = 256, TILED_THREADS = MULTIPLYING + 128;  // two warpgroups, and that of the warp that fetches

struct TiledArguments {
  TensorMap weight, given;  // [out, in] in boxes of `weight_box` rows; [tokens, in] of `box`
  void *made;               // SUMS: [splits, tokens, out] float32; GATED: [tokens, out] halves
  RotateArguments rotate;   // ROTATED: what becomes of it; its qkv is not looked at
  int out, tokens, steps, splits;
  int across, along;        // blocks of a cluster
  int box, clusters;        // tokens that one of them fetches; clusters that work
  int wide, units;          // clusters' tiles along tokens; of all tiles and parts
};

template <int WIDTH, Kind KIND>
constexpr int TILED_BYTES = TILE_ALIGNMENT + stages_of(WIDTH, KIND) * (stage_bytes(WIDTH) + 16) + 16 + staging_bytes(WIDTH, KIND);

#if defined(WARPGROUPS) || defined(EMULATED)

// A tile of one part of the sum.
struct Tile {
  int channel, token, part, begin, end;  // first ones; steps
};

// Tiles of a block, one after another. Blocks of a cluster have tiles side by side.
struct Walk {
  const TiledArguments &a;
  int unit, row, column;  // of the cluster; the block in it

  __device__ __forceinline__ Walk(const TiledArguments &arguments, unsigned rank) : a(arguments) {
    unit = blockIdx.x / (a.across * a.along);
    column = rank & (a.across - 1), row = a.across == 2 ? rank >> 1 : rank;  // one or two along each side
  }

  __device__ __forceinline__ bool more() const { return unit < a.units; }
  __device__ __forceinline__ void next() { unit += a.clusters; }

  template <int WIDTH, Kind KIND>
  __device__ __forceinline__ Tile tile() const {
    constexpr int CHANNELS = KIND == GATED ? WEIGHT_ROWS / 2 : WEIGHT_ROWS;
    const int rest = unit / a.splits, part = unit - rest * a.splits, high = rest / a.wide, low = rest - high * a.wide;
    return {(high * a.along + row) * CHANNELS, (low * a.across + column) * WIDTH, part,
            a.steps * part / a.splits, a.steps * (part + 1) / a.splits};
  }
};

// Steps in shared memory, as a ring.
template <int WIDTH, Kind KIND>
struct Stages {
  static constexpr int COUNT = stages_of(WIDTH, KIND), WEIGHTS = WEIGHT_ROWS * STEP_HALVES;
  static constexpr int HALVES_EACH = WEIGHTS + WIDTH * STEP_HALVES, STAGING = staging_bytes(WIDTH, KIND) / 2;

  Half *tiles, *staging;
  Barrier *full, *empty, *turn;  // turn: of each warpgroup, where they take turns
  int at = 0;
  unsigned parity = 0;

  __device__ __forceinline__ Stages() {
    tiles = aligned_tiles(), staging = tiles + COUNT * HALVES_EACH;
    full = (Barrier *)(staging + STAGING), empty = full + COUNT, turn = empty + COUNT;
  }

  __device__ __forceinline__ Half *weights() const { return tiles + at * HALVES_EACH; }
  __device__ __forceinline__ Half *given() const { return weights() + WEIGHTS; }
  __device__ __forceinline__ void next() {
    if (++at == COUNT) at = 0, parity ^= 1;
  }
  __device__ __forceinline__ void skip(int steps) {
    const int rounds = (at + steps) / COUNT;
    at += steps - rounds * COUNT, parity ^= rounds & 1;
  }
};

// The warp that fetches, one lane of it.
template <int WIDTH, Kind KIND>
struct Fetcher {
  const TiledArguments &a;
  Walk walk;
  Tile tile;
  int step;
  unsigned short beside, above;  // blocks with the same channels, and those with the same tokens

  __device__ __forceinline__ Fetcher(const TiledArguments &arguments, unsigned rank) : a(arguments), walk(arguments, rank) {
    beside = (unsigned short)(((1 << a.across) - 1) << walk.row * a.across);
    above = 0;
    for (int i = 0; i < a.along; ++i) above |= (unsigned short)(1 << (i * a.across + walk.column));
    begin();
  }

  __device__ __forceinline__ void begin() {
    tile = walk.tile<WIDTH, KIND>(), step = tile.begin;
  }

  __device__ __forceinline__ bool more() const { return walk.more(); }
  __device__ __forceinline__ void next() {
    if (++step == tile.end) walk.next(), begin();
  }

  // Every block fetches its share for all that need it, and gets the others' from them.
  __device__ __forceinline__ void weights(const Stages<WIDTH, KIND> &s) const {
    const int bytes = (WEIGHT_ROWS + a.along * a.box) * STEP_HALVES * 2;
    barrier_expect(s.full + s.at, bytes);
    barrier_arrive(s.full + s.at);
    const int column = step * STEP_HALVES;
    if (KIND == GATED) {  // gates in the weight's first half, ups in its second
      for (int half = walk.column; half < 2; half += a.across)
        copy_tile(s.weights() + half * (WEIGHT_ROWS / 2) * STEP_HALVES, &a.weight, column, tile.channel + half * a.out,
                  s.full + s.at, beside);
    } else {
      const int first = a.across == 1 ? 0 : WEIGHT_ROWS / 2 * walk.column;
      copy_tile(s.weights() + first * STEP_HALVES, &a.weight, column, tile.channel + first, s.full + s.at, beside);
    }
  }

  __device__ __forceinline__ void given(const Stages<WIDTH, KIND> &s) const {
    const int first = (WIDTH - a.box) * walk.row;
    copy_tile(s.given() + first * STEP_HALVES, &a.given, step * STEP_HALVES, tile.token + first, s.full + s.at, above);
  }
};

template <int WIDTH, Kind KIND>
__device__ __forceinline__ void fetch_all(const TiledArguments &a, unsigned rank, Stages<WIDTH, KIND> s) {
  expect_map(&a.weight), expect_map(&a.given);
  // Weights do not depend on what came before.
  Fetcher<WIDTH, KIND> ahead(a, rank), f(a, rank);
  Stages<WIDTH, KIND> first = s;
  int early = 0;
  for (; early < s.COUNT && ahead.more(); ++early, ahead.next(), first.next()) ahead.weights(first);
  wait_for_earlier();
  for (; f.more(); f.next(), s.next()) {
    if (early > 0) {
      --early;
    } else {
      while (!barrier_try(s.empty + s.at, s.parity ^ 1)) relax();
      f.weights(s);
    }
    f.given(s);
  }
  // Whoever gives a stage back does so in this block's memory, which must not be gone by then.
  for (int i = 0; i < s.COUNT; ++i, s.next())
    while (!barrier_try(s.empty + s.at, s.parity ^ 1)) relax();
}

#endif
