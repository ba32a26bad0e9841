//! A whole model: from prompts to what the UNet is conditioned on, and the sizes that go with each other.
//! What distinguishes the families of models is in [`Recipe`]; each family makes one (`model::families`).

use super::clip::ClipText;
use super::config::{ClipTextConfig, DecoderConfig, SchedulerFile, UNetConfig};
use super::decoder::ImageDecoder;
use super::parts::Parts;
use super::tokenizer::{Dropped, Tokenizer};
use super::unet::{Added, Conditioning, Unet};
use crate::backend::Backend;
use crate::ddim::SchedulerConfig;
use crate::error::{Error, Result};
use crate::tensor::{Shape, Tensor};

/// Latents of a UNet whose file states no size, along one side.
const DEFAULT_SIDE: usize = 64;

/// Pixels along one side that can be asked for: more than any machine holds a square of, and little enough
/// that the lengths of all tensors fit into 64 bits.
const LARGEST_SIDE: usize = 1 << 20;

/// A model on a backend, ready to be sampled from.
pub struct Pipeline {
    /// The denoiser.
    pub unet: Unet,
    /// From latents to images.
    pub decoder: ImageDecoder,
    /// The noise schedule.
    pub scheduler: SchedulerConfig,
    /// The sampler whose file the schedule is from, such as `PNDMScheduler`; for records.
    pub scheduler_class: String,
    /// What the user should know about the model's files: keys that are not known or not obeyed, with the
    /// file.
    pub notes: Vec<String>,
    texts: Vec<TextEncoder>,
    text_states: TextStates,
    zeros_for_empty_prompt: bool,
}

/// What a family of models makes a [`Pipeline`] of: the configurations as its pipeline sees them, and its
/// rules.
pub struct Recipe {
    /// Configuration of the component `unet`.
    pub unet: UNetConfig,
    /// Configuration of the component `vae`.
    pub vae: DecoderConfig,
    /// Configuration of the component `scheduler`.
    pub scheduler: SchedulerFile,
    /// Configurations of the components `text_encoder`, `text_encoder_2` and so on.
    pub texts: Vec<ClipTextConfig>,
    /// Which states of the text encoders the UNet sees.
    pub text_states: TextStates,
    /// Whether an absent negative prompt is embedded as zeros rather than as the empty text (a rule of XL).
    pub zeros_for_empty_prompt: bool,
    /// See [`Pipeline::notes`].
    pub notes: Vec<String>,
}

/// Which states of the text encoders condition the UNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextStates {
    /// The last hidden states, behind the final norm.
    Last,
    /// The hidden states before the last layer, of all encoders side by side; and the pooled text of the
    /// first encoder that has a projection.
    PenultimateAndPooled,
}

/// What is done with texts that are longer than a text encoder reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum LongPrompts {
    /// Cut them, with a warning
    #[default]
    Cut,
    /// Encode them window after window, and join the states
    Chunk,
}

/// What the text encoders made of texts.
pub struct Texts {
    /// `(texts, 1, tokens, features)`, of all encoders side by side; tokens are those of all windows.
    pub states: Tensor,
    /// `(texts, 1, 1, features)`, for models that are conditioned on it: of the first window.
    pub pooled: Option<Tensor>,
    /// What did not fit, per text.
    pub dropped: Vec<Option<Dropped>>,
}

struct TextEncoder {
    tokenizer: Tokenizer,
    model: ClipText,
}

