// Capture of streams into graphs, and graphs that run.
#include <stdio.h>

#include <algorithm>

#include "driver.h"

namespace driver {

uint64_t thread_number();

namespace {
struct Exec {
  std::shared_ptr<Graph> graph;
  std::shared_ptr<const std::vector<Node>> nodes;
  bool auto_free, busy = false;
};
using ExecRef = std::shared_ptr<Exec>;
using GraphRef = std::shared_ptr<Graph>;
std::set<GraphRef*>& graphs() {
  static auto* g = new std::set<GraphRef*>;
  return *g;
}
std::set<ExecRef*>& execs() {
  static auto* e = new std::set<ExecRef*>;
  return *e;
}

// One run of a graph: its nodes in any order that their edges allow, one per step, so that other streams run
// in between.
struct Run {
  std::shared_ptr<const std::vector<Node>> nodes;
  std::vector<unsigned> missing, can;
  std::vector<std::vector<unsigned>> next;
  size_t done = 0;

  explicit Run(std::shared_ptr<const std::vector<Node>> n)
      : nodes(std::move(n)), missing(nodes->size()), next(nodes->size()) {
    for (unsigned i = 0; i < nodes->size(); i++) {
      missing[i] = (unsigned)(*nodes)[i].after.size();
      for (const unsigned before : (*nodes)[i].after) next[before].push_back(i);
      if (!missing[i]) can.push_back(i);
    }
  }
  bool step() {
    if (done == nodes->size()) return true;
    const unsigned k = state().draw((unsigned)can.size()), node = can[k];
    can[k] = can.back();
    can.pop_back();
    state().counters.graph_nodes++;
    (*nodes)[node].run();
    for (const unsigned after : next[node])
      if (--missing[after] == 0) can.push_back(after);
    return ++done == nodes->size();
  }
};

// Memory of the graph is there from its first launch on, until trimmed.
Result reserve(const Graph& g) {
  State& s = state();
  const size_t want = std::max(s.graph_reserved, g.peak);
  if (s.plain + s.used + want > s.limit) return refuse(OUT_OF_MEMORY, "no room for the memory of a graph");
  s.graph_reserved = want;
  s.graph_reserved_high = std::max(s.graph_reserved_high, want);
  return OK;
}
}  // namespace
}  // namespace driver

using namespace driver;

#define ENTER()       \
  State& s = state(); \
  Lock lock(s.mutex); \
  if (const Result r = ready()) return r
#define GRAPH(g, handle)                                                                               \
  if (!graphs().count(static_cast<GraphRef*>(handle))) return refuse(INVALID_HANDLE, "no such graph"); \
  const GraphRef g = *static_cast<GraphRef*>(handle)
#define EXEC(e, handle)                                                                             \
  if (!execs().count(static_cast<ExecRef*>(handle))) return refuse(INVALID_HANDLE, "no such exec"); \
  const ExecRef e = *static_cast<ExecRef*>(handle)

// ---- capture

EXPORT Result cuStreamBeginCapture_v2(void* handle, int mode) {
  ENTER();
  Stream* on = stream(handle);
  if (!on) return INVALID_HANDLE;
  if (on == &s.default_stream) return refuse(CAPTURE_UNSUPPORTED, "the default stream cannot be captured");
  if (on->capture) return refuse(INVALID_VALUE, "the stream is captured already");
  const auto c = std::make_shared<Capture>();
  c->origin = on;
  c->mode = mode;
  c->thread = thread_number();
  c->streams.insert(on);
  s.captures.insert(c);
  on->capture = c;
  on->tail.clear();
  return OK;
}
EXPORT Result cuStreamEndCapture(void* handle, void** graph) {
  State& s = state();
  Lock lock(s.mutex);
  *graph = nullptr;
  Stream* on = stream(handle);
  if (!on) return INVALID_HANDLE;
  if (!on->capture) return refuse(INVALID_VALUE, "the stream is not captured");
  const std::shared_ptr<Capture> c = on->capture;
  if (c->origin != on) {
    c->broken = CAPTURE_UNMATCHED;
    return refuse(CAPTURE_UNMATCHED, "the capture began on another stream");
  }
  if (c->mode != 2 && c->thread != thread_number())
    return refuse(CAPTURE_WRONG_THREAD, "the capture began elsewhere");
  std::vector<Node>& nodes = c->graph->nodes;
  std::vector<bool> joined(nodes.size());
  for (const unsigned node : on->tail) joined[node] = true;
  for (size_t i = nodes.size(); i--;)
    if (joined[i])
      for (const unsigned before : nodes[i].after) joined[before] = true;
  for (Stream* stream : c->streams)
    if (s.streams.count(stream)) {
      stream->capture = nullptr;
      stream->tail.clear();
    }
  s.captures.erase(c);
  capture_ended(c.get());
  if (c->broken) return CAPTURE_INVALIDATED;
  if (std::find(joined.begin(), joined.end(), false) != joined.end())
    return refuse(CAPTURE_UNJOINED, "a stream that took part does not lead back to the one captured");
  GraphRef* g = new GraphRef(c->graph);
  graphs().insert(g);
  *graph = g;
  return ready();
}
EXPORT Result cuStreamIsCapturing(void* handle, int* status) {
  ENTER();
  const Stream* on = stream(handle);
  if (!on) return INVALID_HANDLE;
  *status = !on->capture ? 0 : on->capture->broken ? 2 : 1;
  return OK;
}
EXPORT Result cuThreadExchangeStreamCaptureMode(int* mode) {
  static thread_local int mine = 0;
  std::swap(mine, *mode);
  return OK;
}

