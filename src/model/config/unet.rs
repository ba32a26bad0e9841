//! `unet/config.json`: the UNet2DConditionModel of Stable Diffusion 1.x, 2.x and XL.

use serde_json::Value;

use super::{Keys, as_count};
use crate::error::Result;
use crate::model::files::Source;

/// A UNet with text conditions, block by block.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// Height and width of the latents that the model was trained for.
    pub sample_size: Option<(usize, usize)>,
    /// Whether `sample_size` is one number in a file from before diffusers 0.9; see the Stable Diffusion
    /// family.
    pub old_square_size: bool,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Side of the first convolution's kernel; odd, padded to keep the size.
    pub conv_in_kernel: usize,
    /// Side of the last convolution's kernel; odd, padded to keep the size.
    pub conv_out_kernel: usize,
    /// The blocks on the way down, at full resolution first; all but the last halve the resolution at their
    /// end.
    pub down: Vec<Level>,
    /// The block at the lowest resolution.
    pub mid: Mid,
    /// The blocks on the way up, in the order of running; all but the last double the resolution at their
    /// end.
    pub up: Vec<Level>,
    /// Groups of all group norms.
    pub norm_groups: usize,
    /// Of the group norms in residual blocks, the middle block and the output. Norms in transformers have
    /// their own: 1e-6 for the group norm, 1e-5 for layer norms.
    pub norm_eps: f32,
    /// Whether the sinusoidal embedding is (cos, sin) rather than (sin, cos).
    pub flip_sin_to_cos: bool,
    /// Frequency `i` of the sinusoidal embedding is `10000^(-i / (half - freq_shift))`.
    pub freq_shift: f32,
    /// Whether the input is mapped to 2 x - 1 first.
    pub center_input_sample: bool,
    /// Width of the time embedding that the blocks see.
    pub time_embed_dim: usize,
    /// Width of the guidance-scale embedding of distilled models.
    pub time_cond_proj_dim: Option<usize>,
    /// The added conditions of XL: pooled text and sizes.
    pub text_time: Option<TextTime>,
    /// Keys without a meaning to the Python class, with their values.
    pub unknown_keys: Vec<String>,
}

/// One block on the way down or up.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// Channels that leave the block.
    pub channels: usize,
    /// Residual blocks; those on the way up have one more than the file's `layers_per_block`.
    pub layers: usize,
    /// The transformer behind every residual block, in a block that has them.
    pub attention: Option<Attention>,
    /// Whether the block ends by halving (down) or doubling (up) the resolution.
    pub resample: bool,
}

/// Transformers of a block: one per residual block (in the middle: one).
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Heads; each has `channels / heads` features.
    pub heads: usize,
    /// Transformer blocks (self-attention, cross-attention, feed-forward) per transformer.
    pub depth: Vec<usize>,
    /// Features of the text that cross-attention sees.
    pub context: usize,
}

/// What is at the lowest resolution.
#[derive(Clone, Debug, PartialEq)]
pub enum Mid {
    /// Nothing.
    None,
    /// One residual block.
    Residual,
    /// A residual block, a transformer, a residual block.
    CrossAttention(Attention),
}

/// Conditions of XL that are added to the time embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextTime {
    /// Width of the sinusoidal embedding of each of the six sizes.
    pub time_dim: usize,
    /// Width of the embedded sizes and the pooled text together.
    pub input_dim: usize,
}

impl UNetConfig {
    /// Reads `component/config.json`.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming file and key: wrong types, contradictions, and
    /// values that would change the result and are not supported.
    pub fn open(source: &Source, component: &str) -> Result<UNetConfig> {
        super::open(source, component, "config.json", parse)
    }

    /// As [`UNetConfig::open`], from the content of the file; `file` names it in errors.
    ///
    /// # Errors
    /// As [`UNetConfig::open`].
    pub fn parse(file: &str, bytes: &[u8]) -> Result<UNetConfig> {
        super::parse_bytes(file, bytes, parse)
    }

