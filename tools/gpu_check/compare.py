"""How far apart two runs of `das-cuda sample` are."""

import array
import json


def floats(path):
    """The one f32 tensor of a safetensors file."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return array.array("f", content[8 + size :])


def read_run(folder):
    trace = next(folder.rglob("trace.jsonl"))
    steps = [json.loads(line) for line in trace.read_text().splitlines()]
    return {"steps": steps, "latents": floats(next(folder.rglob("latents.safetensors")))}


def nmse(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b)) / max(sum(y * y for y in b), 1e-300)


def distance(a, b):
    """Of run `a` from `b`: rewards and gradients of the first look, which nothing precedes, and what follows."""

    def spread(key, steps=slice(None)):
        pairs = [
            (x, y)
            for s, t in zip(a["steps"][steps], b["steps"][steps])
            for x, y in zip(s.get(key) or (), t.get(key) or ())
        ]
        return max((abs(x - y) for x, y in pairs if x is not None and y is not None), default=None)

    return {
        "first_rewards": spread("reward", slice(1)),
        "rewards": spread("reward"),
        "log_weights": spread("log_weights"),
        "latents_nmse": nmse(a["latents"], b["latents"]),
        "same_ancestors": all(s["ancestors"] == t["ancestors"] for s, t in zip(a["steps"], b["steps"])),
    }


def same_bits(a, b):
    keys = ("reward", "log_weights", "ancestors")
    steps = all(s.get(k) == t.get(k) for s, t in zip(a["steps"], b["steps"]) for k in keys)
    return steps and a["latents"].tobytes() == b["latents"].tobytes()


def runs(seen):
    """Every run on the GPU against the exact one on the CPU, beside what the CPU loses by rounding alone."""
    truth, lines = seen.get("cpu fp32"), []
    if truth is None:
        return lines
    for name, run in seen.items():
        if name == "cpu fp32":
            continue
        line = {"run": name, "against": "cpu fp32"} | distance(run, truth)
        if name.startswith("cuda"):
            honest = seen.get(name.removesuffix(" --no-graph").replace("cuda", "cpu"))
            if honest is not None and honest is not truth:
                # Errors, not their squares: three times those of an implementation that rounds each result
                # once.
                allowed = 9 * distance(honest, truth)["latents_nmse"]
            else:
                # Single precision through a few steps of three networks and back.
                allowed = 1e-6
            line["allowed_nmse"] = allowed
            line["ok"] = line["latents_nmse"] <= allowed
            other = seen.get(name + " --no-graph")
            if other is not None:
                line["same_bits_without_graph"] = same_bits(run, other)
                line["ok"] = line["ok"] and line["same_bits_without_graph"]
        lines.append(line)
    return lines
