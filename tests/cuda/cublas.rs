//! Linear maps that cuBLASLt may make: what it makes agrees with the CPU, it gets only what it makes right
//! and faster, and decisions last. Without a GPU it is a stand-in whose products are plain loops; on a GPU it
//! is the library, if that is found.

use std::cell::Cell;

use das_cuda::backend::{Activation, Backend, Conv, Epilogue, Record};
use das_cuda::cuda::{Cuda, Elem};
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use das_cuda_emulator::Cublas;

use crate::cases::{Bias, Case, Kind, Op};
use crate::device::{gpu_required, open, stand_in_only};
use crate::harness::skip;
use crate::note;
use crate::parity::{self, Worst};

fn linear(x: Shape, out: usize, bias: Bias, add: bool) -> Case {
    Case { op: Op::Linear { x, out, bias, add }, kind: Kind::Randn, large: false }
}

/// A device that finds cuBLASLt, and chooses anew.
fn opened(elem: Elem, behaviour: Cublas) -> Cuda {
    if !gpu_required() {
        das_cuda_emulator::cublas(behaviour);
    }
    let device = open(elem).with_cublas().with_autotune_cache(None);
    if device.autotune_outcomes().is_none() {
        assert!(gpu_required(), "the stand-in starts");
        skip("this machine has no cuBLASLt");
    }
    device
}

/// Products that the stand-in started for this thread; none that it refused.
fn started() -> u64 {
    let (started, refused) = das_cuda_emulator::cublas_calls();
    assert_eq!(refused, 0, "calls that the stand-in does not understand");
    started
}

/// Every end of a product, both ways, tails. Measured on the stand-in, as shares of the tolerance: f16 0.48,
/// bf16 0.44.
fn what_the_library_makes_agrees_with_the_cpu() {
    let s = Shape::new;
    let point = Conv { stride: 1, pad: [0; 4], upsample: false };
    let conv = |conv, x, kernel| Op::Conv { x, out: 24, kernel, conv, bias: Bias::One, add: true };
    let mut cases = vec![
        linear(s(1, 1, 1, 8), 8, Bias::None, false),
        linear(s(2, 3, 5, 72), 40, Bias::One, false),
        linear(s(1, 1, 77, 200), 104, Bias::None, true),
        linear(s(2, 4, 4, 64), 48, Bias::One, true),
    ];
    for op in [conv(point, s(2, 4, 5, 16), 1), conv(Conv::patches(4), s(2, 8, 12, 3), 4)] {
        cases.push(Case { op, kind: Kind::Randn, large: false });
    }
    for epilogue in [Epilogue::Geglu, Epilogue::Activate(Activation::QuickGelu)] {
        let op = Op::LinearEpilogue { x: s(1, 1, 20, 40), out: 48, bias: Bias::One, epilogue };
        cases.push(Case { op, kind: Kind::Randn, large: false });
    }
    for elem in [Elem::F16, Elem::Bf16] {
        let device = opened(elem, Cublas::Right);
        let (mut worst, mut failures) = (Worst::new(), Vec::new());
        cases.iter().for_each(|case| parity::compare(&device, case, elem, &mut worst, &mut failures));
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        note!("{elem:?}: worst error, and its share of the tolerance: {worst:?}");
        let outcomes = device.autotune_outcomes().unwrap();
        // Forward and transpose, but for patches, which have no transpose of this kind, and one transpose of
        // both endings.
        assert_eq!(outcomes.len(), 2 * cases.len() - 2, "{outcomes:?}");
        assert!(
            outcomes.iter().any(|c| c.problem.bias && c.problem.add)
                && outcomes.iter().any(|c| c.problem.transposed)
        );
        if !gpu_required() {
            assert!(
                outcomes.iter().all(|c| c.taken),
                "plain loops are faster than the emulator: {outcomes:?}"
            );
            assert!(started() > outcomes.len() as u64);
        }
    }
}

/// What our kernels make, and not the library: a bias for each sample, results in f32, all of f32.
fn other_products_are_not_timed() {
    let s = Shape::new;
    let each = [linear(s(3, 1, 4, 16), 8, Bias::Each, false), linear(s(1, 1, 4, 16), 5, Bias::One, false)];
    let device = opened(Elem::Bf16, Cublas::Right);
    each.iter().for_each(|case| drop(case.forward(&device, &inputs(&device, case)).unwrap()));
    assert_eq!(device.autotune_outcomes().unwrap().len(), 0);
    let wide = open(Elem::F32).with_cublas();
    assert!(wide.autotune_outcomes().is_none());
    assert!(open(Elem::Bf16).autotune_outcomes().is_none());
}

fn inputs(device: &Cuda, case: &Case) -> Vec<Tensor> {
    case.upload(device, &case.host_inputs()).unwrap()
}

fn bits(device: &Cuda, case: &Case) -> Vec<u32> {
    parity::run(device, case, device.elem()).iter().flatten().map(|x| x.to_bits()).collect()
}

