"""The prompts that methods are compared on: 64 of the shapes world's grammar, full captions and short ones in turn.

    python tools/shapes/prompts.py

writes tools/shapes/prompts-tune.txt and prompts-held-out.txt, 32 each. Settings are chosen on the former and reported on
the latter, with seeds 1 to 5; neither the split nor the seeds depend on any result.
"""
from pathlib import Path

import captions
import numpy as np
import world

SEED = 20261128
COUNT = 64


def draw(count, seed):
    """`count` different captions that are read back as they were meant; every second one is full."""
    rng = np.random.default_rng(seed)
    prompts = []
    while len(prompts) < count:
        scene = world.sample(1, rng)
        if len(prompts) % 2 == 0:
            said = captions.facts(scene)
            said[:, [4, 9]] = -1
        else:
            # One to three attributes, no ground.
            said = captions.describe(scene, rng, full=0.0)
            told = (said[0, [1, 2, 3, 6, 7, 8]] >= 0).sum()
            if said[0, 10] >= 0 or not 1 <= told <= 3:
                continue
        text = captions.write(said, rng)[0]
        if text not in prompts and (captions.parse(text) == said[0]).all():
            prompts.append(text)
    return prompts


def main():
    prompts = draw(COUNT, SEED)
    here = Path(__file__).parent
    for name, part in (("tune", prompts[: COUNT // 2]), ("held-out", prompts[COUNT // 2 :])):
        (here / f"prompts-{name}.txt").write_text("\n".join(part) + "\n")


if __name__ == "__main__":
    main()
