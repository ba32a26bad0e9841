//! Stable Diffusion XL, and models trained or distilled from it that run in the same pipeline.

use super::family::{Family, TOKENIZERS, without_shift};
use crate::backend::Backend;
use crate::error::Result;
use crate::model::config::AUTOENCODERS;
use crate::model::parts::{Component, Parts};
use crate::model::pipeline::{Pipeline, Recipe, TextStates};

/// `StableDiffusionXLPipeline`.
pub static FAMILY: Family = Family {
    class: "StableDiffusionXLPipeline",
    about: "Stable Diffusion XL, SSD-1B, SDXL-Turbo: two text encoders, pooled text and sizes as conditions",
    components: &[
        Component { name: "unet", classes: &["UNet2DConditionModel"] },
        Component { name: "vae", classes: AUTOENCODERS },
        Component { name: "scheduler", classes: &[] },
        Component { name: "text_encoder", classes: &["CLIPTextModel", "CLIPTextModelWithProjection"] },
        Component { name: "tokenizer", classes: TOKENIZERS },
        Component { name: "text_encoder_2", classes: &["CLIPTextModelWithProjection"] },
        Component { name: "tokenizer_2", classes: TOKENIZERS },
    ],
    build,
};

/// The pipeline changes no configuration on loading, and passes no attention mask to its text encoders,
/// whatever their files say.
fn build(parts: &Parts, backend: &dyn Backend) -> Result<Pipeline> {
    let mut notes = Vec::new();
    let recipe = Recipe {
        unet: parts.unet_config()?,
        vae: without_shift(parts, parts.decoder_config()?, &mut notes),
        scheduler: parts.scheduler()?,
        texts: vec![parts.text_config("text_encoder")?, parts.text_config("text_encoder_2")?],
        text_states: TextStates::PenultimateAndPooled,
        // The default is the pipeline's own.
        zeros_for_empty_prompt: parts.setting("force_zeros_for_empty_prompt", true)?,
        notes,
    };
    Pipeline::assemble(backend, parts, recipe)
}
