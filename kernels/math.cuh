// Transcendental functions. In the f32 image they are accurate to a few roundings. For 16-bit results the
// GPU's approximate exponential and reciprocal are enough: their errors (1e-6) are far below half an ulp
// (2e-4).
#pragma once
#include "act.cuh"

// Whether results are f32.
constexpr bool EXACT = sizeof(Act) == 4;

DEVICE float fast_exp(float x) { return EXACT ? expf(x) : __expf(x); }
// 1 / x for x >= 1, infinity included: the GPU's approximate reciprocal, and in the f32 image a Newton step.
DEVICE float reciprocal(float x) {
  const float r = __fdividef(1.0f, x);
  return EXACT && x < DAS_INFINITY ? fmaf(r, fmaf(-x, r, 1.0f), r) : r;
}
// 1 / sqrt(x), x > 0.
DEVICE float inverse_root(float x) {
  const float r = rsqrtf(x);
  return EXACT ? r * fmaf(-0.5f * x * r, r, 1.5f) : r;
}
DEVICE float sigmoid(float x) { return reciprocal(1.0f + fast_exp(-x)); }

// Both from e^(-2 |x|), which does not overflow: tanh, absolute error 1e-6 at most, and 1 - tanh^2.
DEVICE float tanh_of(float x) {
  const float e = fast_exp(-2.0f * fabsf(x));
  return copysignf((1.0f - e) * reciprocal(1.0f + e), x);
}
DEVICE float tanh_slope(float x) {
  const float e = fast_exp(-2.0f * fabsf(x)), r = reciprocal(1.0f + e);
  return 4.0f * e * r * r;
}

DEVICE float silu(float x) { return x * sigmoid(x); }
DEVICE float silu_slope(float x) {
  const float s = sigmoid(x);
  return s + x * s * (1.0f - s);
}

// The slope inside the sigmoid of quick-GELU.
constexpr float QUICK = 1.702f;
DEVICE float quick_gelu(float x) { return x * sigmoid(QUICK * x); }
DEVICE float quick_gelu_slope(float x) {
  const float s = sigmoid(QUICK * x);
  return s + QUICK * x * s * (1.0f - s);
}

// Distribution function and density of the standard normal: Phi(-|x|) = e^(-x^2/2) t P(t), t = 1 / (1 + 0.35
// |x|), the fit of src/cpu/math.rs (relative error 3.3e-8).
struct Normal {
  float cdf, pdf;
};
DEVICE Normal normal(float x) {
  const float e = fast_exp(-0.5f * x * x);
  const float t = reciprocal(fmaf(fabsf(x), 0.35f, 1.0f));
  float p = -2.9144429e-2f;
  p = fmaf(p, t, 1.4396486e-1f);
  p = fmaf(p, t, -2.5570098e-1f);
  p = fmaf(p, t, 1.5915991e-1f);
  p = fmaf(p, t, -2.3100583e-2f);
  p = fmaf(p, t, 1.055043e-1f);
  p = fmaf(p, t, 1.1983376e-1f);
  p = fmaf(p, t, 1.3986176e-1f);
  p = fmaf(p, t, 1.396214e-1f);
  const float tail = e * t * p;
  // 1 / sqrt(2 pi)
  return {x > 0.0f ? 1.0f - tail : tail, e * 0.3989423f};
}
DEVICE float gelu(float x) { return x * normal(x).cdf; }
DEVICE float gelu_slope(float x) {
  const Normal n = normal(x);
  return fmaf(x, n.pdf, n.cdf);
}
