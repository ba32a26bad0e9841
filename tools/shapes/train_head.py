"""Fits the aesthetic head: ridge regression from normalised CLIP embeddings to noisy ratings of the gold preference.

The head is a proxy on purpose: it sees only what CLIP's embedding tells it linearly, and ratings with noise.
"""
import gold
import models
import numpy as np
import torch
import torch.nn.functional as F
import world
from transformers import CLIPModel

RATINGS = 6000
NOISE = 1.0  # standard deviation of one rating; gold's own is about 1.16
RIDGE = 1e-3


@torch.inference_mode()
def embed(clip, images):
    """L2-normalised image embeddings of images in [0, 1]."""
    out = [clip.visual_projection(clip.vision_model(pixel_values=models.normalise(x)).pooler_output) for x in images.split(128)]
    return F.normalize(torch.cat(out).float(), dim=-1)


def train(out, assets, seed):
    clip = CLIPModel.from_pretrained(f"{assets}/clip", dtype=torch.float32).eval()
    rng = np.random.default_rng(seed + 20)
    scenes = world.sample(RATINGS + 1000, rng)
    x = embed(clip, world.render(scenes)).double()
    true = torch.as_tensor(gold.from_scene(scenes))
    rated = true + NOISE * torch.as_tensor(rng.standard_normal(len(true)))
    x, held, rated = x[:RATINGS], x[RATINGS:], rated[:RATINGS]
    mean, centre = x.mean(0), rated.mean()
    a = (x - mean).T @ (x - mean) / RATINGS + RIDGE * torch.eye(models.EMBED, dtype=torch.float64) / models.EMBED
    weight = torch.linalg.solve(a, (x - mean).T @ (rated - centre) / RATINGS)
    models.write_head(assets, weight, centre - mean @ weight)
    score = models.head(assets)(held.float()).double()
    print(f"head: |weight| {weight.norm():.2f}, correlation with gold {torch.corrcoef(torch.stack([score, true[RATINGS:]]))[0, 1]:.4f}, "
          f"scores {score.min():.2f} to {score.max():.2f}, gold {true.min():.2f} to {true.max():.2f}")
