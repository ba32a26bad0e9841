//! CLIP: the text transformer that conditions the UNet, and both towers of a model that compares texts with
//! images. The text side is constant; the image side runs on the tape.

mod open_clip;

use super::block::{Linear, Loader, Norm};
use super::checkpoint::Checkpoint;
use super::config::{ClipConfig, ClipTextConfig, ClipVisionConfig, Pooling};
use super::layers::{Layers, Names, Sizes};
use crate::backend::{Backend, Conv};
use crate::error::{Error, Result};
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

/// Tensors that files of some ages and exports carry beside the weights of a tower.
const BESIDE: [&str; 2] = ["*position_ids", "logit_scale"];

fn text_sizes(config: &ClipTextConfig) -> Sizes {
    Sizes {
        layers: config.layers,
        width: config.hidden_size,
        inner: config.intermediate_size,
        heads: config.heads,
        activation: config.activation.into(),
        eps: config.layer_norm_eps,
        causal: true,
    }
}

fn vision_sizes(config: &ClipVisionConfig) -> Sizes {
    Sizes {
        layers: config.layers,
        width: config.hidden_size,
        inner: config.intermediate_size,
        heads: config.heads,
        activation: config.activation.into(),
        eps: config.layer_norm_eps,
        causal: false,
    }
}

/// The text transformer.
pub struct ClipText {
    config: ClipTextConfig,
    tokens: Tensor,
    /// Of the ids behind the vocabulary.
    learned: Option<Tensor>,
    positions: Tensor,
    layers: Layers,
    norm: Norm,
    projection: Option<Linear>,
}

impl ClipText {
    /// Reads a text model: `CLIPTextModel`, or with `projection` `CLIPTextModelWithProjection`.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming file and tensor: missing, misshapen or surplus
    /// tensors.
    pub fn load(
        backend: &dyn Backend,
        checkpoint: &Checkpoint,
        config: &ClipTextConfig,
        projection: bool,
    ) -> Result<ClipText> {
        let text = ClipText::read(&Loader::new(backend, checkpoint), config, projection)?;
        // Some exports of the plain text model keep the projection, which nothing reads.
        let ignorable: &[&str] = if projection { &[] } else { &["text_projection.*"] };
        checkpoint.finish(&[&BESIDE, ignorable].concat())?;
        Ok(text)
    }

    fn read(root: &Loader<'_>, config: &ClipTextConfig, projection: bool) -> Result<ClipText> {
        // Some versions of transformers save a lone text model without the outer name.
        let from = root.at_if_any("text_model");
        let c = config.hidden_size;
        let embeddings = from.at("embeddings");
        let positions = embeddings.at("position_embedding").matrix("weight", config.max_positions, c)?;
        Ok(ClipText {
            tokens: embeddings.at("token_embedding").matrix("weight", config.vocab_size, c)?,
            learned: None,
            positions,
            layers: Layers::load(&from, Names::Transformers, &text_sizes(config))?,
            norm: from.norm("final_layer_norm", c)?,
            projection: match projection {
                true => Some(root.plain_linear("text_projection", config.projection_dim, c)?),
                false => None,
            },
            config: config.clone(),
        })
    }

    /// Sizes of the text tower.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// Adds token ids behind those of the vocabulary, with their embeddings, one after another.
    ///
    /// # Errors
    /// Of the backend.
    #[track_caller]
    pub fn learn(&mut self, backend: &dyn Backend, vectors: &[f32]) -> Result<()> {
        let width = self.config.hidden_size;
        assert!(!vectors.is_empty() && vectors.len().is_multiple_of(width), "{} numbers", vectors.len());
        let more = backend.upload(Shape::rows(vectors.len() / width, width), HostSlice::F32(vectors))?;
        self.learned = Some(match &self.learned {
            None => more,
            Some(before) => backend.stack(&[before, &more])?,
        });
        Ok(())
    }

