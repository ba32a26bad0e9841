//! What a file of weights is, told by the names in it: a checkpoint of a family that can be run, or something
//! else that people have under the same ending.

use crate::error::{Error, Result};
use crate::model::checkpoint::{Checkpoint, cut, some_of};

/// Where the UNet is in every checkpoint of Stable Diffusion.
pub const UNET: &str = "model.diffusion_model.";

/// Where the autoencoder is.
pub const VAE: &str = "first_stage_model.";

/// Where the text encoders are, by family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texts {
    /// Stable Diffusion 1.x: CLIP.
    Clip,
    /// 2.x: OpenCLIP without its last layer.
    OpenClip,
    /// XL: CLIP, and OpenCLIP with its projection.
    Both,
}

impl Texts {
    /// The family, by the name that people know.
    pub fn family(self) -> &'static str {
        match self {
            Texts::Clip => "Stable Diffusion 1.x",
            Texts::OpenClip => "Stable Diffusion 2.x",
            Texts::Both => "Stable Diffusion XL",
        }
    }

    /// The prefixes of the text encoders.
    pub fn prefixes(self) -> &'static [&'static str] {
        match self {
            Texts::Clip => &["cond_stage_model.transformer."],
            Texts::OpenClip => &["cond_stage_model.model."],
            Texts::Both => &["conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."],
        }
    }
}

/// Averaged weights alone. Their names have no dots, and so are those of no layers.
const AVERAGED: &str = "a checkpoint of averaged weights (EMA) without the ordinary ones";

/// A UNet alone, or with an autoencoder.
const NO_TEXT: &str = "a UNet without its text encoder";

/// Beginnings of names that tell a kind of file, and what it is. The first that is found counts.
const OTHERS: [(&[&str], &str); 31] = [
    (
        &["lora_unet_", "lora_te", "unet.lora", "lora.unet"],
        "a LoRA, which changes a model and is none itself",
    ),
    (&["string_to_param", "emb_params", "clip_g", "clip_l"], "a textual inversion, a new word for a model"),
    (&["control_model.", "controlnet_", "control_all_x_embedder."], "a ControlNet"),
    (&["double_blocks.0.img_attn.", "single_transformer_blocks.", "single_blocks."], "a Flux checkpoint"),
    (&["single_stream_modulation.", "early_stream_modulations."], "a Flux.2 checkpoint"),
    (&["distilled_guidance_layer."], "a Chroma checkpoint"),
    (&["joint_blocks.", "text_encoders.clip_l."], "a Stable Diffusion 3 checkpoint"),
    (
        &["clip_txt_mapper.", "down_blocks.1.0.channelwise.", "down_blocks.0.0.channelwise."],
        "a Stable Cascade checkpoint",
    ),
    (&["double_layers.", "cond_seq_linear."], "an AuraFlow checkpoint"),
    (&["caption_projection.", "adaln_single."], "a PixArt checkpoint"),
    (&["y_embedder."], "a PixArt or Sana checkpoint"),
    (&["txt_in.individual_token_refiner."], "a HunyuanVideo checkpoint"),
    (&["mlp_t5.", "text_embedding_padding"], "a Hunyuan-DiT checkpoint"),
    (&["patchify_proj."], "an LTX-Video checkpoint"),
    (&["head.modulation"], "a Wan checkpoint"),
    (&["cap_embedder."], "a Lumina or Z-Image checkpoint"),
    (&["double_stream_blocks."], "a HiDream checkpoint"),
    (&["net.x_embedder."], "a Cosmos checkpoint"),
    (&["txt_norm.", "transformer_blocks.0.img_mod."], "a Qwen-Image checkpoint"),
    (&["blocks.0.attn.qkv_x."], "a Mochi checkpoint"),
    (&["down_blocks.0.motion_modules.", "mid_block.motion_modules."], "an AnimateDiff motion module"),
    (&["noise_augmentor.", "embedder.model.visual."], "an unCLIP checkpoint, which is conditioned on images"),
    (&["depth_model."], "a depth-to-image checkpoint, which is conditioned on images"),
    (&["edm_mean"], "a Playground v2.5 checkpoint, whose noise levels (EDM) are not supported"),
    (&["decoder.layers.", "taesd_decoder."], "a tiny autoencoder (TAESD), no whole model"),
    (&["input_blocks.", "down_blocks.", "model.diffusion_model."], NO_TEXT),
    (
        &["encoder.conv_in.", "decoder.conv_in.", "first_stage_model.decoder."],
        "an autoencoder, no whole model",
    ),
    (&["text_model.", "embeddings.token_embedding.", "cond_stage_model."], "a text encoder, no whole model"),
    (&["visual.", "vision_model."], "a CLIP, no model that draws"),
    (&["layers."], "a head of a reward, no model that draws"),
    (&["model_ema."], AVERAGED),
];

