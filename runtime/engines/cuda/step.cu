// What a decode step does around the engine: new rows into the cache, the choice of the next tokens, their table rows.
// Definitions in numpy: runtime/engines/host_steps.py. Letters as in runtime/manifest.py.

// target[x, starts[b] + t, b] = source[x, t, b] for all x, t, b; source [X, T, B, width], target [X, M, B, width] in
// units of 16 bytes. A negative start leaves its sequence as it is, as does a row that would lie beyond M.
// Grid: (X * T * B, pieces of the width).
extern "C" __global__ void append_rows(const uint4 *source, uint4 *target, const int *starts, int T, int M, int B,
                                       int width) {
  const int sequence = blockIdx.x % B, row = blockIdx.x / B, t = row % T, x = row / T;
  const int start = starts[sequence];
  if (start < 0 || start + t >= M) return;
  const uint4 *from = source + (unsigned long long)blockIdx.x * width;
  uint4 *to = target + (((unsigned long long)x * M + start + t) * B + sequence) * width;
  for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < width; i += gridDim.y * blockDim.x) to[i] = from[i];
}

struct Best {
  float value;
  int index;
};

// The larger value, of equal ones the first; a NaN is above all, as in numpy's argmax.
__device__ __forceinline__ bool above(const Best &a, const Best &b) {
  const bool nan_a = a.value != a.value, nan_b = b.value != b.value;
  if (nan_a || nan_b) return nan_a && (!nan_b || a.index < b.index);
  return a.value > b.value || (a.value == b.value && a.index < b.index);
}

__device__ Best best_of_block(Best mine, Best *shared) {
  for (int offset = 16; offset > 0; offset /= 2) {
    Best other = {__shfl_down_sync(~0u, mine.value, offset), __shfl_down_sync(~0u, mine.index, offset)};
    if (above(other, mine)) mine = other;
  }
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < blockDim.x / 32; ++warp)
      if (above(shared[warp], mine)) mine = shared[warp];
  return mine;  // right in thread 0
}

// The first of the largest logits of each sequence becomes its next token.
// logits [B, V]; state by sequence: input_ids, past_length, starts, taken (tokens chosen so far), all int32 [B];
// cos, sin [B, D] and their tables [M, D]; stop_ids [stops]; ring [slots, B] in pinned memory of the host: the token,
// -1 where the sequence had ended, -2 where the largest logit is no finite number. Grid: (parts, B).
extern "C" __global__ void next_tokens(const float *logits, int V, int *input_ids, int *past_length, int *starts,
                                       int *taken, float *cos, float *sin, const float *cos_table,
                                       const float *sin_table, int M, int D, const int *stop_ids, int stops,
                                       volatile int *ring, int slots, int B, Best *partial, unsigned *tickets) {
  __shared__ Best shared[32];
  __shared__ bool last;
  __shared__ int position;
  const int sequence = blockIdx.y, parts = gridDim.x;
  const float *row = logits + (unsigned long long)sequence * V;
  Best mine = {__int_as_float(0xff800000), 0x7fffffff};  // minus infinity, behind every index
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < V; i += parts * blockDim.x) {
    const Best other = {row[i], i};
    if (above(other, mine)) mine = other;
  }
  mine = best_of_block(mine, shared);
  if (threadIdx.x == 0) {
    partial[sequence * parts + blockIdx.x] = mine;
    __threadfence();
    last = atomicAdd(&tickets[sequence], 1u) == parts - 1;
  }
  __syncthreads();
  if (!last) return;  // the last block of a sequence sees what all have written
  if (threadIdx.x == 0) {
    __threadfence();
    tickets[sequence] = 0;
    for (int part = 0; part < parts; ++part) {
      const volatile Best *found = &partial[sequence * parts + part];
      const Best other = {found->value, found->index};
      if (part == 0 || above(other, mine)) mine = other;
    }
    const bool ended = starts[sequence] < 0, finite = isfinite(mine.value);
    bool stop = !finite;
    for (int i = 0; i < stops; ++i) stop |= mine.index == stop_ids[i];
    ring[(taken[sequence] % slots) * B + sequence] = ended ? -1 : finite ? mine.index : -2;
    taken[sequence] += 1;
    input_ids[sequence] = finite ? mine.index : 0;
    if (!ended) {
      past_length[sequence] += 1;
      starts[sequence] = stop ? -1 : past_length[sequence];
    }
    position = min(past_length[sequence], M - 1);
    __threadfence_system();
  }
  __syncthreads();
  for (int d = threadIdx.x; d < D; d += blockDim.x) {
    cos[sequence * D + d] = cos_table[(unsigned long long)position * D + d];
    sin[sequence * D + d] = sin_table[(unsigned long long)position * D + d];
  }
}
