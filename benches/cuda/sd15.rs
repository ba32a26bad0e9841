//! Operations of one guided step of Stable Diffusion 1.5 for a micro-batch of 16: the UNet on both branches,
//! the decoder, the CLIP-L/14 tower and what lies between. `tiny` keeps kinds and head widths and shrinks
//! everything else.

use das_cuda::backend::{Activation, AffineClamp, Attention, Conv, Epilogue, Filter, GroupNorm};
use das_cuda::tensor::Shape;

use crate::cases::{Bias, Case, Kind, Op};

/// Particles in a micro-batch.
const PARTICLES: usize = 16;

struct Sizes {
    tiny: bool,
}

impl Sizes {
    fn samples(&self, branches: usize) -> usize {
        if self.tiny { branches } else { branches * PARTICLES }
    }
    fn side(&self, side: usize) -> usize {
        if self.tiny { (side / 16).clamp(2, 8) } else { side }
    }
    fn channels(&self, c: usize) -> usize {
        if self.tiny && c >= 64 { (c / 8).next_multiple_of(32) } else { c }
    }
    /// A square image of the UNet, the decoder or the tower.
    fn image(&self, branches: usize, side: usize, c: usize) -> Shape {
        let side = self.side(side);
        Shape::new(self.samples(branches), side, side, self.channels(c))
    }
    /// Tokens of the tower.
    fn tokens(&self, c: usize) -> Shape {
        Shape::new(self.samples(1), 1, if self.tiny { 17 } else { 257 }, self.channels(c))
    }
    /// Heads of width `d`; a tiny one keeps one.
    fn attention(&self, heads: usize, d: usize) -> (Attention, usize) {
        let heads = if self.tiny { 1 } else { heads };
        (Attention { heads, scale: (d as f32).sqrt().recip(), causal: false }, heads * d)
    }
}

/// The list.
pub fn cases(tiny: bool) -> Vec<Case> {
    let s = Sizes { tiny };
    let mut ops = Vec::new();
    convolutions(&s, &mut ops);
    products(&s, &mut ops);
    norms(&s, &mut ops);
    attentions(&s, &mut ops);
    the_rest(&s, &mut ops);
    ops.into_iter().map(|op| Case { op, kind: Kind::Randn, large: true }).collect()
}

fn convolutions(s: &Sizes, ops: &mut Vec<Op>) {
    let mut add = |x: Shape, out: usize, kernel: usize, conv: Conv, add: bool| {
        let out = if out == 3 || out == 4 { out } else { s.channels(out) };
        ops.push(Op::Conv { x, out, kernel, conv, bias: Bias::One, add });
    };
    // UNet: the second convolution of a block adds the shortcut.
    for (side, c, out) in [
        (64, 320, 320),
        (64, 960, 320),
        (32, 640, 640),
        (32, 1920, 640),
        (16, 1280, 1280),
        (16, 2560, 1280),
        (8, 1280, 1280),
        (8, 2560, 1280),
    ] {
        add(s.image(2, side, c), out, 3, Conv::SAME3, c == out);
    }
    add(s.image(2, 64, 4), 320, 3, Conv::SAME3, false);
    add(s.image(2, 64, 320), 4, 3, Conv::SAME3, false);
    add(s.image(2, 64, 320), 320, 3, Conv::DOWN3, false);
    add(s.image(2, 32, 640), 640, 3, Conv::DOWN3, false);
    add(s.image(2, 16, 1280), 1280, 3, Conv::UP3, false);
    add(s.image(2, 32, 640), 640, 3, Conv::UP3, false);
    // Decoder.
    for (side, c, out) in
        [(64, 512, 512), (128, 512, 512), (256, 512, 256), (256, 256, 256), (512, 256, 128), (512, 128, 128)]
    {
        add(s.image(1, side, c), out, 3, Conv::SAME3, c == out);
    }
    add(s.image(1, 64, 4), 512, 3, Conv::SAME3, false);
    add(s.image(1, 512, 128), 3, 3, Conv::SAME3, false);
    add(s.image(1, 64, 512), 512, 3, Conv::UP3, false);
    add(s.image(1, 256, 256), 256, 3, Conv::UP3, false);
    // The tower's patches.
    let side = if s.tiny { 28 } else { 224 };
    add(Shape::new(s.samples(1), side, side, 3), 1024, 14, Conv::patches(14), false);
}

