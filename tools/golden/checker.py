"""Golden file of the reward `checker`: tests/golden/checker.jsonl, by the definition in tools/shapes/checker.py.

A line is one of two things.
- A prompt and what it says: {"prompt": ..., "said": [...]}.
- A picture, what it shows, and whether it shows what each of some prompts says: {"what": ..., "webp": ...,
  "noise": [seed, amplitude], "found": [...], "objects": ..., "judged": [[prompt, true, false or null], ...]}. The
  picture is a lossless WebP in base64 with noise added, which a reader makes again from integers (`noisy`).
Descriptions are those of captions.py: eleven numbers, -1 where nothing is said.

The pictures are drawn scenes, plain and spoilt in several ways, pictures that are no scenes at all, and samples
of the model, which the program draws.

    python tools/golden/checker.py --program target/release/das-cuda
"""

import argparse
import base64
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/shapes"))

import captions  # noqa: E402
import checker  # noqa: E402
import world  # noqa: E402

SIDE = world.SIDE
ODD_PROMPTS = [
    "", "a star and a ring and a cross", "on a grey background", "a star, gray background", "a RED Star on blue.",
    "a star on a moon red background", "a star on a red  background", "a star,white", "a little disk in the center and a plus",
    "two large small circles on the left at the top", "an \u00e9toile on a gr\u00fcn green background", "\u0130n the corner a \u212aing ring",
    "bandy and a square and ", " and a circle on white ", "a blue ring on red on a black background", "big thing, , purple background",
]
SAMPLED = [
    "a large red star on a blue background", "a small green circle and a small yellow triangle on a white background",
    "a purple cross, black background", "something orange", "a small cyan ring on the left and a medium white square on a gray background",
    "a big blue disk at the top on yellow",
]


def noisy(image, seed, amplitude):
    """Adds to every byte a whole number of at most `amplitude` in size, which depends on its position only."""
    h = np.arange(image.size, dtype=np.uint64) * 2654435761 + seed * 2654435769 & 0xFFFFFFFF
    h = (h ^ h >> 16) * 73244475 & 0xFFFFFFFF
    h ^= h >> 16
    move = (h % (2 * amplitude + 1)).astype(int) - amplitude
    return np.clip(image.astype(int) + move.reshape(image.shape), 0, 255).astype(np.uint8)


def blurred(image, radius):
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def faded(image, share):
    """Pulls all bytes towards their mean."""
    return np.rint(image.mean((0, 1)) + (image - image.mean((0, 1))) * share).astype(np.uint8)


