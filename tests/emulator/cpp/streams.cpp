// Streams, events, copies, and the order in which what is queued runs.
#include <string.h>

#include <algorithm>

#include "driver.h"

namespace driver {

namespace {
uint64_t this_thread() {
  static thread_local char place;
  return (uint64_t)(uintptr_t)&place;
}
// The default stream waits for what blocking streams were given before, and they for it.
bool in_order(const State& s, const Stream* stream) {
  const uint64_t ticket = stream->queue.front().ticket;
  const auto behind = [&](const Stream* other) {
    return !other->queue.empty() && other->queue.front().ticket < ticket;
  };
  if (stream != &s.default_stream) return !stream->blocking || !behind(&s.default_stream);
  for (const Stream* other : s.streams)
    if (other->blocking && behind(other)) return false;
  return true;
}
// One step of any stream that can take one.
bool step(State& s) {
  std::vector<Stream*> can;
  for (Stream* stream : s.streams)
    if (!stream->queue.empty() && in_order(s, stream))
      if (const Work& w = stream->queue.front().work; !w.ready || w.ready()) can.push_back(stream);
  if (can.empty()) return false;
  Stream* stream = can[s.draw((unsigned)can.size())];
  // Kept alive here, since the work may end up destroying what holds it.
  const Work work = stream->queue.front().work;
  s.running = stream;
  // Whatever it is, it takes a microsecond.
  spend(1e-3);
  const bool done = work.step();
  s.running = nullptr;
  if (done) stream->queue.pop_front();
  return true;
}
}  // namespace

uint64_t thread_number() { return this_thread(); }

Stream* stream(void* handle) {
  State& s = state();
  const uintptr_t h = reinterpret_cast<uintptr_t>(handle);
  if (h <= 2) return &s.default_stream;
  Stream* stream = static_cast<Stream*>(handle);
  return s.streams.count(stream) ? stream : nullptr;
}

Result drain(const std::function<bool()>& until) {
  State& s = state();
  while (!until())
    if (!step(s))
      return fail(LAUNCH_FAILED, "streams wait for one another, or for an event never to be recorded");
  return s.sticky;
}
Result drain_stream(Stream* stream) {
  return drain([stream] { return stream->queue.empty(); });
}
Result drain_all() {
  return drain([] {
    for (const Stream* stream : state().streams)
      if (!stream->queue.empty()) return false;
    return true;
  });
}
void run_some() {
  State& s = state();
  size_t queued = 0;
  for (const Stream* stream : s.streams) queued += stream->queue.size();
  // Memory that waits to be released is still taken from the host.
  if (queued > 8192 || s.awaiting_release > 256 << 20) {
    for (size_t i = queued / 2; i; i--) step(s);
  } else if (!s.lazy && s.draw(8) == 0) {
    for (unsigned i = s.draw(6); i; i--) step(s);
  }
}

void spend(double milliseconds) {
  if (Stream* stream = state().running) stream->clock += milliseconds;
}

void put_work(Stream* stream, Work work) {
  State& s = state();
  stream->queue.push_back({s.tickets++, std::move(work)});
  run_some();
}
Result put(Stream* stream, NodeKind kind, const std::string& name, std::function<void()> run,
           std::shared_ptr<GraphMemory> memory) {
  State& s = state();
  if (stream->capture) {
    Capture& c = *stream->capture;
    if (c.broken) return CAPTURE_INVALIDATED;
    c.graph->nodes.push_back({kind, name, std::move(run), stream->tail, std::move(memory)});
    stream->tail = {(unsigned)c.graph->nodes.size() - 1};
    return OK;
  }
  if (stream == &s.default_stream)
    for (const auto& c : s.captures)
      if (c->origin->blocking) {
        c->broken = CAPTURE_IMPLICIT;
        return refuse(CAPTURE_IMPLICIT, "work on the default stream while a blocking stream is captured");
      }
  put_work(stream, {nullptr, [run = std::move(run)] {
                      run();
                      return true;
                    }});
  return s.sticky;
}

Result forbidden(const char* call) {
  for (const auto& c : state().captures)
    if (c->mode == 0 || (c->mode == 1 && c->thread == this_thread())) {
      c->broken = CAPTURE_UNSUPPORTED;
      return refuse(CAPTURE_UNSUPPORTED, std::string(call) + " during a capture");
    }
  return OK;
}

}  // namespace driver

