//! Pointwise maps: tails, odd channels, long rows, large arguments, numbers that are none.

use das_cuda::backend::{Activation, AffineClamp, Backend};
use das_cuda::cuda::Elem;
use das_cuda::tensor::{HostSlice, Shape};

use crate::cases::{Case, Kind, Op};
use crate::device;
use crate::parity;

fn case(op: Op) -> Case {
    Case { op, kind: Kind::Randn, large: false }
}

/// Lengths of less than a block, of several, and (where channels are odd) with a last partial access.
fn shapes() -> Vec<Shape> {
    let s = Shape::new;
    vec![s(1, 1, 1, 1), s(1, 1, 1, 8), s(3, 5, 7, 16), s(2, 61, 67, 3), s(2, 33, 9, 40), s(1, 1, 257, 5)]
}

const ALL: [Activation; 3] = [Activation::Silu, Activation::Gelu, Activation::QuickGelu];

fn maps_agree_with_the_cpu() {
    let clamp = AffineClamp { a: 0.5, b: 0.5, lo: 0.0, hi: 1.0 };
    let mut cases = Vec::new();
    for x in shapes() {
        cases.extend(ALL.map(|f| case(Op::Activate { x, f, scale: 3.0 })));
        cases.push(case(Op::Axpby { x, a: 0.75, b: -1.5 }));
        cases.push(case(Op::Blend { x }));
        cases.push(case(Op::Scale { x, a: -1.75 }));
        cases.push(case(Op::AffineClamp { x, map: clamp }));
        cases.push(case(Op::SoftClamp { x, limit: 3.0, scale: 3.0 }));
        cases.push(case(Op::CfgCombine { x: x.with_n(2 * x.n), s: 7.5 }));
        cases.push(case(Op::ChannelAffine { x, shift: true }));
        cases.push(case(Op::ChannelAffine { x, shift: false }));
        cases.push(case(Op::Geglu { y: x }));
    }
    // A half that is no whole access, so that the second half is not aligned.
    cases.push(case(Op::CfgCombine { x: Shape::new(2, 3, 3, 3), s: -2.0 }));
    // Rows that several blocks share.
    cases.push(case(Op::Geglu { y: Shape::new(1, 2, 3, 5120) }));
    cases.push(case(Op::ChannelAffine { x: Shape::new(1, 2, 3, 3336), shift: true }));
    parity::check(&cases);
}

/// Both tails of every activation, evenly, in every type.
fn tails_agree_with_the_cpu() {
    let x = Shape::new(1, 1, 40, 64);
    let scales = [4.0, 12.0, 60.0, 200.0];
    let tails = scales.into_iter().flat_map(|scale| ALL.map(|f| Op::Activate { x, f, scale }));
    let clamps = scales.map(|scale| Op::SoftClamp { x, limit: 3.0, scale });
    let cases: Vec<Case> =
        tails.chain(clamps).map(|op| Case { op, kind: Kind::Arange, large: false }).collect();
    parity::check(&cases);
}

/// The far ends: zero or the argument, never NaN; NaN of NaN.
fn activations_end_as_they_should() {
    let x = [0.0, -0.0, 88.0, 89.0, 1e4, -88.0, -89.0, -104.0, -1e4, f32::NAN, 1e38, -1e38];
    for elem in device::elems() {
        let device = device::open(elem);
        let shape = Shape::vector(16);
        let mut host = x.to_vec();
        host.resize(16, 1.0);
        let x = device.upload(shape, HostSlice::F32(&host)).unwrap();
        for f in ALL {
            let y = device.download(&device.activate(&x, f).unwrap()).unwrap();
            let dy = device.upload(shape, HostSlice::F32(&[1.0; 16])).unwrap();
            let slope = device.download(&device.activate_vjp(&x, &dy, f).unwrap()).unwrap();
            let held = device.download(&x).unwrap();
            for (i, &x) in held.iter().enumerate().filter(|(_, x)| x.is_finite()) {
                let expected = if x > 80.0 {
                    x
                } else if x < -80.0 {
                    0.0
                } else {
                    continue;
                };
                assert!((y[i] - expected).abs() < 1e-30 * x.abs(), "{elem:?} {f:?}({x}) = {}", y[i]);
                let expected = f32::from(x > 0.0);
                assert!((slope[i] - expected).abs() < 1e-30, "{elem:?} {f:?}'({x}) = {}", slope[i]);
            }
            assert!(y[9].is_nan() && slope[9].is_nan(), "{elem:?} {f:?}");
        }
    }
}

