"""Golden files of the rewards: tests/golden/rewards.safetensors and tests/golden/clip_tiny/.

JPEG sizes are Pillow's. Embeddings, scores and gradients are those of PyTorch, torchvision and transformers in
float64, for a CLIP of random weights in the layout that a user would have on disk. `error.*` are the errors of the same
computation in float32, as normalised mean squares: the yardstick of the tests' tolerances.
Run from the repository root: python tools/golden/rewards.py
"""
import io
import json
import pathlib

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from torchvision.transforms.functional import InterpolationMode, normalize, resize
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

OUT = pathlib.Path("tests/golden")
SIDE = 32
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
PROMPTS = [
    "a large red star on a blue background",
    "ring",
    "a small green circle above a large yellow triangle on a white background, and a cross, and a square",
]
PROMPT_OF = [2, 0, 1]
# The linear layers of the aesthetic head, between which the published one has dropout.
LAYERS = [0, 2, 4, 6, 7]


def pictures():
    """Pictures of several kinds and odd sizes: flat, smooth, shapes with edges, texture, noise."""
    rng = np.random.default_rng(7)
    for i, (h, w) in enumerate([(64, 64), (64, 64), (64, 64), (64, 64), (67, 45), (96, 128), (8, 8), (1, 1)]):
        y, x = np.mgrid[0:h, 0:w] / max(h, w)
        smooth = np.stack([0.5 + 0.4 * np.sin(3 * x + i), 0.3 + 0.5 * y, 0.5 + 0.4 * np.cos(4 * x * y)], -1)
        disc = ((x - 0.45) ** 2 + (y - 0.4) ** 2 < 0.06)[..., None] * np.array([0.9, -0.2, -0.4])
        noise = rng.standard_normal((h, w, 3))
        image = [
            0 * smooth + 0.4, smooth, smooth + disc, smooth + 0.05 * noise, smooth + disc + 0.02 * noise,
            0.2 * smooth + 3 * disc + 0.1 * noise, 0.5 + 0.3 * noise, smooth,
        ][i]
        yield np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)


def jpeg(tensors):
    for i, picture in enumerate(pictures()):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=95)  # Pillow's default is 4:2:0
        tensors[f"jpeg.{i}.picture"] = picture
        tensors[f"jpeg.{i}.bytes"] = np.array([file.tell()], np.int32)


