"""The per-step work of the authors' program in PyTorch: UNet on both branches, guidance, decoder, CLIP, gradient.

    torch_step.py FOLDER --device cuda --seconds 80

Compares what das-cuda saw (look-*.safetensors in FOLDER) with float32, then measures the step. A line of JSON for
each result."""

import argparse
import contextlib
import json
import statistics
import time
from pathlib import Path

import torch
from torch_net import Models, read_safetensors


def say(**line):
    print(json.dumps(line), flush=True)


def autocast(device, on):
    return torch.autocast(device, dtype=torch.float16 if device == "cuda" else torch.bfloat16, enabled=on)


def images(x):
    """From (n, h, w, c)."""
    return x.permute(0, 3, 1, 2).contiguous()


def compare(models, folder, device):
    """What das-cuda saw and what PyTorch sees under autocast, both against PyTorch in float32."""
    looks = {p.stem.removeprefix("look-"): read_safetensors(p) for p in sorted(folder.glob("look-*.safetensors"))}
    if not looks:
        return None
    one = next(iter(looks.values()))
    step = {
        "t": one["t"].item(),
        "guidance": one["guidance"].item(),
        "eps_map": one["eps_map"].tolist(),
        "x0_map": one["x0_map"].tolist(),
    }
    text = models.text(one["ids"].long().to(device))
    for name, look in looks.items():
        x = images(look["x"]).to(device)
        truth = dict(zip(("eps", "x0", "reward", "grad"), models.look(x, text, step)))
        seen = {key: images(look[key]) if look[key].ndim == 4 else look[key] for key in truth}
        report("das-cuda " + name, seen, truth)
        if look is one:
            with autocast(device, True):
                seen = dict(zip(truth, models.look(x, text, step)))
            report("pytorch autocast", seen, truth)
    return x, text, step


def report(name, seen, truth):
    def flat(x):
        return x.detach().double().cpu().flatten()

    line = {}
    for key in ("eps", "x0", "grad"):
        a, b = flat(seen[key]), flat(truth[key])
        line[key + "_nmse"] = ((a - b).square().sum() / b.square().sum()).item()
    a, b = flat(seen["grad"]), flat(truth["grad"])
    line["grad_cosine"] = (a @ b / (a.norm() * b.norm())).item()
    line["reward_error"] = (flat(seen["reward"]) - flat(truth["reward"])).abs().max().item()
    line["reward"] = flat(truth["reward"]).tolist()
    say(kind="fidelity", what=name, **line)


def measure(models, variant, amp, x, text, step, device, chunk, rounds):
    x = x[:1].repeat(chunk, 1, 1, 1) + 0.01 * torch.randn(chunk, *x.shape[1:], device=device)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(rounds + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        with autocast(device, True) if amp else contextlib.nullcontext():
            reward = models.look(x, text, step)[2]
        reward.tolist()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    # The first finds its algorithms and its memory.
    ms = [1e3 * s / chunk for s in seconds[1:]]
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    say(
        kind="torch_step",
        variant=variant,
        chunk=chunk,
        ms_per_particle=statistics.median(ms),
        min=min(ms),
        max=max(ms),
        samples=len(ms),
        peak=peak,
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--chunks", default="2,16,1,4,8", help="in the order in which there may be no time left")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1e9, help="nothing is begun after these")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    device = args.device
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    start = time.perf_counter()
    models = Models(args.folder, device)
    say(kind="torch_load", seconds=time.perf_counter() - start, torch=torch.__version__)
    seen = compare(models, args.folder, device)
    if seen is None:
        raise SystemExit("torch_step.py: no look-*.safetensors in the folder: das-cuda's step comes first")
    x, text, step = seen
    half = torch.float16 if device == "cuda" else torch.bfloat16
    chunks = [int(c) for c in args.chunks.split(",")]

    def all_chunks(variant, amp, text):
        for chunk in chunks:
            if time.monotonic() > end:
                say(kind="torch_step", variant=variant, chunk=chunk, error="no time left")
                continue
            try:
                measure(models, variant, amp, x, text, step, device, chunk, args.rounds)
            except torch.OutOfMemoryError as error:
                say(kind="torch_step", variant=variant, chunk=chunk, error=str(error).splitlines()[0])

    # As the authors' program does it: the UNet and CLIP keep f32 weights, decoder and text encoder have f16
    # ones.
    torch.backends.cuda.matmul.allow_tf32 = False
    models.to(vae=half, text=half)
    all_chunks("authors: fp16 autocast", True, text.to(half))
    # As someone who knows PyTorch would: 16-bit weights, channels last, tuned convolutions.
    torch.backends.cudnn.benchmark = True
    half = torch.bfloat16
    models.to(unet=half, vae=half, text=half, vision=half, head=half).channels_last()
    all_chunks("tuned: bf16, channels last", False, text.to(half))


if __name__ == "__main__":
    main()
