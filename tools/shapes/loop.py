"""The training loop shared by all networks: a schedule in wall-clock time, EMA, checkpoints, resuming.

The learning rate is a function of the share of the time budget that is spent (linear warm-up over 2 %, then a
cosine to 2 %), so a slow or busy machine trains for fewer steps but still anneals. Several workers, one thread each,
average their gradients in every step; on busy cores that is much faster than one process with several threads.
"""
import copy
import math
import time
from pathlib import Path

import torch
import torch.distributed as dist


def agree(params, share):
    """Averages the gradients of all workers in place; returns the mean share, so that they stay in step."""
    if not dist.is_initialized():
        return share
    flat = torch.cat([p.grad.flatten() for p in params] + [torch.tensor([share])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, g in zip(params, flat.split([p.numel() for p in params] + [1])):
        p.grad.copy_(g.view_as(p))
    return float(flat[-1])


def fit(name, model, loss_of, minutes, out, lr, decay=0.999, wd=0.01, clip=1.0, save_every=180, on_save=None):
    """Minimises loss_of(step, share) -> (loss, dict of figures to print); returns the EMA copy of `model`.

    `model` may hold throw-away parts. A checkpoint OUT/NAME.pt is written every `save_every` seconds; where one
    exists, training goes on from it and the time it had used counts.
    """
    path = Path(out) / f"{name}.pt"
    params = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.99), weight_decay=wd, fused=True)
    ema = copy.deepcopy(model).requires_grad_(False)
    step, used = 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        opt.load_state_dict(state["opt"])
        step, used = state["step"], state["used"]
    lead = not dist.is_initialized() or dist.get_rank() == 0
    begin = saved = printed = time.time()
    budget = minutes * 60
    model.train()
    sums, count = {}, 0
    while True:
        share = (used + time.time() - begin) / budget
        loss, figures = loss_of(step, share)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        share = agree(params, share)
        spent = share * budget
        rate = lr * min(1.0, share / 0.02 + 0.01) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share, 1))))
        for group in opt.param_groups:
            group["lr"] = rate
        torch.nn.utils.clip_grad_norm_(params, clip)
        opt.step()
        step += 1
        keep = min(decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), [p.detach() for p in model.parameters()], 1 - keep)
        for k, v in {"loss": loss.detach(), **figures}.items():
            sums[k] = sums.get(k, 0.0) + float(v)
        count += 1
        now = time.time()
        if lead and (now - printed > 30 or share >= 1):
            line = " ".join(f"{k} {v / max(count, 1):.4f}" for k, v in sums.items())
            print(f"{name} step {step} {spent / 60:.1f} min {line}", flush=True)
            sums, count, printed = {}, 0, now
        if lead and (now - saved > save_every or share >= 1):
            state = {"model": model.state_dict(), "ema": ema.state_dict(), "opt": opt.state_dict(), "step": step, "used": spent}
            torch.save(state, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
            saved = now
            if on_save:
                on_save(ema, step, spent)
        if share >= 1:
            return ema
