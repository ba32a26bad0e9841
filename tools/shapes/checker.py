"""A classical pixel checker: what does an image show? No network is involved.

Ground: median colour of the image frame, named by the nearest palette entry. Objects: connected regions of pixels that
differ from the ground. Each region's colour is the median of its inner pixels, up to brightness, named the same way.
Shape: the region's soft mask is compared with rendered masks of every shape, at the region's centroid and area,
over rotations; the largest overlap (soft intersection over union) wins. Size follows from the area and the
shape; place from the centroid.
"""
import captions
import numpy as np
import torch
import world
from scipy import ndimage

TURNS = {"circle": 1, "ring": 1, "square": 10, "cross": 10, "triangle": 16, "star": 10}
PERIOD = {"circle": 1, "ring": 1, "square": 4, "cross": 4, "triangle": 3, "star": 5}
SMALLEST = 40  # pixels; the smallest true object, a ring of radius 7, covers 134


def nearest(rgb, names, shades=(1.0, 0.93, 0.86)):
    """The palette name nearest to a colour, allowing for shading."""
    table = np.array([world.PALETTE[n] for n in names], float)
    gaps = [np.linalg.norm(np.asarray(rgb)[None] - table * s, axis=1) for s in shades]
    return int(np.min(gaps, 0).argmin())


def candidates(xy, area):
    """Soft masks of every shape and rotation at one place and area: kinds (k,), masks (k, 64, 64)."""
    kinds, angles = [], []
    for kind, name in enumerate(world.SHAPES):
        kinds += [kind] * TURNS[name]
        angles += list(np.arange(TURNS[name]) * 2 * np.pi / PERIOD[name] / TURNS[name])
    kinds = np.array(kinds)
    radius = np.sqrt(area / world.UNIT_AREA[kinds])
    return kinds, world.coverage(kinds, np.repeat(np.asarray(xy)[None], len(kinds), 0), radius, np.array(angles)).numpy()


def regions(image, ground):
    """Soft masks (k, 64, 64) of the objects, largest first."""
    gap = np.linalg.norm(image - ground, axis=-1)
    labels, count = ndimage.label(gap > 40, np.ones((3, 3)))
    sizes = ndimage.sum_labels(np.ones_like(gap), labels, np.arange(1, count + 1)) if count else np.array([])
    out = []
    for k in np.argsort(-sizes, kind="stable"):
        if sizes[k] < SMALLEST:
            break
        near = ndimage.binary_dilation(labels == k + 1, np.ones((3, 3)))
        inner = gap[ndimage.binary_erosion(labels == k + 1)]  # none of a line
        full = np.median(inner) if sizes[k] > 60 and len(inner) else gap[labels == k + 1].max()
        out.append(near * np.clip(gap / max(full, 1), 0, 1))
    return out


def look(image):
    """The complete description of an image, uint8 (64, 64, 3), as captions.facts would give it, and extras."""
    image = np.asarray(image, float)
    frame = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    ground = np.median(frame, 0)
    found = -np.ones(captions.WIDTH, int)
    found[10] = nearest(ground, world.GROUNDS)
    masks = regions(image, ground)
    overlaps = []
    for k, mask in enumerate(masks[:2]):
        total = mask.sum()
        grid = np.arange(world.SIDE) + 0.5
        xy = np.array([(mask * grid[None, :]).sum(), (mask * grid[:, None]).sum()]) / total
        kinds, masks_of = candidates(xy, total)
        scores = np.minimum(mask, masks_of).sum((1, 2)) / np.maximum(mask, masks_of).sum((1, 2))
        best = int(scores.argmax())
        core = mask >= min(0.95, np.quantile(mask[mask > 0.5], 0.6))
        radius = np.sqrt(total / world.UNIT_AREA[kinds[best]])
        size = int(np.digitize(radius, [(world.RADII[i, 1] + world.RADII[i + 1, 0]) / 2 for i in range(2)]))
        place = world.place_of({"xy": xy[None, None]})[0, 0]
        found[5 * k : 5 * k + 5] = [1, size, nearest(np.median(image[core], 0), world.COLOURS), kinds[best], place or -1]
        overlaps.append(float(scores[best]))
    return found, {"objects": len(masks), "overlap": overlaps}


def judge(said, found):
    """Which attributes of a description hold, as a dict of bools; only what is said is judged, None otherwise.

    With two objects the assignment that satisfies more is used; `colour` and `shape` need both to be right.
    """
    def hold(a, b, c):
        return None if a[c] < 0 else bool(a[c] == b[c])

    def both(order):
        pairs = [(said[:5], order[:5])] + ([(said[5:10], order[5:10])] if said[5] == 1 else [])
        out = {}
        for c, name in ((1, "size"), (2, "colour"), (3, "shape"), (4, "place")):
            held = [v for v in (hold(a, b, c) for a, b in pairs) if v is not None]
            out[name] = all(held) if held else None
        return out

    first, second = found[:5], found[5:10]
    options = [both(np.concatenate([first, second])), both(np.concatenate([second, first]))]
    if said[5] != 1:
        options = options[:1]
    best = max(options, key=lambda o: sum(v is True for v in o.values()))
    best["ground"] = hold(said, found, 10)
    return best


def report(prompts, images):
    """Rates of agreement over pairs of prompt and image (uint8), as a dict; also the judgements themselves."""
    rows = []
    for prompt, image in zip(prompts, images):
        said = captions.parse(prompt)
        found, extra = look(image)
        row = judge(said, found)
        row["colour+shape"] = None if row["colour"] is None and row["shape"] is None else row["colour"] is not False and row["shape"] is not False
        # Python's own bool: "is not False" below is true of NumPy's.
        row["count"] = bool(extra["objects"] == 1 + (said[5] == 1))
        # Of a prompt that states nothing there is nothing to judge.
        stated = said[5] == 1 or any(row[k] is not None for k in ("size", "colour", "shape", "ground"))
        row["all"] = all(v is not False for k, v in row.items() if k not in ("place",)) if stated else None
        rows.append(row)
    rates = {}
    for key in ("colour", "shape", "colour+shape", "ground", "size", "place", "count", "all"):
        held = [r[key] for r in rows if r[key] is not None]
        if held:
            rates[key] = (sum(held) / len(held), len(held))
    return rates, rows


def bytes_of(images):
    """Tensor (n, 3, h, w) in [0, 1] to uint8 (n, h, w, 3)."""
    return (images.clamp(0, 1).permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
