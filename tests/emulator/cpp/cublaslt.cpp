// cuBLASLt without a GPU: knows the calls, descriptions and attributes that das-cuda uses and refuses every
// other. A product is plain loops, put on the stream as a function of the host. It starts only where a test
// has asked for it.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <deque>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "convert.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

// Of the stand-in driver.
extern "C" int cuLaunchHostFunc(void* stream, void (*function)(void*), void* data);
extern "C" int cuCtxGetCurrent(void** context);
extern "C" void das_stand_in_spend(double milliseconds);
extern "C" int das_stand_in_usable(unsigned long long address, size_t bytes, void* stream);

namespace {
enum Status : int {
  OK = 0,
  NOT_INITIALIZED = 1,
  INVALID_VALUE = 7,
  EXECUTION_FAILED = 13,
  NOT_SUPPORTED = 15,
};
constexpr int COMPUTE_32F = 68, R_32F = 0, R_16F = 2, R_16BF = 14;
constexpr int TRANSA = 3, TRANSB = 4, EPILOGUE = 7, BIAS_POINTER = 8;
constexpr int EPILOGUE_DEFAULT = 1, EPILOGUE_BIAS = 4;
constexpr int MAX_WORKSPACE = 1, REDUCTION_SCHEME = 3;
constexpr int BY_COMPUTE_TYPE = 2;

// As `Cublas` of src/library.rs: what the library of this thread does.
enum Behaviour : int { ABSENT = 0, RIGHT = 1, SLOW = 2, WRONG = 3, FAILING = 4 };
thread_local int behaviour = -1;
int behaves() {
  if (behaviour < 0) {
    const char* v = getenv("DAS_CUBLAS_STAND_IN");
    behaviour = v && !strcmp(v, "1") ? RIGHT : ABSENT;
  }
  return behaviour;
}

thread_local uint64_t refused, started;
int refuse(int status, const char* why) {
  refused++;
  fprintf(stderr, "the stand-in for cuBLASLt: %s\n", why);
  return status;
}
#define REQUIRE(condition) \
  if (!(condition)) return refuse(INVALID_VALUE, #condition)

struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t ld;
  // Bytes from the first element to the last.
  size_t extent() const { return ((columns - 1) * (uint64_t)ld + rows) * 2; }
};
struct Desc {
  int turned_a = 0, turned_b = 0, epilogue = EPILOGUE_DEFAULT;
  const uint16_t* bias = nullptr;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t scheme = 7;
};
struct Algorithm {
  uint64_t mark, way, rest[6];
};
constexpr uint64_t MARK = 0x6461732d6c74;
struct Answer {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
constexpr size_t NEEDED = 1 << 16;

struct Call {
  Layout a, b, d;
  Desc desc;
  float beta;
  const uint16_t *left, *right, *add;
  uint16_t* result;
  int behaviour;
};
float widen(int type, uint16_t x) { return type == R_16F ? emu::half_to_float(x) : emu::bf16_to_float(x); }
uint16_t narrow(int type, float x) { return type == R_16F ? emu::float_to_half(x) : emu::float_to_bf16(x); }

// d (m, n) = op(a) (m, k) b (k, n) + beta c + bias by rows, everything by columns.
void multiply(void* data) {
  const Call& c = *static_cast<Call*>(data);
  if (c.behaviour == SLOW) das_stand_in_spend(300);
  const uint64_t m = c.d.rows, n = c.d.columns, k = c.b.rows;
  std::vector<float> left(m * k), sum(m);
  for (uint64_t i = 0; i < m; i++)
    for (uint64_t l = 0; l < k; l++)
      left[l * m + i] = widen(c.a.type, c.desc.turned_a ? c.left[l + i * c.a.ld] : c.left[i + l * c.a.ld]);
  for (uint64_t j = 0; j < n; j++) {
    sum.assign(m, c.behaviour == WRONG ? 1.0f : 0.0f);
    for (uint64_t l = 0; l < k; l++) {
      const float right = widen(c.b.type, c.right[l + j * c.b.ld]);
      for (uint64_t i = 0; i < m; i++) sum[i] += left[l * m + i] * right;
    }
    for (uint64_t i = 0; i < m; i++) {
      if (c.desc.epilogue == EPILOGUE_BIAS) sum[i] += widen(c.d.type, c.desc.bias[i]);
      if (c.beta != 0.0f) sum[i] += c.beta * widen(c.d.type, c.add[i + j * c.d.ld]);
      c.result[i + j * c.d.ld] = narrow(c.d.type, sum[i]);
    }
  }
}
// Calls live on: a graph runs them again.
Call* kept(const Call& call) {
  static std::mutex mutex;
  static auto* calls = new std::deque<Call>;
  std::lock_guard<std::mutex> lock(mutex);
  return &calls->emplace_back(call);
}

// What is told apart by nothing else than being alive.
template <class T>
struct Alive {
  std::mutex mutex;
  std::set<T*> all;
  T* make(const T& x) {
    std::lock_guard<std::mutex> lock(mutex);
    return *all.insert(new T(x)).first;
  }
  bool has(T* x) {
    std::lock_guard<std::mutex> lock(mutex);
    return all.count(x);
  }
  int end(T* x) {
    std::lock_guard<std::mutex> lock(mutex);
    REQUIRE(all.erase(x));
    delete x;
    return OK;
  }
};
template <class T>
Alive<T>& alive() {
  static auto* a = new Alive<T>;
  return *a;
}

bool fits(const Desc& d, const Layout& a, const Layout& b, const Layout& out) {
  const uint64_t m = d.turned_a ? a.columns : a.rows, k = d.turned_a ? a.rows : a.columns;
  return !d.turned_b && a.type == b.type && b.type == out.type && m == out.rows && k == b.rows &&
         b.columns == out.columns;
}
}  // namespace

// ---- for tests

EXPORT void das_cublas_behave(int b) { behaviour = b; }
EXPORT uint64_t das_cublas_started() { return started; }
EXPORT uint64_t das_cublas_refused() { return refused; }

// ---- the library

EXPORT size_t cublasLtGetVersion() { return 130000; }
EXPORT int cublasLtCreate(int** handle) {
  void* context = nullptr;
  if (behaves() == ABSENT || cuCtxGetCurrent(&context) || !context) return NOT_INITIALIZED;
  *handle = alive<int>().make(0);
  return OK;
}
EXPORT int cublasLtDestroy(int* handle) { return alive<int>().end(handle); }

EXPORT int cublasLtMatmulDescCreate(Desc** desc, int compute, int scale) {
  REQUIRE(compute == COMPUTE_32F && scale == R_32F);
  *desc = alive<Desc>().make({});
  return OK;
}
EXPORT int cublasLtMatmulDescDestroy(Desc* desc) { return alive<Desc>().end(desc); }
EXPORT int cublasLtMatmulDescSetAttribute(Desc* desc, int attribute, const void* value, size_t n) {
  REQUIRE(alive<Desc>().has(desc));
  if (attribute == BIAS_POINTER) {
    REQUIRE(n == sizeof desc->bias);
    memcpy(&desc->bias, value, n);
    return OK;
  }
  int number;
  REQUIRE(n == sizeof number);
  memcpy(&number, value, n);
  switch (attribute) {
    case TRANSA:
    case TRANSB: {
      REQUIRE(number == 0 || number == 1);
      (attribute == TRANSA ? desc->turned_a : desc->turned_b) = number;
      return OK;
    }
    case EPILOGUE: {
      REQUIRE(number == EPILOGUE_DEFAULT || number == EPILOGUE_BIAS);
      desc->epilogue = number;
      return OK;
    }
    default: return refuse(INVALID_VALUE, "an attribute of a product that is not known");
  }
}

EXPORT int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns,
                                      int64_t ld) {
  REQUIRE((type == R_16F || type == R_16BF) && rows && columns && ld >= (int64_t)rows && ld % 8 == 0);
  *layout = alive<Layout>().make({type, rows, columns, ld});
  return OK;
}
EXPORT int cublasLtMatrixLayoutDestroy(Layout* layout) { return alive<Layout>().end(layout); }

