//! The one table of operation cases: every backend operation with several shapes and parameters. Golden files,
//! transpose and difference tests, comparison of backends, the meter and the benches all walk this table.
//!
//! Inputs are made from the case's name by integer arithmetic and exactly rounded f64, so `tools/golden/ops.py`
//! makes the same bits and golden files hold results only.

// Each test and bench uses its part.
#![allow(dead_code, unused_imports)]

mod inputs;
mod table;

use das_cuda::backend::{
    Activation, Advance, AffineClamp, Attention, Backend, Conv, Epilogue, Filter, GroupNorm, ParticleId,
    Particles,
};
use das_cuda::error::Result;
use das_cuda::noise::Purpose;
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use serde_json::{Value, json};

pub use inputs::{Input, Kind, sampled};
use inputs::{fill, randn, weight};
pub use table::{large, small};

/// The small cases; `DAS_OPS=conv,linear` keeps those operations only, while working on them.
///
/// # Panics
/// If there is no operation of one of the names.
pub fn chosen() -> Vec<Case> {
    let wanted = std::env::var("DAS_OPS").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').map(str::trim).filter(|op| !op.is_empty()).collect();
    let names: std::collections::BTreeSet<_> = small().iter().map(|c| c.op.name()).collect();
    for op in &wanted {
        assert!(names.contains(op), "DAS_OPS: no operation `{op}`; there are {names:?}");
    }
    small().into_iter().filter(|c| wanted.is_empty() || wanted.contains(&c.op.name())).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    None,
    /// `(1, 1, 1, out)`.
    One,
    /// `(n, 1, 1, out)`.
    Each,
}

/// An operation with its parameters. `x` is the shape of the input to differentiate.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Linear {
        x: Shape,
        out: usize,
        bias: Bias,
        add: bool,
    },
    /// `out` channels before `epilogue`.
    LinearEpilogue {
        x: Shape,
        out: usize,
        bias: Bias,
        epilogue: Epilogue,
    },
    Conv {
        x: Shape,
        out: usize,
        kernel: usize,
        conv: Conv,
        bias: Bias,
        add: bool,
    },
    /// `mean` is added to the input.
    GroupNorm {
        x: Shape,
        norm: GroupNorm,
        mean: f32,
    },
    LayerNorm {
        x: Shape,
        mean: f32,
    },
    L2Norm {
        x: Shape,
    },
    /// `y` is the shape of the result; the input has three times the channels.
    SelfAttention {
        y: Shape,
        attention: Attention,
    },
    CrossAttention {
        q: Shape,
        keys: usize,
        kv_of: Vec<u32>,
        attention: Attention,
    },
    /// `scale` multiplies the input, to reach the tails.
    Activate {
        x: Shape,
        f: Activation,
        scale: f32,
    },
    /// `y` is the shape of the result.
    Geglu {
        y: Shape,
    },
    Axpby {
        x: Shape,
        a: f32,
        b: f32,
    },
    /// The coefficients are a third input.
    Blend {
        x: Shape,
    },
    Scale {
        x: Shape,
        a: f32,
    },
    AffineClamp {
        x: Shape,
        map: AffineClamp,
    },
    ChannelAffine {
        x: Shape,
        shift: bool,
    },
    Concat {
        x: Shape,
        c: usize,
    },
    Slice {
        x: Shape,
        from: usize,
        c: usize,
    },
    Repeat {
        x: Shape,
        times: usize,
    },
    Gather {
        x: Shape,
        rows: Vec<u32>,
    },
    Stack {
        x: Shape,
        n: usize,
    },
    CfgCombine {
        x: Shape,
        s: f32,
    },
    Embed {
        x: Shape,
        token: bool,
    },
    TakeToken {
        x: Shape,
        at: Vec<u32>,
    },
    Resize {
        x: Shape,
        h: usize,
        w: usize,
        filter: Filter,
    },
    Normals {
        x: Shape,
    },
    Advance {
        x: Shape,
        ancestors: Vec<u32>,
        grad: bool,
        variance: f32,
    },
    SquaredNorms {
        x: Shape,
    },
}

