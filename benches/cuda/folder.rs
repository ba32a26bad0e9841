//! A diffusers folder of Stable Diffusion 1.5's shapes with random f16 weights, for machines that have no
//! model and cannot fetch one: UNet, VAE decoder, both CLIP-L/14 towers that are needed, and a head like
//! LAION's. `tiny` has the same structure and no size, for machines that have no GPU either. Names and layout
//! are those of diffusers and transformers, so PyTorch reads the same files.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use half::f16;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

/// Sizes of the networks.
struct Sizes {
    unet: [usize; 4],
    context: usize,
    heads: usize,
    latent: usize,
    vae: [usize; 4],
    groups: usize,
    vision: Tower,
    text: Tower,
    /// Of the aesthetic head, layer by layer.
    head: [usize; 6],
}

struct Tower {
    width: usize,
    layers: usize,
    heads: usize,
    /// Tokens of a text, side of an image.
    size: usize,
    patch: usize,
}

const SD15: Sizes = Sizes {
    unet: [320, 640, 1280, 1280],
    context: 768,
    heads: 8,
    latent: 64,
    vae: [128, 256, 512, 512],
    groups: 32,
    vision: Tower { width: 1024, layers: 24, heads: 16, size: 224, patch: 14 },
    text: Tower { width: 768, layers: 12, heads: 12, size: 77, patch: 0 },
    head: [768, 1024, 128, 64, 16, 1],
};

const TINY: Sizes = Sizes {
    unet: [16, 32, 32, 32],
    context: 32,
    heads: 2,
    latent: 8,
    vae: [8, 8, 16, 16],
    groups: 8,
    vision: Tower { width: 32, layers: 2, heads: 2, size: 28, patch: 14 },
    text: Tower { width: 32, layers: 2, heads: 2, size: 77, patch: 0 },
    head: [32, 32, 16, 8, 8, 1],
};

/// Tokens of the texts' vocabulary, which the tokenizer's ids are far below.
const VOCABULARY: usize = 49408;
const TINY_VOCABULARY: usize = 1024;

/// Writes the folder. Two calls write the same bytes.
pub fn write(folder: &Path, tiny: bool) -> std::io::Result<()> {
    let (sizes, vocabulary) = if tiny { (&TINY, TINY_VOCABULARY) } else { (&SD15, VOCABULARY) };
    // The tokenizer and the noise schedule, which is Stable Diffusion's, are those of the model `shapes`.
    for (name, text) in SHARED {
        put(&folder.join(name), text.as_bytes())?;
    }
    let mut seed = 0;
    let mut component = |name: &str, config: Option<Value>, file: &str, list: List| {
        let at = folder.join(name);
        fs::create_dir_all(&at)?;
        if let Some(config) = config {
            put(&at.join("config.json"), serde_json::to_string_pretty(&config)?.as_bytes())?;
        }
        seed += 1;
        list.write(&at.join(file), seed)
    };
    component("unet", Some(unet_config(sizes)), DIFFUSERS, unet(sizes))?;
    component("vae", Some(vae_config(sizes)), DIFFUSERS, decoder(sizes))?;
    component("text_encoder", Some(text_config(sizes, vocabulary)), TRANSFORMERS, text(sizes, vocabulary))?;
    component("clip", Some(clip_config(sizes, vocabulary)), TRANSFORMERS, vision(sizes))?;
    component("aesthetic", None, TRANSFORMERS, head(sizes))
}

macro_rules! shared {
    ($($name:literal),*) => {
        &[$(($name, include_str!(concat!("../../assets/shapes/", $name)))),*]
    };
}
const SHARED: &[(&str, &str)] = shared![
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json"
];

const DIFFUSERS: &str = "diffusion_pytorch_model.safetensors";
const TRANSFORMERS: &str = "model.safetensors";

fn put(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes)
}

fn unet_config(s: &Sizes) -> Value {
    json!({
        "_class_name": "UNet2DConditionModel", "sample_size": s.latent, "in_channels": 4, "out_channels": 4,
        "block_out_channels": s.unet, "layers_per_block": 2, "cross_attention_dim": s.context,
        "attention_head_dim": s.heads, "norm_num_groups": s.groups, "norm_eps": 1e-5,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    })
}

fn vae_config(s: &Sizes) -> Value {
    json!({
        "_class_name": "AutoencoderKL", "latent_channels": 4, "block_out_channels": s.vae, "layers_per_block": 2,
        "norm_num_groups": s.groups, "scaling_factor": 0.18215, "sample_size": 8 * s.latent,
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
    })
}

fn tower_config(tower: &Tower, projection: usize) -> Map<String, Value> {
    let config = json!({
        "hidden_size": tower.width, "intermediate_size": 4 * tower.width, "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads, "hidden_act": "quick_gelu", "projection_dim": projection,
    });
    config.as_object().cloned().unwrap_or_default()
}