EXPORT int cublasLtMatmulPreferenceCreate(Preference** preference) {
  *preference = alive<Preference>().make({});
  return OK;
}
EXPORT int cublasLtMatmulPreferenceDestroy(Preference* p) { return alive<Preference>().end(p); }
EXPORT int cublasLtMatmulPreferenceSetAttribute(Preference* p, int attribute, const void* value, size_t n) {
  REQUIRE(alive<Preference>().has(p));
  if (attribute == MAX_WORKSPACE) {
    REQUIRE(n == sizeof p->workspace);
    memcpy(&p->workspace, value, n);
  } else if (attribute == REDUCTION_SCHEME) {
    REQUIRE(n == sizeof p->scheme);
    memcpy(&p->scheme, value, n);
  } else {
    return refuse(INVALID_VALUE, "an attribute of a preference that is not known");
  }
  return OK;
}

// Two ways, and an answer that says it does not do.
EXPORT int cublasLtMatmulAlgoGetHeuristic(int* handle, Desc* desc, Layout* a, Layout* b, Layout* c, Layout* d,
                                          Preference* p, int wanted, Answer* answers, int* count) {
  REQUIRE(alive<int>().has(handle) && alive<Desc>().has(desc) && alive<Preference>().has(p));
  REQUIRE(alive<Layout>().has(a) && alive<Layout>().has(b) && c == d && alive<Layout>().has(d));
  REQUIRE(fits(*desc, *a, *b, *d));
  REQUIRE(p->workspace >= NEEDED && p->scheme == BY_COMPUTE_TYPE);
  REQUIRE(wanted > 0 && (desc->epilogue == EPILOGUE_DEFAULT || desc->bias));
  *count = wanted < 3 ? wanted : 3;
  for (int i = 0; i < *count; i++) {
    answers[i] = {};
    answers[i].algorithm = {MARK, (uint64_t)i, {}};
    answers[i].workspace = NEEDED;
    answers[i].state = i == 1 ? NOT_SUPPORTED : OK;
  }
  return OK;
}

