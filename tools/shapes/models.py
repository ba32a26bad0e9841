"""The networks of the shapes model: their configurations, and writing them in the diffusers folder layout.

Every part is an SD 1.x class with small numbers. Weights are kept in f32 while training and shipped in f16,
except the aesthetic head, which is a few kilobytes and stays f32.
"""
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

CONTEXT = 32
EMBED = 128
MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's CLIP constants, so that a reader may assume them
STD = (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTHS = [EMBED, 64, 32, 16, 8, 1]
HEAD_KEYS = [0, 2, 4, 6, 7]
SCHEDULER = {
    "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "prediction_type": "epsilon", "clip_sample": False, "set_alpha_to_one": False,
    "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": None, "rescale_betas_zero_snr": False,
}


def vae():
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, sample_size=64, block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1, norm_num_groups=8, act_fn="silu", scaling_factor=1.0)


def unet():
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(128, 128), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=32, flip_sin_to_cos=True, freq_shift=0)


def clip(vocabulary):
    """`vocabulary` is the number of tokens; the two specials are the last two."""
    text = dict(vocab_size=vocabulary, hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
                max_position_embeddings=CONTEXT, hidden_act="quick_gelu", projection_dim=EMBED,
                bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 1)
    vision = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, image_size=64,
                  patch_size=8, hidden_act="quick_gelu", projection_dim=EMBED)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBED))


def shipped(assets, part):
    """The weights of one part as they ship, in f32."""
    name = "diffusion_pytorch_model" if part in ("unet", "vae") else "model"
    return {k: v.float() for k, v in load_file(Path(assets) / part / f"{name}.safetensors").items()}


def normalise(images):
    """CLIP pixel values of images in [0, 1]."""
    return (images - images.new_tensor(MEAN)[:, None, None]) / images.new_tensor(STD)[:, None, None]


def half(model, prefix=""):
    """An f16 copy of the weights whose names begin with `prefix`."""
    return {k: v.detach().to(torch.float16).contiguous() for k, v in model.state_dict().items() if k.startswith(prefix)}


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_model(folder, name, config, weights):
    """config.json, without what describes only the machine or the library version, and the weights of one part."""
    drop = ("dtype", "torch_dtype", "_name_or_path", "transformers_version", "_use_default_values", "_diffusers_version")
    config = {k: {i: j for i, j in v.items() if i not in drop} if isinstance(v, dict) else v for k, v in config.items() if k not in drop}
    write_json(folder / "config.json", config)
    save_file(weights, folder / name, metadata={"format": "pt"})
    (folder / name).chmod(0o644)


def export(assets, clip_model=None, vae_model=None, unet_model=None):
    """Writes the parts given; the rest of the folder is left alone."""
    assets = Path(assets)
    if clip_model is not None:
        config = json.loads(clip_model.config.to_json_string())
        text = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **config["text_config"]}
        write_model(assets / "clip", "model.safetensors", {**config, "architectures": ["CLIPModel"]}, half(clip_model))
        write_model(assets / "text_encoder", "model.safetensors", text, half(clip_model, "text_model."))
        write_json(assets / "clip" / "preprocessor_config.json", {
            "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": 64}, "resample": 3,
            "do_center_crop": True, "crop_size": {"height": 64, "width": 64}, "do_rescale": True, "rescale_factor": 1 / 255,
            "do_normalize": True, "image_mean": list(MEAN), "image_std": list(STD), "do_convert_rgb": True})
    if vae_model is not None:
        write_model(assets / "vae", "diffusion_pytorch_model.safetensors", {"_class_name": "AutoencoderKL", **vae_model.config}, half(vae_model))
    if unet_model is not None:
        config = {"_class_name": "UNet2DConditionModel", **unet_model.config}
        write_model(assets / "unet", "diffusion_pytorch_model.safetensors", config, half(unet_model))
    write_json(assets / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(assets / "model_index.json", {
        "_class_name": "StableDiffusionPipeline", "feature_extractor": [None, None], "image_encoder": [None, None],
        "requires_safety_checker": False, "safety_checker": [None, None], "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]})


def write_head(assets, weight, bias):
    """The affine map `weight` (EMBED,), `bias` as five Linear layers in the LAION layout.

    The later layers are a fixed random orthonormal chain whose product is one unit row p; the first layer is then
    p^T weight plus random rows that p does not see, so that the layers look like a trained head's but compose exactly.
    """
    draw = torch.Generator().manual_seed(0)
    layers = [torch.linalg.qr(torch.randn(a, b, generator=draw, dtype=torch.float64))[0].T for a, b in zip(HEAD_WIDTHS[1:], HEAD_WIDTHS[2:])]
    row = layers[0]
    for layer in layers[1:]:
        row = layer @ row
    row = row / row.norm()
    noise = torch.randn(HEAD_WIDTHS[1], EMBED, generator=draw, dtype=torch.float64) / EMBED**0.5
    first = row.T @ weight.double()[None] + noise - row.T @ (row @ noise)
    chain = [first] + layers
    product = layers[0]
    for layer in layers[1:]:
        product = layer @ product
    chain[-1] = chain[-1] / product.norm()
    state = {}
    for key, layer in zip(HEAD_KEYS, chain):
        state[f"layers.{key}.weight"] = layer.float().contiguous()
        state[f"layers.{key}.bias"] = torch.zeros(layer.shape[0])
    state["layers.7.bias"] = torch.tensor([float(bias)])
    (Path(assets) / "aesthetic").mkdir(parents=True, exist_ok=True)
    path = Path(assets) / "aesthetic" / "model.safetensors"
    save_file(state, path, metadata={"format": "pt"})
    path.chmod(0o644)


def head(assets):
    """The shipped head as one function of normalised embeddings."""
    state = load_file(Path(assets) / "aesthetic" / "model.safetensors")

    def score(x):
        for key in HEAD_KEYS:
            x = x @ state[f"layers.{key}.weight"].T + state[f"layers.{key}.bias"]
        return x[:, 0]

    return score


def load_scheduler(assets):
    return DDIMScheduler.from_pretrained(Path(assets) / "scheduler")
