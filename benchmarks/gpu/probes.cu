// What the card can do at best: the ceilings that the decode kernel is compared with.
#include "../../plugins/common/numbers.cuh"
#include "../../plugins/common/ring.cuh"

constexpr int THREADS = 32 * WARPS;

// The plain streaming read: every byte once into registers.
extern "C" __global__ void __launch_bounds__(512) read_plain(const uint4 *data, long long count, unsigned *sink) {
  const long long stride = (long long)gridDim.x * blockDim.x;
  unsigned all = 0;
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  for (; i + 7 * stride < count; i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = __ldcs(data + i + j * stride);
#pragma unroll
    for (int j = 0; j < 8; ++j) all ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  for (; i < count; i += stride) all ^= data[i].x ^ data[i].y ^ data[i].z ^ data[i].w;
  if (all == 0x12345u) *sink = all;
}

struct ProbeMemory {
  alignas(128) unsigned char ring[RING_BYTES];
  RingBarriers barriers;
};

// The same through the ring, one contiguous part a block, in chunks of `piece` bytes; nobody looks at the data.
extern "C" __global__ void __launch_bounds__(THREADS + 32, 1)
    read_ring(const unsigned char *data, long long bytes, unsigned piece, unsigned flight) {
  ProbeMemory &memory = *(ProbeMemory *)dynamic_shared();
  if (threadIdx.x == 0) init_ring(memory.barriers, WARPS, flight);
  __syncthreads();
  const unsigned mine = (unsigned)(bytes / gridDim.x / piece * piece);
  const unsigned char *from = data + (long long)mine * blockIdx.x;
  if (threadIdx.x == THREADS) {
    Producer producer(memory.ring, &memory.barriers);
    for (unsigned at = 0; at < mine; at += piece) producer.begin(piece), producer.copy(from + at, piece), producer.end();
  } else if (threadIdx.x < THREADS) {
    Consumer stream;
    stream.barriers = &memory.barriers;
    for (unsigned at = 0; at < mine; at += piece) {
      stream.wait();
      stream.release(piece);
    }
  }
}

// `rounds` barriers of the grid as the decode kernel has them.
extern "C" __global__ void __launch_bounds__(THREADS) barriers(unsigned *counter, int rounds) {
  for (int round = 1; round <= rounds; ++round) {
    __syncthreads();
    if (threadIdx.x == 0) {
      add_release(counter);
      wait_for(counter, round * gridDim.x);
    }
    __syncthreads();
  }
}

// A barrier with one value of each block read back behind it, as a phase does at least.
extern "C" __global__ void __launch_bounds__(THREADS) exchanges(unsigned *counter, float *values, int count, int rounds) {
  const int per = (count + gridDim.x - 1) / gridDim.x;
  float last = 0;
  for (int round = 1; round <= rounds; ++round) {
    const int i = blockIdx.x * per + threadIdx.x;
    if (threadIdx.x < 32) {
      if (threadIdx.x < per && i < count) values[i] = last + round;
      __syncwarp();
      if (threadIdx.x == 0) add_release(counter);
    }
    if (threadIdx.x == 0) wait_for(counter, round * gridDim.x);
    __syncthreads();
    for (int j = threadIdx.x; j < count; j += THREADS) last += __ldcg(values + j);
    __syncthreads();
  }
  if (last == 12345.0f) values[0] = 0;
}

// The same without a barrier: each value carries the number of the round, and readers look until it is there. Two buffers
// in turn: whoever writes round n+1 has read all of round n, so round n-1 is read by nobody any more.
extern "C" __global__ void __launch_bounds__(THREADS) flagged(uint2 *values, int count, int rounds) {
  const int per = (count + gridDim.x - 1) / gridDim.x;
  float last = 0;
  for (int round = 1; round <= rounds; ++round) {
    uint2 *buffer = values + (round & 1) * count;
    const int i = blockIdx.x * per + threadIdx.x;
    if (threadIdx.x < per && i < count)
      asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(buffer + i), "r"(__float_as_uint(last + round)), "r"(round)
                   : "memory");
    for (int j = threadIdx.x; j < count; j += THREADS) {
      Patience patience;
      while (true) {
        uint2 got;
        asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];" : "=r"(got.x), "=r"(got.y) : "l"(buffer + j) : "memory");
        if (got.y == (unsigned)round) {
          last += __uint_as_float(got.x);
          break;
        }
        patience.lose();
      }
    }
    __syncthreads();
  }
  if (last == 12345.0f) values[0].x = 0;
}