fn text_config(s: &Sizes, vocabulary: usize) -> Value {
    let mut config = tower_config(&s.text, s.head[0]);
    config.insert("model_type".into(), json!("clip_text_model"));
    config.insert("vocab_size".into(), json!(vocabulary));
    config.insert("max_position_embeddings".into(), json!(s.text.size));
    config.into()
}

fn clip_config(s: &Sizes, vocabulary: usize) -> Value {
    let mut vision = tower_config(&s.vision, s.head[0]);
    vision.insert("image_size".into(), json!(s.vision.size));
    vision.insert("patch_size".into(), json!(s.vision.patch));
    let text = text_config(s, vocabulary);
    json!({"model_type": "clip", "projection_dim": s.head[0], "text_config": text, "vision_config": vision})
}

/// Names and sizes of tensors.
#[derive(Default)]
struct List(Vec<(String, Vec<usize>)>);

impl List {
    fn one(&mut self, name: String, dims: &[usize]) {
        self.0.push((name, dims.to_vec()));
    }
    fn bias(&mut self, at: &str, c: usize) {
        self.one(format!("{at}.bias"), &[c]);
    }
    fn norm(&mut self, at: &str, c: usize) {
        self.one(format!("{at}.weight"), &[c]);
        self.bias(at, c);
    }
    fn plain(&mut self, at: &str, out: usize, input: usize) {
        self.one(format!("{at}.weight"), &[out, input]);
    }
    fn linear(&mut self, at: &str, out: usize, input: usize) {
        self.plain(at, out, input);
        self.bias(at, out);
    }
    fn conv(&mut self, at: &str, out: usize, input: usize, k: usize) {
        self.one(format!("{at}.weight"), &[out, input, k, k]);
        self.bias(at, out);
    }

    fn resnet(&mut self, at: &str, input: usize, out: usize, time: Option<usize>) {
        self.norm(&format!("{at}.norm1"), input);
        self.conv(&format!("{at}.conv1"), out, input, 3);
        if let Some(time) = time {
            self.linear(&format!("{at}.time_emb_proj"), out, time);
        }
        self.norm(&format!("{at}.norm2"), out);
        self.conv(&format!("{at}.conv2"), out, out, 3);
        if input != out {
            self.conv(&format!("{at}.conv_shortcut"), out, input, 1);
        }
    }

    fn transformer(&mut self, at: &str, c: usize, context: usize) {
        self.norm(&format!("{at}.norm"), c);
        self.conv(&format!("{at}.proj_in"), c, c, 1);
        let block = format!("{at}.transformer_blocks.0");
        for (name, keys) in [("attn1", c), ("attn2", context)] {
            self.plain(&format!("{block}.{name}.to_q"), c, c);
            self.plain(&format!("{block}.{name}.to_k"), c, keys);
            self.plain(&format!("{block}.{name}.to_v"), c, keys);
            self.linear(&format!("{block}.{name}.to_out.0"), c, c);
        }
        for norm in ["norm1", "norm2", "norm3"] {
            self.norm(&format!("{block}.{norm}"), c);
        }
        self.linear(&format!("{block}.ff.net.0.proj"), 8 * c, c);
        self.linear(&format!("{block}.ff.net.2"), c, 4 * c);
        self.conv(&format!("{at}.proj_out"), c, c, 1);
    }

    fn clip_layers(&mut self, at: &str, tower: &Tower) {
        let c = tower.width;
        for i in 0..tower.layers {
            let layer = format!("{at}.encoder.layers.{i}");
            self.norm(&format!("{layer}.layer_norm1"), c);
            self.norm(&format!("{layer}.layer_norm2"), c);
            for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                self.linear(&format!("{layer}.self_attn.{name}"), c, c);
            }
            self.linear(&format!("{layer}.mlp.fc1"), 4 * c, c);
            self.linear(&format!("{layer}.mlp.fc2"), c, 4 * c);
        }
    }

    /// Writes a safetensors file of f16.
    fn write(&self, path: &Path, seed: u64) -> std::io::Result<()> {
        let mut header = Map::new();
        let mut end = 0;
        for (name, dims) in &self.0 {
            let start = end;
            end += 2 * dims.iter().product::<usize>();
            let entry = json!({"dtype": "F16", "shape": dims, "data_offsets": [start, end]});
            header.insert(name.clone(), entry);
        }
        let mut header = serde_json::to_vec(&header)?;
        // Elements begin at a multiple of 8.
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (i, (name, dims)) in self.0.iter().enumerate() {
            file.write_all(bytemuck::cast_slice(&values(name, dims, seed << 32 | i as u64)))?;
        }
        file.flush()
    }
}

/// Random weights that keep the variance of what goes through, near one and zero in the norms.
fn values(name: &str, dims: &[usize], seed: u64) -> Vec<f16> {
    let len: usize = dims.iter().product();
    let (scale, shift) = match dims {
        [_] if name.contains("norm") && name.ends_with("weight") => (0.1, 1.0),
        [_] => (0.1, 0.0),
        [rows, ..] => ((len as f32 / *rows as f32).sqrt().recip(), 0.0),
        [] => (0.1, 0.0),
    };
    let mut values = vec![f16::ZERO; len];
    const CHUNK: usize = 1 << 16;
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(at, chunk)| {
        for (i, value) in chunk.iter_mut().enumerate() {
            let x = normal(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ (at * CHUNK + i) as u64);
            *value = f16::from_f32(scale * x + shift);
        }
    });
    values
}

