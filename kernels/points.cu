// A small score network at many points, forward and back in one pass: noise, clean point, its reward and the
// gradient of that. Points are f32 in every run, so this file is compiled for f32 only.
//
// A thread has a point. The hidden layer that it sums from stays in its registers, 64 numbers: on the way
// forward the first, on the way back the cotangents of the first, both against the rows of w2, which come
// from shared memory four at a time for all threads of a warp at once. Of the hidden layers only one bit per
// number is kept for the way back. Sums are in the order of src/cpu/gemm.rs.
#include "act.cuh"

constexpr int HIDDEN = 64;
constexpr int MOST = 3;
constexpr int BLOCK = 256;

struct PointParams {
  // Of the reward -sum_i weight_i min((x_i - centre_i)^2, 1e4).
  double centre[3];
  double weight[3];
  int64_t n;
  float time;
  // Of the clean point a x + b eps.
  float a;
  float b;
  // Coordinates of a point, 1 to 3.
  int32_t d;
  int32_t gradient;
};

// 64 bits, one for each number of a hidden layer.
struct Signs {
  uint32_t low, high;
};
DEVICE void set(Signs& s, int i, bool on) {
  if (i < 32)
    s.low |= (uint32_t)on << i;
  else
    s.high |= (uint32_t)on << (i - 32);
}
DEVICE bool get(const Signs& s, int i) { return (i < 32 ? s.low >> i : s.high >> (i - 32)) & 1; }

// Loads that follow are not moved before this, and the signs are there: weights that were all loaded ahead,
// or sums that waited for their signs to be taken, would need more registers than there are.
DEVICE void keep_order(Signs& s) { asm volatile("" : "+r"(s.low), "+r"(s.high)::"memory"); }

// max(x, 0); a NaN stays.
DEVICE float relu(float x) { return x < 0.0f ? 0.0f : x; }

// eps = network(x, time), x0 = a x + b eps, reward = r(x0), and if grad is wanted its gradient with respect
// to x. Weights are (outputs, inputs), row after row: w1 (64, d + 1), w2 (64, 64), w3 (d, 64). Moves 16 d + 4
// bytes per point, and 18 KB of weights for every 256 points; 18 000 multiplications and additions per point
// with the gradient, half of them without.
KERNEL(evaluate_points, (256),
       (const float* __restrict__ x, const float* __restrict__ w1, const float* __restrict__ b1,
        const float* __restrict__ w2, const float* __restrict__ b2, const float* __restrict__ w3,
        const float* __restrict__ b3, float* __restrict__ eps, float* __restrict__ x0,
        float* __restrict__ reward, float* __restrict__ grad, PointParams p)) {
  // Rows of w1 and columns of w3 are padded to four numbers.
  SHARED(float, first, 4 * HIDDEN);
  SHARED(float, middle, HIDDEN * HIDDEN);
  SHARED(float, last, 4 * HIDDEN);
  SHARED(float, bias1, HIDDEN);
  SHARED(float, bias2, HIDDEN);
  for (int i = threadIdx.x; i < HIDDEN * HIDDEN; i += BLOCK) middle[i] = w2[i];
  for (int i = threadIdx.x; i < 4 * HIDDEN; i += BLOCK) {
    const int row = i / 4, k = i % 4;
    first[i] = k <= p.d ? w1[row * (p.d + 1) + k] : 0.0f;
    last[i] = k < p.d ? w3[k * HIDDEN + row] : 0.0f;
  }
  for (int i = threadIdx.x; i < HIDDEN; i += BLOCK) {
    bias1[i] = b1[i];
    bias2[i] = b2[i];
  }
  __syncthreads();
  const int64_t at = blockIdx.x * (int64_t)BLOCK + threadIdx.x;
  if (at >= p.n) return;

  // The point, then the time.
  float in[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < MOST; i++)
    if (i < p.d) in[i] = x[at * p.d + i];
#pragma unroll
  for (int i = 1; i < 4; i++)
    if (i == p.d) in[i] = p.time;

  float h[HIDDEN];
  Signs open1 = {0, 0}, open2 = {0, 0};
#pragma unroll
  for (int k = 0; k < HIDDEN; k++) {
    float w[4], sum = 0.0f;
    load4(first + 4 * k, w);
#pragma unroll
    for (int i = 0; i < 4; i++) sum = fmaf(in[i], w[i], sum);
    sum = __fadd_rn(sum, bias1[k]);
    set(open1, k, sum >= 0.0f);
    h[k] = relu(sum);
    if (k % 8 == 7) keep_order(open1);
  }
  float out[MOST] = {0.0f, 0.0f, 0.0f};
  // Two sums at a time, since each of them waits for its last addition.
#pragma unroll 1
  for (int j = 0; j < HIDDEN; j += 2) {
    float sums[2] = {0.0f, 0.0f}, w[4];
#pragma unroll
    for (int k = 0; k < HIDDEN; k += 4) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        load4(middle + HIDDEN * (j + r) + k, w);
#pragma unroll
        for (int i = 0; i < 4; i++) sums[r] = fmaf(h[k + i], w[i], sums[r]);
      }
      if (k % 16 == 12) keep_order(open2);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const float sum = __fadd_rn(sums[r], bias2[j + r]);
      set(open2, j + r, sum >= 0.0f);
      load4(last + 4 * (j + r), w);
#pragma unroll
      for (int i = 0; i < MOST; i++) out[i] = fmaf(relu(sum), w[i], out[i]);
    }
  }

  // What the clean point moves the reward by, and the noise through it.
  float towards[MOST] = {0.0f, 0.0f, 0.0f}, noise[MOST] = {0.0f, 0.0f, 0.0f};
  double value = 0.0;
