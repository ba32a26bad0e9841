"""The operations of `cuda --check list` in PyTorch, and what the GPU can do at best.

    torch_ops.py CASES --device cuda --seconds 60      # CASES: a file with a line of JSON for each

bf16 where das-cuda has bf16, f32 for latents and pictures. Images are channels last, the order in memory that
das-cuda has too; a group norm is tried both ways and the better counts. A line of JSON for each result."""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from torch_time import Timer


def say(**line):
    print(json.dumps(line), flush=True)


def ceilings(timer, device, tiny):
    side, count = (256, 1 << 16) if tiny else (8192, 1 << 30)
    with timer.scope():
        a = torch.randn(count // 64, device=device).bfloat16().repeat(64)
        b = torch.empty_like(a)
        line = timer.time(lambda: b.copy_(a))
        say(kind="torch_copy", bytes=4 * a.numel(), **line)
        a = b = None
        x, y = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
        say(kind="torch_matmul", flops=2 * side**3, side=side, **timer.time(lambda: x @ y))


class Case:
    """Inputs and the forward function of a case. `wrt` of the inputs have a gradient."""

    def __init__(self, case, device):
        self.op, self.params, self.shapes = case["op"], case["params"] or {}, case["inputs"]
        self.device, self.wrt = device, case["wrt"]
        self.inputs = [self.make(i, shape) for i, shape in enumerate(self.shapes)]
        for x in self.inputs[: self.wrt]:
            x.requires_grad_(True)

    def make(self, i, shape):
        n, h, w, c = shape
        # What is no whole packet of eight is f32 in das-cuda too; products of it are 16-bit in both programs.
        dtype = torch.bfloat16 if c % 8 == 0 or self.op == "conv" else torch.float32
        scale = (h * w * c) ** -0.5 if i == 1 and self.op in ("linear", "linear_epilogue", "conv") else 1.0
        x = (torch.randn(n, h, w, c, device=self.device) * scale).to(dtype)
        vector = i > 0 and n * h * w == 1
        if vector and self.op in ("linear", "linear_epilogue", "conv", "group_norm", "layer_norm", "channel_affine"):
            return x.flatten()
        if self.op in ("linear", "linear_epilogue"):
            return x.reshape(-1, c)
        # (n, c, h, w), channels last in memory.
        return x.permute(0, 3, 1, 2) if self.op in ("conv", "group_norm", "resize", "concat") else x

    def forward(self):
        x, p = self.inputs[0] if self.inputs else None, self.params
        more = self.inputs[1:]
        if self.op == "linear":
            y = F.linear(x, more[0], more[1] if p["bias"] else None)
            return y + more[-1] if p["add"] else y
        if self.op == "linear_epilogue":
            y = F.linear(x, more[0], more[1] if p["bias"] else None)
            if p["epilogue"] == "Geglu":
                a, gate = y.chunk(2, -1)
                return a * F.gelu(gate)
            return y * torch.sigmoid(1.702 * y) if p["epilogue"] == "Activate(QuickGelu)" else F.silu(y)
        if self.op == "conv":
            if p["upsample"]:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            y = F.conv2d(x, more[0], more[1] if p["bias"] else None, p["stride"], p["pad"][0])
            return y + more[-1] if p["add"] else y
        if self.op == "group_norm":
            y = F.group_norm(x, p["groups"], more[0], more[1], p["eps"])
            return F.silu(y) if p["silu"] else y
        if self.op == "layer_norm":
            return F.layer_norm(x, x.shape[-1:], more[0], more[1], p["eps"])
        if self.op == "l2_norm":
            return F.normalize(x, dim=-1)
        if self.op == "self_attention":
            q, k, v = self.heads(x, 3)
            return F.scaled_dot_product_attention(q, k, v, is_causal=p["causal"], scale=p["scale"]).transpose(1, 2)
        if self.op == "cross_attention":
            if not hasattr(self, "kv"):
                self.kv = self.heads(more[0][torch.tensor(p["kv_of"], device=self.device)], 2)
            q = self.heads(x, 1)[0]
            return F.scaled_dot_product_attention(q, *self.kv, scale=p["scale"]).transpose(1, 2)
        if self.op == "activate":
            if p["f"] == "QuickGelu":
                return x * torch.sigmoid(1.702 * x)
            return F.gelu(x) if p["f"] == "Gelu" else F.silu(x)
        if self.op == "geglu":
            a, gate = x.chunk(2, -1)
            return a * F.gelu(gate)
        if self.op == "axpby":
            return x + more[0] if p["a"] == p["b"] == 1 else p["a"] * x + p["b"] * more[0]
        if self.op == "blend":
            return more[1][..., 0] * x + more[1][..., 1] * more[0]
        if self.op == "scale":
            return p["a"] * x
        if self.op == "affine_clamp":
            return (p["a"] * x + p["b"]).clamp(p["lo"], p["hi"])
        if self.op == "soft_clamp":
            return p["limit"] * torch.tanh(x / p["limit"])
        if self.op == "channel_affine":
            return x * more[0] + more[1] if len(more) > 1 else x * more[0]
        if self.op == "concat":
            return torch.cat([x, more[0]], 1)
        if self.op == "repeat":
            return x.repeat(p["times"], 1, 1, 1)
        if self.op == "cfg_combine":
            u, c = x.chunk(2)
            return u + p["s"] * (c - u)
        if self.op == "resize":
            return F.interpolate(x, size=(p["h"], p["w"]), mode=p["filter"], antialias=True)
        if self.op == "embed":
            n, h, w, c = x.shape
            token = more[1].expand(n, 1, 1, c).reshape(n, 1, c) if len(more) > 1 else x.new_zeros(n, 0, c)
            return torch.cat([token, x.reshape(n, h * w, c)], 1) + more[0].reshape(-1, c)
        if self.op == "take_token":
            return x[:, :, 0]
        if self.op == "gather":
            if not hasattr(self, "rows"):
                self.rows = torch.tensor(p["rows"], device=self.device)
            return x.index_select(0, self.rows)
        if self.op == "advance":
            if not hasattr(self, "rows"):
                self.rows = torch.arange(len(x), device=self.device)
            x0, eps, grad = (t.index_select(0, self.rows) for t in self.inputs)
            z = torch.randn_like(x0)
            ratio = -0.5 * grad.flatten(1).square().sum(1) - (grad * z).flatten(1).sum(1)
            return 0.75 * x0 - 0.375 * eps + 0.3 * grad + 0.5 * z, ratio
        if self.op == "squared_norms":
            return x.flatten(1).double().square().sum(1)
        return None

    def heads(self, x, parts):
        n, h, w, c = x.shape
        heads = self.params["heads"]
        return x.reshape(n, h * w, parts, heads, c // parts // heads).permute(2, 0, 3, 1, 4).unbind(0)

    def vjp(self):
        """A function that runs the transpose, or None."""
        trivial = ("axpby", "gather", "advance", "squared_norms")
        if not self.wrt or self.op in trivial:
            return None
        y = self.forward()
        dy, inputs = torch.randn_like(y), self.inputs[: self.wrt]
        return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)

    def contiguous(self):
        """The other order in memory."""
        with torch.no_grad():
            self.inputs = [x.contiguous() for x in self.inputs]
        for x in self.inputs[: self.wrt]:
            x.requires_grad_(True)
        return self


def measure(timer, case, device):
    def both(ready):
        with torch.no_grad():
            forward = timer.time(ready.forward)
        back = ready.vjp()
        return forward, back and timer.time(back)

    with timer.scope():
        ready = Case(case, device)
        if ready.inputs and ready.op != "normals":
            times = both(ready)
            if ready.op == "group_norm":
                other = both(ready.contiguous())
                times = [min(pair, key=lambda t: t["ms"]) for pair in zip(times, other)]
        else:
            shape = case["shape"] if "shape" in case else [16, 64, 64, 4]
            times = timer.time(lambda: torch.randn(shape, device=device)), None
    for vjp, line in enumerate(times):
        if line:
            say(kind="torch_op", label=case["label"], op=case["op"], vjp=bool(vjp), **line)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="?", help="without it only the ceilings are measured")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget-ms", type=float, default=60)
    parser.add_argument("--seconds", type=float, default=1e9, help="nothing is begun after these")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    torch.manual_seed(1)
    torch.backends.cudnn.benchmark = True
    timer = Timer(args.device, args.budget_ms)
    if not args.cases:
        ceilings(timer, args.device, args.device == "cpu")
        return
    for text in open(args.cases):
        case = json.loads(text)
        if time.monotonic() > end:
            say(kind="torch_op", label=case["label"], op=case["op"], error="no time left")
            continue
        try:
            measure(timer, case, args.device)
        except (RuntimeError, NotImplementedError) as error:
            say(kind="torch_op", label=case["label"], op=case["op"], error=str(error).splitlines()[0])
        if args.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