    /// Channels at full resolution, which is also the width of the sinusoidal time embedding.
    pub fn base_channels(&self) -> usize {
        self.down[0].channels
    }

    /// Features of the text embeddings; the same in all blocks that see them. `None` without cross-attention.
    pub fn context_dim(&self) -> Option<usize> {
        self.attentions().next().map(|a| a.context)
    }

    fn attentions(&self) -> impl Iterator<Item = &Attention> {
        let mid = match &self.mid {
            Mid::CrossAttention(attention) => Some(attention),
            Mid::None | Mid::Residual => None,
        };
        self.down.iter().chain(&self.up).filter_map(|level| level.attention.as_ref()).chain(mid)
    }
}

const DOWN: [&str; 2] = ["CrossAttnDownBlock2D", "DownBlock2D"];
const UP: [&str; 2] = ["CrossAttnUpBlock2D", "UpBlock2D"];

fn parse(keys: &Keys<'_>) -> Result<UNetConfig> {
    keys.class("UNet2DConditionModel")?;
    refuse_what_is_not_computed(keys)?;

    let (channels, norm_groups) = keys.levels(&[320, 640, 1280, 1280])?;
    let n = channels.len();
    let down_types = types(keys, "down_block_types", n, DOWN, &[DOWN[0], DOWN[0], DOWN[0], DOWN[1]])?;
    let up_types = types(keys, "up_block_types", n, UP, &[UP[1], UP[0], UP[0], UP[0]])?;
    let layers = keys.count_per_block("layers_per_block", 2, n)?;
    let context = keys.size_per_block("cross_attention_dim", 1280, n)?;
    // In these files `attention_head_dim` is the number of heads: a misnomer that diffusers keeps for
    // compatibility.
    let heads_key =
        if keys.get("num_attention_heads").is_some() { "num_attention_heads" } else { "attention_head_dim" };
    let heads = keys.size_per_block(heads_key, 8, n)?;
    let depth = depths(keys, "transformer_layers_per_block", n)?.unwrap_or_else(|| vec![Depth::Same(1); n]);
    let up_depth = match depths(keys, "reverse_transformer_layers_per_block", n)? {
        Some(given) => given,
        None if depth.iter().any(|d| matches!(d, Depth::Each(_))) => {
            return Err(keys.contradiction(
                "transformer_layers_per_block lists single layers, but reverse_transformer_layers_per_block is missing",
            ));
        }
        None => depth.iter().rev().cloned().collect(),
    };

    let attention = |level: usize, depth: &Depth, layers: usize, key: &str| -> Result<Attention> {
        let (heads, channels) = (heads[level], channels[level]);
        if channels % heads != 0 {
            return Err(keys.contradiction(&format!(
                "block_out_channels {channels} is no multiple of the {heads} heads of {heads_key}"
            )));
        }
        let depth = match depth {
            Depth::Same(one) => vec![*one; layers],
            Depth::Each(list) if list.len() >= layers => list[..layers].to_vec(),
            Depth::Each(list) => {
                return Err(keys.contradiction(&format!(
                    "{key} has {} entries for a block of {layers} layers",
                    list.len()
                )));
            }
        };
        Ok(Attention { heads, depth, context: context[level] })
    };

    let mut down = Vec::new();
    let mut up = Vec::new();
    for i in 0..n {
        let crosses = down_types[i] == DOWN[0];
        down.push(Level {
            channels: channels[i],
            layers: layers[i],
            attention: crosses
                .then(|| attention(i, &depth[i], layers[i], "transformer_layers_per_block"))
                .transpose()?,
            resample: i + 1 < n,
        });
        let level = n - 1 - i;
        let crosses = up_types[i] == UP[0];
        up.push(Level {
            channels: channels[level],
            layers: layers[level] + 1,
            attention: crosses
                .then(|| {
                    attention(level, &up_depth[i], layers[level] + 1, "reverse_transformer_layers_per_block")
                })
                .transpose()?,
            resample: i + 1 < n,
        });
    }
    let mid = match keys.value("mid_block_type") {
        Some(Value::Null) => Mid::None,
        None => Mid::CrossAttention(attention(n - 1, &depth[n - 1], 1, "transformer_layers_per_block")?),
        Some(v) => match v.as_str() {
            Some("UNetMidBlock2DCrossAttn") => {
                Mid::CrossAttention(attention(n - 1, &depth[n - 1], 1, "transformer_layers_per_block")?)
            }
            Some("UNetMidBlock2D") => Mid::Residual,
            _ => {
                return Err(keys.unsupported(
                    "mid_block_type",
                    v,
                    "UNetMidBlock2DCrossAttn, UNetMidBlock2D, null",
                ));
            }
        },
    };

    let kernel = |key| match keys.size(key, 3)? {
        k if k % 2 == 1 => Ok(k),
        k => Err(keys.wrong(key, &k.into(), "an odd integer")),
    };
    let config = UNetConfig {
        sample_size: keys.square_or_pair("sample_size")?,
        old_square_size: old_square_size(keys)?,
        in_channels: keys.size("in_channels", 4)?,
        out_channels: keys.size("out_channels", 4)?,
        conv_in_kernel: kernel("conv_in_kernel")?,
        conv_out_kernel: kernel("conv_out_kernel")?,
        time_embed_dim: keys.size("time_embedding_dim", channels[0] * 4)?,
        down,
        mid,
        up,
        norm_groups,
        norm_eps: keys.positive("norm_eps", 1e-5)?,
        flip_sin_to_cos: keys.flag("flip_sin_to_cos", true)?,
        freq_shift: keys.float("freq_shift", 0.0)?,
        center_input_sample: keys.flag("center_input_sample", false)?,
        time_cond_proj_dim: keys.opt_size("time_cond_proj_dim")?,
        text_time: text_time(keys)?,
        unknown_keys: keys.unknown(&WITHOUT_EFFECT),
    };
    // Sines and cosines are halves, and the divisor of the frequencies must be above zero.
    let widths = [Some(channels[0]), config.text_time.map(|t| t.time_dim)];
    let shift = config.freq_shift;
    let computed = |width: usize| width.is_multiple_of(2) && (0.0..width as f32 / 2.0).contains(&shift);
    if let Some(width) = widths.into_iter().flatten().find(|w| !computed(*w)) {
        let what = format!("a time embedding of {width} features with freq_shift {shift} cannot be computed");
        return Err(keys.contradiction(&what));
    }
    if let Some(first) = config.context_dim()
        && let Some(other) = config.attentions().find(|a| a.context != first)
    {
        return Err(keys.unsupported(
            "cross_attention_dim",
            &keys.map["cross_attention_dim"],
            &format!("one width for all blocks, not {first} and {}", other.context),
        ));
    }
    Ok(config)
}

