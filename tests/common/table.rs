//! The lines of the table.

use das_cuda::backend::{Activation, AffineClamp, Attention, Conv, Epilogue, Filter, GroupNorm};
use das_cuda::tensor::Shape;

use super::{Bias, Case, Kind, Op};

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
        Op::L2Norm { x: s(16, 1, 1, 768) },
        Op::Axpby { x: s(1, 64, 64, 320), a: 1.0, b: 1.0 },
        Op::Blend { x: s(16, 64, 64, 4) },
        Op::Scale { x: s(16, 64, 64, 4), a: 1.0 / 0.18215 },
        Op::AffineClamp { x: s(1, 512, 512, 3), map: AffineClamp { a: 0.5, b: 0.5, lo: 0.0, hi: 1.0 } },
        Op::ChannelAffine { x: s(1, 224, 224, 3), shift: true },
        Op::Concat { x: s(1, 64, 64, 320), c: 320 },
        Op::Slice { x: s(1, 64, 64, 640), from: 320, c: 320 },
        Op::Repeat { x: s(16, 64, 64, 4), times: 2 },
        Op::Gather { x: s(16, 64, 64, 4), rows: (0..16).rev().collect() },
        Op::Stack { x: s(4, 64, 64, 4), n: 4 },
        Op::CfgCombine { x: s(32, 64, 64, 4), s: 5.0 },
        Op::Embed { x: s(1, 16, 16, 1024), token: true },
        Op::TakeToken { x: s(16, 1, 257, 1024), at: vec![0; 16] },
        Op::Resize { x: s(4, 512, 512, 3), h: 224, w: 224, filter: Filter::Bilinear },
        Op::Resize { x: s(16, 64, 64, 3), h: 224, w: 224, filter: Filter::Bicubic },
        Op::Advance { x: s(16, 64, 64, 4), ancestors: (0..16).collect(), grad: true, variance: 0.25 },
        Op::Normals { x: s(16, 64, 64, 4) },
        Op::SquaredNorms { x: s(16, 64, 64, 4) },
    ];
    ops.into_iter().map(|op| Case { op, kind: Kind::Randn, large: true }).collect()
}
