//! The score network of the toys: `(x, t / 1000) -> 64 -> ReLU -> 64 -> ReLU -> noise`, trained by denoising
//! score matching (docs/spec.md 9).

use std::collections::HashMap;

use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::adam::Adam;
use super::{Point, Toy};
use crate::backend::{AffineClamp, Backend};
use crate::error::{Error, Result};
use crate::noise::{Key, Purpose, fill_normals, uniforms};
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

/// Width of the hidden layers.
pub const HIDDEN: usize = 64;
/// The entry of a file's metadata that says what the network is.
const SAID: &str = "das-cuda";
/// Training steps of the diffusion.
const TRAINING_STEPS: usize = 1000;

/// `max(x, 0)`.
const RELU: AffineClamp = AffineClamp { a: 1.0, b: 0.0, lo: 0.0, hi: f32::INFINITY };

/// Weights and biases of three layers with ReLU between them, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Inputs, the two hidden widths, outputs.
    pub widths: [usize; 4],
    /// Of each layer its weight `(out, in)`, row after row, and its bias.
    pub layers: [(Vec<f32>, Vec<f32>); 3],
}

/// The same on a device, as variables of a tape.
pub struct Layers([(Var, Var); 3]);

impl Network {
    /// What predicts the noise of points of so many coordinates from a point and its time, as PyTorch
    /// initialises linear layers: weights and biases uniform within `1 / sqrt(in)`.
    pub fn new(dimensions: usize, seed: u64) -> Network {
        Network::of([dimensions + 1, HIDDEN, HIDDEN, dimensions], seed, 0)
    }

    /// A network of these widths, initialised likewise by the streams from `first` on.
    pub fn of(widths: [usize; 4], seed: u64, first: u32) -> Network {
        let layer = |l: usize| {
            let key = Key { seed, prompt: first + l as u32, particle: 0, step: 0, purpose: Purpose::Fit };
            let (mut uniform, bound) = (uniforms(key), 1.0 / (widths[l] as f64).sqrt());
            let mut values = |n: usize| {
                (0..n).map(|_| (bound * (2.0 * uniform.draw() - 1.0)) as f32).collect::<Vec<f32>>()
            };
            let weight = values(widths[l] * widths[l + 1]);
            (weight, values(widths[l + 1]))
        };
        Network { widths, layers: [layer(0), layer(1), layer(2)] }
    }

    /// Weights and biases in their order: `w1 b1 w2 b2 w3 b3`.
    pub fn parameters(&self) -> impl Iterator<Item = &Vec<f32>> {
        self.layers.iter().flat_map(|(w, b)| [w, b])
    }

