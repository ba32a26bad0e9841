//! The text encoders of the original programs: CLIP as transformers names it, and OpenCLIP, whose query, key
//! and value are one matrix; and the configurations that their tensors imply.

use serde_json::{Value, json};

use super::pool::Pool;
use crate::model::files::Part;

/// Features per head of every published text encoder.
const FEATURES: usize = 64;

/// Layers of OpenCLIP's ViT-H that Stable Diffusion 2.x uses: all but the last.
const VIT_H_LAYERS: usize = 23;

fn config(
    class: &str,
    [vocab, positions, width, inner, layers]: [usize; 5],
    activation: &str,
    projection: usize,
) -> Value {
    json!({
        "architectures": [class],
        "model_type": "clip_text_model",
        "vocab_size": vocab,
        "max_position_embeddings": positions,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": (width / FEATURES).max(1),
        "hidden_act": activation,
        "projection_dim": projection,
        "layer_norm_eps": 1e-5,
        // What the published files say, by which the end is the largest token.
        "eos_token_id": 2,
    })
}

/// CLIP as transformers names it, with the outer `text_model` or without. `None` where it is not all there.
pub fn rename_clip(pool: &mut Pool) -> Option<Value> {
    let outer = if pool.any("text_model.") { "text_model." } else { "" };
    let tokens = pool.dims(&format!("{outer}embeddings.token_embedding.weight"))?;
    let &[vocab, width] = tokens else { return None };
    let positions = pool.dim(&format!("{outer}embeddings.position_embedding.weight"), 0)?;
    let inner = pool.dim(&format!("{outer}encoder.layers.0.mlp.fc1.weight"), 0)?;
    let layers = (0..).take_while(|i| pool.any(&format!("{outer}encoder.layers.{i}."))).count();
    let sizes = [vocab, positions, width, inner, layers];
    Some(config("CLIPTextModel", sizes, "quick_gelu", width))
}

/// OpenCLIP's text transformer; with `projection` its projection too, without it all layers but the last of
/// ViT-H, since Stable Diffusion 2.x is conditioned on the states before it. `None` where it is not complete.
pub fn rename_open_clip(pool: &mut Pool, projection: bool) -> Option<Value> {
    let &[vocab, width] = pool.dims("token_embedding.weight")? else { return None };
    let positions = pool.dim("positional_embedding", 0)?;
    let inner = pool.dim("transformer.resblocks.0.mlp.c_fc.weight", 0)?;
    let stored = (0..).take_while(|i| pool.any(&format!("transformer.resblocks.{i}."))).count();
    let layers = if projection { stored } else { stored.min(VIT_H_LAYERS) };
    let projected = pool.dim("text_projection", 1).unwrap_or(width);

    pool.layer("token_embedding", "text_model.embeddings.token_embedding");
    pool.tensor("positional_embedding", "text_model.embeddings.position_embedding.weight", Part::Whole);
    pool.layer("ln_final", "text_model.final_layer_norm");
    if projection {
        pool.tensor("text_projection", "text_projection.weight", Part::Transposed);
    }
    for i in 0..layers {
        let (from, to) = (format!("transformer.resblocks.{i}"), format!("text_model.encoder.layers.{i}"));
        for (part, name) in [
            ("ln_1", "layer_norm1"),
            ("ln_2", "layer_norm2"),
            ("mlp.c_fc", "mlp.fc1"),
            ("mlp.c_proj", "mlp.fc2"),
            ("attn.out_proj", "self_attn.out_proj"),
        ] {
            pool.layer(&format!("{from}.{part}"), &format!("{to}.{name}"));
        }
        for leaf in ["weight", "bias"] {
            for (nth, name) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
                let fused = format!("{from}.attn.in_proj_{leaf}");
                pool.tensor(&fused, &format!("{to}.self_attn.{name}.{leaf}"), Part::Third(nth));
            }
        }
    }
    // Beside the weights: the temperature of CLIP's loss, a mask that is the same in all models, and for 2.x
    // what is not used.
    let unused = format!("transformer.resblocks.{layers}.");
    pool.discard(|name| {
        ["logit_scale", "attn_mask", "text_projection"].contains(&name) || name.starts_with(&unused)
    });
    let class = if projection { "CLIPTextModelWithProjection" } else { "CLIPTextModel" };
    let sizes = [vocab, positions, width, inner, layers];
    Some(config(class, sizes, "gelu", projected))
}