fn a_library_that_is_slow_or_wrong_or_fails_gets_nothing() {
    stand_in_only("cuBLASLt does not fail on request");
    let case = linear(Shape::new(1, 2, 9, 24), 32, Bias::One, true);
    let own = open(Elem::Bf16);
    let expected = bits(&own, &case);
    for behaviour in [Cublas::Slow, Cublas::Wrong, Cublas::Failing] {
        let device = opened(Elem::Bf16, behaviour);
        assert!(bits(&device, &case) == expected, "{behaviour:?}: not the bits of our kernels");
        let outcomes = device.autotune_outcomes().unwrap();
        assert_eq!(outcomes.len(), 2);
        assert!(outcomes.iter().all(|c| !c.taken), "{behaviour:?}: {outcomes:?}");
        assert_eq!(outcomes.iter().any(|c| c.library.is_none()), behaviour == Cublas::Failing);
        // It may come right later: the choice stays.
        das_cuda_emulator::cublas(Cublas::Right);
        assert!(bits(&device, &case) == expected);
        assert_eq!(device.autotune_outcomes().unwrap().len(), 2);
    }
}

fn a_library_that_fails_later_loses_the_shape() {
    stand_in_only("cuBLASLt does not fail on request");
    let case = linear(Shape::new(1, 1, 10, 24), 32, Bias::One, false);
    let device = opened(Elem::Bf16, Cublas::Right);
    bits(&device, &case);
    das_cuda_emulator::cublas(Cublas::Failing);
    assert!(bits(&device, &case) == bits(&open(Elem::Bf16), &case));
    let before = started();
    das_cuda_emulator::cublas(Cublas::Right);
    bits(&device, &case);
    assert_eq!(started(), before);
}

fn decisions_are_those_of_the_first_run() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("products.txt");
    let case = linear(Shape::new(1, 1, 11, 24), 32, Bias::One, false);
    let with_file = |behaviour| opened(Elem::Bf16, behaviour).with_autotune_cache(Some(&file));
    let first = with_file(Cublas::Right);
    let expected = bits(&first, &case);
    assert_eq!(first.autotune_outcomes().unwrap().len(), 2, "forward and transpose");
    let kept = std::fs::read_to_string(&file).unwrap();
    assert_eq!(kept.lines().count(), 2, "{kept}");
    // Slow: a measurement of its own would decide otherwise.
    let second = with_file(Cublas::Slow);
    assert!(bits(&second, &case) == expected);
    assert_eq!(second.autotune_outcomes().unwrap().len(), 0);
    if !gpu_required() {
        let shapes = ["11 32 24 w+bias", "11 24 32 w'"];
        assert!(kept.lines().zip(shapes).all(|(line, shape)| line.starts_with(shape)), "{kept}");
        let all = |choice| shapes.map(|shape| format!("{shape} {choice}\n")).concat();
        std::fs::write(&file, all("own")).unwrap();
        let third = with_file(Cublas::Right);
        assert!(bits(&third, &case) == bits(&open(Elem::Bf16), &case));
        assert_eq!(third.autotune_outcomes().unwrap().len(), 0);
        // A candidate that the library does not have decides nothing.
        std::fs::write(&file, all("7")).unwrap();
        let fourth = with_file(Cublas::Right);
        assert!(bits(&fourth, &case) == expected);
        assert_eq!(fourth.autotune_outcomes().unwrap().len(), 2);
    }
}

/// Timing waits for the GPU, which recorded work cannot. What is met for the first time while it is recorded
/// postpones the recording: it is timed, and what was decided then is recorded.
fn nothing_is_timed_while_work_is_recorded() {
    let device = opened(Elem::Bf16, Cublas::Right);
    let shape = Shape::new(1, 1, 12, 16);
    let upload = |shape: Shape, scale: f32| {
        let values: Vec<f32> =
            (0..shape.len()).map(|i| scale * ((i * 37 % 101) as f32 / 50.0 - 1.0)).collect();
        device.upload(shape, HostSlice::F32(&values)).unwrap()
    };
    let (w, other) = (upload(Shape::new(24, 1, 1, 16), 0.5), upload(Shape::new(32, 1, 1, 16), 0.5));
    let (mut record, calls) = (Record::default(), Cell::new(0));
    let mut round = |scale: f32| {
        let x = upload(shape, scale);
        let found = device
            .replay(&mut record, &[&x], &mut |x| {
                calls.set(calls.get() + 1);
                // What is met for the first time while it is recorded.
                if calls.get() >= 2 {
                    device.linear(&x[0], &other, None, None)?;
                }
                Ok(vec![device.linear(&x[0], &w, None, None)?])
            })
            .unwrap();
        let expected = device.linear(&x, &w, None, None).unwrap();
        assert_eq!(device.download(&found[0]).unwrap(), device.download(&expected).unwrap());
    };
    round(1.0);
    assert_eq!(device.autotune_outcomes().unwrap().len(), 1);
    // Recorded in vain, run, recorded.
    (2..6).for_each(|scale| round(scale as f32));
    assert_eq!((calls.get(), device.autotune_outcomes().unwrap().len()), (4, 2));
    if !gpu_required() {
        assert!(started() > 0);
    }
}

crate::tests![
    what_the_library_makes_agrees_with_the_cpu,
    other_products_are_not_timed,
    a_library_that_is_slow_or_wrong_or_fails_gets_nothing,
    a_library_that_fails_later_loses_the_shape,
    decisions_are_those_of_the_first_run,
    nothing_is_timed_while_work_is_recorded,
];
