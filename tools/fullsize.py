"""Models of full size with random weights, to time and compare one UNet and one VAE forward on the CPU.

    python tools/fullsize.py make sd15|sdxl FOLDER    # fp16 weights (2 GB, 5 GB) and inputs
    python tools/fullsize.py make clip FOLDER         # CLIP ViT-L/14, a head and pictures: cargo bench --bench rounding
    python tools/fullsize.py run FOLDER               # diffusers, float32: time, peak memory, torch.safetensors
    cargo bench --bench fullsize -- FOLDER            # the same with das-cuda, and how far apart they are

Nothing is downloaded, and nothing made here is committed.
"""

import argparse
import json
import pathlib
import resource
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from fullsize_rewards import CLIP_L
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

D, U, CD, CU = "DownBlock2D", "UpBlock2D", "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
UNET = {
    "sd15": dict(block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, attention_head_dim=8,
                 cross_attention_dim=768, down_block_types=(CD, CD, CD, D), up_block_types=(U, CU, CU, CU),
                 sample_size=64),
    "sdxl": dict(block_out_channels=(320, 640, 1280), layers_per_block=2, attention_head_dim=(5, 10, 20),
                 cross_attention_dim=2048, down_block_types=(D, CD, CD), up_block_types=(CU, CU, U),
                 transformer_layers_per_block=(1, 2, 10), use_linear_projection=True,
                 addition_embed_type="text_time", addition_time_embed_dim=256,
                 projection_class_embeddings_input_dim=2816, sample_size=128),
}
VAE = dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
           down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
SCALE = {"sd15": 0.18215, "sdxl": 0.13025}


def make(kind, folder):
    g = torch.Generator().manual_seed(1)
    parts = {"unet": (UNet2DConditionModel, UNET[kind]),
             "vae": (AutoencoderKL, VAE | dict(scaling_factor=SCALE[kind], sample_size=8 * UNET[kind]["sample_size"]))}
    for part, (cls, options) in parts.items():
        with torch.device("meta"):
            model = cls(**options)
        (folder / part).mkdir(parents=True, exist_ok=True)
        model.save_config(folder / part)
        weights = {}
        for name, p in model.state_dict().items():
            r = torch.randn(p.shape, generator=g)
            if p.ndim > 1:
                r *= p[0].numel() ** -0.5
            else:
                r = r * 0.1 + (1.0 if name.endswith("weight") else 0.0)
            weights[name] = r.half()
        save_file(weights, folder / part / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
        print(part, f"{sum(w.numel() for w in weights.values()) / 1e6:.3f} M parameters")
        del weights
    side = UNET[kind]["sample_size"]
    inputs = dict(x=torch.randn(1, 4, side, side, generator=g),
                  text=torch.randn(1, 77, UNET[kind]["cross_attention_dim"], generator=g))
    if kind == "sdxl":
        inputs["pooled"] = torch.randn(1, 1280, generator=g)
    save_file({k: (v.permute(0, 2, 3, 1) if v.ndim == 4 else v).contiguous() for k, v in inputs.items()},
              folder / "inputs.safetensors")


def make_clip(folder):
    """Weights whose layers neither fade nor outgrow the sum over the layers, and smooth pictures."""
    g = torch.Generator().manual_seed(1)
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(**CLIP_L))
    weights = {}
    for name, p in model.state_dict().items():
        if not p.is_floating_point():
            continue
        if p.ndim < 2:
            weights[name] = torch.full(p.shape, float(name.endswith("weight"))).half()
        else:
            scale = 0.02 if "embed" in name else 0.7 * p[0].numel() ** -0.5
            weights[name] = (torch.randn(p.shape, generator=g) * scale).half()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    head = {"layers.0.weight": torch.randn(1, 768, generator=g) * 0.3, "layers.0.bias": torch.zeros(1)}
    save_file(head, folder / "head.safetensors")
    for i in range(8):
        coarse = torch.rand(1, 3, 9, 9, generator=g)
        smooth = torch.nn.functional.interpolate(coarse, size=224, mode="bicubic").clamp(0, 1)
        pixels = (smooth[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"picture{i}.png")


def run(folder):
    """Loads, runs twice where that is cheap, keeps the outputs."""
    torch.set_grad_enabled(False)
    inputs = load_file(folder / "inputs.safetensors")
    x = inputs["x"].permute(0, 3, 1, 2).contiguous()
    pixels = 8.0 * x.shape[-1]
    added = None
    if "pooled" in inputs:
        added = dict(text_embeds=inputs["pooled"], time_ids=torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]]))
    out, report = {}, {"threads": torch.get_num_threads(), "torch": torch.__version__}
    parts = [("unet", UNet2DConditionModel, lambda m: m(x, 500.0, inputs["text"], added_cond_kwargs=added).sample),
             ("vae", AutoencoderKL, lambda m: m.decode(x / m.config.scaling_factor).sample)]
    for part, cls, forward in parts:
        start = time.perf_counter()
        model = cls.from_pretrained(folder / part, torch_dtype=torch.float32)
        report[f"{part}.load_s"] = round(time.perf_counter() - start, 2)
        for i in range(1 if added else 2):
            start, cpu = time.perf_counter(), time.process_time()
            y = forward(model)
            report[f"{part}.forward_s.{i}"] = round(time.perf_counter() - start, 2)
            report[f"{part}.forward_cpu_s.{i}"] = round(time.process_time() - cpu, 2)
        out[part] = y.permute(0, 2, 3, 1).contiguous()
        del model
        report[f"{part}.peak_rss_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)
    save_file(out, folder / "torch.safetensors")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("make")
    command.add_argument("kind", choices=[*UNET, "clip"])
    command.add_argument("folder", type=pathlib.Path)
    commands.add_parser("run").add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.command == "make":
        if arguments.kind == "clip":
            make_clip(arguments.folder)
        else:
            make(arguments.kind, arguments.folder)
    else:
        run(arguments.folder)
