//! `config.json` of CLIP: the text model of a diffusers folder, the towers of a reward, or both in one file.

use serde_json::Value;

use super::Keys;
use crate::error::Result;
use crate::model::files::Source;

/// The activation between the two layers of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(1.702 x)`, of OpenAI's models.
    QuickGelu,
    /// `x Phi(x)` with the exact error function, of OpenCLIP's models.
    Gelu,
}

/// Which position of the last hidden state is the pooled text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// That of the largest token id. Files with `eos_token_id: 2` mean this: an early bug of transformers
    /// that is kept for compatibility.
    LargestToken,
    /// The first that holds this token.
    First(u32),
}

/// A CLIP text transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextConfig {
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width between the two layers of a feed-forward block.
    pub intermediate_size: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Heads of `hidden_size / heads` features.
    pub heads: usize,
    /// Tokens that the model takes.
    pub max_positions: usize,
    /// Of the feed-forward blocks.
    pub activation: Activation,
    /// Of all layer norms.
    pub layer_norm_eps: f32,
    /// Which position is the pooled text.
    pub pooling: Pooling,
    /// Width of the projected pooled text, in a model with a projection.
    pub projection_dim: usize,
    /// Whether some pipelines are to pass the attention mask of the tokens, which hides the padding.
    pub use_attention_mask: bool,
    /// Keys without a meaning to the Python class, with their values.
    pub unknown_keys: Vec<String>,
}

/// A CLIP vision transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipVisionConfig {
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width between the two layers of a feed-forward block.
    pub intermediate_size: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Heads of `hidden_size / heads` features.
    pub heads: usize,
    /// Of the image, usually 3.
    pub channels: usize,
    /// Side of the square image, a multiple of `patch_size`.
    pub image_size: usize,
    /// Side of a square patch.
    pub patch_size: usize,
    /// Of the feed-forward blocks.
    pub activation: Activation,
    /// Of all layer norms.
    pub layer_norm_eps: f32,
    /// Width of the projected image embedding, in a model with a projection.
    pub projection_dim: usize,
    /// Keys without a meaning to the Python class, with their values.
    pub unknown_keys: Vec<String>,
}

impl ClipVisionConfig {
    /// Tokens of an image: one per patch, and the class token.
    pub fn positions(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }
}

/// Both towers, projected to vectors of the same width.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// The text tower.
    pub text: ClipTextConfig,
    /// The image tower.
    pub vision: ClipVisionConfig,
    /// Width of both embeddings.
    pub projection_dim: usize,
}

impl ClipTextConfig {
    /// Reads `component/config.json` of a text model, or the text part of one with both towers.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming file and key: wrong types, contradictions, and
    /// values that would change the result and are not supported.
    pub fn open(source: &Source, component: &str) -> Result<ClipTextConfig> {
        super::open(source, component, "config.json", text)
    }

    /// As [`ClipTextConfig::open`], from the content of the file; `file` names it in errors.
    ///
    /// # Errors
    /// As [`ClipTextConfig::open`].
    pub fn parse(file: &str, bytes: &[u8]) -> Result<ClipTextConfig> {
        super::parse_bytes(file, bytes, text)
    }
}

impl ClipVisionConfig {
    /// Reads `component/config.json` of a vision model, or the vision part of one with both towers.
    ///
    /// # Errors
    /// As [`ClipTextConfig::open`].
    pub fn open(source: &Source, component: &str) -> Result<ClipVisionConfig> {
        super::open(source, component, "config.json", vision)
    }

    /// As [`ClipVisionConfig::open`], from the content of the file; `file` names it in errors.
    ///
    /// # Errors
    /// As [`ClipTextConfig::open`].
    pub fn parse(file: &str, bytes: &[u8]) -> Result<ClipVisionConfig> {
        super::parse_bytes(file, bytes, vision)
    }
}

impl ClipConfig {
    /// Reads `component/config.json` of a model with both towers.
    ///
    /// # Errors
    /// As [`ClipTextConfig::open`].
    pub fn open(source: &Source, component: &str) -> Result<ClipConfig> {
        super::open(source, component, "config.json", both)
    }

    /// As [`ClipConfig::open`], from the content of the file; `file` names it in errors.
    ///
    /// # Errors
    /// As [`ClipTextConfig::open`].
    pub fn parse(file: &str, bytes: &[u8]) -> Result<ClipConfig> {
        super::parse_bytes(file, bytes, both)
    }
}

fn both(keys: &Keys<'_>) -> Result<ClipConfig> {
    if !nested(keys) {
        return Err(
            keys.contradiction("text_config and vision_config are missing: this is one tower, not both")
        );
    }
    let projection_dim = keys.size("projection_dim", 512)?;
    Ok(ClipConfig {
        text: ClipTextConfig { projection_dim, ..text(keys)? },
        vision: ClipVisionConfig { projection_dim, ..vision(keys)? },
        projection_dim,
    })
}

fn text(keys: &Keys<'_>) -> Result<ClipTextConfig> {
    keys.only("model_type", &["clip_text_model".into(), "clip".into()])?;
    if nested(keys) {
        // Where the old key is there it decides, defaults included; a file may have both.
        return match keys.below("text_config_dict", "text_config_dict.")? {
            Some(old) => text_model(&old),
            None => text_model(&keys.below("text_config", "text_config.")?.unwrap_or_else(|| keys.empty())),
        };
    }
    text_model(keys)
}

