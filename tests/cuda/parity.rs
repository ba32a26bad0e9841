//! One case of an operation on a GPU against the CPU: in f32 within what the number of terms allows, in 16
//! bits no worse than twice (a transpose: three times) the error of an honest implementation, which rounds
//! every result once.

use std::collections::BTreeMap;

use das_cuda::backend::Backend;
use das_cuda::cpu::{Cpu, Round};
use das_cuda::cuda::{Cuda, Elem};
use das_cuda::tensor::HostSlice;
use half::{bf16, f16};

use crate::cases::Case;
use crate::{device, note};

/// Half a unit in the last place of one, in f32.
const U: f64 = 1.0 / (1 << 24) as f64;

/// Results of one case, on the host: `y`, then a cotangent for each differentiable input.
pub fn run(backend: &dyn Backend, case: &Case, elem: Elem) -> Vec<Vec<f32>> {
    let host: Vec<Vec<f32>> = case.host_inputs().into_iter().map(|x| rounded(x, elem)).collect();
    let inputs = case.upload(backend, &host).unwrap();
    let results = case.forward(backend, &inputs).unwrap();
    let y = &results[0];
    let mut out = vec![backend.download(y).unwrap()];
    if case.op.differentiable() > 0 {
        let dy = rounded(case.host_cotangent(y.shape().len()), elem);
        let dy = backend.upload(y.shape(), HostSlice::F32(&dy)).unwrap();
        let dx = case.vjp(backend, &inputs, &results, &dy).unwrap();
        out.extend(dx.iter().map(|dx| backend.download(dx).unwrap()));
    }
    out
}

/// Numbers that `elem` holds exactly.
pub fn rounded(mut x: Vec<f32>, elem: Elem) -> Vec<f32> {
    match elem {
        Elem::F16 => x.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
        Elem::Bf16 => x.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
        Elem::F32 | Elem::U32 => {}
    }
    x
}

/// Root mean square error over the root mean square of `truth` (over one, where that is zero throughout).
pub fn error(x: &[f32], truth: &[f32]) -> f64 {
    assert_eq!(x.len(), truth.len());
    let difference: f64 = x.iter().zip(truth).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    let size: f64 = truth.iter().map(|&b| f64::from(b).powi(2)).sum();
    (difference / if size == 0.0 { x.len().max(1) as f64 } else { size }).sqrt()
}

/// What a backend finds that computes exactly and rounds every result.
pub fn honest(case: &Case, elem: Elem) -> Vec<Vec<f32>> {
    let round = match elem {
        Elem::F32 | Elem::U32 => None,
        Elem::F16 => Some(Round::F16),
        Elem::Bf16 => Some(Round::Bf16),
    };
    run(&Cpu::with_rounding(round), case, elem)
}

/// What the error of result `which` (0: forward) of a case may be.
pub fn tolerance(case: &Case, elem: Elem, which: usize, truth: &[f32], honest: &[f32]) -> f64 {
    // As in tests/ops.rs: every term rounded once, errors added up like a random walk, and a factor of three
    // for cancellation.
    let exact = 3.0 * U * (case.op.terms() as f64 + 4.0).sqrt();
    let least = match elem {
        Elem::F32 | Elem::U32 => return exact,
        // Half the largest relative error of one rounding: about its root mean square.
        Elem::F16 => 0.5 / f64::from(1 << 11),
        Elem::Bf16 => 0.5 / f64::from(1 << 8),
    };
    let times = if which == 0 { 2.0 } else { 3.0 };
    times * error(honest, truth).max(least) + exact
}

/// The worst error of each operation, and its share of the tolerance.
pub type Worst = BTreeMap<&'static str, (f64, f64)>;

/// Compares one case; adds what is wrong to `failures`.
pub fn compare(
    backend: &dyn Backend,
    case: &Case,
    elem: Elem,
    worst: &mut Worst,
    failures: &mut Vec<String>,
) {
    let truth = run(&Cpu::new(), case, elem);
    let honest = honest(case, elem);
    let found = run(backend, case, elem);
    if run(backend, case, elem)
        .iter()
        .flatten()
        .map(|x| x.to_bits())
        .ne(found.iter().flatten().map(|x| x.to_bits()))
    {
        failures.push(format!("{elem:?} {}: not the same bits twice", case.name()));
    }
    for (which, found) in found.iter().enumerate() {
        let allowed = tolerance(case, elem, which, &truth[which], &honest[which]);
        let error = error(found, &truth[which]);
        let what = if which == 0 { "y".into() } else { format!("dx{}", which - 1) };
        if error.is_nan() || error > allowed {
            failures.push(format!("{elem:?} {}/{what}: error {error:.2e} > {allowed:.2e}", case.name()));
        }
        let seen = worst.entry(case.op.name()).or_default();
        *seen = (seen.0.max(error), seen.1.max(error / allowed));
    }
}

/// Compares many cases in every type of activations, prints the worst errors, and fails if any is too large.
#[track_caller]
pub fn check(cases: &[Case]) {
    check_on(device::elems(), &[&|device| device], cases);
}

/// The same in bf16 with every tile of the tensor-core products, their sums whole and in parts.
#[track_caller]
pub fn check_tiles(cases: &[Case]) {
    let plans = (0..Cuda::TILES).flat_map(|tile| [1, 3].map(|splits| (tile, splits)));
    let changes: Vec<_> =
        plans.map(|(tile, splits)| move |device: Cuda| device.with_plan(tile, splits)).collect();
    let changes: Vec<&dyn Fn(Cuda) -> Cuda> = changes.iter().map(|c| c as _).collect();
    check_on([Elem::Bf16].into_iter(), &changes, cases);
}

#[track_caller]
fn check_on(elems: impl Iterator<Item = Elem>, changes: &[&dyn Fn(Cuda) -> Cuda], cases: &[Case]) {
    assert!(!cases.is_empty(), "no case to check");
    let mut failures = Vec::new();
    for (elem, change) in elems.flat_map(|elem| changes.iter().map(move |change| (elem, change))) {
        let device = change(device::open(elem));
        let mut worst = Worst::new();
        cases.iter().for_each(|case| compare(&device, case, elem, &mut worst, &mut failures));
        note!("{} {elem:?}: worst error, and its share of the tolerance", device.name());
        for (op, (error, share)) in worst {
            note!("  {op:16} {error:8.1e} {share:6.3}");
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Every order of blocks and threads that the stand-in knows gives the bits of the first.
#[track_caller]
pub fn check_orders(cases: &[Case]) {
    for elem in device::elems() {
        let device = device::open(elem);
        for case in cases {
            let bits = |seed| {
                das_cuda_emulator::seed_driver(seed);
                let found = run(&device, case, elem);
                das_cuda_emulator::seed_driver(0);
                found.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            let first = bits(0);
            for seed in das_cuda_emulator::seeds() {
                assert!(bits(seed) == first, "{elem:?} {}: other bits in order {seed}", case.name());
            }
        }
    }
}