#pragma unroll
  for (int i = 0; i < MOST; i++) {
    if (i >= p.d) continue;
    const float e = __fadd_rn(out[i], b3[i]);
    const float clean = __fadd_rn(__fmul_rn(p.a, in[i]), __fmul_rn(p.b, e));
    eps[at * p.d + i] = e;
    x0[at * p.d + i] = clean;
    const double away = __dadd_rn(clean, -p.centre[i]), square = __dmul_rn(away, away);
    value = __dadd_rn(value, -__dmul_rn(p.weight[i], square < 1e4 ? square : 1e4));
    towards[i] = square < 1e4 ? __double2float_rn(__dmul_rn(-2.0 * p.weight[i], away)) : 0.0f;
    noise[i] = __fmul_rn(p.b, towards[i]);
  }
  reward[at] = __double2float_rn(value);
  if (!p.gradient) return;

#pragma unroll
  for (int k = 0; k < HIDDEN; k++) h[k] = 0.0f;
#pragma unroll 1
  for (int j = 0; j < HIDDEN; j++) {
    float back = 0.0f, w[4];
    load4(last + 4 * j, w);
#pragma unroll
    for (int i = 0; i < MOST; i++) back = fmaf(noise[i], w[i], back);
    back = get(open2, j) ? back : 0.0f;
#pragma unroll
    for (int k = 0; k < HIDDEN; k += 4) {
      load4(middle + HIDDEN * j + k, w);
#pragma unroll
      for (int i = 0; i < 4; i++) h[k + i] = fmaf(back, w[i], h[k + i]);
      if (k % 16 == 12) keep_order(open2);
    }
  }
  float slope[MOST] = {0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int k = 0; k < HIDDEN; k++) {
    float w[4];
    load4(first + 4 * k, w);
    const float back = get(open1, k) ? h[k] : 0.0f;
#pragma unroll
    for (int i = 0; i < MOST; i++) slope[i] = fmaf(back, w[i], slope[i]);
    if (k % 8 == 7) keep_order(open1);
  }
#pragma unroll
  for (int i = 0; i < MOST; i++)
    if (i < p.d) grad[at * p.d + i] = __fadd_rn(__fmul_rn(p.a, towards[i]), slope[i]);
}