/// One line of the table. Large cases are for benches only.
#[derive(Clone, Debug)]
pub struct Case {
    pub op: Op,
    pub kind: Kind,
    pub large: bool,
}

/// Terms of both products, and the exponential's: a score `s` is off by `U |s|`, and so is its probability,
/// relatively. Scores of normal inputs reach `3 scale sqrt(d)`.
fn attention_terms(attention: &Attention, keys: usize, c: usize) -> usize {
    let d = c / attention.heads;
    keys + d + (9.0 * attention.scale.powi(2) * d as f32) as usize
}

fn bias_and_add(bias: Bias, add: bool, y: Shape) -> Vec<Input> {
    let bias = match bias {
        Bias::None => None,
        Bias::One => Some(Shape::vector(y.c)),
        Bias::Each => Some(Shape::rows(y.n, y.c)),
    };
    bias.into_iter().chain(add.then_some(y)).map(randn).collect()
}

impl Op {
    /// Every tensor the operation takes, those to differentiate first.
    pub fn inputs(&self, kind: Kind) -> Vec<Input> {
        let of = |shape: Shape| Input { kind, ..randn(shape) };
        match self {
            Op::Linear { x, out, bias, add } => {
                let mut all = vec![of(*x), weight(Shape::rows(*out, x.c))];
                all.extend(bias_and_add(*bias, *add, x.with_c(*out)));
                all
            }
            Op::LinearEpilogue { x, out, bias, .. } => {
                let mut all = vec![of(*x), weight(Shape::rows(*out, x.c))];
                all.extend(bias_and_add(*bias, false, x.with_c(*out)));
                all
            }
            Op::Conv { x, out, kernel, conv, bias, add } => {
                let w = Shape::new(*out, *kernel, *kernel, x.c);
                let mut all = vec![of(*x), weight(w)];
                all.extend(bias_and_add(*bias, *add, conv.output(*x, w)));
                all
            }
            Op::GroupNorm { x, mean, .. } | Op::LayerNorm { x, mean } => {
                let c = Shape::vector(x.c);
                vec![Input { shift: *mean, ..of(*x) }, Input { shift: 1.0, scale: 0.5, ..randn(c) }, randn(c)]
            }
            Op::SelfAttention { y, .. } => vec![of(y.with_c(3 * y.c))],
            Op::CrossAttention { q, keys, kv_of, .. } => {
                let rows = kv_of.iter().max().map_or(0, |&m| m as usize + 1);
                vec![of(*q), randn(Shape::new(rows, 1, *keys, 2 * q.c))]
            }
            Op::Activate { x, scale, .. } => vec![Input { scale: *scale, ..of(*x) }],
            Op::Geglu { y } => vec![of(y.with_c(2 * y.c))],
            Op::Axpby { x, .. } => vec![of(*x), of(*x)],
            Op::Blend { x } => vec![of(*x), of(*x), randn(Shape::vector(2))],
            Op::ChannelAffine { x, shift } => {
                let mut all = vec![of(*x), randn(Shape::vector(x.c))];
                all.extend(shift.then(|| randn(Shape::vector(x.c))));
                all
            }
            Op::Concat { x, c } => vec![of(*x), of(x.with_c(*c))],
            Op::Stack { x, n } => vec![of(*x), of(x.with_n(*n))],
            Op::Embed { x, token } => {
                let tokens = x.tokens() + usize::from(*token);
                let mut all = vec![of(*x), randn(Shape::new(1, 1, tokens, x.c))];
                all.extend(token.then(|| randn(Shape::vector(x.c))));
                all
            }
            Op::Advance { x, grad, .. } => {
                let mut all = vec![of(*x), of(*x)];
                all.extend(grad.then(|| of(*x)));
                all
            }
            Op::Normals { .. } => Vec::new(),
            Op::L2Norm { x }
            | Op::Scale { x, .. }
            | Op::AffineClamp { x, .. }
            | Op::Slice { x, .. }
            | Op::Repeat { x, .. }
            | Op::Gather { x, .. }
            | Op::CfgCombine { x, .. }
            | Op::TakeToken { x, .. }
            | Op::Resize { x, .. }
            | Op::SquaredNorms { x } => vec![of(*x)],
        }
    }

