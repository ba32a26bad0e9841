"""Measures the shipped model against its criteria, or checks a folder of images against their prompts.

    python tools/shapes/evaluate.py                       all figures of the model in assets/shapes
    python tools/shapes/evaluate.py --images DIR          the pixel checker on images made elsewhere

Of DIR it reads `*.jsonl` with lines {"path": ..., "prompt": ...}, else `prompts.txt` with lines "FILE<TAB>PROMPT",
else every NAME.png that has a NAME.txt. Only the attributes a prompt states are judged. Weights are used as
shipped (f16 values), arithmetic is f32 unless --bf16 is given.
"""
import argparse
import json
from pathlib import Path

import captions
import checker
import gold
import models
import numpy as np
import torch
import world
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from train_head import embed
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[2]


def line(name, value, wanted=""):
    print(f"{name:<52} {value:<16} {wanted}", flush=True)


def show(rates):
    wanted = {"colour+shape": ">= 90 %", "ground": ">= 95 %"}
    for key, (rate, n) in rates.items():
        line(f"  {key} agrees ({n} judged)", f"{100 * rate:.1f} %", wanted.get(key, ""))


class Sampler:
    """DDIM with eta 1 and classifier-free guidance, from the shipped folder."""

    def __init__(self, assets):
        load = dict(torch_dtype=torch.float32)
        self.vae = AutoencoderKL.from_pretrained(assets / "vae", **load).eval()
        self.unet = UNet2DConditionModel.from_pretrained(assets / "unet", **load).eval()
        self.unet.set_attn_processor(AttnProcessor())  # plain products are the faster route on a CPU
        self.text = CLIPTextModel.from_pretrained(assets / "text_encoder", dtype=torch.float32).eval()
        self.words = CLIPTokenizer.from_pretrained(assets / "tokenizer")
        self.scheduler = models.load_scheduler(assets)

    def encode(self, prompts):
        ids = self.words(prompts, padding="max_length", max_length=models.CONTEXT, truncation=True, return_tensors="pt").input_ids
        return self.text(input_ids=ids).last_hidden_state

    @torch.inference_mode()
    def __call__(self, prompts, scale, steps, seed):
        draw = torch.Generator().manual_seed(seed)
        text = torch.cat([self.encode([""] * len(prompts)), self.encode(prompts)])
        x = torch.randn(len(prompts), 4, 8, 8, generator=draw)
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            without, given = self.unet(torch.cat([x, x]), t, text).sample.chunk(2)
            x = self.scheduler.step(without + scale * (given - without), t, x, eta=1.0, generator=draw).prev_sample
        return self.vae.decode(x / self.vae.config.scaling_factor).sample / 2 + 0.5


@torch.inference_mode()
def autoencoder(assets, rng):
    vae = AutoencoderKL.from_pretrained(assets / "vae", torch_dtype=torch.float32).eval()
    scenes = world.sample(256, rng)
    x = world.render(scenes)
    y = torch.cat([vae.decode(vae.encode(p * 2 - 1).latent_dist.mean).sample for p in x.split(64)]) / 2 + 0.5
    errors = (y.clamp(0, 1) - x).square().mean((1, 2, 3))
    line("VAE: PSNR over 256 fresh scenes", f"{-10 * errors.mean().log10():.2f} dB", ">= 26 dB")
    line("VAE: mean of the scenes' PSNRs", f"{-10 * errors.log10().mean():.2f} dB")
    prompts = captions.write(captions.describe(scenes, rng, full=1, place=0), rng)
    line("VAE: what survives encoding and decoding", "")
    show(checker.report(prompts, checker.bytes_of(y))[0])


@torch.inference_mode()
def retrieval(assets, rng):
    """Top-1 in batches of 64 scenes whose full captions all differ, both ways."""
    clip = CLIPModel.from_pretrained(assets / "clip", dtype=torch.float32).eval()
    words = CLIPTokenizer.from_pretrained(assets / "tokenizer")
    hits = np.zeros(2)
    batches = 16
    for _ in range(batches):
        scenes = world.sample(200, rng)
        said = captions.describe(scenes, rng, full=1, place=0)
        _, first = np.unique(said, axis=0, return_index=True)
        scenes, said = world.take(scenes, np.sort(first)[:64]), said[np.sort(first)[:64]]
        ids = words(captions.write(said, rng), padding=True, return_tensors="pt").input_ids
        text = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
        table = text @ embed(clip, world.render(scenes)).T
        table = table / text.norm(dim=-1, keepdim=True)
        right = torch.arange(64)
        hits += [(table.argmax(1) == right).float().mean().item(), (table.argmax(0) == right).float().mean().item()]
    line(f"CLIP: caption to scene, {batches} batches of 64", f"{100 * hits[0] / batches:.1f} %", ">= 80 %")
    line(f"CLIP: scene to caption, {batches} batches of 64", f"{100 * hits[1] / batches:.1f} %", ">= 80 %")
    return clip


