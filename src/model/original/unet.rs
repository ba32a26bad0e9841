//! The UNet of the original programs: its names (`input_blocks.4.1`, `middle_block.0`) and the configuration
//! that its tensors imply.

use serde_json::{Value, json};

use super::pool::Pool;
use crate::error::{Error, Result};

/// Features per head of the models with linear projections (2.x and XL); 1.x has [`HEADS`] in every block.
const FEATURES: usize = 64;

/// Heads of every block of 1.x.
const HEADS: usize = 8;

/// One level of resolution on the way down or up.
#[derive(Default)]
struct Level {
    channels: usize,
    /// Transformer blocks behind each residual block; 0 where there is no transformer.
    depths: Vec<usize>,
}

impl Level {
    fn crosses(&self) -> bool {
        self.depths.iter().any(|&depth| depth > 0)
    }
}

/// Gives the tensors below `model.diffusion_model.` their names in a folder. Returns `unet/config.json`, but
/// for `sample_size`.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model) for blocks that are not those of Stable Diffusion.
pub fn rename(pool: &mut Pool, file: &str) -> Result<Value> {
    let odd = |what: String| {
        Err(Error::model(format!("{file}: model.diffusion_model: {what}")).advice(
            "the file is damaged or of a family that is not known; give a Stable Diffusion 1.x, 2.x or XL checkpoint",
        ))
    };
    let Some(inputs) = pool.dim("input_blocks.0.0.weight", 1) else {
        return odd("no input_blocks.0.0.weight of a convolution".to_string());
    };
    let outputs = pool.dim("out.2.weight", 0).unwrap_or(inputs);
    let added = pool.dim("label_emb.0.0.weight", 1);
    for (from, to) in [
        ("input_blocks.0.0", "conv_in"),
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("label_emb.0.0", "add_embedding.linear_1"),
        ("label_emb.0.2", "add_embedding.linear_2"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
    ] {
        pool.layer(from, to);
    }
    let linear = linear_projections(pool);
    let context = context(pool);
    let (down, up) = (down(pool), up(pool));
    let mid = match () {
        () if pool.any("middle_block.1.transformer_blocks.") => json!("UNetMidBlock2DCrossAttn"),
        () if pool.any("middle_block.0.") => json!("UNetMidBlock2D"),
        () => Value::Null,
    };
    residual(pool, "middle_block.0", "mid_block.resnets.0");
    pool.layer("middle_block.1", "mid_block.attentions.0");
    residual(pool, "middle_block.2", "mid_block.resnets.1");
    if down.len() != up.len() {
        return odd(format!("{} levels on the way down and {} on the way up", down.len(), up.len()));
    }

    let heads: Value = match linear {
        true => down.iter().map(|level| (level.channels / FEATURES).max(1)).collect(),
        false => json!(HEADS),
    };
    let kinds = |levels: &[Level], with: &str, without: &str| -> Vec<String> {
        levels.iter().map(|level| if level.crosses() { with } else { without }.to_string()).collect()
    };
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "in_channels": inputs,
        "out_channels": outputs,
        "block_out_channels": down.iter().map(|level| level.channels).collect::<Vec<_>>(),
        "layers_per_block": down.iter().map(|level| level.depths.len()).collect::<Vec<_>>(),
        "down_block_types": kinds(&down, "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": kinds(&up, "CrossAttnUpBlock2D", "UpBlock2D"),
        "mid_block_type": mid,
        "attention_head_dim": heads,
        "transformer_layers_per_block": depths(&down),
        "reverse_transformer_layers_per_block": depths(&up),
        "use_linear_projection": linear,
        "norm_num_groups": 32,
    });
    if let Some(context) = context {
        config["cross_attention_dim"] = json!(context);
    }
    if let Some(width) = added {
        // The six sizes of XL, each in as many features.
        config["addition_embed_type"] = json!("text_time");
        config["addition_time_embed_dim"] = json!(SIZES_WIDTH);
        config["projection_class_embeddings_input_dim"] = json!(width);
    }
    Ok(config)
}

