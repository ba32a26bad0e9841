//! What a family is, and what several families share.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::config::{AUTOENCODERS, ClipTextConfig, DecoderConfig};
use crate::model::parts::{Component, Parts};
use crate::model::pipeline::Pipeline;

/// A family of models: one diffusers pipeline.
pub struct Family {
    /// Name of the pipeline's class, `_class_name` in `model_index.json`.
    pub class: &'static str,
    /// The models it comprises, for people.
    pub about: &'static str,
    /// The components that are read.
    pub components: &'static [Component],
    /// Loads the networks of the components.
    pub build: fn(&Parts, &dyn Backend) -> Result<Pipeline>,
}

/// Tokenizers that give CLIP's ids.
pub const TOKENIZERS: &[&str] = &["CLIPTokenizer", "CLIPTokenizerFast"];

/// The components of a pipeline with one text encoder.
pub const ONE_TEXT_ENCODER: [Component; 5] = [
    Component { name: "unet", classes: &["UNet2DConditionModel"] },
    Component { name: "vae", classes: AUTOENCODERS },
    Component { name: "scheduler", classes: &[] },
    Component { name: "text_encoder", classes: &["CLIPTextModel", "CLIPTextModelWithProjection"] },
    Component { name: "tokenizer", classes: TOKENIZERS },
];

/// A text model for a pipeline that passes the attention mask of its tokens where the model's file asks for
/// it.
///
/// # Errors
/// Of the file; and for a file that asks for the mask, which is not computed here.
pub fn text_config_with_mask(parts: &Parts, component: &str) -> Result<ClipTextConfig> {
    let config = parts.text_config(component)?;
    if config.use_attention_mask {
        let file = parts.source().describe(&format!("{component}/config.json"));
        return Err(Error::model(format!("{file}: use_attention_mask is true, which is not supported"))
            .advice("use a model without this option"));
    }
    Ok(config)
}

/// An autoencoder whose pipeline divides latents by `scaling_factor` and does nothing else before it decodes
/// them.
///
/// # Errors
/// Of the file.
pub fn vae_config_scaled_only(parts: &Parts, notes: &mut Vec<String>) -> Result<DecoderConfig> {
    let mut config = parts.decoder_config()?;
    if let DecoderConfig::Kl(config) = &mut config
        && config.statistics.take().is_some()
    {
        notes.push(without_effect(parts, "latents_mean and latents_std have"));
    }
    Ok(without_shift(parts, config, notes))
}

/// The autoencoder of a pipeline that does not read `shift_factor`: none of those here does.
pub fn without_shift(parts: &Parts, mut config: DecoderConfig, notes: &mut Vec<String>) -> DecoderConfig {
    if std::mem::take(config.shift_factor_mut()) != 0.0 {
        notes.push(without_effect(parts, "shift_factor has"));
    }
    config
}

fn without_effect(parts: &Parts, keys_have: &str) -> String {
    let file = parts.source().describe("vae/config.json");
    format!("{file}: {keys_have} no effect: the pipeline of this model does not read it")
}
