//! The score network of the toys: `(x, t / 1000) -> 64 -> ReLU -> 64 -> ReLU -> noise`, trained by denoising
//! score matching (docs/spec.md 9).

use std::collections::HashMap;

use rayon::prelude::*;

use super::{Point, Toy};
use crate::backend::{AffineClamp, Backend};
use crate::error::Result;
use crate::mlp::{self, Adam, Mlp};
use crate::noise::{Key, Purpose, fill_normals, uniforms};
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

/// Width of the hidden layers.
pub const HIDDEN: usize = 64;
/// The entry of a file's metadata that says what the network is.
pub const ENTRY: &str = "das-cuda";
/// Training steps of the diffusion.
const TRAINING_STEPS: usize = 1000;

/// Three layers with ReLU between them, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Network(pub Mlp);

/// The same on a device, as variables of a tape.
pub struct Layers(mlp::Layers);

impl Network {
    /// What predicts the noise of points of so many coordinates from a point and its time, initialised as
    /// [`Mlp::new`] does.
    pub fn new(dimensions: usize, seed: u64) -> Network {
        Network::of([dimensions + 1, HIDDEN, HIDDEN, dimensions], seed, 0)
    }

    /// A network of these widths, initialised likewise by the streams from `first` on.
    pub fn of(widths: [usize; 4], seed: u64, first: u32) -> Network {
        Network(Mlp::new(&widths, seed, first))
    }

    /// Weights and biases in their order: `w1 b1 w2 b2 w3 b3`.
    pub fn parameters(&self) -> impl Iterator<Item = &Vec<f32>> {
        self.0.parameters()
    }

    /// The same, to be changed.
    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        self.0.parameters_mut()
    }

    /// As a safetensors file ([`mlp::encode`]) with what is `said` of it, an entry `das-cuda` of its
    /// metadata. The same always makes the same bytes.
    ///
    /// # Errors
    /// None in practice: it is made in memory.
    pub fn encode(&self, said: &str) -> Result<Vec<u8>> {
        // One entry: the order of several would be another each time.
        let said = HashMap::from([(ENTRY.to_string(), said.to_string())]);
        mlp::encode(&[(String::new(), &self.0)], said)
    }

    /// Reads what [`Network::encode`] made, and what was said of it. `name` is for messages.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io): no safetensors file, or not of such a network.
    pub fn decode(name: &str, bytes: &[u8], dimensions: usize) -> Result<(Network, String)> {
        let said = mlp::said(name, bytes)?.remove(ENTRY).unwrap_or_default();
        let widths = [dimensions + 1, HIDDEN, HIDDEN, dimensions];
        let network = mlp::decode(name, bytes, &[(String::new(), &widths)])?.swap_remove(0);
        Ok((Network(network), said))
    }

    /// The layers on the tape's device; `watch` them to learn.
    ///
    /// # Errors
    /// From the device.
    pub fn upload(&self, tape: &Tape<'_>, watch: bool) -> Result<Layers> {
        self.0.upload(tape, watch).map(Layers)
    }

    /// The layers on a device, in the order of [`Network::parameters`].
    ///
    /// # Errors
    /// From the device.
    pub fn place(&self, backend: &dyn Backend) -> Result<[Tensor; 6]> {
        let layers = self.0.place(backend)?.into_iter().flat_map(|(weight, bias)| [weight, bias]);
        let layers: Vec<Tensor> = layers.collect();
        Ok(layers.try_into().unwrap_or_else(|_| unreachable!("a network has three layers")))
    }

    /// Numbers that it makes of a point.
    fn outputs(&self) -> usize {
        self.0.widths[3]
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
            let (input, noise) = noised(points, self.outputs(), alpha_bars, seed, epoch as u32);
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
        let d = self.outputs();
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
    /// Constants, as [`Network::place`] makes them.
    pub fn placed(layers: &[Tensor; 6]) -> Layers {
        Layers(mlp::Layers::of(layers.chunks_exact(2).map(|layer| (layer[0].clone(), layer[1].clone()))))
    }

    /// Weights and biases in their order.
    pub fn leaves(&self) -> Vec<&Var> {
        self.0.leaves()
    }

    /// The outputs for `x` `(n, inputs)`: of a score network the predicted noise `(n, d)` of `x` `(n, d +
    /// 1)`: points, each followed by its time over 1000.
    ///
    /// # Errors
    /// From the device.
    pub fn forward(&self, tape: &Tape<'_>, x: &Var) -> Result<Var> {
        self.0.forward(tape, x, |_, h| tape.affine_clamp(&h, AffineClamp::RELU))
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