    /// How many of the inputs have a transpose.
    pub fn differentiable(&self) -> usize {
        match self {
            Op::Axpby { .. } | Op::Blend { .. } | Op::Concat { .. } => 2,
            Op::Gather { .. }
            | Op::Stack { .. }
            | Op::Normals { .. }
            | Op::Advance { .. }
            | Op::SquaredNorms { .. } => 0,
            _ => 1,
        }
    }

    /// Affine in each differentiable input: a difference quotient has no truncation error.
    pub fn is_linear(&self) -> bool {
        !matches!(
            self,
            Op::GroupNorm { .. }
                | Op::LayerNorm { .. }
                | Op::L2Norm { .. }
                | Op::SelfAttention { .. }
                | Op::CrossAttention { .. }
                | Op::Activate { .. }
                | Op::Geglu { .. }
                | Op::LinearEpilogue { .. }
                | Op::AffineClamp { .. }
        )
    }

    /// Most products added up for one element of a result or of a cotangent; what rounding grows with.
    pub fn terms(&self) -> usize {
        match self {
            Op::Linear { x, out, .. } | Op::LinearEpilogue { x, out, .. } => x.c.max(*out),
            Op::Conv { x, out, kernel, .. } => kernel * kernel * x.c.max(*out),
            Op::SelfAttention { y, attention } => attention_terms(attention, y.tokens(), y.c),
            Op::CrossAttention { q, keys, attention, .. } => attention_terms(attention, *keys, q.c),
            _ => 4,
        }
    }

