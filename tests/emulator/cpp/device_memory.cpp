// Device memory: plain, of the pool (in the order of streams), of graphs; and pinned host memory. Sizes are
// counted as a device counts them: what is asked for in the order of calls, whatever has run.
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "driver.h"
#include "memory.h"

namespace driver {

namespace {
constexpr size_t CHUNK = 2 << 20;    // a pool gets memory in these
size_t rounded(size_t n, size_t to) { return (n + to - 1) / to * to; }

void count(State& s) {
  s.counters.bytes_live = s.plain + s.used + s.graph_used;
  s.counters.bytes_peak = std::max(s.counters.bytes_peak, s.counters.bytes_live);
}
Result room(State& s, size_t bytes) {
  if (s.fail_allocation > 0 && --s.fail_allocation == 0)
    return refuse(OUT_OF_MEMORY, "a test asked for this failure");
  const size_t taken = s.plain + s.used + s.graph_reserved;
  if (bytes <= s.limit && taken <= s.limit - bytes) return OK;
  return refuse(OUT_OF_MEMORY, std::to_string(bytes) + " bytes asked for, " + std::to_string(taken) + " of " +
                                   std::to_string(s.limit) + " in use");
}
// The pool holds on to memory, up to what is left.
void reserve(State& s) {
  s.used_high = std::max(s.used_high, s.used);
  s.reserved = std::max(s.reserved, rounded(s.used, CHUNK));
  s.reserved = std::max(s.used, std::min(s.reserved, s.limit - s.plain - s.graph_reserved));
  s.reserved_high = std::max(s.reserved_high, s.reserved);
}
Result allocate(State& s, Address* p, size_t bytes, Kind kind) {
  if (!bytes) return refuse(INVALID_VALUE, "an allocation of no bytes");
  const size_t taken = rounded(bytes, 512);
  if (const Result r = room(s, taken)) return r;
  void* q = memory::allocate(bytes);
  if (!q) return refuse(OUT_OF_MEMORY, "the host has no more memory");
  *p = (Address)(uintptr_t)q;
  s.allocations[*p] = {bytes, kind, false, current_device()};
  (kind == Kind::PLAIN ? s.plain : s.used) += taken;
  reserve(s);
  s.counters.allocations++;
  count(s);
  return OK;
}
// The memory itself goes; its bytes were given back before.
void give_back(State& s, Address p) {
  if (!memory::intact(at(p)))
    fail(ILLEGAL_ADDRESS,
         "something wrote outside of an allocation of " + std::to_string(s.allocations[p].bytes) + " bytes");
  s.allocations.erase(p);
  memory::release(at(p));
}
const Allocation* holder(Address p, size_t n, Address* start) {
  State& s = state();
  auto i = s.allocations.upper_bound(p);
  if (i == s.allocations.begin()) return nullptr;
  --i;
  if (p > i->first + i->second.bytes || n > i->first + i->second.bytes - p) return nullptr;
  *start = i->first;
  return &i->second;
}
std::map<Address, std::weak_ptr<GraphMemory>>& graph_memory() {
  static auto* m = new std::map<Address, std::weak_ptr<GraphMemory>>;
  return *m;
}
std::shared_ptr<GraphMemory> of_graph(Address p) {
  const auto i = graph_memory().find(p);
  return i == graph_memory().end() ? nullptr : i->second.lock();
}
std::map<Address, Capture*>& capture_of() {
  static auto* m =
      new std::map<Address, Capture*>;    // memory that a capture under way has allocated and not freed
  return *m;
}

Result allocate_in_graph(State& s, Address* p, size_t bytes, Stream* on) {
  if (!bytes) return refuse(INVALID_VALUE, "an allocation of no bytes");
  if (s.fail_allocation > 0 && --s.fail_allocation == 0)
    return refuse(OUT_OF_MEMORY, "a test asked for this failure");
  void* q = memory::allocate(bytes);
  if (!q) return refuse(OUT_OF_MEMORY, "the host has no more memory");
  *p = (Address)(uintptr_t)q;
  auto memory = std::make_shared<GraphMemory>();
  memory->address = *p;
  memory->bytes = bytes;
  s.allocations[*p] = {bytes, Kind::GRAPH, false, on->device};
  graph_memory()[*p] = memory;
  capture_of()[*p] = on->capture.get();
  Graph& g = *on->capture->graph;
  g.has_memory = true;
  g.now += rounded(bytes, 512);
  g.peak = std::max(g.peak, g.now);
  s.counters.allocations++;
  GraphMemory* m = memory.get();
  return put(
      on, NodeKind::ALLOC, "",
      [m] {
        State& s = state();
        m->given = true;
        s.graph_used += rounded(m->bytes, 512);
        s.graph_used_high = std::max(s.graph_used_high, s.graph_used);
        count(s);
        memset(at(m->address), 0xff, m->bytes);
      },
      memory);
}
void end_graph_memory(GraphMemory* m) {
  State& s = state();
  if (!m->given) return;
  m->given = false;
  s.graph_used -= rounded(m->bytes, 512);
  count(s);
  memset(at(m->address), 0xff, m->bytes);
}
Result free_in_graph(State& s, Address p, Stream* on) {
  const auto memory = of_graph(p);
  if (!memory) return refuse(INVALID_VALUE, "a captured release of memory that no graph allocates");
  if (capture_of()[p] == on->capture.get()) {
    on->capture->graph->now -= rounded(memory->bytes, 512);
    memory->freed_inside = true;
  }
  capture_of().erase(p);
  on->capture->graph->has_memory = true;
  s.counters.releases++;
  return put(on, NodeKind::FREE, "", [memory] { end_graph_memory(memory.get()); }, memory);
}
}  // namespace

GraphMemory::~GraphMemory() {
  State& s = state();
  Lock lock(s.mutex);
  end_graph_memory(this);
  graph_memory().erase(address);
  capture_of().erase(address);
  if (s.allocations.count(address)) give_back(s, address);
}

bool usable(Address p, size_t n, Stream* on) {
  if (pinned(at(p), n)) return true;
  Address start;
  const Allocation* a = holder(p, n, &start);
  if (!a || a->released) return false;
  if (on->device != ANY_DEVICE && a->device != on->device) return false;
  if (a->kind != Kind::GRAPH) return true;
  const auto c = capture_of().find(start);
  if (c != capture_of().end()) return on->capture && c->second == on->capture.get();
  // Outside of its graph: only what the graph leaves allocated.
  const auto memory = of_graph(start);
  return memory && memory->outstanding;
}
bool alive(Address p, size_t n) {
  Address start;
  const Allocation* a = holder(p, n, &start);
  if (!a) return pinned(at(p), n);
  if (a->kind != Kind::GRAPH) return true;
  const auto memory = of_graph(start);
  return memory && memory->given;
}
bool pinned(const void* p, size_t n) {
  State& s = state();
  auto i = s.pinned.upper_bound(static_cast<const char*>(p));
  if (i == s.pinned.begin()) return false;
  --i;
  return static_cast<const char*>(p) + n <= i->first + i->second;
}

void capture_ended(const Capture* c) {
  for (auto i = capture_of().begin(); i != capture_of().end();) i = i->second == c ? capture_of().erase(i) : ++i;
}

// What a pool does at every synchronisation: it keeps no more than its threshold says.
void synchronised() {
  State& s = state();
  s.counters.synchronisations++;
  if (s.reserved > s.threshold) s.reserved = std::max<size_t>(rounded(s.used, CHUNK), s.threshold);
  const std::string wrong = memory::complaint(false);
  if (!wrong.empty()) fail(ILLEGAL_ADDRESS, wrong);
}

}  // namespace driver

