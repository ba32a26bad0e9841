// The state of one OS thread that runs blocks: fibers, who may run, what they wait for, and shared memory.
#pragma once
#include <setjmp.h>

#include <memory>
#include <string>
#include <vector>

#include "context.h"

namespace engine {

constexpr unsigned WARP = 32, MAX_THREADS = 1024;
constexpr size_t MAX_SHARED = 227 << 10, MAX_STATIC_SHARED = 48 << 10;

enum class Wait : uint8_t { NOTHING, BARRIER, WARP, DONE };

struct Fiber : Thread {
  Context* context;    // null before its first instruction
  Wait wait;
  Where where;    // of what it last waited for
  unsigned group;
  std::vector<std::pair<Copy, unsigned>> copies;
};

enum class Op : uint8_t { SYNC, SHUFFLE, BALLOT, MATCH, LDMATRIX, LDMATRIX_TRANSPOSED, MMA_BF16, MMA_F16 };

// A collective some lanes have entered. The last lane to come computes everybody's result.
struct Collective {
  unsigned mask, arrived, edge;
  Op op;
  Where where;
};
struct Operands {
  const uint32_t *a, *b;
  float* d;
};
struct Warp {
  unsigned ready, live, at_barrier, spinning;
  unsigned count;    // open collectives: their masks differ or their lanes do
  Collective open[WARP];
  uint64_t in[WARP], out[WARP];
  uint8_t source[WARP];
  const uint32_t* row[WARP];
  Operands operands[WARP];
};

struct SharedArray {
  const void* key;
  const char* name;
  char* memory;
  size_t bytes;
  bool used;
};

struct Random {
  uint64_t s;
  void seed(uint64_t seed, uint64_t stream);
  unsigned below(unsigned n) {
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    return (unsigned)(((s >> 32) * n) >> 32);
  }
};

// In which order threads that may run do. In order; one warp as far as it goes, then any other (a warp that
// overtakes the readers of shared memory); warps by a random strict priority; the last first; any warp after
// every wait.
enum class Order : uint8_t { FORWARD, GREEDY, PRIORITY, BACKWARD, ANY };
Order order_of(uint64_t seed);

struct Machine {
  Launch what;
  void** parameters;
  Block block;
  Order order;
  Random random;

  Context main;
  const void* main_low = nullptr;    // the OS thread's own stack
  size_t main_size = 0;
  Context* running;
  std::vector<std::unique_ptr<Context>> contexts;
  std::vector<Context*> idle;
  std::vector<Fiber> fibers;
  dim3 shape{0, 0, 0};
  unsigned threads, live, warps;
  Warp warp[WARP];
  unsigned warps_ready, sticky, rank[WARP];
  unsigned spinning;
  bool for_others;    // one of those who spin waits for more than this block, perhaps
  uint64_t spins, atomics;

  unsigned at_barrier, predicate, phase, result[2], barrier_edge;
  Where barrier;

  std::vector<SharedArray> arrays;
  char* dynamic = nullptr;
  size_t dynamic_bytes = 0;
  // TSan: all shared memory of a block, mapped anew for each.
  char* arena = nullptr;
  size_t arena_bytes = 0, arena_used = 0;

  std::string error;
  sigjmp_buf fault;
  bool alone;    // no other OS thread runs blocks of this launch
  bool paused;    // the block has made way for others
  uint64_t switches = 0;

  // Addresses that stand for orders of memory (TSan): the launch's start and end, then one per barrier, in a
  // ring: its length only hides races between barriers that far apart.
  uint64_t edges[2 + 16];
  unsigned next_edge = 0;
  size_t turn = 0;

  Fiber& self() { return *static_cast<Fiber*>(current); }
  unsigned number(const Fiber& f) const { return (unsigned)(&f - fibers.data()); }
  unsigned new_edge() { return 2 + next_edge++ % 16; }
  void release([[maybe_unused]] unsigned edge) {
#if EMULATOR_TSAN
    __tsan_release(&edges[edge]);
#endif
  }
  void acquire([[maybe_unused]] unsigned edge) {
#if EMULATOR_TSAN
    __tsan_acquire(&edges[edge]);
#endif
  }

  void begin(const Launch&, void** parameters);
  void open_block(uint64_t index);
  // Runs the block on: true when it is done or has failed, false when it makes way for others.
  bool resume();
  void close_block();
  // Leaves the fibers of a block that is not done.
  void drop_block();
  void end();

  // scheduler
  void make_ready(unsigned w, unsigned lanes) {
    warp[w].ready |= lanes;
    warps_ready |= 1u << w;
  }
  unsigned draw();
  void jump(Context* to, bool leaving);
  void landed();
  Context* take_context();
  void start(Fiber&);
  void reschedule();
  void thread_done();
  void give_way();
  void stop_spinning();
  void make_way(bool leaving);
  void pause();
  [[noreturn]] void abandon();
  [[noreturn]] void deadlock();
  static void entry();

  // barriers and collectives
  void open_barrier();
  Collective& enter(unsigned mask, Op, Where);
  void wait(Collective&);
  void open(unsigned w, unsigned which);
  std::string place(const Fiber&) const;

  // shared memory
  void prepare_shared();
  void check_shared();
};
extern thread_local Machine* machine;

// A pattern that no kernel writes by chance stands before and after shared arrays; sanitizers have their own.
constexpr size_t GUARD = EMULATOR_ASAN ? 0 : 256;
// Plain stores: a sanitizer must not book them on the thread that happens to run.
void fill(void* p, unsigned char value, size_t n);
bool holds(const void* p, unsigned char value, size_t n);
constexpr unsigned char POISON = 0xff, GUARD_BYTE = 0xa5;

void matrix_product(Half, const Operands (&)[WARP]);

// Faults of a kernel become errors of the launch.
void catch_faults();

}  // namespace engine
