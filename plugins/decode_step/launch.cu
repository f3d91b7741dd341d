// The decode kernel as a function of one step, compiled for one model: sizes come as macros (kernel.cuh), and VARIANT names
// what this file defines.
#define LAUNCHER
#include "launch.h"

namespace {

#include "kernel.cuh"

static_assert(PURE, "a layer of TensorRT writes to its outputs alone");

struct LayerTable {
  LayerWeights layers[LAYERS];
};

static_assert(sizeof(LayerTable) == sizeof(void *) * LAYERS * spatiallm::LAYER_TENSORS, "the same order");
static_assert(sizeof(StepArguments) + sizeof(LayerTable) <= 4096, "what a launch can carry");

// The table of layers comes by value: a captured graph keeps it, and no copy to the device has to be waited for.
__global__ void __launch_bounds__(THREADS + 32, 1)
    run_one_step(const __grid_constant__ StepArguments a, const __grid_constant__ LayerTable table) {
  run_block(a, table.layers);
}

// Pieces of the workspace, all zeros at first. Each begins at a multiple of 16 bytes.
struct Workspace {
  alignas(16) Flagged hidden_in[COPIES * HIDDEN];
  alignas(16) Flagged hidden_mid[COPIES * HIDDEN];
  alignas(16) Flagged qkv[QKV_ROWS];
  alignas(16) Flagged mixed[COPIES * MIXED];
  alignas(16) Flagged peaks[COPIES * PEAKS];
  alignas(16) Flagged activation[COPIES * INTERMEDIATE / 2];
  alignas(16) unsigned turns[2];
};

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Blocks for `multiprocessors`, or 0 where these are too few: each has room for so many rows, and a unit of attention or none.
int blocks_for(int multiprocessors, int past_rows) {
  const int blocks = multiprocessors < INTERMEDIATE / 2 ? multiprocessors : INTERMEDIATE / 2;
  const int pieces = (past_rows + TILE) / TILE < SPLITS ? (past_rows + TILE) / TILE : SPLITS;
  const bool fits = ceil_div(QKV_ROWS, blocks) <= FEW && ceil_div(HIDDEN, blocks) <= FEW &&
                    4 * ceil_div(INTERMEDIATE / 2, blocks) <= MANY && KV_HEADS * pieces <= blocks;
  return fits ? blocks : 0;
}

bool aligned(const void *address) { return (unsigned long long)address % 16 == 0; }

// Blocks on the current device, or 0 where it is none for this kernel.
cudaError_t count_blocks(int past_rows, int *blocks) {
  int device = 0, multiprocessors = 0, major = 0, minor = 0;
  *blocks = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device)) return error;
  if (major == 9 && minor == 0) *blocks = blocks_for(multiprocessors, past_rows);
  return cudaSuccess;
}

bool fits(int past_rows) {
  int blocks = 0;
  return count_blocks(past_rows, &blocks) == cudaSuccess && blocks > 0;
}

cudaError_t launch(const spatiallm::DecodeStepTensors &t, void *workspace, cudaStream_t stream) {
  int blocks = 0;
  if (cudaError_t error = count_blocks(t.past_rows, &blocks)) return error;
  if (blocks == 0) return cudaErrorInvalidConfiguration;
  const spatiallm::ModelWeights &weights = t.weights;
  LayerTable table;
  for (int i = 0; i < LAYERS * spatiallm::LAYER_TENSORS; ++i) {
    if (!aligned(weights.layers[i])) return cudaErrorMisalignedAddress;
    ((const void **)&table)[i] = weights.layers[i];
  }
  for (const void *address : {t.past, weights.embedding, weights.head, weights.final_norm, (const void *)workspace})
    if (!aligned(address)) return cudaErrorMisalignedAddress;
  Workspace &w = *(Workspace *)workspace;
  StepArguments a = {};
  a.embedding = (const Half *)weights.embedding, a.final_norm = (const Half *)weights.final_norm;
  a.head = (const Half *)weights.head;
  a.past = (Half *)t.past, a.past_rows = t.past_rows, a.rows = (Half *)t.rows;  // PURE reads `past` only
  a.cos_table = t.cos, a.sin_table = t.sin;
  a.hidden_in = w.hidden_in, a.hidden_mid = w.hidden_mid, a.qkv = w.qkv, a.mixed = w.mixed, a.peaks = w.peaks;
  a.activation = w.activation, a.turns = w.turns;
  a.token = (int *)t.token, a.past_length = (int *)t.past_length;
  a.logits = t.logits, a.steps = 1;
  constexpr int shared = sizeof(Memory);
  const void *kernel = (const void *)run_one_step;
  if (cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared)) return error;
  if (cudaError_t error = cudaMemsetAsync(workspace, 0, sizeof(Workspace), stream)) return error;
  cudaLaunchAttribute together;  // the launch fails where not all blocks are resident, instead of waiting for ever
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks), config.blockDim = dim3(THREADS + 32);
  config.dynamicSmemBytes = shared, config.stream = stream;
  config.attrs = &together, config.numAttrs = 1;
  void *arguments[] = {&a, &table};
  return cudaLaunchKernelExC(&config, kernel, arguments);
}

}  // namespace

extern const spatiallm::DecodeStep VARIANT;
const spatiallm::DecodeStep VARIANT = {
    {HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY, QKV_BIAS, HALF_IS_BF16, EPSILON},
    sizeof(Workspace),
    fits,
    launch,
};
