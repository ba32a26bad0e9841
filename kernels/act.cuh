// Included by every kernel file: the element type, accesses of 16 bytes, and the few macros that differ
// between nvcc, NVRTC and a host compiler. Kernels include no CUDA header, so NVRTC needs only these files,
// and a host C++ compiler compiles the same text with emulator.h (tests/emulator) in place of the device.
//
// `Act` is the element type of activations and weights: bf16, f16 or f32, chosen by ACT_BF16, ACT_F16 or
// ACT_F32 for a whole image (a compiled set of kernels). Sums, statistics and log-sum-exps are f32 in every
// image. A packet is eight consecutive channels. Tensors whose rows are not whole packets (latents, pictures,
// scores) are f32 and are processed by the f32 image; in the 16-bit images, rows of Act are therefore always
// whole packets.
#pragma once

#if defined(__CUDACC_RTC__)
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef int int32_t;
typedef long long int64_t;
#elif defined(__CUDACC__)
#include <stdint.h>
#endif

#if defined(ACT_BF16)
#define ACT_NAME bf16
#elif defined(ACT_F16)
#define ACT_NAME f16
#elif defined(ACT_F32)
#define ACT_NAME f32
#else
#error "define one of ACT_BF16, ACT_F16, ACT_F32"
#endif

#define DAS_JOIN2(a, b, c) a##b##_##c
#define DAS_JOIN(a, b, c) DAS_JOIN2(a, b, c)
#define DAS_TEXT2(a) #a
#define DAS_TEXT(a) DAS_TEXT2(a)
// das_gemm_bf16 for gemm: the name in the image.
#define KERNEL_NAME(name) DAS_JOIN(das_, name, ACT_NAME)

// KERNEL(name, (bounds), (parameters)) { body }: an exported kernel; bounds are those of __launch_bounds__.
// SHARED(T, name, n): a static shared array. DYNAMIC_SHARED(T, name): the launch's dynamic shared memory.
#if defined(__CUDACC__)
#define DAS_BOUNDS(...) __launch_bounds__(__VA_ARGS__)
#define KERNEL(name, bounds, params) extern "C" __global__ void DAS_BOUNDS bounds KERNEL_NAME(name) params
#define SHARED(T, name, n) __shared__ __align__(16) T name[n]
#define DYNAMIC_SHARED(T, name)                              \
  extern __shared__ __align__(128) unsigned char das_dynamic[]; \
  T* const name = reinterpret_cast<T*>(das_dynamic)
#define DEVICE __device__ __forceinline__
#else
#include "emulator.h"
#define DEVICE inline
#endif

#define DAS_INFINITY __int_as_float(0x7f800000)

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

DEVICE float to_f32(float x) { return x; }
DEVICE float to_f32(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
DEVICE float to_f32(f16 x) {
#if defined(__CUDACC__)
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x.bits));
  return r;
#else
  return emu::half_to_float(x.bits);
#endif
}

// Rounding to nearest, ties to even; overflow of f16 becomes infinity.
template <class T>
DEVICE T from_f32(float x);
template <>
DEVICE float from_f32<float>(float x) {
  return x;
}
template <>
DEVICE bf16 from_f32<bf16>(float x) {
  bf16 r;
#if defined(__CUDACC__)
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
#else
  r.bits = emu::float_to_bf16(x);
#endif
  return r;
}
template <>
DEVICE f16 from_f32<f16>(float x) {
  f16 r;
#if defined(__CUDACC__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
#else
  r.bits = emu::float_to_half(x);
#endif
  return r;
}

#if defined(ACT_BF16)
typedef bf16 Act;
#elif defined(ACT_F16)
typedef f16 Act;
#else
typedef float Act;
#endif

// Two floats as two 16-bit elements in one register, `lo` in the low half.
template <class T>
DEVICE uint32_t pack2(float lo, float hi) {
  return (uint32_t)from_f32<T>(lo).bits | (uint32_t)from_f32<T>(hi).bits << 16;
}
#if defined(__CUDACC__)
template <>
DEVICE uint32_t pack2<bf16>(float lo, float hi) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
template <>
DEVICE uint32_t pack2<f16>(float lo, float hi) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
#endif
template <class T>
DEVICE void unpack2(uint32_t w, float& lo, float& hi) {
  T a, b;
  a.bits = (uint16_t)w;
  b.bits = (uint16_t)(w >> 16);
  lo = to_f32(a);
  hi = to_f32(b);
}
template <>
DEVICE void unpack2<bf16>(uint32_t w, float& lo, float& hi) {
  lo = __uint_as_float(w << 16);
  hi = __uint_as_float(w & 0xffff0000u);
}

// A packet: eight consecutive elements, which are one 16-byte access of a 16-bit type and two of f32.
constexpr int PACKET = 8;

struct alignas(16) Words {
  uint32_t w[4];
};

DEVICE Words load_words(const void* p) { return *static_cast<const Words*>(p); }
// Stores 16 bytes to global memory. In PTX, because the compiler may split the store of a struct into
// several.
DEVICE void store_words(void* p, Words w) {
#if defined(__CUDACC__)
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "r"(w.w[0]),
               "r"(w.w[1]), "r"(w.w[2]), "r"(w.w[3])
               : "memory");
#else
  *static_cast<Words*>(p) = w;
#endif
}

template <class T>
DEVICE void load8(const T* p, float (&x)[8]) {
  const Words v = load_words(p);
#pragma unroll
  for (int i = 0; i < 4; i++) unpack2<T>(v.w[i], x[2 * i], x[2 * i + 1]);
}
template <>
DEVICE void load8<float>(const float* p, float (&x)[8]) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const Words v = load_words(p + 4 * h);
#pragma unroll
    for (int i = 0; i < 4; i++) x[4 * h + i] = __uint_as_float(v.w[i]);
  }
}
template <class T>
DEVICE void store8(T* p, const float (&x)[8]) {
  Words v;
#pragma unroll
  for (int i = 0; i < 4; i++) v.w[i] = pack2<T>(x[2 * i], x[2 * i + 1]);
  store_words(p, v);
}
template <>
DEVICE void store8<float>(float* p, const float (&x)[8]) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    Words v;
#pragma unroll
    for (int i = 0; i < 4; i++) v.w[i] = __float_as_uint(x[4 * h + i]);
    store_words(p + 4 * h, v);
  }
}

// Four consecutive elements from a multiple of four on: 8 bytes of a 16-bit type, 16 of f32.
struct alignas(8) HalfPacket {
  uint32_t w[2];
};
// Stores 8 bytes at once, in PTX for the reason of store_words.
DEVICE void store_pair(void* p, uint32_t a, uint32_t b) {
#if defined(__CUDACC__)
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "r"(a), "r"(b)
               : "memory");
#else
  *static_cast<HalfPacket*>(p) = {{a, b}};
#endif
}
#if defined(ACT_F32)
DEVICE void load4(const Act* p, float* x) {
  const Words v = load_words(p);
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = __uint_as_float(v.w[i]);
}
DEVICE void store4(Act* p, const float* x) {
  Words v;
#pragma unroll
  for (int i = 0; i < 4; i++) v.w[i] = __float_as_uint(x[i]);
  store_words(p, v);
}
#else
DEVICE void load4(const Act* p, float* x) {
  const HalfPacket v = *reinterpret_cast<const HalfPacket*>(p);
  unpack2<Act>(v.w[0], x[0], x[1]);
  unpack2<Act>(v.w[1], x[2], x[3]);
}
DEVICE void store4(Act* p, const float* x) { store_pair(p, pack2<Act>(x[0], x[1]), pack2<Act>(x[2], x[3])); }
#endif
