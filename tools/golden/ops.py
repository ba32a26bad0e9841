"""Results and gradients of every operation case, in float64 PyTorch: tests/golden/ops.safetensors.

The cases are tests/golden/ops.jsonl, which `cargo test --test ops` holds against the table in
tests/common/operations.rs; inputs are made here bit for bit as the table makes them.

    python tools/golden/ops.py
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLES = 2048


def cases():
    return [json.loads(line) for line in (ROOT / "tests/golden/ops.jsonl").read_text().splitlines()]


def mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def fill(name, shape, kind, scale=1.0, shift=0.0):
    """The table's `fill`: float32 values, returned as float64."""
    n = int(np.prod(shape))
    if kind == "Ones":
        value = np.ones(n)
    elif kind == "Arange":
        value = 2.0 * np.arange(n) / n - 1.0
    else:
        seed = 0xCBF29CE484222325
        for byte in name.encode():
            seed = (seed ^ byte) * 0x100000001B3 % 2**64
        bits = mix(np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        total = sum((bits >> np.uint64(16 * k)) & np.uint64(0xFFFF) for k in range(4)).astype(np.float64)
        value = (total - 131070.0) / 65536.0 * np.sqrt(3.0)
    value = (value * scale + shift).astype(np.float32)
    return torch.from_numpy(value.reshape(shape).astype(np.float64))


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def tokens(x):
    return x.reshape(x.shape[0], -1, x.shape[3])


def attend(q, k, v, p):
    """(n, tokens, c) each."""

    def split(x):
        return x.reshape(x.shape[0], x.shape[1], p["heads"], -1).transpose(1, 2)

    score = split(q) @ split(k).transpose(2, 3) * p["scale"]
    if p["causal"]:
        n = score.shape[-1]
        score = score.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), float("-inf"))
    return (score.softmax(-1) @ split(v)).transpose(1, 2).reshape(q.shape)


def linear(x, w, *rest, bias, add):
    y = x @ w.reshape(w.shape[0], -1).T
    return y + sum(rest) if rest else y


def conv(x, w, *rest, bias, add, stride, pad, upsample):
    x = nchw(x)
    if upsample:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
    x = F.pad(x, (pad[2], pad[3], pad[0], pad[1]))
    y = nhwc(F.conv2d(x, nchw(w), stride=stride))
    return y + sum(rest) if rest else y


def group_norm(x, gamma, beta, groups, eps, silu):
    y = nhwc(F.group_norm(nchw(x), groups, gamma.flatten(), beta.flatten(), eps))
    return F.silu(y) if silu else y


def activate(x, f):
    return {"Silu": F.silu, "Gelu": F.gelu, "QuickGelu": lambda x: x * torch.sigmoid(1.702 * x)}[f](x)


def embed(x, position, token=None):
    x = tokens(x)
    if token is not None:
        x = torch.cat([token.reshape(1, 1, -1).expand(len(x), 1, -1), x], 1)
    return (x + position.reshape(1, -1, x.shape[2])).unsqueeze(1)


def cross_attention(q, kv, kv_of, **p):
    k, v = tokens(kv)[kv_of].chunk(2, -1)
    return attend(tokens(q), k, v, p).reshape(q.shape)


def self_attention(qkv, **p):
    q, k, v = tokens(qkv).chunk(3, -1)
    return attend(q, k, v, p).reshape(*qkv.shape[:3], -1)


def cfg_combine(x, s):
    u, c = x.chunk(2)
    return u + s * (c - u)


def geglu(x):
    a, g = x.chunk(2, -1)
    return a * F.gelu(g)


def resize(x, h, w, filter):
    y = F.interpolate(nchw(x), size=(h, w), mode=filter, antialias=True, align_corners=False)
    return nhwc(y)


def result(expression, inputs, p):
    """The value of a case's expression: of the inputs x, y, z, together `inputs`, and the parameters p."""
    names = dict(zip("xyz", inputs, strict=False), inputs=inputs, p=p)
    return eval(expression, globals(), names)  # the expressions are in tests/common/operations.rs


def sampled(x):
    x = x.detach().flatten()
    if len(x) > SAMPLES:
        x = x[torch.tensor([j * 2654435761 % len(x) for j in range(SAMPLES)])]
    return x.numpy().astype(np.float32)


def main():
    golden = {}
    for case in cases():
        name = case["name"]
        inputs = [
            fill(f"{name}/{i}", x["shape"], x["kind"], x["scale"], x["shift"])
            for i, x in enumerate(case["inputs"])
        ]
        wrt = [x.requires_grad_() for x in inputs[: case["wrt"]]]
        y = result(case["torch"], inputs, case["params"])
        golden[f"{name}/y"] = sampled(y)
        if wrt:
            dy = fill(f"{name}/dy", y.shape, "Randn")
            for i, dx in enumerate(torch.autograd.grad(y, wrt, dy)):
                golden[f"{name}/dx{i}"] = sampled(dx)
    path = ROOT / "tests/golden/ops.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(golden, path)
    print(f"{path.relative_to(ROOT)}: {len(golden)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
