//! Networks and their files.

pub mod blip;
mod block;
pub mod checkpoint;
pub mod clip;
pub mod config;
pub mod decoder;
pub mod embedding;
pub mod families;
pub mod files;
pub mod folder;
mod layers;
pub mod lora;
pub mod lpips;
pub mod needed;
pub mod original;
pub mod parts;
pub mod pipeline;
pub mod tiny;
pub mod tokenizer;
mod transformer;
pub mod unet;
pub mod vae;
pub mod wordpiece;