fn products(s: &Sizes, ops: &mut Vec<Op>) {
    let mut add = |x: Shape, out: usize, add: bool| {
        ops.push(Op::Linear { x, out: s.channels(out), bias: Bias::One, add });
    };
    for (side, c) in [(64, 320), (32, 640), (16, 1280), (8, 1280)] {
        add(s.image(2, side, c), 3 * c, false);
        add(s.image(2, side, c), c, true);
        add(s.image(2, side, c), 8 * c, false);
        add(s.image(2, side, 4 * c), c, true);
    }
    let mut then = |x: Shape, out: usize, epilogue: Epilogue| {
        ops.push(Op::LinearEpilogue { x, out: s.channels(out), bias: Bias::One, epilogue });
    };
    for (side, c) in [(64, 320), (32, 640), (16, 1280), (8, 1280)] {
        then(s.image(2, side, c), 8 * c, Epilogue::Geglu);
    }
    then(s.tokens(1024), 4096, Epilogue::Activate(Activation::QuickGelu));
    then(Shape::vector(s.channels(1280)), 1280, Epilogue::Activate(Activation::Silu));
    let mut add = |x: Shape, out: usize, add: bool| {
        ops.push(Op::Linear { x, out: s.channels(out), bias: Bias::One, add });
    };
    // Shortcuts where the channels change.
    for (side, c, out) in [(64, 960, 320), (32, 1920, 640), (16, 2560, 1280)] {
        add(s.image(2, side, c), out, false);
    }
    add(s.image(1, 256, 512), 256, false);
    add(s.image(1, 512, 256), 128, false);
    for (c, out) in [(1024, 3072), (1024, 1024), (1024, 4096), (4096, 1024)] {
        add(s.tokens(c), out, c >= out);
    }
}

fn norms(s: &Sizes, ops: &mut Vec<Op>) {
    let group = |eps, silu| GroupNorm { groups: if s.tiny { 8 } else { 32 }, eps, silu };
    for (side, c) in [(64, 320), (64, 960), (32, 640), (32, 1920), (16, 1280), (16, 2560), (8, 2560)] {
        ops.push(Op::GroupNorm { x: s.image(2, side, c), norm: group(1e-5, true), mean: 0.0 });
    }
    ops.push(Op::GroupNorm { x: s.image(2, 64, 320), norm: group(1e-6, false), mean: 0.0 });
    for (side, c) in [(64, 512), (128, 512), (256, 512), (256, 256), (512, 256), (512, 128)] {
        ops.push(Op::GroupNorm { x: s.image(1, side, c), norm: group(1e-6, true), mean: 0.0 });
    }
    for (side, c) in [(64, 320), (32, 640), (16, 1280)] {
        ops.push(Op::LayerNorm { x: s.image(2, side, c), mean: 0.0 });
    }
    ops.push(Op::LayerNorm { x: s.tokens(1024), mean: 0.0 });
    ops.push(Op::L2Norm { x: Shape::rows(s.samples(1), s.channels(768)) });
}

fn attentions(s: &Sizes, ops: &mut Vec<Op>) {
    let square = |branches: usize, side: usize, c: usize| s.image(branches, side, 4).with_c(c);
    for (side, d) in [(64, 40), (32, 80), (16, 160), (8, 160)] {
        let (attention, c) = s.attention(8, d);
        ops.push(Op::SelfAttention { y: square(2, side, c), attention });
        let kv_of = (0..2).flat_map(|row| vec![row; s.samples(1)]).collect();
        ops.push(Op::CrossAttention { q: square(2, side, c), keys: 77, kv_of, attention });
    }
    let (attention, c) = s.attention(1, 512);
    ops.push(Op::SelfAttention { y: square(1, 64, c), attention });
    let (attention, c) = s.attention(16, 64);
    ops.push(Op::SelfAttention { y: s.tokens(64).with_c(c), attention });
}

