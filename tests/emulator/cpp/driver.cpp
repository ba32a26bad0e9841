// Initialisation, the one device, contexts, errors, and what tests ask of the stand-in itself.
#include "driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"

namespace driver {

State& state() {
  static State* s = new State;    // never destroyed: other threads may still call at exit
  return *s;
}
namespace {
thread_local std::string refusal;
bool enabled = false;
bool set(const char* name) {
  const char* v = getenv(name);
  return v && *v && strcmp(v, "0");
}
}  // namespace

Result refuse(Result r, const std::string& why) {
  refusal = why;
  return r;
}
Result fail(Result r, const std::string& why) {
  State& s = state();
  if (s.sticky == OK) {
    s.sticky = r;
    s.message = why;
  }
  return s.sticky;
}
Result ready() { return state().initialised ? state().sticky : NOT_INITIALIZED; }

}  // namespace driver

using namespace driver;

// ---- for tests

// Without this call or DAS_CUDA_STAND_IN=1 there is no device: nobody shall compute on the stand-in
// unknowingly.
EXPORT void das_stand_in_enable() { enabled = true; }
EXPORT void das_stand_in_seed(uint64_t seed) {
  Lock lock(state().mutex);
  state().lazy = seed == 0;
  state().random = (seed + 1) * 0x9e3779b97f4a7c15ull | 1;
}
EXPORT void das_stand_in_counters(Counters* c) {
  Lock lock(state().mutex);
  *c = state().counters;
}
EXPORT uint64_t das_stand_in_launches(const char* kernel) {
  Lock lock(state().mutex);
  const auto i = state().launched.find(kernel);
  return i == state().launched.end() ? 0 : i->second;
}
EXPORT void das_stand_in_fail_allocation(int64_t nth) {
  Lock lock(state().mutex);
  state().fail_allocation = nth;
}
EXPORT void das_stand_in_limit(uint64_t bytes) {
  Lock lock(state().mutex);
  state().limit = bytes;
}
// For the stand-in of a library: whether this memory may be used in work put on this stream now.
EXPORT void das_stand_in_spend(double milliseconds) { spend(milliseconds); }
EXPORT int das_stand_in_usable(Address p, size_t n, void* handle) {
  Lock lock(state().mutex);
  Stream* on = stream(handle);
  return on && usable(p, n, on);
}
// Null, or what is wrong now: the device's failure, or writes outside of allocations. Forgets the failure.
EXPORT const char* das_stand_in_take_failure() {
  static thread_local std::string text;
  State& s = state();
  Lock lock(s.mutex);
  text = s.message + memory::complaint(true);
  s.sticky = OK;
  s.message.clear();
  return text.empty() ? nullptr : text.c_str();
}

// ---- errors

