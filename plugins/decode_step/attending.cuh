// What a block does for attention: one unit, or nothing, by its first ATTENDING warps, while the others wait for all units.
// The cache rows of the next layer are asked for as soon as it is done with one.
#pragma once
#include "arguments.cuh"

constexpr int ATTENDING_BARRIER = 2;  // of the warps that attend

struct Attending {
  const StepArguments &a;
  Memory &memory;
  Unit unit;

  __device__ Attending(const StepArguments &a, Memory &memory) : a(a), memory(memory) {}

  // Which key head and piece of the prefix this block has in this step, if any; its rows of the first layer are asked for.
  // Whoever comes behind the block's next barrier may attend.
  __device__ __forceinline__ void start(int at) {
    const int pieces = pieces_at(at), rows = at + 1, thread = this_thread();
    const int kv = blockIdx.x / pieces, split = blockIdx.x % pieces;
    unit = {kv, split, rows * split / pieces, rows * (split + 1) / pieces, at};
    if (thread == 0) memory.unit = unit;
    if (kv >= KV_HEADS) return;
    const long long angles = PURE ? 0 : (long long)at * HEAD_DIM;
    if (thread < HEAD_DIM) {
      memory.attention.cos[thread] = a.cos_table[angles + thread];
      memory.attention.sin[thread] = a.sin_table[angles + thread];
    }
    if (thread / 32 < ATTENDING) ask(0, unit.begin);
  }

  // This unit's keys and values in a row of the cache.
  __device__ __forceinline__ int keys(int layer) const { return (layer * KV_HEADS + unit.kv) * HEAD_DIM; }
  __device__ __forceinline__ int values(int layer) const { return keys(layer) + LAYERS * KV_HEADS * HEAD_DIM; }
  __device__ __forceinline__ Half *newest() const { return PURE ? a.rows : a.past + (long long)unit.position * CACHE_ROW; }
  __device__ __forceinline__ Slice &slice() const { return memory.attention.slices[this_thread() / 32]; }

  // This warp's part of a tile.
  __device__ __forceinline__ Piece piece(int tile) const {
    const int first = tile + this_thread() / 32 * SLICE;
    return {first, min(SLICE, unit.end - first), unit.position};
  }

  // Is the newest row among this warp's?
  __device__ __forceinline__ bool has_newest() const {
    return unit.end == unit.position + 1 && (unit.position - unit.begin) % TILE / SLICE == this_thread() / 32;
  }

  __device__ __forceinline__ void ask(int layer, int tile) {
    ask_rows(slice(), a.past + keys(layer), a.past + values(layer), piece(tile));
  }

  __device__ __forceinline__ void attend(int layer, unsigned turn) {
    unit = memory.unit;  // not kept in registers over a layer
    if (unit.kv >= KV_HEADS || this_thread() / 32 >= ATTENDING) return;
    AttentionMemory &m = memory.attention;
    const Flagged *key = a.qkv + QUERIES + unit.kv * HEAD_DIM, *value = key + KEYS;
    mark(layer, 29);
    Queries queries;
    const Flagged *query = a.qkv + unit.kv * GROUP * HEAD_DIM;
#if GATHER
    m.gathered.take(query, key, value, turn, m.cos, m.sin);
    sync_threads<ATTENDING_BARRIER, 32 * ATTENDING>();
    queries.read(m.gathered);  // nobody writes there before the next barrier
#else
    queries.take(query, key, value, has_newest(), turn, m.cos, m.sin);
#endif
    mark(layer, 30);
    Mixed mixed;
#pragma unroll 1
    for (int tile = unit.begin; tile < unit.end; tile += TILE) {
      if (tile > unit.begin) ask(layer, tile);
      queries.put_newest(slice(), newest() + keys(layer), newest() + values(layer), piece(tile), m.cos, m.sin);
      copies_done();
      __syncwarp();
      mixed.add(slice(), queries, piece(tile).count);
      __syncwarp();
    }
    mixed.put(memory.partial[this_thread() / 32]);
    sync_threads<ATTENDING_BARRIER, 32 * ATTENDING>();
    give_mixed(turn);
    mark(layer, 31);
    if (layer + 1 < LAYERS) ask(layer + 1, unit.begin);
  }

  // What this unit has found, for the whole grid: a mean of values for each head, and what it weighs.
  __device__ __forceinline__ void give_mixed(unsigned turn) {
    const int warp = this_thread() / 32, lane = this_thread() % 32;
#pragma unroll 1
    for (int head = warp; head < GROUP; head += ATTENDING) {
      float largest = LOWEST, total = 0;
      float2 sum = make_float2(0, 0);
#pragma unroll
      for (int i = 0; i < ATTENDING; ++i) largest = fmaxf(largest, memory.partial[i].largest[head]);
#pragma unroll
      for (int i = 0; i < ATTENDING; ++i) {
        const PartialMix &part = memory.partial[i];
        const float weight = __expf(part.largest[head] - largest);
        const float2 value = *(const float2 *)&part.values[head][2 * lane];
        total += weight * part.total[head], sum.x += weight * value.x, sum.y += weight * value.y;
      }
      const float share = 1 / total;
      const int place = (unit.kv * GROUP + head) * SPLITS + unit.split;
      if (lane < 2) give_all(a.peaks + place * 2 + lane, PEAKS, turn, __float_as_uint(lane == 0 ? largest : total));
      give_all(a.mixed + place * (HEAD_DIM / 2) + lane, MIXED, turn, to_halves(sum.x * share, sum.y * share));
    }
  }

  __device__ __forceinline__ void mark([[maybe_unused]] int layer, [[maybe_unused]] int number) {
#if PROFILE
    if (this_thread() == 0 && a.marks) a.marks[((long long)blockIdx.x * (LAYERS + 1) + layer) * 32 + number] = clock64();
#endif
  }
};
