//! The CLIP model through which several rewards see images and prompts. Embeddings are divided by their
//! length.

use super::preprocess::{Fit, Preprocess};
use crate::backend::Backend;
use crate::error::Result;
use crate::model::clip::{ClipText, ClipVision};
use crate::model::tokenizer::{Tokenizer, Tokens};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// A CLIP model: images, and where a reward asks for it prompts, to unit vectors.
pub(super) struct Tower {
    /// What the image tower wants done to images.
    pub preprocess: Preprocess,
    /// The image tower.
    pub vision: ClipVision,
    /// The text tower with its tokenizer, where a reward reads prompts.
    pub text: Option<(Tokenizer, ClipText)>,
}

impl Tower {
    /// Embeddings `(n, 1, 1, d)` of images `(n, h, w, 3)` in [0, 1].
    ///
    /// # Errors
    /// Of the backend.
    pub fn images<'a>(&'a self, tape: &Tape<'a>, images: &Var, fit: Fit) -> Result<Var> {
        let pixels = self.preprocess.apply(tape, images, fit)?;
        tape.l2_norm(&self.vision.embed(tape, &pixels)?)
    }

    /// Embeddings `(prompts, 1, 1, d)`, and a warning of the reward `who` for each prompt that did not fit.
    ///
    /// # Errors
    /// Of the text model.
    #[track_caller]
    pub fn prompts(
        &self,
        backend: &dyn Backend,
        prompts: &[String],
        who: &str,
    ) -> Result<(Tensor, Vec<String>)> {
        let Some((tokenizer, text)) = &self.text else { panic!("reward {who}: opened without a text tower") };
        let (ids, warnings) = encoded(prompts, who, tokenizer.context(), |text| tokenizer.encode(text));
        let embedded = text.run(backend, &ids)?.projected(backend)?;
        Ok((backend.l2_norm(&embedded)?, warnings))
    }
}

/// The token ids of prompts, and a warning of the reward `who` for each prompt that did not fit the
/// `context`.
pub(super) fn encoded(
    prompts: &[String],
    who: &str,
    context: usize,
    encode: impl Fn(&str) -> Tokens,
) -> (Vec<Vec<u32>>, Vec<String>) {
    let mut warnings = Vec::new();
    let mut ids = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let tokens = encode(prompt);
        if let Some(dropped) = &tokens.dropped {
            warnings.push(format!(
                "reward {who} reads only {context} tokens of a prompt; not read: {:?}",
                dropped.text
            ));
        }
        ids.push(tokens.ids);
    }
    (ids, warnings)
}
