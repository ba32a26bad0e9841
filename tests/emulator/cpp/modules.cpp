// Modules, functions and launches. Kernels are those compiled into this library; an image is only looked at.
#include <string.h>

#include "driver.h"

namespace driver {
namespace {
constexpr int DYNAMIC_DEFAULT = 48 << 10, DYNAMIC_MOST = 227 << 10;

struct Function {
  const engine::Kernel* kernel;
  int dynamic_most = DYNAMIC_DEFAULT;
};
// An image of the stand-in NVRTC says which file it is of and how it was compiled; of others nothing is
// known.
struct Module {
  std::string file, options;
  std::map<std::string, std::unique_ptr<Function>> functions;
};
std::set<Module*>& modules() {
  static auto* m = new std::set<Module*>;
  return *m;
}
std::set<Function*>& functions() {
  static auto* f = new std::set<Function*>;
  return *f;
}

// gemm of ../kernels/gemm.cu
std::string stem(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  return name.substr(0, name.find('.'));
}
// Whether a kernel would be in the image: it is of the file, and of the element type of the options.
bool within(const engine::Kernel& k, const Module& m) {
  if (m.file.empty()) return true;
  const std::string name = k.name, type = name.substr(name.rfind('_') + 1);
  const std::string define = type == "bf16" ? "ACT_BF16" : type == "f16" ? "ACT_F16" : "ACT_F32";
  if (stem(k.file) != stem(m.file)) return false;
  return m.options.find("-D" + define) != std::string::npos;
}

// Parameters as they were at the call.
struct Parameters {
  std::vector<uint64_t> words;
  std::vector<void*> places;
  std::vector<Address> pointers;
};
}  // namespace
}  // namespace driver

using namespace driver;

#define ENTER()       \
  State& s = state(); \
  Lock lock(s.mutex); \
  if (const Result r = ready()) return r

EXPORT Result cuModuleLoadData(void** module, const void* image) {
  ENTER();
  if (const Result r = forbidden("cuModuleLoadData")) return r;
  if (!image) return INVALID_VALUE;
  auto m = std::make_unique<Module>();
  const char* bytes = static_cast<const char*>(image);
  if (!strncmp(bytes, "das-nvrtc\n", 10)) {
    const std::string text = bytes + 10;
    m->file = text.substr(0, text.find('\n'));
    m->options = text.substr(text.find('\n') + 1);
  } else if (memcmp(bytes, "\x50\xed\x55\xba", 4) && memcmp(bytes,
                                                            "\x7f"
                                                            "ELF",
                                                            4)) {
    return refuse(INVALID_IMAGE, "neither a fatbin nor a cubin");
  }
  s.counters.modules++;
  modules().insert(m.get());
  *module = m.release();
  return OK;
}
EXPORT Result cuModuleLoadDataEx(void** module, const void* image, unsigned, int*, void**) {
  return cuModuleLoadData(module, image);
}
EXPORT Result cuModuleUnload(void* handle) {
  State& s = state();
  Lock lock(s.mutex);
  Module* m = static_cast<Module*>(handle);
  if (!modules().erase(m)) return INVALID_HANDLE;
  drain_all();
  for (const auto& f : m->functions) functions().erase(f.second.get());
  delete m;
  return OK;
}
EXPORT Result cuModuleGetFunction(void** function, void* handle, const char* name) {
  ENTER();
  Module* m = static_cast<Module*>(handle);
  if (!modules().count(m)) return INVALID_HANDLE;
  const engine::Kernel* k = engine::find(name);
  if (!k) return refuse(NOT_FOUND, std::string("no kernel ") + name);
  if (!within(*k, *m)) return refuse(NOT_FOUND, name + std::string(" is not in the image of ") + m->file);
  auto& f = m->functions[name];
  if (!f) {
    f = std::make_unique<Function>();
    f->kernel = k;
    functions().insert(f.get());
  }
  *function = f.get();
  (void)s;
  return OK;
}
EXPORT Result cuModuleGetGlobal_v2(Address*, size_t*, void*, const char*) { return NOT_FOUND; }

#define FUNCTION(f, handle)                     \
  Function* f = static_cast<Function*>(handle); \
  if (!functions().count(f)) return refuse(INVALID_HANDLE, "no such function")

