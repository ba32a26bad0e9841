// The scheduler: which fiber runs next, and blocks from their start to their end. Compiled without
// -fsanitize=thread.
#include <string.h>

#include "machine.h"

#if CONTEXT_ASM
asm(".text\n.globl das_emulator_switch\n.type das_emulator_switch,@function\ndas_emulator_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
    ".size das_emulator_switch,.-das_emulator_switch\n");
#endif

namespace engine {
__thread Thread* current;
thread_local Machine* machine;

namespace {
unsigned lowest(unsigned m) { return (unsigned)__builtin_ctz(m); }
unsigned highest(unsigned m) { return 31 - (unsigned)__builtin_clz(m); }
// The first one from a random place on: not every one is as likely, but any is.
unsigned any(unsigned m, Random& r) {
  const unsigned from = r.below(WARP);
  return (lowest(m >> from | m << (WARP - from) % WARP) + from) % WARP;
}
}  // namespace

void Random::seed(uint64_t seed, uint64_t stream) {
  s = (seed + 1) * 0x9e3779b97f4a7c15ull ^ (stream + 1) * 0xd1b54a32d192ed03ull;
  if (!s) s = 1;
  for (int i = 0; i < 4; i++) below(2);
}

Order order_of(uint64_t seed) { return seed ? (Order)(1 + (seed - 1) % 4) : Order::FORWARD; }

unsigned Machine::draw() {
  unsigned w = 0;
  const bool again = warps_ready >> sticky & 1;
  switch (order) {
    case Order::FORWARD: w = again ? sticky : lowest(warps_ready); break;
    case Order::GREEDY: w = again ? sticky : any(warps_ready, random); break;
    case Order::PRIORITY: {
      unsigned best = WARP;
      for (unsigned m = warps_ready; m; m &= m - 1)
        if (const unsigned i = lowest(m); rank[i] < best) best = rank[w = i];
      break;
    }
    case Order::BACKWARD: w = highest(warps_ready); break;
    case Order::ANY: w = any(warps_ready, random); break;
  }
  sticky = w;
  unsigned& ready = warp[w].ready;
  const unsigned l = order == Order::FORWARD    ? lowest(ready)
                     : order == Order::BACKWARD ? highest(ready)
                                                : any(ready, random);
  ready &= ~(1u << l);
  if (!ready) warps_ready &= ~(1u << w);
  return w * WARP + l;
}

void Machine::jump(Context* to, [[maybe_unused]] bool leaving) {
  Context* from = running;
  running = to;
  switches++;
#if EMULATOR_TSAN
  __tsan_switch_to_fiber(to->tsan, 1);    // 1: the switch itself orders nothing
#endif
#if EMULATOR_ASAN
  __sanitizer_start_switch_fiber(leaving ? nullptr : &from->fake, to->stack ? to->stack : main_low,
                                 to->stack ? STACK : main_size);
#endif
  Context::change(*from, *to);
  landed();
}
void Machine::landed() {
#if EMULATOR_ASAN
  const void* low;
  size_t size;
  __sanitizer_finish_switch_fiber(running->fake, &low, &size);
  // The first switch of an OS thread comes from its own stack.
  if (!main_size) main_low = low, main_size = size;
#endif
}

Context* Machine::take_context() {
  if (idle.empty()) {
    contexts.emplace_back(new Context);
    if (!contexts.back()->allocate(contexts.size())) abort();
    return contexts.back().get();
  }
  Context* c = idle.back();
  idle.pop_back();
  return c;
}

// Makes `f` current; its context is prepared where it had none.
void Machine::start(Fiber& f) {
  f.wait = Wait::NOTHING;
  current = &f;
  if (!f.context) {
    f.context = take_context();
    f.context->prepare(&entry);
  }
}

// Leaves a thread that waits, spins or is done for another; returns when it may go on.
void Machine::reschedule() {
  if (!warps_ready && spinning && for_others) return make_way(self().wait == Wait::DONE);
  if (!warps_ready && spinning) stop_spinning();
  if (!warps_ready) {
    if (live) deadlock();
    jump(&main, true);
    abort();
  }
  Fiber& me = self();
  Fiber& next = fibers[draw()];
  if (&next == &me) {
    me.wait = Wait::NOTHING;
    return;
  }
  const bool leaving = me.wait == Wait::DONE;
  start(next);
  jump(next.context, leaving);
}

// Other blocks go on, if there are any; whoever is drawn then goes on here.
void Machine::make_way(bool leaving) {
  paused = true;
  jump(&main, leaving);
}
void Machine::pause() {
  const Fiber& f = self();
  make_ready(f.warp, 1u << f.lane);
  make_way(false);
}

void Machine::stop_spinning() {
  for (unsigned w = 0; w < warps; w++)
    if (warp[w].spinning) {
      make_ready(w, warp[w].spinning);
      warp[w].spinning = 0;
    }
  spinning = 0;
  for_others = false;
}

void Machine::entry() {
  machine->landed();
  for (;;) {
    Machine& m = *machine;
    m.acquire(0);
    m.what.kernel->call(m.what.kernel->function, m.parameters);
    m.thread_done();
    Fiber& me = m.self();
    if (EMULATOR_TSAN || !m.warps_ready) {
      // Under TSan a stack is a thread's identity and is not passed on within a block.
      if (!EMULATOR_TSAN) m.idle.push_back(me.context);
      m.reschedule();
      abort();
    }
    // A thread that has not begun takes this stack over, without a switch.
    Fiber& next = m.fibers[m.draw()];
    if (!next.context) {
      next.context = me.context;
      next.wait = Wait::NOTHING;
      current = &next;
      continue;
    }
    m.idle.push_back(me.context);
    m.start(next);
    m.jump(next.context, true);
    abort();
  }
}

void Machine::thread_done() {
  Fiber& f = self();
  release(1);
  f.wait = Wait::DONE;
  f.copies.clear();
  live--;
  spins = 0;
  Warp& w = warp[f.warp];
  w.live &= ~(1u << f.lane);
  // Those who wait for it wait no more.
  if (at_barrier && at_barrier == live) open_barrier();
  for (unsigned i = w.count; i--;)
    if (!(w.open[i].mask & w.live & ~w.open[i].arrived)) open(f.warp, i);
}

// Leaves every fiber where it stands.
void Machine::abandon() {
  current = nullptr;
  jump(&main, true);
  abort();
}

void Machine::begin(const Launch& l, void** p) {
  what = l;
  parameters = p;
  order = order_of(l.seed);
  error.clear();
  block.grid = l.grid;
  block.dim = l.block;
  threads = l.block.x * l.block.y * l.block.z;
  warps = (threads + WARP - 1) / WARP;
  if (fibers.size() < MAX_THREADS) fibers.resize(MAX_THREADS);
  if (shape.x != l.block.x || shape.y != l.block.y || shape.z != l.block.z) {
    shape = l.block;
    for (unsigned i = 0; i < threads; i++) {
      fibers[i].index = {i % shape.x, i / shape.x % shape.y, i / shape.x / shape.y};
      fibers[i].lane = i % WARP;
      fibers[i].warp = i / WARP;
      fibers[i].block = &block;
    }
  }
}

void Machine::open_block(uint64_t index) {
  const dim3 g = what.grid;
  block.index = {(unsigned)(index % g.x), (unsigned)(index / g.x % g.y), (unsigned)(index / g.x / g.y)};
  random.seed(what.seed, index);
  live = threads;
  at_barrier = predicate = phase = sticky = spinning = 0;
  spins = atomics = 0;
  for_others = false;
  for (unsigned i = 0; i < threads; i++) {
    Fiber& f = fibers[i];
    f.context = nullptr;
    f.wait = Wait::NOTHING;
    f.where = Where();
    f.group = 0;
  }
  for (unsigned w = 0; w < warps; w++) {
    Warp& x = warp[w];
    const unsigned n = threads - w * WARP;
    x.ready = x.live = n >= WARP ? ~0u : (1u << n) - 1;
    x.at_barrier = x.spinning = x.count = 0;
    rank[w] = w;
  }
  warps_ready = warps == WARP ? ~0u : (1u << warps) - 1;
  for (unsigned w = warps - 1; w; w--) std::swap(rank[w], rank[random.below(w + 1)]);
  prepare_shared();
#if EMULATOR_TSAN
  // Fibers are made here, not by the thread that leaves for them (making one orders memory), and one more
  // than needed, handed out in turn: a thread of the next block is somebody else.
  if (!main.tsan) main.tsan = __tsan_get_current_fiber();
  while (contexts.size() < threads + 1) {
    contexts.emplace_back(new Context);
    if (!contexts.back()->allocate(contexts.size())) abort();
    contexts.back()->tsan = __tsan_create_fiber(0);
  }
  turn++;
  idle.clear();
  for (size_t i = 0; i <= threads; i++) idle.push_back(contexts[(i + turn) % (threads + 1)].get());
#endif
  release(0);
}

bool Machine::resume() {
  machine = this;
  running = &main;
  paused = false;
  if (sigsetjmp(fault, 0) == 0) {
    if (!warps_ready) stop_spinning();
    Fiber& f = fibers[draw()];
    start(f);
    jump(f.context, false);
  }
  current = nullptr;
  running = &main;
  return !paused || !error.empty();
}

void Machine::close_block() {
  if (error.empty())
    check_shared();
  else
    drop_block();
}

void Machine::drop_block() {
  idle.clear();
  for (auto& c : contexts) idle.push_back(c.get());
  for (Fiber& f : fibers) f.copies.clear();
}

// After the last block. Only here is what threads did ordered before what comes: blocks are not ordered among
// themselves.
void Machine::end() { acquire(1); }

}  // namespace engine