EXPORT int cublasLtMatmul(int* handle, Desc* desc, const float* alpha, const void* a, Layout* la,
                          const void* b, Layout* lb, const float* beta, const void* c, Layout* lc, void* d,
                          Layout* ld, const Algorithm* algorithm, void* workspace, size_t bytes,
                          void* stream) {
  REQUIRE(alive<int>().has(handle) && alive<Desc>().has(desc));
  REQUIRE(alive<Layout>().has(la) && alive<Layout>().has(lb) && lc == ld && alive<Layout>().has(ld));
  REQUIRE(fits(*desc, *la, *lb, *ld));
  REQUIRE(algorithm && algorithm->mark == MARK && algorithm->way != 1);
  REQUIRE(*alpha == 1.0f && (*beta == 0.0f || *beta == 1.0f));
  void* context = nullptr;
  REQUIRE(!cuCtxGetCurrent(&context) && context);
  const auto usable = [&](const void* p, size_t n) {
    return (uintptr_t)p % 16 == 0 && das_stand_in_usable((uintptr_t)p, n, stream);
  };
  REQUIRE(bytes >= NEEDED && usable(workspace, bytes) && (uintptr_t)workspace % 256 == 0);
  REQUIRE(usable(a, la->extent()));
  REQUIRE(usable(b, lb->extent()));
  REQUIRE(usable(d, ld->extent()));
  REQUIRE(*beta == 0.0f || usable(c, ld->extent()));
  REQUIRE(desc->epilogue == EPILOGUE_DEFAULT || usable(desc->bias, ld->rows * 2));
  if (behaves() == FAILING) return EXECUTION_FAILED;
  started++;
  const auto elements = [](const void* p) { return static_cast<const uint16_t*>(p); };
  Call* call = kept({*la, *lb, *ld, *desc, *beta, elements(a), elements(b), elements(c),
                     static_cast<uint16_t*>(d), behaves()});
  return cuLaunchHostFunc(stream, multiply, call) ? EXECUTION_FAILED : OK;
}
