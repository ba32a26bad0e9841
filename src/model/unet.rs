//! The denoiser: UNet2DConditionModel of Stable Diffusion 1.x, 2.x and XL and of models distilled from them.
//! What depends on the text alone is computed once ([`Unet::condition`]), what depends on the time alone once
//! per call, and both are constants of the tape: only the latent is differentiated.

use super::block::{Conv2d, Linear, Loader, Norm, ResBlock, upload_parts};
use super::checkpoint::{Checkpoint, TensorView};
use super::config::{self, Mid, UNetConfig};
use super::transformer::{Text, Transformer, widen};
use crate::backend::{Activation, AffineClamp, Backend, Conv, Epilogue, GroupNorm};
use crate::error::{Error, Result};
use crate::tape::{Recompute, Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

/// A UNet on a backend.
pub struct Unet {
    config: UNetConfig,
    conv_in: Conv2d,
    time: TimeMlp,
    guidance: Option<Linear>,
    added: Option<TimeMlp>,
    /// From the activated time embedding to the biases of all residual blocks, side by side.
    biases: Linear,
    down: Vec<Level>,
    mid: Vec<Layer>,
    up: Vec<Level>,
    norm_out: Norm,
    conv_out: Conv2d,
}

/// A block on the way down or up.
struct Level {
    layers: Vec<Layer>,
    resample: Option<Conv2d>,
}

/// A residual block and perhaps a transformer behind it.
struct Layer {
    res: ResBlock,
    /// Where its bias starts, and its channels.
    bias: (usize, usize),
    transformer: Option<Transformer>,
}

const SILU: Epilogue = Epilogue::Activate(Activation::Silu);

/// Two linear layers with SiLU between them.
struct TimeMlp {
    first: Linear,
    second: Linear,
}

impl TimeMlp {
    fn load(from: &Loader<'_>, input: usize, out: usize) -> Result<TimeMlp> {
        Ok(TimeMlp {
            first: from.linear("linear_1", out, input)?,
            second: from.linear("linear_2", out, out)?,
        })
    }

    fn apply(&self, backend: &dyn Backend, x: &Tensor) -> Result<Tensor> {
        self.second.apply(backend, &self.first.apply_with(backend, x, SILU)?, None)
    }

    /// With SiLU behind it too.
    fn activated(&self, backend: &dyn Backend, x: &Tensor) -> Result<Tensor> {
        self.second.apply_with(backend, &self.first.apply_with(backend, x, SILU)?, SILU)
    }
}

/// The conditions of XL, besides the text.
#[derive(Clone, Copy, Debug)]
pub struct Added<'a> {
    /// Pooled text, `(m, 1, 1, d)`.
    pub pooled: &'a Tensor,
    /// Original height and width, crop top and left, target height and width, in pixels.
    pub time_ids: [f32; 6],
}

/// What a UNet computes from texts alone, for `m` of them.
pub struct Conditioning {
    /// Of every transformer block, `(m, 1, tokens, 2c)`.
    kv: Vec<Tensor>,
    /// `(m, 1, 1, time_embed_dim)`.
    added: Option<Tensor>,
    /// `(1, 1, 1, base_channels)`.
    guidance: Option<Tensor>,
    texts: usize,
}

impl Conditioning {
    /// How many texts there are: rows are below this.
    pub fn len(&self) -> usize {
        self.texts
    }
    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.texts == 0
    }
}