using namespace driver;

#define ENTER()       \
  State& s = state(); \
  Lock lock(s.mutex); \
  if (const Result r = ready()) return r

EXPORT Result cuMemGetInfo_v2(size_t* free, size_t* total) {
  ENTER();
  *total = s.limit;
  *free = s.limit - std::min(s.limit, s.plain + s.reserved + s.graph_reserved);
  return OK;
}
EXPORT Result cuMemAlloc_v2(Address* p, size_t bytes) {
  ENTER();
  if (const Result r = forbidden("cuMemAlloc")) return r;
  return allocate(s, p, bytes, Kind::PLAIN);
}
EXPORT Result cuMemFree_v2(Address p) {
  ENTER();
  if (!p) return OK;
  if (const Result r = forbidden("cuMemFree")) return r;
  const auto i = s.allocations.find(p);
  if (i == s.allocations.end() || i->second.released)
    return refuse(INVALID_VALUE, "a release of what is not allocated");
  if (const Result r = drain_all()) return r;
  s.counters.releases++;
  if (i->second.kind == Kind::GRAPH) {
    if (const auto memory = of_graph(p)) {
      memory->outstanding = false;
      end_graph_memory(memory.get());
    }
    return OK;
  }
  (i->second.kind == Kind::PLAIN ? s.plain : s.used) -= rounded(i->second.bytes, 512);
  count(s);
  give_back(s, p);
  return s.sticky;
}
EXPORT Result cuMemAllocAsync(Address* p, size_t bytes, void* handle) {
  ENTER();
  Stream* on = stream(handle);
  if (!on) return INVALID_HANDLE;
  if (on->capture) return allocate_in_graph(s, p, bytes, on);
  run_some();
  return allocate(s, p, bytes, Kind::POOL);
}
EXPORT Result cuMemAllocFromPoolAsync(Address* p, size_t bytes, void*, void* handle) {
  return cuMemAllocAsync(p, bytes, handle);
}
EXPORT Result cuMemFreeAsync(Address p, void* handle) {
  ENTER();
  Stream* on = stream(handle);
  if (!on) return INVALID_HANDLE;
  if (!p) return OK;
  const auto i = s.allocations.find(p);
  if (i == s.allocations.end() || i->second.released)
    return refuse(INVALID_VALUE, "a release of what is not allocated");
  if (on->capture) return free_in_graph(s, p, on);
  s.counters.releases++;
  if (i->second.kind == Kind::GRAPH) {
    const auto memory = of_graph(p);
    if (!memory || !memory->outstanding)
      return refuse(INVALID_VALUE, "a release of a graph's memory, not allocated");
    memory->outstanding = false;
    return put(on, NodeKind::FREE, "", [memory] { end_graph_memory(memory.get()); });
  }
  const size_t bytes = i->second.bytes;
  i->second.released = true;
  (i->second.kind == Kind::PLAIN ? s.plain : s.used) -= rounded(bytes, 512);
  count(s);
  s.awaiting_release += bytes;
  return put(on, NodeKind::FREE, "", [p, bytes] {
    state().awaiting_release -= bytes;
    give_back(state(), p);
  });
}

