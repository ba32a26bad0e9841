// Launches: the list of kernels, blocks over OS threads, faults, and the C interface.
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <thread>

#include "machine.h"

namespace engine {

// ---- kernels

namespace {
Kernel*& list() {
  static Kernel* kernels = nullptr;
  return kernels;
}
}  // namespace
void add(Kernel* k) {
  k->next = list();
  list() = k;
}
const Kernel* first() { return list(); }
const Kernel* find(const char* name) {
  for (const Kernel* k = list(); k; k = k->next)
    if (!strcmp(k->name, name)) return k;
  return nullptr;
}

// ---- faults: a wild or misaligned address and a division by zero end the launch, not the process

#if !EMULATOR_ASAN && !EMULATOR_TSAN
namespace {
struct sigaction previous[NSIG];

void on_fault(int signal, siginfo_t* info, void* context) {
  if (machine && current) {
    Machine& m = *machine;
    const Fiber& f = m.self();
    char s[400];
    const char* what = signal == SIGFPE ? "divides by zero" : "uses an illegal or misaligned address";
    const char* low = f.context->stack - PAGE;
    const char* at = static_cast<const char*>(info->si_addr);
    if (at >= low && at < low + PAGE) what = "overflows its stack at";
    snprintf(s, sizeof s, "%s %s %p; its last wait was at %s:%d", m.place(f).c_str(), what, info->si_addr,
             f.where.file, f.where.line);
    m.error = s;
    siglongjmp(m.fault, 1);
  }
  struct sigaction& old = previous[signal];
  if (old.sa_flags & SA_SIGINFO) {
    old.sa_sigaction(signal, info, context);
  } else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) {
    old.sa_handler(signal);
  } else {
    sigaction(signal, &old, nullptr);    // the instruction runs again and faults for good
  }
}
}  // namespace
void catch_faults() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction act = {};
    act.sa_sigaction = on_fault;
    act.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int signal : {SIGSEGV, SIGBUS, SIGFPE}) sigaction(signal, &act, &previous[signal]);
  });
  // The handler needs a stack that is no fiber's.
  stack_t have;
  if (sigaltstack(nullptr, &have) == 0 && have.ss_flags & SS_DISABLE) {
    stack_t mine = {};
    mine.ss_size = 64 << 10;
    mine.ss_sp = malloc(mine.ss_size);
    sigaltstack(&mine, nullptr);
  }
}
#else
void catch_faults() {}
#endif

// ---- blocks over OS threads

namespace {
// Blocks that take turns on an OS thread, where they look at each other's work.
constexpr size_t GANG = 4;
// So often the blocks of an OS thread make way before it says that they only spin.
constexpr unsigned PATIENCE = 1 << 16;

void rest() {
  const timespec pause{0, 50000};
  nanosleep(&pause, nullptr);
}

struct Job {
  Launch what;
  void** parameters;
  uint64_t total, step, offset;
  bool alone;
  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::condition_variable done;
  unsigned helpers = 0;
  std::string error;
  // OS threads at work, changes that one may have waited for (a block began or ended, a thread found its
  // blocks spinning), and who found that at the last of these changes.
  std::atomic<unsigned> workers{0};
  std::atomic<uint64_t> changes{0};
  uint64_t found_at = 0;
  std::set<const void*> found;

  // Blocks in another order: i * step + offset runs through all of them, since step and total share no
  // factor.
  uint64_t block(uint64_t i) const { return (uint64_t)(((unsigned __int128)i * step + offset) % total); }
  bool take(uint64_t& i) { return !failed && (i = next++) < total; }
  void fail(const char* text, const std::string& more = "") {
    std::lock_guard<std::mutex> guard(mutex);
    if (!failed) error = text + more;
    failed = true;
  }
  // Whether nothing can change any more: every OS thread finds its blocks spinning, and found so again after
  // the last of them did. No clock decides, so a thread that the system does not let run is waited for.
  bool stuck(const void* worker, bool& spinning) {
    std::lock_guard<std::mutex> guard(mutex);
    if (!spinning) changes++;
    spinning = true;
    if (found_at != changes) found.clear();
    found_at = changes;
    found.insert(worker);
    return found.size() == workers;
  }
  // A block after the other; from when one makes way, several in turns.
  void work() {
    static thread_local std::vector<std::unique_ptr<Machine>> machines;
    catch_faults();
    Random random;
    random.seed(what.seed, total);
    size_t begun = 0, busy = 0, wanted = 1, turn = 0;
    unsigned turns = 0;    // since the last change
    uint64_t seen = 0;
    bool spinning = false;
    workers++;
    const auto changed = [&] {
      changes++;
      spinning = false;
    };
    for (uint64_t i; !failed;) {
      while (busy < wanted && take(i)) {
        if (machines.size() == busy) machines.emplace_back(new Machine);
        Machine& m = *machines[busy++];
        if (begun < busy) {
          machine = &m;
          m.alone = alone;
          m.begin(what, parameters);
          begun = busy;
        }
        m.open_block(block(i));
        changed();
      }
      if (!busy) break;
      turn = what.seed ? random.below((unsigned)busy) : (turn + 1) % busy;
      Machine& m = *machines[turn];
      if (!m.resume()) {
        wanted = GANG;
        if (seen != changes) turns = 0;
        seen = changes;
        if (++turns % PATIENCE == 0 && stuck(&machines, spinning))
          fail(what.kernel->name, ": blocks spin without end, for what has not begun");
        if (!alone && turns % 64 == 0) rest();
        continue;
      }
      m.close_block();
      if (!m.error.empty()) fail("", m.error);
      std::swap(machines[turn], machines[--busy]);
      changed();
    }
    workers--;
    for (size_t k = 0; k < busy; k++) machines[k]->drop_block();
    for (size_t k = 0; k < begun; k++) machines[k]->end();
  }
};

// OS threads beside those that launch. They live as long as the process, so nothing of this is destroyed.
struct Helpers {
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<Job*> jobs;
  unsigned count = 0;