    /// The same, to be changed.
    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        self.layers.iter_mut().flat_map(|(w, b)| [w, b])
    }

    /// As a safetensors file with what is `said` of it, an entry `das-cuda` of its metadata: tensors
    /// `layers.0.weight` `(out, in)`, `layers.0.bias` and so on, as PyTorch's linear layers have them. The
    /// same always makes the same bytes.
    ///
    /// # Errors
    /// None in practice: it is made in memory.
    pub fn encode(&self, said: &str) -> Result<Vec<u8>> {
        let fail = |e| Error::io("a network cannot be encoded").because(e);
        let little = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let bytes: Vec<(Vec<u8>, Vec<u8>)> =
            self.layers.iter().map(|(w, b)| (little(w), little(b))).collect();
        let widths = self.widths;
        let mut tensors = Vec::new();
        for (l, (w, b)) in bytes.iter().enumerate() {
            let shape = vec![widths[l + 1], widths[l]];
            tensors
                .push((format!("layers.{l}.weight"), TensorView::new(Dtype::F32, shape, w).map_err(fail)?));
            let shape = vec![widths[l + 1]];
            tensors.push((format!("layers.{l}.bias"), TensorView::new(Dtype::F32, shape, b).map_err(fail)?));
        }
        // One entry: the order of several would be another each time.
        let said = HashMap::from([(SAID.to_string(), said.to_string())]);
        safetensors::serialize(tensors, Some(said)).map_err(fail)
    }

    /// Reads what [`Network::encode`] made, and what was said of it. `name` is for messages.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io): no safetensors file, or not of such a network.
    pub fn decode(name: &str, bytes: &[u8], dimensions: usize) -> Result<(Network, String)> {
        let wrong = |what: &str| {
            Error::io(format!("{name}: {what}")).advice("remove the file; the network is then trained again")
        };
        let file = SafeTensors::deserialize(bytes).map_err(|e| wrong("no safetensors file").because(e))?;
        let (_, metadata) =
            SafeTensors::read_metadata(bytes).map_err(|e| wrong("no safetensors file").because(e))?;
        let widths = [dimensions + 1, HIDDEN, HIDDEN, dimensions];
        let tensor = |name: String, shape: &[usize]| -> Result<Vec<f32>> {
            let view = file.tensor(&name).ok().filter(|v| v.dtype() == Dtype::F32 && v.shape() == shape);
            let view =
                view.ok_or_else(|| wrong(&format!("no tensor \"{name}\" of shape {shape:?} in f32")))?;
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            Ok(values.collect())
        };
        let layer = |l: usize| -> Result<(Vec<f32>, Vec<f32>)> {
            let weight = tensor(format!("layers.{l}.weight"), &[widths[l + 1], widths[l]])?;
            Ok((weight, tensor(format!("layers.{l}.bias"), &[widths[l + 1]])?))
        };
        let layers = [layer(0)?, layer(1)?, layer(2)?];
        let said = metadata.metadata().as_ref().and_then(|metadata| metadata.get(SAID)).cloned();
        Ok((Network { widths, layers }, said.unwrap_or_default()))
    }

    /// The layers on the tape's device; `watch` them to learn.
    ///
    /// # Errors
    /// From the device.
    pub fn upload(&self, tape: &Tape<'_>, watch: bool) -> Result<Layers> {
        let widths = self.widths;
        let put = |shape, values: &[f32]| -> Result<Var> {
            let tensor = tape.backend().upload(shape, HostSlice::F32(values))?;
            Ok(if watch { tape.watch(tensor) } else { tensor.into() })
        };
        let layer = |l: usize| -> Result<(Var, Var)> {
            let (w, b) = &self.layers[l];
            Ok((put(Shape::rows(widths[l + 1], widths[l]), w)?, put(Shape::vector(widths[l + 1]), b)?))
        };
        Ok(Layers([layer(0)?, layer(1)?, layer(2)?]))
    }

    /// Trains on `points` for so many `epochs` with Adam at rate 1e-3 and returns the loss of each epoch. All
    /// points are seen in every epoch, each at one random time and with fresh noise; the loss is the mean
    /// squared error of the noise. Epoch `e` has the random numbers of step `e` of `seed`, whatever was
    /// trained before.
    ///
    /// # Errors
    /// From the device.
    pub fn train(
        &mut self,
        backend: &dyn Backend,
        points: &[Point],
        alpha_bars: &[f32],
        seed: u64,
        epochs: usize,
        mut after: impl FnMut(usize, f64) -> Result<()>,
    ) -> Result<Vec<f64>> {
        let mut adam = Adam::new(1e-3, self.parameters().map(Vec::len));
        let mut losses = Vec::with_capacity(epochs);
        for epoch in 0..epochs {
            let (input, noise) = noised(points, self.widths[3], alpha_bars, seed, epoch as u32);
            let (loss, gradients) = self.loss(backend, &input, &noise)?;
            adam.step(self.parameters_mut(), &gradients);
            losses.push(loss);
            after(epoch, loss)?;
        }
        Ok(losses)
    }

    /// The loss on `input` `(n, d + 1)` and `noise` `(n, d)`, and its gradient with respect to each
    /// parameter.
    ///
    /// # Errors
    /// From the device.
    pub fn loss(&self, backend: &dyn Backend, input: &[f32], noise: &[f32]) -> Result<(f64, Vec<Vec<f32>>)> {
        let d = self.widths[3];
        let (n, tape) = (noise.len() / d, Tape::new(backend));
        let layers = self.upload(&tape, true)?;
        let x: Var = backend.upload(Shape::rows(n, d + 1), HostSlice::F32(input))?.into();
        let noise = backend.upload(Shape::rows(n, d), HostSlice::F32(noise))?;
        let y = layers.forward(&tape, &x)?;
        let off = backend.axpby(1.0, y.value(), -1.0, &noise)?;
        let count = (n * d) as f64;
        let loss = backend.squared_norms(&off)?.iter().sum::<f64>() / count;
        let seed = backend.scale((2.0 / count) as f32, &off)?;
        let gradients = tape.gradients(&y, seed, &layers.leaves())?;
        let host = |g: Option<Tensor>| g.map_or(Ok(Vec::new()), |g| backend.download(&g));
        Ok((loss, gradients.into_iter().map(host).collect::<Result<_>>()?))
    }
}