impl Unet {
    /// Reads all weights.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming file and tensor: missing, misshapen or surplus
    /// tensors.
    pub fn load(backend: &dyn Backend, checkpoint: &Checkpoint, config: &UNetConfig) -> Result<Unet> {
        let root = Loader::new(backend, checkpoint);
        let (base, temb) = (config.base_channels(), config.time_embed_dim);
        let mut layers = Layers { config, rows: Vec::new(), bias: Vec::new(), blocks: 0 };

        let mut channels = base;
        // Channels of every skip connection, in the order in which they are made.
        let mut skips = vec![base];
        let mut down = Vec::new();
        for (i, level) in config.down.iter().enumerate() {
            let from = root.at("down_blocks").at(i);
            let mut blocks = Vec::new();
            for j in 0..level.layers {
                let depth = level.attention.as_ref().map(|a| (a, a.depth[j]));
                blocks.push(layers.load(&from, j, channels, level.channels, depth)?);
                channels = level.channels;
                skips.push(channels);
            }
            let resample =
                level.resample.then(|| from.at("downsamplers").at(0).conv("conv", channels, channels, 3));
            if level.resample {
                skips.push(channels);
            }
            down.push(Level { layers: blocks, resample: resample.transpose()? });
        }

        let from = root.at("mid_block");
        let mid = match &config.mid {
            Mid::None => Vec::new(),
            Mid::Residual => vec![layers.load(&from, 0, channels, channels, None)?],
            Mid::CrossAttention(attention) => vec![
                layers.load(&from, 0, channels, channels, Some((attention, attention.depth[0])))?,
                layers.load(&from, 1, channels, channels, None)?,
            ],
        };

        let mut up = Vec::new();
        for (i, level) in config.up.iter().enumerate() {
            let from = root.at("up_blocks").at(i);
            let mut blocks = Vec::new();
            for j in 0..level.layers {
                let depth = level.attention.as_ref().map(|a| (a, a.depth[j]));
                let input = channels + skips.pop().unwrap_or(0);
                blocks.push(layers.load(&from, j, input, level.channels, depth)?);
                channels = level.channels;
            }
            let resample =
                level.resample.then(|| from.at("upsamplers").at(0).conv("conv", channels, channels, 3));
            up.push(Level { layers: blocks, resample: resample.transpose()? });
        }
        assert!(skips.is_empty(), "the configuration makes {} skip connections too many", skips.len());

        let time = root.at("time_embedding");
        let added = |t: config::TextTime| TimeMlp::load(&root.at("add_embedding"), t.input_dim, temb);
        let unet = Unet {
            conv_in: root.conv("conv_in", base, config.in_channels, config.conv_in_kernel)?,
            guidance: match config.time_cond_proj_dim {
                Some(width) => Some(time.plain_linear("cond_proj", base, width)?),
                None => None,
            },
            time: TimeMlp::load(&time, base, temb)?,
            added: config.text_time.map(added).transpose()?,
            biases: layers.biases(backend)?,
            down,
            mid,
            up,
            norm_out: root.norm("conv_norm_out", channels)?,
            conv_out: root.conv("conv_out", config.out_channels, channels, config.conv_out_kernel)?,
            config: config.clone(),
        };
        checkpoint.finish(&[])?;
        Ok(unet)
    }

