"""How long work takes in PyTorch, measured as das-cuda's own: many starts in a CUDA graph, by the GPU's clock."""

import contextlib
import statistics
import time

import torch

SAMPLE_MS, MOST_LAUNCHES = 2.0, 64


class Timer:
    def __init__(self, device, budget_ms=60.0):
        self.device, self.budget = device, budget_ms / 1e3
        # A capture that fails may leave PyTorch unable to begin another: then everything is started by the
        # host.
        self.graphs = device == "cuda"
        self.stream = torch.cuda.Stream() if self.graphs else None

    def scope(self):
        """What is to be timed is made in here: the backward pass runs on the stream of the forward pass."""
        return torch.cuda.stream(self.stream) if self.device == "cuda" else contextlib.nullcontext()

    def time(self, f):
        """Median, extremes and number, in milliseconds."""
        if self.device != "cuda":
            start = time.perf_counter()
            f()
            return {"ms": (time.perf_counter() - start) * 1e3, "samples": 1, "graph": False}
        for _ in range(3):
            f()
        once = self.elapsed(f)
        launches = min(max(int(SAMPLE_MS / max(once, 1e-3)), 1), MOST_LAUNCHES)
        run, graph = self.recorded(f, launches)
        run()
        times, begin = [], time.perf_counter()
        while len(times) < 5 or time.perf_counter() - begin < self.budget:
            times.append(self.elapsed(run) / launches)
        return {
            "ms": statistics.median(times),
            "min": min(times),
            "max": max(times),
            "samples": len(times),
            "graph": graph,
        }

    def recorded(self, f, launches):
        def plain():
            for _ in range(launches):
                f()

        if not self.graphs:
            return plain, False
        graph = torch.cuda.CUDAGraph()
        try:
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, stream=self.stream):
                plain()
            return graph.replay, True
        except Exception:
            torch.cuda.synchronize()
            self.graphs = False
            return plain, False

    def elapsed(self, f):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(self.stream)
        f()
        end.record(self.stream)
        end.synchronize()
        return begin.elapsed_time(end)