def odd():
    """Pictures that are no scenes, with names."""
    red, dark, white, gray = [np.array(world.PALETTE[c], np.uint8) for c in ("red", "black", "white", "gray")]
    y, x = np.mgrid[0:SIDE, 0:SIDE]

    def where(condition, inside=red, ground=dark):
        return np.where(condition[..., None], inside, ground).astype(np.uint8)

    yield "one colour", where(x < 0)
    yield "black", np.zeros((SIDE, SIDE, 3), np.uint8)
    yield "a line one pixel wide", where((y == 20) & (x > 1) & (x < 63))
    yield "a frame one pixel wide", where(np.maximum(abs(x - 32), abs(y - 32)) == 20)
    yield "a diagonal", where(x == y)
    yield "a line two pixels wide", where((y // 2 == 10) & (x > 4))
    yield "fields", where((x // 8 + y // 8) % 2 == 0)
    yield "fields of one pixel", where((x + y) % 2 == 0)
    yield "stripes", where(x // 4 % 2 == 0, white)
    yield "halves", where(x < 32, red, white)
    yield "more than half", where(x < 40, red, white)
    yield "a gradient", np.stack([4 * x, 4 * y, 255 - 4 * x], -1).astype(np.uint8)
    yield "two of one size", where((abs(x - 15) < 8) & (abs(y - 40) < 8) | (abs(x - 45) < 8) & (abs(y - 20) < 8))
    yield "three objects", where((abs(x - 12) < 7) & (abs(y - 32) < 7) | (abs(x - 32) < 6) & (abs(y - 12) < 6) | (abs(x - 52) < 5) & (abs(y - 45) < 5), white, gray)
    yield "corners touch", where((abs(x - 20) < 8) & (abs(y - 20) < 8) | (abs(x - 35) < 8) & (abs(y - 35) < 8))
    yield "corners nearly touch", where((abs(x - 20) < 8) & (abs(y - 20) < 8) | (abs(x - 36) < 8) & (abs(y - 36) < 8))
    yield "39 pixels", where((abs(y - 30) <= 1) & (x >= 20) & (x < 33))
    yield "40 pixels", where((abs(y - 30) <= 3) & (x >= 20) & (x < 25) | (y == 27) & (x >= 25) & (x < 30))
    yield "60 pixels", where((y >= 20) & (y < 26) & (x >= 10) & (x < 20))
    yield "61 pixels", where((y >= 20) & (y < 26) & (x >= 10) & (x < 20) | (y == 26) & (x == 10))
    yield "a hole with something in it", where((np.maximum(abs(x - 32), abs(y - 32)) < 24) & (np.maximum(abs(x - 32), abs(y - 32)) > 18) | (abs(x - 32) < 6) & (abs(y - 32) < 6))
    yield "an object over the edge", where(np.hypot(x - 2.5, y - 30.5) < 14)
    yield "an object of two halves", np.where((x < 32)[..., None], where(np.hypot(x - 31.5, y - 31.5) < 14), where(np.hypot(x - 31.5, y - 31.5) < 14, white))
    yield "hardly apart", where(np.hypot(x - 31.5, y - 31.5) < 12, dark + np.array([40, 0, 0], np.uint8))
    yield "just apart", where(np.hypot(x - 31.5, y - 31.5) < 12, dark + np.array([41, 0, 0], np.uint8))


def drawn(scenes):
    return checker.bytes_of(world.render(scenes))


def spoilt(rng, per_kind):
    """Scenes with the picture of each: (what, picture, noise, scene)."""
    ways = {
        "plain": lambda image: (image, 0),
        "a little noise": lambda image: (image, int(rng.integers(4, 20))),
        "noise": lambda image: (image, int(rng.integers(24, 40))),
        "much noise": lambda image: (image, int(rng.integers(45, 90))),
        "a little blur": lambda image: (blurred(image, rng.uniform(0.4, 1.2)), 0),
        "blur and noise": lambda image: (blurred(image, rng.uniform(1.2, 3)), int(rng.integers(0, 25))),
        "faded": lambda image: (faded(image, rng.uniform(0.15, 0.7)), 0),
        "shifted over the edge": lambda image: (np.roll(image, rng.integers(6, 26, 2), (0, 1)), 0),
    }
    for what, spoil in ways.items():
        scenes = world.sample(per_kind, rng, pairs=0.5)
        for i, image in enumerate(drawn(scenes)):
            image, amplitude = spoil(image)
            yield what, image, amplitude, world.take(scenes, np.array([i]))


def sampled(program, particles):
    """Samples of the model without guidance by a reward: (prompt, picture)."""
    with tempfile.TemporaryDirectory() as out:
        command = [program, "sample", "-q", "--device", "cpu", "--proposal", "none", "--particles", str(particles)]
        command += ["--steps", "20", "--no-grid", "-o", out]
        for prompt in SAMPLED:
            command += ["-p", prompt]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for prompt, folder in zip(SAMPLED, sorted(Path(out).glob("[0-9]*"))):
            for path in sorted((folder / "particles").glob("*.png")):
                yield prompt, np.asarray(Image.open(path).convert("RGB"))


def said_of(facts, rng):
    """What a prompt may say of these facts, and the same with one thing changed; both as sentences."""
    true = np.where(rng.random(facts.shape) < 0.75, facts, -1)
    true[[0, 5]] = facts[[0, 5]]
    if facts[5] == 1 and rng.random() < 0.5:
        true = true[[5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 10]]
    false = true.copy()
    column = int(rng.choice([1, 2, 3, 10] + ([6, 7, 8] if facts[5] == 1 else [])))
    most = {1: 3, 2: 8, 3: 6, 10: 8, 6: 3, 7: 8, 8: 6}[column]
    false[column] = (false[column] + int(rng.integers(1, most))) % most
    return captions.write(np.stack([true, false]), rng)


def line(what, image, prompts, amplitude=0, seed=0):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", lossless=True, quality=100, method=6)
    image = noisy(image, seed, amplitude)
    found, extra = checker.look(image)
    _, rows = checker.report(prompts, [image] * len(prompts))
    return {
        "what": what, "webp": base64.b64encode(file.getvalue()).decode(), "noise": [seed, amplitude], "found": found.tolist(),
        "objects": extra["objects"], "judged": [[prompt, row["all"]] for prompt, row in zip(prompts, rows)],
    }


def lines(args):
    rng = np.random.default_rng(args.seed)
    scenes = world.sample(64, rng, pairs=0.5)
    for prompt in captions.write(captions.describe(scenes, rng), rng) + ODD_PROMPTS:
        yield {"prompt": prompt, "said": captions.parse(prompt).tolist()}
    for seed, (what, image, amplitude, scene) in enumerate(spoilt(rng, args.per_kind)):
        yield line(what, image, said_of(captions.facts(scene)[0], rng), amplitude, seed)
    for what, image in odd():
        found = checker.look(image)[0]
        yield line(what, image, ["", "a red thing on black", "a square and a square", *said_of(np.maximum(found, [1] + [-1] * 10), rng)])
    yield line("noise alone", np.full((SIDE, SIDE, 3), 128, np.uint8), ["", "a shape"], 127, 1)
    for prompt, image in sampled(args.program, args.particles) if args.program else []:
        found = checker.look(image)[0]
        yield line("a sample", image, [prompt, said_of(np.maximum(found, [1] + [-1] * 10), rng)[1]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/das-cuda", help="draws the samples; empty leaves them out")
    parser.add_argument("--out", default=ROOT / "tests/golden/checker.jsonl")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--per-kind", type=int, default=6, help="scenes for each way to spoil them")
    parser.add_argument("--particles", type=int, default=2, help="samples of each prompt")
    args = parser.parse_args()
    all_of_them = list(lines(args))
    Path(args.out).write_text("".join(json.dumps(entry) + "\n" for entry in all_of_them))
    judged = [held for entry in all_of_them for _, held in entry.get("judged", [])]
    print(f"{sum('said' in entry for entry in all_of_them)} prompts, {sum('webp' in entry for entry in all_of_them)} pictures, "
          f"{len(judged)} judgements, {judged.count(True)} true; {Path(args.out).stat().st_size} bytes")


if __name__ == "__main__":
    main()
