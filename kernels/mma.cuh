// Asynchronous copies into shared memory, ldmatrix, and the 16x8x16 product of tensor cores. All but the
// copies are operations of a whole warp. Other inline PTX is in act.cuh (conversions, stores), attention.cuh
// (exp2_fast) and lookback.cuh.
#pragma once
#include "act.cuh"

// ---- cp.async: 16 bytes from global to shared memory, of which the first `bytes` (0 to 16) are read and the
// rest filled with zeros. Both addresses are multiples of 16. The thread that issued a copy sees it after
// waiting for its group; other threads see it after a barrier that follows this wait.
DEVICE void cp_async16(void* shared, const void* global, unsigned bytes = 16) {
#if defined(__CUDACC__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   (uint32_t)__cvta_generic_to_shared(shared)),
               "l"(global), "r"(bytes)
               : "memory");
#else
  emu::cp_async(shared, global, 16, bytes);
#endif
}
// Ends a group of copies.
DEVICE void cp_async_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emu::cp_async_commit();
#endif
}
// Waits until at most the latest LEFT groups of this thread are still in flight.
template <int LEFT>
DEVICE void cp_async_wait() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#else
  emu::cp_async_wait(LEFT);
#endif
}

// ---- ldmatrix: four 8x8 matrices of 16-bit elements. Lane i gives the address (16-byte aligned, shared) of
// row i % 8 of matrix i / 8; r[j] is this lane's piece of matrix j: elements 2 (lane % 4) and the next of row
// lane / 4. Transposed: the same of the transposed matrix.
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"((uint32_t)__cvta_generic_to_shared(row))
               : "memory");
#else
  emu::ldmatrix_x4(r, row, false);
#endif
}
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"((uint32_t)__cvta_generic_to_shared(row))
               : "memory");
#else
  emu::ldmatrix_x4(r, row, true);
#endif
}

// ---- mma m16n8k16: d (16x8, f32) += a (16x16, by rows) b (16x8, by columns) of 16-bit elements T.
// Fragments, with g = lane / 4 and t = lane % 4 and pairs of neighbours along k in one register:
//   a[0] row g,     k 2t      a[1] row g + 8, k 2t      a[2] row g, k 2t + 8      a[3] row g + 8, k 2t + 8
//   b[0] column g,  k 2t      b[1] column g,  k 2t + 8
//   d[0], d[1] row g, columns 2t, 2t + 1                d[2], d[3] row g + 8, the same columns
template <class T>
DEVICE void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
#if defined(__CUDACC__)
template <>
DEVICE void mma_16816<bf16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
DEVICE void mma_16816<f16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
template <>
DEVICE void mma_16816<bf16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emu::mma_16816_bf16(d, a, b);
}
template <>
DEVICE void mma_16816<f16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emu::mma_16816_f16(d, a, b);
}
#endif
