"""The tokenizer: a byte-level BPE with CLIP's conventions and a vocabulary small enough to ship.

The vocabulary is the 256 byte symbols, their 256 forms with the end-of-word mark `</w>`, one symbol per merge, and
the two specials, in this order. Every byte is a symbol, so any text can be encoded. Merges are trained on the
caption words (each counted alike) until every word is one token; further words cost a few tokens.
"""
import json
import re
from collections import Counter
from pathlib import Path

import captions
import models
import torch

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols():
    """The printable stand-in for every byte, as in GPT-2 and CLIP: printable Latin-1 stays, the rest moves to U+0100 up."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(moved)}


def order():
    """Byte symbols in the order CLIP lists them."""
    symbols = byte_symbols()
    plain = [b for b in range(256) if symbols[b] == chr(b)]
    return [symbols[b] for b in plain] + [symbols[b] for b in range(256) if b not in plain]


def fuse(parts, pair):
    out, i = [], 0
    while i < len(parts):
        if tuple(parts[i : i + 2]) == pair:
            out.append(parts[i] + parts[i + 1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out


def train(assets):
    symbols = byte_symbols()
    words = [[symbols[b] for b in w.encode()] for w in captions.corpus()]
    words = [w[:-1] + [w[-1] + "</w>"] for w in words]
    merges = []
    while any(len(w) > 1 for w in words):
        pairs = Counter((a, b) for w in words for a, b in zip(w, w[1:]))
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        words = [fuse(w, best) for w in words]
    names = order() + [s + "</w>" for s in order()] + [a + b for a, b in merges] + [START, END]
    assert len(set(names)) == len(names)
    folder = Path(assets) / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({n: i for i, n in enumerate(names)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    models.write_json(folder / "special_tokens_map.json", special)
    models.write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": models.CONTEXT, "do_lower_case": True,
        "errors": "replace", "add_prefix_space": False, **special})
    print(f"{len(names)} tokens, {len(merges)} merges")


class Encoder:
    """Encodes captions (ASCII text); ids are padded with the end token to the longest caption or to `length`."""

    def __init__(self, assets):
        folder = Path(assets) / "tokenizer"
        self.vocab = json.loads((folder / "vocab.json").read_text())
        lines = (folder / "merges.txt").read_text().splitlines()[1:]
        self.rank = {tuple(line.split()): i for i, line in enumerate(lines)}
        self.start, self.end = self.vocab[START], self.vocab[END]
        self.known = {}

    def __len__(self):
        return len(self.vocab)

    def word(self, word):
        if word not in self.known:
            parts = [byte_symbols()[b] for b in word.encode()]
            parts[-1] += "</w>"
            while len(parts) > 1:
                best = min(zip(parts, parts[1:]), key=lambda p: self.rank.get(p, 1 << 30))
                if best not in self.rank:
                    break
                parts = fuse(parts, best)
            self.known[word] = [self.vocab[p] for p in parts]
        return self.known[word]

    def ids(self, text):
        body = [i for w in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", text.lower()) for i in self.word(w)]
        return [self.start, *body[: models.CONTEXT - 2], self.end]

    def __call__(self, texts, length=None):
        rows = [self.ids(t) for t in texts]
        length = length or max(map(len, rows))
        return torch.tensor([r + [self.end] * (length - len(r)) for r in rows])