/// Options of the Python class that other models use; each changes the result.
fn refuse_what_is_not_computed(keys: &Keys<'_>) -> Result<()> {
    keys.only("act_fn", &["silu".into(), "swish".into()])?;
    keys.only("resnet_time_scale_shift", &["default".into()])?;
    keys.only("time_embedding_type", &["positional".into()])?;
    keys.only("attention_type", &["default".into()])?;
    keys.only("addition_embed_type", &["text_time".into()])?;
    for key in ["downsample_padding", "mid_block_scale_factor", "resnet_out_scale_factor"] {
        keys.only(key, &[1.into()])?;
    }
    for key in ["dual_cross_attention", "resnet_skip_time_act", "class_embeddings_concat"] {
        keys.only(key, &[false.into()])?;
    }
    for key in [
        "class_embed_type",
        "num_class_embeds",
        "encoder_hid_dim",
        "encoder_hid_dim_type",
        "time_embedding_act_fn",
        "timestep_post_act",
        "cross_attention_norm",
    ] {
        keys.absent(key)?;
    }
    if let Some(Value::Null) = keys.value("norm_num_groups") {
        return Err(keys.unsupported("norm_num_groups", &Value::Null, "an integer"));
    }
    let only_cross = |v: &Value| v.as_array().map_or(v == &Value::Bool(true), |a| a.contains(&true.into()));
    if let Some(v) = keys.get("only_cross_attention").filter(|v| only_cross(v)) {
        return Err(keys.unsupported("only_cross_attention", v, "false"));
    }
    Ok(())
}

