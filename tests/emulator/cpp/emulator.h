// The device language for a host compiler: what kernels/act.cuh includes where nvcc is not the compiler.
// Included within the anonymous namespace of unit.cpp, so that every kernel file has (and a sanitizer
// instruments) a copy of its own.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

#include "convert.h"
#include "intrinsics.h"
#include "warp.h"

// ---- kernels

namespace emu {
template <class T>
struct Describe {
  static constexpr ::engine::Parameter value{sizeof(T), alignof(T), 0, 0};
};
template <class T>
constexpr uint32_t pointee_align() {
  return alignof(T);
}
template <>
constexpr uint32_t pointee_align<void>() {
  return 1;
}
template <>
constexpr uint32_t pointee_align<const void>() {
  return 1;
}
template <class T>
struct Describe<T*> {
  static constexpr ::engine::Parameter value{8, 8, pointee_align<T>(), 0};
};
template <class T>
struct Describe<const T*> {
  static constexpr ::engine::Parameter value{8, 8, pointee_align<T>(), 1};
};
template <size_t...>
struct Indices {};
template <size_t N, size_t... I>
struct Count : Count<N - 1, N - 1, I...> {};
template <size_t... I>
struct Count<0, I...> {
  using type = Indices<I...>;
};

template <class F>
struct Signature;
template <class... A>
struct Signature<void (*)(A...)> {
  static constexpr ::engine::Parameter parameters[sizeof...(A) + 1] = {Describe<A>::value..., {}};
  static constexpr unsigned count = sizeof...(A);
  template <size_t... I>
  static void spread(void (*f)(A...), void** p, Indices<I...>) {
    f(*static_cast<A*>(p[I])...);
  }
  static void call(const void* f, void** p) {
    spread(reinterpret_cast<void (*)(A...)>(const_cast<void*>(f)), p, typename Count<sizeof...(A)>::type());
  }
};
struct Register {
  ::engine::Kernel kernel;
  template <class F>
  Register(const char* name, const char* text, const char* file, ::engine::Bounds bounds, F f)
      : kernel{name,
               text,
               file,
               bounds,
               reinterpret_cast<const void*>(f),
               &Signature<F>::call,
               Signature<F>::parameters,
               Signature<F>::count,
               nullptr} {
    ::engine::add(&kernel);
  }
};
}  // namespace emu

#define EMULATOR_JOIN2(a, b) a##b
#define EMULATOR_JOIN(a, b) EMULATOR_JOIN2(a, b)
#define KERNEL(name, bounds, params)                                                                        \
  void KERNEL_NAME(name) params;                                                                            \
  emu::Register EMULATOR_JOIN(register_, KERNEL_NAME(name))(DAS_TEXT(KERNEL_NAME(name)), #params, __FILE__, \
                                                            ::engine::Bounds bounds, &KERNEL_NAME(name));   \
  void KERNEL_NAME(name) params
#define SHARED(T, name, n)          \
  static const char key_##name = 0; \
  T* const name = static_cast<T*>(::engine::shared_static(sizeof(T) * (n), &key_##name, #name, EMULATOR_HERE))
#define DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::engine::shared_dynamic())

#define threadIdx (::engine::current->index)
#define blockIdx (::engine::current->block->index)
#define blockDim (::engine::current->block->dim)
#define gridDim (::engine::current->block->grid)
#define warpSize 32
