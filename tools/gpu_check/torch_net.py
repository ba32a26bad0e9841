"""The networks of Stable Diffusion 1.5 and CLIP in plain PyTorch, with the names of diffusers and transformers, so
that they read the folders that das-cuda reads. Written for machines that have PyTorch and nothing else."""

import json
import math
import mmap
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def read_safetensors(path):
    """Name -> tensor; the bytes stay in the file until they are used."""
    with open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    size = int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            dtype = DTYPES[entry["dtype"]]
            count = (end - begin) // dtype.itemsize
            tensor = torch.frombuffer(content, dtype=dtype, count=count, offset=8 + size + begin)
            tensors[name] = tensor.reshape(entry["shape"])
    return tensors


class Resnet(nn.Module):
    def __init__(self, c, out, groups, eps, time=None):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c, eps)
        self.conv1 = nn.Conv2d(c, out, 3, padding=1)
        if time:
            self.time_emb_proj = nn.Linear(time, out)
        self.norm2 = nn.GroupNorm(groups, out, eps)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c, out, 1) if c != out else None

    def forward(self, x, time=None):
        h = self.conv1(F.silu(self.norm1(x)))
        if time is not None:
            h = h + self.time_emb_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h


class Attention(nn.Module):
    def __init__(self, c, heads, context=None, bias=False):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(c, c, bias)
        self.to_k = nn.Linear(context or c, c, bias)
        self.to_v = nn.Linear(context or c, c, bias)
        self.to_out = nn.ModuleList([nn.Linear(c, c)])

    def forward(self, x, context=None):
        context = x if context is None else context
        q, k, v = (
            f(t).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for f, t in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, c, inner):
        super().__init__()
        self.proj = nn.Linear(c, 2 * inner)

    def forward(self, x):
        x, gate = self.proj(x).chunk(2, -1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.net = nn.ModuleList([Gated(c, 4 * c), nn.Identity(), nn.Linear(4 * c, c)])

    def forward(self, x):
        for layer in self.net:
            x = layer(x)
        return x


class Block(nn.Module):
    def __init__(self, c, heads, context):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(c), nn.LayerNorm(c), nn.LayerNorm(c)
        self.attn1, self.attn2 = Attention(c, heads), Attention(c, heads, context)
        self.ff = FeedForward(c)

    def forward(self, x, text):
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    def __init__(self, c, heads, context, groups):
        super().__init__()
        self.norm = nn.GroupNorm(groups, c, 1e-6)
        self.proj_in = nn.Conv2d(c, c, 1)
        self.transformer_blocks = nn.ModuleList([Block(c, heads, context)])
        self.proj_out = nn.Conv2d(c, c, 1)

    def forward(self, x, text):
        h = self.proj_in(self.norm(x))
        h = self.transformer_blocks[0](h.flatten(2).transpose(1, 2), text)
        return x + self.proj_out(h.transpose(1, 2).unflatten(2, x.shape[2:]))


class Sampler(nn.Module):
    """Half or twice the size."""

    def __init__(self, c, up):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(c, c, 3, stride=1 if up else 2, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else x)


class Level(nn.Module):
    def __init__(self, inputs, out, groups, eps, time, transformer, sampler=None):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(c, out, groups, eps, time) for c in inputs])
        if transformer:
            self.attentions = nn.ModuleList([transformer(out) for _ in inputs])
        if sampler:
            setattr(self, sampler, nn.ModuleList([Sampler(out, sampler == "upsamplers")]))


class TimeEmbedding(nn.Module):
    def __init__(self, c, out):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(c, out), nn.Linear(out, out)

    def forward(self, x):
        return self.linear_2(F.silu(self.linear_1(x)))


class Mid(nn.Module):
    def __init__(self, c, groups, eps, time, attention):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(c, c, groups, eps, time) for _ in range(2)])
        self.attentions = nn.ModuleList([attention])