impl TextEncoder {
    fn load(backend: &dyn Backend, parts: &Parts, config: &ClipTextConfig, at: usize) -> Result<TextEncoder> {
        let suffix = suffix(at);
        let component = format!("text_encoder{suffix}");
        let mut tokenizer = parts.tokenizer(&format!("tokenizer{suffix}"), config.max_positions)?;
        if tokenizer.largest_id() as usize >= config.vocab_size {
            return Err(Error::model(format!(
                "{}: vocab_size {} is too small for the tokenizer{suffix}, whose largest id is {}",
                parts.source().describe(&format!("{component}/config.json")),
                config.vocab_size,
                tokenizer.largest_id()
            ))
            .advice("take tokenizer and text encoder from the same model"));
        }
        let projection = parts.class(&component) == Some("CLIPTextModelWithProjection");
        let mut model = ClipText::load(backend, &parts.checkpoint(&component)?, config, projection)?;
        let (mut next, mut vectors) = (config.vocab_size as u32, Vec::new());
        for embedding in parts.embeddings() {
            let count = embedding.vectors() as u32;
            tokenizer
                .learn(embedding.name(), next, count)
                .map_err(|e| e.context(embedding.path().display()))?;
            vectors.extend(embedding.values(at)?);
            next += count;
        }
        if !vectors.is_empty() {
            model.learn(backend, &vectors)?;
        }
        Ok(TextEncoder { tokenizer, model })
    }
}

/// What the names of the parts of a text encoder with this place end with.
fn suffix(at: usize) -> String {
    if at == 0 { String::new() } else { format!("_{}", at + 1) }
}

/// Size of the images of a run, in pixels and in latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pixels of a column.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// `(1, h, w, c)`.
    pub latent: Shape,
}

impl Size {
    /// Of one image of floats.
    pub fn bytes(self) -> u64 {
        12 * (self.height as u64).saturating_mul(self.width as u64)
    }
}

/// A text, and the text to be guided away from. `None` is the model's own: the empty text, or for some models
/// of XL zeros in place of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prompt<'a> {
    /// What the picture should show.
    pub text: &'a str,
    /// What it should not show.
    pub negative: Option<&'a str>,
}

/// Prompts as the UNet sees them.
pub struct Encoded {
    /// What the UNet makes of all texts.
    pub conditioning: Conditioning,
    /// Rows of the conditioning, per prompt: (its text, its negative).
    rows: Vec<(u32, u32)>,
    /// What did not fit into the text encoder, per prompt.
    pub dropped: Vec<Option<Dropped>>,
    /// What of the negative prompt did not fit, per prompt.
    pub dropped_negative: Vec<Option<Dropped>>,
}

