// Whole decode steps of one sequence in one persistent kernel: all layers, the head and the choice of the next token.
//
// One block for each multiprocessor: WARPS warps that multiply and attend, and one that asks for weights. Every matrix is cut
// by rows over the blocks. The grid never waits at a barrier: what one block gives to others carries the turn in which
// it was written (flagged.cuh). Weights wait for nobody (ring.cuh). Hidden states, norms, sums, softmax and rotation are
// float32; what goes into a product is half.
//
// The definition is reference.py. Sizes come as macros: HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD_DIM,
// VOCABULARY, QKV_BIAS, EPSILON, HALF_IS_BF16, PURE (arguments.cuh), and those of `Tuning` in sizes.py.

#include "arguments.cuh"
#include "attending.cuh"
#include "pieces.cuh"

// ---- the producer: everything in the order in which `Step` computes it

__device__ void produce(const StepArguments &a, Memory &memory) {
  Producer producer(memory.ring, &memory.barriers);
  const Rows qkv = memory.qkv, hidden = memory.hidden, inner = memory.inner, head = memory.head;
#pragma unroll 1
  for (int step = 0; step < a.steps; ++step) {
#pragma unroll 1
    for (int l = 0; l < LAYERS; ++l) {
      const LayerWeights &w = memory.layers[l];
      push_rows<QkvCut>(producer, qkv.count, rows_of<QkvCut>(w.qkv, qkv));
      push_rows<OutCut>(producer, hidden.count, rows_of<OutCut>(w.o, hidden));
      const Half *up = w.gate_up + (long long)(INTERMEDIATE + inner.first) * HIDDEN;
      push_rows<LargeCut>(producer, 2 * inner.count, {w.gate_up + (long long)inner.first * HIDDEN, up, (unsigned)inner.count});
      push_rows<DownCut>(producer, hidden.count, rows_of<DownCut>(w.down, hidden));
    }
    push_rows<LargeCut>(producer, head.count, rows_of<LargeCut>(a.head, head));
  }
}

// ---- the warps that multiply

struct Step {
  const StepArguments &a;
  Memory &memory;
  Consumer stream;
  Attending attending;
  unsigned turn = 0;  // goes with everything that is written for the grid; a new one for each layer and each choice
  int position = 0, layer = 0;
  int thread, warp, lane;
  int mark_count = 0;

  __device__ Step(const StepArguments &a, Memory &memory) : a(a), memory(memory), attending(a, memory) {
    stream.barriers = &memory.barriers;
    begin_phase();
  }

  // At the start of a phase, which waits for the grid: weights have to leave room for what others say.
  __device__ __forceinline__ void begin_phase() {
    thread = this_thread(), warp = thread / 32, lane = thread % 32;
    if (thread == 0) set_flight(FLIGHT_WAITING);
  }

  // It has what it waited for.
  __device__ __forceinline__ void begin_product() {
    if (thread == 0) set_flight(FLIGHT);
  }

  // The producer looks at it whenever it does: nothing orders the two, which racecheck (CHECKED) could not know.
  __device__ __forceinline__ void set_flight(unsigned bytes) {
    if (!CHECKED) memory.barriers.flight = bytes;
  }

  __device__ __forceinline__ void mark() {
#if PROFILE
    if (thread == 0 && a.marks) a.marks[((long long)blockIdx.x * (LAYERS + 1) + layer) * 32 + mark_count] = clock64();
    ++mark_count;
#endif
  }

  // Cycles that warp 0 waited for weights since the last call, as mark number 24 + phase.
  __device__ __forceinline__ void mark_stall(int phase) {
#if PROFILE
    if (thread == 0 && a.marks) a.marks[((long long)blockIdx.x * (LAYERS + 1) + layer) * 32 + 24 + phase] = stream.stalled;
    stream.stalled = 0;
#endif
  }

