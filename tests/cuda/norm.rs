//! Normalisations: every layout of the group norms, every way of reading a row.

use das_cuda::backend::{Backend, GroupNorm};
use das_cuda::cpu::Cpu;
use das_cuda::cuda::Elem;
use das_cuda::tensor::{HostSlice, Shape};

use crate::cases::{Case, Kind, Op};
use crate::device;
use crate::parity;

fn case(op: Op) -> Case {
    Case { op, kind: Kind::Randn, large: false }
}

fn group(x: [usize; 4], groups: usize, silu: bool, mean: f32) -> Case {
    let [n, h, w, c] = x;
    case(Op::GroupNorm { x: Shape::new(n, h, w, c), norm: GroupNorm { groups, eps: 1e-5, silu }, mean })
}

/// Blocks that hold whole groups of a sample.
fn whole() -> Vec<Case> {
    vec![
        // Groups of 4, 2 and 10 channels begin within an access; 16 and 40 do not.
        group([2, 8, 8, 64], 16, true, 0.0),
        group([3, 4, 4, 64], 32, false, 0.0),
        group([1, 8, 8, 320], 32, true, 0.0),
        group([2, 7, 5, 320], 32, false, 0.5),
        group([1, 8, 8, 512], 32, true, 0.0),
        group([1, 8, 8, 1280], 32, true, 0.0),
        // Many samples: blocks take more groups each.
        group([48, 4, 4, 64], 16, true, 0.0),
        group([40, 2, 2, 320], 32, true, 0.0),
        // One pixel; one channel; one group; one of each.
        group([4, 1, 1, 32], 8, true, 0.0),
        group([2, 9, 9, 16], 16, true, 0.0),
        group([2, 3, 5, 24], 1, false, 0.0),
        // 257 rows, and means of many deviations.
        group([1, 1, 257, 64], 8, true, 0.0),
        group([2, 16, 16, 64], 8, true, 30.0),
        // Rows that are no whole accesses.
        group([2, 9, 9, 7], 7, true, 0.0),
        group([3, 5, 5, 3], 1, true, 0.0),
        group([2, 3, 3, 1], 1, false, 0.0),
        group([2, 6, 7, 10], 5, true, 100.0),
    ]
}

/// Several blocks for the rows of a sample.
fn streamed() -> Vec<Case> {
    vec![
        group([2, 64, 64, 40], 4, true, 0.0),
        group([2, 64, 63, 80], 4, false, 0.0),
        group([1, 64, 32, 320], 32, true, 0.0),
        group([1, 128, 64, 128], 32, true, 0.0),
        group([1, 61, 67, 64], 2, true, 30.0),
        group([3, 50, 50, 24], 1, false, 0.0),
        // Rows of more accesses than a block has threads; groups that are.
        group([1, 12, 12, 3328], 32, true, 0.0),
        group([1, 5, 5, 4096], 1, true, 0.0),
        // Single elements.
        group([1, 90, 71, 5], 5, true, 0.0),
        group([2, 70, 70, 3], 1, true, 100.0),
    ]
}

fn group_norms_held_by_a_block_agree_with_the_cpu() {
    parity::check(&whole());
}

fn group_norms_of_many_blocks_agree_with_the_cpu() {
    parity::check(&streamed());
}

fn layer_norms_agree_with_the_cpu() {
    let layer = |n, w, c, mean| case(Op::LayerNorm { x: Shape::new(n, 1, w, c), mean });
    let mut cases = vec![layer(2, 5, 320, 100.0), layer(1, 7, 64, 30.0), layer(3, 1, 24, 0.0)];
    // Up to 1280 channels a warp holds a row; beyond, and where channels are no whole accesses, it does not.
    cases.extend([8, 16, 56, 320, 640, 768, 1024, 1280, 1288, 2048].map(|c| layer(1, 9, c, 0.0)));
    cases.extend([1, 3, 5, 7, 33, 333].map(|c| layer(1, 257, c, 0.0)));
    cases.push(layer(1, 257, 32, 0.0));
    parity::check(&cases);
}