impl Encoded {
    /// A warning for each text that is longer than a text encoder reads. `prompts` are those that were
    /// encoded.
    pub fn warnings(&self, prompts: &[Prompt<'_>]) -> Vec<String> {
        let warning = |what: &str, text: &str, dropped: &Option<Dropped>| {
            dropped.as_ref().map(|dropped| {
                format!(
                    "the {what} \"{}\" is longer than the text encoder reads: {} tokens from \"{}\" on are ignored \
                     (`long_prompts` chunk reads them all)",
                    head(text),
                    dropped.tokens,
                    head(&dropped.text)
                )
            })
        };
        let both = |(at, prompt): (usize, &Prompt<'_>)| {
            let negative = prompt.negative.unwrap_or_default();
            [
                warning("prompt", prompt.text, &self.dropped[at]),
                warning("negative prompt", negative, &self.dropped_negative[at]),
            ]
        };
        prompts.iter().enumerate().flat_map(both).flatten().collect()
    }

    /// The texts of latents that belong to `prompts`, for [`Unet::forward`]: with `guided` every latent
    /// twice, first all with their negative, then all with their text.
    #[track_caller]
    pub fn rows(&self, prompts: &[u32], guided: bool) -> Vec<u32> {
        let row = |&p: &u32| self.rows[p as usize];
        let without = prompts.iter().filter(|_| guided).map(|p| row(p).1);
        without.chain(prompts.iter().map(|p| row(p).0)).collect()
    }
}

impl Pipeline {
    /// Loads all networks of `parts`.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file and what is wrong in it.
    pub fn assemble(backend: &dyn Backend, parts: &Parts, recipe: Recipe) -> Result<Pipeline> {
        let Recipe { unet, vae, scheduler, texts, text_states, zeros_for_empty_prompt, mut notes } = recipe;
        let source = parts.source();
        let latent = vae.latent_channels();
        if unet.in_channels == unet.out_channels && unet.in_channels != latent {
            return Err(Error::model(format!(
                "{}: the autoencoder has {latent} latent channels, but the UNet takes and makes {}",
                parts.checkpoint("vae")?.label(),
                unet.in_channels
            ))
            .option("vae")
            .advice(
                "give `vae` an autoencoder of the model's family: those of 16 channels are for other models",
            ));
        }
        if (unet.in_channels, unet.out_channels) != (latent, latent) {
            return Err(Error::model(format!(
                "{}: in_channels {} and out_channels {}, but the autoencoder has {latent} latent channels",
                source.describe("unet/config.json"),
                unet.in_channels,
                unet.out_channels
            ))
            .advice("use a text-to-image model: inpainting and image-conditioned models take more inputs"));
        }
        if vae.out_channels() != 3 {
            return Err(Error::model(format!(
                "{}: out_channels is {}, but images have 3",
                source.describe("vae/config.json"),
                vae.out_channels()
            ))
            .advice("use a model whose autoencoder makes RGB images"));
        }
        let mut unknown = |rel: &str, keys: &[String]| {
            let file = source.describe(rel);
            notes.extend(
                keys.iter().map(|key| format!("{file}: {key}: this key is not known and has no effect")),
            );
        };
        unknown("unet/config.json", &unet.unknown_keys);
        unknown("vae/config.json", vae.unknown_keys());
        unknown("scheduler/scheduler_config.json", &scheduler.unknown_keys);
        let mut encoders = Vec::new();
        for (at, config) in texts.iter().enumerate() {
            unknown(&format!("text_encoder{}/config.json", suffix(at)), &config.unknown_keys);
            encoders.push(TextEncoder::load(backend, parts, config, at)?);
        }
        if !scheduler.assumed.is_empty() {
            notes.push(format!(
                "{}: says nothing of its betas; assumed, as diffusers does: {} (download the file again if the \
                 pictures are noise)",
                source.describe("scheduler/scheduler_config.json"),
                scheduler.assumed.join(", ")
            ));
        }
        if let Some(range) = scheduler.config.clip_sample {
            notes.push(format!(
                "{}: clip_sample: clean latents are clipped to +-{range} in every step; that is meant for pixels and \
                 spoils most latents (set it to false in this file if the pictures are blurred)",
                source.describe("scheduler/scheduler_config.json")
            ));
        }
        let weights = parts.checkpoint("vae")?;
        let decoder = ImageDecoder::load(backend, &weights, &vae)?;
        if decoder.approximates() {
            notes.push(format!(
                "{}: a tiny autoencoder decodes: pictures and their rewards are approximations of those of the \
                 model's own autoencoder",
                weights.label()
            ));
        }
        Ok(Pipeline {
            unet: Unet::load(backend, &parts.checkpoint("unet")?, &unet)?,
            decoder,
            scheduler: scheduler.config,
            scheduler_class: scheduler.class,
            notes,
            texts: encoders,
            text_states,
            zeros_for_empty_prompt,
        })
    }

    /// Pixels per latent, along one side.
    pub fn factor(&self) -> usize {
        self.decoder.scale()
    }

