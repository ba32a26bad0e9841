"""Trains the autoencoder on fresh scenes: squared and absolute error, an edge term, and a whisper of KL."""
import numpy as np
import torch

import models
import world
from loop import fit

BATCH = 32


def edges(x):
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def train(out, seed, minutes):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed + int(torch.randint(0, 2**31, ()).item()))
    model = models.vae()

    def loss_of(step, share):
        x = world.render(world.sample(BATCH, rng)) * 2 - 1
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


def load(out):
    """The trained autoencoder, its scaling factor set to one over the latents' standard deviation."""
    model = models.vae()
    model.load_state_dict(torch.load(f"{out}/vae.pt", weights_only=True)["ema"])
    model.eval().requires_grad_(False)
    with torch.no_grad():
        images = world.render(world.sample(512, np.random.default_rng(1)))
        std = torch.cat([model.encode(x * 2 - 1).latent_dist.sample() for x in images.split(64)]).std().item()
    model.register_to_config(scaling_factor=round(1 / std, 5))
    return model