class Unet(nn.Module):
    def __init__(self, config):
        super().__init__()
        sizes, groups, eps = config["block_out_channels"], config["norm_num_groups"], config["norm_eps"]
        self.base, time = sizes[0], 4 * sizes[0]

        def transformer(c):
            return Transformer(c, config["attention_head_dim"], config["cross_attention_dim"], groups)

        self.conv_in = nn.Conv2d(config["in_channels"], sizes[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(sizes[0], time)
        c, skips, down, up = sizes[0], [sizes[0]], [], []
        for i, out in enumerate(sizes):
            attends = transformer if "Cross" in config["down_block_types"][i] else None
            last = i + 1 == len(sizes)
            down.append(Level([c, out], out, groups, eps, time, attends, None if last else "downsamplers"))
            skips += [out, out] + [out] * (not last)
            c = out
        for i, out in enumerate(reversed(sizes)):
            attends = transformer if "Cross" in config["up_block_types"][i] else None
            inputs = [(c if j == 0 else out) + skips.pop() for j in range(3)]
            last = i + 1 == len(sizes)
            up.append(Level(inputs, out, groups, eps, time, attends, None if last else "upsamplers"))
            c = out
        self.down_blocks, self.up_blocks = nn.ModuleList(down), nn.ModuleList(up)
        self.mid_block = Mid(sizes[-1], groups, eps, time, transformer(sizes[-1]))
        self.conv_norm_out = nn.GroupNorm(groups, sizes[0], eps)
        self.conv_out = nn.Conv2d(sizes[0], config["out_channels"], 3, padding=1)

    def forward(self, x, t, text):
        half = self.base // 2
        phase = t * torch.exp(-math.log(10000) / half * torch.arange(half, device=x.device))
        time = torch.cat([phase.cos(), phase.sin()])[None].to(x.dtype)
        time = self.time_embedding(time.to(self.time_embedding.linear_1.weight.dtype))
        h = self.conv_in(x)
        skips = [h]
        for level in self.down_blocks:
            for j, resnet in enumerate(level.resnets):
                h = resnet(h, time)
                if hasattr(level, "attentions"):
                    h = level.attentions[j](h, text)
                skips.append(h)
            if hasattr(level, "downsamplers"):
                h = level.downsamplers[0](h)
                skips.append(h)
        h = self.mid_block.resnets[0](h, time)
        h = self.mid_block.attentions[0](h, text)
        h = self.mid_block.resnets[1](h, time)
        for level in self.up_blocks:
            for j, resnet in enumerate(level.resnets):
                h = resnet(torch.cat([h, skips.pop()], 1), time)
                if hasattr(level, "attentions"):
                    h = level.attentions[j](h, text)
            if hasattr(level, "upsamplers"):
                h = level.upsamplers[0](h)
        return self.conv_out(F.silu(self.conv_norm_out(h)))


class SpatialAttention(Attention):
    def __init__(self, c, groups):
        super().__init__(c, 1, bias=True)
        self.group_norm = nn.GroupNorm(groups, c, 1e-6)

    def forward(self, x):
        h = super().forward(self.group_norm(x).flatten(2).transpose(1, 2))
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        sizes, groups = config["block_out_channels"][::-1], config["norm_num_groups"]
        c = sizes[0]
        self.conv_in = nn.Conv2d(config["latent_channels"], c, 3, padding=1)
        self.mid_block = Mid(c, groups, 1e-6, None, SpatialAttention(c, groups))
        blocks = []
        for i, out in enumerate(sizes):
            last = i + 1 == len(sizes)
            blocks.append(Level([c, out, out], out, groups, 1e-6, None, None, None if last else "upsamplers"))
            c = out
        self.up_blocks = nn.ModuleList(blocks)
        self.conv_norm_out = nn.GroupNorm(groups, c, 1e-6)
        self.conv_out = nn.Conv2d(c, 3, 3, padding=1)

    def forward(self, x):
        h = self.mid_block.resnets[0](self.conv_in(x))
        h = self.mid_block.resnets[1](self.mid_block.attentions[0](h))
        for level in self.up_blocks:
            for resnet in level.resnets:
                h = resnet(h)
            if hasattr(level, "upsamplers"):
                h = level.upsamplers[0](h)
        return self.conv_out(F.silu(self.conv_norm_out(h)))


class Vae(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.scale = config["scaling_factor"]
        self.post_quant_conv = nn.Conv2d(config["latent_channels"], config["latent_channels"], 1)
        self.decoder = Decoder(config)

    def forward(self, x):
        return self.decoder(self.post_quant_conv(x / self.scale))


class ClipAttention(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(c, c) for _ in range(4))

    def forward(self, x, causal):
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class ClipMlp(nn.Module):
    def __init__(self, c, inner):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(c, inner), nn.Linear(inner, c)

    def forward(self, x):
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class ClipLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config["hidden_size"]
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.self_attn = ClipAttention(c, config["num_attention_heads"])
        self.mlp = ClipMlp(c, config["intermediate_size"])

    def forward(self, x, causal):
        x = x + self.self_attn(self.layer_norm1(x), causal)
        return x + self.mlp(self.layer_norm2(x))


class ClipEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList([ClipLayer(config) for _ in range(config["num_hidden_layers"])])

    def forward(self, x, causal):
        for layer in self.layers:
            x = layer(x, causal)
        return x


class TextEmbeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.token_embedding = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.position_embedding = nn.Embedding(config["max_position_embeddings"], config["hidden_size"])


class TextModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = ClipEncoder(config)
        self.final_layer_norm = nn.LayerNorm(config["hidden_size"])


class Text(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.text_model = TextModel(config)

    def forward(self, ids):
        model = self.text_model
        x = model.embeddings.token_embedding(ids) + model.embeddings.position_embedding.weight[: ids.shape[1]]
        return model.final_layer_norm(model.encoder(x, True))


class VisionEmbeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        c, patch = config["hidden_size"], config["patch_size"]
        self.class_embedding = nn.Parameter(torch.zeros(c))
        self.patch_embedding = nn.Conv2d(3, c, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding((config["image_size"] // patch) ** 2 + 1, c)


class VisionModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config["hidden_size"]
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm, self.post_layernorm = nn.LayerNorm(c), nn.LayerNorm(c)
        self.encoder = ClipEncoder(config)


class Vision(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.side = config["image_size"]
        self.vision_model = VisionModel(config)
        self.visual_projection = nn.Linear(config["hidden_size"], config["projection_dim"], bias=False)

    def forward(self, images):
        model = self.vision_model
        patches = model.embeddings.patch_embedding(images).flatten(2).transpose(1, 2)
        token = model.embeddings.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        x = torch.cat([token, patches], 1) + model.embeddings.position_embedding.weight
        x = model.encoder(model.pre_layrnorm(x), False)
        return self.visual_projection(model.post_layernorm(x[:, 0]))


class Head(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.layers = nn.ModuleList()
        for i in range(8):
            weight = weights.get(f"layers.{i}.weight")
            self.layers.append(nn.Identity() if weight is None else nn.Linear(*weight.shape[::-1]))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x.squeeze(-1)


class Models:
    """All networks of a folder, in f32 on `device`."""

    def __init__(self, folder, device):
        folder = Path(folder)

        def config(part):
            return json.loads((folder / part / "config.json").read_text())

        def load(part, file, make):
            weights = read_safetensors(folder / part / file)
            with torch.device("meta"):
                model = make(weights)
            model = model.to_empty(device=device).requires_grad_(False).eval()
            model.load_state_dict(weights)
            return model

        diffusers, transformers = "diffusion_pytorch_model.safetensors", "model.safetensors"
        self.unet = load("unet", diffusers, lambda _: Unet(config("unet")))
        self.vae = load("vae", diffusers, lambda _: Vae(config("vae")))
        self.text = load("text_encoder", transformers, lambda _: Text(config("text_encoder")))
        self.vision = load("clip", transformers, lambda _: Vision(config("clip")["vision_config"]))
        self.head = load("aesthetic", transformers, Head)
        self.mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(STD, device=device).view(1, 3, 1, 1)

    def to(self, **parts):
        """Other element types for some of the networks."""
        for name, dtype in parts.items():
            getattr(self, name).to(dtype)
        return self

    def channels_last(self):
        for model in (self.unet, self.vae, self.vision):
            model.to(memory_format=torch.channels_last)
        return self

    def reward(self, images):
        side, images = self.vision.side, images.float()
        if images.shape[-1] != side:
            images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        images = (images - self.mean) / self.std
        features = self.vision(images.to(self.vision.visual_projection.weight.dtype))
        features = features / features.norm(dim=-1, keepdim=True)
        return self.head(features)

    def look(self, x, text, step):
        """Noise, clean latent, reward and its gradient; `text` is (without, with the prompt)."""
        x = x.detach().requires_grad_(True)
        dtype = next(self.unet.parameters()).dtype
        both = text.to(dtype).repeat_interleave(len(x), 0)
        out = self.unet(torch.cat([x, x]).to(dtype), step["t"], both)
        uncond, cond = out.chunk(2)
        out = (uncond + step["guidance"] * (cond - uncond)).to(x.dtype)
        eps = step["eps_map"][0] * x + step["eps_map"][1] * out
        x0 = step["x0_map"][0] * x + step["x0_map"][1] * out
        images = self.vae(x0.to(self.vae.post_quant_conv.weight.dtype))
        reward = self.reward((images / 2 + 0.5).clamp(0, 1))
        grad = torch.autograd.grad(reward.sum(), x)[0]
        return eps.detach(), x0.detach(), reward.detach(), grad
