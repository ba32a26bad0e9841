"""Golden files for tests/lora.rs: LoRA files as diffusers, PEFT and kohya's trainer name them, and what diffusers fuses.

The models are the pipelines of tests/golden/models, in float32. tests/golden/lora holds NAME.safetensors, the LoRA, and
fused.safetensors: the weights of every layer that is touched, as "NAME/COMPONENT/TENSOR", after load_lora_weights and
fuse_lora(lora_scale=WEIGHT).

    python tools/golden/lora.py           # torch 2.15, diffusers 0.42, transformers 5.24, peft 0.21
"""

import json
import logging
import pathlib
import shutil
import tempfile
import warnings

import torch
import transformers.integrations.peft
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTokenizer

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
# transformers 5.24 asks for a later PEFT than the package index has; these functions do not need it.
transformers.integrations.peft.check_peft_version = lambda **_: None
ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/golden/lora"
TOKENIZER = ROOT / "assets/shapes/tokenizer"
BLOCK = "attentions.0.transformer_blocks.0"


def load(name):
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    folder = ROOT / f"tests/golden/models/pipeline_{name}"
    if name == "sdxl":
        return StableDiffusionXLPipeline.from_pretrained(folder, tokenizer=tokenizer, tokenizer_2=tokenizer,
                                                         torch_dtype=torch.float32, add_watermarker=False)
    return StableDiffusionPipeline.from_pretrained(folder, tokenizer=tokenizer, torch_dtype=torch.float32,
                                                   safety_checker=None)


def random(shape, g):
    return torch.randn(shape, generator=g) * 0.3


def trained(model, seed, **config):
    """What PEFT holds of an adapter with random values, and its configuration."""
    model.add_adapter(LoraConfig(init_lora_weights=True, **config))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_magnitude" in name:
                p.mul_(1 + 0.2 * torch.rand(p.shape, generator=g))
            elif "lora_" in name:
                p.copy_(random(p.shape, g))
    return get_peft_model_state_dict(model), model.peft_config["default"].to_dict()


def kohya(layers, pipe, g, magnitudes=False):
    """Tensors named as kohya's trainer does: (name, component, layer, rank, alpha) each."""
    tensors = {}
    for name, component, layer, rank, alpha in layers:
        w = getattr(pipe, component).get_submodule(layer).weight
        inner = (1, 1) if w.ndim == 4 else ()
        tensors[f"{name}.lora_down.weight"] = random((rank, *w.shape[1:]), g)
        tensors[f"{name}.lora_up.weight"] = random((w.shape[0], rank, *inner), g)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
        if magnitudes:
            length = w.detach().flatten(1).norm(dim=1) * 1.25
            tensors[f"{name}.dora_scale"] = length.reshape(-1, *[1] * (w.ndim - 1))
    return tensors


def texts(pipe):
    """Where the layers of a text encoder begin: versions of transformers differ."""
    return "text_model." if hasattr(pipe.text_encoder, "text_model") else ""


