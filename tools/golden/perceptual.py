"""Distances of the package lpips, for tests/lpips.rs: tests/golden/lpips.json.

AlexNet (torchvision's) and the weights of its channels hold numbers of a hash, which the test computes again, so
that no weights need be kept. Everything is computed in float64. Run from the repository root:
python tools/golden/perceptual.py
"""

import json
import pathlib

import lpips
import numpy as np
import torch

OUT = pathlib.Path("tests/golden/lpips.json")
# Width and height of the pictures; their channels are numbers of the hash too, smoothed by blocks.
SIZES = [(224, 224), (224, 224), (64, 64), (300, 200)]


def hashed(stream, count):
    """Numbers in [0, 1): splitmix64 of the stream and the place."""
    with np.errstate(over="ignore"):
        z = np.arange(count, dtype=np.uint64) + np.uint64(stream << 40)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**24


def fill(tensor, stream, spread, middle):
    values = middle + spread * (2 * hashed(stream, tensor.numel()) - 1)
    tensor.data = torch.from_numpy(values.astype(np.float32).astype(np.float64)).reshape(tensor.shape)


def picture(number):
    """(1, 3, h, w) of bytes over 255: blocks of 16 x 16 pixels."""
    width, height = SIZES[number]
    rows, columns = -(-height // 16), -(-width // 16)
    blocks = np.floor(hashed(100 + number, rows * columns * 3) * 256).reshape(rows, columns, 3)
    pixels = np.repeat(np.repeat(blocks, 16, 0), 16, 1)[:height, :width] / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def main():
    net = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).double().eval()
    convs = [m for m in net.net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) == 5
    for i, conv in enumerate(convs):
        fan = conv.weight[0].numel()
        fill(conv.weight, 2 * i, (6 / fan) ** 0.5, 0.0)
        fill(conv.bias, 2 * i + 1, 0.1, 0.0)
    for i in range(5):
        fill(getattr(net, f"lin{i}").model[-1].weight, 20 + i, 0.5, 0.5)
    seen = []
    for number in range(len(SIZES)):
        x = picture(number)
        if x.shape[-2:] != (224, 224):
            x = torch.nn.functional.interpolate(x, (224, 224), mode="bilinear", antialias=True)
        seen.append(x)
    pairs = []
    with torch.no_grad():
        for i in range(len(seen)):
            for j in range(i + 1, len(seen)):
                pairs.append([i, j, net(2 * seen[i] - 1, 2 * seen[j] - 1).item(), net(seen[i], seen[j]).item()])
    OUT.write_text(json.dumps({"lpips": "0.1", "sizes": SIZES, "pairs": pairs}) + "\n")


if __name__ == "__main__":
    main()
