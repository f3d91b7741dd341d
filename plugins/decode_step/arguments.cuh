// What the decode kernel is given, what a block has in shared memory, and how work is cut over blocks.
#pragma once
#include "../common/attention.cuh"
#include "../common/flagged.cuh"
#include "../common/product.cuh"

constexpr int THREADS = 32 * WARPS;       // that multiply and attend
constexpr int FEW = 32, MANY = 128;       // rows that a block has of a small and a large matrix, at most
constexpr int SPLITS = PIECES;            // pieces of the prefix, at most
static_assert(SPLITS <= 16 && SPLITS % 2 == 0, "a lane for each in half a warp");

constexpr int QUERIES = HEADS * HEAD_DIM, KEYS = KV_HEADS * HEAD_DIM;
constexpr int QKV_ROWS = QUERIES + 2 * KEYS;
constexpr int MIXED = HEADS * SPLITS * HEAD_DIM / 2, PEAKS = HEADS * SPLITS * 2;  // what attention's pieces give

// How each matrix is cut, for the producer as for the consumers: two tiles of rows at a time, where a block has more than
// one and whole rows fit. (NVRTC takes no function of the host, not even one that only the compiler calls.)
__device__ constexpr int tiles_of(bool several, int columns) { return several && 16 * columns * 2 <= CHUNK_BYTES ? 2 : 1; }
constexpr bool TALL = HIDDEN > 8 * 128;
typedef Cut<HIDDEN, SPLIT_HIDDEN, tiles_of(true, HIDDEN)> QkvCut;
typedef Cut<QUERIES, SPLIT_QUERIES, tiles_of(TALL, QUERIES)> OutCut;
typedef Cut<HIDDEN, SPLIT_HIDDEN, tiles_of(TILES == 2, HIDDEN)> LargeCut;  // gate and up, head
typedef Cut<INTERMEDIATE, SPLIT_INNER, tiles_of(TALL, INTERMEDIATE)> DownCut;

struct LayerWeights {  // as in the checkpoint, [out, in]
  const Half *input_norm, *qkv, *qkv_bias, *o, *post_norm, *gate_up, *down;
};

struct Best {
  float value;
  int index;
};

struct StepArguments {
  const LayerWeights *layers;
  const Half *embedding, *final_norm, *head;
  Half *past;                          // [M, 2L*K, D]
  const float *cos_table, *sin_table;  // [M, D]
  Flagged *hidden_in, *hidden_mid;     // [COPIES, C], before a layer and before its MLP
  Flagged *qkv;                        // [QKV_ROWS]
  Flagged *mixed;                      // [COPIES, H, SPLITS, D / 2], what attention's pieces give, two halves each
  Flagged *peaks;                      // [COPIES, H, SPLITS, 2], largest score and sum of weights
  Flagged *activation;                 // [COPIES, I / 2], two halves each
  Flagged *bests;                      // [blocks, 2], value and index
  unsigned *turns;                     // [2]: turns until now, blocks that have finished; zeros at first
  int *token, *past_length;            // the token to feed and the rows before it; both move on
  int *tokens;                         // [steps], what was chosen
  float *logits;                       // [steps, V] or null
  int steps;
  long long *marks;                    // [blocks, L + 1, 32] or null: cycles at points of each phase of the last step
  Half *rows;                          // [2L*K, D], the newest row, where PURE is 1
  int past_rows;                       // M, where PURE is 1
};

// PURE is 1 where the kernel is a function: one step, that writes nothing but `logits` and `rows`. `past` is read only, the
// tables have one row, `token`, `past_length` and `turns` stay as they are, and nobody chooses a token. What is fed may be
// garbage then (TensorRT runs a layer on whatever is there when it tries it), but no address is made of it.
__device__ __forceinline__ int first_position(const StepArguments &a) {
  return PURE ? max(0, min(*a.past_length, a.past_rows)) : *a.past_length;
}

__device__ __forceinline__ int first_token(const StepArguments &a) {
  return PURE ? max(0, min(*a.token, VOCABULARY - 1)) : *a.token;
}

struct Unit {  // of attention: a key head, and a piece of the prefix with its rows; and the newest row
  int kv, split, begin, end, position;
};

struct AttentionMemory {
  Slice slices[ATTENDING];
  float cos[HEAD_DIM], sin[HEAD_DIM];  // of the newest row
#if GATHER
  Gathered gathered;
#endif
};

struct Rows {
  int first, count;
};

// This block's part of `total` rows, a multiple of `unit`.
__device__ __forceinline__ Rows share_of(unsigned total, unsigned unit = 1) {
  const int first = total / unit * blockIdx.x / gridDim.x * unit;
  return {first, (int)(total / unit * (blockIdx.x + 1) / gridDim.x * unit) - first};
}

struct Memory {
  alignas(128) unsigned char ring[RING_BYTES];
  AttentionMemory attention;
  unsigned x[(HIDDEN > INTERMEDIATE ? HIDDEN : INTERMEDIATE) / 2];  // what is multiplied with, two halves a word
  union {
    float many[2][MANY * SPLIT_HIDDEN];  // what products of large matrices leave
    PartialMix partial[ATTENDING];       // what warps that attend leave
  };
  float few[3][FEW * MAX_SPLIT];  // of small ones; each phase its own, as warps of the next may have begun
  float squares[WARPS], embedding_squares[WARPS];  // sums over channels of the hidden state
  float level[2];
  float residual[FEW];  // this block's own rows of the hidden state
  LayerWeights layers[LAYERS];
  Best bests[WARPS];
  Unit unit;
  Rows qkv, hidden, inner, head;  // computed once: a division takes long, and registers are few
  int token;
  RingBarriers barriers;
};

static_assert(HIDDEN <= 4096, "a vector is kept in registers");
static_assert(QUERIES <= INTERMEDIATE, "x is long enough for attention's result");
static_assert(sizeof(Memory) <= 227 * 1024, "RING_BYTES is more than a block can have beside the rest");

// A matrix from this block's first row on.
template <class Cut>
__device__ __forceinline__ RowSource rows_of(const Half *matrix, const Rows &rows) {
  return {matrix + (long long)rows.first * Cut::K, nullptr, ~0u};
}

__device__ __forceinline__ void sync() { sync_threads<1, THREADS>(); }  // all that multiply

__device__ __forceinline__ int pieces_at(int position) { return min(SPLITS, (position + TILE) / TILE); }
