#include "memory.h"

#include <stdio.h>

#include <deque>
#include <map>
#include <mutex>

#include "machine.h"

namespace memory {

namespace {
// Wide, since an index that is off is often off by a row.
constexpr size_t ZONE = EMULATOR_ASAN ? 0 : 4096;
constexpr size_t KEPT = EMULATOR_ASAN || EMULATOR_TSAN ? 0 : 64 << 20;

struct State {
  std::mutex mutex;
  std::map<const char*, size_t> live;
  std::deque<Range> released;
  size_t released_bytes = 0;
  std::string complaint;
};
State& state() {
  static State* s = new State;
  return *s;
}
bool guarded(const char* p, size_t n) {
  return engine::holds(p - ZONE, engine::GUARD_BYTE, ZONE) && engine::holds(p + n, engine::GUARD_BYTE, ZONE);
}
void note(State& s, const char* what, const char* p, size_t n) {
  char text[200];
  snprintf(text, sizeof text, "%s of %zu bytes at %p; ", what, n, static_cast<const void*>(p));
  if (s.complaint.size() < 2000) s.complaint += text;
}
void look_at(State& s, const Range& r) {
  if (!engine::holds(r.start, engine::POISON, r.bytes))
    note(s, "a write to released memory", r.start, r.bytes);
  if (!guarded(r.start, r.bytes)) note(s, "a write near released memory", r.start, r.bytes);
}
}  // namespace

void* allocate(size_t bytes) {
  void* p;
  if (posix_memalign(&p, 256, bytes + 2 * ZONE)) return nullptr;
  char* start = static_cast<char*>(p) + ZONE;
  engine::fill(start - ZONE, engine::GUARD_BYTE, ZONE);
  engine::fill(start, engine::POISON, bytes);
  engine::fill(start + bytes, engine::GUARD_BYTE, ZONE);
  State& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  s.live[start] = bytes;
  return start;
}

void release(void* p) {
  State& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  char* start = static_cast<char*>(p);
  const auto i = s.live.find(start);
  if (i == s.live.end()) return;
  const size_t bytes = i->second;
  s.live.erase(i);
  if (!guarded(start, bytes)) note(s, "a write outside an allocation", start, bytes);
  engine::fill(start - ZONE, engine::GUARD_BYTE, ZONE);
  engine::fill(start, engine::POISON, bytes);
  engine::fill(start + bytes, engine::GUARD_BYTE, ZONE);
  s.released.push_back({start, bytes});
  s.released_bytes += bytes;
  while (s.released_bytes > KEPT) {
    const Range r = s.released.front();
    s.released.pop_front();
    s.released_bytes -= r.bytes;
    look_at(s, r);
    free(r.start - ZONE);
  }
}

bool intact(const void* p) {
  State& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  const auto i = s.live.find(static_cast<const char*>(p));
  return i != s.live.end() && guarded(i->first, i->second);
}

bool find(const void* p, Range* r) {
  State& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  auto i = s.live.upper_bound(static_cast<const char*>(p));
  if (i == s.live.begin()) return false;
  --i;
  if (static_cast<const char*>(p) >= i->first + i->second) return false;
  *r = {const_cast<char*>(i->first), i->second};
  return true;
}

std::string complaint(bool look) {
  State& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  if (look) {
    for (const Range& r : s.released) look_at(s, r);
    for (const auto& [start, bytes] : s.live)
      if (!guarded(start, bytes)) note(s, "a write outside an allocation", start, bytes);
  }
  std::string text;
  text.swap(s.complaint);
  return text;
}

}  // namespace memory

#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT void* das_emulator_allocate(size_t bytes) { return memory::allocate(bytes); }
EXPORT int das_emulator_intact(const void* p) { return memory::intact(p); }
EXPORT void das_emulator_release(void* p) { memory::release(p); }
