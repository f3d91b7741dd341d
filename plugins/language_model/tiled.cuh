// Products of many rows by warpgroups. A tile has channels (rows of the weight as the checkpoint stores them) and WIDTH tokens:
// tokens are the columns, since only those may be any multiple of eight. One warp fetches, eight multiply; a block takes tile
// after tile, so that the next one's weights are on their way while the last one's results go out.
//
// SUMS over inputs may be cut into parts, which are written one behind the other: whoever reads them adds them up, always in the
// same order. Of a GATED product each warpgroup has every other tile for itself, gates and ups in the same registers, and
// multiplies while the other one writes. A ROTATED one gives each warpgroup a head.
#pragma once
#include "write.cuh"

#if defined(WARPGROUPS) || defined(EMULATED)

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

// Of WIDTHS from this one on, which rise.
template <Kind KIND, int FROM = 0>
TiledKernel tiled_kernel_of(int width) {
  if constexpr (FROM < sizeof WIDTHS / sizeof *WIDTHS) {
    constexpr int WIDTH = WIDTHS[FROM];
    if constexpr (WIDTH <= most_width(KIND)) {
      if (width == WIDTH) return {tiled<WIDTH, KIND>, TILED_BYTES<WIDTH, KIND>};
      return tiled_kernel_of<KIND, FROM + 1>(width);
    }
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
