//! LPIPS, how different two pictures look (Zhang et al., CVPR 2018, arXiv:1801.03924), version 0.1 by
//! AlexNet: the activations of its five convolutions, each position's of unit length, are subtracted,
//! squared, weighed by channel, and averaged over positions. With the weights' square roots taken in, that is
//! the squared distance of two vectors.

use std::path::Path;

use super::block::{Conv2d, Loader};
use super::checkpoint::Checkpoint;
use crate::backend::{AffineClamp, Backend, Conv, Filter};
use crate::error::{Error, Result};
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

/// Side of the pictures that the network sees.
pub const SIDE: usize = 224;

/// What the network is given of an intensity in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Range {
    /// [-1, 1], as it expects
    Signed,
    /// [0, 1], half of the contrast, as some programs do: their numbers compare only with one another
    Unit,
}

/// A convolution of AlexNet.
struct Layer {
    /// Its place in torchvision's list of layers.
    place: &'static str,
    /// The part of the package lpips that it is in.
    slice: &'static str,
    /// Channels that it makes.
    channels: usize,
    /// Of its kernel.
    side: usize,
    stride: usize,
    /// On every side of the image.
    pad: usize,
    /// Whether a maximum over 3 x 3 at every second position comes before it.
    pooled: bool,
}

#[rustfmt::skip]
const LAYERS: [Layer; 5] = [
    Layer { place: "0", slice: "slice1", channels: 64, side: 11, stride: 4, pad: 2, pooled: false },
    Layer { place: "3", slice: "slice2", channels: 192, side: 5, stride: 1, pad: 2, pooled: true },
    Layer { place: "6", slice: "slice3", channels: 384, side: 3, stride: 1, pad: 1, pooled: true },
    Layer { place: "8", slice: "slice4", channels: 256, side: 3, stride: 1, pad: 1, pooled: false },
    Layer { place: "10", slice: "slice5", channels: 256, side: 3, stride: 1, pad: 1, pooled: false },
];

/// Added to the length of an activation.
const EPS: f64 = 1e-10;
/// What the package lpips subtracts from intensities in [-1, 1], and divides them by.
const SHIFT: [f64; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f64; 3] = [0.458, 0.448, 0.450];

/// Reads a file as [`Lpips::open`] would, for its network, for the weights of its channels, or for both.
///
/// # Errors
/// As [`Lpips::open`].
pub fn check(backend: &dyn Backend, file: &Checkpoint, network: bool, linear: bool) -> Result<()> {
    if network {
        convolutions(backend, file)?;
    }
    if linear {
        roots_of_weights(backend, file)?;
    }
    Ok(())
}

/// The convolutions in torchvision's AlexNet, or in the file that the package lpips saves of all.
fn convolutions(backend: &dyn Backend, file: &Checkpoint) -> Result<Vec<Conv2d>> {
    let root = Loader::new(backend, file);
    let one_file = file.root().at("net").any();
    let mut channels = 3;
    let mut convs = Vec::new();
    for layer in &LAYERS {
        let from = match one_file {
            true => root.at("net").at(layer.slice),
            false => root.at_if_any("features"),
        };
        convs.push(from.conv(layer.place, layer.channels, channels, layer.side)?);
        channels = layer.channels;
    }
    Ok(convs)
}

/// Square roots of the weights of each convolution's channels.
fn roots_of_weights(backend: &dyn Backend, file: &Checkpoint) -> Result<Vec<Vec<f64>>> {
    let root = Loader::new(backend, file);
    let roots = LAYERS.iter().enumerate().map(|(i, layer)| {
        let name = format!("lin{i}.model.1.weight");
        let weights = root.view(&name, &[1, layer.channels])?.data().to_f32().into_owned();
        let refuse = |what: &str| {
            Error::model(format!("{}: tensor {name} holds {what}", file.label()))
                .advice("give the weights of LPIPS version 0.1 for AlexNet, alex.pth")
        };
        if let Some(weight) = weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
            return Err(refuse(&format!("{weight}: weights of channels are not below 0")));
        }
        if weights.iter().all(|weight| *weight == 0.0) {
            return Err(refuse("nothing but 0: no difference of two pictures would count"));
        }
        Ok(weights.into_iter().map(|weight| f64::from(weight).sqrt()).collect())
    });
    roots.collect()
}