    /// The operation's name in the backend's trait.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Linear { .. } => "linear",
            Op::LinearEpilogue { .. } => "linear_epilogue",
            Op::Conv { .. } => "conv",
            Op::GroupNorm { .. } => "group_norm",
            Op::LayerNorm { .. } => "layer_norm",
            Op::L2Norm { .. } => "l2_norm",
            Op::SelfAttention { .. } => "self_attention",
            Op::CrossAttention { .. } => "cross_attention",
            Op::Activate { .. } => "activate",
            Op::Geglu { .. } => "geglu",
            Op::Axpby { .. } => "axpby",
            Op::Blend { .. } => "blend",
            Op::Scale { .. } => "scale",
            Op::AffineClamp { .. } => "affine_clamp",
            Op::ChannelAffine { .. } => "channel_affine",
            Op::Concat { .. } => "concat",
            Op::Slice { .. } => "slice",
            Op::Repeat { .. } => "repeat",
            Op::Gather { .. } => "gather",
            Op::Stack { .. } => "stack",
            Op::CfgCombine { .. } => "cfg_combine",
            Op::Embed { .. } => "embed",
            Op::TakeToken { .. } => "take_token",
            Op::Resize { .. } => "resize",
            Op::Normals { .. } => "normals",
            Op::Advance { .. } => "advance",
            Op::SquaredNorms { .. } => "squared_norms",
        }
    }

    /// What the golden script has to know beyond the inputs; `None` where PyTorch has no say.
    fn params(&self) -> Option<Value> {
        let attention = |a: &Attention| json!({"heads": a.heads, "scale": a.scale, "causal": a.causal});
        Some(match self {
            Op::Linear { bias, add, .. } => json!({"bias": *bias != Bias::None, "add": add}),
            Op::LinearEpilogue { bias, epilogue, .. } => {
                json!({"bias": *bias != Bias::None, "epilogue": format!("{epilogue:?}")})
            }
            Op::Conv { conv, bias, add, .. } => json!({
                "stride": conv.stride, "pad": conv.pad, "upsample": conv.upsample,
                "bias": *bias != Bias::None, "add": add,
            }),
            Op::GroupNorm { norm, .. } => {
                json!({"groups": norm.groups, "eps": norm.eps, "silu": norm.silu})
            }
            Op::LayerNorm { .. } => json!({ "eps": LAYER_EPS }),
            Op::SelfAttention { attention: a, .. } => attention(a),
            Op::CrossAttention { attention: a, kv_of, .. } => {
                let mut params = attention(a);
                params["kv_of"] = json!(kv_of);
                params
            }
            Op::Activate { f, .. } => json!({ "f": format!("{f:?}") }),
            Op::Axpby { a, b, .. } => json!({"a": a, "b": b}),
            Op::Scale { a, .. } => json!({ "a": a }),
            Op::AffineClamp { map, .. } => json!({"a": map.a, "b": map.b, "lo": map.lo, "hi": map.hi}),
            Op::Slice { from, c, .. } => json!({"from": from, "c": c}),
            Op::Repeat { times, .. } => json!({ "times": times }),
            Op::Gather { rows, .. } => json!({ "rows": rows }),
            Op::CfgCombine { s, .. } => json!({ "s": s }),
            Op::TakeToken { at, .. } => json!({ "at": at }),
            Op::Resize { h, w, filter, .. } => {
                json!({"h": h, "w": w, "filter": format!("{filter:?}").to_lowercase()})
            }
            Op::L2Norm { .. }
            | Op::Geglu { .. }
            | Op::ChannelAffine { .. }
            | Op::Concat { .. }
            | Op::Stack { .. }
            | Op::Embed { .. } => json!({}),
            // That of axpby, whose golden exists.
            Op::Blend { .. } => return None,
            Op::Normals { .. } | Op::Advance { .. } | Op::SquaredNorms { .. } => return None,
        })
    }
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

impl Case {
    /// Names the case, seeds its inputs and keys its goldens.
    pub fn name(&self) -> String {
        format!("{:?} {:?}", self.op, self.kind)
    }

    /// Has results made by PyTorch.
    pub fn has_golden(&self) -> bool {
        // Those of linear and of what follows exist.
        let made_of_others = matches!(self.op, Op::LinearEpilogue { .. });
        !self.large && !made_of_others && self.op.params().is_some()
    }

    /// The line of the case list the golden script reads.
    pub fn to_json(&self) -> Option<Value> {
        let params = self.op.params()?;
        let inputs = self.op.inputs(self.kind);
        let inputs: Vec<Value> = inputs
            .iter()
            .map(|i| {
                let s = i.shape;
                json!({
                    "shape": [s.n, s.h, s.w, s.c], "kind": format!("{:?}", i.kind),
                    "scale": i.scale, "shift": i.shift,
                })
            })
            .collect();
        Some(json!({
            "name": self.name(), "op": self.op.name(), "params": params, "inputs": inputs,
            "wrt": self.op.differentiable(),
        }))
    }

    pub fn host_inputs(&self) -> Vec<Vec<f32>> {
        let inputs = self.op.inputs(self.kind);
        inputs.iter().enumerate().map(|(i, input)| fill(input, &format!("{}/{i}", self.name()))).collect()
    }

    /// The cotangent of a result of `len` elements.
    pub fn host_cotangent(&self, len: usize) -> Vec<f32> {
        fill(&randn(Shape::vector(len)), &format!("{}/dy", self.name()))
    }

    /// Uploads `host`, shaped as the inputs are.
    pub fn upload(&self, backend: &dyn Backend, host: &[Vec<f32>]) -> Result<Vec<Tensor>> {
        let inputs = self.op.inputs(self.kind);
        inputs.iter().zip(host).map(|(i, h)| backend.upload(i.shape, HostSlice::F32(h))).collect()
    }

