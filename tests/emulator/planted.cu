// Kernels with a bug on purpose, each beside its right form, which prove that the emulator finds such bugs;
// and kernels that show single operations, compared in tests/emulator.rs with plain loops.
#include "act.cuh"
#include "lookback.cuh"
#include "mma.cuh"
#include "reduce.cuh"

#define BOTH(name, bounds, params, args)                     \
  KERNEL(name##_right, bounds, params) { name<false> args; } \
  KERNEL(name##_wrong, bounds, params) { name<true> args; }

// ---- bugs

// y[block] = sum of the block's 256 elements of x. Wrong: no barrier between the halving steps.
template <bool WRONG>
DEVICE void planted_reduction(const float* x, float* y) {
  SHARED(float, s, 256);
  const int t = threadIdx.x;
  s[t] = x[blockIdx.x * 256 + t];
  __syncthreads();
  for (int o = 128; o; o >>= 1) {
    if (t < o) s[t] += s[t + o];
    if (!WRONG || o == 1) __syncthreads();
  }
  if (t == 0) y[blockIdx.x] = s[0];
}
BOTH(planted_reduction, (256), (const float* x, float* y), (x, y))

// y = x by way of shared memory. Wrong: the copies have not landed.
template <bool WRONG>
DEVICE void planted_copy(const float* x, float* y) {
  SHARED(float, s, 256);
  cp_async16(s + 4 * threadIdx.x, x + 4 * threadIdx.x);
  cp_async_commit();
  if (!WRONG) cp_async_wait<0>();
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += 64) y[i] = s[255 - i];
}
BOTH(planted_copy, (64), (const float* x, float* y), (x, y))

// y[i] = i for i < n. Wrong: for i <= n.
template <bool WRONG>
DEVICE void planted_overrun_global(float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n + WRONG) y[i] = (float)i;
}
BOTH(planted_overrun_global, (256), (float* y, int n), (y, n))

// Wrong: writes one element past the end of a static array.
template <bool WRONG>
DEVICE void planted_overrun_static(float* y) {
  SHARED(float, s, 64);
  s[threadIdx.x + WRONG] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = s[63 - threadIdx.x];
}
BOTH(planted_overrun_static, (64), (float* y), (y))

// The same of dynamic shared memory, n floats.
template <bool WRONG>
DEVICE void planted_overrun_dynamic(float* y, int n) {
  DYNAMIC_SHARED(float, s);
  if ((int)threadIdx.x < n + WRONG) s[threadIdx.x] = 1.0f;
  __syncthreads();
  if ((int)threadIdx.x < n) y[threadIdx.x] = s[n - 1 - threadIdx.x];
}
BOTH(planted_overrun_dynamic, (64), (float* y, int n), (y, n))

// Wrong: half of the block waits at another barrier than the other half.
template <bool WRONG>
DEVICE void planted_divergent_barrier(float* y) {
  SHARED(float, s, 64);
  if (WRONG && threadIdx.x >= 32) {
    s[threadIdx.x] = 2.0f;
    __syncthreads();
  } else {
    s[threadIdx.x] = 2.0f;
    __syncthreads();
  }
  y[threadIdx.x] = s[63 - threadIdx.x];
}
BOTH(planted_divergent_barrier, (64), (float* y), (y))

// Wrong: half of the block never comes to the barrier, and waits for a flag of the other half.
template <bool WRONG>
DEVICE void planted_missing_thread(float* y) {
  SHARED(int, flag, 1);
  if (threadIdx.x == 0) flag[0] = 0;
  __syncthreads();
  if (WRONG && threadIdx.x >= 32)
    while (atomicAdd(&flag[0], 0) == 0) __nanosleep(20);
  else
    __syncthreads();
  if (threadIdx.x == 0) atomicExch(&flag[0], 1);
  y[threadIdx.x] = 1.0f;
}
BOTH(planted_missing_thread, (64), (float* y), (y))

// Reverses the elements of a warp by way of shared memory. Wrong: no __syncwarp.
template <bool WRONG>
DEVICE void planted_syncwarp(const float* x, float* y) {
  SHARED(float, s, 32);
  s[threadIdx.x] = x[threadIdx.x];
  if (!WRONG) __syncwarp();
  y[threadIdx.x] = s[31 - threadIdx.x];
}
BOTH(planted_syncwarp, (32), (const float* x, float* y), (x, y))

// Adds up the blocks' numbers, read and written in turn. Wrong: without an atomic.
template <bool WRONG>
DEVICE void planted_block_race(int* y) {
  if (threadIdx.x == 0) {
    if (WRONG)
      y[0] = y[0] + (int)blockIdx.x;
    else
      atomicAdd(y, (int)blockIdx.x);
  }
}
BOTH(planted_block_race, (32), (int* y), (y))

