// CUDA as functions that count, for drive_calls.cpp: what was launched and how, and which one fails.
#pragma once
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstring>

#include "language_model/map.h"

static std::atomic<int> launched{0}, captured{0}, replayed{0}, graphs{0}, execs{0}, streams{0};
static std::atomic<int> early{0}, late{0};    // launches that may begin before the one before has ended, and those that may not
static thread_local bool capturing;
static thread_local cudaError_t last;         // as CUDA keeps it
static thread_local char const *fails = "";   // the function that fails, and leaves its error
static int capability = 8;                    // the device's, its first number
static bool old_driver = false;               // one that knows nothing of maps
static thread_local struct {                  // the last launch
  unsigned blocks, threads, cluster;
  size_t shared;
} latest;
static thread_local void (*look)(void const *arguments) = nullptr;  // at what a launch is given, while it is there
constexpr int MOST_SHARED = 227 << 10;        // bytes that a block may have there

static cudaError_t done(char const *name) {
  if (std::strcmp(name, fails) != 0) return cudaSuccess;
  return last = cudaErrorMemoryAllocation;
}

template <class T>
static T *thing() { return reinterpret_cast<T *>(&launched); }

extern "C" {
char const *cudaGetErrorString(cudaError_t) { return "out of memory"; }
cudaError_t cudaGetLastError() { cudaError_t const was = last; return last = cudaSuccess, was; }
cudaError_t cudaPeekAtLastError() { return last; }
cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr which, int) {
  return *value = which == cudaDevAttrComputeCapabilityMajor ? capability : 132, cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(void const *, cudaFuncAttribute, int bytes) {
  return bytes > MOST_SHARED ? last = cudaErrorMemoryAllocation : done("attribute");
}
cudaError_t cudaLaunchKernelExC(cudaLaunchConfig_t const *config, void const *, void **values) {
  bool soon = false;
  latest = {config->gridDim.x, config->blockDim.x, 1, config->dynamicSmemBytes};
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    cudaLaunchAttribute const &a = config->attrs[i];
    if (a.id == cudaLaunchAttributeProgrammaticStreamSerialization) soon = a.val.programmaticStreamSerializationAllowed != 0;
    if (a.id == cudaLaunchAttributeClusterDimension) latest.cluster = a.val.clusterDim.x * a.val.clusterDim.y * a.val.clusterDim.z;
  }
  if (look != nullptr) look(values[0]);
  ++(soon ? early : late), ++(capturing ? captured : launched);
  return done("launch");
}
CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType, cuuint32_t rank, void *start, cuuint64_t const *sizes,
                                cuuint64_t const *pitch, cuuint32_t const *box, cuuint32_t const *steps, CUtensorMapInterleave,
                                CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  // What the driver asks for, and what the kernels do of the way in which boxes lie.
  bool const good = rank == 2 && (size_t)start % 16 == 0 && pitch[0] % 16 == 0 && pitch[0] == sizes[0] * 2 && box[0] == 64 &&
                    box[1] >= 1 && box[1] <= 256 && steps[0] == 1 && steps[1] == 1;
  if (!good || done("describe") != cudaSuccess) return CUDA_ERROR_INVALID_VALUE;
  return *map = {(unsigned short const *)start, (int)sizes[1], (int)sizes[0], (int)box[1]}, CUDA_SUCCESS;
}
cudaError_t cudaGetDriverEntryPoint(char const *name, void **function, unsigned long long, cudaDriverEntryPointQueryResult *found) {
  bool const known = !old_driver && std::strcmp(name, "cuTensorMapEncodeTiled") == 0;
  *function = known ? (void *)cuTensorMapEncodeTiled : nullptr;
  return *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound, cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *made, unsigned) {
  if (cudaError_t error = done("stream")) return error;
  return *made = thing<CUstream_st>(), ++streams, cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return --streams, cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus *status) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  if (cudaError_t error = done("begin")) return error;
  return capturing = true, cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *made) {
  capturing = false;
  return *made = thing<CUgraph_st>(), ++graphs, cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *made, cudaGraph_t, unsigned long long) {
  if (cudaError_t error = done("instantiate")) return error;
  return *made = thing<CUgraphExec_st>(), ++execs, cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t) { return --graphs, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return --execs, cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return ++replayed, done("replay"); }
}
