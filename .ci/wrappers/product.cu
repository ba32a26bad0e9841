// As attention.cu, for kernels/product.cuh; attention.cu in kernels/ writes two words in the same way.
#define ACT_BF16 1
#include "product.cuh"

#define WRAPPER extern "C" __global__ void

WRAPPER store_four(bf16* to, float a, float b, float c, float d) {
  const float x[4] = {a, b, c, d};
  store4(to, x);
}
