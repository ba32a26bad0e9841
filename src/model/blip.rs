//! BLIP as a judge of image and text: a ViT reads the image, and a BERT whose layers attend to the image as
//! well reads the text. The state of its first token stands for the pair (Li et al. 2022; docs/spec.md 7.6).
//! The image side runs on the tape, through the keys and values that the text attends to.

use super::block::{Conv2d, Linear, Loader, Norm};
use super::checkpoint::{Checkpoint, Weights};
use super::layers::{Layers, Names, Sizes};
use crate::backend::{Activation, Attention, Backend, Conv, Epilogue};
use crate::error::{Error, Result};
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

/// Features of a head, in every BLIP and BERT that was published.
const HEAD: usize = 64;
/// Of the layer norms of the image encoder.
const IMAGE_EPS: f32 = 1e-6;
/// Of the layer norms of the text encoder.
const TEXT_EPS: f32 = 1e-12;

/// Features by which a head is widened, of which the first tells hidden keys: queries have 1 there and hidden
/// keys [`HIDDEN`], so that the softmax gives them exactly nothing. As many as a packet of 16-bit numbers, so
/// that heads stay whole packets.
const EXTRA: usize = 8;
/// Times the scale of 1/8 it is -1024, and `exp(-1024)` is 0 in f32; exact in 16-bit types.
const HIDDEN: f32 = -8192.0;

/// Both encoders.
pub struct Blip {
    patches: Conv2d,
    patch: usize,
    side: usize,
    class: Tensor,
    /// `(1, 1, tokens, c)`.
    positions: Tensor,
    layers: Layers,
    norm: Norm,
    text: Bert,
}

/// The text encoder.
struct Bert {
    words: Tensor,
    vocabulary: usize,
    positions: Tensor,
    longest: usize,
    norm: Norm,
    width: usize,
    heads: usize,
    layers: Vec<Layer>,
}

/// A post-norm layer.
struct Layer {
    qkv: Linear,
    out: Linear,
    norm1: Norm,
    q: Linear,
    kv: Linear,
    cross: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
    norm3: Norm,
}

/// Texts that are ready to be compared with images.
pub struct BlipTexts {
    /// `(texts, 1, tokens, c)`.
    embedded: Tensor,
    /// What is added to queries, keys and values of each token: hides the padding.
    mask: Tensor,
}

/// What a network is made of, as the shapes of its tensors say.
struct Found {
    width: usize,
    inner: usize,
    layers: usize,
}

impl Blip {
    /// Reads both encoders below `blip.`, with the sizes that the tensors have. The caller finishes the
    /// checkpoint, which may hold more.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming file and tensor: missing, misshapen.
    pub fn load(backend: &dyn Backend, checkpoint: &Checkpoint) -> Result<Blip> {
        let weights = checkpoint.root().at("blip");
        let image = weights.at("visual_encoder");
        let label = checkpoint.label();
        let (width, inner) = (
            size(label, &image, "patch_embed.proj.weight", 0)?,
            size(label, &image, "blocks.0.mlp.fc1.weight", 0)?,
        );
        let patch = size(label, &image, "patch_embed.proj.weight", 2)?;
        let tokens = size(label, &image, "pos_embed", 1)?;
        let rows = (tokens - 1).isqrt();
        if rows == 0 || rows * rows + 1 != tokens {
            let what = format!("{}: {tokens} positions, expected a square and 1", image.full("pos_embed"));
            return Err(Error::model(format!("{label}: {what}")).advice(WHICH));
        }
        let heads = heads(label, "visual_encoder", width)?;
        let layers = (0..).take_while(|i| image.has(&format!("blocks.{i}.norm1.weight"))).count();

        let root = Loader::new(backend, checkpoint).at("blip");
        let from = root.at("visual_encoder");
        let proj = from.at("patch_embed").at("proj");
        let positions = from.view("pos_embed", &[1, tokens, width])?;
        let class = from.view("cls_token", &[1, 1, width])?;
        Ok(Blip {
            patches: Conv2d { w: proj.kernel(width, 3, patch)?, b: Some(proj.vector("bias", width)?) },
            patch,
            side: rows * patch,
            class: backend.upload(Shape::vector(width), class.data())?,
            positions: backend.upload(Shape::new(1, 1, tokens, width), positions.data())?,
            layers: Layers::load(
                &from,
                Names::Timm,
                &Sizes {
                    layers,
                    width,
                    inner,
                    heads,
                    activation: Activation::Gelu,
                    eps: IMAGE_EPS,
                    causal: false,
                },
            )?,
            norm: from.norm("norm", width)?,
            text: Bert::load(&root.at("text_encoder"), label, &weights.at("text_encoder"), width)?,
        })
    }