def files():
    """Each LoRA: model, tensors, header, weight."""
    unet = dict(r=3, lora_alpha=6, target_modules=r"mid_block\..*(attn2\.to_[qk]|proj_in|net\.0\.proj)|down_blocks\.0\..*conv1",
                rank_pattern={"conv1": 2}, alpha_pattern={"proj_in": 1.5})
    text = dict(r=2, lora_alpha=1, target_modules=r".*layers\.0\..*(q_proj|fc1)")
    pipe = load("sd")
    (u, of_u), (t, of_t) = trained(pipe.unet, 1, **unet), trained(pipe.text_encoder, 2, **text)
    # As the training scripts call it, with the alphas in the header.
    with tempfile.TemporaryDirectory() as folder:
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=u, text_encoder_lora_layers=t,
                                                  unet_lora_adapter_metadata=of_u,
                                                  text_encoder_lora_adapter_metadata=of_t)
        OUT.mkdir(parents=True, exist_ok=True)
        shutil.copy(pathlib.Path(folder) / "pytorch_lora_weights.safetensors", OUT / "peft.safetensors")
    yield "peft", "sd", None, None, 0.7
    # Without: every scale is 1.
    def renamed(tensors, component, stem):
        return {f"{component}.{k.replace('lora_A', f'{stem}.down').replace('lora_B', f'{stem}.up')}": v
                for k, v in tensors.items()}
    old = renamed(u, "unet", "lora") | renamed(t, "text_encoder", "lora_linear_layer")
    yield "diffusers", "sd", old, None, -1.25

    # The first attention processors, which had no other layers.
    g = torch.Generator().manual_seed(3)
    processors = {}
    for level in ("down_blocks.1", "mid_block"):
        for layer, old in (("to_q", "to_q_lora"), ("to_out.0", "to_out_lora")):
            w = pipe.unet.get_submodule(f"{level}.{BLOCK}.attn1.{layer}").weight
            name = f"unet.{level}.{BLOCK}.attn1.processor.{old}"
            processors[f"{name}.down.weight"] = random((2, w.shape[1]), g)
            processors[f"{name}.up.weight"] = random((w.shape[0], 2), g)
    yield "processor", "sd", processors, None, 1.0

    pipe = load("sd")
    trainable = dict(r=2, lora_alpha=4, target_modules=r"mid_block\.(.*to_v|resnets\.0\.conv2)", use_dora=True)
    u, of_u = trained(pipe.unet, 4, **trainable)
    dora = {f"unet.{k}": v for k, v in u.items()}
    header = {f"unet.{k}": sorted(v) if isinstance(v, set) else v for k, v in of_u.items()}
    yield "dora", "sd", dora, header, 0.6

    pipe, g, at = load("sd"), torch.Generator().manual_seed(5), texts(load("sd"))
    layers = []
    for layer, rank, alpha in ((f"down_blocks.1.{BLOCK}.attn2.to_k", 4, 2), (f"mid_block.{BLOCK}.ff.net.2", 1, 1),
                               ("down_blocks.0.resnets.0.conv1", 3, 1.5), ("up_blocks.0.resnets.0.conv_shortcut", 2, 8),
                               ("down_blocks.0.downsamplers.0.conv", 2, 2), ("up_blocks.0.attentions.1.proj_out", 5, 1),
                               ("up_blocks.1.resnets.0.time_emb_proj", 2, 3)):
        layers.append(("lora_unet_" + layer.replace(".", "_"), "unet", layer, rank, alpha))
    for layer in ("encoder.layers.0.self_attn.v_proj", "encoder.layers.0.self_attn.out_proj", "encoder.layers.1.mlp.fc2"):
        layers.append(("lora_te_text_model_" + layer.replace(".", "_"), "text_encoder", at + layer, 2, 4))
    yield "kohya", "sd", kohya(layers, pipe, g), None, 0.8

    # diffusers 0.42 renames the layers of attention on the way, and then does not find their alphas again: in
    # a UNet these layers get the alpha that most layers have. So here they have that one, 1; above too, 2.
    # That every layer counts by its own alpha, as kohya's trainer defines it, is a test of tests/lora.rs.
    pipe, g = load("sdxl"), torch.Generator().manual_seed(6)
    layers = [(f"lora_unet_{original}", "unet", layer, rank, alpha) for original, layer, rank, alpha in (
        ("input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1", 2, 1),
        ("input_blocks_2_0_op", "down_blocks.0.downsamplers.0.conv", 2, 2),
        ("input_blocks_3_0_skip_connection", "down_blocks.1.resnets.0.conv_shortcut", 2, 4),
        ("input_blocks_3_1_transformer_blocks_0_attn2_to_v", f"down_blocks.1.{BLOCK}.attn2.to_v", 4, 1),
        ("middle_block_1_transformer_blocks_0_attn1_to_out_0", f"mid_block.{BLOCK}.attn1.to_out.0", 3, 1),
        ("middle_block_2_out_layers_3", "mid_block.resnets.1.conv2", 2, 5),
        ("output_blocks_0_1_proj_in", "up_blocks.0.attentions.0.proj_in", 2, 1),
        ("output_blocks_1_1_transformer_blocks_0_ff_net_0_proj",
         "up_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj", 2, 2),
        ("output_blocks_1_2_conv", "up_blocks.0.upsamplers.0.conv", 1, 1),
        ("output_blocks_3_0_emb_layers_1", "up_blocks.1.resnets.1.time_emb_proj", 2, 1))]
    for i, component in ((1, "text_encoder"), (2, "text_encoder_2")):
        at = "text_model." if hasattr(getattr(pipe, component), "text_model") else ""
        for layer in ("encoder.layers.1.self_attn.out_proj", "encoder.layers.0.mlp.fc1"):
            layers.append((f"lora_te{i}_text_model_" + layer.replace(".", "_"), component, at + layer, 2, 1))
    yield "kohya_xl", "sdxl", kohya(layers, pipe, g), None, 1.0


def weights(pipe):
    found = {}
    for component in ("unet", "text_encoder", "text_encoder_2"):
        model = getattr(pipe, component, None)
        for key, value in (model.state_dict() if model is not None else {}).items():
            if "lora_" not in key:
                key = key.replace(".base_layer", "").removeprefix("text_model.")
                found[f"{component}/{key}"] = value.clone()
    return found


def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    fused, table = {}, []
    for name, model, tensors, header, weight in files():
        path = OUT / f"{name}.safetensors"
        if tensors is not None:
            metadata = {"format": "pt"} | ({"lora_adapter_metadata": json.dumps(header)} if header else {})
            save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata)
        pipe = load(model)
        before = weights(pipe)
        pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="one")
        components = [c for c in ("unet", "text_encoder", "text_encoder_2")
                      if hasattr(getattr(pipe, c, None), "peft_config")]
        pipe.fuse_lora(components=components, lora_scale=weight)
        after = weights(pipe)
        changed = {k: v for k, v in after.items() if not torch.equal(v, before[k])}
        assert before.keys() == after.keys() and changed, name
        fused |= {f"{name}/{k}": v.contiguous() for k, v in changed.items()}
        table.append((name, model, weight, len(changed)))
    save_file(fused, OUT / "fused.safetensors")
    for row in table:
        print(*row)
    print(f"{sum(p.stat().st_size for p in OUT.iterdir()) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
