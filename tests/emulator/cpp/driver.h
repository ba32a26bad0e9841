// A CUDA driver without a GPU: state shared by the files driver.cpp, device_memory.cpp, streams.cpp,
// graphs.cpp and modules.cpp. Work put on streams runs only when somebody waits or asks, in a random order
// that CUDA would allow, so that a missing wait shows. One lock is held through every call, also while
// kernels run.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "engine.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace driver {

enum Result : int {
  OK = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801,
  CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALIDATED = 901,
  CAPTURE_MERGE = 902,
  CAPTURE_UNMATCHED = 903,
  CAPTURE_UNJOINED = 904,
  CAPTURE_ISOLATION = 905,
  CAPTURE_IMPLICIT = 906,
  CAPTURED_EVENT = 907,
  CAPTURE_WRONG_THREAD = 908,
  GRAPH_EXEC_UPDATE_FAILURE = 910,
};
using Address = unsigned long long;
template <class T = char>
T* at(Address a) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(a));
}

// ---- devices

constexpr int ANY_DEVICE = -1;
// That of the calling thread's context.
int current_device();

// ---- work

// A piece of a stream's work: ready (empty: always) and then run, once or until it says it is done.
struct Work {
  std::function<bool()> ready;
  std::function<bool()> step;
};
struct Queued {
  uint64_t ticket;    // the order of calls, for the default stream
  Work work;
};
struct Capture;
struct Stream {
  int device = ANY_DEVICE;    // that it was made on; the default stream is every device's
  bool blocking = true;    // ordered with the default stream
  std::deque<Queued> queue;
  std::shared_ptr<Capture> capture;
  std::vector<unsigned> tail;    // nodes that the next captured one follows
  double clock = 0;              // milliseconds of work done, by `spend`
};
struct Event {
  bool timed = true;
  uint64_t recorded = 0, done = 0;
  double at = 0;    // the stream's clock
  std::shared_ptr<Capture> capture;
  std::vector<unsigned> nodes;
};
using EventRef = std::shared_ptr<Event>;

// ---- graphs

// Memory of an allocation node: its address is fixed, what is in it is not.
struct GraphMemory {
  Address address;
  size_t bytes;
  bool freed_inside = false;    // the graph frees it itself
  bool given = false;           // between the run of its allocation and of its release
  bool outstanding = false;     // between the calls for these, where the graph leaves it allocated
  ~GraphMemory();
};
enum class NodeKind { KERNEL = 0, MEMCPY = 1, MEMSET = 2, HOST = 3, EMPTY = 5, ALLOC = 10, FREE = 11 };
struct Node {
  NodeKind kind;
  std::string name;    // of a kernel
  std::function<void()> run;
  std::vector<unsigned> after;
  std::shared_ptr<GraphMemory> memory;
};
struct Graph {
  std::vector<Node> nodes;
  size_t peak = 0;    // of allocation nodes, in the order of capture
  size_t now = 0;
  unsigned instances = 0;
  bool has_memory = false;
};
struct Capture {
  std::shared_ptr<Graph> graph = std::make_shared<Graph>();
  Stream* origin;
  int mode;    // 0 global, 1 thread-local, 2 relaxed
  uint64_t thread;
  Result broken = OK;
  std::set<Stream*> streams;
};

// ---- memory

enum class Kind { PLAIN, POOL, GRAPH };
struct Allocation {
  size_t bytes;
  Kind kind;
  bool released;    // its release was asked for and has not run
  int device;       // whose memory it is; no other may touch it
};

struct Counters {
  uint64_t launches, graph_launches, graph_nodes;
  uint64_t copies_to_device, copies_to_host, copies_on_device, memsets;
  uint64_t allocations, releases, synchronisations, modules;
  uint64_t bytes_live, bytes_peak, host_bytes;
};

struct State {
  std::recursive_mutex mutex;
  bool initialised = false;

  Stream default_stream;
  std::set<Stream*> streams{&default_stream};
  Stream* running = nullptr;    // whose work runs now
  std::set<EventRef*> events;
  std::set<std::shared_ptr<Capture>> captures;
  uint64_t tickets = 0, random = 1;
  bool lazy = true;    // seed 0: nothing runs before somebody waits

  std::map<Address, Allocation> allocations;
  std::map<const char*, size_t> pinned;
  size_t limit = 0;
  size_t plain = 0;                                                   // bytes of cuMemAlloc
  size_t used = 0, used_high = 0, reserved = 0, reserved_high = 0;    // of the pool
  uint64_t threshold = 0;
  size_t graph_used = 0, graph_used_high = 0, graph_reserved = 0, graph_reserved_high = 0;
  size_t awaiting_release = 0;
  int64_t fail_allocation = 0;    // the n-th from now

  Result sticky = OK;
  std::string message;
  Counters counters{};
  std::map<std::string, uint64_t> launched;

  unsigned draw(unsigned n) {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return (unsigned)(((random >> 32) * n) >> 32);
  }
};
State& state();
using Lock = std::lock_guard<std::recursive_mutex>;

// A refusal with its reason, which cuGetErrorString then tells this thread.
Result refuse(Result, const std::string& why);
// The device has failed for good: every later call says so.
Result fail(Result, const std::string& why);
// Whether calls may be made at all.
Result ready();

// ---- streams
Stream* stream(void* handle);    // null: no such stream
// Puts work on a stream, or into the graph that is captured there.
Result put(Stream*, NodeKind, const std::string& name, std::function<void()> run,
           std::shared_ptr<GraphMemory> = nullptr);
void put_work(Stream*, Work);
// Moves the clock of the stream whose work runs. Time on the device is counted, not measured: it depends on
// the work alone, so that what is chosen by times is the same on a busy machine.
void spend(double milliseconds);
// Runs work of any stream, in any legal order, until the condition holds.
Result drain(const std::function<bool()>& until);
Result drain_stream(Stream*);
Result drain_all();
// A little of what waits, since a device does not wait to be asked.
void run_some();
// What may not be called while the calling thread's capture mode forbids it; breaks the capture.
Result forbidden(const char* call);
void synchronised();

// ---- memory
// Whether [p, p + n) is memory of the device that may be used in work put on this stream now.
bool usable(Address p, size_t n, Stream*);
// The same for work that runs now.
bool alive(Address p, size_t n);
bool pinned(const void* p, size_t n);
// What a capture allocated belongs to its graph from now on.
void capture_ended(const Capture*);

}  // namespace driver
