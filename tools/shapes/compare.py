"""Alignment side by side: plain samples, best of N, and DAS, on the same prompts with the shipped program.

    python tools/shapes/compare.py --program target/release/das-cuda --out scratch

For every method and prompt the program runs once with the given seed; what it returns (best.png) is judged by the
proxy reward it followed, the hidden gold preference, and the pixel checker (does the picture show what the prompt
says?). `plain` is the mean over all particles of plain DDIM. Prints a Markdown table.
"""

import argparse
import json
import subprocess
from pathlib import Path

import checker
import numpy as np
from PIL import Image

PROMPTS = [
    "a star",
    "a blue circle",
    "a small green triangle",
    "a large red square on a white background",
    "a ring on a black background",
    "a purple cross",
    "something yellow",
    "a red star and a small blue circle",
]


def run(program, out, method, more):
    """Runs every prompt; returns the folders, in order."""
    folder = out / method
    command = [program, "sample", "-q", "--overwrite", "-o", str(folder), "--device", "cpu"]
    command += ["--eval-reward", "gold", "--eval-reward", "clip"]
    for prompt in PROMPTS:
        command += ["-p", prompt]
    subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL)
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def particles(folder):
    return [json.loads(line) for line in (folder / "particles.jsonl").read_text().splitlines()]


def agreement(prompts, paths):
    """Fraction of pictures that show everything their prompt states."""
    images = np.stack([np.asarray(Image.open(p).convert("RGB")) for p in paths])
    rates, _ = checker.report(prompts, images)
    return rates["all"][0]


def row(name, lines, prompts, paths):
    proxy = np.mean([line["target"] for line in lines])
    gold = np.mean([line["eval_rewards"]["gold"] for line in lines])
    clip = np.mean([line["eval_rewards"]["clip"] for line in lines])
    print(f"| {name} | {proxy:.2f} | {gold:.2f} | {clip:.2f} | {100 * agreement(prompts, paths):.0f} % |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/das-cuda")
    parser.add_argument("--out", default="compare")
    parser.add_argument("--seeds", default="42", help="comma-separated")
    parser.add_argument("--kl", default="", help="comma-separated alphas to try besides the program's own")
    parser.add_argument("more", nargs="*", help="further flags for every run, after --")
    args = parser.parse_args()
    print("| method | proxy reward (optimised) | gold (hidden) | CLIP score | shows the prompt |")
    print("|---|---|---|---|---|")
    methods = [("none", "plain DDIM", []), ("best-of-n", "best of N, equal cost", []), ("bootstrap", "bootstrap SMC", []), ("das", "DAS", [])]
    methods += [("das", f"DAS, --kl {kl}", ["--kl", kl]) for kl in args.kl.split(",") if kl]
    for method, name, flags in methods:
        best, all_of_them = [], []
        for seed in args.seeds.split(","):
            out = Path(args.out) / seed
            folders = run(args.program, out, "-".join([method, *flags]), ["--proposal", method, "--seed", seed, *flags, *args.more])
            for prompt, folder in zip(PROMPTS, folders, strict=True):
                lines = particles(folder)
                best += [(max(lines, key=lambda line: line["is_best"]), prompt, folder / "best.png")]
                all_of_them += [(line, prompt, folder / line["path"]) for line in lines]
        if method == "none":
            row(name + " (mean of all)", *zip(*[(a, b, c) for a, b, c in all_of_them]))
            top = {}
            for line, prompt, path in all_of_them:
                key = path.parent.parent
                if key not in top or line["target"] > top[key][0]["target"]:
                    top[key] = (line, prompt, path)
            row("best of the plain 16", *zip(*top.values()))
        else:
            row(name, *zip(*best))


if __name__ == "__main__":
    main()
