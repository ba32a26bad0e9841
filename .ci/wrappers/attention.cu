// A kernel for each piece of PTX that is written by hand in kernels/act.cuh, mma.cuh and attention.cuh:
// .ci/ptx compiles them and compares the PTX with the file beside this one. The emulator runs other code in
// their place, so nothing else shows which operand goes where. A parameter stands for each operand, in the
// order of the wrapper's own arguments.
#define ACT_BF16 1
#include "attention.cuh"

#define WRAPPER extern "C" __global__ void

WRAPPER widen_f16(float* y, f16 x) { *y = to_f32(x); }
WRAPPER narrow_bf16(uint16_t* y, float x) { *y = from_f32<bf16>(x).bits; }
WRAPPER narrow_f16(uint16_t* y, float x) { *y = from_f32<f16>(x).bits; }
WRAPPER pack_bf16(uint32_t* y, float low, float high) { *y = pack2<bf16>(low, high); }
WRAPPER pack_f16(uint32_t* y, float low, float high) { *y = pack2<f16>(low, high); }
WRAPPER store(void* to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  Words w;
  w.w[0] = a, w.w[1] = b, w.w[2] = c, w.w[3] = d;
  store_words(to, w);
}
WRAPPER copy(const void* from, unsigned bytes) {
  __shared__ alignas(16) uint32_t to[4];
  cp_async16(to, from, bytes);
  cp_async_commit();
  cp_async_wait<2>();
}
WRAPPER load_matrices(uint32_t* y, int at) {
  __shared__ alignas(16) uint32_t rows[128];
  uint32_t r[4];
  ldmatrix_x4(r, rows + at);
  for (int i = 0; i < 4; i++) y[i] = r[i];
  ldmatrix_x4_trans(r, rows + at);
  for (int i = 0; i < 4; i++) y[4 + i] = r[i];
}
template <class T>
DEVICE void multiply(float* y, const uint32_t* x) {
  float d[4] = {y[0], y[1], y[2], y[3]};
  const uint32_t a[4] = {x[0], x[1], x[2], x[3]}, b[2] = {x[4], x[5]};
  mma_16816<T>(d, a, b);
  for (int i = 0; i < 4; i++) y[i] = d[i];
}
WRAPPER multiply_bf16(float* y, const uint32_t* x) { multiply<bf16>(y, x); }
WRAPPER multiply_f16(float* y, const uint32_t* x) { multiply<f16>(y, x); }
WRAPPER power_of_two(float* y, float x) { *y = exp2_fast(x); }
