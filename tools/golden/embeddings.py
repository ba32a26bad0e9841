"""Golden files for tests/embeddings.rs: files of textual inversion, and what text encoders make of prompts with them.

The models are the pipelines of tests/golden/models. tests/golden/embeddings holds the files that people have, in the
layouts of diffusers (one.bin, three.safetensors), of AUTOMATIC1111's web UI (two.pt), of the first program for
textual inversion (parameters.pt, with the numbers of two.pt) and of XL (xl.safetensors); and golden.safetensors, in
float64: of each pipeline the text states and pooled texts of prompts that diffusers encodes, of texts in windows, and
the noise that its UNet then predicts. `error.*` are the NMSE of the same computation in PyTorch float32.

    python tools/golden/embeddings.py          # torch 2.15, diffusers 0.42, transformers 5.24
"""

import logging
import pathlib
import warnings

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/golden/embeddings"
MODELS = ROOT / "tests/golden/models"
TOKENIZER = ROOT / "assets/shapes/tokenizer"

# tests/embeddings.rs has the same texts.
PROMPTS = {
    "sd": ["a <cat> star", "<style> and <cat>, <cat>!", "a ring(old-style)on <style>-red", "A <CAT>", ""],
    "sdxl": ["a <pair> star, <pair>", "blurry"],
}
LONG = {
    "sd": ["a large red star and a <style> ring, " * 4, "blurry <cat>"],
    "sdxl": ["a large red star and a <pair> ring, " * 4, "blurry"],
}


def files():
    """Writes the files; returns the two tensors of XL."""
    g = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(shape, generator=g)

    OUT.mkdir(parents=True, exist_ok=True)
    torch.save({"<cat>": random(12)}, OUT / "one.bin")
    save_file({"<style>": random(3, 12)}, OUT / "three.safetensors")
    two = random(2, 12)
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": two}, "name": "old-style", "step": 7,
                "sd_checkpoint": None, "sd_checkpoint_name": None}, OUT / "two.pt")
    torch.save({"string_to_token": {"*": torch.tensor(265)},
                "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(two)})}, OUT / "parameters.pt")
    xl = {"clip_l": random(2, 12), "clip_g": random(2, 16)}
    save_file(xl, OUT / "xl.safetensors")
    return xl


def load(name, xl):
    given = dict(tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER), torch_dtype=torch.float32)
    folder = MODELS / f"pipeline_{name}"
    if name == "sd":
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, **given)
        for file in ("one.bin", "three.safetensors", "two.pt"):
            pipe.load_textual_inversion(str(OUT), weight_name=file)
        return pipe
    second = CLIPTokenizer.from_pretrained(TOKENIZER)
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, tokenizer_2=second, add_watermarker=False, **given)
    pipe.load_textual_inversion(xl["clip_l"], token="<pair>", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
    pipe.load_textual_inversion(xl["clip_g"], token="<pair>", text_encoder=pipe.text_encoder_2, tokenizer=second)
    return pipe


def encoders(pipe):
    yield pipe.tokenizer, pipe.text_encoder
    if hasattr(pipe, "text_encoder_2"):
        yield pipe.tokenizer_2, pipe.text_encoder_2


def windows(pipe, texts):
    """States and pooled texts of long texts: windows without begin and end, each framed, filled up and encoded alone."""
    states, pooled = [], None
    for tokenizer, model in encoders(pipe):
        length = model.config.max_position_embeddings
        ids = [tokenizer(pipe.maybe_convert_prompt(text, tokenizer), add_special_tokens=False, truncation=False).input_ids
               for text in texts]
        count = max(-(-len(i) // (length - 2)) for i in ids)
        rows = []
        for text in ids:
            for k in range(count):
                row = [tokenizer.bos_token_id, *text[k * (length - 2):(k + 1) * (length - 2)], tokenizer.eos_token_id]
                rows.append(row + [tokenizer.pad_token_id] * (length - len(row)))
        out = model(torch.tensor(rows), output_hidden_states=True)
        xl = hasattr(pipe, "text_encoder_2")
        found = out.hidden_states[-2] if xl else out.last_hidden_state
        states.append(found.reshape(len(texts), count * length, -1))
        if hasattr(out, "text_embeds"):
            pooled = out.text_embeds[::count]
    return torch.cat(states, -1), pooled, count


def nmse(a, b):
    return ((a.double() - b).square().sum() / b.square().sum()).item()


def main():
    torch.set_num_threads(1)
    golden, xl = {}, files()
    for name in PROMPTS:
        pipe = load(name, xl)
        base = load_file(MODELS / f"pipeline_{name}/golden.safetensors")
        results = {}
        for dtype in (torch.float64, torch.float32):
            pipe.to(dtype=dtype)
            out = {}
            with torch.no_grad():
                encoded = pipe.encode_prompt(PROMPTS[name], device="cpu", num_images_per_prompt=1,
                                             do_classifier_free_guidance=False)
                out["states"] = encoded[0]
                if name == "sdxl":
                    out["pooled"] = encoded[2]
                out["long.states"], pooled, count = windows(pipe, LONG[name])
                assert count == 2, count
                added = None
                if pooled is not None:
                    out["long.pooled"] = pooled
                    ids = torch.tensor([[12, 20, 0, 0, 12, 20]], dtype=dtype).expand(4, 6)
                    added = dict(text_embeds=pooled[[1, 1, 0, 0]], time_ids=ids)
                x = base["x"].to(dtype).permute(0, 3, 1, 2)
                t, s = base["t"].item(), base["s"].item()
                eps = pipe.unet(x.repeat(2, 1, 1, 1), t, out["long.states"][[1, 1, 0, 0]], added_cond_kwargs=added).sample
                u, c = eps.chunk(2)
                out["long.eps"] = (u + s * (c - u)).permute(0, 2, 3, 1)
            results[dtype] = out
        y, y32 = results[torch.float64], results[torch.float32]
        for key in y:
            error = nmse(y32[key], y[key])
            golden[f"{name}.{key}"] = y[key].contiguous()
            golden[f"{name}.error.{key}"] = torch.tensor([error], dtype=torch.float64)
            print(name, key, tuple(y[key].shape), f"{error:.1e}")
    save_file(golden, OUT / "golden.safetensors")
    print(f"{sum(p.stat().st_size for p in OUT.iterdir()) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