    /// Embeddings of token ids, one after another. The table of the vocabulary is not copied for a few more
    /// rows.
    fn embedded(&self, backend: &dyn Backend, ids: &[u32]) -> Result<Tensor> {
        let Some(learned) = &self.learned else { return backend.gather(&self.tokens, ids) };
        let vocab_size = self.config.vocab_size as u32;
        let of_vocabulary: Vec<u32> = ids.iter().map(|&id| if id < vocab_size { id } else { 0 }).collect();
        let rows = backend.stack(&[&backend.gather(&self.tokens, &of_vocabulary)?, learned])?;
        let row = |(at, &id): (usize, &u32)| match id.checked_sub(vocab_size) {
            None => at as u32,
            Some(behind) => ids.len() as u32 + behind,
        };
        backend.gather(&rows, &ids.iter().enumerate().map(row).collect::<Vec<_>>())
    }

    /// Whether [`TextStates::projected`] can be asked for.
    pub fn has_projection(&self) -> bool {
        self.projection.is_some()
    }

    /// States of token ids, one list per text, all of the same length up to `max_positions`. Texts are padded
    /// by the caller; what follows the end token does not change what precedes it.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) for a token outside the vocabulary or too many tokens.
    pub fn run(&self, backend: &dyn Backend, ids: &[Vec<u32>]) -> Result<TextStates<'_>> {
        let tokens = ids.first().map_or(0, Vec::len);
        assert!(tokens > 0 && ids.iter().all(|text| text.len() == tokens), "texts of one length");
        let ClipTextConfig { max_positions, vocab_size, hidden_size, .. } = self.config;
        let known = vocab_size + self.learned.as_ref().map_or(0, |learned| learned.shape().n);
        if tokens > max_positions {
            return Err(Error::model(format!("{tokens} tokens for a text model that takes {max_positions}"))
                .advice("tokenizer and text model are of different models: take both from the same one"));
        }
        let flat = ids.concat();
        if let Some(id) = flat.iter().find(|&&id| id as usize >= known) {
            return Err(Error::model(format!("token {id} for a text model with {known} tokens"))
                .advice("tokenizer and text model are of different models: take both from the same one"));
        }
        let tape = Tape::off(backend);
        let x = self.embedded(backend, &flat)?.reshape(Shape::new(ids.len(), 1, tokens, hidden_size));
        let first: Vec<u32> = (0..tokens as u32).collect();
        let positions = match tokens == max_positions {
            true => self.positions.clone(),
            false => backend.gather(&self.positions, &first)?,
        };
        let x = tape.embed(&x.into(), None, &positions.reshape(Shape::new(1, 1, tokens, hidden_size)))?;
        let (penultimate, last) = self.layers.run_all_but_last_and_all(&tape, x)?;
        let last = self.norm.layer(&tape, &last, self.config.layer_norm_eps)?;
        let ends = ids.iter().map(|text| end(text, self.config.pooling, vocab_size)).collect();
        Ok(TextStates { model: self, penultimate: penultimate.into_value(), last: last.into_value(), ends })
    }
}

/// Position of the token whose state stands for the whole text.
fn end(ids: &[u32], pooling: Pooling, vocab_size: usize) -> u32 {
    let at = match pooling {
        Pooling::First(eos) => ids.iter().position(|&id| id == eos),
        // The first of the largest of the vocabulary, which is the end: ids that were learned are larger, and
        // transformers takes the first of those instead.
        Pooling::LargestToken => {
            let largest = ids.iter().filter(|&&id| (id as usize) < vocab_size).max();
            ids.iter().position(|id| Some(id) == largest)
        }
    };
    at.unwrap_or(0) as u32
}

/// What a text model computed.
pub struct TextStates<'a> {
    model: &'a ClipText,
    /// Before the last layer, without norm: `(n, 1, tokens, c)`.
    pub penultimate: Tensor,
    /// Behind the final norm: `(n, 1, tokens, c)`.
    pub last: Tensor,
    ends: Vec<u32>,
}

impl TextStates<'_> {
    /// The state of the end token, `(n, 1, 1, c)`.
    ///
    /// # Errors
    /// Of the backend.
    pub fn pooled(&self, backend: &dyn Backend) -> Result<Tensor> {
        backend.take_token(&self.last, &self.ends)
    }

    /// The pooled state projected, `(n, 1, 1, projection_dim)`, not normalised. Panics without a projection.
    ///
    /// # Errors
    /// Of the backend.
    #[track_caller]
    pub fn projected(&self, backend: &dyn Backend) -> Result<Tensor> {
        let Some(projection) = &self.model.projection else { panic!("this text model has no projection") };
        projection.apply(backend, &self.pooled(backend)?, None)
    }
}

