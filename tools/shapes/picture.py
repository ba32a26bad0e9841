"""Makes assets/readme.png: particles of plain DDIM above particles of DAS, same prompt, seed and model, by the
defaults. The prompt is the first of prompts-held-out.txt that says nothing of colour and size.

    python tools/shapes/picture.py --program target/release/das-cuda
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

SCALE, GAP = 2, 4


def particles(program, prompt, seed, method, count):
    with tempfile.TemporaryDirectory() as out:
        command = [program, "sample", "-q", "-p", prompt, "-s", str(seed), "--proposal", method, "-o", out]
        command += ["--no-grid", "--device", "cpu", "--particles", str(count)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return [Image.open(p).convert("RGB") for p in sorted(Path(out).rglob("particles/*.png"))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/das-cuda")
    parser.add_argument("--prompt", default="there is a ring")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="assets/readme.png")
    args = parser.parse_args()
    rows = [particles(args.program, args.prompt, args.seed, method, 16)[:8] for method in ("none", "das")]
    side = rows[0][0].width * SCALE
    sheet = Image.new("RGB", (8 * (side + GAP) - GAP, 2 * side + 3 * GAP), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            big = image.resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(big, (x * (side + GAP), y * (side + 3 * GAP)))
    sheet.save(args.out, optimize=True)


if __name__ == "__main__":
    main()
