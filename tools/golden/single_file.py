"""Golden files for tests/single_file.rs: checkpoints in one file, in the layouts of the original programs.

For the small pipelines of tests/golden/models: NAME.tsv, which tells for every tensor of the folder its name in the
single file and what becomes of it (`whole`; `third N`: a block of rows of a fused matrix; `transposed`). Every table
is held against diffusers, whose from_single_file must load the file so made to the very tensors of the folder.
For the published families: NAME.txt.gz, the names and shapes of the tensors of a whole checkpoint.

    python tools/golden/single_file.py     # torch 2.15, diffusers 0.42, transformers 5.24, accelerate
"""

import gzip
import logging
import pathlib
import re
import shutil
import tempfile
import warnings

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests/golden/models"
OUT = ROOT / "tests/golden/single_file"
RESIDUAL = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
            "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
OUTER = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0",
         "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
         "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0", "conv_out": "out.2"}


def unet(name, layers, names):
    """The name of a tensor of a UNet with `layers` residual blocks per level, as ldm numbers its blocks."""
    head, leaf = name.rsplit(".", 1)
    if head in OUTER:
        return f"{OUTER[head]}.{leaf}"
    side, rest = name.split(".", 1)
    if side == "mid_block":
        kind, i, rest = rest.split(".", 2)
        if kind == "attentions":
            return f"middle_block.1.{rest}"
        part, leaf = rest.rsplit(".", 1)
        return f"middle_block.{2 * int(i)}.{RESIDUAL[part]}.{leaf}"
    level, kind, i, rest = rest.split(".", 3)
    level, i = int(level), int(i)
    if side == "down_blocks":
        at = f"input_blocks.{1 + level * (layers + 1) + i}"
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.op.{leaf}"
    else:
        at = f"output_blocks.{level * (layers + 1) + i}"
        if kind == "upsamplers":
            crosses = any(n.startswith(f"up_blocks.{level}.attentions.") for n in names)
            return f"output_blocks.{level * (layers + 1) + layers}.{2 if crosses else 1}.conv.{leaf}"
    if kind == "attentions":
        return f"{at}.1.{rest}"
    part, leaf = rest.rsplit(".", 1)
    return f"{at}.0.{RESIDUAL[part]}.{leaf}"


def vae(name, levels):
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for new, old in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{old}.")
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def open_clip(name):
    """The name in OpenCLIP, and which part of a fused or transposed tensor."""
    name = name.removeprefix("text_model.")
    if name == "text_projection.weight":
        return "text_projection", "transposed"
    if name == "embeddings.position_embedding.weight":
        return "positional_embedding", "whole"
    for nth, part in enumerate("qkv"):
        if m := re.fullmatch(rf"encoder\.layers\.(\d+)\.self_attn\.{part}_proj\.(weight|bias)", name):
            return f"transformer.resblocks.{m[1]}.attn.in_proj_{m[2]}", f"third {nth}"
    name = name.replace("encoder.layers.", "transformer.resblocks.").replace("embeddings.token_", "token_")
    for new, old in (("self_attn.out_proj", "attn.out_proj"), ("layer_norm", "ln_"), ("fc1", "c_fc"), ("fc2", "c_proj"),
                     ("final_ln_", "ln_final")):
        name = name.replace(new, old)
    return name, "whole"


def outer(name):
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def table(parts, family, layers, levels):
    """(component, name, name in the file, what becomes of it) of every tensor."""
    rows = []
    for component, tensors in parts.items():
        for name in tensors:
            how = "whole"
            if component == "unet":
                stored = "model.diffusion_model." + unet(name, layers, tensors)
            elif component == "vae":
                stored = "first_stage_model." + vae(name, levels)
            elif family == "sd1":
                stored = "cond_stage_model.transformer." + outer(name)
            elif family == "sd2":
                stored, how = open_clip(outer(name))
                stored = "cond_stage_model.model." + stored
            elif component == "text_encoder":
                stored = "conditioner.embedders.0.transformer." + outer(name)
            else:
                stored, how = open_clip(outer(name))
                stored = "conditioner.embedders.1.model." + stored
            rows.append((component, name, stored, how))
    return rows