// ---- pools: the device's own

namespace {
char pool_place;
}
EXPORT Result cuDeviceGetDefaultMemPool(void** pool, int) {
  *pool = &pool_place;
  return OK;
}
EXPORT Result cuDeviceGetMemPool(void** pool, int) { return cuDeviceGetDefaultMemPool(pool, 0); }
EXPORT Result cuDeviceSetMemPool(int, void*) { return OK; }
EXPORT Result cuMemPoolTrimTo(void*, size_t keep) {
  ENTER();
  if (const Result r = forbidden("cuMemPoolTrimTo")) return r;
  s.reserved = std::max(rounded(s.used, CHUNK), std::min(s.reserved, keep));
  return OK;
}
// Attributes 1 to 3 allow reuse in several ways, 4 is the threshold; 5 to 8 count bytes.
EXPORT Result cuMemPoolSetAttribute(void*, int attribute, void* value) {
  ENTER();
  if (attribute == 4) s.threshold = *static_cast<uint64_t*>(value);
  if (attribute == 6 || attribute == 8) {
    if (*static_cast<uint64_t*>(value)) return INVALID_VALUE;
    (attribute == 6 ? s.reserved_high : s.used_high) = attribute == 6 ? s.reserved : s.used;
  }
  return OK;
}
EXPORT Result cuMemPoolGetAttribute(void*, int attribute, void* value) {
  ENTER();
  uint64_t& v = *static_cast<uint64_t*>(value);
  switch (attribute) {
    case 1:
    case 2:
    case 3: *static_cast<int*>(value) = 1; return OK;
    case 4: v = s.threshold; return OK;
    case 5: v = s.reserved; return OK;
    case 6: v = s.reserved_high; return OK;
    case 7: v = s.used; return OK;
    case 8: v = s.used_high; return OK;
    default: return INVALID_VALUE;
  }
}

// ---- memory of graphs

EXPORT Result cuDeviceGraphMemTrim(int) {
  ENTER();
  s.graph_reserved = s.graph_used;
  return OK;
}
EXPORT Result cuDeviceGetGraphMemAttribute(int, int attribute, void* value) {
  ENTER();
  const size_t values[] = {s.graph_used, s.graph_used_high, s.graph_reserved, s.graph_reserved_high};
  if (attribute < 0 || attribute > 3) return INVALID_VALUE;
  *static_cast<uint64_t*>(value) = values[attribute];
  return OK;
}
EXPORT Result cuDeviceSetGraphMemAttribute(int, int attribute, void* value) {
  ENTER();
  if (*static_cast<uint64_t*>(value)) return INVALID_VALUE;
  if (attribute == 1) s.graph_used_high = s.graph_used;
  if (attribute == 3) s.graph_reserved_high = s.graph_reserved;
  return OK;
}

// ---- pinned host memory

EXPORT Result cuMemHostAlloc(void** p, size_t bytes, unsigned) {
  ENTER();
  if (!bytes) return INVALID_VALUE;
  if (posix_memalign(p, 4096, rounded(bytes, 4096))) return OUT_OF_MEMORY;
  memset(*p, 0xff, bytes);
  s.pinned[static_cast<char*>(*p)] = bytes;
  s.counters.host_bytes += bytes;
  return OK;
}
EXPORT Result cuMemAllocHost_v2(void** p, size_t bytes) { return cuMemHostAlloc(p, bytes, 0); }
EXPORT Result cuMemFreeHost(void* p) {
  State& s = state();
  Lock lock(s.mutex);
  const auto i = s.pinned.find(static_cast<char*>(p));
  if (i == s.pinned.end()) return refuse(INVALID_VALUE, "a release of host memory that is not pinned");
  drain_all();
  s.counters.host_bytes -= i->second;
  s.pinned.erase(i);
  free(p);
  return OK;
}
EXPORT Result cuMemHostGetDevicePointer_v2(Address* d, void* p, unsigned) {
  *d = (Address)(uintptr_t)p;
  return OK;
}
