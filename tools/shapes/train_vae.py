"""Trains the autoencoder on fresh scenes: squared and absolute error, an edge term, and a whisper of KL."""
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import models
import world
from loop import fit

BATCH = 32  # of all workers together


def edges(x):
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def train(out, seed, minutes):
    torch.manual_seed(seed)
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    model = models.vae()
    again = int((Path(out) / "vae.pt").stat().st_mtime) if (Path(out) / "vae.pt").exists() else 0  # new draws on resuming
    rng = np.random.default_rng([seed, rank, again])
    torch.manual_seed(int(rng.integers(1 << 62)))

    def loss_of(step, share):
        x = world.render(world.sample(BATCH // workers, rng)) * 2 - 1
        with torch.autocast("cpu", torch.bfloat16):
            latent = model.encode(x).latent_dist
            y = model.decode(latent.sample()).sample
        y = y.float()
        kl = latent.kl().float().mean()
        flat = (y - x).abs().mean()
        square = (y - x).square().mean()
        edge = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x)))
        psnr = 10 * torch.log10(4 / (y.detach().clamp(-1, 1) - x).square().mean())
        return flat + 4 * square + edge + 1e-6 * kl, {"psnr": psnr, "kl": kl, "std": latent.mean.detach().float().std()}

    return fit("vae", model, loss_of, minutes, out, lr=2e-3, decay=0.998)


STD = 1 / 0.18215  # of the shipped latents, so that SD 1.x's scaling factor is the right one


def load(out):
    """The trained autoencoder with its latents standardised per channel.

    Shift and scale are folded into the two 1x1 convolutions around the latents, which changes no decoded image;
    every channel then has mean 0 and standard deviation STD over scenes.
    """
    model = models.vae()
    model.load_state_dict(torch.load(f"{out}/vae.pt", weights_only=True)["ema"])
    model.eval().requires_grad_(False)
    stats = Path(out) / "vae-stats.pt"  # kept, because the UNet is trained for exactly these latents
    with torch.no_grad():
        if not stats.exists():
            images = world.render(world.sample(1024, np.random.default_rng(1)))
            latents = torch.cat([model.encode(x * 2 - 1).latent_dist.mean for x in images.split(64)]).transpose(0, 1).flatten(1)
            torch.save((latents.mean(1), STD / latents.std(1)), stats)
        mean, scale = torch.load(stats, weights_only=True)
        before, after = model.quant_conv, model.post_quant_conv
        before.weight.mul_(torch.cat([scale, torch.ones(4)])[:, None, None, None])
        before.bias.copy_(torch.cat([(before.bias[:4] - mean) * scale, before.bias[4:] + 2 * scale.log()]))
        after.bias.add_(after.weight[:, :, 0, 0] @ mean)
        after.weight.div_(scale[None, :, None, None])
    model.register_to_config(scaling_factor=0.18215)
    return model
