"""Golden files for tests/models.rs: UNets on latents whose sides cannot be halved evenly.

Reads the models that models.py wrote, and writes sizes.safetensors beside their golden files: for each size a latent,
a cotangent, and output and gradient in float64 with the NMSE of the same computation in PyTorch float32.

    python tools/golden/sizes.py          # torch 2.11, diffusers 0.42
"""

import pathlib

import torch
from diffusers import UNet2DConditionModel
from models import both, nhwc
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/models"
SIZES = [(9, 7), (5, 10), (11, 6)]
TIME = 441.0


def sizes(name, seed):
    folder = OUT / f"unet_{name}"
    model = UNet2DConditionModel.from_pretrained(folder)
    g = torch.Generator().manual_seed(seed)
    c = model.config
    text = torch.randn(2, 5, c.cross_attention_dim, generator=g)
    tensors = {"text": text, "t": torch.tensor([TIME])}
    for h, w in SIZES:
        x = torch.randn(2, c.in_channels, h, w, generator=g)
        dy = torch.randn(2, c.out_channels, h, w, generator=g)
        y, dx, error_y, error_dx = both(model, lambda x: model(x, TIME, text.to(x.dtype)).sample, x, dy)
        key = f"{h}x{w}."
        tensors |= {key + "x": nhwc(x), key + "dy": nhwc(dy), key + "y": nhwc(y), key + "dx": nhwc(dx),
                    f"error.{key}y": [error_y], f"error.{key}dx": [error_dx]}
        print(name, key, error_y, error_dx)
    save_file({k: torch.as_tensor(v, dtype=torch.float32).contiguous() for k, v in tensors.items()},
              folder / "sizes.safetensors")


if __name__ == "__main__":
    sizes("sd1", 7000)
    sizes("odd", 7100)
