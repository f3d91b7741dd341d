// Products of many rows by warpgroups. A tile has channels (rows of the weight as the checkpoint stores them) and WIDTH tokens:
// tokens are the columns, since only those may be any multiple of eight. One warp fetches, eight multiply; a block takes tile
// after tile, so that the next one's weights are on their way while the last one's results go out.
//
// SUMS over inputs may be cut into parts, which are written one behind the other: whoever reads them adds them up, always in the
// same order. Of a GATED product each warpgroup has every other tile for itself, gates and ups in the same registers, and
// multiplies while the other one writes. A ROTATED one gives each warpgroup a head.
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

// The warps that multiply: what is needed to give a stage back to all blocks that fetch into it.
struct Giver {
  bool gives;
  unsigned to;

  __device__ __forceinline__ Giver(const TiledArguments &a, unsigned rank) {
    to = threadIdx.x % 32;
    const unsigned differs = to ^ rank;  // in its column, its row, or both
    gives = to < (unsigned)(a.across * a.along) && (a.across * a.along < 4 || differs < 3);
  }

  __device__ __forceinline__ void give(Barrier *empty) const {
    if (gives) barrier_arrive_at(empty, to);
  }
};

// Sums of a tile as a thread has them: of channels `channel` and 8 further, and of tokens `token`, the next, and eights further.
struct Place {
  int channel, token;

  __device__ __forceinline__ explicit Place(const Tile &tile) {
    channel = tile.channel + (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4;
    token = tile.token + (int)threadIdx.x % 4 * 2;
  }
};

template <int WIDTH>
__device__ __forceinline__ void write_sums(const TiledArguments &a, const Tile &tile, const float (&sum)[WIDTH / 8][4]) {
  const Place p(tile);
  float *to = (float *)a.made + ((size_t)tile.part * a.tokens + p.token) * a.out + p.channel;
  const bool low = p.channel < a.out, high = p.channel + 8 < a.out;
#pragma unroll
  for (int n = 0; n < WIDTH / 8; ++n, to += (size_t)8 * a.out) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if (p.token + n * 8 + j >= a.tokens) continue;
      if (low) to[(size_t)j * a.out] = sum[n][j];
      if (high) to[(size_t)j * a.out + 8] = sum[n][2 + j];
    }
  }
}

__device__ __forceinline__ float gated(float gate, float up) { return __fdividef(gate, 1.0f + __expf(-gate)) * up; }

// Through shared memory, half of the tokens at a time, so that each goes out in pieces of 128 bytes.
template <int WIDTH>
__device__ __forceinline__ void write_gated(const TiledArguments &a, const Tile &tile, const float (&gate)[WIDTH / 8][4],
                                            const float (&up)[WIDTH / 8][4], Half *staging) {
  constexpr int ALL = WIDTH / 8, PART = (ALL + 1) / 2;
  const int thread = threadIdx.x % 128, lane = threadIdx.x % 32, warp = thread / 32;
  const int channel = tile.channel + thread % 8 * 8;
  staging += threadIdx.x / 128 * PART * 8 * 64;
#pragma unroll
  for (int first = 0; first < ALL; first += PART) {
#pragma unroll
    for (int n = first; n < first + PART && n < ALL; ++n) {
      Half *to = staging + place((n - first) * 8 + lane % 8, warp * 2 + lane / 8 % 2);
      store_transposed(to, to_halves(gated(gate[n][0], up[n][0]), gated(gate[n][1], up[n][1])),
                       to_halves(gated(gate[n][2], up[n][2]), gated(gate[n][3], up[n][3])));
    }
    sync_warpgroup();
    for (int at = thread / 8; at < PART * 8; at += 16) {
      const int token = tile.token + first * 8 + at;
      if (first * 8 + at < WIDTH && token < a.tokens && channel < a.out)
        *(uint4 *)((Half *)a.made + (size_t)token * a.out + channel) = *(const uint4 *)(staging + place(at, thread % 8));
    }
    sync_warpgroup();
  }
}

