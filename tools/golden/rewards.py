"""Golden file of the rewards: tests/golden/rewards.safetensors, and the figures quoted in the sources.

JPEG sizes are Pillow's; embeddings, scores and gradients are PyTorch's and transformers', in float64, of a tiny
CLIP with random weights. Run from the repository root: python tools/golden/rewards.py
"""
import io

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

OUT = "tests/golden/rewards.safetensors"


def pictures():
    """Pictures of several kinds and odd sizes: flat, smooth, shapes with edges, texture, noise."""
    rng = np.random.default_rng(7)
    for i, (h, w) in enumerate([(64, 64), (64, 64), (64, 64), (64, 64), (67, 45), (96, 128), (8, 8), (1, 1)]):
        y, x = np.mgrid[0:h, 0:w] / max(h, w)
        smooth = np.stack([0.5 + 0.4 * np.sin(3 * x + i), 0.3 + 0.5 * y, 0.5 + 0.4 * np.cos(4 * x * y)], -1)
        disc = ((x - 0.45) ** 2 + (y - 0.4) ** 2 < 0.06)[..., None] * np.array([0.9, -0.2, -0.4])
        noise = rng.standard_normal((h, w, 3))
        image = [
            0 * smooth + 0.4, smooth, smooth + disc, smooth + 0.05 * noise, smooth + disc + 0.02 * noise,
            0.2 * smooth + 3 * disc + 0.1 * noise, 0.5 + 0.3 * noise, smooth,
        ][i]
        yield np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)


def jpeg(tensors):
    for i, picture in enumerate(pictures()):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=95)  # Pillow's default is 4:2:0
        tensors[f"jpeg.{i}.picture"] = picture
        tensors[f"jpeg.{i}.bytes"] = np.array([file.tell()], np.int32)


if __name__ == "__main__":
    tensors = {}
    jpeg(tensors)
    save_file(tensors, OUT)
    print(f"{OUT}: {sum(t.nbytes for t in tensors.values())} bytes")