EXPORT Result cuFuncSetAttribute(void* handle, int attribute, int value) {
  ENTER();
  FUNCTION(f, handle);
  (void)s;
  if (attribute == 8) {
    if (value < 0 || value > DYNAMIC_MOST)
      return refuse(INVALID_VALUE, "more dynamic shared memory than there is");
    f->dynamic_most = value;
  }
  return attribute == 8 || attribute == 9 ? OK : INVALID_VALUE;
}
EXPORT Result cuFuncGetAttribute(int* value, int attribute, void* handle) {
  ENTER();
  FUNCTION(f, handle);
  (void)s;
  switch (attribute) {
    case 0: *value = (int)f->kernel->bounds.threads; return OK;
    case 4: *value = 64; return OK;    // registers: not known
    case 5:
    case 6: *value = 90; return OK;
    case 8: *value = f->dynamic_most; return OK;
    case 9: *value = -1; return OK;
    default: *value = 0; return attribute >= 0 && attribute < 16 ? OK : INVALID_VALUE;
  }
}
EXPORT Result cuFuncSetCacheConfig(void*, int) { return OK; }
EXPORT Result cuFuncGetName(const char** name, void* handle) {
  ENTER();
  FUNCTION(f, handle);
  (void)s;
  *name = f->kernel->name;
  return OK;
}
EXPORT Result cuFuncGetParamInfo(void* handle, size_t index, size_t* offset, size_t* size) {
  ENTER();
  FUNCTION(f, handle);
  (void)s;
  if (index >= f->kernel->count) return INVALID_VALUE;
  size_t at = 0;
  for (size_t i = 0;; i++) {
    const engine::Parameter& p = f->kernel->parameters[i];
    at = (at + p.align - 1) / p.align * p.align;
    if (i == index) {
      *offset = at;
      if (size) *size = p.size;
      return OK;
    }
    at += p.size;
  }
}
EXPORT Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int threads,
                                                          size_t shared) {
  ENTER();
  FUNCTION(f, handle);
  (void)s;
  if (threads <= 0 || threads > (int)f->kernel->bounds.threads) return INVALID_VALUE;
  const int by_threads = 2048 / ((threads + 31) / 32 * 32),
            by_shared = (int)((228 << 10) / (shared + (1 << 10)));
  *blocks = std::min({by_threads, by_shared, 32});
  return OK;
}
EXPORT Result cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* f, int threads,
                                                                   size_t shared, unsigned) {
  return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, f, threads, shared);
}

// ---- launches

EXPORT Result cuLaunchKernel(void* handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                             unsigned bz, unsigned shared, void* on_handle, void** parameters, void** extra) {
  ENTER();
  FUNCTION(f, handle);
  const engine::Kernel& k = *f->kernel;
  Stream* on = stream(on_handle);
  if (!on) return refuse(INVALID_HANDLE, "no such stream");
  const std::string name = k.name;
  const engine::Launch launch{&k, {gx, gy, gz}, {bx, by, bz}, shared, 0};
  const std::string wrong = engine::refuse(launch);
  if (!wrong.empty()) return refuse(INVALID_VALUE, wrong);
  if ((int)shared > f->dynamic_most)
    return refuse(INVALID_VALUE, name + ": " + std::to_string(shared) + " bytes of dynamic shared memory, " +
                                     std::to_string(f->dynamic_most) + " are allowed by its attribute");
  if (extra || (k.count && !parameters))
    return refuse(INVALID_VALUE, name + ": parameters are to be given one by one");

  const auto p = std::make_shared<Parameters>();
  size_t words = 0;
  for (unsigned i = 0; i < k.count; i++) words += (k.parameters[i].size + 31) / 16 * 2;
  p->words.resize(words + 1);
  // Multiples of 16, as compilers may assume for a struct.
  uint64_t* to = p->words.data() + (reinterpret_cast<uintptr_t>(p->words.data()) & 8) / 8;
  for (unsigned i = 0; i < k.count; i++) {
    const engine::Parameter& q = k.parameters[i];
    memcpy(to, parameters[i], q.size);
    p->places.push_back(to);
    to += (q.size + 15) / 16 * 2;
    if (!q.pointee) continue;
    Address a;
    memcpy(&a, parameters[i], sizeof a);
    if (!a) continue;
    const std::string which = name + k.text + ": parameter " + std::to_string(i);
    if (!usable(a, 0, on)) return fail(ILLEGAL_ADDRESS, which + " points to no live allocation");
    if (a % q.pointee) return fail(ILLEGAL_ADDRESS, which + " is misaligned");
    p->pointers.push_back(a);
  }
  return put(on, NodeKind::KERNEL, name, [launch, p, name] {
    State& s = state();
    if (s.sticky) return;
    s.counters.launches++;
    s.launched[name]++;
    for (const Address a : p->pointers)
      if (!alive(a, 0)) {
        fail(ILLEGAL_ADDRESS, name + " ran after memory it uses was released");
        return;
      }
    engine::Launch l = launch;
    // Ten nanoseconds for each thread, and for each again by the KiB of dynamic shared memory it shares:
    // products are slow.
    spend(1e-5 * (1 + l.shared / 1024.0) * l.grid.x * l.grid.y * l.grid.z * l.block.x * l.block.y * l.block.z);
    l.seed = s.lazy ? 0 : 1 + s.draw(1u << 30);
    if (const char* wrong = engine::launch(l, p->places.data())) fail(LAUNCH_FAILED, wrong);
  });
}
namespace {
struct LaunchConfig {
  unsigned gx, gy, gz, bx, by, bz, shared;
  void* stream;
  void* attributes;
  unsigned count;
};
}  // namespace
EXPORT Result cuLaunchKernelEx(const LaunchConfig* c, void* f, void** parameters, void** extra) {
  if (c->count) return refuse(NOT_SUPPORTED, "the stand-in knows no launch attributes");
  return cuLaunchKernel(f, c->gx, c->gy, c->gz, c->bx, c->by, c->bz, c->shared, c->stream, parameters, extra);
}
EXPORT Result cuLaunchCooperativeKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                        unsigned, void*, void**) {
  return refuse(NOT_SUPPORTED, "the stand-in runs no cooperative kernels");
}