    /// The size asked for, or that the model was trained for.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a height or width that is no multiple of the pixels
    /// of a latent, naming the nearest that is, and for one that is too large.
    pub fn size(&self, height: Option<usize>, width: Option<usize>) -> Result<Size> {
        let (step, config) = (self.factor(), self.unet.config());
        let (h, w) = config.sample_size.unwrap_or((DEFAULT_SIDE, DEFAULT_SIDE));
        let side = |name: &'static str, asked: Option<usize>, trained: usize| {
            let pixels = asked.unwrap_or(trained * step);
            if pixels > LARGEST_SIDE {
                return Err(Error::usage(format!("a {name} of {pixels} is more than {LARGEST_SIDE} pixels"))
                    .option(name)
                    .advice(format!("give `{name}` a multiple of {step} of at most {LARGEST_SIDE}")));
            }
            if pixels == 0 || !pixels.is_multiple_of(step) {
                let nearest = ((pixels + step / 2) / step).max(1) * step;
                let what = match pixels {
                    0 => format!("a {name} of 0 has no pixels"),
                    _ => format!("a {name} of {pixels} is no multiple of {step}"),
                };
                return Err(Error::usage(what).option(name).advice(format!("give `{name}` {nearest}")));
            }
            Ok(pixels)
        };
        let (height, width) = (side("height", height, h)?, side("width", width, w)?);
        let latent = Shape::new(1, height / step, width / step, config.in_channels);
        Ok(Size { height, width, latent })
    }

    /// Windows of tokens that a text fills.
    fn windows(&self, text: &str) -> usize {
        self.texts.iter().map(|encoder| encoder.tokenizer.windows(text, 1).len()).max().unwrap_or(1)
    }

    /// The texts through all text encoders: cut to one context, or in `windows`, joined. Each text has to fit
    /// into so many.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) where the parts do not go with each other.
    #[track_caller]
    pub fn read(&self, backend: &dyn Backend, texts: &[&str], windows: Option<usize>) -> Result<Texts> {
        let mut states = Vec::new();
        let mut pooled = None;
        let mut dropped: Vec<Option<Dropped>> = vec![None; texts.len()];
        let pools = self.text_states == TextStates::PenultimateAndPooled;
        for encoder in &self.texts {
            let mut ids = Vec::new();
            for (text, dropped) in texts.iter().zip(&mut dropped) {
                let Some(windows) = windows else {
                    let tokens = encoder.tokenizer.encode(text);
                    *dropped = dropped.take().or(tokens.dropped);
                    ids.push(tokens.ids);
                    continue;
                };
                let of_text = encoder.tokenizer.windows(text, windows);
                assert_eq!(of_text.len(), windows, "windows of {text:?}");
                ids.extend(of_text);
            }
            let out = encoder.model.run(backend, &ids)?;
            let each = windows.unwrap_or(1);
            if pools && pooled.is_none() && encoder.model.has_projection() {
                let all = out.projected(backend)?;
                let first: Vec<u32> = (0..ids.len() as u32).step_by(each).collect();
                pooled = Some(if each == 1 { all } else { backend.gather(&all, &first)? });
            }
            let of_windows = if pools { out.penultimate } else { out.last };
            let Shape { w, c, .. } = of_windows.shape();
            // Windows of a text lie one after another.
            states.push(of_windows.reshape(Shape::new(texts.len(), 1, each * w, c)));
        }
        Ok(Texts { states: side_by_side(backend, states)?, pooled, dropped })
    }

    /// Places of the embeddings whose words stand in a text.
    pub fn embeddings_in(&self, text: &str) -> Vec<usize> {
        let Some(TextEncoder { tokenizer, .. }) = self.texts.first() else { return Vec::new() };
        tokenizer.learned_in(text)
    }

