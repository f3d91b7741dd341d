// How a product is cut into tiles: how many tokens a tile has, into how many parts the sum over inputs is cut, and which blocks
// share what they read.
//
// A step of a tile, 128 rows of a weight by so many tokens by 64 inputs, multiplies for four cycles a token. What comes from the
// second-level cache for it must be there in time: two blocks of a cluster can share what they read, a tile of weights (side by
// side along tokens) or of tokens (along channels).
#pragma once

// What becomes of a product: parts of its sums, as float32; silu(gate) * up of a weight whose rows are gates and then ups; or
// queries, keys and values with bias and rotation, heads of 64 channels.
enum Kind { SUMS, GATED, ROTATED };

constexpr int STEP_HALVES = 64;        // inputs of a step
constexpr int SPLITS[] = {1, 2, 3, 4, 5, 6, 8, 12, 16};
constexpr int WIDTHS[] = {16, 64, 80, 96, 112, 128, 136, 160, 176, 200, 224, 256};  // tokens of a tile
constexpr int SHARED_BYTES = 226 << 10;  // of a block
constexpr int MOST_STAGES = 12;
constexpr int ROTATED_PITCH = 68;      // floats of a head on its way out, four more than it has, so that few meet in a bank

constexpr int WEIGHT_ROWS = 128;       // of a tile: 64 channels for each of two warpgroups; gated: 64 gates and their ups
constexpr int channels_of(Kind kind) { return kind == GATED ? WEIGHT_ROWS / 2 : WEIGHT_ROWS; }

struct Tiling {
  int width, splits;         // tokens of a tile; parts of the sum
  int across, along;         // blocks of a cluster along tokens, and along channels
  int rows, columns, steps;  // tiles of channels, tiles of tokens, steps of all parts together
  int clusters;              // that work at a time
  long long cycles;          // as predicted
};

// What a tiling is chosen for.
struct Wanted {
  Kind kind;
  int out, in, tokens;  // gated: out is half of the weight's rows
  int multiprocessors;
  long long part_floats;  // that may be written
};

inline double larger(double a, double b) { return a > b ? a : b; }
inline int up(long long a, long long b) { return (int)((a + b - 1) / b); }

// Sums of a gated tile are twice as many.
constexpr int most_width(Kind kind) { return kind == SUMS ? 256 : 176; }
constexpr int stage_bytes(int width) { return (width + WEIGHT_ROWS) * STEP_HALVES * 2; }
// Half of a tile's results on their way out, for two warpgroups.
constexpr int staging_bytes(int width, Kind kind) {
  return kind == SUMS ? 0 : (width / 8 + 1) / 2 * 8 * 2 * (kind == GATED ? 64 * 2 : ROTATED_PITCH * 4);
}
constexpr int stages_of(int width, Kind kind) {
  const int fit = (SHARED_BYTES - 2048 - staging_bytes(width, kind)) / stage_bytes(width);
  return fit < MOST_STAGES ? fit : MOST_STAGES;
}
// Tokens of a tile that each of the blocks along channels fetches; the last ones overlap where eights do not divide.
constexpr int token_box(int width, int along) { return (width / 8 + along - 1) / along * 8; }
// Rows of a weight that are fetched at a time.
constexpr int weight_box(Kind kind, int across) { return kind == GATED ? WEIGHT_ROWS / 2 : WEIGHT_ROWS / across; }

// Cycles at 1.755 GHz, fitted to what an H100 took: benchmarks/gpu/tilings.cu has the measurements. Sums and rotated products
// include the kernel that follows them.
inline Tiling tiling_of(const Wanted &w, int width, int splits, int across, int along) {
  Tiling t{width, splits, across, along, up(w.out, channels_of(w.kind)), up(w.tokens, width), up(w.in, STEP_HALVES), 0, 0};
  t.rows = up(t.rows, along) * along, t.columns = up(t.columns, across) * across;
  const int units = t.rows / along * (t.columns / across) * splits, most = w.multiprocessors / (across * along);
  t.clusters = units < most ? units : most;
  if (t.clusters < 1) return t;
  const bool gated = w.kind == GATED, rotated = w.kind == ROTATED;
  const double rounds = up(units, t.clusters), blocks = t.clusters * across * along;
  const double read = 128.0 * (WEIGHT_ROWS / across + token_box(width, along));           // bytes of a step
  const double within = 128 * (WEIGHT_ROWS + width) + 4 * (2048 + 32 * width);            // in and out of shared memory
  const double step = larger(read * blocks / 4600, within / (gated ? 61.8 : 68.2));
  const double tiles = rounds * (up(t.steps, splits) * step + (rotated ? 33 : gated ? 0 : 7) * width);
  const double weights = (gated ? 4.0 : 2.0) * w.out * w.in / 1380;                        // out of the device's memory
  const double written = w.kind == SUMS ? 8.0 * splits * w.tokens * w.out / 2100 + 43 * splits : 0;
  t.cycles = (long long)(larger(tiles, weights) + (gated ? 157 : 4400) + (across * along > 1 ? 860 : 0) + written);
  return t;
}

// The fastest by that reckoning; `clusters` is 0 where there is none.
inline Tiling choose_tiling(const Wanted &w) {
  Tiling best{};
  for (int width : WIDTHS)
    for (int splits : SPLITS)
      for (int shape = 0; shape < 3; ++shape) {  // a cluster of four finds no place on some groups of multiprocessors
        if (splits > (w.kind == SUMS ? up(w.in, STEP_HALVES) : 1) || width > most_width(w.kind)) continue;
        if (splits > 1 && (long long)splits * w.tokens * w.out > w.part_floats) continue;
        const Tiling t = tiling_of(w, width, splits, 1 + (shape == 1), 1 + (shape == 2));
        if (t.clusters > 0 && (best.clusters == 0 || t.cycles < best.cycles)) best = t;
      }
  return best;
}
