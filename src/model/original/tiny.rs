//! The tiny autoencoder (TAESD) in one file: under the names of diffusers (`decoder.layers.0`), or numbered
//! as in the program of its author, where the bound on the latents, which has no weights, is layer 0.

use serde_json::{Value, json};

use super::pool::Pool;
use crate::error::{Error, Result};
use crate::model::checkpoint::Checkpoint;

/// Names of the decoder in diffusers.
const LAYERS: &str = "decoder.layers.";

/// What stands before the numbers: nothing in a file of the decoder alone, the rest where the encoder is in
/// the file too.
const NUMBERED: [&str; 3] = ["", "decoder.", "taesd_decoder."];

/// The same of the encoder, whose first layer is a convolution.
const ENCODERS: [&str; 4] = ["", "encoder.", "taesd_encoder.", "encoder.layers."];

/// The tensors of a tiny autoencoder's decoder under their names in a folder, and its configuration, which
/// the tensors imply; `None` for a file of another kind.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model) for a file of the encoder alone.
pub fn rename(file: &Checkpoint) -> Result<Option<(Pool, Value)>> {
    let kernel = |name: String| {
        file.root().dims(&name).is_some_and(|dims| dims.len() == 4 && dims.iter().all(|size| *size > 0))
    };
    if kernel(format!("{LAYERS}0.weight")) {
        let pool = Pool::new(file, "");
        let config = config(&pool, |layer| format!("{LAYERS}{layer}"));
        return Ok(Some((pool, config)));
    }
    if let Some(prefix) = NUMBERED.iter().find(|prefix| kernel(format!("{prefix}1.weight"))) {
        let mut pool = Pool::new(file, prefix);
        let config = config(&pool, |layer| (layer + 1).to_string());
        let layers = (1..).take_while(|at| layer_or_next(&pool, *at)).last().unwrap_or(0);
        (1..=layers).for_each(|at| pool.layer(&at.to_string(), &format!("{LAYERS}{}", at - 1)));
        return Ok(Some((pool, config)));
    }
    let encoder =
        |prefix: &str| kernel(format!("{prefix}0.weight")) && kernel(format!("{prefix}1.conv.0.weight"));
    match ENCODERS.iter().any(|prefix| encoder(prefix)) {
        false => Ok(None),
        true => Err(Error::model(format!(
            "{}: this is the encoder of a tiny autoencoder (TAESD), which makes no images",
            file.label()
        ))
        .option("vae")
        .advice("give `vae` the decoder, such as taesd_decoder.safetensors")),
    }
}

/// Whether a layer is there, or one of the next two: activations and enlargements have a number and no
/// tensors, never three in a row.
fn layer_or_next(pool: &Pool, at: usize) -> bool {
    (at..at + 3).any(|at| pool.any(&format!("{at}.")))
}

/// `vae/config.json` of the layers, whose names `named` says.
fn config(pool: &Pool, named: impl Fn(usize) -> String) -> Value {
    let size = |layer: usize, at: usize| pool.dim(&format!("{}.weight", named(layer)), at);
    // The first convolution and its activation; then stages: blocks, an enlargement, a convolution.
    let (mut at, mut blocks) = (2, Vec::new());
    let images = loop {
        let count = (at..).take_while(|at| pool.any(&format!("{}.conv.", named(*at)))).count();
        blocks.push(count);
        at += count;
        // The last stage enlarges nothing. A file that ends elsewhere is refused when its weights are read.
        if size(at + 1, 0).is_none() {
            break size(at, 0);
        }
        at += 2;
    };
    json!({
        "_class_name": "AutoencoderTiny",
        "latent_channels": size(0, 1),
        "out_channels": images.unwrap_or(3),
        "decoder_block_out_channels": vec![size(0, 0); blocks.len()],
        "num_decoder_blocks": blocks,
    })
}