    /// Side of the images.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Width of [`Blip::states`].
    pub fn width(&self) -> usize {
        self.text.width
    }

    /// Tokens that the text encoder knows.
    pub fn vocabulary(&self) -> usize {
        self.text.vocabulary
    }

    /// Most tokens of a text.
    pub fn longest(&self) -> usize {
        self.text.longest
    }

    /// Token ids of texts, without padding, made ready.
    ///
    /// # Errors
    /// Of the backend.
    #[track_caller]
    pub fn texts(&self, backend: &dyn Backend, ids: &[Vec<u32>]) -> Result<BlipTexts> {
        self.text.texts(backend, ids)
    }

    /// The state of the first token, `(n, 1, 1, c)`, of images `(n, s, s, 3)` with the text `text_of[i]`
    /// each.
    ///
    /// # Errors
    /// Of the backend.
    #[track_caller]
    pub fn states(&self, tape: &Tape<'_>, images: &Var, texts: &BlipTexts, text_of: &[u32]) -> Result<Var> {
        let shape = images.shape();
        assert_eq!((shape.h, shape.w, shape.c), (self.side, self.side, 3), "images {shape}");
        let mut x = self.patches.run(tape, images, Conv::patches(self.patch))?;
        x = tape.embed(&x, Some(&self.class), &self.positions)?;
        x = self.layers.run(tape, x)?;
        x = self.norm.layer(tape, &x, IMAGE_EPS)?;
        self.text.run(tape, &x, texts, text_of)
    }
}

impl Bert {
    fn load(from: &Loader<'_>, label: &str, weights: &Weights<'_>, image: usize) -> Result<Bert> {
        let vocabulary = size(label, weights, "embeddings.word_embeddings.weight", 0)?;
        let longest = size(label, weights, "embeddings.position_embeddings.weight", 0)?;
        let found = Found {
            width: size(label, weights, "embeddings.word_embeddings.weight", 1)?,
            inner: size(label, weights, "encoder.layer.0.intermediate.dense.weight", 0)?,
            layers: (0..)
                .take_while(|i| weights.has(&format!("encoder.layer.{i}.output.dense.weight")))
                .count(),
        };
        let c = found.width;
        let heads = heads(label, "text_encoder", c)?;
        let embeddings = from.at("embeddings");
        let layer = |i| Layer::load(&from.at("encoder").at("layer").at(i), &found, heads, image);
        Ok(Bert {
            words: embeddings.at("word_embeddings").matrix("weight", vocabulary, c)?,
            vocabulary,
            positions: embeddings.at("position_embeddings").matrix("weight", longest, c)?,
            longest,
            norm: embeddings.norm("LayerNorm", c)?,
            width: c,
            heads,
            layers: (0..found.layers).map(layer).collect::<Result<_>>()?,
        })
    }

    #[track_caller]
    fn texts(&self, backend: &dyn Backend, ids: &[Vec<u32>]) -> Result<BlipTexts> {
        let tokens = ids.iter().map(Vec::len).max().unwrap_or(0);
        assert!(tokens > 0 && tokens <= self.longest, "texts of {tokens} tokens");
        let (c, wide) = (self.width, self.heads * (HEAD + EXTRA));
        let id = |at: usize| ids[at / tokens].get(at % tokens).copied().unwrap_or(0);
        let flat: Vec<u32> = (0..ids.len() * tokens).map(id).collect();
        assert!(flat.iter().all(|&id| (id as usize) < self.vocabulary), "tokens of another vocabulary");
        let first: Vec<u32> = (0..tokens as u32).collect();
        let x = backend.gather(&self.words, &flat)?.reshape(Shape::new(ids.len(), 1, tokens, c));
        let positions = backend.gather(&self.positions, &first)?.reshape(Shape::new(1, 1, tokens, c));
        let tape = Tape::off(backend);
        let x = tape.embed(&x.into(), None, &positions)?;
        let embedded = self.norm.layer(&tape, &x, TEXT_EPS)?.into_value();

        let mut mask = vec![0.0; ids.len() * tokens * 3 * wide];
        for (token, row) in mask.chunks_exact_mut(3 * wide).enumerate() {
            let (text, at) = (token / tokens, token % tokens);
            if at >= ids[text].len() {
                hide(&mut row[wide..2 * wide]);
            }
        }
        let mask = backend.upload(Shape::new(ids.len(), 1, tokens, 3 * wide), HostSlice::F32(&mask))?;
        Ok(BlipTexts { embedded, mask })
    }