    /// Runs the forward operation: the result first, then what it saved. Particle operations that return
    /// numbers on the host return them as a tensor.
    pub fn forward(&self, backend: &dyn Backend, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs.first();
        let x = || x.expect("an input");
        let saved = |(y, saved)| vec![y, saved];
        let y = match &self.op {
            Op::Linear { bias, add, .. } => {
                let (b, a) = optional(inputs, *bias, *add);
                backend.linear(x(), &inputs[1], b, a)?
            }
            Op::LinearEpilogue { bias, epilogue, .. } => {
                let (b, _) = optional(inputs, *bias, false);
                let (y, given) = backend.linear_epilogue(x(), &inputs[1], b, *epilogue, true)?;
                return Ok([Some(y), given].into_iter().flatten().collect());
            }
            Op::Conv { conv, bias, add, .. } => {
                let (b, a) = optional(inputs, *bias, *add);
                backend.conv(x(), &inputs[1], b, a, *conv)?
            }
            Op::GroupNorm { norm, .. } => {
                return Ok(saved(backend.group_norm(x(), &inputs[1], &inputs[2], *norm)?));
            }
            Op::LayerNorm { .. } => {
                return Ok(saved(backend.layer_norm(x(), &inputs[1], &inputs[2], LAYER_EPS)?));
            }
            Op::L2Norm { .. } => backend.l2_norm(x())?,
            Op::SelfAttention { attention, .. } => {
                return Ok(saved(backend.self_attention(x(), *attention)?));
            }
            Op::CrossAttention { kv_of, attention, .. } => {
                backend.cross_attention(x(), &inputs[1], kv_of, *attention)?
            }
            Op::Activate { f, .. } => backend.activate(x(), *f)?,
            Op::Geglu { .. } => backend.geglu(x())?,
            Op::Axpby { a, b, .. } => backend.axpby(*a, x(), *b, &inputs[1])?,
            Op::Blend { .. } => backend.blend(&inputs[2], x(), &inputs[1])?,
            Op::Scale { a, .. } => backend.scale(*a, x())?,
            Op::AffineClamp { map, .. } => backend.affine_clamp(x(), *map)?,
            Op::ChannelAffine { .. } => backend.channel_affine(x(), &inputs[1], inputs.get(2))?,
            Op::Concat { .. } => backend.concat(x(), &inputs[1])?,
            Op::Slice { from, c, .. } => backend.slice(x(), *from, *c)?,
            Op::Repeat { times, .. } => backend.repeat(x(), *times)?,
            Op::Gather { rows, .. } => backend.gather(x(), rows)?,
            Op::Stack { .. } => backend.stack(&[x(), &inputs[1]])?,
            Op::CfgCombine { s, .. } => backend.cfg_combine(x(), *s)?,
            Op::Embed { .. } => backend.embed(x(), inputs.get(2), &inputs[1])?,
            Op::TakeToken { at, .. } => backend.take_token(x(), at)?,
            Op::Resize { h, w, filter, .. } => backend.resize(x(), *h, *w, *filter)?,
            Op::Normals { x } => backend.normals(*x, 5, 3, Purpose::Initial, &ids(x.n))?,
            Op::Advance { x: shape, ancestors, variance, .. } => {
                let particles = Particles { x0: x(), eps: &inputs[1], grad: inputs.get(2) };
                let ids = ids(shape.n);
                let (y, ratio) =
                    backend.advance(particles, ancestors, &strengths(shape.n), advance(*variance, &ids))?;
                return Ok(vec![y, numbers(backend, &ratio)?]);
            }
            Op::SquaredNorms { .. } => numbers(backend, &backend.squared_norms(x())?)?,
        };
        Ok(vec![y])
    }

