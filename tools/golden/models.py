"""Golden files for tests/models.rs: small diffusers and transformers models with random weights.

Each folder under tests/golden/models holds config.json and weights as those libraries save them (fp16), and
golden.safetensors with inputs and outputs, computed in float64 from the same rounded weights; images as (n, h, w, c).
Pipelines have guide.safetensors too: noise, clean latent and the gradient of a reward as the scheduler has them.
`error.*` are the NMSE of the same computation in PyTorch float32, by which the tests measure theirs.

    python tools/golden/models.py          # torch 2.11, diffusers 0.42, transformers 5.23
"""

import logging
import pathlib
import shutil
import warnings

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/golden/models"
TOKENIZER = ROOT / "assets/shapes/tokenizer"


def randomise(model, seed):
    """Every parameter random, norms too, at scales that keep activations near one; rounded to fp16."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=g)
            if p.ndim >= 2 and "embedding" not in name.rsplit(".", 2)[-2]:
                gain = 1.5 if any(k in name for k in ("to_q", "to_k", "q_proj", "k_proj")) else 1.0
                r *= gain / p[0].numel() ** 0.5
            elif p.ndim >= 2:
                pass
            elif name.endswith("weight"):
                r = 1 + 0.3 * r
            else:
                r *= 0.3
            p.copy_(r.half())
    return model.eval().requires_grad_(False)


def nhwc(x):
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def nmse(a, b):
    return ((a.double() - b).square().sum() / b.square().sum()).item()


def both(model, run, x, cotangent):
    """Output and gradient of `run(x)` in float64, and the float32 errors of both."""
    results = {}
    for dtype in (torch.float64, torch.float32):
        model.to(dtype)
        leaf = x.to(dtype).requires_grad_()
        y = run(leaf)
        (g,) = torch.autograd.grad(y, leaf, cotangent.to(dtype))
        results[dtype] = y.detach(), g
    (y, g), (y32, g32) = results[torch.float64], results[torch.float32]
    return y, g, nmse(y32, y), nmse(g32, g)


def write(folder, tensors):
    save_file({k: torch.as_tensor(v, dtype=torch.float32).contiguous() for k, v in tensors.items()},
              folder / "golden.safetensors")


def save(model, folder, rename=None):
    """As the library saves it, in fp16; `rename` imitates files of other versions."""
    if folder.exists():
        shutil.rmtree(folder)
    model.half().save_pretrained(folder)
    if rename:
        path = folder / "model.safetensors"
        save_file({rename(k): v for k, v in load_file(path).items()}, path, metadata={"format": "pt"})


D, U = "DownBlock2D", "UpBlock2D"
CD, CU = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
COMMON = dict(in_channels=4, out_channels=4, norm_num_groups=4, sample_size=8)
UNETS = {
    # Stable Diffusion 1.x: convolutional projections, one number of heads.
    "sd1": dict(down_block_types=(CD, CD, D), up_block_types=(U, CU, CU), block_out_channels=(8, 16, 24),
                layers_per_block=2, attention_head_dim=2, cross_attention_dim=12),
    # 2.x: linear projections, a list of heads.
    "sd2": dict(down_block_types=(CD, CD, D), up_block_types=(U, CU, CU), block_out_channels=(8, 16, 16),
                layers_per_block=2, attention_head_dim=(1, 2, 4), cross_attention_dim=20,
                use_linear_projection=True, upcast_attention=True),
    # XL: added conditions, transformers of several blocks.
    "sdxl": dict(down_block_types=(D, CD, CD), up_block_types=(CU, CU, U), block_out_channels=(8, 16, 16),
                 layers_per_block=2, attention_head_dim=(1, 2, 4), cross_attention_dim=20,
                 use_linear_projection=True, transformer_layers_per_block=(1, 2, 3),
                 addition_embed_type="text_time", addition_time_embed_dim=4,
                 projection_class_embeddings_input_dim=34),
    # Latent consistency: the guidance scale as an embedding.
    "lcm": dict(down_block_types=(CD, D), up_block_types=(U, CU), block_out_channels=(8, 16), layers_per_block=1,
                attention_head_dim=4, cross_attention_dim=12, time_cond_proj_dim=18),
    # No text at all, and every option of the embedding of time and of the outer convolutions.
    "plain": dict(down_block_types=(D, D, D), up_block_types=(U, U, U), block_out_channels=(8, 12, 16),
                  layers_per_block=2, mid_block_type="UNetMidBlock2D", conv_in_kernel=5, conv_out_kernel=1,
                  flip_sin_to_cos=False, freq_shift=1, center_input_sample=True, norm_eps=1e-3,
                  cross_attention_dim=12),
    # Layers listed per block, transformers per layer, no middle, own width of the time embedding.
    "lists": dict(down_block_types=(D, CD, CD), up_block_types=(CU, CU, U), block_out_channels=(8, 8, 16),
                  layers_per_block=(1, 2, 1), mid_block_type=None, attention_head_dim=(2, 4, 2),
                  cross_attention_dim=12, time_embedding_dim=20, transformer_layers_per_block=[1, [2, 1], [1]],
                  reverse_transformer_layers_per_block=[[1, 2], [1, 0, 2], 1]),
    # Heads of 3, 5 and 7 features, more channels in and out, latents that are not square.
    "odd": dict(down_block_types=(CD, CD, CD), up_block_types=(CU, CU, CU), block_out_channels=(12, 20, 28),
                layers_per_block=1, attention_head_dim=4, cross_attention_dim=9, in_channels=5, out_channels=6,
                sample_size=None),
    # One level only: nothing is ever halved.
    "flat": dict(down_block_types=(CD,), up_block_types=(CU,), block_out_channels=(16,), layers_per_block=1,
                 attention_head_dim=8, cross_attention_dim=24, norm_num_groups=16),
}


def guidance_embedding(w, dim):
    half = dim // 2
    frequencies = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    phase = 1000.0 * w * frequencies
    return torch.cat([phase.sin(), phase.cos()])


def unet(name, options, seed):
    model = randomise(UNet2DConditionModel(**(COMMON | options)), seed)
    g = torch.Generator().manual_seed(seed + 1)
    # Two latents with texts 0 (shared) and 1, 2, as guidance runs them; distilled models one text each.
    n, texts, tokens = 2, 3, 7
    h, w = (4, 12) if name == "odd" else (8, 8)
    c = model.config
    x = torch.randn(n, c.in_channels, h, w, generator=g)
    text = torch.randn(texts, tokens, c.cross_attention_dim, generator=g)
    t = {"sd1": 981.0, "plain": 1.0, "lcm": 999.0}.get(name, 441.0)
    rows = [1, 2] if name == "lcm" else [0, 0, 1, 2]
    times = len(rows) // n
    tensors = dict(x=nhwc(x), text=text, t=torch.tensor([t]), rows=torch.tensor(rows))
    arguments, timestep_cond = {}, None
    if c.addition_embed_type:
        pooled = torch.randn(texts, c.projection_class_embeddings_input_dim - 6 * c.addition_time_embed_dim,
                             generator=g)
        ids = torch.tensor([64.0, 80.0, 0.0, 8.0, 64.0, 64.0])
        arguments = dict(text_embeds=pooled[rows], time_ids=ids.expand(len(rows), 6))
        tensors |= dict(pooled=pooled, time_ids=ids)
    if c.time_cond_proj_dim:
        tensors["guidance"] = torch.tensor([6.5])
        timestep_cond = guidance_embedding(6.5, c.time_cond_proj_dim).expand(len(rows), -1)

    def run(x):
        def cast(v):
            return v.to(x.dtype)
        return model(cast(x).repeat(times, 1, 1, 1), t, cast(text[rows]),
                     timestep_cond=None if timestep_cond is None else cast(timestep_cond),
                     added_cond_kwargs={k: cast(v) for k, v in arguments.items()}).sample

    cotangent = torch.randn(n * times, c.out_channels, h, w, generator=g)
    y, dx, error, error_vjp = both(model, run, x, cotangent)
    folder = OUT / f"unet_{name}"
    save(model, folder)
    write(folder, tensors | dict(y=nhwc(y), dy=nhwc(cotangent), dx=nhwc(dx)) |
          {"error.y": [error], "error.dx": [error_vjp]})
    return error, error_vjp


VAES = {
    "quant": dict(block_out_channels=(8, 8, 16), layers_per_block=2, scaling_factor=0.18215),
    "bare": dict(block_out_channels=(8, 16), layers_per_block=1, scaling_factor=0.5, shift_factor=0.25,
                 latent_channels=6, use_quant_conv=False, use_post_quant_conv=False,
                 mid_block_add_attention=False),
}


def vae(name, options, seed):
    levels = len(options["block_out_channels"])
    model = randomise(AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * levels,
                                    up_block_types=("UpDecoderBlock2D",) * levels, norm_num_groups=4, **options), seed)
    g = torch.Generator().manual_seed(seed + 1)
    c, side = model.config, 2 ** (levels - 1)
    shift = c.shift_factor or 0.0
    z = torch.randn(2, c.latent_channels, 4, 6, generator=g)
    dy = torch.randn(2, 3, 4 * side, 6 * side, generator=g)
    y, dz, e_y, e_dz = both(model, lambda z: model.decode(z / c.scaling_factor + shift).sample, z, dy)
    images = torch.rand(2, 3, 4 * side, 6 * side, generator=g) * 2 - 1
    dm = torch.randn(z.shape, generator=g)

    def mean(x):
        return (model.encode(x).latent_dist.mean - shift) * c.scaling_factor

    m, dx, e_m, e_dx = both(model, mean, images, dm)
    noise = torch.randn(z.shape, generator=g)
    samples = []
    for dtype in (torch.float64, torch.float32):
        d = model.to(dtype).encode(images.to(dtype)).latent_dist
        samples.append((d.mean + d.std * noise.to(dtype) - shift) * c.scaling_factor)
    folder = OUT / f"vae_{name}"
    save(model, folder)
    tensors = dict(z=z, y=y, dy=dy, dz=dz, images=images, mean=m, dmean=dm, dimages=dx, noise=noise, sample=samples[0])
    errors = {"error.y": [e_y], "error.dz": [e_dz], "error.mean": [e_m], "error.dimages": [e_dx],
              "error.sample": [nmse(samples[1], samples[0])]}
    write(folder, {k: nhwc(v) for k, v in tensors.items()} | errors)
    return tuple(v[0] for v in errors.values())


TINY = dict(encoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), decoder_block_out_channels=(8, 8),
            num_decoder_blocks=(2, 1))


def tiny(seed):
    """The decoder of a tiny autoencoder. Half of the latents are where its bound is felt."""
    model = randomise(AutoencoderTiny(**TINY), seed)
    g = torch.Generator().manual_seed(seed + 1)
    z = 3 * torch.randn(2, 4, 4, 6, generator=g)
    dy = torch.randn(2, 3, 8, 12, generator=g)
    y, dz, e_y, e_dz = both(model, lambda z: model.decode(z).sample, z, dy)
    folder = OUT / "vae_tiny"
    save(model, folder)
    write(folder, {k: nhwc(v) for k, v in dict(z=z, y=y, dy=dy, dz=dz).items()} | {"error.y": [e_y], "error.dz": [e_dz]})
    return e_y, e_dz


TEXT = dict(vocab_size=60, hidden_size=16, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=10, bos_token_id=58, eos_token_id=59, pad_token_id=59)
VISION = dict(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=20,
              patch_size=5)


def texts():
    # Begin, words, end, padding with the end token; and an end token in the middle of the largest id
    # elsewhere.
    return torch.tensor([[58, 3, 17, 59, 59, 59, 59, 59, 59, 59], [58, 40, 2, 8, 8, 51, 23, 9, 30, 59]])


def clip(name, text, vision, seed):
    model = randomise(CLIPModel(CLIPConfig(text_config=TEXT | text, vision_config=VISION | vision, projection_dim=14)),
                      seed)
    g = torch.Generator().manual_seed(seed + 1)
    images = torch.randn(3, 3, 20, 20, generator=g)
    ids = texts()
    if text.get("eos_token_id") == 2:
        ids = ids.clone()
        ids[0, 3:] = 0
        ids[0, 3] = 59

    def image(x):
        return model.visual_projection(model.vision_model(x).pooler_output)

    def words():
        return model.text_projection(model.text_model(ids).pooler_output)

    dy = torch.randn(3, 14, generator=g)
    y, dx, e_y, e_dx = both(model, image, images, dy)
    t = [words() for _ in [model.double()]][0]
    e_t = nmse([words() for _ in [model.float()]][0], t)
    folder = OUT / f"clip_{name}"
    save(model, folder)
    write(folder, dict(images=nhwc(images), ids=ids, y=y, dy=dy, dx=nhwc(dx), text=t) |
          {"error.y": [e_y], "error.dx": [e_dx], "error.text": [e_t]})
    return e_y, e_dx, e_t


def text_model(name, cls, options, seed, rename=None):
    model = randomise(cls(CLIPTextConfig(**(TEXT | dict(projection_dim=12) | options))), seed)
    ids = texts()
    if options.get("eos_token_id") == 2:
        ids[0, 4:] = 0
    results = []
    for dtype in (torch.float64, torch.float32):
        out = model.to(dtype)(ids, output_hidden_states=True)
        first = out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output
        results.append((out.last_hidden_state, out.hidden_states[-2], first))
    folder = OUT / f"text_{name}"
    save(model, folder, rename)
    names = ("last", "penultimate", "pooled")
    errors = [nmse(b, a) for a, b in zip(*results)]
    write(folder, dict(ids=ids) | dict(zip(names, results[0])) | {f"error.{n}": [e] for n, e in zip(names, errors)})
    return errors


def pipeline(name, seed):
    """A whole folder: prompts to text embeddings to guided noise to image."""
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    xl = name == "sdxl"
    config = dict(vocab_size=len(tokenizer), intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                  max_position_embeddings=32, bos_token_id=tokenizer.bos_token_id, projection_dim=10,
                  eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    cls = CLIPTextModelWithProjection if xl else CLIPTextModel
    first = randomise(CLIPTextModel(CLIPTextConfig(hidden_size=12, **config)), seed)
    unet = randomise(UNet2DConditionModel(**(COMMON | dict(
        down_block_types=(D, CD), up_block_types=(CU, U), block_out_channels=(8, 16), layers_per_block=1,
        attention_head_dim=4, norm_num_groups=4, cross_attention_dim=28 if xl else 12, sample_size=6) | (dict(
            addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=34)
            if xl else {}))), seed + 1)
    vae = randomise(AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                                  block_out_channels=(8, 8), norm_num_groups=4), seed + 2)
    parts = dict(vae=vae, unet=unet, text_encoder=first, tokenizer=tokenizer,
                 scheduler=DDIMScheduler(prediction_type="epsilon" if xl else "v_prediction", steps_offset=1))
    if xl:
        second = randomise(cls(CLIPTextConfig(hidden_size=16, **(config | dict(hidden_act="gelu")))), seed + 3)
        pipe = StableDiffusionXLPipeline(text_encoder_2=second, tokenizer_2=tokenizer, **parts,
                                         force_zeros_for_empty_prompt=True, add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None)
    pipe.set_progress_bar_config(disable=True)
    prompts = ["a large red star", "Two rings, one BLUE circle on a very dark green background!"]
    g = torch.Generator().manual_seed(seed + 4)
    x = torch.randn(2, 4, 6, 10, generator=g)
    t, s = 500.0, 4.0
    results = {}
    for dtype in (torch.float64, torch.float32):
        pipe.to(dtype=dtype)
        out = {}
        with torch.no_grad():
            for label, negative in (("", "blurry"), ("none.", None)):
                given = dict(device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
                texts = negative and [negative] * 2
                if xl:
                    cond, uncond, pooled, unpooled = pipe.encode_prompt(prompts, negative_prompt=texts, **given)
                    ids = torch.tensor([[12, 20, 0, 0, 12, 20]], dtype=dtype).expand(4, 6)
                    added = dict(text_embeds=torch.cat([unpooled, pooled]), time_ids=ids)
                else:
                    cond, uncond = pipe.encode_prompt(prompts, negative_prompt=texts, **given)
                    added = None
                eps = pipe.unet(x.to(dtype).repeat(2, 1, 1, 1), t, torch.cat([uncond, cond]),
                                added_cond_kwargs=added).sample
                u, c = eps.chunk(2)
                out[label + "eps"] = nhwc(u + s * (c - u))
            image = pipe.vae.decode(x.to(dtype) / pipe.vae.config.scaling_factor).sample
            out["image"] = nhwc((image / 2 + 0.5).clamp(0, 1))
        results[dtype] = out
    folder = OUT / f"pipeline_{name}"
    if folder.exists():
        shutil.rmtree(folder)
    pipe.to(dtype=torch.float16).save_pretrained(folder)
    for path in folder.glob("tokenizer*"):
        shutil.rmtree(path)  # the tests take those of assets/shapes
    y, y32 = results[torch.float64], results[torch.float32]
    errors = {f"error.{k}": [nmse(y32[k], y[k])] for k in y}
    write(folder, dict(x=nhwc(x), t=torch.tensor([t]), s=torch.tensor([s])) | y | errors)
    return [e[0] for e in errors.values()]


def lcm(seed):
    """A folder of a latent consistency model; its scaling makes the boundary conditions matter in mid-chain."""
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    text = CLIPTextConfig(hidden_size=12, vocab_size=len(tokenizer), intermediate_size=24, num_hidden_layers=2,
                          num_attention_heads=2, max_position_embeddings=32, bos_token_id=tokenizer.bos_token_id,
                          eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    unet = UNet2DConditionModel(**(COMMON | dict(
        down_block_types=(D, CD), up_block_types=(CU, U), block_out_channels=(8, 12), layers_per_block=1,
        attention_head_dim=4, cross_attention_dim=12, sample_size=6, time_cond_proj_dim=18)))
    vae = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                        block_out_channels=(8, 8), norm_num_groups=4)
    pipe = LatentConsistencyModelPipeline(
        vae=randomise(vae, seed), text_encoder=randomise(CLIPTextModel(text), seed + 1), tokenizer=tokenizer,
        unet=randomise(unet, seed + 2), scheduler=LCMScheduler(timestep_scaling=0.001), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)
    folder = OUT / "pipeline_lcm"
    if folder.exists():
        shutil.rmtree(folder)
    pipe.to(dtype=torch.float16).save_pretrained(folder)
    shutil.rmtree(folder / "tokenizer")


def denoise(scheduler, t, x, out):
    """The clean latent and the noise that the output of a network means, in closed form."""
    c = scheduler.config
    abar = scheduler.alphas_cumprod[t].double()
    a, s = abar.sqrt().to(x.dtype), (1 - abar).sqrt().to(x.dtype)
    x0, eps = {"epsilon": lambda: ((x - s * out) / a, out), "sample": lambda: (out, (x - a * out) / s),
               "v_prediction": lambda: (a * x - s * out, s * x + a * out)}[c.prediction_type]()
    if isinstance(scheduler, LCMScheduler):
        scaled = t * c.timestep_scaling
        x0 = scaled / (scaled ** 2 + 0.25) ** 0.5 * x0 + 0.25 / (scaled ** 2 + 0.25) * x
    elif c.clip_sample:
        x0 = x0.clamp(-c.clip_sample_range, c.clip_sample_range)
    return x0, eps


def agrees(scheduler, steps, t, x, out, x0, eps):
    """That diffusers' own step finds the same, up to its float32 coefficients."""
    scheduler.set_timesteps(steps)
    step = scheduler.step(out, t, x)
    if isinstance(scheduler, LCMScheduler):
        assert nmse(step.denoised, x0) < 1e-12
    else:
        before = scheduler.alphas_cumprod[t - 1000 // steps].double()
        assert nmse(step.pred_original_sample, x0) < 1e-12
        assert nmse(step.prev_sample, before.sqrt() * x0 + (1 - before).sqrt() * eps) < 1e-12


def guide(name, cls, steps, t, variants, seed):
    """Noise, clean latent and the gradient of <dy, image> back through decoder, scheduler and guided UNet.

    `variants` are changes of the scheduler's file, by the prefix of what is found with them."""
    folder = OUT / f"pipeline_{name}"
    tokenizer, xl = CLIPTokenizer.from_pretrained(TOKENIZER), name == "sdxl"
    given = dict(tokenizer_2=tokenizer, add_watermarker=False) if xl else dict(safety_checker=None)
    pipe = cls.from_pretrained(folder, tokenizer=tokenizer, **given)
    pipe.unet.requires_grad_(False)
    pipe.vae.requires_grad_(False)
    texts = [("a large red star", "blurry"), ("Two rings, one BLUE circle on a very dark green background!", "a ring")]
    of = [1, 0, 1]
    prompts, negatives = [texts[i][0] for i in of], [texts[i][1] for i in of]
    embeds = pipe.unet.config.time_cond_proj_dim
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 4, 6, 10, generator=g)
    dy = torch.randn(1, 3, 12, 20, generator=g)
    s = 3.5
    tensors = dict(x=nhwc(x), dy=nhwc(dy), t=[t], s=[s], of=of)
    results = {}
    for dtype in (torch.float64, torch.float32):
        pipe.to(dtype=dtype)
        arguments = {}
        with torch.no_grad():
            found = pipe.encode_prompt(prompts, negative_prompt=negatives, device="cpu", num_images_per_prompt=1,
                                       do_classifier_free_guidance=not embeds)
        states = found[0] if embeds else torch.cat([found[1], found[0]])
        if xl:
            ids = torch.tensor([[12, 20, 0, 0, 12, 20]], dtype=dtype).expand(6, 6)
            arguments["added_cond_kwargs"] = dict(text_embeds=torch.cat([found[3], found[2]]), time_ids=ids)
        if embeds:
            w = pipe.get_guidance_scale_embedding(torch.tensor([s - 1] * 3), embedding_dim=embeds)
            arguments["timestep_cond"] = w.to(dtype)
        for label, changes in variants.items():
            scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **changes)
            leaf = x.to(dtype).requires_grad_()
            if embeds:
                out = pipe.unet(leaf, t, states, **arguments).sample
            else:
                u, c = pipe.unet(leaf.repeat(2, 1, 1, 1), t, states, **arguments).sample.chunk(2)
                out = u + s * (c - u)
            x0, eps = denoise(scheduler, t, leaf, out)
            raw = pipe.vae.decode(x0 / pipe.vae.config.scaling_factor).sample
            image = (raw / 2 + 0.5).clamp(0, 1)
            reward = (dy.to(dtype) * image).sum((1, 2, 3))
            (dx,) = torch.autograd.grad(reward.sum(), leaf)
            y = dict(eps=nhwc(eps), x0=nhwc(x0), reward=reward, dx=nhwc(dx))
            results[dtype, label] = {f"{label}{k}": v.detach() for k, v in y.items()}
            if dtype == torch.float64:
                agrees(scheduler, steps, t, x.double(), *(v.detach() for v in (out, x0, eps)))
                inside = (raw.abs() < 1).double().mean().item()
                free = (x0.abs() < scheduler.config.clip_sample_range).double().mean().item()
                print(f"{name} {label or 'own.'} {inside:.0%} of the pixels and {free:.0%} of x0 are within the clamps")
    errors = []
    for label in variants:
        y, y32 = results[torch.float64, label], results[torch.float32, label]
        tensors |= y | {f"error.{k}": [nmse(y32[k], y[k])] for k in y}
        errors += [nmse(y32[k], y[k]) for k in y]
    save_file({k: torch.as_tensor(v, dtype=torch.float32).contiguous() for k, v in tensors.items()},
              folder / "guide.safetensors")
    return errors


