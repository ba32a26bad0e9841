//! Linear maps: every tile, tails on every side, split sums, channels that are no packets.

use das_cuda::tensor::Shape;

use crate::cases::{Bias, Case, Kind, Op};
use crate::parity;

fn linear(x: Shape, out: usize, bias: Bias, add: bool) -> Case {
    Case { op: Op::Linear { x, out, bias, add }, kind: Kind::Randn, large: false }
}

/// Measured, as shares of the tolerance: f32 0.08, f16 0.48, bf16 0.43.
#[test]
fn linear_maps_of_many_sizes_agree_with_the_cpu() {
    let s = Shape::new;
    parity::check(&[
        linear(s(1, 1, 1, 8), 8, Bias::One, true),
        linear(s(3, 5, 10, 72), 40, Bias::Each, true),
        linear(s(1, 1, 300, 200), 328, Bias::One, false),
        linear(s(2, 1, 77, 24), 5, Bias::Each, true),
        linear(s(2, 1, 9, 5), 24, Bias::One, true),
        linear(s(5, 1, 1, 640), 96, Bias::One, false),
    ]);
}

/// Tails on all sides of every tile, and parts of the sum of unequal lengths. Measured: 0.43 of the tolerance.
#[test]
fn every_tile_makes_every_linear_map() {
    let s = Shape::new;
    parity::check_tiles(&[
        linear(s(3, 1, 130, 200), 168, Bias::Each, true),
        linear(s(2, 1, 35, 104), 6, Bias::One, true),
        linear(s(2, 1, 35, 6), 104, Bias::One, true),
        linear(s(1, 1, 3, 8), 8, Bias::None, false),
    ]);
}