  // Wait for this warp's channels of a hidden state (null: take the embedding) and put them into memory.x, times gains and
  // times `level`. The norm's own factor is not known yet, but it is one number, which the product's sums get behind the
  // next barrier (`scale`): so no warp waits for another before it multiplies.
  template <class Cut>
  __device__ __forceinline__ void load_channels(const Columns<Cut> &columns, const Flagged *hidden, const Half *gains,
                                                unsigned turn, int place) {
    constexpr int COUNT = Cut::PARTS * Cut::COUNT;
    if (warp >= Cut::SPLIT) return;
    const auto word = [&](int i) {  // two channels; where there is no group, those of the first again
      return columns.group_of_row(i / Cut::COUNT, i % Cut::COUNT) * 32 + lane;
    };
    const unsigned *row = (const unsigned *)(a.embedding + (long long)memory.token * HIDDEN);
    unsigned gain[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; ++i) gain[i] = __ldg((const unsigned *)gains + word(i));
    const float s = level(place);
    uint4 seen[COUNT];
    if (hidden) take_pairs(turn, seen, [&](int i) { return hidden + 2 * word(i); });
    float sum = 0;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      float2 x = make_float2(__uint_as_float(seen[i].x), __uint_as_float(seen[i].z));
      if (!hidden) x = to_floats(__ldg(row + word(i)));
      const float2 g = to_floats(gain[i]);
      if (columns.group(i / Cut::COUNT, i % Cut::COUNT) >= 0) sum += x.x * x.x + x.y * x.y;
      memory.x[word(i)] = to_halves(x.x * s * g.x, x.y * s * g.y);
    }
    sum = sum_of_warp(sum);
    if (lane == 0) memory.squares[warp] = sum;
    __syncwarp();
  }

  __device__ __forceinline__ static float norm_of(float squares) { return rsqrtf(squares * (1.0f / HIDDEN) + EPSILON); }

  // What hidden states are multiplied with so that they are halves of a good size: the norm's factor of the last hidden state,
  // a sixteenth of it, since the next one may be much larger. Two places in turn, 0 before a layer and 1 before its MLP.
  __device__ __forceinline__ float level(int place) const {
    if (place != 0 || layer > 0) return memory.level[place];
    float sum = 0;
#pragma unroll
    for (int i = 0; i < WARPS; ++i) sum += memory.embedding_squares[i];
    return norm_of(sum) / 16;
  }

  // What a product's sums lack, behind the barrier that follows it; thread 0 leaves the next level.
  __device__ __forceinline__ float scale(int place) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < SPLIT_HIDDEN; ++i) sum += memory.squares[i];
    const float norm = norm_of(sum), factor = norm / level(place);
    if (thread == 0) memory.level[place ^ 1] = norm / 16;
    return factor;
  }

  __device__ void project() {
    begin_phase();
    const LayerWeights &w = memory.layers[layer];
    const Rows rows = memory.qkv;
    const float bias = QKV_BIAS && thread < rows.count ? to_float(__ldg(w.qkv_bias + rows.first + thread)) : 0;
    load_channels(Columns<QkvCut>(thread), layer == 0 ? nullptr : my_copy(a.hidden_in, HIDDEN), w.input_norm, turn - 1, 0);
    mark();
    const Kept<QkvCut> vector(thread, memory.x);
    begin_product();
    mark();
    product<FEW>(stream, memory.ring, vector, rows.count, memory.few[0]);
    mark_stall(0);
    sync();
    mark();
    if (thread < rows.count)
      give(a.qkv + rows.first + thread, turn, row_sum<SPLIT_HIDDEN, FEW>(memory.few[0], thread) * scale(0) + bias);
    mark();
  }

  // Rows of the hidden state grow by what a product left.
  template <int SPLIT>
  __device__ __forceinline__ void add_residual(Flagged *hidden, const Rows &rows, const float *sums) {
    if (thread < rows.count)
      give_all(hidden + rows.first + thread, HIDDEN, turn,
               __float_as_uint(memory.residual[thread] += row_sum<SPLIT, FEW>(sums, thread)));
    mark();
  }

  __device__ void leave_attention() {
    begin_phase();
    const Rows rows = memory.hidden;
    attending.attend(layer, turn);
    put_mixed(my_copy(a.mixed, MIXED), my_copy(a.peaks, PEAKS), turn, pieces_at(position), memory.x);
    mark(), mark(), mark();
    begin_product();
    mark();
    product<FEW>(stream, memory.ring, Stored<OutCut>(thread, memory.x), rows.count, memory.few[1]);
    mark_stall(1);
    sync();
    mark();
    add_residual<SPLIT_QUERIES>(a.hidden_mid, rows, memory.few[1]);
  }

  __device__ void expand() {
    begin_phase();
    const Rows rows = memory.inner;
    load_channels(Columns<LargeCut>(thread), my_copy(a.hidden_mid, HIDDEN), memory.layers[layer].post_norm, turn, 1);
    mark();
    const Kept<LargeCut> vector(thread, memory.x);
    begin_product();
    mark();
    product<MANY>(stream, memory.ring, vector, 2 * rows.count, memory.many[0]);
    mark_stall(2);
    sync();
    mark();
    if (thread < rows.count / 2) {
      const float factor = scale(1);
      const float low = gated(rows, 2 * thread, factor), high = gated(rows, 2 * thread + 1, factor);
      give_all(a.activation + rows.first / 2 + thread, INTERMEDIATE / 2, turn, to_halves(low, high));
    }
    mark();
  }

  // silu(gate) * up of one of this block's rows.
  __device__ __forceinline__ float gated(const Rows &rows, int row, float factor) {
    const float gate = factor * row_sum<SPLIT_HIDDEN, MANY>(memory.many[0], row);
    const float up = factor * row_sum<SPLIT_HIDDEN, MANY>(memory.many[0], rows.count + row);
    return gate / (1 + __expf(-gate)) * up;
  }

  __device__ void contract() {
    begin_phase();
    const Rows rows = memory.hidden;
    const Stored<DownCut> vector(thread, memory.x);
    vector.take(my_copy(a.activation, INTERMEDIATE / 2), turn, memory.x);
    begin_product();
    mark(), mark();
    product<FEW>(stream, memory.ring, vector, rows.count, memory.few[2]);
    mark_stall(3);
    sync();
    mark();
    add_residual<SPLIT_INNER>(a.hidden_in, rows, memory.few[2]);
  }

  // The larger value, of equal ones the first; a NaN is above all, as in numpy's argmax.
  __device__ __forceinline__ static bool above(const Best &a, const Best &b) {
    const bool nan_a = a.value != a.value, nan_b = b.value != b.value;
    if (nan_a || nan_b) return nan_a && (!nan_b || a.index < b.index);
    return a.value > b.value || (a.value == b.value && a.index < b.index);
  }

  __device__ __forceinline__ static Best best_of_warp(Best mine) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const Best other = {__shfl_xor_sync(~0u, mine.value, offset), __shfl_xor_sync(~0u, mine.index, offset)};
      if (above(other, mine)) mine = other;
    }
    return mine;
  }

  // Head product and the first of the largest logits, which every block then knows.
  __device__ void choose(int step) {
    begin_phase();
    const Rows rows = memory.head;
    load_channels(Columns<LargeCut>(thread), my_copy(a.hidden_in, HIDDEN), a.final_norm, turn - 1, 0);
    mark();
    const Kept<LargeCut> vector(thread, memory.x);
    begin_product();
    mark();
    Best mine = {__int_as_float(0xff800000), 0x7fffffff};  // minus infinity, behind every index
    float factor = 0;
    for (int first = 0, buffer = 0; first < rows.count; first += MANY, buffer ^= 1) {
      const int count = min(MANY, rows.count - first);
      product<MANY>(stream, memory.ring, vector, count, memory.many[buffer]);
      sync();
      if (thread >= count) continue;
      if (first == 0) factor = scale(0);
      const Best other = {factor * row_sum<SPLIT_HIDDEN, MANY>(memory.many[buffer], thread), rows.first + first + thread};
      if (a.logits) a.logits[(long long)step * VOCABULARY + other.index] = other.value;
      if (above(other, mine)) mine = other;
    }
    mark_stall(0);
    mark();
    if (PURE) return;
    mine = best_of_warp(mine);
    if (lane == 0) memory.bests[warp] = mine;
    sync();
    if (warp == 0) {
      mine = best_of_warp(memory.bests[min(lane, WARPS - 1)]);
      if (lane == 0) {
        __threadfence();  // what this block has put into the cache
        give(a.bests + 2 * blockIdx.x, turn, mine.value), give(a.bests + 2 * blockIdx.x + 1, turn, __int_as_float(mine.index));
      }
    }
    mark();
    agree();
    mark();
  }

  __device__ __forceinline__ void agree() {
    if (warp == 0) {
      constexpr int AT_ONCE = 5;  // all of 132 blocks'
      Best mine = {__int_as_float(0xff800000), 0x7fffffff};
#pragma unroll 1
      for (int first = 0; first < gridDim.x; first += 32 * AT_ONCE) {
        uint4 seen[AT_ONCE];
        take_pairs(turn, seen, [&](int i) { return a.bests + 2 * min(first + 32 * i + lane, (int)gridDim.x - 1); });
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
          const Best other = {__uint_as_float(seen[i].x), (int)seen[i].z};
          if (above(other, mine)) mine = other;
        }
      }
      __threadfence();  // all rows are in the cache
      mine = best_of_warp(mine);
      if (lane == 0) memory.token = mine.index;
    }
    sync();
  }

  // This block's own rows of the embedding, to which the layers add, and what it attends to.
  __device__ void begin() {
    begin_phase();
    layer = 0;
    attending.start(position);
    const Rows rows = memory.hidden;
    const Half *row = a.embedding + (long long)memory.token * HIDDEN;
    float sum = 0;
#pragma unroll 1
    for (int i = thread; i < HIDDEN / 2; i += THREADS) {
      const float2 x = to_floats(((const unsigned *)row)[i]);
      sum += x.x * x.x + x.y * x.y;
    }
    sum = sum_of_warp(sum);
    if (lane == 0) memory.embedding_squares[warp] = sum;
    if (thread < rows.count)
      memory.residual[thread] = to_float(row[rows.first + thread]);
    sync();
  }

  __device__ void run() {
    const int before = first_position(a);
    turn = *a.turns;
    if (thread == 0) memory.token = first_token(a);
    sync();
    for (int step = 0; step < a.steps; ++step) {
      position = before + step;
      begin();
      for (layer = 0; layer < LAYERS; ++layer) {
        mark_count = 0, ++turn;
        project();
        leave_attention();
        expand();
        contract();
      }
      mark_count = 0, ++turn;
      choose(step);
      if (!PURE && blockIdx.x == 0 && thread == 0) a.tokens[step] = memory.token;
    }
    if (!PURE) finish(before);
  }

  // Everybody has read what the state was when the last block comes here.
  __device__ __forceinline__ void finish(int before) {
    if (thread != 0) return;
    __threadfence();
    if (atomicAdd(a.turns + 1, 1u) != gridDim.x - 1) return;
    a.turns[0] = turn, a.turns[1] = 0;
    *a.token = memory.token;
    *a.past_length = before + a.steps;
  }
};

__device__ __forceinline__ void run_block(const StepArguments &a, const LayerWeights *layers) {
  Memory &memory = *(Memory *)dynamic_shared();
  if (threadIdx.x == 0) {
    init_ring(memory.barriers, WARPS, FLIGHT);
    memory.qkv = share_of(QKV_ROWS), memory.hidden = share_of(HIDDEN);
    memory.inner = share_of(INTERMEDIATE, 2), memory.head = share_of(VOCABULARY);
  }
  if (threadIdx.x < LAYERS) memory.layers[threadIdx.x] = layers[threadIdx.x];
  __syncthreads();
  if (threadIdx.x < THREADS) {
    Step(a, memory).run();
  } else if (threadIdx.x == THREADS) {
    produce(a, memory);
  }
}

#ifndef LAUNCHER  // launch.cu has an entry of its own
extern "C" __global__ void __launch_bounds__(THREADS + 32, 1) decode_step(const __grid_constant__ StepArguments a) {
  run_block(a, a.layers);
}

extern "C" __device__ const int memory_bytes = sizeof(Memory);  // dynamic shared memory to launch with
#endif
