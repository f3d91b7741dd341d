// What the decode kernel is given, what a block has in shared memory, and how work is cut over blocks.
#pragma once
#include "../common/attention.cuh"
#include "../common/flagged.cuh"
#include "../common/product.cuh"

constexpr int THREADS = 32 * WARPS;                            // that multiply
constexpr int FEW = 32, MANY = 128;                            // rows that a block has of a small and a large matrix, at most
constexpr int FEW_TILES = (HIDDEN + 8 * 128 - 1) / (8 * 128);  // of a small matrix, that a warp takes at a time
constexpr int LONG_TILES = FEW_TILES * 16 * INTERMEDIATE + SLOT_BYTES <= SLOTS * SLOT_BYTES ? FEW_TILES : 1;  // of down
constexpr int SPLITS = 16;                                     // pieces of the prefix, at most
constexpr int ATTENDED = 2;  // the barrier at which the warp that attends says that a step's rows are in the cache

constexpr int QUERIES = HEADS * HEAD_DIM, KEYS = KV_HEADS * HEAD_DIM;
constexpr int QKV_ROWS = QUERIES + 2 * KEYS;
static_assert(SPLITS == HEAD_DIM / 4, "the lanes that share a head's channels also share its pieces");

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
  Flagged *hidden_in, *hidden_mid;     // [C], before a layer and before its MLP
  Flagged *qkv;                        // [QKV_ROWS]
  Flagged *mixed;                      // [H, SPLITS, D / 2], what attention's pieces give, two halves each
  Flagged *peaks;                      // [H, SPLITS, 2], largest score and sum of weights
  Flagged *activation;                 // [I / 2], two halves each
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

struct Memory {
  alignas(128) unsigned char ring[RING_BYTES];
  AttentionMemory attention;
  unsigned x[(HIDDEN > INTERMEDIATE ? HIDDEN : INTERMEDIATE) / 2];  // what is multiplied with, two halves a word
  float many[2][MANY * SPLIT_HIDDEN], few[FEW * MAX_SPLIT];  // what products leave
  float squares[WARPS];
  float residual[FEW];  // this block's own rows of the hidden state
  LayerWeights layers[LAYERS];
  Best bests[WARPS];
  int token;
  RingBarriers barriers;
};

static_assert(QUERIES <= INTERMEDIATE, "x is long enough for attention's result");
static_assert(sizeof(Memory) <= 227 * 1024, "SLOTS * SLOT_BYTES is more than a block can have beside the rest");

struct Rows {
  int first, count;
  // This block's part of `total` rows, a multiple of `unit`.
  __device__ __forceinline__ explicit Rows(unsigned total, unsigned unit = 1)
      : first(total / unit * blockIdx.x / gridDim.x * unit),
        count(total / unit * (blockIdx.x + 1) / gridDim.x * unit - first) {}
};

__device__ __forceinline__ void sync() { sync_threads<1, THREADS>(); }  // all that multiply

__device__ __forceinline__ int pieces_at(int position) { return min(SPLITS, (position + TILE) / TILE); }
