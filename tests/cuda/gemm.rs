//! Linear maps: every tile, tails on every side, split sums, channels that are no packets.

use das_cuda::backend::{Activation, Backend, Epilogue};
use das_cuda::tensor::Shape;

use crate::cases::{Bias, Case, Kind, Op};
use crate::parity;

fn linear(x: Shape, out: usize, bias: Bias, add: bool) -> Case {
    Case { op: Op::Linear { x, out, bias, add }, kind: Kind::Randn, large: false }
}

/// Measured, as shares of the tolerance: f32 0.08, f16 0.48, bf16 0.43.
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

/// Tails on all sides of every tile, and parts of the sum of unequal lengths. Measured: 0.43 of the
/// tolerance.
fn every_tile_makes_every_linear_map() {
    let s = Shape::new;
    parity::check_tiles(&[
        linear(s(3, 1, 130, 200), 168, Bias::Each, true),
        linear(s(2, 1, 35, 104), 6, Bias::One, true),
        linear(s(2, 1, 35, 6), 104, Bias::One, true),
        linear(s(1, 1, 3, 8), 8, Bias::None, false),
    ]);
}

fn then(x: Shape, out: usize, bias: Bias, epilogue: Epilogue) -> Case {
    Case { op: Op::LinearEpilogue { x, out, bias, epilogue }, kind: Kind::Randn, large: false }
}

/// What follows a product in its own pass: tails, columns that are no packets after GEGLU or before it, no
/// bias, a bias for each sample, sums in parts.
fn epilogues() -> Vec<Case> {
    let s = Shape::new;
    let activations = [Activation::Silu, Activation::Gelu, Activation::QuickGelu].map(Epilogue::Activate);
    let mut cases = vec![
        then(s(2, 1, 67, 40), 336, Bias::One, Epilogue::Geglu),
        then(s(3, 1, 5, 72), 48, Bias::Each, Epilogue::Geglu),
        then(s(1, 1, 9, 640), 16, Bias::None, Epilogue::Geglu),
        then(s(1, 3, 3, 16), 8, Bias::One, Epilogue::Geglu),
        then(s(1, 3, 3, 16), 20, Bias::One, Epilogue::Geglu),
    ];
    for epilogue in activations {
        cases.push(then(s(2, 1, 67, 40), 168, Bias::One, epilogue));
        cases.push(then(s(1, 1, 1, 640), 40, Bias::Each, epilogue));
        cases.push(then(s(1, 1, 7, 24), 12, Bias::One, epilogue));
    }
    cases
}

/// Measured, as shares of the tolerance: f32 0.13, f16 0.44, bf16 0.44.
fn endings_agree_with_the_cpu() {
    parity::check(&epilogues());
}

/// Measured: the same share for every tile, 0.44.
fn every_tile_makes_every_ending() {
    let mut cases = epilogues();
    cases.truncate(7);
    parity::check_tiles(&cases);
}

/// What is differentiated later and what is not has the same bits, and only what is asked for is kept.
fn an_ending_does_not_depend_on_what_is_kept() {
    for elem in crate::device::elems() {
        let device = crate::device::open(elem);
        for case in epilogues() {
            let Op::LinearEpilogue { bias, epilogue, .. } = case.op else { unreachable!("epilogues") };
            let inputs = case.upload(&device, &case.host_inputs()).unwrap();
            let b = (bias != Bias::None).then(|| &inputs[2]);
            let [kept, plain] = [true, false]
                .map(|keep| device.linear_epilogue(&inputs[0], &inputs[1], b, epilogue, keep).unwrap());
            assert!(kept.1.is_some() && plain.1.is_none());
            let bits = |y| device.download(y).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert!(bits(&kept.0) == bits(&plain.0), "{elem:?} {}", case.name());
        }
    }
}

crate::tests![
    linear_maps_of_many_sizes_agree_with_the_cpu,
    every_tile_makes_every_linear_map,
    endings_agree_with_the_cpu,
    every_tile_makes_every_ending,
    an_ending_does_not_depend_on_what_is_kept,
];
