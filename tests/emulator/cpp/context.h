// A stack and what is saved of a fiber that does not run. Switches cost a few nanoseconds; sanitizers are
// told of them.
#pragma once
#include <stdlib.h>
#include <sys/mman.h>

#include "engine.h"

#if defined(__x86_64__)
#define CONTEXT_ASM 1
#else
#define CONTEXT_ASM 0
#include <ucontext.h>
#endif
#if EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if EMULATOR_TSAN
extern "C" {
void* __tsan_create_fiber(unsigned);
void* __tsan_get_current_fiber();
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#endif

extern "C" void das_emulator_switch(void** save, void* load);

namespace engine {

constexpr size_t STACK = EMULATOR_ASAN || EMULATOR_TSAN ? 256 << 10 : 128 << 10;
constexpr size_t PAGE = 4096;

struct Context {
#if CONTEXT_ASM
  void* top = nullptr;
#else
  ucontext_t saved;
#endif
  char* stack = nullptr;    // null: the OS thread's own
  size_t colour = 0;
  void* fake = nullptr;    // ASan's
  void* tsan = nullptr;

  // A page that cannot be touched lies below, so that an overflow is a fault and no silent write.
  bool allocate(size_t number) {
    void* p = mmap(nullptr, STACK + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED) return false;
    mprotect(p, PAGE, PROT_NONE);
    stack = static_cast<char*>(p) + PAGE;
    // Stacks that all began at the same offset of a page would share eight lines of the first cache.
    colour = number * 7 % 64 * 64;
    return true;
  }
  // The next switch to this context enters `entry`, which never returns.
  void prepare(void (*entry)()) {
#if EMULATOR_ASAN
    __asan_unpoison_memory_region(stack, STACK);
#endif
    fake = nullptr;
#if CONTEXT_ASM
    void** p = reinterpret_cast<void**>(stack + STACK - colour);
    *--p = nullptr;    // the stack pointer at entry is 8 beyond a multiple of 16, as after a call
    *--p = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--p = nullptr;
    top = p;
#else
    getcontext(&saved);
    saved.uc_stack.ss_sp = stack;
    saved.uc_stack.ss_size = STACK - colour;
    saved.uc_link = nullptr;
    makecontext(&saved, entry, 0);
#endif
  }
  static void change(Context& from, Context& to) {
#if CONTEXT_ASM
    das_emulator_switch(&from.top, to.top);
#else
    swapcontext(&from.saved, &to.saved);
#endif
  }
};

}  // namespace engine
