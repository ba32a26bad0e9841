"""Trains the autoencoder on fresh scenes: squared and absolute error, an edge term, and a whisper of KL.

Errors near an object count as much as those of the whole picture, whatever the object's size: otherwise flat ground is
most of the loss, and a small star comes out as a blob long after the mean error looks good.
"""
from pathlib import Path

import models
import numpy as np
import torch
import torch.distributed as dist
import world
from loop import fit

BATCH = 32  # of all workers together
KL = 1e-7  # per nat and picture


def edges(x):
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def train(out, assets, seed, minutes, tune):
    """`tune` starts from the weights in `assets` instead of random ones."""
    torch.manual_seed(seed)
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    model = models.vae()
    if tune:
        model.load_state_dict(models.shipped(assets, "vae"))
    again = int((Path(out) / "vae.pt").stat().st_mtime) if (Path(out) / "vae.pt").exists() else 0  # new draws on resuming
    rng = np.random.default_rng([seed, rank, again])
    torch.manual_seed(int(rng.integers(1 << 62)))

    def loss_of(step, share):
        scenes = world.sample(BATCH // workers, rng)
        x = world.render(scenes) * 2 - 1
        near = world.near_objects(scenes)
        weight = 1 + (near / near.mean((2, 3), keepdim=True).clamp(min=1e-3)).sum(1, keepdim=True)
        with torch.autocast("cpu", torch.bfloat16):
            latent = model.encode(x).latent_dist
            y = model.decode(latent.sample()).sample
        y = y.float()
        kl = latent.kl().float().mean()
        flat = ((y - x).abs() * weight).mean()
        square = ((y - x).square() * weight).mean()
        edge = sum(((a - b).abs() * w).mean() for a, b, w in zip(edges(y), edges(x), (weight[:, :, 1:], weight[..., 1:])))
        psnr = 10 * torch.log10(4 / (y.detach().clamp(-1, 1) - x).square().mean())
        return flat + 4 * square + edge + KL * kl, {"psnr": psnr, "edge": edge.detach(), "kl": kl, "std": latent.mean.detach().float().std(), "noise": latent.std.detach().float().mean()}

    return fit("vae", model, loss_of, minutes, out, lr=1e-3 if tune else 2e-3, decay=0.998)


SCALE = 0.18215  # SD 1.x's scaling factor; shipped latents have the standard deviation that makes it right


def load(out, assets):
    """The trained autoencoder with its latents standardised per channel, or the shipped one if OUT has none.

    Shift and scale are folded into the two 1x1 convolutions around the latents, which changes no decoded image;
    every channel then has mean 0 and standard deviation 1 / SCALE over scenes.
    """
    model = models.vae()
    model.register_to_config(scaling_factor=SCALE)
    if not (Path(out) / "vae.pt").exists():
        model.load_state_dict(models.shipped(assets, "vae"))
        return model.eval().requires_grad_(False)
    model.load_state_dict(torch.load(f"{out}/vae.pt", weights_only=True)["ema"])
    model.eval().requires_grad_(False)
    stats = Path(out) / "vae-stats.pt"  # kept, because the UNet is trained for exactly these latents
    with torch.no_grad():
        if not stats.exists():
            images = world.render(world.sample(1024, np.random.default_rng(1)))
            latents = torch.cat([model.encode(x * 2 - 1).latent_dist.mean for x in images.split(64)]).transpose(0, 1).flatten(1)
            torch.save((latents.mean(1), 1 / (SCALE * latents.std(1))), stats)
        mean, scale = torch.load(stats, weights_only=True)
        before, after = model.quant_conv, model.post_quant_conv
        before.weight.mul_(torch.cat([scale, torch.ones(4)])[:, None, None, None])
        before.bias.copy_(torch.cat([(before.bias[:4] - mean) * scale, before.bias[4:] + 2 * scale.log()]))
        after.bias.add_(after.weight[:, :, 0, 0] @ mean)
        after.weight.div_(scale[None, :, None, None])
    return model