// ---- graphs

EXPORT Result cuGraphDestroy(void* handle) {
  State& s = state();
  Lock lock(s.mutex);
  if (!graphs().erase(static_cast<GraphRef*>(handle))) return INVALID_HANDLE;
  delete static_cast<GraphRef*>(handle);
  return OK;
}
EXPORT Result cuGraphGetNodes(void* handle, void** nodes, size_t* count) {
  ENTER();
  GRAPH(g, handle);
  if (nodes)
    for (size_t i = 0; i < std::min(*count, g->nodes.size()); i++) nodes[i] = &g->nodes[i];
  if (!nodes || *count > g->nodes.size()) *count = g->nodes.size();
  (void)s;
  return OK;
}
EXPORT Result cuGraphNodeGetType(void* node, int* type) {
  *type = (int)static_cast<const Node*>(node)->kind;
  return OK;
}
EXPORT Result cuGraphInstantiateWithFlags(void** exec, void* handle, unsigned long long flags) {
  ENTER();
  GRAPH(g, handle);
  if (flags & ~3ull & ~8ull) return refuse(INVALID_VALUE, "the stand-in does not know these flags of a graph");
  if (g->has_memory && g->instances)
    return refuse(NOT_SUPPORTED, "a graph with memory nodes has one executable form at a time");
  if (flags & 2)
    if (const Result r = reserve(*g)) return r;
  g->instances++;
  const auto e = std::make_shared<Exec>();
  e->graph = g;
  e->nodes = std::make_shared<std::vector<Node>>(g->nodes);
  e->auto_free = flags & 1;
  ExecRef* ref = new ExecRef(e);
  execs().insert(ref);
  *exec = ref;
  (void)s;
  return OK;
}
EXPORT Result cuGraphExecDestroy(void* handle) {
  State& s = state();
  Lock lock(s.mutex);
  ExecRef* ref = static_cast<ExecRef*>(handle);
  if (!execs().erase(ref)) return INVALID_HANDLE;
  (*ref)->graph->instances--;
  delete ref;    // a run that is queued holds it
  return OK;
}
EXPORT Result cuGraphUpload(void* handle, void* on) {
  ENTER();
  EXEC(e, handle);
  if (!stream(on)) return INVALID_HANDLE;
  (void)s;
  return reserve(*e->graph);
}
EXPORT Result cuGraphLaunch(void* handle, void* on_handle) {
  ENTER();
  EXEC(e, handle);
  Stream* on = stream(on_handle);
  if (!on) return INVALID_HANDLE;
  if (on->capture) {
    on->capture->broken = CAPTURE_UNSUPPORTED;
    return refuse(CAPTURE_UNSUPPORTED, "the stand-in takes no graphs within graphs");
  }
  if (const Result r = reserve(*e->graph)) return r;
  for (const Node& node : *e->nodes)
    if (node.kind == NodeKind::ALLOC && !node.memory->freed_inside) {
      if (node.memory->outstanding && !e->auto_free)
        return refuse(INVALID_VALUE, "a graph is launched again while memory of it is allocated");
      node.memory->outstanding = true;
    }
  s.counters.graph_launches++;
  const auto run = std::make_shared<std::unique_ptr<Run>>();
  put_work(on, {[e, run] { return *run || !e->busy; },
                [e, run] {
                  if (!*run) {
                    e->busy = true;
                    run->reset(new Run(e->nodes));
                  }
                  if (!(*run)->step()) return false;
                  e->busy = false;
                  return true;
                }});
  return s.sticky;
}

namespace {
struct UpdateInfo {
  int result;
  void *node, *from;
};
}  // namespace
EXPORT Result cuGraphExecUpdate_v2(void* handle, void* graph, UpdateInfo* info) {
  ENTER();
  EXEC(e, handle);
  GRAPH(g, graph);
  // As CUDA's enumeration: 0 done, 2 topology, 3 kind of a node, 6 not supported.
  *info = {0, nullptr, nullptr};
  if (g->has_memory || e->graph->has_memory)
    info->result = 6;
  else if (g->nodes.size() != e->nodes->size())
    info->result = 2;
  for (size_t i = 0; info->result == 0 && i < g->nodes.size(); i++) {
    if (g->nodes[i].after != (*e->nodes)[i].after)
      info->result = 2;
    else if (g->nodes[i].kind != (*e->nodes)[i].kind)
      info->result = 3;
    if (info->result) info->node = &g->nodes[i];
  }
  (void)s;
  if (info->result) return refuse(GRAPH_EXEC_UPDATE_FAILURE, "the graphs differ by more than parameters");
  e->nodes = std::make_shared<std::vector<Node>>(g->nodes);
  return OK;
}
