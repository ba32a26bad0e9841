//! The one table of operation cases: every backend operation with several shapes and parameters. Golden files,
//! transpose and difference tests, comparison of backends, the meter and the benches all walk this table.
//!
//! Inputs are made from the case's name by integer arithmetic and exactly rounded f64, so `tools/golden/ops.py`
//! makes the same bits and golden files hold results only.

#![allow(dead_code)]

use das_cuda::backend::{
    Activation, Advance, AffineClamp, Attention, Backend, Conv, Filter, GroupNorm, ParticleId, Particles,
};
use das_cuda::error::Result;
use das_cuda::noise::Purpose;
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use serde_json::{Value, json};

/// How the differentiable inputs are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ones,
    /// Evenly from -1 to 1 in memory order.
    Arange,
    /// Near-normal: the sum of four uniforms.
    Randn,
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
    Guide {
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

/// A tensor to make.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    pub shape: Shape,
    pub kind: Kind,
    pub scale: f32,
    pub shift: f32,
}

/// Terms of both products, and the exponential's: a score `s` is off by `U |s|`, and so is its probability,
/// relatively. Scores of normal inputs reach `3 scale sqrt(d)`.
fn attention_terms(attention: &Attention, keys: usize, c: usize) -> usize {
    let d = c / attention.heads;
    keys + d + (9.0 * attention.scale.powi(2) * d as f32) as usize
}

/// Variance of a weight that keeps the variance of what it maps.
fn weight(shape: Shape) -> Input {
    Input { scale: 1.0 / (shape.sample() as f32).sqrt(), ..randn(shape) }
}