    /// As read from the model's `unet/config.json`.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// What `forward` needs of `m` texts: their embeddings `text` `(m, 1, tokens, d)`, the added conditions
    /// of XL, and for a model distilled with guidance the `guidance` scale minus one (`None` embeds nothing).
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) where these are not what the configuration asks for.
    pub fn condition(
        &self,
        backend: &dyn Backend,
        text: &Tensor,
        added: Option<Added<'_>>,
        guidance: Option<f32>,
    ) -> Result<Conditioning> {
        let texts = text.shape().n;
        if let Some(wanted) = self.config.context_dim()
            && wanted != text.shape().c
        {
            return Err(Error::model(format!(
                "the text encoder gives {} features per token, the UNet's cross_attention_dim is {wanted}",
                text.shape().c
            ))
            .advice("text encoder and UNet are of different models: take both from the same one"));
        }
        let all = self.down.iter().chain(&self.up).flat_map(|level| &level.layers).chain(&self.mid);
        let mut blocks: Vec<_> = all.filter_map(|l| l.transformer.as_ref()).flat_map(|t| &t.blocks).collect();
        blocks.sort_by_key(|block| block.index());
        let kv = blocks.iter().map(|b| b.keys_and_values(backend, text)).collect::<Result<_>>()?;
        let added = match (&self.added, self.config.text_time, added) {
            (Some(mlp), Some(t), Some(added)) => Some(self.embed_added(backend, mlp, t, added, texts)?),
            (None, _, _) => None,
            (Some(_), ..) => {
                return Err(Error::model(
                    "this UNet wants pooled text and image sizes (addition_embed_type text_time)",
                )
                .advice("use it in a StableDiffusionXLPipeline"));
            }
        };
        let guidance = match (&self.guidance, self.config.time_cond_proj_dim, guidance) {
            (Some(linear), Some(width), Some(scale)) => {
                let x = guidance_embedding(scale, width);
                let x = backend.upload(Shape::vector(width), HostSlice::F32(&x))?;
                Some(linear.apply(backend, &x, None)?)
            }
            _ => None,
        };
        Ok(Conditioning { kv, added, guidance, texts })
    }

    fn embed_added(
        &self,
        backend: &dyn Backend,
        mlp: &TimeMlp,
        config: config::TextTime,
        added: Added<'_>,
        texts: usize,
    ) -> Result<Tensor> {
        let (pooled, ids) = (added.pooled.shape(), added.time_ids.len() * config.time_dim);
        if (pooled.n, pooled.sample()) != (texts, pooled.c) || pooled.c + ids != config.input_dim {
            return Err(Error::model(format!(
                "the pooled text {pooled} and {ids} features of sizes do not make the {} of \
                 projection_class_embeddings_input_dim",
                config.input_dim
            ))
            .advice("text encoders and UNet are of different models: take all from the same one"));
        }
        let sizes: Vec<f32> =
            added.time_ids.iter().flat_map(|&id| self.sinusoid(id, config.time_dim)).collect();
        let sizes = backend.upload(Shape::vector(ids), HostSlice::F32(&sizes))?;
        mlp.apply(backend, &backend.concat(added.pooled, &backend.repeat(&sizes, texts)?)?)
    }

    /// The network's output, `(n, h, w, out)`: noise, clean latent or velocity, as the scheduler's
    /// configuration says. `x` `(k, h, w, in)`, `t` the training timestep, `rows` the text of each of the `n`
    /// samples. `n` is `k` or a multiple of it: then the batch counts as repeated whole after whole, as
    /// classifier-free guidance wants, and what does not depend on the text is computed once. `h` and `w` are
    /// at least 1; where they cannot be halved evenly, the way up goes back to the sizes of the way down.
    ///
    /// # Errors
    /// Of the backend.
    #[track_caller]
    pub fn forward<'t>(
        &'t self,
        tape: &Tape<'t>,
        x: &Var,
        t: f32,
        cond: &'t Conditioning,
        rows: &'t [u32],
    ) -> Result<Var> {
        let biases = self.biases_at(tape.backend(), t, cond, rows)?;
        self.forward_at(tape, x, &biases, cond, rows)
    }

    /// [`Unet::forward`] at the time whose [`Unet::biases_at`] are `biases`.
    ///
    /// # Errors
    /// Of the backend.
    #[track_caller]
    pub fn forward_at<'t>(
        &'t self,
        tape: &Tape<'t>,
        x: &Var,
        biases: &Tensor,
        cond: &'t Conditioning,
        rows: &'t [u32],
    ) -> Result<Var> {
        let (k, n) = (x.shape().n, rows.len());
        assert!(k > 0 && n.is_multiple_of(k), "{n} texts for {k} latents");
        assert!(rows.iter().all(|&r| (r as usize) < cond.texts), "a row beyond {} texts", cond.texts);
        let run = Run { tape, biases, text: Text { kv: &cond.kv, rows } };
        let mut h = match self.config.center_input_sample {
            true => tape
                .affine_clamp(x, AffineClamp { a: 2.0, b: -1.0, lo: f32::NEG_INFINITY, hi: f32::INFINITY })?,
            false => x.clone(),
        };
        h = self.conv_in.run(tape, &h, same(self.config.conv_in_kernel))?;
        let mut skips = vec![h.clone()];
        for (i, level) in self.down.iter().enumerate() {
            let _range = tape.range(format_args!("down {i}"));
            for layer in &level.layers {
                h = run.layer(layer, h)?;
                skips.push(h.clone());
            }
            if let Some(conv) = &level.resample {
                h = conv.run(tape, &h, Conv::DOWN3)?;
                skips.push(h.clone());
            }
        }
        {
            let _range = tape.range("mid");
            for layer in &self.mid {
                h = run.layer(layer, h)?;
            }
        }
        for (i, level) in self.up.iter().enumerate() {
            let _range = tape.range(format_args!("up {i}"));
            for layer in &level.layers {
                if let Some(skip) = skips.pop() {
                    let skip = widen(tape, skip, h.shape().n)?;
                    h = tape.concat(&h, &skip)?;
                }
                h = run.layer(layer, h)?;
            }
            if let Some(conv) = &level.resample {
                // The next level begins with the skip connection whose size it has.
                let size = skips.last().map_or(h.shape(), |skip| skip.shape());
                h = enlarged(tape, &h, (size.h, size.w), conv)?;
            }
        }
        let norm = GroupNorm { groups: self.config.norm_groups, eps: self.config.norm_eps, silu: true };
        h = self.norm_out.group(tape, &h, norm)?;
        h = self.conv_out.run(tape, &h, same(self.config.conv_out_kernel))?;
        widen(tape, h, n)
    }

    /// The biases of all residual blocks at time `t`: `(1, 1, 1, all)`, or one for each sample where the
    /// embedding depends on the text. All that the network reads of the time.
    ///
    /// # Errors
    /// Of the backend.
    pub fn biases_at(
        &self,
        backend: &dyn Backend,
        t: f32,
        cond: &Conditioning,
        rows: &[u32],
    ) -> Result<Tensor> {
        let base = self.config.base_channels();
        let mut x = backend.upload(Shape::vector(base), HostSlice::F32(&self.sinusoid(t, base)))?;
        if let Some(guidance) = &cond.guidance {
            x = backend.axpby(1.0, &x, 1.0, guidance)?;
        }
        let embedding = match &cond.added {
            None => self.time.activated(backend, &x)?,
            Some(added) => {
                let time = backend.repeat(&self.time.apply(backend, &x)?, cond.texts)?;
                backend.activate(&backend.axpby(1.0, &time, 1.0, added)?, Activation::Silu)?
            }
        };
        let biases = self.biases.apply(backend, &embedding, None)?;
        if cond.added.is_some() { backend.gather(&biases, rows) } else { Ok(biases) }
    }

    /// `dim` sines and cosines of `t`, in steps of f32 as models were trained with: at t = 1000 the rounding
    /// of a frequency is visible in the phase.
    fn sinusoid(&self, t: f32, dim: usize) -> Vec<f32> {
        let half = dim / 2;
        let step = -(10_000f64.ln() as f32);
        let phase = |i: usize| {
            let exponent = step * i as f32 / (half as f32 - self.config.freq_shift);
            f64::from(t * (f64::from(exponent).exp() as f32))
        };
        let sines = (0..half).map(|i| phase(i).sin() as f32);
        let cosines = (0..half).map(|i| phase(i).cos() as f32);
        match self.config.flip_sin_to_cos {
            true => cosines.chain(sines).collect(),
            false => sines.chain(cosines).collect(),
        }
    }
}

