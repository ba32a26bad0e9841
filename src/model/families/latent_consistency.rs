//! Latent consistency models: Stable Diffusion distilled to few steps, with the guidance scale as an
//! embedding.

use super::family::{Family, ONE_TEXT_ENCODER, text_config_with_mask, vae_config_scaled_only};
use crate::backend::Backend;
use crate::error::Result;
use crate::model::parts::Parts;
use crate::model::pipeline::{Pipeline, Recipe, TextStates};

/// `LatentConsistencyModelPipeline`.
pub static FAMILY: Family = Family {
    class: "LatentConsistencyModelPipeline",
    about: "latent consistency models: few steps, the guidance scale as an input of the UNet",
    components: &ONE_TEXT_ENCODER,
    build,
};

/// The pipeline changes no configuration on loading.
fn build(parts: &Parts, backend: &dyn Backend) -> Result<Pipeline> {
    let mut notes = Vec::new();
    let recipe = Recipe {
        unet: parts.unet_config()?,
        vae: vae_config_scaled_only(parts, &mut notes)?,
        scheduler: parts.scheduler()?,
        texts: vec![text_config_with_mask(parts, "text_encoder")?],
        text_states: TextStates::Last,
        zeros_for_empty_prompt: false,
        notes,
    };
    Pipeline::assemble(backend, parts, recipe)
}
