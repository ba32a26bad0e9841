"""The per-step work of DAS as a PyTorch program does it, to be timed beside das-cuda on the same weights.

One guided step for a chunk of particles: UNet on the doubled batch, classifier-free guidance, x0, VAE decode,
clamp, resize, CLIP image tower, affine head, gradient of the reward with respect to the latents, DDIM move.
Written from the published formulas; the networks are diffusers' and transformers' own.

    python tools/reference_loop.py --model assets/shapes --particles 16 --chunk 2,16 --steps 6
    python tools/reference_loop.py --model assets/shapes --against target/release/das-cuda

With --against the two programs take turns in one run and the ratio of their medians is printed.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


class Loop:
    def __init__(self, folder, prompt, guidance, alpha):
        folder = Path(folder)
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet").float().eval().requires_grad_(False)
        self.vae = AutoencoderKL.from_pretrained(folder / "vae").float().eval().requires_grad_(False)
        self.clip = CLIPModel.from_pretrained(folder / "clip").float().eval().requires_grad_(False)
        text = CLIPTextModel.from_pretrained(folder / "text_encoder").float().eval()
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        head = load_file(folder / "aesthetic" / "model.safetensors")
        self.head = [(head[f"layers.{i}.weight"].float(), head[f"layers.{i}.bias"].float()) for i in (0, 2, 4, 6, 7)]
        length = text.config.max_position_embeddings
        ids = tokenizer(["", prompt], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        with torch.no_grad():
            self.text = text(ids.input_ids)[0]
        self.guidance, self.alpha = guidance, alpha
        self.size = self.clip.config.vision_config.image_size

    def reward(self, images):
        if images.shape[-1] != self.size:
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        features = self.clip.visual_projection(self.clip.vision_model((images - MEAN) / STD).pooler_output)
        score = features / features.norm(dim=-1, keepdim=True)
        for weight, bias in self.head:
            score = F.linear(score, weight, bias)
        return score.squeeze(-1)

    def look(self, x, t, alpha_bar):
        x = x.detach().requires_grad_(True)
        text = self.text.repeat_interleave(len(x), dim=0)
        out = self.unet(torch.cat([x, x]), t, encoder_hidden_states=text).sample
        uncond, cond = out.chunk(2)
        eps = uncond + self.guidance * (cond - uncond)
        x0 = (x - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5
        images = (self.vae.decode(x0 / self.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        log_twist = self.reward(images) / self.alpha
        grad = torch.autograd.grad(log_twist.sum(), x)[0]
        return eps.detach(), x0.detach(), log_twist.detach(), grad

    def run(self, particles, chunk, steps, of):
        """Seconds per particle-step over `steps` guided steps of a chain of `of`."""
        self.scheduler.set_timesteps(of)
        size = self.unet.config.sample_size
        x = torch.randn(particles, self.unet.config.in_channels, size, size)
        start = time.perf_counter()
        for t in self.scheduler.timesteps[:steps].tolist():
            s = max(t - 1000 // of, 0)
            a, b = self.scheduler.alphas_cumprod[t].item(), self.scheduler.alphas_cumprod[s].item()
            parts = [self.look(part, t, a) for part in x.split(chunk)]
            eps, x0, _, grad = (torch.cat(p) for p in zip(*parts))
            v = (1 - b) / (1 - a) * (1 - a / b)
            x = b**0.5 * x0 + (1 - b - v) ** 0.5 * eps + v * 0.01 * grad + v**0.5 * torch.randn_like(x)
        return (time.perf_counter() - start) / (particles * steps)


def ours(binary, particles, steps, prompt, threads):
    """Seconds per particle-step of das-cuda: median over the guided steps of its own trace."""
    with tempfile.TemporaryDirectory() as out:
        command = [binary, "sample", "-q", "-p", prompt, "--particles", str(particles), "--steps", str(steps),
                   "--threads", str(threads), "--device", "cpu"]
        subprocess.run([*command, "--save", "none", "-o", out], check=True, stdout=subprocess.DEVNULL)
        trace = next(Path(out).rglob("trace.jsonl"))
        ms = [json.loads(line)["ms"] for line in trace.read_text().splitlines()][1:-1]
    return statistics.median(ms) / 1000 / particles


def report(name, seconds):
    ms = [s * 1e3 for s in seconds]
    print(f"{name}: {statistics.median(ms):.2f} ms per particle-step (min {min(ms):.2f}, max {max(ms):.2f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="assets/shapes")
    parser.add_argument("--prompt", default="a large red star")
    parser.add_argument("--particles", type=int, default=16)
    parser.add_argument("--chunk", default="1,2,4,8,16", help="particles per network call, tried in turn")
    parser.add_argument("--steps", type=int, default=6, help="guided steps timed per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--against", help="the das-cuda program to alternate with")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loop = Loop(args.model, args.prompt, 5.0, 0.005)
    chunks = [int(c) for c in args.chunk.split(",")]
    loop.run(args.particles, chunks[-1], 1, 50)
    times = {f"pytorch {torch.__version__} chunk {c}": [] for c in chunks}
    mine = []
    for _ in range(args.rounds):
        for c, key in zip(chunks, times):
            times[key].append(loop.run(args.particles, c, args.steps, 50))
        if args.against:
            mine.append(ours(args.against, args.particles, args.steps + 2, args.prompt, args.threads))
    for key, seconds in times.items():
        report(key, seconds)
    if mine:
        report("das-cuda", mine)
        for key, seconds in times.items():
            print(f"das-cuda is {statistics.median(seconds) / statistics.median(mine):.2f} x as fast as {key}")


if __name__ == "__main__":
    main()
