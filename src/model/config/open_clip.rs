//! `open_clip_config.json`: the sizes of a CLIP model as the OpenCLIP package writes them, read into the same
//! configuration as `config.json` of transformers.

use serde_json::Value;

use super::clip::{Activation, ClipConfig, ClipTextConfig, ClipVisionConfig, Pooling};
use super::{Keys, parse_bytes};
use crate::error::Result;

/// What `open_clip_config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenClipConfig {
    /// Both towers.
    pub clip: ClipConfig,
    /// Mean of each channel of the images, where the file states it.
    pub mean: Option<[f64; 3]>,
    /// Deviation of each channel of the images, where the file states it.
    pub std: Option<[f64; 3]>,
}

/// Of all layer norms, unless the file has `norm_kwargs`, which are refused.
const LAYER_NORM_EPS: f32 = 1e-5;

impl OpenClipConfig {
    /// ViT-H-14 as the OpenCLIP package defines it, on which HPSv2 is built.
    pub const VIT_H_14: &'static str = r#"{"embed_dim": 1024,
        "vision_cfg": {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24}}"#;

    /// Reads the content of `open_clip_config.json`, or of a file of the package's `model_configs`; `file`
    /// names it in errors.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming file and key: wrong types, contradictions, and
    /// values that would change the result and are not supported.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<OpenClipConfig> {
        parse_bytes(file, bytes, |top| {
            let preprocess = top.below("preprocess_cfg", "preprocess_cfg.")?;
            let (mut mean, mut std) = (None, None);
            if let Some(preprocess) = &preprocess {
                mean = three(preprocess, "mean", |x| (0.0..=1.0).contains(&x))?;
                std = three(preprocess, "std", |x| (1.0 / 256.0..=1.0).contains(&x))?;
            }
            let clip = match top.below("model_cfg", "model_cfg.")? {
                Some(model) => clip(&model)?,
                None => clip(top)?,
            };
            Ok(OpenClipConfig { clip, mean, std })
        })
    }
}

fn three(keys: &Keys<'_>, key: &str, ok: impl Fn(f64) -> bool) -> Result<Option<[f64; 3]>> {
    let Some(value) = keys.get(key) else { return Ok(None) };
    let list: Option<Vec<f64>> = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
    match list.as_deref() {
        Some(&[r, g, b]) if [r, g, b].into_iter().all(ok) => Ok(Some([r, g, b])),
        _ => Err(keys.wrong(key, value, "three numbers between 0 and 1")),
    }
}

fn clip(keys: &Keys<'_>) -> Result<ClipConfig> {
    let projection_dim = keys.size("embed_dim", 512)?;
    let activation = match keys.flag("quick_gelu", false)? {
        true => Activation::QuickGelu,
        false => Activation::Gelu,
    };
    let vision = keys.below("vision_cfg", "vision_cfg.")?.unwrap_or_else(|| keys.empty());
    let text = keys.below("text_cfg", "text_cfg.")?.unwrap_or_else(|| keys.empty());
    Ok(ClipConfig {
        text: text_tower(&text, activation, projection_dim)?,
        vision: vision_tower(&vision, activation, projection_dim)?,
        projection_dim,
    })
}

/// Options of both towers that change what is computed.
fn refuse_what_is_not_computed(keys: &Keys<'_>) -> Result<()> {
    for key in ["ls_init_value", "act_kwargs", "norm_kwargs"] {
        keys.absent(key)?;
    }
    keys.only("final_ln_after_pool", &[false.into()])
}

/// Channels between the two layers of a feed-forward block.
fn inner(keys: &Keys<'_>, width: usize) -> Result<usize> {
    Ok((width as f64 * f64::from(keys.positive("mlp_ratio", 4.0)?)) as usize)
}