using namespace driver;

#define ENTER()       \
  State& s = state(); \
  Lock lock(s.mutex); \
  if (const Result r = ready()) return r
#define STREAM(on, handle)     \
  Stream* on = stream(handle); \
  if (!on) return refuse(INVALID_HANDLE, "no such stream")

// ---- streams

EXPORT Result cuStreamCreate(void** handle, unsigned flags) {
  ENTER();
  Stream* stream = new Stream;
  stream->device = current_device();
  stream->blocking = !(flags & 1);
  s.streams.insert(stream);
  *handle = stream;
  return OK;
}
EXPORT Result cuStreamCreateWithPriority(void** handle, unsigned flags, int) {
  return cuStreamCreate(handle, flags);
}
EXPORT Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return OK;
}
EXPORT Result cuStreamDestroy_v2(void* handle) {
  State& s = state();
  Lock lock(s.mutex);
  STREAM(on, handle);
  if (on == &s.default_stream) return INVALID_HANDLE;
  if (on->capture) on->capture->broken = CAPTURE_INVALIDATED;
  drain_stream(on);
  s.streams.erase(on);
  delete on;
  return OK;
}
EXPORT Result cuStreamSynchronize(void* handle) {
  ENTER();
  STREAM(on, handle);
  if (on->capture) {
    on->capture->broken = CAPTURE_UNSUPPORTED;
    return refuse(CAPTURE_UNSUPPORTED, "cuStreamSynchronize of a stream that is captured");
  }
  drain_stream(on);
  synchronised();
  return s.sticky;
}
EXPORT Result cuStreamQuery(void* handle) {
  ENTER();
  STREAM(on, handle);
  if (on->capture) return CAPTURE_UNSUPPORTED;
  if (on->queue.empty()) return OK;
  step(s);
  return s.sticky ? s.sticky : on->queue.empty() ? OK : NOT_READY;
}
EXPORT Result cuCtxSynchronize() {
  ENTER();
  for (const auto& c : s.captures) c->broken = CAPTURE_UNSUPPORTED;
  if (!s.captures.empty()) return refuse(CAPTURE_UNSUPPORTED, "cuCtxSynchronize during a capture");
  drain_all();
  synchronised();
  return s.sticky;
}
EXPORT Result cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
  ENTER();
  STREAM(on, handle);
  return put(on, NodeKind::HOST, "", [=] { function(data); });
}

// ---- events: handles are to shared events, since a queued wait may outlive the handle

EXPORT Result cuEventCreate(void** handle, unsigned flags) {
  ENTER();
  EventRef* e = new EventRef(std::make_shared<Event>());
  (*e)->timed = !(flags & 2);
  s.events.insert(e);
  *handle = e;
  return OK;
}
#define EVENT(e, handle)                                                                               \
  if (!s.events.count(static_cast<EventRef*>(handle))) return refuse(INVALID_HANDLE, "no such event"); \
  const EventRef e = *static_cast<EventRef*>(handle)

