// Barriers, warp collectives, asynchronous copies and atomics of the device language.
#pragma once

inline void __syncthreads(::engine::Where w = EMULATOR_HERE) { ::engine::sync_threads(false, w); }
inline int __syncthreads_count(int p, ::engine::Where w = EMULATOR_HERE) {
  return (int)::engine::sync_threads(p != 0, w);
}
inline int __syncthreads_or(int p, ::engine::Where w = EMULATOR_HERE) {
  return ::engine::sync_threads(p != 0, w) != 0;
}
inline int __syncthreads_and(int p, ::engine::Where w = EMULATOR_HERE) {
  return ::engine::sync_threads(p == 0, w) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, ::engine::Where w = EMULATOR_HERE) {
  ::engine::sync_warp(mask, w);
}

namespace emu {
template <class T>
struct Same {
  using type = T;
};
template <class T>
T shuffle(unsigned mask, T v, unsigned source, ::engine::Where w) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
  uint64_t raw = 0;
  __builtin_memcpy(&raw, &v, sizeof(T));
  raw = ::engine::shuffle(mask, raw, source, w);
  __builtin_memcpy(&v, &raw, sizeof(T));
  return v;
}
inline unsigned lane() { return ::engine::current->lane; }
}  // namespace emu

template <class T>
inline T __shfl_sync(unsigned m, T v, int source, int width = 32, ::engine::Where w = EMULATOR_HERE) {
  return emu::shuffle(m, v, (emu::lane() & ~(width - 1)) | (source & (width - 1)), w);
}
template <class T>
inline T __shfl_xor_sync(unsigned m, T v, int x, int width = 32, ::engine::Where w = EMULATOR_HERE) {
  const unsigned l = emu::lane(), s = l ^ x;
  return emu::shuffle(m, v, (s & ~(width - 1)) > (l & ~(width - 1)) ? l : s, w);
}
template <class T>
inline T __shfl_down_sync(unsigned m, T v, unsigned d, int width = 32, ::engine::Where w = EMULATOR_HERE) {
  const unsigned l = emu::lane();
  return emu::shuffle(m, v, (l & (width - 1)) + d < (unsigned)width ? l + d : l, w);
}
template <class T>
inline T __shfl_up_sync(unsigned m, T v, unsigned d, int width = 32, ::engine::Where w = EMULATOR_HERE) {
  const unsigned l = emu::lane();
  return emu::shuffle(m, v, (l & (width - 1)) >= d ? l - d : l, w);
}
inline unsigned __ballot_sync(unsigned m, int p, ::engine::Where w = EMULATOR_HERE) {
  return ::engine::ballot(m, p != 0, w);
}
inline int __any_sync(unsigned m, int p, ::engine::Where w = EMULATOR_HERE) {
  return ::engine::ballot(m, p != 0, w) != 0;
}
inline int __all_sync(unsigned m, int p, ::engine::Where w = EMULATOR_HERE) {
  return ::engine::ballot(m, p == 0, w) == 0;
}
template <class T>
inline unsigned __match_any_sync(unsigned m, T v, ::engine::Where w = EMULATOR_HERE) {
  uint64_t raw = 0;
  __builtin_memcpy(&raw, &v, sizeof(T));
  return ::engine::match(m, raw, w);
}

// ---- mma.cuh
namespace emu {
// Runs in instrumented code, element by element, so that a sanitizer sees which thread reads and writes.
inline void land(const ::engine::Copy& c) {
  struct __attribute__((packed)) Word {
    uint16_t half;
  };
  const Word* from = static_cast<const Word*>(c.from);
  Word* to = static_cast<Word*>(c.to);
  for (unsigned i = 0; i < c.bytes / 2; i++) to[i].half = i < c.read / 2 ? from[i].half : (uint16_t)0;
}
inline void cp_async(void* shared, const void* global, unsigned bytes, unsigned read,
                     ::engine::Where w = EMULATOR_HERE) {
  if ((uintptr_t)shared % bytes || (uintptr_t)global % bytes)
    ::engine::fail(w, "misaligned cp.async of %u bytes from %p to %p", bytes, global, shared);
  if (read > bytes || read % 2) ::engine::fail(w, "cp.async of %u bytes reads %u", bytes, read);
  const ::engine::Copy c{shared, global, bytes, read};
  if (::engine::copy_begin(c)) land(c);
}
inline void cp_async_commit() { ::engine::copy_commit(); }
inline void cp_async_wait(unsigned left) {
  ::engine::Copy c;
  while (::engine::copy_next(left, &c)) land(c);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, bool transposed,
                        ::engine::Where w = EMULATOR_HERE) {
  if ((uintptr_t)row % 16) ::engine::fail(w, "misaligned ldmatrix row at %p", row);
  uint32_t words[4];
  __builtin_memcpy(words, row, 16);
  ::engine::ldmatrix_x4(r, words, transposed, w);
}
inline void mma_16816_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                           ::engine::Where w = EMULATOR_HERE) {
  ::engine::mma_16816(::engine::Half::BF16, d, a, b, w);
}
inline void mma_16816_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                          ::engine::Where w = EMULATOR_HERE) {
  ::engine::mma_16816(::engine::Half::F16, d, a, b, w);
}
}  // namespace emu

// ---- memory and atomics. Blocks run on several OS threads, so these are true atomics; they also order
// memory, which the device's do not: a missing __threadfence is not found here.
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __nanosleep(unsigned, ::engine::Where w = EMULATOR_HERE) { ::engine::yield(w); }

// ---- lookback.cuh. In no order with anything else, as a sanitizer knows.
namespace emu {
inline uint64_t peek(const uint64_t* p) {
  ::engine::look();
  return __atomic_load_n(p, __ATOMIC_RELAXED);
}
inline void publish(uint64_t* p, uint64_t v) {
  ::engine::look();
  __atomic_store_n(p, v, __ATOMIC_RELAXED);
  ::engine::look();
}

template <class T, class F>
inline T update(T* p, ::engine::Where w, F f) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomics are of 4 or 8 bytes");
  ::engine::atomic_point(w);
  T old, next;
  __atomic_load(p, &old, __ATOMIC_ACQUIRE);
  do next = f(old);
  while (!__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
  return old;
}
template <class T>
using Same_t = typename Same<T>::type;
}  // namespace emu
#define EMULATOR_ATOMIC(name, next)                                              \
  template <class T>                                                             \
  inline T name(T* p, emu::Same_t<T> v, ::engine::Where w = EMULATOR_HERE) {     \
    return emu::update(p, w, [=]([[maybe_unused]] T old) { return (T)(next); }); \
  }
EMULATOR_ATOMIC(atomicAdd, old + v)
EMULATOR_ATOMIC(atomicSub, old - v)
EMULATOR_ATOMIC(atomicMax, old > v ? old : v)
EMULATOR_ATOMIC(atomicMin, old < v ? old : v)
EMULATOR_ATOMIC(atomicExch, v)
EMULATOR_ATOMIC(atomicOr, old | v)
EMULATOR_ATOMIC(atomicAnd, old& v)
EMULATOR_ATOMIC(atomicXor, old ^ v)
template <class T>
inline T atomicCAS(T* p, emu::Same_t<T> compare, emu::Same_t<T> v, ::engine::Where w = EMULATOR_HERE) {
  return emu::update(p, w, [=](T old) { return old == compare ? v : old; });
}
