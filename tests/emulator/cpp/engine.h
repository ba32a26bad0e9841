// What stands between the device language (emulator.h) and the machine that runs it: one fiber per CUDA
// thread, one block at a time per OS thread. Nothing here depends on the element type, so it is the same for
// every kernel file.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <string>

#if defined(__SANITIZE_THREAD__) && !defined(EMULATOR_TSAN)
#define EMULATOR_TSAN 1
#elif !defined(EMULATOR_TSAN)
#define EMULATOR_TSAN 0
#endif
#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
#else
#define EMULATOR_ASAN 0
#endif

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace engine {

// A place in the text of a kernel, as the default argument of a device function.
struct Where {
  const char* file;
  int line;
  // No aggregate: g++ would put this line in the place of the call's.
  constexpr Where(const char* file = "its start", int line = 0) : file(file), line(line) {}
};
#define EMULATOR_HERE ::engine::Where(__builtin_FILE(), __builtin_LINE())

struct Block {
  uint3 index;
  dim3 grid, dim;
};
// What a thread may know about itself.
struct Thread {
  uint3 index;
  unsigned lane, warp;
  const Block* block;
};
// Initial-exec: read without a call, although this is a shared library.
extern __thread Thread* current __attribute__((tls_model("initial-exec")));

// Barriers of the block; the result is how many threads had the predicate.
unsigned sync_threads(bool predicate, Where);
// The only warp collective that orders memory.
void sync_warp(unsigned mask, Where);
// Every lane of the mask offers a value and gets that of lane `source`, which must be of the mask.
uint64_t shuffle(unsigned mask, uint64_t value, unsigned source, Where);
unsigned ballot(unsigned mask, bool predicate, Where);
// The lanes of the mask that offer the same value.
unsigned match(unsigned mask, uint64_t value, Where);
// Lane i has read row i % 8 of matrix i / 8.
void ldmatrix_x4(uint32_t (&r)[4], const uint32_t (&row)[4], bool transposed, Where);
enum class Half { BF16, F16 };
void mma_16816(Half, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where);

// `key` is one address per array of the text.
void* shared_static(size_t bytes, const void* key, const char* name, Where);
void* shared_dynamic();

struct Copy {
  void* to;
  const void* from;
  unsigned bytes, read;
};
// True: the copy is to land at once; false: it was queued.
bool copy_begin(const Copy&);
void copy_commit();
// The next queued copy that must have landed when at most `left` groups are under way.
bool copy_next(unsigned left, Copy*);

// Lets other threads go on; a thread that spins must come here.
void yield(Where);
// A look at what another block writes, or the moment before or after writing what one looks at: blocks of one
// OS thread take turns here, in an order by the seed.
void look();
// Like yield, now and then: atomics are what threads of different warps order themselves by.
void atomic_point(Where);
[[noreturn]] void fail(Where, const char* format, ...) __attribute__((format(printf, 2, 3)));

// ---- kernels
struct Parameter {
  uint32_t size, align;
  uint32_t pointee;     // the alignment of what a pointer points to; 0 for a value
  uint32_t is_const;    // a pointer to const
};
struct Bounds {
  unsigned threads, blocks;
  constexpr Bounds(unsigned threads, unsigned blocks = 0) : threads(threads), blocks(blocks) {}
};
struct Kernel {
  const char *name, *text, *file;    // text: the parameters as written
  Bounds bounds;
  const void* function;
  void (*call)(const void* function, void** parameters);
  const Parameter* parameters;
  unsigned count;
  Kernel* next;
};
void add(Kernel*);
const Kernel* find(const char* name);
const Kernel* first();

struct Launch {
  const Kernel* kernel;
  dim3 grid, block;
  unsigned shared;
  uint64_t seed;
};
// Why it cannot be launched; empty if it can.
std::string refuse(const Launch&);
// Null, or what went wrong: a text that lives until this OS thread's next launch. Seed 0 is everything in
// order.
const char* launch(const Launch&, void** parameters);
// Switches between fibers since the start of this OS thread.
uint64_t switches();

}  // namespace engine
