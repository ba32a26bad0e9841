//! Both towers out of one file of the OpenCLIP package: the image tower below `visual.`, the text tower at
//! the top or below `text.`.

use super::{Clip, ClipText, ClipVision, text_sizes, vision_sizes};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::block::{Linear, Loader};
use crate::model::checkpoint::Checkpoint;
use crate::model::config::{ClipConfig, ClipTextConfig, ClipVisionConfig};
use crate::model::layers::{Layers, Names};
use crate::tensor::{HostSlice, Shape};

/// Tensors that belong to training or are made anew.
const BESIDE: [&str; 4] = ["logit_scale", "logit_bias", "*attn_mask", "*position_ids"];
/// The text tower.
const TEXT: [&str; 6] =
    ["text.*", "transformer.*", "token_embedding.*", "positional_embedding", "ln_final.*", "text_projection"];

impl Clip {
    /// Reads both towers of an OpenCLIP file.
    ///
    /// # Errors
    /// As [`ClipText::load`]; also for a file of transformers, by name.
    pub fn load_open_clip(
        backend: &dyn Backend,
        checkpoint: &Checkpoint,
        config: &ClipConfig,
    ) -> Result<Clip> {
        let root = root(backend, checkpoint)?;
        let clip = Clip { text: text(&root, &config.text)?, vision: vision(&root, &config.vision)? };
        checkpoint.finish(&BESIDE)?;
        Ok(clip)
    }
}

impl ClipVision {
    /// Reads the image tower of an OpenCLIP file.
    ///
    /// # Errors
    /// As [`Clip::load_open_clip`].
    pub fn load_open_clip(
        backend: &dyn Backend,
        checkpoint: &Checkpoint,
        config: &ClipVisionConfig,
    ) -> Result<ClipVision> {
        let vision = vision(&root(backend, checkpoint)?, config)?;
        checkpoint.finish(&[&BESIDE[..], &TEXT].concat())?;
        Ok(vision)
    }
}

fn root<'a>(backend: &'a dyn Backend, checkpoint: &'a Checkpoint) -> Result<Loader<'a>> {
    let weights = checkpoint.root();
    if weights.has("visual.proj") || weights.at("visual").at("transformer").any() {
        return Ok(Loader::new(backend, checkpoint));
    }
    let label = checkpoint.label();
    let found = match weights.at("vision_model").any() {
        true => "this is a CLIPModel of transformers",
        false => "there is no image tower of OpenCLIP (visual.transformer.resblocks)",
    };
    Err(Error::model(format!("{label}: {found}, where an OpenCLIP file is expected"))
        .advice("give the file that the OpenCLIP package saves, as safetensors"))
}

fn text(root: &Loader<'_>, config: &ClipTextConfig) -> Result<ClipText> {
    let from = root.at_if_any("text");
    let c = config.hidden_size;
    Ok(ClipText {
        tokens: from.at("token_embedding").matrix("weight", config.vocab_size, c)?,
        learned: None,
        positions: from.matrix("positional_embedding", config.max_positions, c)?,
        layers: Layers::load(&from, Names::OpenClip, &text_sizes(config))?,
        norm: from.norm("ln_final", c)?,
        projection: Some(projection(&from, "text_projection", config.projection_dim, c)?),
        config: config.clone(),
    })
}

fn vision(root: &Loader<'_>, config: &ClipVisionConfig) -> Result<ClipVision> {
    let from = root.at("visual");
    let (c, tokens) = (config.hidden_size, config.positions());
    Ok(ClipVision {
        patches: from.at("conv1").kernel(c, config.channels, config.patch_size)?,
        class: from.vector("class_embedding", c)?,
        positions: from.matrix("positional_embedding", tokens, c)?.reshape(Shape::new(1, 1, tokens, c)),
        pre_norm: from.norm("ln_pre", c)?,
        layers: Layers::load(&from, Names::OpenClip, &vision_sizes(config))?,
        post_norm: from.norm("ln_post", c)?,
        projection: projection(&from, "proj", config.projection_dim, c)?,
        config: config.clone(),
    })
}

/// A projection, which these files hold as `(input, out)`.
fn projection(from: &Loader<'_>, name: &str, out: usize, input: usize) -> Result<Linear> {
    let view = from.view(name, &[input, out])?;
    let columns = view.data().to_f32();
    let rows: Vec<f32> = (0..out * input).map(|at| columns[at % input * out + at / input]).collect();
    Ok(Linear { w: from.backend.upload(Shape::rows(out, input), HostSlice::F32(&rows))?, b: None })
}
