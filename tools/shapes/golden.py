"""Writes tests/golden/shapes_gold.safetensors: images and their gold, so that a port of gold.from_pixels can be checked.

Tensors: `images` uint8 (12, 64, 64, 3), `gold` f64 (12,) by gold.from_pixels, `scene_gold` f64 (12,) by
gold.from_scene (NaN where there is no scene). Ten renders, then a blank ground, then a noisy render.
"""
from pathlib import Path

import checker
import gold
import numpy as np
import world
from safetensors.numpy import save_file


def main():
    rng = np.random.default_rng(2024)
    scenes = world.sample(11, rng, pairs=0.3)
    images = checker.bytes_of(world.render(scenes))
    blank = np.full((1, 64, 64, 3), (60, 70, 80), np.uint8)
    noisy = np.clip(images[10:] + rng.normal(0, 12, images[10:].shape), 0, 255).astype(np.uint8)
    images = np.concatenate([images[:10], blank, noisy])
    values = np.array([gold.from_pixels(i) for i in images])
    true = gold.from_scene(scenes)
    true = np.concatenate([true[:10], [np.nan], true[10:]])
    path = Path(__file__).resolve().parents[2] / "tests" / "golden" / "shapes_gold.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"images": images, "gold": values, "scene_gold": true}, path)
    path.chmod(0o644)
    print(np.round(values, 4), np.round(true, 4))


if __name__ == "__main__":
    main()
