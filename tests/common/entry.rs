//! What the tests know of an operation, and the inputs that several operations share.

use das_cuda::backend::{Advance, Attention, Backend, ParticleId};
use das_cuda::error::Result;
use das_cuda::noise::Purpose;
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use serde_json::{Value, json};

use super::inputs::{Input, randn};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    None,
    /// `(1, 1, 1, out)`.
    One,
    /// `(n, 1, 1, out)`.
    Each,
}

/// What the tests know of an operation: how it is called both ways, and what PyTorch calls it.
pub struct Entry<'a> {
    /// The operation's name in the backend's trait.
    pub name: &'static str,
    /// Every tensor the operation takes, those to differentiate first.
    pub inputs: Vec<Input>,
    /// How many of the inputs have a transpose.
    pub differentiable: usize,
    /// Affine in each differentiable input: a difference quotient has no truncation error.
    pub linear: bool,
    /// Most products added up for one element of a result or of a cotangent; what rounding grows with.
    pub terms: usize,
    /// The same in PyTorch, for `tools/golden/ops.py`, where PyTorch has a say: an expression of the inputs
    /// `x`, `y`, `z`, .., also `inputs` together, and the parameters `p`.
    pub torch: Option<(&'static str, Value)>,
    pub forward: Forward<'a>,
    pub vjp: Vjp<'a>,
}

/// Runs an operation on its inputs: the result first, then what it saved.
type Forward<'a> = Box<dyn Fn(&dyn Backend, &[Tensor]) -> Result<Vec<Tensor>> + 'a>;
/// Runs the transpose on `(inputs, results, dy)`: one cotangent per differentiable input.
type Vjp<'a> = Box<dyn Fn(&dyn Backend, &[Tensor], &[Tensor], &Tensor) -> Result<Vec<Tensor>> + 'a>;

impl<'a> Entry<'a> {
    /// An operation without a transpose, of few terms.
    pub fn new(
        name: &'static str,
        inputs: Vec<Input>,
        forward: impl Fn(&dyn Backend, &[Tensor]) -> Result<Vec<Tensor>> + 'a,
    ) -> Entry<'a> {
        let (forward, vjp): (Forward<'a>, Vjp<'a>) =
            (Box::new(forward), Box::new(|_, _, _, _| Ok(Vec::new())));
        Entry { name, inputs, differentiable: 0, linear: true, terms: 4, torch: None, forward, vjp }
    }

    /// Transposes of the first `n` inputs.
    pub fn vjp(
        self,
        n: usize,
        vjp: impl Fn(&dyn Backend, &[Tensor], &[Tensor], &Tensor) -> Result<Vec<Tensor>> + 'a,
    ) -> Entry<'a> {
        Entry { differentiable: n, vjp: Box::new(vjp), ..self }
    }

    pub fn torch(self, expression: &'static str, parameters: Value) -> Entry<'a> {
        Entry { torch: Some((expression, parameters)), ..self }
    }

    pub fn terms(self, terms: usize) -> Entry<'a> {
        Entry { terms, ..self }
    }

    pub fn curved(self) -> Entry<'a> {
        Entry { linear: false, ..self }
    }
}

/// The only result.
pub fn one(y: Result<Tensor>) -> Result<Vec<Tensor>> {
    Ok(vec![y?])
}

/// The result, and what was saved.
pub fn two<T>(results: Result<(Tensor, T)>) -> Result<Vec<Tensor>>
where
    Option<Tensor>: From<T>,
{
    let (y, saved) = results?;
    Ok(std::iter::once(y).chain(Option::from(saved)).collect())
}

/// Terms of both products, and the exponential's: a score `s` is off by `U |s|`, and so is its probability,
/// relatively. Scores of normal inputs reach `3 scale sqrt(d)`.
pub fn attention_terms(attention: &Attention, keys: usize, c: usize) -> usize {
    let d = c / attention.heads;
    keys + d + (9.0 * attention.scale.powi(2) * d as f32) as usize
}

pub fn bias_and_add(bias: Bias, add: bool, y: Shape) -> Vec<Input> {
    let bias = match bias {
        Bias::None => None,
        Bias::One => Some(Shape::vector(y.c)),
        Bias::Each => Some(Shape::rows(y.n, y.c)),
    };
    bias.into_iter().chain(add.then_some(y)).map(randn).collect()
}

/// Inputs of a norm: `x` with a mean, gamma around one, beta.
pub fn normed(x: Input, mean: f32) -> Vec<Input> {
    let c = Shape::vector(x.shape.c);
    vec![Input { shift: mean, ..x }, Input { shift: 1.0, scale: 0.5, ..randn(c) }, randn(c)]
}

pub fn attention_parameters(a: &Attention) -> Value {
    json!({"heads": a.heads, "scale": a.scale, "causal": a.causal})
}

/// Bias and addend among the inputs of a linear map.
pub fn optional(inputs: &[Tensor], bias: Bias, add: bool) -> (Option<&Tensor>, Option<&Tensor>) {
    let has_bias = bias != Bias::None;
    (has_bias.then(|| &inputs[2]), add.then(|| &inputs[2 + usize::from(has_bias)]))
}

pub fn numbers(backend: &dyn Backend, x: &[f64]) -> Result<Tensor> {
    let x: Vec<f32> = x.iter().map(|&v| v as f32).collect();
    backend.upload(Shape::rows(x.len(), 1), HostSlice::F32(&x))
}

/// Eps of every layer norm in the models.
pub const LAYER_EPS: f32 = 1e-5;

/// Step size of [`Op::Advance`] cases' parameters, shared with the test that recomputes them.
pub fn advance(variance: f32, ids: &[ParticleId]) -> Advance<'_> {
    Advance {
        mean_x0: 0.75,
        mean_eps: -0.375,
        variance,
        kappa: 1.25,
        seed: 11,
        step: 7,
        purpose: Purpose::Move,
        ids,
    }
}

/// Distinct identities that are not slot numbers.
pub fn ids(n: usize) -> Vec<ParticleId> {
    (0..n as u32).map(|i| ParticleId { prompt: i / 2, particle: 3 + i }).collect()
}

/// Inverse temperature over alpha per slot.
pub fn strengths(n: usize) -> Vec<f32> {
    (0..n).map(|i| 0.5 + i as f32).collect()
}
