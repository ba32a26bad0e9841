"""The world of the shapes model: flat scenes of one or two coloured shapes on a coloured ground.

A batch of scenes is a dict of numpy arrays, first axis the scene, second (for object attributes) the object
slot; slot 1 is empty where `count` is 1. Lengths are pixels of a 64x64 image, y grows downwards, pixel (i, j)
has its centre at (j + 0.5, i + 0.5). `render` draws signed distance functions with one-pixel anti-aliasing.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F

SIDE = 64
SHAPES = ["circle", "square", "triangle", "star", "ring", "cross"]
SIZES = ["small", "medium", "large"]
RADII = np.array([[7.0, 8.5], [10.5, 12.5], [15.0, 17.5]])  # gaps between the classes keep the words unambiguous
PALETTE = {
    "red": (214, 39, 40), "orange": (255, 140, 20), "yellow": (250, 225, 50), "green": (40, 160, 60),
    "cyan": (60, 205, 225), "blue": (40, 70, 200), "purple": (140, 50, 170), "white": (245, 245, 245),
    "black": (20, 20, 24), "gray": (128, 128, 128),
}
COLOURS = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "white"]
GROUNDS = ["black", "gray", "white", "blue", "green", "purple", "yellow", "red"]
PLACES = ["", "middle", "left", "right", "top", "bottom", "corner"]  # 0: no word fits well
COLOUR_RGB = np.array([PALETTE[c] for c in COLOURS], np.float32)
GROUND_RGB = np.array([PALETTE[c] for c in GROUNDS], np.float32)

# Outer reach and area of each shape for radius 1; the factors make the shapes of one size look equally large.
SQUARE, TRIANGLE, STAR, STAR_IN, RING_IN, CROSS, CROSS_ARM = 0.88, 1.30, 1.35, 0.48, 0.58, 1.12, 0.36
REACH = np.array([1.0, SQUARE * math.sqrt(2), TRIANGLE, STAR, 1.1, math.hypot(CROSS, CROSS_ARM)])
UNIT_AREA = np.array([
    math.pi, 4 * SQUARE**2, 0.75 * math.sqrt(3) * TRIANGLE**2, 5 * STAR**2 * STAR_IN * math.sin(math.pi / 5),
    math.pi * (1.1**2 - RING_IN**2), 8 * CROSS * CROSS_ARM - 4 * CROSS_ARM**2,
])
TURN = 0.2  # objects stand upright up to this angle, radians
MARGIN = 2.0
GAP = 3.0


def sample(n, rng, pairs=0.2):
    """Draws n scenes; about `pairs` of them have two objects that do not touch."""
    shape = rng.integers(0, len(SHAPES), (n, 2))
    colour = rng.integers(0, len(COLOURS), (n, 2))
    ground = rng.integers(0, len(GROUNDS), n)
    size = rng.integers(0, 3, (n, 2))
    two = rng.random(n) < pairs
    size[two] = rng.integers(0, 2, (int(two.sum()), 2))  # two large objects do not fit
    for _ in range(40):  # redraw colours that equal the ground
        clash = np.array(COLOURS)[colour] == np.array(GROUNDS)[ground][:, None]
        if not clash.any():
            break
        colour[clash] = rng.integers(0, len(COLOURS), int(clash.sum()))
    radius = RADII[size, 0] + rng.random((n, 2)) * (RADII[size, 1] - RADII[size, 0])
    reach = radius * REACH[shape]
    low = MARGIN + reach
    tries = 64
    at = low[:, :, None, None] + rng.random((n, 2, tries, 2)) * (SIDE - 2 * low)[:, :, None, None]
    gap = np.linalg.norm(at[:, 0] - at[:, 1], axis=-1) - reach.sum(1)[:, None]
    fits = gap >= GAP
    pick = np.where(two, fits.argmax(1), 0)
    two &= fits.any(1)
    place = at[np.arange(n), :, pick]
    near = (rng.random(n) < 0.25) & ~two  # more scenes in the middle than a uniform draw gives
    place[near] = SIDE / 2 + rng.uniform(-3, 3, (int(near.sum()), 1, 2))
    return {
        "count": 1 + two.astype(int), "shape": shape, "colour": colour, "size": size, "radius": radius,
        "xy": place, "angle": (rng.random((n, 2)) - 0.5) * 2 * TURN, "ground": ground,
        "tilt": rng.random((n, 3)) * 2 * math.pi,  # direction of the shading of ground, object 0, object 1
        "shade": np.stack([rng.uniform(0, 0.06, n), rng.uniform(0, 0.14, n), rng.uniform(0, 0.14, n)], 1),
    }


def take(scenes, index):
    return {k: v[index] for k, v in scenes.items()}


def place_of(scenes):
    """Index into PLACES for every object, (n, 2); 0 where the place is neither central nor clearly to one side."""
    d = scenes["xy"] - SIDE / 2
    a = np.abs(d)
    out = np.zeros(a.shape[:2], int)
    across = (a[..., 0] > 7) & (a[..., 0] > a[..., 1] + 2)
    along = (a[..., 1] > 7) & (a[..., 1] > a[..., 0] + 2)
    out[across] = np.where(d[..., 0] < 0, 2, 3)[across]
    out[along] = np.where(d[..., 1] < 0, 4, 5)[along]
    out[(a > 9).all(-1)] = 6
    out[(a <= 4).all(-1)] = 1
    return out


def distance(kind, x, y, r):
    """Signed distance (negative inside) to shape number `kind` of points in its own frame; r broadcasts."""
    if kind in (1, 5):
        ax, ay = x.abs(), y.abs()
        if kind == 1:
            return torch.maximum(ax, ay) - SQUARE * r
        return torch.maximum(torch.maximum(ax, ay) - CROSS * r, torch.minimum(ax, ay) - CROSS_ARM * r)
    if kind == 2:
        return torch.maximum(y, x.abs() * math.sqrt(0.75) - y * 0.5) - TRIANGLE * r * 0.5
    rho = torch.hypot(x, y)
    if kind == 0:
        return rho - r
    if kind == 4:
        return torch.maximum(rho - 1.1 * r, RING_IN * r - rho)
    # Star: fold the plane into one of ten equal sectors; there the edge is one line from a tip to a notch.
    sector = 2 * math.pi / 5
    phi = torch.atan2(x, -y)
    phi = (phi - sector * torch.round(phi / sector)).abs()
    nx, ny = STAR_IN * math.sin(sector / 2), 1 - STAR_IN * math.cos(sector / 2)
    return ((rho * torch.cos(phi) - STAR * r) * nx + rho * torch.sin(phi) * ny) / math.hypot(nx, ny)


def coverage(shape, xy, radius, angle):
    """Fraction of each pixel covered by one object per scene: (n,), (n, 2), (n,), (n,) -> (n, 64, 64)."""
    shape, xy, radius, angle = (np.asarray(a) for a in (shape, xy, radius, angle))
    grid = torch.arange(SIDE, dtype=torch.float32) + 0.5
    out = torch.zeros(len(shape), SIDE, SIDE)
    for kind in range(len(SHAPES)):
        rows = np.flatnonzero(shape == kind)
        if len(rows):
            t = lambda a: torch.as_tensor(a[rows].astype(np.float32))[:, None, None]
            dx, dy = grid[None, None, :] - t(xy[:, 0]), grid[None, :, None] - t(xy[:, 1])
            c, s = t(np.cos(angle)), t(np.sin(angle))
            out[rows] = (0.5 - distance(kind, c * dx + s * dy, c * dy - s * dx, t(radius))).clamp(0, 1)
    return out


def near_objects(scenes, margin=3):
    """Per object slot, 1 within `margin` pixels of the object and 0 elsewhere: (n, 2, 64, 64); empty slots are 0."""
    n = len(scenes["count"])
    out = torch.zeros(n, 2, SIDE, SIDE)
    for k in range(2):
        rows = np.flatnonzero(scenes["count"] > k)
        out[rows, k] = coverage(*(scenes[name][rows, k] for name in ("shape", "xy", "radius", "angle")))
    return F.max_pool2d((out > 0).float(), 2 * margin + 1, 1, margin)


def render(scenes):
    """Images (n, 3, 64, 64), float32 in [0, 1]."""
    n = len(scenes["count"])
    grid = (torch.arange(SIDE, dtype=torch.float32) + 0.5) / SIDE * 2 - 1

    def ramp(k):
        tilt = torch.as_tensor(scenes["tilt"][:, k], dtype=torch.float32)[:, None, None]
        amount = torch.as_tensor(scenes["shade"][:, k], dtype=torch.float32)[:, None, None]
        return (1 - amount * (0.5 + 0.5 * (tilt.cos() * grid[None, None, :] + tilt.sin() * grid[None, :, None])))[:, None]

    image = torch.as_tensor(GROUND_RGB[scenes["ground"]] / 255)[:, :, None, None] * ramp(0)
    for k in range(2):
        rows = np.flatnonzero(scenes["count"] > k)
        part = (scenes[name][rows, k] for name in ("shape", "xy", "radius", "angle"))
        paint = torch.as_tensor(COLOUR_RGB[scenes["colour"][rows, k]] / 255)[:, :, None, None] * ramp(k + 1)[rows]
        image[rows] = torch.lerp(image[rows], paint, coverage(*part)[:, None])
    return image.reshape(n, 3, SIDE, SIDE).clamp(0, 1)