/// Block types, one per level, each one of `known`.
fn types<'a>(
    keys: &Keys<'a>,
    key: &str,
    n: usize,
    known: [&str; 2],
    default: &[&'static str],
) -> Result<Vec<&'a str>> {
    let types = keys.texts(key, default)?;
    if let Some(other) = types.iter().find(|t| !known.contains(t)) {
        return Err(keys.unsupported(key, &Value::from(*other), &known.join(", ")));
    }
    if types.len() != n {
        return Err(
            keys.contradiction(&format!("{key} has {} entries, block_out_channels has {n}", types.len()))
        );
    }
    Ok(types)
}

/// How many transformer blocks the transformers of a block have: the same number, or one for each.
#[derive(Clone)]
enum Depth {
    Same(usize),
    Each(Vec<usize>),
}

fn depths(keys: &Keys<'_>, key: &str, n: usize) -> Result<Option<Vec<Depth>>> {
    let Some(v) = keys.get(key) else { return Ok(None) };
    if let Some(one) = as_count(v, 0) {
        return Ok(Some(vec![Depth::Same(one); n]));
    }
    let one = |v: &Value| match v {
        Value::Array(list) => list.iter().map(|v| as_count(v, 0)).collect::<Option<_>>().map(Depth::Each),
        v => as_count(v, 0).map(Depth::Same),
    };
    let list: Option<Vec<Depth>> = v.as_array().and_then(|a| a.iter().map(one).collect());
    list.filter(|l| l.len() == n).map(Some).ok_or_else(|| {
        keys.wrong(key, v, &format!("an integer up to 1024, or a list of {n} integers or lists of integers"))
    })
}

fn text_time(keys: &Keys<'_>) -> Result<Option<TextTime>> {
    if keys.get("addition_embed_type").is_none() {
        return Ok(None);
    }
    let need = |key| {
        keys.opt_size(key)?.ok_or_else(|| keys.contradiction(&format!("addition_embed_type needs {key}")))
    };
    let (time_dim, input_dim) =
        (need("addition_time_embed_dim")?, need("projection_class_embeddings_input_dim")?);
    if time_dim % 2 != 0 || input_dim <= time_dim {
        return Err(keys.contradiction(&format!(
            "projection_class_embeddings_input_dim {input_dim} does not go with addition_time_embed_dim {time_dim}"
        )));
    }
    Ok(Some(TextTime { time_dim, input_dim }))
}

/// Whether `sample_size` is one number, in a file from before diffusers 0.9.
fn old_square_size(keys: &Keys<'_>) -> Result<bool> {
    let old = keys.opt_text("_diffusers_version")?.is_some_and(|version| {
        let mut parts = version.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (0, 9)
    });
    Ok(old && keys.get("sample_size").is_some_and(Value::is_number))
}

/// Keys that do not change what is computed here. The projections around transformer blocks are the same
/// weights and the same computation as linear layers and as 1x1 convolutions; attention scores are f32
/// whatever the element type; dropout is for training; the others belong to kinds of blocks and of added
/// conditions that are refused, or are overruled by another key.
const WITHOUT_EFFECT: [&str; 9] = [
    "use_linear_projection",
    "upcast_attention",
    "dropout",
    "mid_block_only_cross_attention",
    "addition_embed_type_num_heads",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "attention_head_dim",
    "model_type",
];