/// The image transformer with its projection.
pub struct ClipVision {
    config: ClipVisionConfig,
    patches: Tensor,
    class: Tensor,
    positions: Tensor,
    pre_norm: Norm,
    layers: Layers,
    post_norm: Norm,
    projection: Linear,
}

impl ClipVision {
    /// Reads the image tower of a model with both towers or of a `CLIPVisionModelWithProjection`.
    ///
    /// # Errors
    /// As [`ClipText::load`].
    pub fn load(
        backend: &dyn Backend,
        checkpoint: &Checkpoint,
        config: &ClipVisionConfig,
    ) -> Result<ClipVision> {
        let vision = ClipVision::read(&Loader::new(backend, checkpoint), config)?;
        checkpoint.finish(&[&BESIDE[..], &["text_model.*", "text_projection.*"]].concat())?;
        Ok(vision)
    }

    fn read(root: &Loader<'_>, config: &ClipVisionConfig) -> Result<ClipVision> {
        let from = root.at_if_any("vision_model");
        let (c, tokens) = (config.hidden_size, config.positions());
        let embeddings = from.at("embeddings");
        let patch = embeddings.at("patch_embedding").kernel(c, config.channels, config.patch_size)?;
        let positions = embeddings.at("position_embedding").matrix("weight", tokens, c)?;
        Ok(ClipVision {
            patches: patch,
            class: embeddings.vector("class_embedding", c)?,
            positions: positions.reshape(Shape::new(1, 1, tokens, c)),
            // The name is misspelt in every file there is.
            pre_norm: from.norm("pre_layrnorm", c)?,
            layers: Layers::load(&from, Names::Transformers, &vision_sizes(config))?,
            post_norm: from.norm("post_layernorm", c)?,
            projection: root.plain_linear("visual_projection", config.projection_dim, c)?,
            config: config.clone(),
        })
    }

    /// Sizes of the image tower.
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }

    /// Embeddings `(n, 1, 1, projection_dim)`, not normalised, of images `(n, s, s, 3)`, which are resized to
    /// the model's `image_size` and normalised by its mean and deviation.
    ///
    /// # Errors
    /// Of the backend.
    #[track_caller]
    pub fn embed(&self, tape: &Tape<'_>, images: &Var) -> Result<Var> {
        let (shape, side) = (images.shape(), self.config.image_size);
        assert_eq!((shape.h, shape.w, shape.c), (side, side, self.config.channels), "images {shape}");
        let eps = self.config.layer_norm_eps;
        let mut x = tape.conv(images, &self.patches, None, None, Conv::patches(self.config.patch_size))?;
        x = tape.embed(&x, Some(&self.class), &self.positions)?;
        x = self.pre_norm.layer(tape, &x, eps)?;
        x = self.layers.run_to_first_token(tape, x)?;
        x = self.post_norm.layer(tape, &x, eps)?;
        self.projection.run(tape, &x, None)
    }
}

/// Both towers of a `CLIPModel`.
pub struct Clip {
    /// From tokens to embeddings.
    pub text: ClipText,
    /// From images to embeddings.
    pub vision: ClipVision,
}

impl Clip {
    /// Reads both towers.
    ///
    /// # Errors
    /// As [`ClipText::load`].
    pub fn load(backend: &dyn Backend, checkpoint: &Checkpoint, config: &ClipConfig) -> Result<Clip> {
        let root = Loader::new(backend, checkpoint);
        let clip = Clip {
            text: ClipText::read(&root, &config.text, true)?,
            vision: ClipVision::read(&root, &config.vision)?,
        };
        checkpoint.finish(&BESIDE)?;
        Ok(clip)
    }

    /// Image embeddings; see [`ClipVision::embed`].
    ///
    /// # Errors
    /// Of the backend.
    #[track_caller]
    pub fn embed_images(&self, tape: &Tape<'_>, images: &Var) -> Result<Var> {
        self.vision.embed(tape, images)
    }

    /// Text embeddings `(n, 1, 1, projection_dim)`, not normalised; tokens as in [`ClipText::run`].
    ///
    /// # Errors
    /// As [`ClipText::run`].
    pub fn embed_text(&self, backend: &dyn Backend, ids: &[Vec<u32>]) -> Result<Tensor> {
        self.text.run(backend, ids)?.projected(backend)
    }
}