// y[i] = sum of x[0] to x[i], blocks of one warp that look back at each other. Wrong: block i takes element
// i, and may wait for one that begins only when it is done.
template <bool WRONG>
DEVICE void planted_ticket(const uint64_t* x, uint64_t* y, uint64_t* control) {
  SHARED(int32_t, place, 1);
  const int32_t i = WRONG ? (int32_t)blockIdx.x : ticket(reinterpret_cast<uint32_t*>(control), place);
  const uint64_t before = look_back(x[i], i, control + 1);
  if (threadIdx.x == 0) y[i] = before + x[i];
}
BOTH(planted_ticket, (32), (const uint64_t* x, uint64_t* y, uint64_t* control), (x, y, control))

// y[i] = sum of x[0] to x[i]; each block adds to what the one before it hands over. Wrong: first the flag,
// then the number, as a GPU may show two stores that no fence keeps in order.
template <bool WRONG>
DEVICE void planted_hand_over(const uint64_t* x, uint64_t* y, uint64_t* control) {
  SHARED(int32_t, place, 1);
  const int32_t i = ticket(reinterpret_cast<uint32_t*>(control), place);
  if (threadIdx.x) return;
  uint64_t* const at = control + 1 + 2 * i;
  while (i && peek(at - 2) == 0) __nanosleep(32);
  const uint64_t sum = x[i] + (i ? peek(at - 1) : 0);
  publish(WRONG ? at : at + 1, WRONG ? 1 : sum);
  __threadfence();
  publish(WRONG ? at + 1 : at, WRONG ? sum : 1);
  y[i] = sum;
}
BOTH(planted_hand_over, (32), (const uint64_t* x, uint64_t* y, uint64_t* control), (x, y, control))

// Wrong: half of the warp is not there when the whole of it shuffles.
template <bool WRONG>
DEVICE void planted_shuffle(float* y) {
  float v = (float)threadIdx.x;
  if (WRONG && threadIdx.x >= 16) {
    __syncthreads();
  } else {
    v = __shfl_xor_sync(WRONG ? FULL_WARP : FULL_WARP, v, 1);
    __syncthreads();
  }
  y[threadIdx.x] = v;
}
BOTH(planted_shuffle, (32), (float* y), (y))

// Wrong: lane 0 reads from a lane outside of the mask.
template <bool WRONG>
DEVICE void planted_mask(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffffu, (float)threadIdx.x, WRONG ? 20 : 10);
}
BOTH(planted_mask, (32), (float* y), (y))

// y = x in packets. Wrong: packets begin at the second element.
template <bool WRONG>
DEVICE void planted_packet(const float* x, float* y) {
  store_words(y + 4 * threadIdx.x, load_words(x + 4 * threadIdx.x + WRONG));
}
BOTH(planted_packet, (32), (const float* x, float* y), (x, y))
template <bool WRONG>
DEVICE void planted_packet_copy(const float* x, float* y) {
  SHARED(float, s, 132);
  cp_async16(s + 4 * threadIdx.x + WRONG, x + 4 * threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
BOTH(planted_packet_copy, (32), (const float* x, float* y), (x, y))

// Wrong: reads through an address that is none.
template <bool WRONG>
DEVICE void planted_address(const float* x, float* y) {
  y[threadIdx.x] = x[WRONG ? (1ll << 40) + threadIdx.x : threadIdx.x];
}
BOTH(planted_address, (32), (const float* x, float* y), (x, y))

// Two tiles in shared memory, filled by asynchronous copies one step ahead of their use: y = sum of the n
// tiles of 64 elements. Wrong: no barrier behind the use, so that a copy overtakes a reader.
template <bool WRONG>
DEVICE void planted_pipeline(const float* x, float* y, int n) {
  SHARED(float, tile, 2 * 64);
  const int t = threadIdx.x;
  const auto fetch = [&](int i) {
    if (t < 16 && i < n) cp_async16(tile + i % 2 * 64 + 4 * t, x + i * 64 + 4 * t);
    cp_async_commit();
  };
  float sum = 0.0f;
  fetch(0);
  for (int i = 0; i < n; i++) {
    fetch(i + 1);
    cp_async_wait<1>();
    __syncthreads();
    sum += tile[i % 2 * 64 + 63 - t];
    if (!WRONG) __syncthreads();
  }
  y[t] = sum;
}
BOTH(planted_pipeline, (64), (const float* x, float* y, int n), (x, y, n))
