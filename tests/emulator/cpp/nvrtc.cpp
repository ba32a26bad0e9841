// NVRTC without a compiler: looks at what it was given as far as a compiler would stop at once, and gives an
// image that the stand-in driver knows, which says what was compiled and how.
#include <string.h>

#include <map>
#include <mutex>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {
enum Result : int {
  OK = 0,
  INVALID_INPUT = 3,
  INVALID_PROGRAM = 4,
  INVALID_OPTION = 5,
  COMPILATION = 6,
};
struct Program {
  std::string source, name, log, image;
  std::map<std::string, std::string> headers;
  bool compiled = false, cubin = false;
};
// The programs there are. Threads may compile at the same time, each its own program.
class Programs {
 public:
  void insert(Program* p) {
    const std::lock_guard<std::mutex> lock(mutex_);
    all_.insert(p);
  }
  size_t erase(Program* p) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return all_.erase(p);
  }
  size_t count(Program* p) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return all_.count(p);
  }

 private:
  std::mutex mutex_;
  std::set<Program*> all_;
};
Programs& programs() {
  static auto* p = new Programs;
  return *p;
}

// Every header that is included, directly or not, was given. Headers in angle brackets and emulator.h stand
// in branches for other compilers.
bool includes(Program& p, const std::string& text, const std::string& file, std::set<std::string>& seen) {
  static const std::regex INCLUDE("^\\s*#\\s*include\\s*\"([^\"]+)\".*");
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); number++) {
    std::smatch m;
    if (!std::regex_match(line, m, INCLUDE) || m[1] == "emulator.h") continue;
    const auto header = p.headers.find(m[1]);
    if (header == p.headers.end()) {
      p.log +=
          file + "(" + std::to_string(number) + "): error: cannot open source file \"" + m[1].str() + "\"\n";
      return false;
    }
    if (seen.insert(m[1]).second && !includes(p, header->second, m[1], seen)) return false;
  }
  return true;
}
}  // namespace

EXPORT const char* nvrtcGetErrorString(int r) {
  switch (r) {
    case OK: return "NVRTC_SUCCESS";
    case INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
    case INVALID_PROGRAM: return "NVRTC_ERROR_INVALID_PROGRAM";
    case INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
    case COMPILATION: return "NVRTC_ERROR_COMPILATION";
    default: return "NVRTC_ERROR";
  }
}
EXPORT Result nvrtcVersion(int* major, int* minor) {
  *major = 13;
  *minor = 0;
  return OK;
}
EXPORT Result nvrtcGetNumSupportedArchs(int* n) {
  *n = 4;
  return OK;
}
EXPORT Result nvrtcGetSupportedArchs(int* a) {
  const int known[] = {80, 86, 89, 90};
  memcpy(a, known, sizeof known);
  return OK;
}

EXPORT Result nvrtcCreateProgram(Program** program, const char* source, const char* name, int count,
                                 const char* const* headers, const char* const* names) {
  if (!program || !source || count < 0 || (count && (!headers || !names))) return INVALID_INPUT;
  Program* p = new Program;
  p->source = source;
  p->name = name ? name : "default_program";
  for (int i = 0; i < count; i++) {
    if (!headers[i] || !names[i]) {
      delete p;
      return INVALID_INPUT;
    }
    p->headers[names[i]] = headers[i];
  }
  programs().insert(p);
  *program = p;
  return OK;
}
EXPORT Result nvrtcDestroyProgram(Program** program) {
  if (!program || !programs().erase(*program)) return INVALID_PROGRAM;
  delete *program;
  *program = nullptr;
  return OK;
}
EXPORT Result nvrtcCompileProgram(Program* p, int count, const char* const* options) {
  if (!programs().count(p)) return INVALID_PROGRAM;
  p->compiled = p->cubin = false;
  p->log.clear();
  std::string all, type;
  for (int i = 0; i < count; i++) {
    const std::string o = options[i];
    std::smatch m;
    if (o.empty() || o[0] != '-') {
      p->log = "nvrtc: error: invalid value for --option: " + o + "\n";
      return INVALID_OPTION;
    }
    static const std::regex ARCH("(--gpu-architecture|-arch)=(sm|compute|lto)_([0-9]+[af]?)");
    if (std::regex_match(o, m, ARCH)) p->cubin = m[2] == "sm";
    if (std::regex_match(o, m, std::regex("-DACT_(BF16|F16|F32)(=1)?"))) type = m[1];
    all += o + "\n";
  }
  std::set<std::string> seen;
  if (!includes(*p, p->source, p->name, seen)) return COMPILATION;
  if (p->source.empty() || p->source.find("KERNEL(") == std::string::npos) {
    p->log += p->name + ": error: no kernel in it\n";
    return COMPILATION;
  }
  if (type.empty()) {
    p->log += "act.cuh: error: #error \"define one of ACT_BF16, ACT_F16, ACT_F32\"\n";
    return COMPILATION;
  }
  p->image = "das-nvrtc\n" + p->name + "\n" + all;
  p->compiled = true;
  return OK;
}

EXPORT Result nvrtcGetProgramLogSize(Program* p, size_t* n) {
  if (!programs().count(p)) return INVALID_PROGRAM;
  *n = p->log.size() + 1;
  return OK;
}
EXPORT Result nvrtcGetProgramLog(Program* p, char* log) {
  if (!programs().count(p)) return INVALID_PROGRAM;
  memcpy(log, p->log.c_str(), p->log.size() + 1);
  return OK;
}
// As NVRTC: the size is 0 where the architecture is a virtual one.
EXPORT Result nvrtcGetCUBINSize(Program* p, size_t* n) {
  if (!programs().count(p) || !p->compiled) return INVALID_PROGRAM;
  *n = p->cubin ? p->image.size() + 1 : 0;
  return OK;
}
EXPORT Result nvrtcGetCUBIN(Program* p, char* image) {
  if (!programs().count(p) || !p->compiled || !p->cubin) return INVALID_PROGRAM;
  memcpy(image, p->image.c_str(), p->image.size() + 1);
  return OK;
}
EXPORT Result nvrtcGetPTXSize(Program* p, size_t* n) {
  if (!programs().count(p) || !p->compiled) return INVALID_PROGRAM;
  *n = p->image.size() + 1;
  return OK;
}
EXPORT Result nvrtcGetPTX(Program* p, char* image) {
  if (!programs().count(p) || !p->compiled) return INVALID_PROGRAM;
  memcpy(image, p->image.c_str(), p->image.size() + 1);
  return OK;
}
