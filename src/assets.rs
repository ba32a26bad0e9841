//! The `shapes` model inside the binary: a small text-to-image model in diffusers layout with its CLIP towers
//! and aesthetic head. How it was made and how good it is: `assets/shapes/README.md`.

/// Name of the embedded model, for records and messages.
pub const SHAPES: &str = "shapes";

#[cfg(feature = "shapes")]
macro_rules! embed {
    ($($path:literal),+ $(,)?) => {
        &[$(($path, include_bytes!(concat!("../assets/shapes/", $path)) as &[u8])),+]
    };
}

/// Every file of the model, if it is built in (feature `shapes`): path inside the folder and content.
#[cfg(feature = "shapes")]
pub static SHAPES_FILES: &[(&str, &[u8])] = embed![
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "clip/config.json",
    "clip/preprocessor_config.json",
    "clip/model.safetensors",
    "aesthetic/model.safetensors",
];
