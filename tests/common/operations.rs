//! The operations as the tests know them: parameters, an entry for each with how it is called, and the small
//! cases. A new operation is a variant of [`Op`], an arm of [`Op::entry`] and lines in [`small`].

use das_cuda::backend::{Activation, AffineClamp, Attention, Conv, Epilogue, Filter, GroupNorm, Particles};
use das_cuda::noise::Purpose;
use das_cuda::tensor::Shape;
use serde_json::json;

use super::Case;
use super::entry::{
    Bias, Entry, LAYER_EPS, advance, attention_parameters, attention_terms, bias_and_add, ids, normed,
    numbers, one, optional, strengths, two,
};
use super::inputs::{Input, Kind, randn, weight};

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
    /// `scale` is the size of the arguments.
    SoftClamp {
        x: Shape,
        limit: f32,
        scale: f32,
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
    /// `x` decides which scores are kept.
    WhereFinite {
        x: Shape,
    },
}

impl Op {
    /// All about the operation, with inputs of `kind`.
    pub fn entry(&self, kind: Kind) -> Entry<'_> {
        let of = |shape: Shape| Input { kind, ..randn(shape) };
        match self {
            Op::Linear { x, out, bias, add } => {
                let mut inputs = vec![of(*x), weight(Shape::rows(*out, x.c))];
                inputs.extend(bias_and_add(*bias, *add, x.with_c(*out)));
                Entry::new("linear", inputs, |b, i| {
                    let (bias, add) = optional(i, *bias, *add);
                    one(b.linear(&i[0], &i[1], bias, add))
                })
                .vjp(2, |b, i, _, dy| Ok(vec![b.linear_vjp(dy, &i[1])?, b.linear_weight_vjp(dy, &i[0])?]))
                .terms(x.c.max(*out).max(x.positions()))
                .torch("linear(*inputs, **p)", json!({"bias": *bias != Bias::None, "add": add}))
            }
            // Goldens of linear and of what follows exist.
            Op::LinearEpilogue { x, out, bias, epilogue } => {
                let mut inputs = vec![of(*x), weight(Shape::rows(*out, x.c))];
                inputs.extend(bias_and_add(*bias, false, x.with_c(*out)));
                Entry::new("linear_epilogue", inputs, |b, i| {
                    two(b.linear_epilogue(&i[0], &i[1], optional(i, *bias, false).0, *epilogue, true))
                })
                .vjp(1, |b, i, results, dy| {
                    let dy = match epilogue {
                        Epilogue::Activate(f) => b.activate_vjp(&results[1], dy, *f)?,
                        Epilogue::Geglu => b.geglu_vjp(&results[1], dy)?,
                    };
                    one(b.linear_vjp(&dy, &i[1]))
                })
                .terms(x.c.max(*out))
                .curved()
            }
            Op::Conv { x, out, kernel, conv, bias, add } => {
                let w = Shape::new(*out, *kernel, *kernel, x.c);
                let mut inputs = vec![of(*x), weight(w)];
                inputs.extend(bias_and_add(*bias, *add, conv.output(*x, w)));
                Entry::new("conv", inputs, |b, i| {
                    let (bias, add) = optional(i, *bias, *add);
                    one(b.conv(&i[0], &i[1], bias, add, *conv))
                })
                .vjp(1, |b, i, _, dy| one(b.conv_vjp(dy, &i[1], i[0].shape(), *conv)))
                .terms(kernel * kernel * x.c.max(*out))
                .torch(
                    "conv(*inputs, **p)",
                    json!({
                        "stride": conv.stride, "pad": conv.pad, "upsample": conv.upsample,
                        "bias": *bias != Bias::None, "add": add,
                    }),
                )
            }
            Op::GroupNorm { x, norm, mean } => Entry::new("group_norm", normed(of(*x), *mean), |b, i| {
                two(b.group_norm(&i[0], &i[1], &i[2], *norm))
            })
            .vjp(1, |b, i, results, dy| one(b.group_norm_vjp(&i[0], &i[1], &i[2], &results[1], dy, *norm)))
            .curved()
            .torch(
                "group_norm(*inputs, **p)",
                json!({"groups": norm.groups, "eps": norm.eps, "silu": norm.silu}),
            ),
            Op::LayerNorm { x, mean } => Entry::new("layer_norm", normed(of(*x), *mean), |b, i| {
                two(b.layer_norm(&i[0], &i[1], &i[2], LAYER_EPS))
            })
            .vjp(1, |b, i, results, dy| one(b.layer_norm_vjp(&i[0], &i[1], &results[1], dy)))
            .curved()
            .torch(
                "F.layer_norm(x, x.shape[-1:], y.flatten(), z.flatten(), p['eps'])",
                json!({ "eps": LAYER_EPS }),
            ),
            Op::L2Norm { x } => Entry::new("l2_norm", vec![of(*x)], |b, i| one(b.l2_norm(&i[0])))
                .vjp(1, |b, i, _, dy| one(b.l2_norm_vjp(&i[0], dy)))
                .curved()
                .torch("F.normalize(x, dim=-1)", json!({})),
            Op::SelfAttention { y, attention } => {
                Entry::new("self_attention", vec![of(y.with_c(3 * y.c))], |b, i| {
                    two(b.self_attention(&i[0], *attention))
                })
                .vjp(1, |b, i, results, dy| {
                    one(b.self_attention_vjp(&i[0], &results[0], &results[1], dy, *attention))
                })
                .terms(attention_terms(attention, y.tokens(), y.c))
                .curved()
                .torch("self_attention(x, **p)", attention_parameters(attention))
            }
            Op::CrossAttention { q, keys, kv_of, attention } => {
                let rows = kv_of.iter().max().map_or(0, |&m| m as usize + 1);
                let inputs = vec![of(*q), randn(Shape::new(rows, 1, *keys, 2 * q.c))];
                let mut parameters = attention_parameters(attention);
                parameters["kv_of"] = json!(kv_of);
                Entry::new("cross_attention", inputs, |b, i| {
                    one(b.cross_attention(&i[0], &i[1], kv_of, *attention))
                })
                .vjp(1, |b, i, _, dy| one(b.cross_attention_vjp(&i[0], &i[1], kv_of, dy, *attention)))
                .terms(attention_terms(attention, *keys, q.c))
                .curved()
                .torch("cross_attention(x, y, **p)", parameters)
            }
            Op::Activate { x, f, scale } => {
                Entry::new("activate", vec![Input { scale: *scale, ..of(*x) }], |b, i| {
                    one(b.activate(&i[0], *f))
                })
                .vjp(1, |b, i, _, dy| one(b.activate_vjp(&i[0], dy, *f)))
                .curved()
                .torch("activate(x, **p)", json!({ "f": format!("{f:?}") }))
            }
            Op::Geglu { y } => Entry::new("geglu", vec![of(y.with_c(2 * y.c))], |b, i| one(b.geglu(&i[0])))
                .vjp(1, |b, i, _, dy| one(b.geglu_vjp(&i[0], dy)))
                .curved()
                .torch("geglu(x)", json!({})),
            Op::Axpby { x, a, b: factor } => {
                Entry::new("axpby", vec![of(*x), of(*x)], |b, i| one(b.axpby(*a, &i[0], *factor, &i[1])))
                    .vjp(2, |b, _, _, dy| Ok(vec![b.scale(*a, dy)?, b.scale(*factor, dy)?]))
                    .torch("p['a'] * x + p['b'] * y", json!({"a": a, "b": factor}))
            }
            // Its golden is that of axpby.
            Op::Blend { x } => Entry::new("blend", vec![of(*x), of(*x), randn(Shape::vector(2))], |b, i| {
                one(b.blend(&i[2], &i[0], &i[1]))
            })
            .vjp(2, |b, i, _, dy| Ok(vec![b.blend_vjp(&i[2], 0, dy)?, b.blend_vjp(&i[2], 1, dy)?])),
            Op::Scale { x, a } => Entry::new("scale", vec![of(*x)], |b, i| one(b.scale(*a, &i[0])))
                .vjp(1, |b, _, _, dy| one(b.scale(*a, dy)))
                .torch("p['a'] * x", json!({ "a": a })),
            Op::AffineClamp { x, map } => {
                Entry::new("affine_clamp", vec![of(*x)], |b, i| one(b.affine_clamp(&i[0], *map)))
                    .vjp(1, |b, i, _, dy| one(b.affine_clamp_vjp(&i[0], dy, *map)))
                    .curved()
                    .torch(
                        "(p['a'] * x + p['b']).clamp(p['lo'], p['hi'])",
                        json!({"a": map.a, "b": map.b, "lo": map.lo, "hi": map.hi}),
                    )
            }
            Op::SoftClamp { x, limit, scale } => {
                Entry::new("soft_clamp", vec![Input { scale: *scale, ..of(*x) }], |b, i| {
                    one(b.soft_clamp(&i[0], *limit))
                })
                .vjp(1, |b, i, _, dy| one(b.soft_clamp_vjp(&i[0], dy, *limit)))
                .curved()
                .torch("p['limit'] * torch.tanh(x / p['limit'])", json!({ "limit": limit }))
            }
            Op::ChannelAffine { x, shift } => {
                let c = Shape::vector(x.c);
                let mut inputs = vec![of(*x), randn(c)];
                inputs.extend(shift.then(|| randn(c)));
                Entry::new("channel_affine", inputs, |b, i| one(b.channel_affine(&i[0], &i[1], i.get(2))))
                    .vjp(1, |b, i, _, dy| one(b.channel_affine(dy, &i[1], None)))
                    .torch(if *shift { "x * y + z" } else { "x * y" }, json!({}))
            }
            Op::Concat { x, c } => {
                Entry::new("concat", vec![of(*x), of(x.with_c(*c))], |b, i| one(b.concat(&i[0], &i[1])))
                    .vjp(2, |b, _, _, dy| Ok(vec![b.slice(dy, 0, x.c)?, b.slice(dy, x.c, *c)?]))
                    .torch("torch.cat([x, y], -1)", json!({}))
            }
            Op::Slice { x, from, c } => {
                Entry::new("slice", vec![of(*x)], |b, i| one(b.slice(&i[0], *from, *c)))
                    .vjp(1, |b, _, _, dy| one(b.slice_vjp(dy, *from, x.c)))
                    .torch("x[..., p['from'] : p['from'] + p['c']]", json!({"from": from, "c": c}))
            }
            Op::Repeat { x, times } => {
                Entry::new("repeat", vec![of(*x)], |b, i| one(b.repeat(&i[0], *times)))
                    .vjp(1, |b, _, _, dy| one(b.repeat_vjp(dy, *times)))
                    .torch("x.repeat(p['times'], 1, 1, 1)", json!({ "times": times }))
            }
            Op::Gather { x, rows } => Entry::new("gather", vec![of(*x)], |b, i| one(b.gather(&i[0], rows)))
                .torch("x[p['rows']]", json!({ "rows": rows })),
            Op::Stack { x, n } => {
                Entry::new("stack", vec![of(*x), of(x.with_n(*n))], |b, i| one(b.stack(&[&i[0], &i[1]])))
                    .torch("torch.cat([x, y])", json!({}))
            }
            Op::CfgCombine { x, s } => {
                Entry::new("cfg_combine", vec![of(*x)], |b, i| one(b.cfg_combine(&i[0], *s)))
                    .vjp(1, |b, _, _, dy| one(b.cfg_combine_vjp(dy, *s)))
                    .torch("cfg_combine(x, **p)", json!({ "s": s }))
            }
            Op::Embed { x, token } => {
                let tokens = x.tokens() + usize::from(*token);
                let mut inputs = vec![of(*x), randn(Shape::new(1, 1, tokens, x.c))];
                inputs.extend(token.then(|| randn(Shape::vector(x.c))));
                Entry::new("embed", inputs, |b, i| one(b.embed(&i[0], i.get(2), &i[1])))
                    .vjp(1, |b, _, _, dy| one(b.embed_vjp(dy, *x)))
                    .torch("embed(*inputs)", json!({}))
            }
            Op::TakeToken { x, at } => {
                Entry::new("take_token", vec![of(*x)], |b, i| one(b.take_token(&i[0], at)))
                    .vjp(1, |b, _, _, dy| one(b.take_token_vjp(dy, at, *x)))
                    .torch(
                        "tokens(x)[torch.arange(len(x)), p['at']].reshape(len(x), 1, 1, -1)",
                        json!({ "at": at }),
                    )
            }
            Op::Resize { x, h, w, filter } => {
                let parameters = json!({"h": h, "w": w, "filter": format!("{filter:?}").to_lowercase()});
                Entry::new("resize", vec![of(*x)], |b, i| one(b.resize(&i[0], *h, *w, *filter)))
                    .vjp(1, |b, _, _, dy| one(b.resize_vjp(dy, *x, *filter)))
                    .torch("resize(x, **p)", parameters)
            }
            Op::Normals { x } => Entry::new("normals", Vec::new(), |b, _| {
                one(b.normals(*x, 5, 3, Purpose::Initial, &ids(x.n)))
            }),
            Op::Advance { x, ancestors, grad, variance } => {
                let mut inputs = vec![of(*x), of(*x)];
                inputs.extend(grad.then(|| of(*x)));
                Entry::new("advance", inputs, |b, i| {
                    let particles = Particles { x0: &i[0], eps: &i[1], grad: i.get(2) };
                    let ids = ids(x.n);
                    let advance = advance(*variance, &ids);
                    let (y, ratio) = b.advance(particles, ancestors, &strengths(x.n), advance)?;
                    Ok(vec![y, numbers(b, &ratio)?])
                })
            }
            Op::SquaredNorms { x } => {
                Entry::new("squared_norms", vec![of(*x)], |b, i| one(numbers(b, &b.squared_norms(&i[0])?)))
            }
            Op::WhereFinite { x } => {
                Entry::new("where_finite", vec![of(Shape::rows(x.n, 1)), randn(*x)], |b, i| {
                    one(b.where_finite(&i[0], &i[1]))
                })
            }
        }
    }

    /// See [`Entry::inputs`].
    pub fn inputs(&self, kind: Kind) -> Vec<Input> {
        self.entry(kind).inputs
    }

    /// See [`Entry::differentiable`].
    pub fn differentiable(&self) -> usize {
        self.entry(Kind::Randn).differentiable
    }

    /// See [`Entry::linear`].
    pub fn is_linear(&self) -> bool {
        self.entry(Kind::Randn).linear
    }

    /// See [`Entry::terms`].
    pub fn terms(&self) -> usize {
        self.entry(Kind::Randn).terms
    }

    /// See [`Entry::name`].
    pub fn name(&self) -> &'static str {
        self.entry(Kind::Randn).name
    }
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
    add(Op::Linear { x: s(1, 1, 1030, 3), out: 5, bias: Bias::None, add: false });
    add(Op::Linear { x: s(1, 1, 17, 33), out: 65, bias: Bias::One, add: false });
    add(Op::Linear { x: s(3, 4, 4, 64), out: 48, bias: Bias::Each, add: true });
    let then = |x, out, bias, epilogue| Op::LinearEpilogue { x, out, bias, epilogue };
    add(then(s(2, 3, 5, 7), 6, Bias::One, Epilogue::Geglu));
    add(then(s(1, 4, 4, 24), 32, Bias::None, Epilogue::Geglu));
    add(then(s(1, 1, 1, 16), 24, Bias::One, Epilogue::Activate(Activation::Silu)));
    add(then(s(1, 1, 9, 33), 20, Bias::One, Epilogue::Activate(Activation::QuickGelu)));
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
    add(Op::Blend { x: s(2, 3, 4, 5) });
    add(Op::Scale { x: s(2, 3, 4, 5), a: -1.75 });
    add(Op::AffineClamp { x: s(2, 3, 4, 5), map: AffineClamp { a: 0.5, b: 0.5, lo: 0.0, hi: 1.0 } });
    add(Op::SoftClamp { x: s(2, 3, 4, 5), limit: 3.0, scale: 1.0 });
    add(Op::SoftClamp { x: s(1, 1, 3, 333), limit: 3.0, scale: 5.0 });
    add(Op::ChannelAffine { x: s(2, 3, 4, 5), shift: true });
    add(Op::ChannelAffine { x: s(2, 3, 4, 3), shift: false });
    add(Op::Concat { x: s(2, 3, 4, 5), c: 2 });
    add(Op::Slice { x: s(2, 3, 2, 7), from: 2, c: 3 });
    add(Op::Slice { x: s(2, 3, 2, 7), from: 0, c: 7 });
    add(Op::Repeat { x: s(2, 3, 2, 3), times: 3 });
    add(Op::Gather { x: s(3, 2, 2, 3), rows: vec![2, 0, 2, 1] });
    add(Op::Stack { x: s(2, 2, 3, 2), n: 1 });
    add(Op::CfgCombine { x: s(4, 2, 3, 2), s: 7.5 });
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
    add(Op::WhereFinite { x: s(3, 2, 5, 7) });

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
        Op::SoftClamp { x: s(1, 1, 9, 37), limit: 3.0, scale: 2.0 },
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