  Helpers() {
    const char* wanted = getenv("DAS_EMULATOR_THREADS");
    const unsigned n = wanted ? (unsigned)atoi(wanted) : std::min(std::thread::hardware_concurrency(), 16u);
    if (EMULATOR_TSAN) return;
    for (; count + 1 < n; count++) std::thread([this] { serve(); }).detach();
  }
  void serve() {
    for (;;) {
      Job* job;
      {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return !jobs.empty(); });
        job = jobs.front();
        if (job->next >= job->total || job->failed) {
          jobs.pop_front();
          continue;
        }
        std::lock_guard<std::mutex> guard(job->mutex);
        job->helpers++;
      }
      job->work();
      std::lock_guard<std::mutex> guard(job->mutex);
      if (--job->helpers == 0) job->done.notify_all();
    }
  }
  void run(Job& job) {
    if (job.alone) return job.work();
    {
      std::lock_guard<std::mutex> guard(mutex);
      jobs.push_back(&job);
    }
    wake.notify_all();
    job.work();
    {
      std::lock_guard<std::mutex> guard(mutex);
      for (auto i = jobs.begin(); i != jobs.end(); ++i)
        if (*i == &job) {
          jobs.erase(i);
          break;
        }
    }
    std::unique_lock<std::mutex> lock(job.mutex);
    job.done.wait(lock, [&] { return job.helpers == 0; });
  }
};
Helpers& helpers() {
  static Helpers* h = new Helpers;
  return *h;
}

uint64_t common_factor(uint64_t a, uint64_t b) {
  while (b) {
    const uint64_t r = a % b;
    a = b;
    b = r;
  }
  return a;
}

thread_local std::string message;

}  // namespace

std::string refuse(const Launch& l) {
  const dim3 &g = l.grid, &b = l.block;
  const uint64_t threads = (uint64_t)b.x * b.y * b.z;
  const std::string name = l.kernel->name;
  if (!threads || !g.x || !g.y || !g.z) return name + ": a launch of nothing";
  if (threads > MAX_THREADS || b.x > 1024 || b.y > 1024 || b.z > 64)
    return name + ": a block of " + std::to_string(threads) + " threads";
  if (threads > l.kernel->bounds.threads)
    return name + ": a block of " + std::to_string(threads) + " threads, its launch bounds say " +
           std::to_string(l.kernel->bounds.threads);
  if (g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
    return name + ": a grid of " + std::to_string(g.x) + "x" + std::to_string(g.y) + "x" +
           std::to_string(g.z);
  if (l.shared > MAX_SHARED)
    return name + ": " + std::to_string(l.shared) + " bytes of dynamic shared memory";
  return "";
}

const char* launch(const Launch& l, void** parameters) {
  message = refuse(l);
  if (!message.empty()) return message.c_str();
  Job job;
  job.what = l;
  job.parameters = parameters;
  job.total = (uint64_t)l.grid.x * l.grid.y * l.grid.z;
  job.step = 1;
  job.offset = 0;
  if (l.seed) {
    Random r;
    r.seed(l.seed, ~0ull);
    const unsigned n = (unsigned)std::min<uint64_t>(job.total, 1u << 31);
    job.offset = r.below(n);
    do job.step = 1 + r.below(n);
    while (common_factor(job.step, job.total) != 1);
  }
  // Below this waking a helper costs more than it brings.
  const uint64_t threads = (uint64_t)l.block.x * l.block.y * l.block.z * job.total;
  job.alone = job.total < 2 || threads < 2048 || helpers().count == 0;
  helpers().run(job);
  message = job.error;
  return job.failed ? message.c_str() : nullptr;
}
uint64_t switches() { return machine ? machine->switches : 0; }

}  // namespace engine

// ---- for Rust

#define EXPORT extern "C" __attribute__((visibility("default")))

// Null, or a text that lives until this OS thread's next call.
EXPORT const char* das_emulator_launch(const void* kernel, const unsigned* grid, const unsigned* block,
                                       unsigned shared, void** parameters, uint64_t seed) {
  const engine::Launch l{static_cast<const engine::Kernel*>(kernel),
                         {grid[0], grid[1], grid[2]},
                         {block[0], block[1], block[2]},
                         shared,
                         seed};
  return engine::launch(l, parameters);
}
EXPORT const void* das_emulator_first() { return engine::first(); }
EXPORT const void* das_emulator_next(const void* kernel) {
  return static_cast<const engine::Kernel*>(kernel)->next;
}
EXPORT const void* das_emulator_find(const char* name) { return engine::find(name); }
EXPORT const char* das_emulator_name(const void* kernel) {
  return static_cast<const engine::Kernel*>(kernel)->name;
}
EXPORT const char* das_emulator_text(const void* kernel) {
  return static_cast<const engine::Kernel*>(kernel)->text;
}
EXPORT const char* das_emulator_file(const void* kernel) {
  return static_cast<const engine::Kernel*>(kernel)->file;
}
EXPORT unsigned das_emulator_parameters(const void* kernel, const engine::Parameter** list) {
  const engine::Kernel* k = static_cast<const engine::Kernel*>(kernel);
  *list = k->parameters;
  return k->count;
}
EXPORT uint64_t das_emulator_switches() { return engine::switches(); }