fn lengths_agree_with_the_cpu() {
    let row = |n, c| case(Op::L2Norm { x: Shape::rows(n, c) });
    parity::check(&[row(257, 8), row(3, 768), row(2, 2), row(5, 7), row(1, 1025)]);
}

/// Zero rows stay zero, and their gradient is that of a division by the bound.
fn a_row_of_zeros_has_a_finite_gradient() {
    let device = device::open(Elem::F32);
    let shape = Shape::rows(1, 8);
    let x = device.zeros(shape).unwrap();
    let dy: Vec<f32> = (0..8).map(|i| i as f32 - 3.0).collect();
    let dy_tensor = device.upload(shape, HostSlice::F32(&dy)).unwrap();
    assert_eq!(device.download(&device.l2_norm(&x).unwrap()).unwrap(), [0.0; 8]);
    let dx = device.download(&device.l2_norm_vjp(&x, &dy_tensor).unwrap()).unwrap();
    assert_eq!(dx, dy.iter().map(|d| d * 1e12).collect::<Vec<_>>());
}

/// Statistics are f32 in every type and mean the same on every device: mean, what its rounding lost, 1/std. A
/// result of 16 bits rounds x first, so it is compared on numbers that it holds.
fn saved_statistics_are_those_of_the_cpu() {
    let mut cases = vec![whole().swap_remove(2), whole().swap_remove(12), streamed().swap_remove(0)];
    cases.push(streamed().swap_remove(9));
    cases.push(case(Op::LayerNorm { x: Shape::new(2, 1, 9, 320), mean: 30.0 }));
    cases.push(case(Op::LayerNorm { x: Shape::new(2, 1, 9, 33), mean: 100.0 }));
    for elem in device::elems() {
        let device = device::open(elem);
        for case in &cases {
            let host: Vec<Vec<f32>> = case.host_inputs();
            let host: Vec<Vec<f32>> = host.into_iter().map(|x| parity::rounded(x, elem)).collect();
            let saved = |backend: &dyn Backend| {
                let results = case.forward(backend, &case.upload(backend, &host).unwrap()).unwrap();
                (results[1].shape(), backend.download(&results[1]).unwrap())
            };
            let ((shape, truth), (found_shape, found)) = (saved(&Cpu::new()), saved(&device));
            assert_eq!(found_shape, shape, "{}", case.name());
            for (truth, found) in truth.chunks_exact(3).zip(found.chunks_exact(3)) {
                let mean = |s: &[f32]| f64::from(s[0]) + f64::from(s[1]);
                // In standard deviations. Measured 2e-7, 2e-7: sums of f32.
                let shift = (mean(truth) - mean(found)).abs() * f64::from(truth[2]);
                let stretch = f64::from(found[2] / truth[2] - 1.0).abs();
                assert!(shift < 1e-6 && stretch < 1e-6, "{elem:?} {}: {truth:?} {found:?}", case.name());
            }
        }
    }
}

/// Threads and blocks in other orders: the same bits.
fn the_order_of_threads_changes_no_bit() {
    device::stand_in_only("the order of threads on a GPU is its own");
    let mut cases = vec![group([2, 8, 8, 64], 16, true, 0.0), group([1, 40, 41, 24], 1, true, -3.0)];
    cases.push(group([1, 33, 31, 5], 5, true, 0.0));
    cases.push(case(Op::LayerNorm { x: Shape::new(1, 1, 9, 320), mean: 0.0 }));
    parity::check_orders(&cases);
}

crate::tests![
    group_norms_held_by_a_block_agree_with_the_cpu,
    group_norms_of_many_blocks_agree_with_the_cpu,
    layer_norms_agree_with_the_cpu,
    lengths_agree_with_the_cpu,
    a_row_of_zeros_has_a_finite_gradient,
    saved_statistics_are_those_of_the_cpu,
    the_order_of_threads_changes_no_bit,
];
