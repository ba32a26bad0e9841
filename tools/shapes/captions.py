"""Captions of scenes, in varied wording, and the partial descriptions behind them.

A description is an int array (n, 11): for each of two object slots (named, size, colour, shape, place), then the
ground. -1 means "not said"; `named` is 1 where the slot is mentioned. `write` puts a description into words, `agree` says which scenes a description is true of, `parse`
reads the words back (synonyms included), so that a checker can hold an image against a prompt.
"""
import re

import numpy as np
from world import COLOURS, GROUNDS, PLACES, SHAPES, SIZES, place_of

SIZE_WORDS = [["small", "small", "little", "tiny"], ["medium"], ["large", "large", "big"]]
SHAPE_WORDS = [["circle", "circle", "circle", "disk"], ["square"], ["triangle"], ["star"], ["ring"], ["cross", "cross", "cross", "plus"]]
PLACE_WORDS = [[""], ["in the middle", "in the center"], ["on the left"], ["on the right"], ["at the top"], ["at the bottom"], ["in the corner"]]
OPENINGS = [""] * 6 + ["a picture of ", "an image of ", "a drawing of ", "there is "]
WIDTH = 11


def describe(scenes, rng, full=0.5, place=0.35):
    """A random description of every scene. With probability `full` size, colour, shape and ground are all said."""
    n = len(scenes["count"])
    truth = facts(scenes)
    keep = rng.random((n, WIDTH)) < 0.6
    keep[rng.random(n) < full] = True
    keep[:, [4, 9]] = rng.random((n, 2)) < place
    keep[:, [0, 5]] = True
    out = np.where(keep, truth, -1)
    out[scenes["count"] == 1, 5:10] = -1
    swap = (scenes["count"] == 2) & (rng.random(n) < 0.5)
    out[swap, :10] = out[swap][:, [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]]
    return out


def facts(scenes):
    """The complete description (n, 11); a place that no word fits is -1, as is everything in an empty slot."""
    place = np.where(place_of(scenes) == 0, -1, place_of(scenes))
    one = np.ones_like(scenes["count"])
    cols = []
    for k in range(2):
        cols += [one, scenes["size"][:, k], scenes["colour"][:, k], scenes["shape"][:, k], place[:, k]]
    out = np.stack(cols + [scenes["ground"]], 1)
    out[scenes["count"] == 1, 5:10] = -1
    return out


def agree(said, truth):
    """(m, n) bool: is description i true of the scene with facts j? The objects may match in either order."""
    def match(a, b):
        return ((a[:, None] == -1) | (a[:, None] == b[None])).all(-1)

    count = (said[:, 5:6] == 1) == (truth[:, 5] == 1)[None]
    straight = match(said[:, :5], truth[:, :5]) & match(said[:, 5:10], truth[:, 5:10])
    crossed = match(said[:, :5], truth[:, 5:10]) & match(said[:, 5:10], truth[:, :5])
    return count & match(said[:, 10:], truth[:, 10:]) & (straight | crossed)


def write(said, rng):
    """Words for every description."""
    return [_sentence(row, rng) for row in said.tolist()]


def _pick(words, rng):
    return words[int(rng.integers(len(words)))]


def _object(part, rng):
    _, size, colour, shape, place = part
    size = _pick(SIZE_WORDS[size], rng) if size >= 0 else ""
    colour = COLOURS[colour] if colour >= 0 else ""
    noun = _pick(SHAPE_WORDS[shape], rng) if shape >= 0 else ""
    if not noun and rng.random() < 0.5:
        words = ["something", size, colour]
    elif colour and rng.random() < 0.1:
        words = [size, noun or "shape", "that is", colour]
    else:
        words = [size, colour, noun or _pick(["shape", "shape", "thing", "object"], rng)]
    text = " ".join(w for w in words if w)
    if not text.startswith("something"):
        text = ("an " if text[0] in "aeiou" else "a ") + text
    return text + (" " + _pick(PLACE_WORDS[place], rng) if place >= 0 else "")


def _sentence(row, rng):
    text = _object(row[:5], rng)
    if row[5] == 1:
        text += " and " + _object(row[5:10], rng)
    text = _pick(OPENINGS, rng) + text
    if row[10] >= 0:
        ground = GROUNDS[row[10]]
        ground = "grey" if ground == "gray" and rng.random() < 0.3 else ground
        text += _pick([" on a {} background", " on a {} background", " on a {} background", ", {} background", " on {}"], rng).format(ground)
    return text


def corpus():
    """Every word the captions use, for training the tokenizer."""
    words = [w for group in SIZE_WORDS + SHAPE_WORDS + PLACE_WORDS for t in group for w in t.split()]
    words += [w for t in OPENINGS for w in t.split()] + COLOURS + GROUNDS + ["grey"]
    return sorted(set(words + "a an and on that is shape thing object something background two".split()))


def parse(text):
    """The description in a caption of this grammar, (11,); words it does not know are ignored."""
    out = -np.ones(WIDTH, int)
    text = re.sub(r"[^a-z, ]", " ", text.lower()).replace("grey", "gray")
    head = text
    found = re.search(r"(?:\bon (?:a )?|, ?)(" + "|".join(GROUNDS) + r")(?: background)?\s*$", text)
    if found:
        out[10] = GROUNDS.index(found.group(1))
        head = text[: found.start()]
    for k, part in enumerate(head.split(" and ")[:2]):
        words = part.split()
        slot = out[5 * k : 5 * k + 5]
        slot[0] = 1
        for column, groups in ((1, SIZE_WORDS), (2, [[c] for c in COLOURS]), (3, SHAPE_WORDS)):
            for i, group in enumerate(groups):
                if any(w in group for w in words):
                    slot[column] = i
        for i, group in enumerate(PLACE_WORDS):
            if i and any(w in part for w in group):
                slot[4] = i
    return out


assert len(PLACE_WORDS) == len(PLACES) and len(SHAPE_WORDS) == len(SHAPES) and len(SIZE_WORDS) == len(SIZES)
