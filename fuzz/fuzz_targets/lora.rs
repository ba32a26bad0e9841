//! A LoRA file, by the names and sizes of its tensors: lines as `das_cuda_fuzz::safetensors` reads them. It
//! is merged into a small UNet and a small text encoder.
#![no_main]

use std::sync::LazyLock;

use das_cuda::model::files::Source;
use das_cuda::model::folder::ModelFolder;
use das_cuda::model::lora::{Lora, Spec};
use das_cuda_fuzz::{MOST_BYTES, bounded, folder, names, read_all, safetensors, write};

const INDEX: &[u8] =
    br#"{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}"#;

const UNET: &str = "conv_in.weight F32 8 4 3 3
down_blocks.0.attentions.0.proj_in.weight F16 8 8 1 1
down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight F32 8 8
down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight BF16 8 6
down_blocks.0.resnets.0.conv1.weight F32 8 8 3 3
down_blocks.0.resnets.1.time_emb_proj.weight F32 8 1
mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.weight F32 8 8
odd.weight F32";

const TEXT: &str = "text_model.encoder.layers.0.self_attn.q_proj.weight F32 6 6
text_model.encoder.layers.0.mlp.fc1.weight F16 12 6";

static FILES: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
    let weights = |text| {
        let (header, bytes) = safetensors(text).expect("a file");
        [header, vec![0x3c; bytes as usize]].concat()
    };
    vec![
        ("model_index.json", INDEX.to_vec()),
        ("unet/config.json", br#"{"cross_attention_dim": 6, "norm_num_groups": 8}"#.to_vec()),
        ("unet/diffusion_pytorch_model.safetensors", weights(UNET)),
        ("text_encoder/model.safetensors", weights(TEXT)),
        ("vae/x", Vec::new()),
        ("scheduler/x", Vec::new()),
        ("tokenizer/x", Vec::new()),
    ]
});
static LIST: LazyLock<Vec<(&str, &[u8])>> =
    LazyLock::new(|| FILES.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect());

libfuzzer_sys::fuzz_target!(|input: &str| {
    let Some((header, bytes)) = safetensors(input) else { return };
    let path = folder().join("style.safetensors");
    write(&path, &header, bytes);
    let file = header.len() + bytes.min(MOST_BYTES) as usize;
    let model = ModelFolder::from_source(Source::Embedded(&LIST), None).expect("a model");
    let done = bounded(file, 200, || {
        let lora = Lora::open(&Spec { path: path.clone(), weight: 0.5 })?;
        let model = model.with_loras(vec![lora])?;
        for component in ["unet", "text_encoder"] {
            let checkpoint = model.checkpoint(component)?;
            if bytes <= MOST_BYTES {
                read_all(&checkpoint, 1 << 20);
            }
        }
        Ok(())
    });
    if let Err(error) = done {
        names(&error, "style.safetensors");
    }
});