/// Sines and cosines of a guidance scale minus one, in thousandths (Meng et al. 2023, distilled guidance).
fn guidance_embedding(scale: f32, dim: usize) -> Vec<f32> {
    let half = dim / 2;
    let step = (10_000f64.ln() / (half.max(2) - 1) as f64) as f32;
    let phase = |i: usize| f64::from(1000.0 * scale * (f64::from(-step * i as f32).exp() as f32));
    let sines = (0..half).map(|i| phase(i).sin() as f32);
    let cosines = (0..half).map(|i| phase(i).cos() as f32);
    let mut x: Vec<f32> = sines.chain(cosines).collect();
    x.resize(dim, 0.0);
    x
}

/// One call.
struct Run<'r, 't> {
    tape: &'r Tape<'t>,
    /// Of all residual blocks, `(1|n, 1, 1, all)`.
    biases: &'r Tensor,
    text: Text<'t>,
}

impl<'t> Run<'_, 't> {
    fn layer(&self, layer: &'t Layer, mut h: Var) -> Result<Var> {
        let (from, c) = layer.bias;
        let bias = self.tape.backend().slice(self.biases, from, c)?;
        if bias.shape().n > 1 {
            h = widen(self.tape, h, bias.shape().n)?;
        }
        h = {
            let _range = self.tape.range("res");
            self.tape.section(Recompute::Blocks, h, move |tape, h| layer.res.run(tape, h, &bias))?
        };
        match &layer.transformer {
            Some(transformer) => {
                let _range = self.tape.range("transformer");
                transformer.run(self.tape, h, self.text)
            }
            None => Ok(h),
        }
    }
}