fn text_tower(keys: &Keys<'_>, activation: Activation, projection_dim: usize) -> Result<ClipTextConfig> {
    refuse_what_is_not_computed(keys)?;
    keys.absent("hf_model_name")?;
    keys.only("embed_cls", &[false.into()])?;
    keys.only("no_causal_mask", &[false.into()])?;
    keys.only("proj_bias", &[false.into()])?;
    keys.only("pool_type", &["argmax".into()])?;
    keys.only("proj_type", &["linear".into()])?;
    let hidden_size = keys.size("width", 512)?;
    let heads = keys.size("heads", 8)?;
    if !hidden_size.is_multiple_of(heads) {
        return Err(keys.contradiction(&format!("width {hidden_size} is no multiple of heads {heads}")));
    }
    Ok(ClipTextConfig {
        vocab_size: keys.size("vocab_size", 49408)?,
        hidden_size,
        intermediate_size: inner(keys, hidden_size)?,
        layers: keys.count("layers", 12)?,
        heads,
        max_positions: keys.size("context_length", 77)?,
        activation,
        layer_norm_eps: LAYER_NORM_EPS,
        pooling: Pooling::LargestToken,
        projection_dim,
        use_attention_mask: false,
        unknown_keys: keys.unknown(&[]),
    })
}

fn vision_tower(keys: &Keys<'_>, activation: Activation, projection_dim: usize) -> Result<ClipVisionConfig> {
    refuse_what_is_not_computed(keys)?;
    keys.absent("timm_model_name")?;
    for key in ["attentional_pool", "no_ln_pre", "global_average_pool", "input_patchnorm"] {
        keys.only(key, &[false.into()])?;
    }
    keys.only("pool_type", &["tok".into()])?;
    keys.only("pos_embed_type", &["learnable".into()])?;
    let hidden_size = keys.size("width", 768)?;
    let head_width = keys.size("head_width", 64)?;
    if !hidden_size.is_multiple_of(head_width) {
        return Err(
            keys.contradiction(&format!("width {hidden_size} is no multiple of head_width {head_width}"))
        );
    }
    let (image_size, patch_size) = (keys.size("image_size", 224)?, keys.size("patch_size", 16)?);
    if image_size < patch_size || image_size % patch_size != 0 {
        return Err(
            keys.contradiction(&format!("image_size {image_size} is no multiple of patch_size {patch_size}"))
        );
    }
    Ok(ClipVisionConfig {
        hidden_size,
        intermediate_size: inner(keys, hidden_size)?,
        layers: keys.count("layers", 12)?,
        heads: hidden_size / head_width,
        channels: 3,
        image_size,
        patch_size,
        activation,
        layer_norm_eps: LAYER_NORM_EPS,
        projection_dim,
        // Training only.
        unknown_keys: keys.unknown(&["patch_dropout"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_s_files_are_read_with_and_without_their_envelope() {
        let h = OpenClipConfig::parse("h", OpenClipConfig::VIT_H_14.as_bytes()).unwrap();
        assert_eq!((h.clip.vision.heads, h.clip.text.heads, h.clip.projection_dim), (16, 16, 1024));
        assert_eq!((h.clip.vision.intermediate_size, h.clip.vision.positions()), (5120, 257));
        assert_eq!((h.clip.text.activation, h.mean), (Activation::Gelu, None));
        let text = format!(
            r#"{{"model_cfg": {}, "preprocess_cfg": {{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}}}"#,
            OpenClipConfig::VIT_H_14.replacen('{', r#"{"quick_gelu": true, "#, 1)
        );
        let whole = OpenClipConfig::parse("whole", text.as_bytes()).unwrap();
        assert_eq!(whole.clip.vision.activation, Activation::QuickGelu);
        assert_eq!((whole.mean, whole.std), (Some([0.5; 3]), Some([0.5; 3])));
    }

    #[test]
    fn what_would_change_the_result_is_refused_by_key() {
        for (text, key) in [
            (r#"{"vision_cfg": {"layers": [3, 4, 6, 3]}}"#, "vision_cfg.layers"),
            (r#"{"vision_cfg": {"timm_model_name": "convnext_base"}}"#, "timm_model_name"),
            (r#"{"vision_cfg": {"width": 100}}"#, "head_width"),
            (r#"{"vision_cfg": {"patch_size": 15}}"#, "patch_size"),
            (r#"{"text_cfg": {"hf_model_name": "xlm-roberta-base"}}"#, "hf_model_name"),
            (r#"{"text_cfg": {"pool_type": "last"}}"#, "text_cfg.pool_type"),
            (r#"{"model_cfg": {"vision_cfg": {"ls_init_value": 1e-4}}}"#, "ls_init_value"),
            (r#"{"preprocess_cfg": {"std": [0, 1, 1]}}"#, "preprocess_cfg.std"),
        ] {
            let error = OpenClipConfig::parse("file", text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("fix:"), "{text}: {error}");
        }
    }
}