EXPORT Result cuEventDestroy_v2(void* handle) {
  State& s = state();
  Lock lock(s.mutex);
  if (!s.events.erase(static_cast<EventRef*>(handle))) return INVALID_HANDLE;
  delete static_cast<EventRef*>(handle);
  return OK;
}
EXPORT Result cuEventRecord(void* handle, void* on_handle) {
  ENTER();
  STREAM(on, on_handle);
  EVENT(e, handle);
  e->capture = on->capture;
  if (on->capture) {
    e->nodes = on->tail;
    return OK;
  }
  const uint64_t version = ++e->recorded;
  return put(on, NodeKind::EMPTY, "", [e, version] {
    e->done = version;
    e->at = state().running->clock;
  });
}
EXPORT Result cuEventRecordWithFlags(void* handle, void* on, unsigned) { return cuEventRecord(handle, on); }
EXPORT Result cuStreamWaitEvent(void* on_handle, void* handle, unsigned) {
  ENTER();
  STREAM(on, on_handle);
  EVENT(e, handle);
  if (e->capture) {
    if (!s.captures.count(e->capture))
      return refuse(CAPTURED_EVENT, "an event recorded in a capture that ended");
    if (on->capture && on->capture != e->capture) {
      on->capture->broken = e->capture->broken = CAPTURE_MERGE;
      return refuse(CAPTURE_MERGE, "a wait for an event of another capture");
    }
    if (!on->capture) {
      if (on == &s.default_stream) return CAPTURE_IMPLICIT;
      on->capture = e->capture;
      on->tail.clear();
      e->capture->streams.insert(on);
    }
    for (const unsigned node : e->nodes)
      if (std::find(on->tail.begin(), on->tail.end(), node) == on->tail.end()) on->tail.push_back(node);
    return OK;
  }
  const uint64_t version = e->recorded;
  if (!version) return OK;
  if (on->capture) {
    on->capture->broken = CAPTURE_ISOLATION;
    return refuse(CAPTURE_ISOLATION, "a captured wait for an event recorded outside of the capture");
  }
  put_work(on, {[e, version] { return e->done >= version; }, [] { return true; }});
  return s.sticky;
}
EXPORT Result cuEventSynchronize(void* handle) {
  ENTER();
  EVENT(e, handle);
  if (e->capture) return CAPTURED_EVENT;
  const uint64_t version = e->recorded;
  if (!version) return s.sticky;
  drain([e, version] { return e->done >= version; });
  synchronised();
  return s.sticky;
}
EXPORT Result cuEventQuery(void* handle) {
  ENTER();
  EVENT(e, handle);
  if (e->capture) return CAPTURED_EVENT;
  if (e->done >= e->recorded) return OK;
  step(s);
  return s.sticky ? s.sticky : e->done >= e->recorded ? OK : NOT_READY;
}
EXPORT Result cuEventElapsedTime_v2(float* ms, void* from, void* to) {
  ENTER();
  EVENT(a, from);
  EVENT(b, to);
  if (!a->timed || !b->timed || !a->recorded || !b->recorded)
    return refuse(INVALID_HANDLE, "a time between events that are not recorded or not timed");
  if (a->done < a->recorded || b->done < b->recorded) return NOT_READY;
  *ms = (float)(b->at - a->at);
  return OK;
}
EXPORT Result cuEventElapsedTime(float* ms, void* from, void* to) {
  return cuEventElapsedTime_v2(ms, from, to);
}

// ---- copies and fills. From pageable memory bytes are taken at the call; to pageable memory the call waits.

namespace {
Result outside(const char* what, Address p, size_t n) {
  return refuse(INVALID_VALUE, std::string(what) + " of " + std::to_string(n) + " bytes at " +
                                   std::to_string(p) + " is not within a live allocation");
}
// What a copy does when it runs, if its memory is still there.
std::function<void()> checked(Address d, size_t n, std::function<void()> run) {
  return [=] {
    if (state().sticky) return;
    if (!alive(d, n))
      fail(ILLEGAL_ADDRESS, "a copy or fill ran after its memory was released");
    else
      run();
  };
}
}  // namespace