// The same for a head: its channels of a token come together again there.
template <int WIDTH>
__device__ __forceinline__ void write_rotated(const TiledArguments &a, const Tile &tile, const float (&sum)[WIDTH / 8][4],
                                              Half *staging) {
  constexpr int ALL = WIDTH / 8, PART = (ALL + 1) / 2;
  const int thread = threadIdx.x % 128, lane = threadIdx.x % 32, warp = thread / 32, team = threadIdx.x / 128;
  const int head = tile.channel / HEAD_DIM + team, d = thread % 8 * 4;
  float *laid = (float *)staging + team * PART * 8 * ROTATED_PITCH;
#pragma unroll
  for (int first = 0; first < ALL; first += PART) {
#pragma unroll
    for (int n = first; n < first + PART && n < ALL; ++n) {
      float *to = laid + ((n - first) * 8 + lane % 4 * 2) * ROTATED_PITCH + warp * 16 + lane / 4;
      to[0] = sum[n][0], to[ROTATED_PITCH] = sum[n][1], to[8] = sum[n][2], to[ROTATED_PITCH + 8] = sum[n][3];
    }
    sync_warpgroup();
#pragma unroll
    for (int i = 0; i < (PART + 1) / 2; ++i) {
      const int at = thread / 8 + i * 16, token = tile.token + first * 8 + at;
      if (at >= PART * 8 || first * 8 + at >= WIDTH || token >= a.tokens || head * HEAD_DIM >= a.out) continue;
      const float *from = laid + at * ROTATED_PITCH + d;
      const float4 x = *(const float4 *)from, y = *(const float4 *)(from + HALF_DIM);
      float low[4] = {x.x, x.y, x.z, x.w}, high[4] = {y.x, y.y, y.z, y.w};
      rotate_four(a.rotate, Token(a.rotate, token), head, d, low, high);
    }
    sync_warpgroup();
  }
}

// So many halves behind a tile, in steps of eight.
__device__ __forceinline__ TileAt further(TileAt tile, int halves) { return tile + halves / 8; }

// Steps of a tile; every stage is given back when the one behind it is being multiplied.
template <int WIDTH, Kind KIND>
__device__ __forceinline__ void multiply_steps(int steps, Stages<WIDTH, KIND> &s, const Giver &giver, float (&sum)[WIDTH / 8][4],
                                               float (&ups)[KIND == GATED ? WIDTH / 8 : 1][4]) {
  typedef Stages<WIDTH, KIND> S;
  const TileAt first = tile_at(s.tiles), own = tile_at(s.tiles + (KIND == GATED ? 0 : (int)threadIdx.x / 128 * 64 * STEP_HALVES));
  Barrier *before = nullptr;
  keep_in_place(sum);
  if constexpr (KIND == GATED) keep_in_place(ups);
  for (; steps > 0; --steps, s.next()) {
    while (!barrier_try(s.full + s.at, s.parity)) relax();
    multiply_fence();
    const TileAt stage = further(0, s.at * S::HALVES_EACH), given = further(first, S::WEIGHTS) + stage;
#pragma unroll
    for (int k = 0; k < STEP_HALVES / 16; ++k) {
      multiply_tiles<WIDTH>(sum, own + stage, given, k);
      if constexpr (KIND == GATED) multiply_tiles<WIDTH>(ups, further(own, S::WEIGHTS / 2) + stage, given, k);
    }
    multiply_pass();
    multiply_wait<1>();
    if (before != nullptr) giver.give(before);
    before = s.empty + s.at;
  }
  if (KIND == GATED && threadIdx.x % 32 == 0) barrier_arrive(s.turn + (threadIdx.x / 128 ^ 1));  // every stage was waited for
  multiply_wait<0>();
  keep_in_place(sum);
  if constexpr (KIND == GATED) keep_in_place(ups);
  if (before != nullptr) giver.give(before);
}

