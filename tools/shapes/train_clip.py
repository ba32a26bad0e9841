"""Trains both CLIP towers with InfoNCE on (scene, caption) pairs, and with throw-away heads that name attributes.

A caption may be true of several scenes of its batch (captions leave things out); such pairs are neither positives nor
negatives but masked. The throw-away linear heads (size, colour, shape, place, ground from the pooled features, and
colour and shape of the second object) speed up learning and are not shipped.
"""
from pathlib import Path

import captions
import models
import numpy as np
import torch
import torch.nn.functional as F
import world
from loop import fit
from tokens import Encoder

BATCH = 96
CLASSES = [2, 3, 8, 6, 7, 2, 3, 8, 6, 7, 8]  # per column of a description


class QuickGelu(torch.nn.Module):
    """x sigmoid(1.702 x) through the fused SiLU."""

    def forward(self, x):
        return F.silu(1.702 * x) * (1 / 1.702)


def quicken(clip):
    """The same functions by faster routes: on a CPU the plain attention products beat the fused kernel."""
    clip.set_attn_implementation("eager")
    for tower in (clip.text_model, clip.vision_model):
        for layer in tower.encoder.layers:
            layer.mlp.activation_fn = QuickGelu()


class Trainee(torch.nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.clip = models.clip(vocabulary)
        quicken(self.clip)
        self.see = torch.nn.Linear(128, sum(CLASSES))
        self.read = torch.nn.Linear(128, sum(CLASSES))


def naming_loss(logits, target):
    """Cross-entropy over the attributes that are given; columns of a description are separate softmaxes."""
    parts = logits.float().split(CLASSES, 1)
    return sum(F.cross_entropy(p, t, ignore_index=-1) for p, t in zip(parts, target.T) if (t >= 0).any()) / len(CLASSES)


def ordered(truth):
    """Facts with the two objects in a fixed order (by shape, colour, size), so that a head can name them."""
    key = truth[:, [3, 8]] * 100 + truth[:, [2, 7]] * 10 + truth[:, [1, 6]]
    swap = (truth[:, 5] == 1) & (key[:, 0] > key[:, 1])
    out = truth.copy()
    out[swap, :10] = truth[swap][:, [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]]
    out[:, [0, 5]] = np.maximum(out[:, [0, 5]], 0)
    return out


def train(out, assets, seed, minutes):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed + 1 + int(torch.randint(0, 2**31, ()).item()))
    encoder = Encoder(assets)
    model = Trainee(len(encoder))

    def loss_of(step, share):
        scenes = world.sample(BATCH, rng)
        truth = captions.facts(scenes)
        said = captions.describe(scenes, rng, full=0.6)
        pixels = models.normalise(world.render(scenes))
        with torch.autocast("cpu", torch.bfloat16):
            seen = model.clip.vision_model(pixel_values=pixels).pooler_output
            read = model.clip.text_model(input_ids=encoder(captions.write(said, rng))).pooler_output
            image, text = model.clip.visual_projection(seen), model.clip.text_projection(read)
            naming = naming_loss(model.see(seen), torch.as_tensor(ordered(truth)))
            naming = naming + naming_loss(model.read(read), torch.as_tensor(np.maximum(said, [0] + [-1] * 4 + [0] + [-1] * 5)))
        logits = F.normalize(text.float(), dim=-1) @ F.normalize(image.float(), dim=-1).T * model.clip.logit_scale.exp().clamp(max=100)
        other = torch.as_tensor(captions.agree(said, truth)) & ~torch.eye(BATCH, dtype=torch.bool)
        logits = logits.masked_fill(other, -1e4)
        target = torch.arange(BATCH)
        nce = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
        top1 = (logits.argmax(1) == target).float().mean()
        return nce + naming, {"nce": nce.detach(), "naming": naming.detach(), "top1": top1}

    return fit("clip", model, loss_of, minutes, out, lr=1.5e-3, decay=0.995, wd=0.05)


def load(out, assets):
    """The two towers, without the throw-away heads, or the shipped ones if OUT has none."""
    if not (Path(out) / "clip.pt").exists():
        model = models.clip(len(Encoder(assets)))
        model.load_state_dict(models.shipped(assets, "clip"))
        return model.eval().requires_grad_(False)
    model = Trainee(len(Encoder(assets)))
    model.load_state_dict(torch.load(f"{out}/clip.pt", weights_only=True)["ema"])
    clean = models.clip(len(Encoder(assets)))
    clean.load_state_dict(model.clip.state_dict())
    return clean.eval().requires_grad_(False)
