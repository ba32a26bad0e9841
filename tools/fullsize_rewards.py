"""Rewards of full size with random weights: their scores and gradients, to compare das-cuda with.

    python tools/fullsize_rewards.py make REWARD FOLDER     # the files as they are published (1 to 4 GB), pictures
    python tools/fullsize_rewards.py run REWARD FOLDER      # in float64 and float32: torch.safetensors
    cargo bench --bench fullsize -- FOLDER REWARD           # the same with das-cuda, and how far apart they are

REWARD is aesthetic, clip, pickscore, hpsv2 or imagereward. The networks are those of transformers, of open_clip
and of the package image-reward; hpsv2 and imagereward need what tools/golden/scorers.py needs. Nothing is
downloaded, and nothing made here is committed.
"""

import argparse
import gc
import gzip
import json
import pathlib
import time

import torch
from golden.rewards import embed, embed_texts, judge, random_head
from safetensors.torch import load_file, save_file

CLIP_L = dict(
    projection_dim=768,
    text_config=dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                     projection_dim=768, hidden_act="quick_gelu"),
    vision_config=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                       patch_size=14, projection_dim=768, hidden_act="quick_gelu"))
CLIP_H = dict(
    projection_dim=1024,
    text_config=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                     projection_dim=1024, hidden_act="gelu"),
    vision_config=dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16,
                       patch_size=14, projection_dim=1024, hidden_act="gelu"))
HEAD = [768, 1024, 128, 64, 16, 1]
OPEN_CLIP_H = dict(
    embed_dim=1024,
    vision_cfg=dict(image_size=224, layers=32, width=1280, head_width=80, patch_size=14),
    text_cfg=dict(context_length=77, vocab_size=49408, width=1024, heads=16, layers=24))
BLIP = dict(
    image=dict(img_size=224, patch_size=16, embed_dim=1024, depth=24, num_heads=16),
    text=dict(vocab_size=30524, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
              intermediate_size=3072, max_position_embeddings=512),
    projection=256, widths=[768, 1024, 128, 64, 16, 1])