/// A convolution of `x`, doubled by repetition to `(h, w)`. Where a side was odd on the way down, it is one
/// less than twice that of `x`, and the last row or column is left out, as diffusers does.
fn enlarged(tape: &Tape<'_>, x: &Var, (h, w): (usize, usize), conv: &Conv2d) -> Result<Var> {
    let shape = x.shape();
    if (h, w) == (2 * shape.h, 2 * shape.w) {
        return conv.run(tape, x, Conv::UP3);
    }
    let Shape { n, h: rows, w: columns, c } = shape;
    assert!(
        (2 * rows - 1..=2 * rows).contains(&h) && (2 * columns - 1..=2 * columns).contains(&w),
        "{shape}"
    );
    // Columns, then rows, each beside its copy; what is left out is at the end of both.
    let mut y = tape.concat(x, x)?.reshape(Shape::new(n, rows, 2 * columns, c));
    if w < 2 * columns {
        y = tape.slice(&y.reshape(Shape::rows(n * rows, 2 * columns * c)), 0, w * c)?;
    }
    y = y.reshape(Shape::rows(n * rows, w * c));
    y = tape.concat(&y, &y)?.reshape(Shape::rows(n, 2 * rows * w * c));
    if h < 2 * rows {
        y = tape.slice(&y, 0, h * w * c)?;
    }
    conv.run(tape, &y.reshape(Shape::new(n, h, w, c)), Conv::SAME3)
}

/// A convolution that keeps the size.
fn same(kernel: usize) -> Conv {
    Conv { stride: 1, pad: [kernel / 2; 4], upsample: false }
}

/// Loads layers and collects what they share.
struct Layers<'a> {
    config: &'a UNetConfig,
    /// `time_emb_proj` of all residual blocks, one below the other.
    rows: Vec<TensorView<'a>>,
    /// The sums of both biases, of `time_emb_proj` and `conv1`.
    bias: Vec<f32>,
    /// Transformer blocks so far.
    blocks: usize,
}

impl<'a> Layers<'a> {
    fn load(
        &mut self,
        from: &Loader<'a>,
        index: usize,
        input: usize,
        out: usize,
        attention: Option<(&config::Attention, usize)>,
    ) -> Result<Layer> {
        let (groups, eps, temb) = (self.config.norm_groups, self.config.norm_eps, self.config.time_embed_dim);
        let at = from.at("resnets").at(index);
        let res = ResBlock::load(&at, input, out, groups, eps)?;
        let bias = (self.bias.len(), out);
        let time = at.at("time_emb_proj");
        self.rows.push(time.view("weight", &[out, temb])?);
        let (a, b) = (time.view("bias", &[out])?, at.view("conv1.bias", &[out])?);
        self.bias.extend(a.data().to_f32().iter().zip(b.data().to_f32().iter()).map(|(a, b)| a + b));
        let transformer = match attention {
            None => None,
            Some((attention, depth)) => {
                let at = from.at("attentions").at(index);
                let (heads, context) = (attention.heads, attention.context);
                let first = self.blocks;
                self.blocks += depth;
                Some(Transformer::load(&at, out, heads, context, depth, groups, first)?)
            }
        };
        Ok(Layer { res, bias, transformer })
    }

    fn biases(self, backend: &dyn Backend) -> Result<Linear> {
        let rows = self.bias.len();
        let b = backend.upload(Shape::vector(rows), HostSlice::F32(&self.bias))?;
        let w = upload_parts(backend, Shape::rows(rows, self.config.time_embed_dim), &self.rows)?;
        Ok(Linear { w, b: Some(b) })
    }
}
