"""The per-step work of DAS as a PyTorch program does it, to be timed beside das-cuda on the same weights.

One guided step for a chunk of particles: UNet on the doubled batch, classifier-free guidance, x0, VAE decode,
clamp, resize, CLIP image tower, affine head, gradient of the reward with respect to the latents, DDIM move.
Written from the published formulas; the networks are diffusers' and transformers' own.

    python tools/reference_loop.py --model assets/shapes --particles 16 --chunk 2,16 --steps 6
    python tools/reference_loop.py --model assets/shapes --against target/release/das-cuda
    python tools/reference_loop.py --model SD15 --clip CLIP --head HEAD.safetensors --particles 1 --chunk 1 \\
        --steps 1 --rounds 1 --against target/release/das-cuda

With --against the two programs take turns in one run and the ratio of their medians is printed, of the time on
the clock and of the time of processors, which is fair on a machine that is shared. Without a --model of its own
that has a CLIP and a head, --clip and --head say where they are; tools/fullsize.py makes such files.
"""

import argparse
import json
import os
import resource
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
    def __init__(self, folder, clip, head, checkpointing, prompt, guidance, alpha):
        folder = Path(folder)
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet").float().eval().requires_grad_(False)
        self.vae = AutoencoderKL.from_pretrained(folder / "vae").float().eval().requires_grad_(False)
        if checkpointing:
            self.unet.enable_gradient_checkpointing()
            self.vae.enable_gradient_checkpointing()
        self.clip = CLIPModel.from_pretrained(clip or folder / "clip").float().eval().requires_grad_(False)
        del self.clip.text_model
        text = CLIPTextModel.from_pretrained(folder / "text_encoder").float().eval()
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        head = load_file(head or folder / "aesthetic" / "model.safetensors")
        layers = sorted(name.removesuffix(".weight") for name in head if name.endswith(".weight"))
        self.head = [(head[f"{layer}.weight"].float(), head[f"{layer}.bias"].float()) for layer in layers]
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
        """Seconds per particle-step over `steps` guided steps of a chain of `of`: on the clock, of processors."""
        self.scheduler.set_timesteps(of)
        size = self.unet.config.sample_size
        x = torch.randn(particles, self.unet.config.in_channels, size, size)
        start, cpu = time.perf_counter(), time.process_time()
        for t in self.scheduler.timesteps[:steps].tolist():
            s = max(t - 1000 // of, 0)
            a, b = self.scheduler.alphas_cumprod[t].item(), self.scheduler.alphas_cumprod[s].item()
            parts = [self.look(part, t, a) for part in x.split(chunk)]
            eps, x0, _, grad = (torch.cat(p) for p in zip(*parts))
            v = (1 - b) / (1 - a) * (1 - a / b)
            x = b**0.5 * x0 + (1 - b - v) ** 0.5 * eps + v * 0.01 * grad + v**0.5 * torch.randn_like(x)
        return [seconds / (particles * steps) for seconds in (time.perf_counter() - start, time.process_time() - cpu)]


def processor_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def ours(binary, args):
    """Seconds per particle-step of das-cuda: medians over guided steps but for the first, by its own trace."""
    reward = [] if not args.clip else ["--reward", f"aesthetic:{args.clip},{args.head}"]
    with tempfile.TemporaryDirectory() as out:
        command = [binary, "sample", "-q", "-p", args.prompt, "-m", args.model, *reward, "--cfg-scale", "5",
                   "--particles", str(args.particles), "--steps", str(args.steps + 1), "--gradient", "state",
                   "--gradient-every", "1", "--threads", str(args.threads), "--device", "cpu",
                   "--checkpointing", "on" if args.checkpointing else "off", "--save", "none", "-o", out]
        run, cpu = subprocess.Popen(command, stdout=subprocess.DEVNULL), [0.0]
        while run.poll() is None:
            lines = sum(f.read_text().count("\n") for f in Path(out).rglob("trace.jsonl"))
            cpu += [processor_seconds(run.pid)] * (lines + 1 - len(cpu))
            time.sleep(0.01)
        assert run.returncode == 0
        trace = next(Path(out).rglob("trace.jsonl"))
        ms = [json.loads(line)["ms"] for line in trace.read_text().splitlines()][1:-1]
    steps = [after - before for before, after in zip(cpu[1:], cpu[2:])][: len(ms)]
    return statistics.median(ms) / 1000 / args.particles, statistics.median(steps) / args.particles


def report(name, seconds):
    for what, times in zip(("", " of processors"), zip(*seconds)):
        ms = [s * 1e3 for s in times]
        print(f"{name}: {statistics.median(ms):.2f} ms{what} per particle-step (min {min(ms):.2f}, max {max(ms):.2f})")


def peak(who):
    return f"largest resident set {resource.getrusage(who).ru_maxrss * 1024 / 1e9:.2f} GB"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="assets/shapes")
    parser.add_argument("--clip", help="folder of the CLIP model, if the model brings none")
    parser.add_argument("--head", help="file of the aesthetic head, if the model brings none")
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again, in both programs")
    parser.add_argument("--prompt", default="a large red star")
    parser.add_argument("--particles", type=int, default=16)
    parser.add_argument("--chunk", default="1,2,4,8,16", help="particles per network call, tried in turn")
    parser.add_argument("--steps", type=int, default=6, help="guided steps timed per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--against", help="the das-cuda program to alternate with")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    mine = []
    chunks = [int(c) for c in args.chunk.split(",")]
    times = {f"pytorch {torch.__version__} chunk {c}": [] for c in chunks}
    loop = None
    for _ in range(args.rounds):
        # First, so that the memory of both is never held at once in a run of one round.
        if args.against:
            mine.append(ours(args.against, args))
        if loop is None:
            loop = Loop(args.model, args.clip, args.head, args.checkpointing, args.prompt, 5.0, 0.005)
            if args.rounds > 1:
                loop.run(args.particles, chunks[-1], 1, 50)
        for c, key in zip(chunks, times):
            times[key].append(loop.run(args.particles, c, args.steps, 50))
    for key, seconds in times.items():
        report(key, seconds)
    print(f"pytorch: {peak(resource.RUSAGE_SELF)}")
    if mine:
        report("das-cuda", mine)
        print(f"das-cuda: {peak(resource.RUSAGE_CHILDREN)}")
        for key, seconds in times.items():
            clock, cpu = (statistics.median(a) / statistics.median(b) for a, b in zip(zip(*seconds), zip(*mine)))
            print(f"das-cuda is {clock:.2f} x as fast as {key}, {cpu:.2f} x by the time of processors")


if __name__ == "__main__":
    main()