/// Which text encoders the checkpoint has, if it is one that can be run.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model), saying what the file is instead.
pub fn recognise(file: &Checkpoint) -> Result<Texts> {
    let any = |start: &str| file.names().any(|name| name.starts_with(start));
    let below_unet = |start: &str| any(&format!("{UNET}{start}"));
    let unet = below_unet("input_blocks.");
    let refused = |what: &str| {
        Error::model(format!("{}: this is {what}", file.label()))
            .option("model")
            .advice("give `model` a checkpoint of Stable Diffusion 1.x, 2.x or XL (base) for text to image")
    };
    // Those that share most of their names with what can be run come first.
    if unet && file.names().any(|n| n.contains(".time_stack.") || n.contains(".time_mixer.")) {
        return Err(refused("a Stable Video Diffusion checkpoint"));
    }
    let special = OTHERS.iter().filter(|(_, what)| {
        ["ControlNet", "unCLIP", "depth", "Playground", "LoRA"].iter().any(|word| what.contains(word))
    });
    for (starts, what) in special {
        if starts.iter().any(|start| any(start)) {
            return Err(refused(what));
        }
    }
    if unet {
        inputs(file, &refused)?;
        if below_unet("time_embed.cond_proj.") {
            return Err(refused("a latent consistency checkpoint, which is run from its folder only"));
        }
        let [first, second] = ["conditioner.embedders.0.", "conditioner.embedders.1."].map(any);
        match (first, second) {
            (true, true) => return Ok(Texts::Both),
            (false, true) => return Err(refused("Stable Diffusion XL without its first text encoder")),
            (true, false) if any("conditioner.embedders.0.model.") => {
                return Err(refused("the refiner of SDXL, which improves the latents of another model"));
            }
            (true, false) => return Err(refused("Stable Diffusion XL without its second text encoder")),
            (false, false) => {}
        }
        for texts in [Texts::OpenClip, Texts::Clip] {
            if texts.prefixes().iter().all(|prefix| any(prefix)) {
                return Ok(texts);
            }
        }
        return Err(refused(match any("cond_stage_model.") || any("conditioner.") {
            true => "a UNet with a text encoder that is not known",
            false => NO_TEXT,
        }));
    }
    // Its text encoder and autoencoder have their usual names, by which it would be taken for one of them.
    if any("model_ema.diffusion_model") && !any(UNET) {
        return Err(refused(AVERAGED));
    }
    if any("input_blocks.") && (any("cond_stage_model.") || any("conditioner.")) {
        return Err(refused(&format!("a checkpoint whose UNet has other names than {UNET}input_blocks.*")));
    }
    for (starts, what) in OTHERS {
        if starts.iter().any(|start| any(start) || below_unet(start)) {
            return Err(refused(what));
        }
    }
    if file.names().any(|n| n.contains(".lora_down.") || n.contains(".lora_A.") || n.contains(".lora.down."))
    {
        return Err(refused(OTHERS[0].1));
    }
    let names: Vec<&str> = file.names().collect();
    let held = match names.as_slice() {
        [] => "nothing".to_string(),
        [""] => "one tensor without a name".to_string(),
        names => some_of(names),
    };
    Err(refused(&format!("no checkpoint that is known; it holds {held}")))
}

/// The number of input channels tells models that are conditioned on images.
fn inputs(file: &Checkpoint, refused: &dyn Fn(&str) -> Error) -> Result<()> {
    match file.root().dims(&format!("{UNET}input_blocks.0.0.weight")) {
        Some([_, 9, ..]) => Err(refused("an inpainting checkpoint, which takes an image and a mask")),
        Some([_, 8, ..]) => Err(refused("an InstructPix2Pix checkpoint, which takes an image")),
        Some([_, 7, ..]) => Err(refused("an upscaler, which takes an image")),
        Some([_, 5, ..]) => Err(refused("a depth-to-image checkpoint, which takes an image")),
        _ => Ok(()),
    }
}

/// Beginnings of names that checkpoints carry beside a model and that nothing here reads.
const BESIDE: [&str; 20] = [
    "alphas_cumprod",
    "betas",
    "callbacks",
    "conditioner.embedders.2",
    "denoiser.",
    "epoch",
    "global_step",
    "hyper_parameters",
    "log_one_minus_alphas_cumprod",
    "logvar",
    "loss",
    "lr_scheduler",
    "lvlb_weights",
    "model_ema.",
    "optimizer",
    "posterior_",
    "scale_factor",
    "sqrt_",
    "v_pred",
    "ztsnr",
];

/// What the user should know of tensors that are not read: averaged weights, and names that mean nothing.
pub fn notes(file: &Checkpoint, read: &[&str]) -> Vec<String> {
    let mut notes = Vec::new();
    let averaged = file.names().filter(|n| n.starts_with("model_ema.")).count();
    if averaged > 0 {
        notes.push(format!(
            "{}: {averaged} averaged weights (model_ema) are not read: the ordinary ones are used",
            file.label()
        ));
    }
    let other: Vec<&str> = file
        .names()
        .filter(|n| !read.iter().any(|prefix| n.starts_with(prefix)))
        .filter(|n| !BESIDE.iter().any(|start| n.starts_with(start)))
        .collect();
    if let Some(first) = other.first() {
        notes.push(format!(
            "{}: {} of its tensors, such as {}, are no part of the model and are not read",
            file.label(),
            other.len(),
            cut(first)
        ));
    }
    notes
}
