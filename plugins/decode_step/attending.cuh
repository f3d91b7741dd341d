// The warp that attends. It never waits for its block, only for queries, and asks for the next layer's cache rows as soon as
// it is done with one.
#pragma once
#include "arguments.cuh"

struct Attending {
  const StepArguments &a;
  AttentionMemory &memory;
  int lane = threadIdx.x % 32, kv, split, begin, end, position;

  __device__ Attending(const StepArguments &a, Memory &memory) : a(a), memory(memory.attention) {}

  __device__ void run() {
    const int before = first_position(a);
    unsigned turn = *a.turns;
    for (int step = 0; step < a.steps; ++step) {
      if (step > 0) wait_for_choice(turn);
      const bool has_unit = start(before + step);
      for (int layer = 0; layer < LAYERS; ++layer) {
        ++turn;
        if (has_unit) attend(layer, turn);
      }
      ++turn;
      __threadfence();
      arrive_threads<ATTENDED, 64>();
    }
  }

  // All blocks have chosen, so that their rows are in the cache. Nobody waits for a warp without a unit: when it comes here,
  // others may have chosen once more.
  __device__ __forceinline__ void wait_for_choice(unsigned turn) {
    for (int i = lane; i < gridDim.x; i += 32) wait_turn(a.bests + 2 * i + 1, turn);
    __threadfence();
    __syncwarp();
  }

  // Which key head and piece of the prefix this block has in this step, if any; its rows of the first layer are asked for.
  __device__ bool start(int at) {
    const int pieces = pieces_at(at), rows = at + 1;
    position = at, kv = blockIdx.x / pieces, split = blockIdx.x % pieces;
    begin = rows * split / pieces, end = rows * (split + 1) / pieces;
    if (kv >= KV_HEADS) return false;
    const long long angles = PURE ? 0 : (long long)at * HEAD_DIM;
    for (int d = lane; d < HEAD_DIM; d += 32) {
      memory.cos[d] = a.cos_table[angles + d];
      memory.sin[d] = a.sin_table[angles + d];
    }
    ask(0, begin);
    __syncwarp();
    return true;
  }

  // This unit's keys and values in a row of the cache.
  __device__ __forceinline__ int keys(int layer) const { return (layer * KV_HEADS + kv) * HEAD_DIM; }
  __device__ __forceinline__ int values(int layer) const { return keys(layer) + LAYERS * KV_HEADS * HEAD_DIM; }
  __device__ __forceinline__ Half *newest() const { return PURE ? a.rows : a.past + (long long)position * CACHE_ROW; }
  __device__ __forceinline__ Piece piece(int first) const { return {first, min(TILE, end - first), position}; }

  __device__ __forceinline__ void ask(int layer, int first) {
    ask_rows(memory, a.past + keys(layer), a.past + values(layer), piece(first));
  }

  __device__ void attend(int layer, unsigned turn) {
    const Flagged *key = a.qkv + QUERIES + kv * HEAD_DIM, *value = key + KEYS;
    mark(layer, 29);
    Queries queries;
    queries.take(a.qkv + kv * GROUP * HEAD_DIM, turn, memory.cos, memory.sin);
    mark(layer, 30);
    Mixed mixed;
    for (int first = begin; first < end; first += TILE) {
      if (first > begin) ask(layer, first);
      put_newest(memory, newest() + keys(layer), newest() + values(layer), piece(first), key, value, turn, memory.cos,
                 memory.sin);
      copies_done();
      __syncwarp();
      mixed.add(memory, queries, piece(first).count);
      __syncwarp();
    }
    give_mixed(mixed, turn);
    mark(layer, 31);
    if (layer + 1 < LAYERS) ask(layer + 1, begin);
  }

  // What this unit has found, for the whole grid: a mean of values for each head, and what it weighs.
  __device__ __forceinline__ void give_mixed(const Mixed &mixed, unsigned turn) {
    if (lane / 4 >= GROUP) return;
    const int place = (kv * GROUP + lane / 4) * SPLITS + split;
    Flagged *peak = a.peaks + place * 2, *to = a.mixed + place * (HEAD_DIM / 2);
    if (lane % 4 == 0) give(peak, turn, mixed.largest), give(peak + 1, turn, mixed.total);
    const float share = 1 / mixed.total;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      give_halves(to + 4 * i + lane % 4, turn, mixed.values[i][0] * share, mixed.values[i][1] * share);
  }

  __device__ __forceinline__ void mark([[maybe_unused]] int layer, [[maybe_unused]] int number) {
#if PROFILE
    if (lane == 0 && a.marks) a.marks[((long long)blockIdx.x * (LAYERS + 1) + layer) * 32 + number] = clock64();
#endif
  }
};