EXPORT Result cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t n, void* handle) {
  ENTER();
  STREAM(on, handle);
  if (!n) return OK;
  if (!usable(to, n, on)) return outside("a copy to the device", to, n);
  const auto run = [=](const void* bytes) {
    state().counters.copies_to_device++;
    memcpy(at(to), bytes, n);
  };
  if (pinned(from, n)) return put(on, NodeKind::MEMCPY, "", checked(to, n, [=] { run(from); }));
  if (on->capture) {
    on->capture->broken = CAPTURE_UNSUPPORTED;
    return refuse(CAPTURE_UNSUPPORTED, "a copy from pageable memory in a capture");
  }
  const char* bytes = static_cast<const char*>(from);
  const auto staged = std::make_shared<std::vector<char>>(bytes, bytes + n);
  return put(on, NodeKind::MEMCPY, "", checked(to, n, [=] { run(staged->data()); }));
}
EXPORT Result cuMemcpyDtoHAsync_v2(void* to, Address from, size_t n, void* handle) {
  ENTER();
  STREAM(on, handle);
  if (!n) return OK;
  if (!usable(from, n, on)) return outside("a copy from the device", from, n);
  const bool waits = !pinned(to, n);
  if (waits && on->capture) {
    on->capture->broken = CAPTURE_UNSUPPORTED;
    return refuse(CAPTURE_UNSUPPORTED, "a copy to pageable memory in a capture");
  }
  const Result r = put(on, NodeKind::MEMCPY, "", checked(from, n, [=] {
                         state().counters.copies_to_host++;
                         memcpy(to, at(from), n);
                       }));
  return r == OK && waits ? drain_stream(on) : r;
}
EXPORT Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t n, void* handle) {
  ENTER();
  STREAM(on, handle);
  if (!n) return OK;
  if (!usable(to, n, on)) return outside("a copy to", to, n);
  if (!usable(from, n, on)) return outside("a copy from", from, n);
  return put(on, NodeKind::MEMCPY, "", checked(to, n, checked(from, n, [=] {
                                                 state().counters.copies_on_device++;
                                                 memmove(at(to), at(from), n);
                                               })));
}
namespace {
template <class T>
Result fill(Address to, T value, size_t n, void* handle) {
  ENTER();
  STREAM(on, handle);
  if (!n) return OK;
  if (!usable(to, n * sizeof(T), on)) return outside("a fill", to, n * sizeof(T));
  if (to % sizeof(T)) return refuse(INVALID_VALUE, "a misaligned fill");
  return put(on, NodeKind::MEMSET, "", checked(to, n * sizeof(T), [=] {
               state().counters.memsets++;
               std::fill_n(at<T>(to), n, value);
             }));
}
// The calls without a stream are work of the default stream, and wait where host memory is concerned.
Result wait_for(Result r) {
  if (r == OK) r = drain_stream(&state().default_stream);
  return r;
}
}  // namespace
EXPORT Result cuMemsetD8Async(Address to, unsigned char v, size_t n, void* on) { return fill(to, v, n, on); }
EXPORT Result cuMemsetD16Async(Address to, unsigned short v, size_t n, void* on) {
  return fill(to, v, n, on);
}
EXPORT Result cuMemsetD32Async(Address to, unsigned v, size_t n, void* on) { return fill(to, v, n, on); }
EXPORT Result cuMemsetD8_v2(Address to, unsigned char v, size_t n) {
  ENTER();
  if (const Result r = forbidden("cuMemsetD8")) return r;
  return fill(to, v, n, nullptr);
}
EXPORT Result cuMemsetD32_v2(Address to, unsigned v, size_t n) {
  ENTER();
  if (const Result r = forbidden("cuMemsetD32")) return r;
  return fill(to, v, n, nullptr);
}
EXPORT Result cuMemcpyHtoD_v2(Address to, const void* from, size_t n) {
  ENTER();
  if (const Result r = forbidden("cuMemcpyHtoD")) return r;
  return wait_for(cuMemcpyHtoDAsync_v2(to, from, n, nullptr));
}
EXPORT Result cuMemcpyDtoH_v2(void* to, Address from, size_t n) {
  ENTER();
  if (const Result r = forbidden("cuMemcpyDtoH")) return r;
  return wait_for(cuMemcpyDtoHAsync_v2(to, from, n, nullptr));
}
EXPORT Result cuMemcpyDtoD_v2(Address to, Address from, size_t n) {
  ENTER();
  if (const Result r = forbidden("cuMemcpyDtoD")) return r;
  return cuMemcpyDtoDAsync_v2(to, from, n, nullptr);
}
