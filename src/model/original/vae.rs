//! The autoencoder of the original programs: its names (`encoder.down.0.block.1`, `decoder.up.3`) and the
//! configuration that its tensors imply.

use serde_json::{Value, json};

use super::pool::Pool;
use crate::error::{Error, Result};

/// Gives the tensors of an autoencoder their names in a folder; those that have them already keep them.
/// Returns `vae/config.json`, with the family's `scaling_factor`.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model) where there is no such autoencoder.
pub fn rename(pool: &mut Pool, file: &str, scaling_factor: f64) -> Result<Value> {
    pool.discard(|name| name.starts_with("loss.") || name.starts_with("model_ema."));
    let Some(latents) = pool.dim("decoder.conv_in.weight", 1) else {
        return Err(not_an_autoencoder(file));
    };
    let images = pool.dim("decoder.conv_out.weight", 0).unwrap_or(3);
    let (quant, post) = (pool.any("quant_conv."), pool.any("post_quant_conv."));
    let levels = match pool.any("decoder.up_blocks.") {
        true => named_as_in_folders(pool),
        false => named_originally(pool),
    };
    if levels.is_empty() {
        return Err(not_an_autoencoder(file));
    }
    let (channels, layers): (Vec<usize>, Vec<usize>) = levels.into_iter().unzip();
    Ok(json!({
        "_class_name": "AutoencoderKL",
        "in_channels": images,
        "out_channels": images,
        "latent_channels": latents,
        "block_out_channels": channels,
        // Of the encoder; the decoder has one more.
        "layers_per_block": layers[0].saturating_sub(1).max(1),
        "down_block_types": vec!["DownEncoderBlock2D"; channels.len()],
        "up_block_types": vec!["UpDecoderBlock2D"; channels.len()],
        "norm_num_groups": 32,
        "scaling_factor": scaling_factor,
        "use_quant_conv": quant,
        "use_post_quant_conv": post,
    }))
}

fn not_an_autoencoder(file: &str) -> Error {
    Error::model(format!(
        "{file}: no autoencoder of Stable Diffusion (AutoencoderKL or AutoencoderTiny) in it"
    ))
    .option("vae")
    .advice("give `vae` the file or the folder of one, such as sd-vae-ft-mse, sdxl-vae or taesd")
}

/// Channels and residual blocks per level of the decoder, at full resolution first.
fn named_as_in_folders(pool: &Pool) -> Vec<(usize, usize)> {
    let level = |i: usize| {
        let at = format!("decoder.up_blocks.{i}.resnets");
        let channels = pool.dim(&format!("{at}.0.conv2.weight"), 0)?;
        Some((channels, (0..).take_while(|j| pool.any(&format!("{at}.{j}."))).count()))
    };
    let mut levels: Vec<_> = (0..).map_while(level).collect();
    levels.reverse();
    levels
}

fn named_originally(pool: &mut Pool) -> Vec<(usize, usize)> {
    let level = |pool: &Pool, i: usize| {
        let at = format!("decoder.up.{i}.block");
        let channels = pool.dim(&format!("{at}.0.conv2.weight"), 0)?;
        Some((channels, (0..).take_while(|j| pool.any(&format!("{at}.{j}."))).count()))
    };
    let levels: Vec<_> = (0..).map_while(|i| level(pool, i)).collect();
    let n = levels.len();
    for (i, &(_, blocks)) in levels.iter().enumerate() {
        let (down, up) = (format!("encoder.down.{i}"), format!("decoder.up.{i}"));
        // The decoder's levels are numbered from the lowest resolution in a folder.
        let (to_down, to_up) =
            (format!("encoder.down_blocks.{i}"), format!("decoder.up_blocks.{}", n - 1 - i));
        for j in (0..).take(blocks) {
            residual(pool, &format!("{down}.block.{j}"), &format!("{to_down}.resnets.{j}"));
            residual(pool, &format!("{up}.block.{j}"), &format!("{to_up}.resnets.{j}"));
        }
        pool.layer(&format!("{down}.downsample.conv"), &format!("{to_down}.downsamplers.0.conv"));
        pool.layer(&format!("{up}.upsample.conv"), &format!("{to_up}.upsamplers.0.conv"));
    }
    for side in ["encoder", "decoder"] {
        residual(pool, &format!("{side}.mid.block_1"), &format!("{side}.mid_block.resnets.0"));
        residual(pool, &format!("{side}.mid.block_2"), &format!("{side}.mid_block.resnets.1"));
        let parts =
            [("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")];
        pool.layers(&format!("{side}.mid.attn_1"), &format!("{side}.mid_block.attentions.0"), &parts);
        pool.layer(&format!("{side}.norm_out"), &format!("{side}.conv_norm_out"));
    }
    levels
}

fn residual(pool: &mut Pool, from: &str, to: &str) {
    let parts = [
        ("norm1", "norm1"),
        ("conv1", "conv1"),
        ("norm2", "norm2"),
        ("conv2", "conv2"),
        ("nin_shortcut", "conv_shortcut"),
    ];
    pool.layers(from, to, &parts);
}