def preference(assets, clip, scenes, images):
    score = models.head(assets)(embed(clip, images)).numpy()
    true = gold.from_scene(scenes)
    pixel = np.array([gold.from_pixels(i) for i in checker.bytes_of(images)])
    line("gold: pixels against scene, correlation", f"{np.corrcoef(pixel, true)[0, 1]:.4f}")
    line("gold: pixels against scene, mean absolute gap", f"{np.abs(pixel - true).mean():.3f}")
    line("head: against scene gold, correlation", f"{np.corrcoef(score, true)[0, 1]:.4f}")
    line("head: range of scores", f"{score.min():.2f} to {score.max():.2f}")


def read_folder(folder):
    lists = sorted(folder.glob("*.jsonl"))
    if lists:
        rows = [json.loads(text) for path in lists for text in path.read_text().splitlines() if text.strip()]
        pairs = [(row["path"], row["prompt"]) for row in rows if "path" in row and "prompt" in row]
    elif (folder / "prompts.txt").exists():
        pairs = [text.split("\t", 1) for text in (folder / "prompts.txt").read_text().splitlines() if "\t" in text]
    else:
        pairs = [(p.name, p.with_suffix(".txt").read_text().strip()) for p in sorted(folder.glob("*.png")) if p.with_suffix(".txt").exists()]
    images = [np.asarray(Image.open(folder / path).convert("RGB").resize((world.SIDE, world.SIDE), Image.BOX)) for path, _ in pairs]
    return [prompt for _, prompt in pairs], images


def keep(folder, first, prompts, images):
    """Writes one batch of images and their lines of prompts.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "prompts.jsonl", "a" if first else "w") as rows:
        for i, image in enumerate(images, first):
            Image.fromarray(image).save(folder / f"{i:04d}.png")
            rows.write(json.dumps({"path": f"{i:04d}.png", "prompt": prompts[i]}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, default=ROOT / "assets" / "shapes")
    parser.add_argument("--images", type=Path, help="folder of images and prompts to check")
    parser.add_argument("--save", type=Path, help="folder for the generated images")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--scale", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--bf16", action="store_true", help="sample in bf16 arithmetic, which is faster and rougher")
    parser.add_argument("--only", choices=["checker", "vae", "clip", "images"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.images:
        prompts, images = read_folder(args.images)
        show(checker.report(prompts, images)[0])
        values = [gold.from_pixels(i) for i in images]
        line("  gold, mean and standard deviation", f"{np.mean(values):.3f} {np.std(values):.3f}")
        return
    rng = np.random.default_rng(args.seed)
    scenes = world.sample(args.count, rng)
    truth = world.render(scenes)
    prompts = captions.write(captions.describe(scenes, rng, full=1, place=0), rng)
    if args.only in (None, "checker"):
        line(f"pixel checker on {args.count} true renders", "")
        show(checker.report(prompts, checker.bytes_of(truth))[0])
    if args.only in (None, "vae"):
        autoencoder(args.assets, rng)
    if args.only in (None, "clip"):
        clip = retrieval(args.assets, rng)
        preference(args.assets, clip, scenes, truth)
    if args.only in (None, "images"):
        sampler = Sampler(args.assets)
        parts = []
        for i in range(0, args.count, args.batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                parts.append(sampler(prompts[i : i + args.batch], args.scale, args.steps, args.seed + i).float())
            if args.save:
                keep(args.save, i, prompts, checker.bytes_of(parts[-1]))
        images = checker.bytes_of(torch.cat(parts))
        line(f"{args.count} images, {args.steps} steps, eta 1, scale {args.scale:g}", "")
        show(checker.report(prompts, images)[0])


if __name__ == "__main__":
    main()