// Rounds of flagged values beside a stream of weights that never ends: what the traffic does to the latency. `read` gets the
// bytes that each block had streamed when the rounds were over.
extern "C" __global__ void __launch_bounds__(THREADS + 32, 1)
    loaded(uint2 *values, int count, int rounds, const unsigned char *data, long long bytes, unsigned piece, unsigned flight,
           unsigned *read) {
  ProbeMemory &memory = *(ProbeMemory *)dynamic_shared();
  __shared__ volatile bool over, drained;
  if (threadIdx.x == 0) init_ring(memory.barriers, 1, flight), over = drained = false;
  __syncthreads();
  const unsigned mine = (unsigned)(bytes / gridDim.x / piece * piece);
  if (threadIdx.x == THREADS) {
    Producer producer(memory.ring, &memory.barriers);
    const unsigned char *from = data + (long long)mine * blockIdx.x;
    for (unsigned at = 0; !over; at = at + piece < mine ? at + piece : 0)
      producer.begin(piece), producer.copy(from + at, piece), producer.end();
    read[blockIdx.x] = producer.chunk;
    while (producer.landed != producer.chunk) producer.land();
    drained = true;
  } else if (threadIdx.x == THREADS - 32) {
    for (unsigned chunk = 0; !drained;) {
      if (!barrier_try(&memory.barriers.full[chunk % CHUNKS], parity_of(chunk))) continue;
      barrier_arrive(&memory.barriers.empty[chunk++ % CHUNKS]);
    }
  } else if (threadIdx.x < THREADS - 32) {
    const int per = (count + gridDim.x - 1) / gridDim.x;
    float last = 0;
    for (int round = 1; round <= rounds; ++round) {
      uint2 *buffer = values + (round & 1) * count;
      const int i = blockIdx.x * per + threadIdx.x;
      if (threadIdx.x < per && i < count) store_pair(buffer + i, __float_as_uint(last + round), round);
      for (int j = threadIdx.x; j < count; j += THREADS - 32) {
        Patience patience;
        uint2 got = load_pair(buffer + j);
        while (got.y != (unsigned)round) patience.lose(), got = load_pair(buffer + j);
        last += __uint_as_float(got.x);
      }
      sync_threads<1, THREADS - 32>();
    }
    if (last == 12345.0f) values[0].x = 0;
    if (threadIdx.x == 0) over = true;
  }
}

// One value to many readers without flags beside each: a flag word per block, written after the values with release.
extern "C" __global__ void __launch_bounds__(THREADS) block_flags(unsigned *flags, float *values, int count, int rounds) {
  const int per = (count + gridDim.x - 1) / gridDim.x;
  float last = 0;
  for (int round = 1; round <= rounds; ++round) {
    float *buffer = values + (round & 1) * count;
    const int i = blockIdx.x * per + threadIdx.x;
    if (threadIdx.x < 32) {
      if (threadIdx.x < per && i < count) buffer[i] = last + round;
      __syncwarp();
      if (threadIdx.x == 0)
        asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flags + blockIdx.x), "r"(round) : "memory");
    }
    if (threadIdx.x < gridDim.x) {
      Patience patience;
      while (true) {
        unsigned seen;
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flags + threadIdx.x) : "memory");
        if ((int)(seen - round) >= 0) break;
        patience.lose();
      }
    }
    __syncthreads();
    for (int j = threadIdx.x; j < count; j += THREADS) last += __ldcg(buffer + j);
  }
  if (last == 12345.0f) values[0] = 0;
}

extern "C" __device__ const int memory_bytes = sizeof(ProbeMemory);
