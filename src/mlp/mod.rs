//! Small networks that this program trains itself: linear layers on the host, put on a tape to be
//! differentiated, in files as PyTorch's linear layers have them.

mod adam;
mod affine;

pub use adam::Adam;
pub use affine::Affine;

use std::collections::HashMap;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::noise::{Key, Purpose, uniforms};
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

/// Weights and biases of linear layers, one after another.
#[derive(Clone, Debug, PartialEq)]
pub struct Mlp {
    /// Inputs of the first layer, then the outputs of each.
    pub widths: Vec<usize>,
    /// Of each layer its weight `(out, in)`, row after row, and its bias.
    pub layers: Vec<(Vec<f32>, Vec<f32>)>,
}

/// The same on a device, as variables of a tape.
pub struct Layers(Vec<(Var, Var)>);

impl Mlp {
    /// A network of these widths, as PyTorch initialises linear layers: weights and biases uniform within
    /// `1 / sqrt(in)`. Layer `l` has the random numbers of the stream `first + l`.
    pub fn new(widths: &[usize], seed: u64, first: u32) -> Mlp {
        let layer = |(l, of): (usize, &[usize])| {
            let key = Key { seed, prompt: first + l as u32, particle: 0, step: 0, purpose: Purpose::Fit };
            let (mut uniform, bound) = (uniforms(key), 1.0 / (of[0] as f64).sqrt());
            let mut values = |n: usize| {
                (0..n).map(|_| (bound * (2.0 * uniform.draw() - 1.0)) as f32).collect::<Vec<f32>>()
            };
            let weight = values(of[0] * of[1]);
            (weight, values(of[1]))
        };
        Mlp { widths: widths.to_vec(), layers: widths.windows(2).enumerate().map(layer).collect() }
    }

    /// Weights and biases in their order: `w1 b1 w2 b2 ..`.
    pub fn parameters(&self) -> impl Iterator<Item = &Vec<f32>> {
        self.layers.iter().flat_map(|(w, b)| [w, b])
    }

    /// The same, to be changed.
    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        self.layers.iter_mut().flat_map(|(w, b)| [w, b])
    }

    /// Weight and bias of each layer on a device.
    ///
    /// # Errors
    /// From the device.
    pub fn place(&self, backend: &dyn Backend) -> Result<Vec<(Tensor, Tensor)>> {
        let put = |shape, values: &[f32]| backend.upload(shape, HostSlice::F32(values));
        let layer = |((w, b), of): (&(Vec<f32>, Vec<f32>), &[usize])| {
            Ok((put(Shape::rows(of[1], of[0]), w)?, put(Shape::vector(of[1]), b)?))
        };
        self.layers.iter().zip(self.widths.windows(2)).map(layer).collect()
    }

    /// The layers on the tape's device; `watch` them to learn.
    ///
    /// # Errors
    /// From the device.
    pub fn upload(&self, tape: &Tape<'_>, watch: bool) -> Result<Layers> {
        let var = |tensor| if watch { tape.watch(tensor) } else { tensor.into() };
        Ok(Layers(self.place(tape.backend())?.into_iter().map(|(w, b)| (var(w), var(b))).collect()))
    }
}

impl Layers {
    /// Constants, weight and bias of each layer as [`Mlp::place`] makes them.
    pub fn of(placed: impl Iterator<Item = (Tensor, Tensor)>) -> Layers {
        Layers(placed.map(|(w, b)| (w.into(), b.into())).collect())
    }

    /// Weights and biases in their order.
    pub fn leaves(&self) -> Vec<&Var> {
        self.0.iter().flat_map(|(w, b)| [w, b]).collect()
    }

    /// The outputs for `x` `(n, inputs)`; `between` makes what goes on of what each layer but the last, with
    /// its place, has made.
    ///
    /// # Errors
    /// From the device; of `between`.
    pub fn forward(
        &self,
        tape: &Tape<'_>,
        x: &Var,
        mut between: impl FnMut(usize, Var) -> Result<Var>,
    ) -> Result<Var> {
        let mut x = x.clone();
        for (l, (w, b)) in self.0.iter().enumerate() {
            x = tape.learned_linear(&x, w, b)?;
            if l + 1 < self.0.len() {
                x = between(l, x)?;
            }
        }
        Ok(x)
    }
}

/// Networks as a safetensors file with what is `said` of them: of each, behind its prefix, tensors
/// `layers.0.weight` `(out, in)`, `layers.0.bias` and so on, as PyTorch's linear layers have them.
///
/// # Errors
/// None in practice: it is made in memory.
pub fn encode(networks: &[(String, &Mlp)], said: HashMap<String, String>) -> Result<Vec<u8>> {
    let little = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let mut parts: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (prefix, network) in networks {
        for (l, ((w, b), of)) in network.layers.iter().zip(network.widths.windows(2)).enumerate() {
            parts.push((format!("{prefix}layers.{l}.weight"), vec![of[1], of[0]], little(w)));
            parts.push((format!("{prefix}layers.{l}.bias"), vec![of[1]], little(b)));
        }
    }
    let fail = |e| Error::io("a network cannot be encoded").because(e);
    let mut views = Vec::with_capacity(parts.len());
    for (name, shape, bytes) in &parts {
        views.push((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(fail)?));
    }
    safetensors::serialize(views, Some(said)).map_err(fail)
}

/// What stands in the metadata of a file of networks.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file `name`: no safetensors file.
pub fn said(name: &str, bytes: &[u8]) -> Result<HashMap<String, String>> {
    let (_, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|e| wrong(name, "no safetensors file").because(e))?;
    Ok(metadata.metadata().clone().unwrap_or_default())
}

/// Reads what [`encode`] made: a network of these widths behind each prefix. `name` is for messages.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io): no safetensors file, not of such networks, or with
/// weights that are not finite.
pub fn decode(name: &str, bytes: &[u8], networks: &[(String, &[usize])]) -> Result<Vec<Mlp>> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| wrong(name, "no safetensors file").because(e))?;
    let tensor = |called: String, shape: &[usize]| -> Result<Vec<f32>> {
        let view = file.tensor(&called).ok().filter(|v| v.dtype() == Dtype::F32 && v.shape() == shape);
        let view =
            view.ok_or_else(|| wrong(name, &format!("no tensor \"{called}\" of shape {shape:?} in f32")))?;
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let values: Vec<f32> = values.collect();
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(wrong(name, &format!("tensor \"{called}\" holds {value}"))),
            None => Ok(values),
        }
    };
    let network = |(prefix, widths): &(String, &[usize])| -> Result<Mlp> {
        let layer = |(l, of): (usize, &[usize])| -> Result<(Vec<f32>, Vec<f32>)> {
            let weight = tensor(format!("{prefix}layers.{l}.weight"), &[of[1], of[0]])?;
            Ok((weight, tensor(format!("{prefix}layers.{l}.bias"), &[of[1]])?))
        };
        let layers = widths.windows(2).enumerate().map(layer).collect::<Result<_>>()?;
        Ok(Mlp { widths: widths.to_vec(), layers })
    };
    networks.iter().map(network).collect()
}

fn wrong(name: &str, what: &str) -> Error {
    Error::io(format!("{name}: {what}")).advice("remove the file; what it holds is then learned again")
}