def checkpoint(parts, rows):
    """The tensors of the single file."""
    file, fused = {}, {}
    for component, name, stored, how in rows:
        x = parts[component][name]
        # Attention of the autoencoder is of 1x1 convolutions.
        if component == "vae" and ".attn_1." in stored and x.ndim == 2:
            x = x[:, :, None, None]
        if how == "whole":
            file[stored] = x
        elif how == "transposed":
            file[stored] = x.T
        else:
            fused.setdefault(stored, {})[how] = x
    for stored, thirds in fused.items():
        file[stored] = torch.cat([thirds[f"third {i}"] for i in range(3)])
    return file


def load(folder):
    """The tensors of each component of a folder."""
    return {c: load_file(next((folder / c).glob("*.safetensors"))) for c in
            ("unet", "vae", "text_encoder", "text_encoder_2") if (folder / c).exists()}


def small(name, family, cls):
    """A small pipeline: its table, held against diffusers."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "model"
        shutil.copytree(MODELS / f"pipeline_{'sdxl' if family == 'sdxl' else 'sd'}", folder)
        for tokenizer in ("tokenizer", "tokenizer_2"):
            shutil.copytree(ROOT / "assets/shapes/tokenizer", folder / tokenizer)
        parts = load(folder)
        rows = table(parts, family, 1, 2)
        file = {k: v.contiguous().clone() for k, v in checkpoint(parts, rows).items()}
        path = pathlib.Path(scratch) / "model.safetensors"
        save_file(file, path)
        pipe = cls.from_single_file(path, config=str(folder), local_files_only=True, torch_dtype=torch.float16)
        for component, tensors in parts.items():
            found = {outer(k) if "text" in component else k: v for k, v in getattr(pipe, component).state_dict().items()}
            wanted = {outer(k) if "text" in component else k: v for k, v in tensors.items()}
            assert found.keys() == wanted.keys(), (name, component, found.keys() ^ wanted.keys())
            for key, x in wanted.items():
                assert torch.equal(found[key], x), (name, component, key)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.tsv").write_text("".join("\t".join(row) + "\n" for row in sorted(rows)))
    print(f"{name}: {len(rows)} tensors as diffusers loads them")


CLIP_L = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
CROSS, UP_CROSS = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
XL = dict(block_out_channels=(320, 640, 1280), down_block_types=("DownBlock2D", CROSS, CROSS),
          up_block_types=(UP_CROSS, UP_CROSS, "UpBlock2D"), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
          transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
          addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)
PUBLISHED = {
    "sd1": (dict(cross_attention_dim=768), [(CLIPTextModel, CLIP_L)]),
    "sd2": (dict(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True),
            [(CLIPTextModel, dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24))]),
    "sdxl": (XL, [(CLIPTextModel, CLIP_L), (CLIPTextModelWithProjection, dict(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280))]),
}


def published(family):
    """Names and shapes of a whole checkpoint of a published family, with what real files carry beside."""
    options, texts = PUBLISHED[family]
    with torch.device("meta"):
        models = {"unet": UNet2DConditionModel(**options), "vae": AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2)}
        for i, (cls, config) in enumerate(texts):
            models["text_encoder" + ("_2" if i else "")] = cls(CLIPTextConfig(**config))
    parts = {c: m.state_dict() for c, m in models.items()}
    shapes = {k: tuple(v.shape) for k, v in checkpoint(parts, table(parts, family, 2, 4)).items()}
    clip = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}.get(family)
    if clip:
        shapes[f"{clip}text_model.embeddings.position_ids"] = (1, 77)
    if family != "sd1":
        prefix = "cond_stage_model.model." if family == "sd2" else "conditioner.embedders.1.model."
        shapes[f"{prefix}logit_scale"] = ()
        shapes.setdefault(f"{prefix}text_projection", (1024, 1024))
    if family != "sdxl":
        shapes |= {"alphas_cumprod": (1000,), "betas": (1000,), "sqrt_alphas_cumprod": (1000,),
                   "model_ema.decay": (), "model_ema.diffusion_modelout2weight": (4, 320, 3, 3)}
    lines = [f"{name} {'x'.join(map(str, shape))}\n" for name, shape in sorted(shapes.items())]
    (OUT / f"{family}.txt.gz").write_bytes(gzip.compress("".join(lines).encode(), 9, mtime=0))
    print(f"{family}: {len(lines)} tensors")


def main():
    small("pipeline_sd", "sd1", StableDiffusionPipeline)
    small("pipeline_sdxl", "sdxl", StableDiffusionXLPipeline)
    small("pipeline_sd2", "sd2", StableDiffusionPipeline)
    for family in PUBLISHED:
        published(family)


if __name__ == "__main__":
    main()