    /// Runs the transpose on the results of [`Case::forward`]: one cotangent per differentiable input.
    pub fn vjp(
        &self,
        backend: &dyn Backend,
        inputs: &[Tensor],
        results: &[Tensor],
        dy: &Tensor,
    ) -> Result<Vec<Tensor>> {
        let x = &inputs[0];
        let shape = x.shape();
        let dx = match &self.op {
            Op::Linear { .. } => backend.linear_vjp(dy, &inputs[1])?,
            Op::LinearEpilogue { epilogue, .. } => {
                let dy = match epilogue {
                    Epilogue::Activate(f) => backend.activate_vjp(&results[1], dy, *f)?,
                    Epilogue::Geglu => backend.geglu_vjp(&results[1], dy)?,
                };
                backend.linear_vjp(&dy, &inputs[1])?
            }
            Op::Conv { conv, .. } => backend.conv_vjp(dy, &inputs[1], shape, *conv)?,
            Op::GroupNorm { norm, .. } => {
                backend.group_norm_vjp(x, &inputs[1], &inputs[2], &results[1], dy, *norm)?
            }
            Op::LayerNorm { .. } => backend.layer_norm_vjp(x, &inputs[1], &results[1], dy)?,
            Op::L2Norm { .. } => backend.l2_norm_vjp(x, dy)?,
            Op::SelfAttention { attention, .. } => {
                backend.self_attention_vjp(x, &results[0], &results[1], dy, *attention)?
            }
            Op::CrossAttention { kv_of, attention, .. } => {
                backend.cross_attention_vjp(x, &inputs[1], kv_of, dy, *attention)?
            }
            Op::Activate { f, .. } => backend.activate_vjp(x, dy, *f)?,
            Op::Geglu { .. } => backend.geglu_vjp(x, dy)?,
            Op::Axpby { a, b, .. } => return Ok(vec![backend.scale(*a, dy)?, backend.scale(*b, dy)?]),
            Op::Blend { .. } => {
                let k = &inputs[2];
                return Ok(vec![backend.blend_vjp(k, 0, dy)?, backend.blend_vjp(k, 1, dy)?]);
            }
            Op::Scale { a, .. } => backend.scale(*a, dy)?,
            Op::AffineClamp { map, .. } => backend.affine_clamp_vjp(x, dy, *map)?,
            Op::ChannelAffine { .. } => backend.channel_affine(dy, &inputs[1], None)?,
            Op::Concat { c, .. } => {
                return Ok(vec![backend.slice(dy, 0, shape.c)?, backend.slice(dy, shape.c, *c)?]);
            }
            Op::Slice { from, .. } => backend.slice_vjp(dy, *from, shape.c)?,
            Op::Repeat { times, .. } => backend.repeat_vjp(dy, *times)?,
            Op::CfgCombine { s, .. } => backend.cfg_combine_vjp(dy, *s)?,
            Op::Embed { .. } => backend.embed_vjp(dy, shape)?,
            Op::TakeToken { at, .. } => backend.take_token_vjp(dy, at, shape)?,
            Op::Resize { filter, .. } => backend.resize_vjp(dy, shape, *filter)?,
            Op::Gather { .. }
            | Op::Stack { .. }
            | Op::Normals { .. }
            | Op::Advance { .. }
            | Op::SquaredNorms { .. } => return Ok(Vec::new()),
        };
        Ok(vec![dx])
    }
}

/// Bias and addend among the inputs of a linear map.
fn optional(inputs: &[Tensor], bias: Bias, add: bool) -> (Option<&Tensor>, Option<&Tensor>) {
    let has_bias = bias != Bias::None;
    (has_bias.then(|| &inputs[2]), add.then(|| &inputs[2 + usize::from(has_bias)]))
}

fn numbers(backend: &dyn Backend, x: &[f64]) -> Result<Tensor> {
    let x: Vec<f32> = x.iter().map(|&v| v as f32).collect();
    backend.upload(Shape::rows(x.len(), 1), HostSlice::F32(&x))
}