    /// Conditions of `prompts`. `size` is a condition of XL. `guidance` is the guidance scale, for a model
    /// that has it as an input (see [`Pipeline::embeds_guidance`]); all others ignore it. `long` says what is
    /// done with long texts; in windows, a prompt and its negative have as many as the longer of them fills.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) where the parts do not go with each other;
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for prompts together that do not fill as many windows.
    pub fn encode(
        &self,
        backend: &dyn Backend,
        prompts: &[Prompt<'_>],
        size: Size,
        guidance: f32,
        long: LongPrompts,
    ) -> Result<Encoded> {
        // Texts, each once; where absent ones are zeros, `None` comes last.
        let zeros = |text: Option<&str>| text.is_none() && self.zeros_for_empty_prompt;
        let mut texts: Vec<&str> = prompts
            .iter()
            .flat_map(|p| [Some(p.text), p.negative])
            .filter(|t| !zeros(*t))
            .map(|t| t.unwrap_or(""))
            .collect();
        texts.sort_unstable();
        texts.dedup();
        let row = |text: Option<&str>| match zeros(text) {
            true => texts.len() as u32,
            false => texts.partition_point(|t| *t < text.unwrap_or("")) as u32,
        };
        let rows: Vec<(u32, u32)> = prompts.iter().map(|p| (row(Some(p.text)), row(p.negative))).collect();

        let windows = match long {
            LongPrompts::Cut => 1,
            LongPrompts::Chunk => {
                let of = |prompt: &Prompt<'_>| {
                    let negative = prompt.negative.unwrap_or("");
                    self.windows(prompt.text).max(self.windows(negative))
                };
                let windows: Vec<usize> = prompts.iter().map(of).collect();
                // Prompts that are drawn together get what they get alone: none is filled up for another.
                if let Some(other) = windows.iter().find(|other| **other != windows[0]) {
                    return Err(Error::usage(format!(
                        "prompts of {} and {other} windows of tokens, which are not drawn together",
                        windows[0]
                    ))
                    .option("long_prompts")
                    .advice("draw these prompts one by one, or give `long_prompts` cut"));
                }
                windows.first().copied().unwrap_or(1)
            }
        };
        let Texts { states: mut text, mut pooled, dropped: cut } =
            self.read(backend, &texts, (long == LongPrompts::Chunk).then_some(windows))?;
        if prompts.iter().any(|p| zeros(p.negative)) {
            text = with_zeros(backend, &text)?;
            pooled = pooled.map(|p| with_zeros(backend, &p)).transpose()?;
        }
        let (h, w) = (size.height as f32, size.width as f32);
        let added = pooled.as_ref().map(|pooled| Added { pooled, time_ids: [h, w, 0.0, 0.0, h, w] });
        // Distilled models embed how far the guidance goes beyond none.
        let conditioning = self.unet.condition(backend, &text, added, Some(guidance - 1.0))?;
        let dropped = rows.iter().map(|&(text, _)| cut[text as usize].clone()).collect();
        // Zeros stand behind all texts: nothing of them is cut.
        let cut_negative = |negative: u32| cut.get(negative as usize).cloned().flatten();
        let dropped_negative = rows.iter().map(|&(_, negative)| cut_negative(negative)).collect();
        Ok(Encoded { conditioning, rows, dropped, dropped_negative })
    }

    /// Whether the guidance scale is an input of the UNet rather than a mixture of two of its outputs.
    pub fn embeds_guidance(&self) -> bool {
        self.unet.config().time_cond_proj_dim.is_some()
    }

    /// Tokens that a prompt may have, begin and end included.
    pub fn context(&self) -> usize {
        self.texts.iter().map(|t| t.tokenizer.context()).min().unwrap_or(0)
    }
}

/// The first characters of a text, for messages.
fn head(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        None => text.to_string(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// The states of all text encoders along the channels.
fn side_by_side(backend: &dyn Backend, states: Vec<Tensor>) -> Result<Tensor> {
    let mut states = states.into_iter();
    let Some(mut all) = states.next() else { unreachable!("every pipeline has a text encoder") };
    for next in states {
        if all.shape().w != next.shape().w {
            return Err(Error::model(format!(
                "the text encoders take {} and {} tokens, which cannot be put together",
                all.shape().w,
                next.shape().w
            ))
            .advice("use a model whose text encoders have the same max_position_embeddings"));
        }
        all = backend.concat(&all, &next)?;
    }
    Ok(all)
}

/// `x` and one more sample of zeros.
fn with_zeros(backend: &dyn Backend, x: &Tensor) -> Result<Tensor> {
    backend.stack(&[x, &backend.zeros(x.shape().with_n(1))?])
}