fn the_rest(s: &Sizes, ops: &mut Vec<Op>) {
    let latents = |branches| s.image(branches, 64, 4);
    let side = if s.tiny { 32 } else { 512 };
    let pictures = Shape::new(s.samples(1), side, side, 3);
    let seen = if s.tiny { 28 } else { 224 };
    ops.extend([
        Op::Geglu { y: s.image(2, 64, 1280) },
        Op::Geglu { y: s.image(2, 32, 2560) },
        Op::Geglu { y: s.image(2, 16, 5120) },
        Op::Activate { x: s.tokens(4096), f: Activation::QuickGelu, scale: 1.0 },
        Op::Axpby { x: s.image(2, 64, 320), a: 1.0, b: 1.0 },
        Op::Axpby { x: s.image(1, 512, 128), a: 1.0, b: 1.0 },
        Op::Concat { x: s.image(2, 64, 320), c: s.channels(320) },
        Op::Concat { x: s.image(2, 32, 1280), c: s.channels(640) },
        Op::Repeat { x: s.image(1, 64, 320), times: 2 },
        Op::CfgCombine { x: latents(2), s: 5.0 },
        Op::Blend { x: latents(1) },
        Op::Scale { x: latents(1), a: 1.0 / 0.18215 },
        Op::AffineClamp { x: pictures, map: AffineClamp { a: 0.5, b: 0.5, lo: 0.0, hi: 1.0 } },
        Op::SoftClamp { x: latents(1), limit: 3.0, scale: 1.0 },
        Op::Resize { x: pictures, h: seen, w: seen, filter: Filter::Bilinear },
        Op::ChannelAffine { x: Shape::new(s.samples(1), seen, seen, 3), shift: true },
        Op::Embed { x: s.image(1, 16, 1024), token: true },
        Op::TakeToken { x: s.tokens(1024), at: vec![0; s.samples(1)] },
        Op::Gather { x: latents(1), rows: (0..s.samples(1) as u32).rev().collect() },
        Op::Advance {
            x: latents(1),
            ancestors: (0..s.samples(1) as u32).collect(),
            grad: true,
            variance: 0.25,
        },
        Op::Normals { x: latents(1) },
        Op::SquaredNorms { x: latents(1) },
    ]);
}

/// A case in the words of its users.
pub fn label(case: &Case) -> String {
    let s = |x: &Shape| format!("{}x{}x{}x{}", x.n, x.h, x.w, x.c);
    match &case.op {
        Op::Conv { x, out, kernel, conv, add, .. } => {
            let kind = match conv {
                Conv { upsample: true, .. } => " of 2x image",
                Conv { stride: 2, .. } => " stride 2",
                _ => "",
            };
            let add = if *add { " + add" } else { "" };
            format!("conv {kernel}x{kernel}{kind} {} -> {out}{add}", s(x))
        }
        Op::Linear { x, out, add, .. } => {
            format!("linear {} -> {out}{}", s(x), if *add { " + add" } else { "" })
        }
        Op::LinearEpilogue { x, out, epilogue, .. } => format!("linear {} -> {out}, {epilogue:?}", s(x)),
        Op::GroupNorm { x, norm, .. } => {
            format!("group norm{} {}", if norm.silu { " + SiLU" } else { "" }, s(x))
        }
        Op::LayerNorm { x, .. } => format!("layer norm {}", s(x)),
        Op::SelfAttention { y, attention } => {
            format!("self-attention {} d={}", s(y), y.c / attention.heads)
        }
        Op::CrossAttention { q, keys, attention, .. } => {
            format!("cross-attention {} d={} keys={keys}", s(q), q.c / attention.heads)
        }
        op => {
            let inputs = op.inputs(case.kind);
            let shapes: Vec<String> = inputs.iter().take(1).map(|i| s(&i.shape)).collect();
            format!("{} {}", op.name().replace('_', " "), shapes.join(""))
        }
    }
}