/// NaN passes the clamp; on a bound exactly the gradient is whole.
fn the_clamp_lets_nan_through_and_keeps_its_bounds() {
    let map = AffineClamp { a: 0.5, b: 0.5, lo: 0.0, hi: 1.0 };
    let x = [f32::NAN, -1.0, 1.0, -1.5, 1.5, 0.25, f32::INFINITY, f32::NEG_INFINITY];
    for elem in device::elems() {
        let device = device::open(elem);
        let shape = Shape::vector(8);
        let x = device.upload(shape, HostSlice::F32(&x)).unwrap();
        let y = device.download(&device.affine_clamp(&x, map).unwrap()).unwrap();
        assert!(y[0].is_nan());
        assert_eq!(y[1..], [0.0, 1.0, 0.0, 1.0, 0.625, 1.0, 0.0]);
        let dy = device.upload(shape, HostSlice::F32(&[2.0; 8])).unwrap();
        let dx = device.download(&device.affine_clamp_vjp(&x, &dy, map).unwrap()).unwrap();
        assert_eq!(dx, [0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    }
}

/// Numbers of the host arrive whole, whatever carries them.
fn uploads_of_any_length_arrive() {
    for elem in device::elems() {
        let device = device::open(elem);
        for c in [1, 7, 8, 960, 961, 3841, 16 * 3840 + 8] {
            let x: Vec<f32> = (0..c).map(|i| (i % 251) as f32).collect();
            let y = device.upload(Shape::vector(c), HostSlice::F32(&x)).unwrap();
            assert_eq!(device.download(&y).unwrap(), x);
        }
    }
}

fn the_order_of_threads_changes_no_bit() {
    device::stand_in_only("the order of threads on a GPU is its own");
    let x = Shape::new(3, 5, 7, 16);
    parity::check_orders(&[
        case(Op::Geglu { y: x }),
        case(Op::Axpby { x, a: 0.75, b: -1.5 }),
        case(Op::ChannelAffine { x, shift: true }),
        case(Op::CfgCombine { x: Shape::new(2, 3, 3, 3), s: -2.0 }),
    ]);
}

/// f32 tensors of whole packets among 16-bit ones: joined from narrower ones, they stay f32, and so do
/// results.
fn mixed_types_are_widened() {
    for elem in [Elem::F16, Elem::Bf16] {
        let device = device::open(elem);
        let (half, whole) = (Shape::new(1, 2, 3, 4), Shape::new(1, 2, 3, 8));
        let fine: Vec<f32> = (0..24).map(|i| 1.0 + i as f32 * 1e-5).collect();
        let part = device.upload(half, HostSlice::F32(&fine)).unwrap();
        let x = device.concat(&part, &part).unwrap();
        let y = device.upload(whole, HostSlice::F32(&[0.5; 48])).unwrap();
        let sum = device.download(&device.axpby(1.0, &x, 2.0, &y).unwrap()).unwrap();
        let back = device.download(&device.axpby(2.0, &y, 1.0, &x).unwrap()).unwrap();
        for (i, (sum, back)) in sum.iter().zip(&back).enumerate() {
            let expected = fine[i / 8 * 4 + i % 4] + 1.0;
            assert!(
                (sum - expected).abs() < 3e-7 && (back - expected).abs() < 3e-7,
                "{sum} {back} {expected}"
            );
        }
        let gain = device.upload(Shape::vector(8), HostSlice::F32(&[2.0; 8])).unwrap();
        let scaled = device.download(&device.channel_affine(&x, &gain, Some(&gain)).unwrap()).unwrap();
        assert!(scaled.iter().enumerate().all(|(i, &v)| v == 2.0 * fine[i / 8 * 4 + i % 4] + 2.0));
    }
}

crate::tests![
    maps_agree_with_the_cpu,
    tails_agree_with_the_cpu,
    activations_end_as_they_should,
    the_clamp_lets_nan_through_and_keeps_its_bounds,
    uploads_of_any_length_arrive,
    the_order_of_threads_changes_no_bit,
    mixed_types_are_widened,
];