namespace {
struct Name {
  int code;
  const char *name, *text;
};
const Name NAMES[] = {
    {OK, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CAPTURE_MERGE, "CUDA_ERROR_STREAM_CAPTURE_MERGE",
     "operation would result in a merge of separate captures"},
    {CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
     "capture was not ended in the stream it began in"},
    {CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work"},
    {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT",
     "operation not permitted on an event last recorded while capturing"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to end a capture from another thread"},
    {GRAPH_EXEC_UPDATE_FAILURE, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", "the graph update was not performed"},
};
const Name* named(int code) {
  for (const Name& n : NAMES)
    if (n.code == code) return &n;
  return nullptr;
}
}  // namespace

EXPORT Result cuGetErrorName(int code, const char** s) {
  const Name* n = named(code);
  *s = n ? n->name : nullptr;
  return n ? OK : INVALID_VALUE;
}
// CUDA's text, with what the stand-in knows of the cause.
EXPORT Result cuGetErrorString(int code, const char** s) {
  static thread_local std::string text;
  const Name* n = named(code);
  *s = nullptr;
  if (!n) return INVALID_VALUE;
  text = n->text;
  Lock lock(state().mutex);
  if (code != OK && code == state().sticky)
    text += ": " + state().message;
  else if (code != OK && code != NOT_READY && !refusal.empty())
    text += ": " + refusal;
  *s = text.c_str();
  return OK;
}

// ---- the device

EXPORT Result cuInit(unsigned flags) {
  if (flags) return INVALID_VALUE;
  if ((!enabled && !set("DAS_CUDA_STAND_IN")) || set("DAS_STAND_IN_NO_DEVICE")) return NO_DEVICE;
  State& s = state();
  Lock lock(s.mutex);
  if (!s.initialised) {
    const char* bytes = getenv("DAS_STAND_IN_MEMORY");
    const char* seed = getenv("DAS_STAND_IN_SEED");
    if (!s.limit) s.limit = bytes ? strtoull(bytes, nullptr, 10) : 8ull << 30;
    if (seed) das_stand_in_seed(strtoull(seed, nullptr, 10));
    s.initialised = true;
  }
  return OK;
}
namespace {
constexpr int MOST_DEVICES = 8;
// DAS_STAND_IN_DEVICES, or one. They share what they have of time and of memory, and no allocation.
int devices() {
  const char* text = getenv("DAS_STAND_IN_DEVICES");
  const int n = text ? atoi(text) : 1;
  return n < 1 ? 1 : n > MOST_DEVICES ? MOST_DEVICES : n;
}
}  // namespace
EXPORT Result cuDriverGetVersion(int* v) {
  *v = 13000;
  return OK;
}
EXPORT Result cuDeviceGetCount(int* n) {
  if (!state().initialised) return NOT_INITIALIZED;
  *n = devices();
  return OK;
}
EXPORT Result cuDeviceGet(int* device, int ordinal) {
  if (!state().initialised) return NOT_INITIALIZED;
  if (ordinal < 0 || ordinal >= devices()) return INVALID_DEVICE;
  *device = ordinal;
  return OK;
}
EXPORT Result cuDeviceGetName(char* name, int n, int) {
  snprintf(name, (size_t)n, "stand-in for tests (CPU)");
  return OK;
}
EXPORT Result cuDeviceGetUuid(char* uuid, int) {
  memcpy(uuid, "das-cuda stand-i", 16);
  return OK;
}
EXPORT Result cuDeviceGetUuid_v2(char* uuid, int device) { return cuDeviceGetUuid(uuid, device); }
EXPORT Result cuDeviceTotalMem_v2(size_t* n, int) {
  *n = state().limit;
  return OK;
}
EXPORT Result cuDeviceGetAttribute(int* v, int attribute, int) {
  // Those of an H100: shape of launches, shared memory, sizes of the machine, what it can do.
  static const std::map<int, int> VALUES = {
      {1, 1024},       {2, 1024},     {3, 1024}, {4, 64},       {5, 0x7fffffff}, {6, 65535},      {7, 65535},
      {8, 48 << 10},   {9, 64 << 10}, {10, 32},  {12, 65536},   {13, 1980000},   {15, 1},         {16, 132},
      {19, 1},         {31, 1},       {32, 1},   {36, 2619000}, {37, 5120},      {38, 50 << 20},  {39, 2048},
      {40, 3},         {41, 1},       {75, 9},   {76, 0},       {78, 1},         {79, 1},         {80, 1},
      {81, 228 << 10}, {82, 65536},   {83, 1},   {90, 1},       {95, 1},         {97, 227 << 10}, {106, 32},
      {111, 1 << 10},  {115, 1},
  };
  const auto i = VALUES.find(attribute);
  *v = i == VALUES.end() ? 0 : i->second;
  return OK;
}

// ---- contexts: one of each device, of no content

namespace {
char context_places[MOST_DEVICES];
thread_local void* current_context;
bool is_context(void* c) { return c >= context_places && c < context_places + devices(); }
}  // namespace
namespace driver {
int current_device() {
  return is_context(current_context) ? (int)(static_cast<char*>(current_context) - context_places) : 0;
}
}  // namespace driver
EXPORT Result cuDevicePrimaryCtxRetain(void** c, int device) {
  if (!state().initialised) return NOT_INITIALIZED;
  if (device < 0 || device >= devices()) return INVALID_DEVICE;
  *c = context_places + device;
  return OK;
}
EXPORT Result cuDevicePrimaryCtxRelease_v2(int) { return OK; }
EXPORT Result cuDevicePrimaryCtxSetFlags_v2(int, unsigned) { return OK; }
EXPORT Result cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return OK;
}
EXPORT Result cuCtxGetCurrent(void** c) {
  *c = current_context;
  return OK;
}
EXPORT Result cuCtxSetCurrent(void* c) {
  if (c && !is_context(c)) return INVALID_CONTEXT;
  current_context = c;
  return OK;
}
EXPORT Result cuCtxPushCurrent_v2(void* c) { return cuCtxSetCurrent(c); }
EXPORT Result cuCtxPopCurrent_v2(void** c) {
  if (c) *c = current_context;
  current_context = nullptr;
  return OK;
}
EXPORT Result cuCtxGetDevice(int* device) {
  *device = current_device();
  return current_context ? OK : INVALID_CONTEXT;
}
EXPORT Result cuCtxSetFlags(unsigned) { return OK; }
EXPORT Result cuCtxGetLimit(size_t* v, int) {
  *v = 1024;
  return OK;
}
EXPORT Result cuCtxSetLimit(int, size_t) { return OK; }
EXPORT Result cuCtxSetCacheConfig(int) { return OK; }
EXPORT Result cuCtxGetCacheConfig(int* v) {
  *v = 0;
  return OK;
}
EXPORT Result cuProfilerStart() { return OK; }
EXPORT Result cuProfilerStop() { return OK; }

EXPORT Result cuGetExportTable(const void** table, const void*) {
  *table = nullptr;
  return NOT_FOUND;
}
EXPORT Result cuGetProcAddress_v2(const char* name, void** function, int, uint64_t, int* found) {
  *function = nullptr;
  for (const char* suffix : {"", "_v2", "_v3"})
    if (void* p = dlsym(RTLD_DEFAULT, (std::string(name) + suffix).c_str())) *function = p;
  if (found) *found = *function ? 0 : 1;
  return *function ? OK : NOT_FOUND;
}
