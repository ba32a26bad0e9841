// Barriers, warp collectives, asynchronous copies and shared memory. Compiled without -fsanitize=thread.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "machine.h"

namespace engine {

namespace {
bool same(Where a, Where b) { return a.line == b.line && (a.file == b.file || !strcmp(a.file, b.file)); }
const char* name(Op op) {
  switch (op) {
    case Op::SYNC: return "__syncwarp";
    case Op::SHUFFLE: return "a shuffle";
    case Op::BALLOT: return "a vote";
    case Op::MATCH: return "__match_any_sync";
    case Op::LDMATRIX:
    case Op::LDMATRIX_TRANSPOSED: return "ldmatrix";
    default: return "mma";
  }
}
}  // namespace

// ---- failures

std::string Machine::place(const Fiber& f) const {
  char s[200];
  snprintf(s, sizeof s, "block (%u,%u,%u) thread (%u,%u,%u) of %s", block.index.x, block.index.y,
           block.index.z, f.index.x, f.index.y, f.index.z, what.kernel->name);
  return s;
}
void fail(Where w, const char* format, ...) {
  char s[512];
  va_list args;
  va_start(args, format);
  vsnprintf(s, sizeof s, format, args);
  va_end(args);
  Machine& m = *machine;
  m.error = std::string(w.file) + ":" + std::to_string(w.line) + ": " + s + " (" + m.place(m.self()) + ")";
  m.abandon();
}
void Machine::deadlock() {
  error = "deadlock in " + std::string(what.kernel->name) + ": ";
  unsigned waiting = 0;
  Where last{"", -1};
  for (unsigned i = 0; i < threads; i++) {
    const Fiber& f = fibers[i];
    if (f.wait != Wait::BARRIER && f.wait != Wait::WARP) continue;
    waiting++;
    if (same(f.where, last)) continue;
    last = f.where;
    error += place(f) + " waits in " + (f.wait == Wait::BARRIER ? "__syncthreads" : "a warp collective") +
             " at " + f.where.file + ":" + std::to_string(f.where.line) + "; ";
    if (error.size() > 1500) break;
  }
  error += std::to_string(waiting) + " threads wait, " + std::to_string(threads - live) + " are done";
  abandon();
}

// ---- barriers of a block

void Machine::open_barrier() {
  result[phase & 1] = predicate;
  predicate = at_barrier = 0;
  phase++;
  spins = 0;
  for (unsigned w = 0; w < warps; w++)
    if (warp[w].at_barrier) {
      make_ready(w, warp[w].at_barrier);
      warp[w].at_barrier = 0;
    }
}
unsigned sync_threads(bool predicate, Where where) {
  Machine& m = *machine;
  Fiber& f = m.self();
  if (!m.at_barrier) {
    m.barrier = where;
    m.barrier_edge = m.new_edge();
  } else if (!same(m.barrier, where)) {
    fail(where, "divergent __syncthreads: other threads of the block wait at %s:%d", m.barrier.file,
         m.barrier.line);
  }
  f.where = where;
  f.wait = Wait::BARRIER;
  m.at_barrier++;
  m.predicate += predicate;
  m.warp[f.warp].at_barrier |= 1u << f.lane;
  const unsigned phase = m.phase, edge = m.barrier_edge;
  m.release(edge);
  if (m.at_barrier == m.live) m.open_barrier();
  m.reschedule();
  m.acquire(edge);
  return m.result[phase & 1];
}

// ---- collectives of a warp

Collective& Machine::enter(unsigned mask, Op op, Where where) {
  Fiber& f = self();
  const unsigned me = 1u << f.lane;
  Warp& w = warp[f.warp];
  if (!(mask & me)) fail(where, "lane %u calls %s whose mask %08x leaves it out", f.lane, name(op), mask);
  for (unsigned i = 0; i < w.count; i++) {
    Collective& c = w.open[i];
    if (c.op == op && c.mask == mask && same(c.where, where)) return c.arrived |= me, c;
    if (c.mask & mask)
      fail(where, "divergent warp: %s of lanes %08x, while lanes %08x of them wait in %s of %08x at %s:%d",
           name(op), mask, c.arrived, name(c.op), c.mask, c.where.file, c.where.line);
  }
  Collective& c = w.open[w.count++];
  c = {mask, me, op == Op::SYNC ? new_edge() : 0, op, where};
  return c;
}
// Opens the collective if this lane was the last; waits otherwise.
void Machine::wait(Collective& c) {
  Fiber& f = self();
  f.where = c.where;
  f.wait = Wait::WARP;
  Warp& w = warp[f.warp];
  if (!(c.mask & w.live & ~c.arrived)) open(f.warp, (unsigned)(&c - w.open));
  reschedule();
}
void Machine::open(unsigned number, unsigned which) {
  Warp& w = warp[number];
  const Collective c = w.open[which];
  w.open[which] = w.open[--w.count];
  spins = 0;
  const auto everybody = [&] {
    if (c.arrived != ~0u) fail(c.where, "%s with lanes %08x only", name(c.op), c.arrived);
  };
  switch (c.op) {
    case Op::SYNC: break;
    case Op::SHUFFLE:
      for (unsigned m = c.arrived; m; m &= m - 1) {
        const unsigned l = (unsigned)__builtin_ctz(m), s = w.source[l];
        if (!(c.arrived >> s & 1))
          fail(c.where, "lane %u reads from lane %u, which does not take part", l, s);
        w.out[l] = w.in[s];
      }
      break;
    case Op::BALLOT: {
      uint64_t votes = 0;
      for (unsigned m = c.arrived; m; m &= m - 1) votes |= w.in[__builtin_ctz(m)] << __builtin_ctz(m);
      for (unsigned m = c.arrived; m; m &= m - 1) w.out[__builtin_ctz(m)] = votes;
      break;
    }
    case Op::MATCH:
      for (unsigned m = c.arrived; m; m &= m - 1) {
        const unsigned l = (unsigned)__builtin_ctz(m);
        w.out[l] = 0;
        for (unsigned k = c.arrived; k; k &= k - 1)
          if (w.in[__builtin_ctz(k)] == w.in[l]) w.out[l] |= 1u << __builtin_ctz(k);
      }
      break;
    case Op::LDMATRIX:
    case Op::LDMATRIX_TRANSPOSED:
      everybody();
      for (unsigned l = 0; l < WARP; l++)
        for (unsigned j = 0; j < 4; j++) {
          const uint32_t* const* rows = w.row + 8 * j;
          uint32_t& r = reinterpret_cast<uint32_t*>(w.operands[l].d)[j];
          if (c.op == Op::LDMATRIX) {
            r = rows[l / 4][l % 4];
          } else {
            const unsigned shift = l / 4 % 2 * 16;
            r = (rows[l % 4 * 2][l / 8] >> shift & 0xffffu) | (rows[l % 4 * 2 + 1][l / 8] >> shift) << 16;
          }
        }
      break;
    case Op::MMA_BF16:
    case Op::MMA_F16:
      everybody();
      matrix_product(c.op == Op::MMA_F16 ? Half::F16 : Half::BF16, w.operands);
      break;
  }
  make_ready(number, c.arrived);
}

void sync_warp(unsigned mask, Where where) {
  Machine& m = *machine;
  Collective& c = m.enter(mask, Op::SYNC, where);
  const unsigned edge = c.edge;
  m.release(edge);
  m.wait(c);
  m.acquire(edge);
}
uint64_t shuffle(unsigned mask, uint64_t value, unsigned source, Where where) {
  Machine& m = *machine;
  const unsigned l = current->lane;
  Warp& w = m.warp[current->warp];
  Collective& c = m.enter(mask, Op::SHUFFLE, where);
  w.in[l] = value;
  w.source[l] = (uint8_t)(source & 31);
  m.wait(c);
  return w.out[l];
}
unsigned ballot(unsigned mask, bool predicate, Where where) {
  Machine& m = *machine;
  const unsigned l = current->lane;
  Warp& w = m.warp[current->warp];
  Collective& c = m.enter(mask, Op::BALLOT, where);
  w.in[l] = predicate;
  m.wait(c);
  return (unsigned)w.out[l];
}
unsigned match(unsigned mask, uint64_t value, Where where) {
  Machine& m = *machine;
  const unsigned l = current->lane;
  Warp& w = m.warp[current->warp];
  Collective& c = m.enter(mask, Op::MATCH, where);
  w.in[l] = value;
  m.wait(c);
  return (unsigned)w.out[l];
}
void ldmatrix_x4(uint32_t (&r)[4], const uint32_t (&row)[4], bool transposed, Where where) {
  Machine& m = *machine;
  Warp& w = m.warp[current->warp];
  Collective& c = m.enter(~0u, transposed ? Op::LDMATRIX_TRANSPOSED : Op::LDMATRIX, where);
  w.row[current->lane] = row;
  w.operands[current->lane].d = reinterpret_cast<float*>(r);
  m.wait(c);
}
void mma_16816(Half type, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where) {
  Machine& m = *machine;
  Collective& c = m.enter(~0u, type == Half::F16 ? Op::MMA_F16 : Op::MMA_BF16, where);
  m.warp[current->warp].operands[current->lane] = {a, b, d};
  m.wait(c);
}

// ---- threads that spin

void yield(Where where) {
  Machine& m = *machine;
  m.self().where = where;
  // Alone, a thread that waits for a block not yet begun waits forever; else the launch decides (launch.cpp).
  if (++m.spins > 1u << 18 && m.alone) fail(where, "spins without end");
  if (!m.alone && m.spins % 64 == 0) {
    const timespec pause{0, 50000};
    nanosleep(&pause, nullptr);
  }
  m.for_others = true;
  m.give_way();
}
void Machine::give_way() {
  const Fiber& f = self();
  warp[f.warp].spinning |= 1u << f.lane;
  spinning++;
  if (order != Order::FORWARD && random.below(4) == 0) stop_spinning();
  reschedule();
}
void look() {
  Machine& m = *machine;
  if (m.order != Order::FORWARD && m.random.below(8) == 0) m.pause();
}
void atomic_point(Where where) {
  Machine& m = *machine;
  if (++m.atomics > 1u << 28) fail(where, "atomics without end");
  if (m.order == Order::FORWARD ? m.atomics % 4096 == 0 : m.random.below(8) == 0) m.give_way();
}

// ---- asynchronous copies

bool copy_begin(const Copy& c) {
  Machine& m = *machine;
  Fiber& f = m.self();
  // Anywhere between here and the wait is a legal moment; the last one shows a missing wait.
  if (m.order != Order::FORWARD && m.random.below(2)) return true;
  f.copies.emplace_back(c, f.group);
  return false;
}
void copy_commit() { machine->self().group++; }
bool copy_next(unsigned left, Copy* c) {
  Fiber& f = machine->self();
  if (f.copies.empty() || f.copies.front().second + left >= f.group) return false;
  *c = f.copies.front().first;
  f.copies.erase(f.copies.begin());
  return true;
}

// ---- shared memory

void fill(void* p, unsigned char value, size_t n) {
#if defined(__x86_64__)
  asm volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(value) : "memory");
#else
  volatile unsigned char* q = static_cast<unsigned char*>(p);
  for (size_t i = 0; i < n; i++) q[i] = value;
#endif
}
bool holds(const void* p, unsigned char value, size_t n) {
  const unsigned char* q = static_cast<const unsigned char*>(p);
  for (size_t i = 0; i < n; i++)
    if (q[i] != value) return false;
  return true;
}
namespace {
constexpr size_t ARENA = 80 << 10;    // all static arrays there may be, with their guard zones
char* guarded(char* p, size_t bytes) {
  fill(p, GUARD_BYTE, GUARD);
  fill(p + GUARD + bytes, GUARD_BYTE, GUARD);
  return p + GUARD;
}
char* allocate_shared(size_t bytes) {
  void* p;
  if (posix_memalign(&p, 128, bytes + 2 * GUARD)) abort();
  return guarded(static_cast<char*>(p), bytes);
}
bool intact(const char* memory, size_t bytes) {
  return holds(memory - GUARD, GUARD_BYTE, GUARD) && holds(memory + bytes, GUARD_BYTE, GUARD);
}
void free_shared(char* memory) { free(memory - GUARD); }
}  // namespace

