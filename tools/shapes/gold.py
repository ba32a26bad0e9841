"""The hidden preference of the shapes world ("gold"), twice: from the true scene and from pixels alone.

Both give a number in [1, 10] and share one formula:

    gold = 1 + 9 (0.30 W + 0.25 A + 0.25 C + 0.20 K)

    W  warmth     = (1 + (R - B) / 255) / 2           of the object colour (R, G, B), bytes
    A  size       = sqrt(min(area / 0.2, 1))          area: fraction of the image the objects cover
    C  centring   = max(0, 1 - d / 24)                d: distance of their centroid from the image centre, in
                                                      pixels of a 64x64 image
    K  contrast   = min(1, |object - ground| / 300)   Euclidean distance of the two colours, bytes

Several objects count as one: areas add, colour and centroid are area-weighted means.

`from_scene` uses palette colours and exact areas. `from_pixels` takes bytes (h, w, 3) and does, in f64:
  1. ground = per channel, the lower median (element (n - 1) // 2 of the sorted values) over the n = 2w + 2h - 4
     pixels of the one-pixel frame of the image;
  2. mask m = clamp((|pixel - ground| - 32) / 32, 0, 1) for every pixel, |.| the Euclidean distance over channels;
  3. total = sum m; if total < 8 h w / 4096 there is no object and gold = 1;
  4. area = total / (h w);  colour = sum(m pixel) / total;
     centroid x = sum(m (column + 0.5)) / total, y = sum(m (row + 0.5)) / total;
     d = 64 sqrt(((x - w/2) / w)^2 + ((y - h/2) / h)^2);
  5. the formula above.
"""
import numpy as np


def formula(rgb, ground, area, d):
    warmth = (1 + (rgb[0] - rgb[2]) / 255) / 2
    size = np.sqrt(min(area / 0.2, 1))
    centring = max(0.0, 1 - d / 24)
    contrast = min(1.0, np.sqrt(sum((rgb[i] - ground[i]) ** 2 for i in range(3))) / 300)
    return 1 + 9 * (0.30 * warmth + 0.25 * size + 0.25 * centring + 0.20 * contrast)


def from_pixels(image):
    """Gold of one image, uint8 (h, w, 3)."""
    p = np.asarray(image, np.float64)
    h, w, _ = p.shape
    frame = np.concatenate([p[0], p[-1], p[1:-1, 0], p[1:-1, -1]])
    ground = np.sort(frame, 0)[(len(frame) - 1) // 2]
    m = np.clip((np.sqrt(((p - ground) ** 2).sum(-1)) - 32) / 32, 0, 1)
    total = m.sum()
    if total < 8 * h * w / 4096:
        return 1.0
    rgb = (m[..., None] * p).sum((0, 1)) / total
    x = (m * (np.arange(w) + 0.5)[None, :]).sum() / total
    y = (m * (np.arange(h) + 0.5)[:, None]).sum() / total
    d = 64 * np.sqrt(((x - w / 2) / w) ** 2 + ((y - h / 2) / h) ** 2)
    return float(formula(rgb, ground, total / (h * w), d))


def from_scene(scenes):
    """Gold of every scene of a batch, (n,)."""
    import world

    out = []
    for i in range(len(scenes["count"])):
        k = slice(0, scenes["count"][i])
        area = world.UNIT_AREA[scenes["shape"][i, k]] * scenes["radius"][i, k] ** 2
        part = area / area.sum()
        rgb = part @ world.COLOUR_RGB[scenes["colour"][i, k]].astype(np.float64)
        at = part @ scenes["xy"][i, k]
        d = np.hypot(*(at - world.SIDE / 2))
        ground = world.GROUND_RGB[scenes["ground"][i]].astype(np.float64)
        out.append(formula(rgb, ground, area.sum() / world.SIDE**2, d))
    return np.array(out)