fn randn(shape: Shape) -> Input {
    Input { shape, kind: Kind::Randn, scale: 1.0, shift: 0.0 }
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
            | Op::Guide { x, .. }
            | Op::TakeToken { x, .. }
            | Op::Resize { x, .. }
            | Op::SquaredNorms { x } => vec![of(*x)],
        }
    }

    /// How many of the inputs have a transpose.
    pub fn differentiable(&self) -> usize {
        match self {
            Op::Axpby { .. } | Op::Concat { .. } => 2,
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
                | Op::AffineClamp { .. }
        )
    }

    /// Most products added up for one element of a result or of a cotangent; what rounding grows with.
    pub fn terms(&self) -> usize {
        match self {
            Op::Linear { x, out, .. } => x.c.max(*out),
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
            Op::Conv { .. } => "conv",
            Op::GroupNorm { .. } => "group_norm",
            Op::LayerNorm { .. } => "layer_norm",
            Op::L2Norm { .. } => "l2_norm",
            Op::SelfAttention { .. } => "self_attention",
            Op::CrossAttention { .. } => "cross_attention",
            Op::Activate { .. } => "activate",
            Op::Geglu { .. } => "geglu",
            Op::Axpby { .. } => "axpby",
            Op::Scale { .. } => "scale",
            Op::AffineClamp { .. } => "affine_clamp",
            Op::ChannelAffine { .. } => "channel_affine",
            Op::Concat { .. } => "concat",
            Op::Slice { .. } => "slice",
            Op::Repeat { .. } => "repeat",
            Op::Gather { .. } => "gather",
            Op::Stack { .. } => "stack",
            Op::Guide { .. } => "guide",
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
            Op::Guide { s, .. } => json!({ "s": s }),
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
        !self.large && self.op.params().is_some()
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
            Op::Scale { a, .. } => backend.scale(*a, x())?,
            Op::AffineClamp { map, .. } => backend.affine_clamp(x(), *map)?,
            Op::ChannelAffine { .. } => backend.channel_affine(x(), &inputs[1], inputs.get(2))?,
            Op::Concat { .. } => backend.concat(x(), &inputs[1])?,
            Op::Slice { from, c, .. } => backend.slice(x(), *from, *c)?,
            Op::Repeat { times, .. } => backend.repeat(x(), *times)?,
            Op::Gather { rows, .. } => backend.gather(x(), rows)?,
            Op::Stack { .. } => backend.stack(&[x(), &inputs[1]])?,
            Op::Guide { s, .. } => backend.guide(x(), *s)?,
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
            Op::Scale { a, .. } => backend.scale(*a, dy)?,
            Op::AffineClamp { map, .. } => backend.affine_clamp_vjp(x, dy, *map)?,
            Op::ChannelAffine { .. } => backend.channel_affine(dy, &inputs[1], None)?,
            Op::Concat { c, .. } => {
                return Ok(vec![backend.slice(dy, 0, shape.c)?, backend.slice(dy, shape.c, *c)?]);
            }
            Op::Slice { from, .. } => backend.slice_vjp(dy, *from, shape.c)?,
            Op::Repeat { times, .. } => backend.repeat_vjp(dy, *times)?,
            Op::Guide { s, .. } => backend.guide_vjp(dy, *s)?,
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

/// FNV-1a.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// SplitMix64's output function.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills an input; `name` seeds it.
fn fill(input: &Input, name: &str) -> Vec<f32> {
    let (len, seed) = (input.shape.len(), seed(name));
    let value = |i: usize| match input.kind {
        Kind::Ones => 1.0,
        Kind::Arange => 2.0 * i as f64 / len as f64 - 1.0,
        Kind::Randn => {
            let bits = mix(seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let sum: u64 = (0..4).map(|k| (bits >> (16 * k)) & 0xffff).sum();
            // Four uniforms have variance 1/3.
            (sum as f64 - 131_070.0) / 65_536.0 * 3_f64.sqrt()
        }
    };
    (0..len).map(|i| (value(i) * f64::from(input.scale) + f64::from(input.shift)) as f32).collect()
}

/// Golden files keep at most this many elements of a result, picked by [`sampled`].
pub const SAMPLES: usize = 2048;

/// Which elements of `len` a golden file keeps: all, or a scattered subset.
pub fn sampled(len: usize) -> Vec<usize> {
    if len <= SAMPLES {
        return (0..len).collect();
    }
    (0..SAMPLES as u64).map(|j| (j.wrapping_mul(2_654_435_761) % len as u64) as usize).collect()
}

/// Small cases: odd sizes, sizes around vector widths, one of everything.
pub fn small() -> Vec<Case> {
    let s = Shape::new;
    let mut ops: Vec<(Op, Kind)> = Vec::new();
    let mut add = |op: Op| ops.push((op, Kind::Randn));

    for bias in [Bias::None, Bias::One, Bias::Each] {
        for plus in [false, true] {
            add(Op::Linear { x: s(2, 3, 5, 7), out: 4, bias, add: plus });
            add(Op::Conv { x: s(2, 5, 7, 3), out: 4, kernel: 3, conv: Conv::SAME3, bias, add: plus });
        }
    }
    add(Op::Linear { x: s(1, 1, 1, 1), out: 1, bias: Bias::None, add: false });
    add(Op::Linear { x: s(1, 1, 17, 33), out: 65, bias: Bias::One, add: false });
    add(Op::Linear { x: s(3, 4, 4, 64), out: 48, bias: Bias::Each, add: true });
    let conv = |x, out, kernel, conv| Op::Conv { x, out, kernel, conv, bias: Bias::One, add: false };
    let point = Conv { stride: 1, pad: [0; 4], upsample: false };
    let lopsided = Conv { stride: 1, pad: [2, 0, 1, 3], upsample: false };
    add(conv(s(1, 1, 1, 4), 3, 3, Conv::SAME3));
    add(conv(s(2, 8, 8, 16), 24, 3, Conv::SAME3));
    add(conv(s(1, 9, 6, 33), 17, 3, Conv::SAME3));
    add(conv(s(2, 9, 7, 5), 6, 3, Conv::DOWN3));
    add(conv(s(1, 8, 8, 8), 8, 3, Conv::DOWN3));
    add(conv(s(1, 8, 8, 8), 8, 3, Conv::DOWN3_ASYM));
    add(conv(s(2, 7, 9, 4), 5, 3, Conv::DOWN3_ASYM));
    add(conv(s(2, 4, 5, 6), 3, 3, Conv::UP3));
    add(conv(s(1, 1, 1, 3), 2, 3, Conv::UP3));
    add(Op::Conv { x: s(2, 8, 8, 16), out: 16, kernel: 3, conv: Conv::UP3, bias: Bias::Each, add: true });
    add(conv(s(2, 12, 8, 3), 10, 4, Conv::patches(4)));
    add(conv(s(1, 4, 4, 8), 6, 1, point));
    add(conv(s(1, 6, 5, 3), 4, 3, lopsided));

    for silu in [false, true] {
        let norm = |groups| GroupNorm { groups, eps: 1e-5, silu };
        add(Op::GroupNorm { x: s(2, 4, 5, 12), norm: norm(3), mean: 0.0 });
        add(Op::GroupNorm { x: s(1, 1, 1, 8), norm: norm(2), mean: 0.0 });
        add(Op::GroupNorm { x: s(1, 8, 8, 64), norm: norm(32), mean: 0.0 });
        add(Op::GroupNorm { x: s(2, 7, 3, 10), norm: norm(5), mean: 100.0 });
        add(Op::GroupNorm { x: s(1, 40, 41, 24), norm: norm(1), mean: -3.0 });
    }
    add(Op::LayerNorm { x: s(2, 1, 5, 7), mean: 0.0 });
    add(Op::LayerNorm { x: s(1, 1, 77, 64), mean: 0.0 });
    add(Op::LayerNorm { x: s(2, 3, 3, 33), mean: 100.0 });
    add(Op::L2Norm { x: s(3, 1, 1, 8) });
    add(Op::L2Norm { x: s(2, 1, 2, 65) });

    let heads = |heads: usize, d: usize| Attention { heads, scale: 1.0 / (d as f32).sqrt(), causal: false };
    let causal = |a: Attention| Attention { causal: true, ..a };
    add(Op::SelfAttention { y: s(1, 1, 1, 4), attention: heads(1, 4) });
    add(Op::SelfAttention { y: s(2, 3, 5, 12), attention: heads(3, 4) });
    add(Op::SelfAttention { y: s(2, 1, 7, 8), attention: causal(heads(2, 4)) });
    add(Op::SelfAttention { y: s(1, 1, 77, 32), attention: causal(heads(2, 16)) });
    add(Op::SelfAttention { y: s(1, 7, 10, 80), attention: heads(2, 40) });
    add(Op::SelfAttention { y: s(1, 8, 8, 64), attention: heads(1, 64) });
    add(Op::SelfAttention { y: s(1, 13, 11, 16), attention: heads(1, 16) });
    // Scores beyond 88, where exp overflows: the softmax must subtract its maximum.
    add(Op::SelfAttention { y: s(1, 3, 3, 8), attention: Attention { scale: 12.0, ..heads(1, 8) } });
    add(Op::CrossAttention { q: s(3, 2, 4, 8), keys: 5, kv_of: vec![0, 1, 0], attention: heads(2, 4) });
    add(Op::CrossAttention { q: s(2, 8, 8, 80), keys: 77, kv_of: vec![1, 0], attention: heads(2, 40) });
    add(Op::CrossAttention { q: s(1, 1, 3, 6), keys: 1, kv_of: vec![0], attention: heads(3, 2) });

    for f in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
        add(Op::Activate { x: s(2, 3, 4, 5), f, scale: 1.0 });
        add(Op::Activate { x: s(1, 1, 3, 333), f, scale: 5.0 });
    }
    add(Op::Geglu { y: s(2, 3, 4, 5) });
    add(Op::Geglu { y: s(1, 1, 9, 67) });
    add(Op::Axpby { x: s(2, 3, 4, 5), a: 2.0, b: -0.5 });
    add(Op::Scale { x: s(2, 3, 4, 5), a: -1.75 });
    add(Op::AffineClamp { x: s(2, 3, 4, 5), map: AffineClamp { a: 0.5, b: 0.5, lo: 0.0, hi: 1.0 } });
    add(Op::ChannelAffine { x: s(2, 3, 4, 5), shift: true });
    add(Op::ChannelAffine { x: s(2, 3, 4, 3), shift: false });
    add(Op::Concat { x: s(2, 3, 4, 5), c: 2 });
    add(Op::Slice { x: s(2, 3, 2, 7), from: 2, c: 3 });
    add(Op::Slice { x: s(2, 3, 2, 7), from: 0, c: 7 });
    add(Op::Repeat { x: s(2, 3, 2, 3), times: 3 });
    add(Op::Gather { x: s(3, 2, 2, 3), rows: vec![2, 0, 2, 1] });
    add(Op::Stack { x: s(2, 2, 3, 2), n: 1 });
    add(Op::Guide { x: s(4, 2, 3, 2), s: 7.5 });
    add(Op::Embed { x: s(2, 2, 3, 5), token: true });
    add(Op::Embed { x: s(2, 1, 4, 5), token: false });
    add(Op::TakeToken { x: s(3, 1, 6, 4), at: vec![5, 0, 3] });
    for filter in [Filter::Bilinear, Filter::Bicubic] {
        for (x, h, w) in [
            (s(1, 6, 6, 1), 6, 6),
            (s(1, 8, 8, 3), 4, 4),
            (s(2, 5, 7, 2), 9, 4),
            (s(1, 37, 100, 2), 50, 61),
            (s(1, 100, 100, 3), 37, 37),
            (s(1, 64, 64, 3), 224, 224),
            (s(1, 512, 512, 3), 224, 224),
            (s(1, 1, 1, 2), 3, 2),
            (s(1, 9, 9, 1), 1, 1),
        ] {
            add(Op::Resize { x, h, w, filter });
        }
    }
    add(Op::Normals { x: s(3, 2, 5, 7) });
    for (grad, variance) in [(true, 0.25), (false, 0.25), (true, 0.0)] {
        add(Op::Advance { x: s(4, 3, 5, 4), ancestors: vec![2, 0, 0, 3], grad, variance });
    }
    add(Op::SquaredNorms { x: s(3, 2, 5, 7) });

    // Structured inputs find wrong indices (arange) and wrong normalisation (ones).
    let structured = [
        Op::Linear { x: s(2, 2, 3, 5), out: 3, bias: Bias::One, add: false },
        conv(s(1, 5, 4, 2), 3, 3, Conv::SAME3),
        conv(s(1, 5, 4, 2), 3, 3, Conv::DOWN3),
        conv(s(1, 3, 4, 2), 3, 3, Conv::UP3),
        Op::GroupNorm { x: s(1, 3, 3, 6), norm: GroupNorm { groups: 2, eps: 1e-6, silu: true }, mean: 0.0 },
        Op::LayerNorm { x: s(1, 2, 2, 6), mean: 0.0 },
        Op::L2Norm { x: s(3, 1, 1, 5) },
        Op::SelfAttention { y: s(1, 2, 3, 4), attention: heads(2, 2) },
        Op::CrossAttention { q: s(2, 1, 3, 4), keys: 3, kv_of: vec![0, 1], attention: heads(2, 2) },
        Op::Geglu { y: s(1, 2, 3, 4) },
        Op::AffineClamp { x: s(1, 2, 2, 4), map: AffineClamp { a: 1.0, b: 0.0, lo: -0.55, hi: 0.55 } },
        Op::Resize { x: s(1, 7, 5, 2), h: 4, w: 9, filter: Filter::Bilinear },
        Op::Resize { x: s(1, 7, 5, 2), h: 4, w: 9, filter: Filter::Bicubic },
        Op::Activate { x: s(1, 1, 9, 37), f: Activation::Gelu, scale: 12.0 },
        Op::Activate { x: s(1, 1, 9, 37), f: Activation::Silu, scale: 100.0 },
        Op::Activate { x: s(1, 1, 9, 37), f: Activation::QuickGelu, scale: 60.0 },
    ];
    for op in structured {
        for kind in [Kind::Ones, Kind::Arange] {
            ops.push((op.clone(), kind));
        }
    }
    ops.into_iter().map(|(op, kind)| Case { op, kind, large: false }).collect()
}

/// Cases of Stable Diffusion 1.5's sizes, one image, and of the shipped model's: for benches.
pub fn large() -> Vec<Case> {
    let s = Shape::new;
    let conv = |x, out, conv| Op::Conv { x, out, kernel: 3, conv, bias: Bias::One, add: false };
    let heads = |heads: usize, d: usize| Attention { heads, scale: 1.0 / (d as f32).sqrt(), causal: false };
    let norm = GroupNorm { groups: 32, eps: 1e-5, silu: true };
    let ops = vec![
        conv(s(1, 64, 64, 320), 320, Conv::SAME3),
        conv(s(1, 32, 32, 640), 640, Conv::SAME3),
        conv(s(1, 16, 16, 1280), 1280, Conv::SAME3),
        conv(s(1, 128, 128, 256), 256, Conv::SAME3),
        conv(s(1, 64, 64, 320), 320, Conv::DOWN3),
        conv(s(1, 32, 32, 640), 640, Conv::UP3),
        conv(s(32, 8, 8, 64), 64, Conv::SAME3),
        conv(s(16, 64, 64, 16), 16, Conv::SAME3),
        Op::Linear { x: s(1, 64, 64, 320), out: 2560, bias: Bias::One, add: false },
        Op::Linear { x: s(1, 16, 16, 1280), out: 1280, bias: Bias::One, add: true },
        Op::Linear { x: s(32, 4, 4, 128), out: 128, bias: Bias::One, add: true },
        Op::GroupNorm { x: s(1, 64, 64, 320), norm, mean: 0.0 },
        Op::GroupNorm { x: s(1, 256, 256, 256), norm, mean: 0.0 },
        Op::GroupNorm { x: s(32, 8, 8, 64), norm: GroupNorm { groups: 16, ..norm }, mean: 0.0 },
        Op::LayerNorm { x: s(1, 64, 64, 320), mean: 0.0 },
        Op::SelfAttention { y: s(1, 64, 64, 320), attention: heads(8, 40) },
        Op::SelfAttention { y: s(1, 32, 32, 640), attention: heads(8, 80) },
        Op::CrossAttention { q: s(1, 64, 64, 320), keys: 77, kv_of: vec![0], attention: heads(8, 40) },
        Op::Activate { x: s(1, 64, 64, 320), f: Activation::Silu, scale: 1.0 },
        Op::Geglu { y: s(1, 64, 64, 1280) },
        Op::Axpby { x: s(1, 64, 64, 320), a: 1.0, b: 1.0 },
        Op::Concat { x: s(1, 64, 64, 320), c: 320 },
        Op::Resize { x: s(4, 512, 512, 3), h: 224, w: 224, filter: Filter::Bilinear },
        Op::Resize { x: s(16, 64, 64, 3), h: 224, w: 224, filter: Filter::Bicubic },
        Op::Advance { x: s(16, 64, 64, 4), ancestors: (0..16).collect(), grad: true, variance: 0.25 },
        Op::Normals { x: s(16, 64, 64, 4) },
    ];
    ops.into_iter().map(|op| Case { op, kind: Kind::Randn, large: true }).collect()
}