    #[track_caller]
    fn run(&self, tape: &Tape<'_>, image: &Var, texts: &BlipTexts, text_of: &[u32]) -> Result<Var> {
        let backend = tape.backend();
        let n = image.shape().n;
        assert!(text_of.len() == n, "{} texts for {n} images", text_of.len());
        let mut x = Var::from(backend.gather(&texts.embedded, text_of)?);
        let mask = Var::from(backend.gather(&texts.mask, text_of)?);
        let (tokens, wide) = (x.shape().w, self.heads * (HEAD + EXTRA));
        let attention = Attention { heads: self.heads, scale: (HEAD as f32).sqrt().recip(), causal: false };

        // The text's own keys, which its queries to the image do not see, and the image's queries, whose
        // answers nobody reads.
        let mut hidden = vec![0.0; 2 * wide];
        hide(&mut hidden[..wide]);
        let hidden = hidden.repeat(n * tokens);
        let hidden = Var::from(backend.upload(Shape::new(n, 1, tokens, 2 * wide), HostSlice::F32(&hidden))?);
        let idle = Var::from(backend.zeros(Shape::new(n, 1, image.shape().w, wide))?);

        let first = vec![0; n];
        for (i, layer) in self.layers.iter().enumerate() {
            let _range = tape.range(format_args!("text layer {i}"));
            let qkv = layer.qkv.run(tape, &x, Some(&mask))?;
            let h = tape.self_attention(&qkv, attention)?;
            let h = layer.out.run(tape, &h, Some(&x))?;
            x = layer.norm1.layer(tape, &h, TEXT_EPS)?;

            let asking = tape.concat(&layer.q.run(tape, &x, None)?, &hidden)?;
            let answering = tape.concat(&idle, &layer.kv.run(tape, image, None)?)?;
            let both = join(tape, &asking, &answering)?;
            let h = tape.self_attention(&both, attention)?;
            let mut h = part(tape, &h, tokens)?;
            if i + 1 == self.layers.len() {
                (h, x) = (tape.take_token(&h, &first)?, tape.take_token(&x, &first)?);
            }
            h = layer.cross.run(tape, &h, Some(&x))?;
            x = layer.norm2.layer(tape, &h, TEXT_EPS)?;

            let h = layer.fc1.run_with(tape, &x, Epilogue::Activate(Activation::Gelu))?;
            let h = layer.fc2.run(tape, &h, Some(&x))?;
            x = layer.norm3.layer(tape, &h, TEXT_EPS)?;
        }
        if self.layers.is_empty() { tape.take_token(&x, &first) } else { Ok(x) }
    }
}

/// Marks the keys of one token as hidden.
fn hide(keys: &mut [f32]) {
    keys.chunks_exact_mut(HEAD + EXTRA).for_each(|head| head[HEAD] = HIDDEN);
}

/// The tokens of `x`, then those of `y`.
fn join(tape: &Tape<'_>, x: &Var, y: &Var) -> Result<Var> {
    let (a, b) = (x.shape(), y.shape());
    let x = x.reshape(Shape::rows(a.n, a.sample()));
    let y = y.reshape(Shape::rows(b.n, b.sample()));
    Ok(tape.concat(&x, &y)?.reshape(Shape::new(a.n, 1, a.w + b.w, a.c)))
}