def tiny_clip(folder):
    """A CLIP folder with a tokenizer of its own, preprocessor settings and an aesthetic head."""
    tokenizer = pathlib.Path("assets/shapes/tokenizer")
    vocabulary = len(json.loads((tokenizer / "vocab.json").read_text()))
    config = CLIPConfig(
        projection_dim=20,
        text_config=dict(vocab_size=vocabulary, hidden_size=24, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=3, max_position_embeddings=16, eos_token_id=vocabulary - 1,
                         bos_token_id=vocabulary - 2, pad_token_id=vocabulary - 1, projection_dim=20),
        vision_config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                           image_size=SIDE, patch_size=8, projection_dim=20),
    )
    torch.manual_seed(3)
    model = CLIPModel(config).eval()
    with torch.no_grad():  # larger than the initialisation, so that nothing stays close to linear
        for name, p in model.named_parameters():
            if name.endswith("bias") or "norm" in name or "layrnorm" in name:
                p.add_(0.2 * torch.randn_like(p))
            elif p.ndim > 1:
                p.copy_(torch.randn_like(p) * (0.5 if "embedding" in name else 1.2 / p[0].numel() ** 0.5))
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    for name in ["vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"]:
        text = (tokenizer / name).read_text()
        if name == "tokenizer_config.json":
            text = json.dumps({**json.loads(text), "model_max_length": 16}, indent=2) + "\n"
        (folder / name).write_text(text)
    settings = {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": SIDE}, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    head = random_head([20, 16, 12, 8, 6, 1])
    save_file({k: v.numpy() for k, v in head.items()}, folder / "aesthetic.safetensors")
    return model, head, CLIPTokenizer.from_pretrained(str(folder))


def embed(model, images, mean=MEAN, std=STD):
    """Unit image embeddings of (n, h, w, 3) in [0, 1]: shorter side to the tower's size, centre, normalise."""
    side = model.config.vision_config.image_size
    x = resize(images.permute(0, 3, 1, 2), side, InterpolationMode.BILINEAR, antialias=True)
    top, left = (x.shape[2] - side) // 2, (x.shape[3] - side) // 2
    x = normalize(x[:, :, top : top + side, left : left + side], mean, std)
    out = model.visual_projection(model.vision_model(pixel_values=x).pooler_output)
    return out / out.norm(dim=-1, keepdim=True), x


def embed_texts(model, tokens):
    out = model.text_projection(model.text_model(input_ids=tokens).pooler_output)
    return out / out.norm(dim=-1, keepdim=True)


def judge(head, embeddings):
    """Aesthetic scores."""
    for i in LAYERS:
        embeddings = embeddings @ head[f"layers.{i}.weight"].T + head[f"layers.{i}.bias"]
    return embeddings[:, 0]


def random_head(widths):
    head = {}
    for i, (a, b) in zip(LAYERS, zip(widths, widths[1:])):
        head[f"layers.{i}.weight"] = torch.randn(b, a) / a**0.5
        head[f"layers.{i}.bias"] = torch.randn(b)
    return head


def score(model, head, tokens, images, dtype):
    """Everything the tests compare, and the gradients of weighted sums of the scores."""
    model, head = model.to(dtype), {k: v.to(dtype) for k, v in head.items()}
    text = embed_texts(model, tokens)
    images = images.clone().to(dtype).requires_grad_()
    image, pixels = embed(model, images)
    aesthetic, cosine = judge(head, image), (image * text[PROMPT_OF]).sum(-1)
    seed = torch.tensor([1.0, -0.5, 2.0], dtype=dtype)
    out = {"pixels": pixels.permute(0, 2, 3, 1), "text": text, "image": image, "aesthetic": aesthetic, "cosine": cosine}
    for name, value in [("aesthetic", aesthetic), ("cosine", cosine)]:
        out[f"{name}.gradient"] = torch.autograd.grad((seed * value).sum(), images, retain_graph=True)[0]
    return {k: v.detach().double().numpy() for k, v in out.items()}


def clip(tensors):
    model, head, tokenizer = tiny_clip(OUT / "clip_tiny")
    tokens = tokenizer(PROMPTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    torch.manual_seed(4)
    for name, (h, w) in {"wide": (40, 53), "tall": (45, 24), "square": (SIDE, SIDE)}.items():
        images = torch.rand(3, h, w, 3)
        exact = score(model, head, tokens, images, torch.float64)
        single = score(model, head, tokens, images, torch.float32)
        tensors[f"clip.{name}.images"] = images.numpy()
        for key, value in exact.items():
            if key == "text" and name != "wide":
                continue
            # Square images are at full size already: there the pixels say nothing new.
            if not (key == "pixels" and name == "square"):
                kind = np.float32 if value.ndim > 2 else np.float64
                tensors[f"clip.{name}.{key}"] = np.ascontiguousarray(value, kind)
            error = ((single[key] - value) ** 2).sum() / (value**2).sum()
            tensors[f"clip.{name}.error.{key}"] = np.array([error])
            print(f"{name:8} {key:20} float32 NMSE {error:.2e}")
    tensors["clip.seed"] = np.array([1.0, -0.5, 2.0], np.float32)


if __name__ == "__main__":
    tensors = {}
    jpeg(tensors)
    clip(tensors)
    save_file(tensors, OUT / "rewards.safetensors")
    for f in [OUT / "rewards.safetensors", *(OUT / "clip_tiny").glob("*.safetensors")]:
        f.chmod(0o644)
    size = sum(f.stat().st_size for f in [OUT / "rewards.safetensors", *(OUT / "clip_tiny").iterdir()])
    print(f"{size} bytes")