void Machine::prepare_shared() {
  const bool fresh = dynamic_bytes != what.shared || (what.shared && !dynamic);
  if (EMULATOR_TSAN) {
    // Blocks are not ordered among themselves: at an address that an earlier one used, each access would be a
    // race. A new mapping has no past. Made here, not where a thread first names an array, since it counts as
    // a write.
    if (arena) munmap(arena, arena_bytes);
    arena_bytes = ARENA + (what.shared + 127) / 128 * 128 + 2 * GUARD;
    void* p = mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) abort();
    arena = static_cast<char*>(p);
    arena_used = 0;
    arrays.clear();
    dynamic = what.shared ? guarded(arena + ARENA, what.shared) : nullptr;
  } else if (fresh) {
    if (dynamic) free_shared(dynamic);
    dynamic = what.shared ? allocate_shared(what.shared) : nullptr;
  }
  dynamic_bytes = what.shared;
  if (dynamic) fill(dynamic, POISON, dynamic_bytes);
  for (SharedArray& a : arrays) a.used = false;
}
void Machine::check_shared() {
  const auto broken = [&](const char* name, char* memory, size_t bytes) {
    char s[300];
    snprintf(s, sizeof s, "block (%u,%u,%u) of %s wrote outside of %s (%zu bytes of shared memory)",
             block.index.x, block.index.y, block.index.z, what.kernel->name, name, bytes);
    error = s;
    fill(memory - GUARD, GUARD_BYTE, GUARD);
    fill(memory + bytes, GUARD_BYTE, GUARD);
  };
  if (dynamic && !intact(dynamic, dynamic_bytes)) broken("the dynamic array", dynamic, dynamic_bytes);
  for (SharedArray& a : arrays)
    if (a.used && !intact(a.memory, a.bytes)) broken(a.name, a.memory, a.bytes);
}

void* shared_static(size_t bytes, const void* key, const char* name, Where where) {
  Machine& m = *machine;
  size_t total = bytes;
  SharedArray* array = nullptr;
  for (SharedArray& a : m.arrays) {
    if (a.key == key)
      array = &a;
    else if (a.used)
      total += a.bytes;
  }
  if (array && array->used) return array->memory;
  if (total > MAX_STATIC_SHARED) fail(where, "%zu bytes of static shared memory", total);
  if (total + m.dynamic_bytes > MAX_SHARED)
    fail(where, "%zu bytes of shared memory", total + m.dynamic_bytes);
  if (!array) {
    const size_t taken = (bytes + 127) / 128 * 128 + 2 * GUARD;
    char* memory = EMULATOR_TSAN ? guarded(m.arena + m.arena_used, bytes) : allocate_shared(bytes);
    m.arena_used += taken;
    if (EMULATOR_TSAN && m.arena_used > ARENA) fail(where, "too many shared arrays");
    m.arrays.push_back({key, name, memory, bytes, false});
    array = &m.arrays.back();
  }
  array->used = true;
  fill(array->memory, POISON, bytes);
  return array->memory;
}
void* shared_dynamic() { return machine->dynamic; }

}  // namespace engine
