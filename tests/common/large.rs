//! Cases of the sizes of models, for benches.

use das_cuda::backend::{Activation, AffineClamp, Attention, Conv, Filter, GroupNorm};
use das_cuda::tensor::Shape;

use super::{Bias, Case, Kind, Op};

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
        Op::SoftClamp { x: s(1, 64, 64, 4), limit: 3.0, scale: 1.0 },
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