PROMPTS = ["a photo of a cat on a mat, in the style of an old master", "two red boats"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def randomize(model):
    """Weights whose layers neither fade nor outgrow the sum over the layers."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            wide = "embed" in name and p.ndim > 1 and "proj" not in name or "token" in name
            if wide or p.ndim < 2:
                p.copy_(torch.randn(p.shape) * (0.02 if wide else 0.1))
                if not wide and name.endswith("weight"):
                    p.add_(1)
            else:
                p.copy_(torch.randn(p.shape) * 0.7 * p[0].numel() ** -0.5)
    return model.eval()


def clip(sizes):
    from transformers import CLIPConfig, CLIPModel

    return CLIPModel(CLIPConfig(**sizes))


def make_clip(folder, sizes):
    """A folder of transformers, with the tokenizer that the merges of assets/clip make."""
    model = randomize(clip(sizes))
    model.save_pretrained(folder)
    merges = gzip.open("assets/clip/merges.txt.gz", "rt", encoding="utf8").read()
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + i for i in range(256 - len(letters))]
    letters = [chr(c) for c in letters + others]
    words = letters + [c + "</w>" for c in letters] + [line.replace(" ", "", 1) for line in merges.splitlines()]
    words += ["<|startoftext|>", "<|endoftext|>"]
    assert len(words) == 49408
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges)
    end = "<|endoftext|>"
    settings = {"bos_token": "<|startoftext|>", "eos_token": end, "pad_token": end, "unk_token": end,
                "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    save_file(random_head([sizes["projection_dim"], *HEAD[1:]]), folder / "aesthetic.safetensors")


def make_hpsv2(folder):
    import open_clip

    model = randomize(open_clip.model.CLIP(**OPEN_CLIP_H)).half()
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, folder / "HPS_v2_compressed.pt")


def make_imagereward(folder):
    from golden.scorers import Judge

    torch.save(randomize(Judge(**BLIP)).state_dict(), folder / "ImageReward.pt")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", *letters, *("##" + c for c in letters)]
    words += sorted({w for p in PROMPTS for w in p.replace(",", "").split() if len(w) > 1})
    words += [f"[unused{i}]" for i in range(BLIP["text"]["vocab_size"] - 2 - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")


def make(reward, folder):
    folder.mkdir(parents=True, exist_ok=True)
    match reward:
        case "hpsv2":
            make_hpsv2(folder)
        case "imagereward":
            make_imagereward(folder)
        case _:
            make_clip(folder, CLIP_H if reward == "pickscore" else CLIP_L)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    g = torch.Generator().manual_seed(2)
    pictures = {}
    for name, size in {"square": (512, 512), "wide": (384, 640)}.items():
        coarse = torch.rand(len(PROMPTS), 3, 9, 9, generator=g)
        smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
        count = len(PROMPTS) if name == "square" else 1
        pictures[name] = (smooth[:count].permute(0, 2, 3, 1) * 255).round().div(255).contiguous()
    save_file(pictures, folder / "inputs.safetensors")


def scorer(reward, folder):
    """The model, and a function that scores pictures (n, h, w, 3), each for its own prompt."""
    if reward == "hpsv2":
        import open_clip
        from golden.scorers import hpsv2_scores

        model = open_clip.model.CLIP(**OPEN_CLIP_H)
        model.load_state_dict(torch.load(folder / "HPS_v2_compressed.pt")["state_dict"])
        tokens = open_clip.get_tokenizer("ViT-H-14")(PROMPTS)
        return model.eval(), lambda images: hpsv2_scores(model, tokens[:len(images)], images, 224)
    if reward == "imagereward":
        from golden.scorers import Judge, imagereward_scores
        from transformers import BertTokenizer

        tokenizer = BertTokenizer(str(folder / "vocab.txt"))
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
        tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
        tokens = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=35, return_tensors="pt")
        model = Judge(**BLIP)
        model.load_state_dict(torch.load(folder / "ImageReward.pt"))
        ids, mask = tokens.input_ids, tokens.attention_mask

        def score(images):
            n = len(images)
            return imagereward_scores(model, ids[:n], mask[:n], images, 224)

        return model.eval(), score

    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
    if reward == "aesthetic":
        head = load_file(folder / "aesthetic.safetensors")
        return model, lambda images: judge({k: v.to(images.dtype) for k, v in head.items()},
                                           embed(model, images, MEAN, STD)[0])
    tokenizer = CLIPTokenizer.from_pretrained(str(folder))
    tokens = tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    factor = 20 if reward == "clip" else 1

    def score(images):
        texts = embed_texts(model, tokens[: len(images)])
        return factor * (embed(model, images, MEAN, STD)[0] * texts).sum(-1)

    return model, score


def run(reward, folder):
    start = time.perf_counter()
    model, score = scorer(reward, folder)
    model.requires_grad_(False)
    out = {}
    for dtype, mark in [(torch.float32, ".float32"), (torch.float64, "")]:
        model.to(dtype)
        gc.collect()
        for name, pictures in load_file(folder / "inputs.safetensors").items():
            x = pictures.to(dtype).requires_grad_()
            value = score(x)
            gradient = torch.autograd.grad(value.sum(), x)[0]
            out[f"{name}.scores{mark}"], out[f"{name}.gradients{mark}"] = value.detach().float(), gradient.float()
            print(f"{time.perf_counter() - start:.0f} s: {name} in {dtype}: {value.tolist()}, "
                  f"gradients of norm {gradient.flatten(1).norm(dim=1).tolist()}", flush=True)
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "torch.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "run"])
    parser.add_argument("reward", choices=["aesthetic", "clip", "pickscore", "hpsv2", "imagereward"])
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    {"make": make, "run": run}[arguments.command](arguments.reward, arguments.folder)