/// Nearly normal: the sum of four uniforms made from the bits of one hash (SplitMix64's output function).
pub fn normal(key: u64) -> f32 {
    let mut z = key.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let sum = (z & 0xffff) + ((z >> 16) & 0xffff) + ((z >> 32) & 0xffff) + (z >> 48);
    // Four uniforms have variance 1/3.
    (sum as f32 - 131_070.0) / 65_536.0 * 1.732_050_8
}

fn unet(s: &Sizes) -> List {
    let mut l = List::default();
    let (base, time) = (s.unet[0], 4 * s.unet[0]);
    l.linear("time_embedding.linear_1", time, base);
    l.linear("time_embedding.linear_2", time, time);
    l.conv("conv_in", base, 4, 3);
    let (mut channels, mut skips) = (base, vec![base]);
    for (i, &out) in s.unet.iter().enumerate() {
        for j in 0..2 {
            l.resnet(&format!("down_blocks.{i}.resnets.{j}"), channels, out, Some(time));
            if i < 3 {
                l.transformer(&format!("down_blocks.{i}.attentions.{j}"), out, s.context);
            }
            channels = out;
            skips.push(out);
        }
        if i < 3 {
            l.conv(&format!("down_blocks.{i}.downsamplers.0.conv"), out, out, 3);
            skips.push(out);
        }
    }
    l.resnet("mid_block.resnets.0", channels, channels, Some(time));
    l.transformer("mid_block.attentions.0", channels, s.context);
    l.resnet("mid_block.resnets.1", channels, channels, Some(time));
    for (i, &out) in s.unet.iter().rev().enumerate() {
        for j in 0..3 {
            let input = channels + skips.pop().unwrap_or_default();
            l.resnet(&format!("up_blocks.{i}.resnets.{j}"), input, out, Some(time));
            if i > 0 {
                l.transformer(&format!("up_blocks.{i}.attentions.{j}"), out, s.context);
            }
            channels = out;
        }
        if i < 3 {
            l.conv(&format!("up_blocks.{i}.upsamplers.0.conv"), out, out, 3);
        }
    }
    l.norm("conv_norm_out", base);
    l.conv("conv_out", 4, base, 3);
    l
}

fn decoder(s: &Sizes) -> List {
    let mut l = List::default();
    let mut channels = s.vae[3];
    l.conv("post_quant_conv", 4, 4, 1);
    l.conv("decoder.conv_in", channels, 4, 3);
    l.resnet("decoder.mid_block.resnets.0", channels, channels, None);
    l.norm("decoder.mid_block.attentions.0.group_norm", channels);
    for name in ["to_q", "to_k", "to_v", "to_out.0"] {
        l.linear(&format!("decoder.mid_block.attentions.0.{name}"), channels, channels);
    }
    l.resnet("decoder.mid_block.resnets.1", channels, channels, None);
    for (i, &out) in s.vae.iter().rev().enumerate() {
        for j in 0..3 {
            l.resnet(&format!("decoder.up_blocks.{i}.resnets.{j}"), channels, out, None);
            channels = out;
        }
        if i < 3 {
            l.conv(&format!("decoder.up_blocks.{i}.upsamplers.0.conv"), out, out, 3);
        }
    }
    l.norm("decoder.conv_norm_out", channels);
    l.conv("decoder.conv_out", 3, channels, 3);
    l
}

fn text(s: &Sizes, vocabulary: usize) -> List {
    let (mut l, c) = (List::default(), s.text.width);
    l.plain("text_model.embeddings.token_embedding", vocabulary, c);
    l.plain("text_model.embeddings.position_embedding", s.text.size, c);
    l.clip_layers("text_model", &s.text);
    l.norm("text_model.final_layer_norm", c);
    l
}

fn vision(s: &Sizes) -> List {
    let (mut l, tower) = (List::default(), &s.vision);
    let (c, side) = (tower.width, tower.size / tower.patch);
    l.one("vision_model.embeddings.class_embedding".into(), &[c]);
    l.one("vision_model.embeddings.patch_embedding.weight".into(), &[c, 3, tower.patch, tower.patch]);
    l.plain("vision_model.embeddings.position_embedding", side * side + 1, c);
    l.norm("vision_model.pre_layrnorm", c);
    l.clip_layers("vision_model", tower);
    l.norm("vision_model.post_layernorm", c);
    l.plain("visual_projection", s.head[0], c);
    l
}

fn head(s: &Sizes) -> List {
    let mut l = List::default();
    for (number, pair) in [0, 2, 4, 6, 7].iter().zip(s.head.windows(2)) {
        l.linear(&format!("layers.{number}"), pair[1], pair[0]);
    }
    l
}