def guides():
    """Every prediction type, with clipping and without, and a consistency model."""
    lcm(5200)
    # 5404: with 5400 the gradient is ten times as sensitive to rounding as with the nine seeds after it, and
    # the float32 errors are luck.
    return {
        "guide_sd": guide("sd", StableDiffusionPipeline, 10, 501,
                          {"": {}, "sample.": dict(prediction_type="sample"),
                           "clipped.": dict(clip_sample=True, clip_sample_range=1.5)}, 5300),
        "guide_sdxl": guide("sdxl", StableDiffusionXLPipeline, 10, 201, {"": {}}, 5404),
        "guide_lcm": guide("lcm", LatentConsistencyModelPipeline, 4, 499,
                           {"": {}, "v.": dict(prediction_type="v_prediction")}, 5500),
    }


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    rows = {}
    for i, (name, options) in enumerate(UNETS.items()):
        rows[f"unet_{name}"] = unet(name, options, 100 * (i + 1))
    for i, (name, options) in enumerate(VAES.items()):
        rows[f"vae_{name}"] = vae(name, options, 2000 + 100 * i)
    rows["vae_tiny"] = tiny(2300)
    rows["clip_quick"] = clip("quick", {}, {}, 3000)
    rows["clip_gelu"] = clip("gelu", dict(hidden_act="gelu", eos_token_id=2), dict(hidden_act="gelu"), 3100)
    # As transformers 5 names the tensors of a lone text model, and as all versions before did.
    rows["text_new"] = text_model("new", CLIPTextModel, {}, 4000)
    rows["text_old"] = text_model("old", CLIPTextModel, dict(eos_token_id=2), 4100,
                                  lambda k: k if k.startswith("text_model.") else f"text_model.{k}")
    rows["text_projection"] = text_model("projection", CLIPTextModelWithProjection, dict(hidden_act="gelu"), 4200)
    for i, name in enumerate(("sd", "sdxl")):
        rows[f"pipeline_{name}"] = pipeline(name, 5000 + 100 * i)
    rows |= guides()
    for name, errors in rows.items():
        print(f"{name:18}", " ".join(f"{e:.1e}" for e in errors))
    files = [p for p in OUT.rglob("*") if p.is_file()]
    print(f"{sum(p.stat().st_size for p in files) / 1e6:.2f} MB in {len(files)} files")


if __name__ == "__main__":
    main()
