"""Golden files of the scorers: tests/golden/hpsv2_tiny/, imagereward_tiny/ and scorers.safetensors.

The models are those of the packages open_clip_torch and image-reward, in float64, with random weights at small
widths in the layout of the published files; images are prepared by torchvision as the packages hpsv2 and
image-reward do, but on floats. The errors of the same computation in float32 are printed.
Of image-reward only the networks are imported, which need transformers 4.40, timm 0.6.13 and fairscale.
Run from the repository root: python tools/golden/scorers.py
"""
import importlib.util
import json
import pathlib
import shutil
import sys
import types

# ruff: noqa: E402
# Packages whose own imports need more than the networks do: they must stand before the networks are imported.
folder = importlib.util.find_spec("ImageReward").submodule_search_locations[0]
for package in ["ImageReward", "ImageReward.models", "ImageReward.models.BLIP"]:
    sys.modules[package] = types.ModuleType(package)
    sys.modules[package].__path__ = ["/".join([folder, *package.split(".")[1:]])]

import open_clip
import torch
from ImageReward.models.BLIP.med import BertConfig, BertModel
from ImageReward.models.BLIP.vit import VisionTransformer
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms.functional import InterpolationMode, center_crop, normalize, pad, resize
from transformers import BertTokenizer, CLIPTokenizer

OUT = pathlib.Path("tests/golden")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PROMPTS = [
    "a large red star on a blue background",
    "ring",
    "a small green circle above a large yellow triangle on a white background, and a cross, and a square",
]
PROMPT_OF = [2, 0, 1]
SEED = [1.0, -0.5, 2.0]
SIZES = {"wide": (40, 53), "tall": (45, 24), "square": (32, 32)}
WORDS = "a large red star on blue background small green circle above yellow triangle white and cross square ring"