/// The first `tokens` tokens of `x`.
fn part(tape: &Tape<'_>, x: &Var, tokens: usize) -> Result<Var> {
    let Shape { n, c, .. } = x.shape();
    let rows = x.reshape(Shape::rows(n, x.shape().sample()));
    Ok(tape.slice(&rows, 0, tokens * c)?.reshape(Shape::new(n, 1, tokens, c)))
}

impl Layer {
    fn load(from: &Loader<'_>, found: &Found, heads: usize, image: usize) -> Result<Layer> {
        let &Found { width: c, inner, .. } = found;
        let (own, cross) = (from.at("attention"), from.at("crossattention"));
        Ok(Layer {
            qkv: widened(&own.at("self"), &["query", "key", "value"], heads, c)?,
            out: widened_input(&own.at("output").at("dense"), heads)?,
            norm1: own.at("output").norm("LayerNorm", c)?,
            q: widened(&cross.at("self"), &["query"], heads, c)?,
            kv: widened(&cross.at("self"), &["key", "value"], heads, image)?,
            cross: widened_input(&cross.at("output").at("dense"), heads)?,
            norm2: cross.at("output").norm("LayerNorm", c)?,
            fc1: from.at("intermediate").linear("dense", inner, c)?,
            fc2: from.at("output").linear("dense", c, inner)?,
            norm3: from.at("output").norm("LayerNorm", c)?,
        })
    }
}

/// Linear maps to heads, one after another, each head with [`EXTRA`] features more: 1 and zeros of a query,
/// zeros of keys and values.
fn widened(from: &Loader<'_>, names: &[&str], heads: usize, input: usize) -> Result<Linear> {
    let rows = heads * (HEAD + EXTRA);
    let mut w = Vec::with_capacity(names.len() * rows * input);
    let mut b = Vec::with_capacity(names.len() * rows);
    for name in names {
        let part = from.at(name);
        let weight = part.view("weight", &[heads * HEAD, input])?;
        let bias = part.view("bias", &[heads * HEAD])?;
        let (weight, bias) = (weight.data().to_f32(), bias.data().to_f32());
        for (weight, bias) in weight.chunks_exact(HEAD * input).zip(bias.chunks_exact(HEAD)) {
            w.extend_from_slice(weight);
            w.resize(w.len() + EXTRA * input, 0.0);
            b.extend_from_slice(bias);
            b.push(if *name == "query" { 1.0 } else { 0.0 });
            b.resize(b.len() + EXTRA - 1, 0.0);
        }
    }
    let shape = Shape::rows(names.len() * rows, input);
    Ok(Linear {
        w: from.backend.upload(shape, HostSlice::F32(&w))?,
        b: Some(from.backend.upload(Shape::vector(names.len() * rows), HostSlice::F32(&b))?),
    })
}

/// The linear map behind an attention of widened heads, which does not read the features added.
fn widened_input(from: &Loader<'_>, heads: usize) -> Result<Linear> {
    let c = heads * HEAD;
    let weight = from.view("weight", &[c, c])?;
    let mut w = Vec::with_capacity(c * heads * (HEAD + EXTRA));
    for head in weight.data().to_f32().chunks_exact(HEAD) {
        w.extend_from_slice(head);
        w.resize(w.len() + EXTRA, 0.0);
    }
    let shape = Shape::rows(c, heads * (HEAD + EXTRA));
    Ok(Linear { w: from.backend.upload(shape, HostSlice::F32(&w))?, b: Some(from.vector("bias", c)?) })
}

const WHICH: &str = "give ImageReward as published, as safetensors";

/// One of the sizes of a tensor.
fn size(label: &str, weights: &Weights<'_>, name: &str, axis: usize) -> Result<usize> {
    match weights.dims(name) {
        // Says that it is missing.
        None => weights.tensor(name, &[]).map(|_| 0),
        Some(dims) => dims.get(axis).copied().filter(|size| *size > 0).ok_or_else(|| {
            Error::model(format!("{label}: tensor {} has shape {dims:?}", weights.full(name))).advice(WHICH)
        }),
    }
}

fn heads(label: &str, encoder: &str, width: usize) -> Result<usize> {
    match width % HEAD {
        0 => Ok(width / HEAD),
        _ => Err(Error::model(format!("{label}: {encoder} has width {width}, no multiple of {HEAD}"))
            .advice(WHICH)),
    }
}