impl Layers {
    /// Weights and biases in their order.
    pub fn leaves(&self) -> Vec<&Var> {
        self.0.iter().flat_map(|(w, b)| [w, b]).collect()
    }

    /// The outputs for `x` `(n, inputs)`: of a score network the predicted noise `(n, d)` of `x` `(n, d +
    /// 1)`: points, each followed by its time over 1000.
    ///
    /// # Errors
    /// From the device.
    pub fn forward(&self, tape: &Tape<'_>, x: &Var) -> Result<Var> {
        let [(w1, b1), (w2, b2), (w3, b3)] = &self.0;
        let h = tape.affine_clamp(&tape.learned_linear(x, w1, b1)?, RELU)?;
        let h = tape.affine_clamp(&tape.learned_linear(&h, w2, b2)?, RELU)?;
        tape.learned_linear(&h, w3, b3)
    }
}

/// The input of time.
pub(super) fn time_of(t: i64) -> f32 {
    (t as f64 / TRAINING_STEPS as f64) as f32
}

/// Points `(n, d)`, each followed by its time.
///
/// # Errors
/// From the device.
pub(super) fn with_time(tape: &Tape<'_>, x: &Var, t: i64) -> Result<Var> {
    let time = vec![time_of(t); x.shape().n];
    let time = tape.backend().upload(Shape::rows(time.len(), 1), HostSlice::F32(&time))?;
    tape.concat(x, &time.into())
}

/// What an epoch is shown: of each point `sqrt(abar) x + sqrt(1 - abar) z` and `t / 1000`, and `z`. Times are
/// uniform over the training steps.
fn noised(points: &[Point], d: usize, alpha_bars: &[f32], seed: u64, epoch: u32) -> (Vec<f32>, Vec<f32>) {
    let key =
        |stream: u32| Key { seed, prompt: 16 + stream, particle: 0, step: epoch, purpose: Purpose::Fit };
    let mut noise = vec![0.0; points.len() * d];
    fill_normals(&key(0), &mut noise);
    let times: Vec<f64> = uniforms(key(1)).take(points.len()).collect();
    let mut input = vec![0.0; points.len() * (d + 1)];
    input.par_chunks_exact_mut(d + 1).zip(points).zip(noise.par_chunks_exact(d)).zip(times).for_each(
        |(((row, x), z), u)| {
            let t = ((u * alpha_bars.len() as f64) as usize).min(alpha_bars.len() - 1);
            let (signal, spread) = (alpha_bars[t].sqrt(), (1.0 - alpha_bars[t]).sqrt());
            for i in 0..d {
                row[i] = signal * x[i] as f32 + spread * z[i];
            }
            row[d] = t as f32 / TRAINING_STEPS as f32;
        },
    );
    (input, noise)
}

/// Stream of the points that a network learns from.
const LEARNED: u32 = 3;

impl Toy {
    /// So many points of the data to learn from; of a file, all of its points.
    pub fn learned(&self, seed: u64, count: usize) -> Vec<Point> {
        match &self.data {
            super::Data::Points(points) => points.clone(),
            _ => (0..count as u32).map(|i| self.draw(seed, LEARNED, i)).collect(),
        }
    }
}
