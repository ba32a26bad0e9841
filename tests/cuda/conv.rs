//! Convolutions: every class of every geometry, every tile, few channels at either side, patches.

use das_cuda::backend::Conv;
use das_cuda::tensor::Shape;

use crate::cases::{Bias, Case, Kind, Op};
use crate::parity;

fn conv(x: Shape, out: usize, kernel: usize, conv: Conv) -> Case {
    Case {
        op: Op::Conv { x, out, kernel, conv, bias: Bias::One, add: false },
        kind: Kind::Randn,
        large: false,
    }
}

fn residual(x: Shape, out: usize, kernel: usize, conv: Conv) -> Case {
    Case {
        op: Op::Conv { x, out, kernel, conv, bias: Bias::Each, add: true },
        kind: Kind::Randn,
        large: false,
    }
}

const fn strided(stride: usize, pad: [usize; 4]) -> Conv {
    Conv { stride, pad, upsample: false }
}

/// Every geometry with whole packets of channels.
fn geometries() -> Vec<Case> {
    let s = Shape::new;
    vec![
        residual(s(3, 9, 7, 40), 72, 3, Conv::SAME3),
        conv(s(1, 1, 1, 8), 8, 3, Conv::SAME3),
        residual(s(2, 9, 7, 40), 24, 3, Conv::DOWN3),
        conv(s(2, 8, 6, 24), 40, 3, Conv::DOWN3_ASYM),
        conv(s(1, 7, 9, 16), 16, 3, Conv::DOWN3_ASYM),
        residual(s(2, 5, 7, 40), 24, 3, Conv::UP3),
        conv(s(1, 1, 1, 8), 8, 3, Conv::UP3),
        conv(s(1, 4, 3, 8), 16, 5, Conv { stride: 1, pad: [2, 1, 0, 3], upsample: true }),
        conv(s(1, 5, 4, 8), 16, 2, Conv { stride: 1, pad: [0, 1, 1, 0], upsample: true }),
        conv(s(1, 6, 5, 8), 8, 3, strided(1, [2, 0, 1, 3])),
        conv(s(1, 9, 8, 8), 8, 1, strided(2, [0; 4])),
        conv(s(2, 10, 11, 16), 8, 5, strided(3, [2, 1, 0, 1])),
        conv(s(1, 11, 9, 8), 16, 4, Conv::patches(4)),
        // More classes than a launch holds, and more taps than a mask does.
        conv(s(1, 11, 9, 8), 16, 5, Conv::patches(5)),
        conv(s(1, 20, 18, 8), 8, 17, strided(1, [1; 4])),
    ]
}

/// Few channels come, go, or both.
fn narrow() -> Vec<Case> {
    let s = Shape::new;
    let mut cases = Vec::new();
    for (c, out) in [(4, 40), (40, 4), (3, 16), (16, 3), (3, 5), (20, 40), (40, 20)] {
        cases.extend([
            residual(s(2, 7, 6, c), out, 3, Conv::SAME3),
            conv(s(1, 7, 6, c), out, 3, Conv::DOWN3),
            conv(s(1, 4, 5, c), out, 3, Conv::UP3),
        ]);
    }
    cases.extend([
        conv(s(2, 11, 9, 3), 24, 4, Conv::patches(4)),
        conv(s(1, 28, 28, 3), 40, 14, Conv::patches(14)),
        conv(s(1, 32, 32, 3), 16, 16, Conv::patches(16)),
        conv(s(1, 9, 8, 3), 8, 3, strided(2, [0, 1, 1, 0])),
        residual(s(2, 6, 5, 8), 3, 3, strided(1, [2, 0, 1, 3])),
        conv(s(2, 6, 5, 4), 8, 3, strided(1, [2, 0, 1, 3])),
    ]);
    cases
}

/// Measured, as shares of the tolerance: f32 0.19, f16 0.52, bf16 0.52.
fn convolutions_of_every_geometry_agree_with_the_cpu() {
    parity::check(&geometries());
}

/// Measured, as shares of the tolerance: f32 0.20, f16 0.47, bf16 0.45.
fn convolutions_of_few_channels_agree_with_the_cpu() {
    parity::check(&narrow());
}

/// Measured: the same share of the tolerance, 0.52, for every tile.
fn every_tile_makes_every_convolution() {
    // Not those that tensor cores leave to others.
    let mut cases = geometries();
    cases.truncate(cases.len() - 2);
    cases.push(conv(Shape::new(2, 13, 11, 40), 168, 3, Conv::SAME3));
    cases.extend(narrow().into_iter().take(6));
    parity::check_tiles(&cases);
}

crate::tests![
    convolutions_of_every_geometry_agree_with_the_cpu,
    convolutions_of_few_channels_agree_with_the_cpu,
    every_tile_makes_every_convolution,
];
