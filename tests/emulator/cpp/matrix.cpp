// The 16x8x16 product of a warp, all of it at once: what 32 lanes hold in fragments (see kernels/mma.cuh) is
// spread into matrices, multiplied, and spread back. Products of two halves are exact in f32; sums round in
// the order of k.
#include "convert.h"
#include "machine.h"

namespace engine {

namespace {
typedef float Row __attribute__((vector_size(32)));

template <Half H>
float widen(uint32_t bits) {
  return H == Half::F16 ? emu::half_to_float((uint16_t)bits) : emu::bits_float(bits << 16);
}

template <Half H>
void product(const Operands (&lanes)[WARP]) {
  uint32_t raw_a[16 * 16], raw_b[16 * 8];    // a by rows; b by k, so that a row of b is a vector
  float a[16 * 16];
  alignas(32) float b[16 * 8];
  for (unsigned l = 0; l < WARP; l++) {
    const unsigned g = l / 4, t = l % 4;
    for (unsigned j = 0; j < 4; j++) {
      uint32_t* to = raw_a + (g + j % 2 * 8) * 16 + 2 * t + j / 2 * 8;
      to[0] = lanes[l].a[j] & 0xffffu;
      to[1] = lanes[l].a[j] >> 16;
    }
    for (unsigned j = 0; j < 2; j++) {
      uint32_t* to = raw_b + (2 * t + j * 8) * 8 + g;
      to[0] = lanes[l].b[j] & 0xffffu;
      to[8] = lanes[l].b[j] >> 16;
    }
  }
  for (unsigned i = 0; i < 16 * 16; i++) a[i] = widen<H>(raw_a[i]);
  for (unsigned i = 0; i < 16 * 8; i++) b[i] = widen<H>(raw_b[i]);

  const Row* rows = reinterpret_cast<const Row*>(b);
  for (unsigned g = 0; g < 8; g++) {
    Row top, bottom;
    for (unsigned t = 0; t < 4; t++) {
      const float* d = lanes[g * 4 + t].d;
      top[2 * t] = d[0], top[2 * t + 1] = d[1];
      bottom[2 * t] = d[2], bottom[2 * t + 1] = d[3];
    }
    for (unsigned k = 0; k < 16; k++) {
      top += a[g * 16 + k] * rows[k];
      bottom += a[(g + 8) * 16 + k] * rows[k];
    }
    for (unsigned t = 0; t < 4; t++) {
      float* d = lanes[g * 4 + t].d;
      d[0] = top[2 * t], d[1] = top[2 * t + 1];
      d[2] = bottom[2 * t], d[3] = bottom[2 * t + 1];
    }
  }
}
}  // namespace

void matrix_product(Half h, const Operands (&lanes)[WARP]) {
  if (h == Half::F16)
    product<Half::F16>(lanes);
  else
    product<Half::BF16>(lanes);
}

}  // namespace engine