template <int WIDTH, Kind KIND>
__device__ __forceinline__ void multiply_all(const TiledArguments &a, unsigned rank, Stages<WIDTH, KIND> s) {
  const Giver giver(a, rank);
  const unsigned team = threadIdx.x / 128;
  unsigned count = 0;
  for (Walk walk(a, rank); walk.more(); walk.next(), ++count) {
    const Tile tile = walk.tile<WIDTH, KIND>();
    if (KIND == GATED && count % 2 != team) {
      s.skip(tile.end - tile.begin);
      continue;
    }
    // A parity tells two turns of a stage apart, not three: wait until the other one has come to the end of its tile.
    if (KIND == GATED)
      while (!barrier_try(s.turn + team, team == 0 ? count / 2 % 2 ^ 1 : count / 2 % 2)) relax();
    float sum[WIDTH / 8][4] = {}, ups[KIND == GATED ? WIDTH / 8 : 1][4] = {};
    multiply_steps<WIDTH, KIND>(tile.end - tile.begin, s, giver, sum, ups);
    if constexpr (KIND == GATED) write_gated<WIDTH>(a, tile, sum, ups, s.staging);
    else if constexpr (KIND == ROTATED) write_rotated<WIDTH>(a, tile, sum, s.staging);
    else write_sums<WIDTH>(a, tile, sum);
  }
}

#endif

template <int WIDTH, Kind KIND>
__global__ void __launch_bounds__(TILED_THREADS, 1) tiled(const __grid_constant__ TiledArguments a) {
#if defined(WARPGROUPS) || defined(EMULATED)
  launch_later();
  const Stages<WIDTH, KIND> stages;
  const unsigned rank = rank_in_cluster();
  if (threadIdx.x == 0) {
    for (int i = 0; i < stages.COUNT; ++i) {
      barrier_init(stages.full + i, 1);
      barrier_init(stages.empty + i, (KIND == GATED ? 4 : 8) * (a.across + a.along - 1));
    }
    barrier_init(stages.turn, 4), barrier_init(stages.turn + 1, 4);
    barriers_ready();
  }
  sync_cluster();
  if (threadIdx.x < MULTIPLYING) {
    if constexpr (KIND == GATED) more_registers<232>();
    multiply_all<WIDTH, KIND>(a, rank, stages);
  } else {
    if constexpr (KIND == GATED) fewer_registers<40>();
    if (threadIdx.x == MULTIPLYING) fetch_all<WIDTH, KIND>(a, rank, stages);
  }
#else
  __trap();  // compiled for another kind of GPU: better an error than no result
#endif
}

struct TiledKernel {
  void (*run)(TiledArguments);
  int bytes;  // of shared memory
};

template <Kind KIND>
TiledKernel tiled_kernel_of(int width) {
  switch (width) {
#define OF(WIDTH) \
  case WIDTH:     \
    if constexpr (WIDTH <= most_width(KIND)) return {tiled<WIDTH, KIND>, TILED_BYTES<WIDTH, KIND>};
    OF(16) OF(64) OF(80) OF(96) OF(112) OF(128) OF(136) OF(160) OF(176) OF(200) OF(224) OF(256)
#undef OF
  }
  return {};
}

// One of WIDTHS; null where there is none.
inline TiledKernel tiled_kernel_of(int width, Kind kind) {
  if (kind == GATED) return tiled_kernel_of<GATED>(width);
  return kind == ROTATED ? tiled_kernel_of<ROTATED>(width) : tiled_kernel_of<SUMS>(width);
}

// What a product is, before it is cut.
struct TiledProduct {
  Kind kind;
  const Half *weight, *given;
  void *made;
  int out, in, tokens;
  RotateArguments rotate;
};

// What a launch is given beside its maps.
inline TiledArguments arguments_of(const TiledProduct &p, const Tiling &t) {
  TiledArguments a{};
  a.made = p.made, a.rotate = p.rotate, a.out = p.out, a.tokens = p.tokens, a.steps = t.steps, a.splits = t.splits;
  a.across = t.across, a.along = t.along, a.box = token_box(t.width, t.along), a.clusters = t.clusters;
  a.wide = t.columns / t.across, a.units = t.rows / t.along * a.wide * t.splits;
  return a;
}