/// Features of each of the six sizes that condition XL.
const SIZES_WIDTH: usize = 256;

/// One number where all transformers of a level have it, as published files write it, else one for each; 1
/// for a level without transformers.
fn depths(levels: &[Level]) -> Vec<Value> {
    let of = |level: &Level| match level.depths.iter().max() {
        Some(&most) if level.depths.iter().any(|&depth| depth != most) => json!(level.depths),
        most => json!(most.copied().unwrap_or(0).max(1)),
    };
    levels.iter().map(of).collect()
}

/// Whether the projections around transformers are matrices rather than 1x1 convolutions.
fn linear_projections(pool: &Pool) -> bool {
    let first = (0..)
        .take_while(|i| pool.any(&format!("input_blocks.{i}.")))
        .find_map(|i| pool.dims(&format!("input_blocks.{i}.1.proj_in.weight")));
    first.or(pool.dims("middle_block.1.proj_in.weight")).is_some_and(|dims| dims.len() == 2)
}

/// Features of the text that the first cross-attention sees.
fn context(pool: &Pool) -> Option<usize> {
    let keys = |at: String| pool.dim(&format!("{at}.1.transformer_blocks.0.attn2.to_k.weight"), 1);
    let after =
        (1..).take_while(|i| pool.any(&format!("input_blocks.{i}."))).map(|i| format!("input_blocks.{i}"));
    after.chain(["middle_block".to_string()]).find_map(keys)
}

fn down(pool: &mut Pool) -> Vec<Level> {
    let mut levels = vec![Level::default()];
    for i in 1.. {
        let at = format!("input_blocks.{i}");
        if !pool.any(&format!("{at}.")) {
            break;
        }
        let number = levels.len() - 1;
        if pool.dims(&format!("{at}.0.op.weight")).is_some() {
            pool.layer(&format!("{at}.0.op"), &format!("down_blocks.{number}.downsamplers.0.conv"));
            levels.push(Level::default());
        } else {
            block(pool, &at, &format!("down_blocks.{number}"), &mut levels[number]);
        }
    }
    levels
}

fn up(pool: &mut Pool) -> Vec<Level> {
    let mut levels = vec![Level::default()];
    for i in 0.. {
        let at = format!("output_blocks.{i}");
        if !pool.any(&format!("{at}.")) {
            break;
        }
        let number = levels.len() - 1;
        // Behind the transformer, or in its place.
        let doubles = [1, 2].into_iter().find(|k| pool.dims(&format!("{at}.{k}.conv.weight")).is_some());
        if let Some(k) = doubles {
            pool.layer(&format!("{at}.{k}.conv"), &format!("up_blocks.{number}.upsamplers.0.conv"));
        }
        block(pool, &at, &format!("up_blocks.{number}"), &mut levels[number]);
        if doubles.is_some() {
            levels.push(Level::default());
        }
    }
    levels
}

/// A residual block and the transformer behind it.
fn block(pool: &mut Pool, from: &str, to: &str, level: &mut Level) {
    let nth = level.depths.len();
    level.channels = pool.dim(&format!("{from}.0.out_layers.3.weight"), 0).unwrap_or(level.channels);
    let blocks = format!("{from}.1.transformer_blocks.");
    level.depths.push((0..).take_while(|i| pool.any(&format!("{blocks}{i}."))).count());
    residual(pool, &format!("{from}.0"), &format!("{to}.resnets.{nth}"));
    pool.layer(&format!("{from}.1"), &format!("{to}.attentions.{nth}"));
}

fn residual(pool: &mut Pool, from: &str, to: &str) {
    let parts = [
        ("in_layers.0", "norm1"),
        ("in_layers.2", "conv1"),
        ("emb_layers.1", "time_emb_proj"),
        ("out_layers.0", "norm2"),
        ("out_layers.3", "conv2"),
        ("skip_connection", "conv_shortcut"),
    ];
    pool.layers(from, to, &parts);
}