fn vision(keys: &Keys<'_>) -> Result<ClipVisionConfig> {
    keys.only("model_type", &["clip_vision_model".into(), "clip".into()])?;
    if nested(keys) {
        return match keys.below("vision_config_dict", "vision_config_dict.")? {
            Some(old) => vision_model(&old),
            None => {
                vision_model(&keys.below("vision_config", "vision_config.")?.unwrap_or_else(|| keys.empty()))
            }
        };
    }
    vision_model(keys)
}

fn nested(keys: &Keys<'_>) -> bool {
    let parts = ["text_config", "vision_config", "text_config_dict", "vision_config_dict"];
    keys.get("model_type") == Some(&"clip".into()) || parts.iter().any(|key| keys.get(key).is_some())
}

fn text_model(keys: &Keys<'_>) -> Result<ClipTextConfig> {
    refuse_what_is_not_computed(keys)?;
    let hidden_size = keys.size("hidden_size", 512)?;
    Ok(ClipTextConfig {
        vocab_size: keys.size("vocab_size", 49408)?,
        hidden_size,
        intermediate_size: keys.size("intermediate_size", 2048)?,
        layers: keys.count("num_hidden_layers", 12)?,
        heads: heads(keys, 8, hidden_size)?,
        max_positions: keys.size("max_position_embeddings", 77)?,
        activation: activation(keys)?,
        layer_norm_eps: keys.positive("layer_norm_eps", 1e-5)?,
        pooling: pooling(keys)?,
        projection_dim: keys.size("projection_dim", 512)?,
        use_attention_mask: keys.flag("use_attention_mask", false)?,
        unknown_keys: keys.unknown(&WITHOUT_EFFECT),
    })
}

fn vision_model(keys: &Keys<'_>) -> Result<ClipVisionConfig> {
    refuse_what_is_not_computed(keys)?;
    let hidden_size = keys.size("hidden_size", 768)?;
    let square = |key: &str, default| match keys.square_or_pair(key)? {
        None => Ok(default),
        Some((h, w)) if h == w => Ok(h),
        Some(_) => Err(keys.unsupported(key, &keys.map[key], "squares")),
    };
    let (image_size, patch_size) = (square("image_size", 224)?, square("patch_size", 32)?);
    if image_size < patch_size || image_size % patch_size != 0 {
        return Err(
            keys.contradiction(&format!("image_size {image_size} is no multiple of patch_size {patch_size}"))
        );
    }
    // Pictures have three, and nothing here makes others of them.
    keys.only("num_channels", &[3.into()])?;
    Ok(ClipVisionConfig {
        hidden_size,
        intermediate_size: keys.size("intermediate_size", 3072)?,
        layers: keys.count("num_hidden_layers", 12)?,
        heads: heads(keys, 12, hidden_size)?,
        channels: keys.size("num_channels", 3)?,
        image_size,
        patch_size,
        activation: activation(keys)?,
        layer_norm_eps: keys.positive("layer_norm_eps", 1e-5)?,
        projection_dim: keys.size("projection_dim", 512)?,
        unknown_keys: keys.unknown(&WITHOUT_EFFECT),
    })
}

/// Options of every transformers model that change the weights or what is computed with them.
fn refuse_what_is_not_computed(keys: &Keys<'_>) -> Result<()> {
    for key in ["quantization_config", "compression_config"] {
        keys.absent(key)?;
    }
    // Heads to be taken out of layers on loading.
    match keys.get("pruned_heads") {
        Some(v) if v.as_object().is_none_or(|heads| !heads.is_empty()) => {
            Err(keys.unsupported("pruned_heads", v, "none"))
        }
        _ => Ok(()),
    }
}

fn heads(keys: &Keys<'_>, default: usize, hidden_size: usize) -> Result<usize> {
    let heads = keys.size("num_attention_heads", default)?;
    if !hidden_size.is_multiple_of(heads) {
        return Err(keys.contradiction(&format!(
            "hidden_size {hidden_size} is no multiple of num_attention_heads {heads}"
        )));
    }
    Ok(heads)
}

fn activation(keys: &Keys<'_>) -> Result<Activation> {
    keys.only("hidden_act", &["quick_gelu".into(), "gelu".into()])?;
    Ok(if keys.opt_text("hidden_act")? == Some("gelu") { Activation::Gelu } else { Activation::QuickGelu })
}

fn pooling(keys: &Keys<'_>) -> Result<Pooling> {
    match keys.get("eos_token_id") {
        None => Ok(Pooling::First(49407)),
        Some(v) if v.as_u64() == Some(2) => Ok(Pooling::LargestToken),
        Some(v) => {
            let id = match v {
                Value::Array(list) if list.len() == 1 => list[0].as_u64(),
                v => v.as_u64(),
            };
            id.and_then(|id| u32::try_from(id).ok())
                .map(Pooling::First)
                .ok_or_else(|| keys.wrong("eos_token_id", v, "one token id"))
        }
    }
}

/// Keys that every configuration of transformers has had at some time and that do not change what a CLIP
/// tower computes: they are for training, for generating text, for classifiers, for what is returned, or for
/// other models.
const WITHOUT_EFFECT: [&str; 75] = [
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dropout",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "logit_scale_init_value",
    "max_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "text_config",
    "text_config_dict",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
    "vision_config",
    "vision_config_dict",
    "vision_use_head",
    "vocab_size",
    "xla_device",
];