def randomize(model, seed):
    """Larger than the initialisation, so that nothing stays close to linear."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim <= 1:
                p.copy_(0.2 * torch.randn_like(p) + (1 if "weight" in name else 0))
            else:
                wide = "embed" in name or "token" in name
                p.copy_(torch.randn_like(p) * (0.5 if wide else 1.2 / p[0].numel() ** 0.5))
            p.copy_(p.half().float())  # the files hold f16
    return model.eval()


def save(model, path, names=lambda name: name):
    state = {names(k): v for k, v in model.state_dict().items()}
    half = {k: v.half().contiguous() if v.is_floating_point() else v.contiguous() for k, v in state.items()}
    save_file(half, path)
    path.chmod(0o644)


def hpsv2(folder):
    """An OpenCLIP model, and its scores."""
    folder.mkdir(exist_ok=True)
    shapes = pathlib.Path("assets/shapes/tokenizer")
    for name in ["vocab.json", "merges.txt", "special_tokens_map.json"]:
        shutil.copy(shapes / name, folder / name)
    (folder / "tokenizer_config.json").write_text((OUT / "clip_tiny/tokenizer_config.json").read_text())
    size = len(json.loads((folder / "vocab.json").read_text()))
    config = {
        "embed_dim": 20,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": size, "width": 24, "heads": 3, "layers": 2},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}, indent=2) + "\n")
    model = randomize(open_clip.model.CLIP(**config), 5)
    save(model, folder / "open_clip_model.safetensors")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder))
    tokens = tokenizer(PROMPTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    return lambda images, dtype: hpsv2_scores(model.to(dtype), tokens[PROMPT_OF], images, 32)


def hpsv2_scores(model, tokens, images, side):
    """Of (n, h, w, 3) in [0, 1], as the package hpsv2 computes them for the tokens of n prompts."""
    x = images.permute(0, 3, 1, 2)
    scale = side / max(x.shape[2:])
    if scale != 1:
        h, w = (round(n * scale) for n in x.shape[2:])
        x = resize(x, [h, w], InterpolationMode.BICUBIC, antialias=True)
        left, top = (side - w) // 2, (side - h) // 2
        x = pad(x, [left, top, side - w - left, side - h - top], fill=0)
    image = model.encode_image(normalize(x, MEAN, STD), normalize=True)
    return torch.diagonal(image @ model.encode_text(tokens, normalize=True).T)


class Judge(nn.Module):
    """The parts of ImageReward that its file holds."""

    def __init__(self, image, text, projection, widths):
        super().__init__()
        self.blip = nn.Module()
        self.blip.visual_encoder = VisionTransformer(**image)
        config = BertConfig(**text, layer_norm_eps=1e-12, hidden_act="gelu", add_cross_attention=True)
        config.encoder_width = image["embed_dim"]
        self.blip.text_encoder = BertModel(config=config, add_pooling_layer=False)
        self.blip.vision_proj = nn.Linear(image["embed_dim"], projection)
        self.blip.text_proj = nn.Linear(text["hidden_size"], projection)
        self.mlp = nn.Module()
        layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:])]
        gap = nn.Identity()
        self.mlp.layers = nn.Sequential(layers[0], gap, layers[1], gap, layers[2], gap, layers[3], layers[4])


def imagereward(folder):
    """A file as ImageReward.pt holds it, and its scores."""
    folder.mkdir(exist_ok=True)
    letters = [c for c in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *",.!?-", *letters, *("##" + c for c in letters)]
    vocabulary += [word for word in dict.fromkeys(WORDS.split()) if len(word) > 1] + ["##ing", "##round", "中", "σ"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    image = dict(img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2, mlp_ratio=0.5)
    text = dict(vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
                intermediate_size=64, max_position_embeddings=64)
    model = randomize(Judge(image, text, 16, [128, 32, 16, 8, 4, 1]), 6)
    save(model, folder / "ImageReward.safetensors")
    tokens = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=35, return_tensors="pt")
    ids, mask = tokens.input_ids[PROMPT_OF], tokens.attention_mask[PROMPT_OF]
    return lambda images, dtype: imagereward_scores(model.to(dtype), ids, mask, images, 32)


def imagereward_scores(model, ids, mask, images, side):
    """Of (n, h, w, 3) in [0, 1], as ImageReward.score_gard computes them for the tokens of n prompts."""
    x = resize(images.permute(0, 3, 1, 2), side, InterpolationMode.BICUBIC, antialias=True)
    image = model.blip.visual_encoder(normalize(center_crop(x, side), MEAN, STD))
    output = model.blip.text_encoder(
        ids, attention_mask=mask, encoder_hidden_states=image,
        encoder_attention_mask=torch.ones(image.shape[:-1], dtype=torch.long), return_dict=True,
    )
    raw = model.mlp.layers(output.last_hidden_state[:, 0])
    return ((raw - 0.16717362830052426) / 1.0333394966054072)[:, 0]


if __name__ == "__main__":
    tensors = {}
    scorers = {"hpsv2": hpsv2(OUT / "hpsv2_tiny"), "imagereward": imagereward(OUT / "imagereward_tiny")}
    torch.manual_seed(7)
    for size, (h, w) in SIZES.items():
        images = torch.rand(3, h, w, 3)
        tensors[f"{size}.images"] = images
        for name, score in scorers.items():
            found = {}
            for dtype in [torch.float32, torch.float64]:
                x = images.to(dtype).requires_grad_()
                value = score(x, dtype)
                gradient = torch.autograd.grad((torch.tensor(SEED, dtype=dtype) * value).sum(), x)[0]
                found[dtype] = {"score": value.detach().double(), "gradient": gradient.double()}
            for key, value in found[torch.float64].items():
                error = ((found[torch.float32][key] - value) ** 2).sum() / (value**2).sum()
                tensors[f"{size}.{name}.{key}"] = value.float() if key == "gradient" else value
                print(f"{size:8} {name:12} {key:10} float32 NMSE {float(error):.2e}", value.flatten()[:3].tolist())
    save_file({k: v.contiguous() for k, v in tensors.items()}, OUT / "scorers.safetensors")
    (OUT / "scorers.safetensors").chmod(0o644)
