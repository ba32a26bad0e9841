"""Golden file of the reward `jpeg-proxy` (docs/spec.md 7.8): tests/golden/jpeg_proxy.safetensors.

Scores and gradients in float64, by PyTorch, from the definition: colours, blocks and the cosine transform one after
another, not as one convolution. The pictures are those of tests/golden/rewards.safetensors; the quantisation tables are
read from a JPEG of Pillow's. Run from the repository root:

    python tools/golden/jpeg_proxy.py
    python tools/golden/jpeg_proxy.py --ranks DIR   # rank correlation with the true sizes
    python tools/golden/jpeg_proxy.py --fit DIR...  # the least-squares fit of the three numbers of bits

DIR of --ranks holds runs of `das-cuda sample` with the rewards `jpeg` and `jpeg-proxy` (docs/spec.md 7.8); those of
--fit hold pictures.
"""
import argparse
import io
import json
import math
import pathlib

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from scipy.stats import spearmanr

FIRST, DOUBLING, BLOCK, HEADER = 4.4, 1.9, 9.3, 623
WITH_GRADIENT = [3, 4, 6, 7]


def jpeg(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95)
    return file


def tables():
    """Of luma and chroma, by rows. Pillow undoes the zigzag."""
    quantization = Image.open(jpeg(np.zeros((16, 16, 3), np.uint8))).quantization
    return [torch.tensor(quantization[i], dtype=torch.float64).reshape(8, 8) for i in (0, 1)]


def coefficients(x):
    """Quantised coefficients of the blocks of Y, Cb and Cr; `x` is (h, w, 3) in [0, 1]."""
    h, w, _ = x.shape
    rows, columns = torch.arange(h + -h % 16).clamp(max=h - 1), torch.arange(w + -w % 16).clamp(max=w - 1)
    r, g, b = (255 * (x[rows][:, columns] - 0.5)).unbind(-1)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    cb, cr = (b - luma) / 1.772, (r - luma) / 1.402
    u = torch.arange(8, dtype=torch.float64)
    dct = torch.cos((2 * u[None] + 1) * u[:, None] * math.pi / 16) / 2
    dct[0] /= math.sqrt(2)
    halved = [torch.nn.functional.avg_pool2d(plane[None], 2)[0] for plane in (cb, cr)]
    for plane, table in zip([luma, *halved], [0, 1, 1]):
        blocks = plane.unfold(0, 8, 8).unfold(1, 8, 8)
        c = dct @ blocks @ dct.T
        means = c[..., 0, 0]
        before = torch.nn.functional.pad(means, (1, 0))[:, :-1]
        first = torch.zeros(8, 8, dtype=torch.float64)
        first[0, 0] = 1
        yield (c - first * before[..., None, None]) / TABLES[table]


def features(x):
    """Sums over coefficients of the first unit and of the doublings, and the blocks."""
    first, doublings, blocks = 0, 0, 0
    for q in coefficients(x):
        size = q * torch.erf(q / math.sqrt(2))
        pieces = [((size - (2**k - 1)) / 2**k).clamp(0, 1).sum() for k in range(11)]
        first, doublings, blocks = first + pieces[0], doublings + sum(pieces[1:]), blocks + q.shape[0] * q.shape[1]
    return first, doublings, blocks


def score(x):
    first, doublings, blocks = features(x)
    return -(HEADER + (FIRST * first + DOUBLING * doublings + BLOCK * blocks) / 8) / 1000


def golden():
    tensors, rewards = {}, load_file("tests/golden/rewards.safetensors")
    for i in range(8):
        x = torch.tensor(rewards[f"jpeg.{i}.picture"] / 255.0, requires_grad=True)
        value = score(x)
        value.backward()
        tensors[f"{i}.score"] = np.array([value.item()])
        if i in WITH_GRADIENT:
            tensors[f"{i}.gradient"] = x.grad.numpy().astype(np.float32)
    save_file(tensors, "tests/golden/jpeg_proxy.safetensors")


def ranks(folder):
    lines = [line for file in sorted(pathlib.Path(folder).glob("*/particles.jsonl")) for line in file.open()]
    scores = [{**particle["rewards"], **particle["eval_rewards"]} for particle in map(json.loads, lines)]
    true, proxy = ([score[name] for score in scores] for name in ("jpeg", "jpeg-proxy"))
    ratio = np.array(proxy) / np.array(true)
    print(f"{len(scores)} pictures of {-max(true):.2f} to {-min(true):.2f} kB: Spearman {spearmanr(true, proxy)[0]:.4f}, "
          f"proxy / true {ratio.min():.3f} to {ratio.max():.3f}")


def fit(folders):
    files = [file for folder in folders for file in sorted(pathlib.Path(folder).rglob("*.png"))]
    pictures = [np.array(Image.open(file).convert("RGB")) for file in files]
    with torch.no_grad():
        table = np.array([[float(value) for value in features(torch.tensor(p / 255.0))] for p in pictures])
    sizes = np.array([jpeg(picture).tell() - HEADER for picture in pictures])
    # Relative errors.
    bits, *_ = np.linalg.lstsq(table / sizes[:, None], 8 * np.ones(len(sizes)), rcond=None)
    print(f"{len(files)} pictures: first {bits[0]:.2f}, doubling {bits[1]:.2f}, block {bits[2]:.2f} bits")


TABLES = tables()

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks")
    parser.add_argument("--fit", nargs="+")
    arguments = parser.parse_args()
    if arguments.ranks:
        ranks(arguments.ranks)
    elif arguments.fit:
        fit(arguments.fit)
    else:
        golden()