/// The network and the weights of its channels.
pub struct Lpips {
    convs: Vec<Conv2d>,
    /// Square roots of the weights of each convolution's channels.
    roots: Vec<Vec<f64>>,
    /// Of intensities in [0, 1].
    gain: Tensor,
    shift: Tensor,
}

impl Lpips {
    /// Reads `network`, torchvision's AlexNet, and `linear`, the weights of the channels; both may be the one
    /// file that the package lpips saves of all.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming file and tensor: missing or misshapen tensors, a
    /// weight below 0.
    pub fn open(backend: &dyn Backend, network: &Path, linear: &Path, range: Range) -> Result<Lpips> {
        let convs = convolutions(backend, &Checkpoint::open(network, None)?)?;
        let roots = roots_of_weights(backend, &Checkpoint::open(linear, None)?)?;
        let (slope, offset) = match range {
            Range::Signed => (2.0, -1.0),
            Range::Unit => (1.0, 0.0),
        };
        let put =
            |values: [f64; 3]| backend.upload(Shape::vector(3), HostSlice::F32(&values.map(|x| x as f32)));
        Ok(Lpips {
            convs,
            roots,
            gain: put(SCALE.map(|scale| slope / scale))?,
            shift: put([0, 1, 2].map(|c| (offset - SHIFT[c]) / SCALE[c]))?,
        })
    }

    /// A vector for each of the images `(n, h, w, 3)` in [0, 1]: the squared distance of two is their LPIPS.
    /// Images are resized to 224 x 224 with an antialiased triangle filter.
    ///
    /// # Errors
    /// Of the backend.
    pub fn vectors(&self, backend: &dyn Backend, images: &Tensor) -> Result<Vec<Vec<f32>>> {
        let tape = Tape::off(backend);
        let Shape { n, h, w, .. } = images.shape();
        let images = Var::from(images.clone());
        let x =
            if (h, w) == (SIDE, SIDE) { images } else { tape.resize(&images, SIDE, SIDE, Filter::Bilinear)? };
        let mut x = tape.channel_affine(&x, &self.gain, Some(&self.shift))?;
        let mut vectors = vec![Vec::new(); n];
        for ((layer, conv), roots) in LAYERS.iter().zip(&self.convs).zip(&self.roots) {
            if layer.pooled {
                x = pooled(backend, x.value())?.into();
            }
            let geometry = Conv { stride: layer.stride, pad: [layer.pad; 4], upsample: false };
            let y = conv.run(&tape, &x, geometry)?;
            x = tape.affine_clamp(&y, AffineClamp::RELU)?;
            let (shape, values) = (x.shape(), backend.download(x.value())?);
            let positions = (shape.h * shape.w) as f64;
            for (vector, sample) in vectors.iter_mut().zip(values.chunks(shape.sample())) {
                for at in sample.chunks(shape.c) {
                    let length = at.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt() + EPS;
                    let part =
                        |(&v, root): (&f32, &f64)| (root * f64::from(v) / (length * positions.sqrt())) as f32;
                    vector.extend(at.iter().zip(roots).map(part));
                }
            }
        }
        Ok(vectors)
    }
}

/// The largest of 3 x 3 values at every second row and column, `(n, h, w, c)` to `(n, (h - 1) / 2, (w - 1) /
/// 2, c)`. On the host: the network is small.
fn pooled(backend: &dyn Backend, x: &Tensor) -> Result<Tensor> {
    let Shape { n, h, w, c } = x.shape();
    let values = backend.download(x)?;
    let shape = Shape::new(n, (h - 3) / 2 + 1, (w - 3) / 2 + 1, c);
    let mut largest = vec![f32::NEG_INFINITY; n * shape.sample()];
    for (place, run) in largest.chunks_mut(c).enumerate() {
        let (column, row, sample) = (place % shape.w, place / shape.w % shape.h, place / shape.w / shape.h);
        for (dy, dx) in (0..9).map(|i| (i / 3, i % 3)) {
            let from = ((sample * h + 2 * row + dy) * w + 2 * column + dx) * c;
            run.iter_mut().zip(&values[from..from + c]).for_each(|(most, value)| *most = most.max(*value));
        }
    }
    backend.upload(shape, HostSlice::F32(&largest))
}
