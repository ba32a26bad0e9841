"""Trains the UNet on cached latents and fresh captions: noise prediction with min-SNR weights.

The captions are padded to the full context, as at sampling time, because cross-attention sees the padding. Every
eighth caption is replaced by the empty string, which is the unconditional branch of classifier-free guidance.
"""
from pathlib import Path

import captions
import models
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import train_clip
import train_vae
import world
from diffusers.models.attention_processor import AttnProcessor
from loop import fit
from tokens import Encoder

BATCH = 64  # of all workers together
SCENES = 48_000
PAIRS = 0.35  # of the scenes have two objects, more than in the world; captions always tell how many there are
GAMMA = 5.0  # min-SNR
EMPTY = 0.125


def cache(out, vae, seed, rank, workers):
    """Scaled latents of SCENES scenes, and the scenes; drawn again from the seed, encoded once, a part by each worker."""
    scenes = world.sample(SCENES, np.random.default_rng(seed + 10), PAIRS)
    paths = [Path(out) / f"latents-{k}-of-{workers}.pt" for k in range(workers)]
    if not paths[rank].exists():
        parts = []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for index in np.array_split(np.arange(SCENES)[rank::workers], SCENES // workers // 64):
                images = world.render(world.take(scenes, index))
                parts.append(vae.encode(images * 2 - 1).latent_dist.mean.float() * vae.config.scaling_factor)
        torch.save(torch.cat(parts), paths[rank])
    if dist.is_initialized():
        dist.barrier()
    latents = torch.empty(SCENES, 4, 8, 8)
    for k, path in enumerate(paths):
        latents[k::workers] = torch.load(path, weights_only=True)
    if rank == 0:
        print(f"{SCENES} latents, mean {latents.mean():.4f}, std {latents.std():.4f}", flush=True)
    return scenes, latents


def train(out, assets, seed, minutes, tune):
    """`tune` starts from the weights in `assets` instead of random ones."""
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    vae, clip = train_vae.load(out, assets), train_clip.load(out, assets)
    encoder, scheduler = Encoder(assets), models.load_scheduler(assets)
    torch.manual_seed(seed)
    model = models.unet()
    if tune:
        model.load_state_dict(models.shipped(assets, "unet"))
    scenes, latents = cache(out, vae, seed, rank, workers)
    if rank == 0:  # behind the workers' meeting in cache: all have read the folder
        models.export(assets, clip, vae)
    train_clip.quicken(clip)
    batch = BATCH // workers
    model.set_attn_processor(AttnProcessor())
    abar = scheduler.alphas_cumprod
    weight = (GAMMA * (1 - abar) / abar).clamp(max=1)
    again = int((Path(out) / "unet.pt").stat().st_mtime) if (Path(out) / "unet.pt").exists() else 0  # new draws on resuming
    rng = np.random.default_rng([seed + 2, rank, again])
    torch.manual_seed(int(rng.integers(1 << 62)))

    def loss_of(step, share):
        index = rng.integers(0, SCENES, batch)
        said = captions.describe(world.take(scenes, index), rng, full=0.7)
        texts = ["" if rng.random() < EMPTY else t for t in captions.write(said, rng)]
        x0 = latents[index]
        noise = torch.randn_like(x0)
        t = torch.randint(0, 1000, (batch,))
        a = abar[t][:, None, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                states = clip.text_model(input_ids=encoder(texts, models.CONTEXT)).last_hidden_state
            eps = model(a.sqrt() * x0 + (1 - a).sqrt() * noise, t, states).sample
        each = F.mse_loss(eps.float(), noise, reduction="none").mean((1, 2, 3))
        return (each * weight[t]).mean(), {"eps": each.detach().mean(), "high": each.detach()[t > 500].mean()}

    def keep(ema, step, spent):
        models.export(assets, unet_model=ema)

    return fit("unet", model, loss_of, minutes, out, lr=8e-4 if tune else 1e-3, decay=0.9985, wd=0.01, on_save=keep)


def load(out):
    model = models.unet()
    model.load_state_dict(torch.load(f"{out}/unet.pt", weights_only=True)["ema"])
    return model.eval().requires_grad_(False)
