// Arithmetic, bits, vectors and loads of the device language. The functions of math.h are the host's: within
// a few ulp of the device's, as those are of the exact ones.
#pragma once

#define EMULATOR_VECTOR(T, N, A)                                      \
  struct alignas(A) N##2 { T x, y; };                                 \
  struct N##3 { T x, y, z; };                                         \
  struct alignas((A) * 2 > 16 ? 16 : (A) * 2) N##4 { T x, y, z, w; }; \
  inline N##2 make_##N##2(T x, T y) { return {x, y}; }                \
  inline N##3 make_##N##3(T x, T y, T z) { return {x, y, z}; }        \
  inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTOR(float, float, 8)
EMULATOR_VECTOR(double, double, 16)
EMULATOR_VECTOR(int, int, 8)
EMULATOR_VECTOR(unsigned short, ushort, 4)
EMULATOR_VECTOR(unsigned char, uchar, 2)
EMULATOR_VECTOR(long long, longlong, 16)
EMULATOR_VECTOR(unsigned long long, ulonglong, 16)
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- bits
inline float __uint_as_float(unsigned u) { return emu::bits_float(u); }
inline unsigned __float_as_uint(float f) { return emu::float_bits(f); }
inline int __float_as_int(float f) { return (int)emu::float_bits(f); }
inline float __int_as_float(int i) { return emu::bits_float((unsigned)i); }
inline long long __double_as_longlong(double d) {
  long long i;
  __builtin_memcpy(&i, &d, 8);
  return i;
}
inline double __longlong_as_double(long long i) {
  double d;
  __builtin_memcpy(&d, &i, 8);
  return d;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  x = (x & 0x55555555u) << 1 | (x >> 1 & 0x55555555u);
  x = (x & 0x33333333u) << 2 | (x >> 2 & 0x33333333u);
  x = (x & 0x0f0f0f0fu) << 4 | (x >> 4 & 0x0f0f0f0fu);
  return __builtin_bswap32(x);
}
inline unsigned long long __brevll(unsigned long long x) {
  return (unsigned long long)__brev((unsigned)x) << 32 | __brev((unsigned)(x >> 32));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s) {
  const uint64_t bytes = x | (uint64_t)y << 32;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned k = s >> 4 * i, b = (unsigned)(bytes >> 8 * (k & 7)) & 0xffu;
    r |= (k & 8 ? (b & 0x80u ? 0xffu : 0u) : b) << 8 * i;
  }
  return r;
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) {
  return (unsigned)(((uint64_t)hi << 32 | lo) << (n & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) {
  return (unsigned)(((uint64_t)hi << 32 | lo) >> (n & 31));
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }

// ---- arithmetic with a named rounding
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline double __dsqrt_rn(double a) { return sqrt(a); }
inline double __drcp_rn(double a) { return 1.0 / a; }

inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline float __ll2float_rn(long long x) { return (float)x; }
inline float __ull2float_rn(unsigned long long x) { return (float)x; }
inline float __double2float_rn(double x) { return (float)x; }
inline double __int2double_rn(int x) { return x; }
inline double __uint2double_rn(unsigned x) { return x; }
inline double __ll2double_rn(long long x) { return (double)x; }
inline double __ull2double_rn(unsigned long long x) { return (double)x; }
namespace emu {
// To an integer as the device does: the ends of the range for what lies outside. NaN becomes 0 in 32 bits,
// the top bit in 64.
template <class I>
inline I to_integer(double x, double lowest, double above) {
  if (x != x) return sizeof(I) == 8 ? (I)(1ull << 63) : (I)0;
  if (x <= lowest) return (I)lowest;
  return x >= above ? (I)(lowest < 0 ? ~(1ull << (8 * sizeof(I) - 1)) : ~0ull) : (I)x;
}
template <class I>
inline I to_signed(double x) {
  return to_integer<I>(x, sizeof(I) == 8 ? -0x1p63 : -0x1p31, sizeof(I) == 8 ? 0x1p63 : 0x1p31);
}
template <class I>
inline I to_unsigned(double x) {
  return to_integer<I>(x, 0.0, sizeof(I) == 8 ? 0x1p64 : 0x1p32);
}
}  // namespace emu
#define EMULATOR_TO_INTEGER(from, T)                                                                         \
  inline int __##from##2int_rn(T x) { return emu::to_signed<int>(rint(x)); }                                 \
  inline int __##from##2int_rz(T x) { return emu::to_signed<int>(trunc(x)); }                                \
  inline int __##from##2int_rd(T x) { return emu::to_signed<int>(floor(x)); }                                \
  inline int __##from##2int_ru(T x) { return emu::to_signed<int>(ceil(x)); }                                 \
  inline unsigned __##from##2uint_rn(T x) { return emu::to_unsigned<unsigned>(rint(x)); }                    \
  inline unsigned __##from##2uint_rz(T x) { return emu::to_unsigned<unsigned>(trunc(x)); }                   \
  inline long long __##from##2ll_rn(T x) { return emu::to_signed<long long>(rint(x)); }                      \
  inline long long __##from##2ll_rz(T x) { return emu::to_signed<long long>(trunc(x)); }                     \
  inline unsigned long long __##from##2ull_rn(T x) { return emu::to_unsigned<unsigned long long>(rint(x)); } \
  inline unsigned long long __##from##2ull_rz(T x) {                                                         \
    return emu::to_unsigned<unsigned long long>(trunc(x));                                                   \
  }                                                                                                          \
  inline unsigned long long __##from##2ull_rd(T x) { return emu::to_unsigned<unsigned long long>(floor(x)); }
EMULATOR_TO_INTEGER(float, float)
EMULATOR_TO_INTEGER(double, double)

// ---- functions that math.h lacks
inline float rsqrtf(float x) { return (float)(1.0 / sqrt((double)x)); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanhf(float x) { return tanhf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float a) { return a > 0.0f ? a < 1.0f ? a : 1.0f : 0.0f; }
inline float sinpif(float x) { return (float)sin(M_PI * fmod((double)x, 2.0)); }
inline float cospif(float x) { return (float)cos(M_PI * fmod((double)x, 2.0)); }
inline void sincospif(float x, float* s, float* c) {
  *s = sinpif(x);
  *c = cospif(x);
}
inline void __sincosf(float x, float* s, float* c) {
  *s = sinf(x);
  *c = cosf(x);
}

#define EMULATOR_MIN_MAX(A, B, R)                              \
  inline R min(A a, B b) { return (R)b < (R)a ? (R)b : (R)a; } \
  inline R max(A a, B b) { return (R)a < (R)b ? (R)b : (R)a; }
#define EMULATOR_MIN_MAX_MIXED(A, B, R) EMULATOR_MIN_MAX(A, B, R) EMULATOR_MIN_MAX(B, A, R)
EMULATOR_MIN_MAX(int, int, int)
EMULATOR_MIN_MAX(unsigned, unsigned, unsigned)
EMULATOR_MIN_MAX(long, long, long)
EMULATOR_MIN_MAX(unsigned long, unsigned long, unsigned long)
EMULATOR_MIN_MAX(long long, long long, long long)
EMULATOR_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
EMULATOR_MIN_MAX_MIXED(int, unsigned, unsigned)
EMULATOR_MIN_MAX_MIXED(long, unsigned long, unsigned long)
EMULATOR_MIN_MAX_MIXED(long long, unsigned long long, unsigned long long)
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// ---- loads and stores with a hint
#define EMULATOR_LOAD(name)   \
  template <class T>          \
  inline T name(const T* p) { \
    return *p;                \
  }
#define EMULATOR_STORE(name)    \
  template <class T, class U>   \
  inline void name(T* p, U v) { \
    *p = v;                     \
  }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldcg)
EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldlu)
EMULATOR_LOAD(__ldcv)
EMULATOR_STORE(__stcs)
EMULATOR_STORE(__stcg)
EMULATOR_STORE(__stwb)
EMULATOR_STORE(__stwt)
inline void __trap(::engine::Where w = EMULATOR_HERE) { ::engine::fail(w, "__trap"); }
