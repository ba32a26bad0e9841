//! Every kernel, in few and small cases and several orders of threads: what sanitizers look at
//! (`.ci/sanitize`), under which all tests would take an hour.

use das_cuda::backend::{Activation, AffineClamp, Attention, Backend, Conv, Epilogue, Filter, GroupNorm};
use das_cuda::cuda::testing::{Array64, Populations, Weighing};
use das_cuda::cuda::{Cuda, Elem};
use das_cuda::smc::{Event, Potentials, Resampler, Rules, Tempering};
use das_cuda::tensor::{HostSlice, Shape};

use crate::cases::{Bias, Case, Kind, Op};
use crate::device;
use crate::{parity, points, resample};

fn case(op: Op) -> Case {
    Case { op, kind: Kind::Randn, large: false }
}

fn linear(x: Shape, out: usize, add: bool) -> Case {
    case(Op::Linear { x, out, bias: if add { Bias::Each } else { Bias::One }, add })
}

fn conv(x: Shape, out: usize, conv: Conv) -> Case {
    case(Op::Conv { x, out, kernel: 3, conv, bias: Bias::One, add: false })
}

fn own(tokens: usize, d: usize, causal: bool) -> Case {
    let attention = Attention { heads: 1, scale: 1.0 / (d as f32).sqrt(), causal };
    case(Op::SelfAttention { y: Shape::new(1, 1, tokens, d), attention })
}

fn cross(tokens: usize, keys: usize, d: usize) -> Case {
    let attention = Attention { heads: 1, scale: 1.0 / (d as f32).sqrt(), causal: false };
    case(Op::CrossAttention { q: Shape::new(2, 1, tokens, d), keys, kv_of: vec![1, 0], attention })
}

fn group(x: Shape, groups: usize, silu: bool) -> Case {
    case(Op::GroupNorm { x, norm: GroupNorm { groups, eps: 1e-5, silu }, mean: 0.0 })
}

/// With a tail wherever there may be one.
fn cases(elem: Elem) -> Vec<Case> {
    let s = Shape::new;
    let x = s(2, 3, 5, 8);
    let odd = s(2, 3, 3, 5);
    let gelu = Epilogue::Activate(Activation::Gelu);
    let mut cases = vec![
        linear(s(3, 1, 9, 40), 24, true),
        linear(s(1, 1, 7, 5), 3, true),
        case(Op::LinearEpilogue { x: s(3, 1, 9, 40), out: 48, bias: Bias::One, epilogue: Epilogue::Geglu }),
        case(Op::LinearEpilogue { x: s(1, 1, 7, 5), out: 3, bias: Bias::One, epilogue: gelu }),
        conv(s(2, 5, 4, 8), 16, Conv::SAME3),
        conv(s(1, 5, 4, 16), 8, Conv::DOWN3),
        conv(s(1, 3, 4, 8), 8, Conv::UP3),
        conv(s(1, 5, 4, 4), 8, Conv::SAME3),
        conv(s(1, 5, 4, 8), 4, Conv::SAME3),
        conv(s(1, 5, 4, 3), 5, Conv::DOWN3),
        case(Op::Conv {
            x: s(1, 8, 8, 3),
            out: 8,
            kernel: 4,
            conv: Conv::patches(4),
            bias: Bias::None,
            add: false,
        }),
        group(s(2, 4, 5, 16), 4, true),
        group(s(1, 3, 3, 6), 3, false),
        group(s(1, 64, 64, 40), 4, true),
        case(Op::LayerNorm { x: s(2, 1, 5, 24), mean: 0.0 }),
        case(Op::LayerNorm { x: s(1, 1, 2, 1100), mean: 0.0 }),
        case(Op::LayerNorm { x: s(2, 1, 5, 7), mean: 0.0 }),
        case(Op::L2Norm { x: s(3, 1, 1, 8) }),
        case(Op::L2Norm { x: s(3, 1, 1, 9) }),
        // Through matrix products.
        own(20, 168, true),
        cross(20, 9, 12),
        case(Op::Resize { x: s(1, 9, 7, 3), h: 5, w: 11, filter: Filter::Bicubic }),
        case(Op::Resize { x: s(1, 5, 6, 40), h: 7, w: 4, filter: Filter::Bilinear }),
    ];
    let widths = [32, 40, 64, 80, 96, 128, 160].into_iter().filter(|_| elem != Elem::F32);
    cases.extend(widths.flat_map(|d| [own(67, d, d % 64 == 0), cross(17, 77, d)]));
    for x in [x, odd] {
        let clamp = AffineClamp { a: 0.5, b: 0.5, lo: 0.0, hi: 1.0 };
        cases.extend([
            case(Op::Activate { x, f: Activation::Gelu, scale: 3.0 }),
            case(Op::Geglu { y: x }),
            case(Op::Axpby { x, a: 2.0, b: -0.5 }),
            case(Op::Blend { x }),
            case(Op::Scale { x, a: -1.75 }),
            case(Op::AffineClamp { x, map: clamp }),
            case(Op::SoftClamp { x, limit: 3.0, scale: 1.0 }),
            case(Op::ChannelAffine { x, shift: true }),
            case(Op::CfgCombine { x: x.with_n(4), s: 7.5 }),
            case(Op::Concat { x, c: 8 }),
            case(Op::Slice { x: Shape { c: 2 * x.c, ..x }, from: x.c, c: x.c }),
            case(Op::Repeat { x, times: 3 }),
            case(Op::Gather { x, rows: vec![1, 0, 1] }),
            case(Op::Stack { x, n: 2 }),
            case(Op::Embed { x, token: true }),
            case(Op::TakeToken { x, at: vec![1, 0] }),
        ]);
    }
    cases.extend([
        case(Op::Normals { x: s(3, 2, 5, 7) }),
        case(Op::Advance { x: s(3, 3, 5, 4), ancestors: vec![2, 0, 0], grad: true, variance: 0.25 }),
        case(Op::SquaredNorms { x: s(3, 2, 5, 7) }),
    ]);
    cases
}

/// Operations on tensors of both types.
fn mixed(cuda: &Cuda) {
    let ones = |shape: Shape| cuda.upload(shape, HostSlice::F32(&vec![1.0; shape.len()])).unwrap();
    let half = ones(Shape::rows(5, 4));
    // f32 that is as wide as what is not.
    let x = cuda.concat(&half, &half).unwrap();
    let y = cuda.linear(&x, &ones(Shape::rows(8, 8)), None, None).unwrap();
    assert_eq!(cuda.download(&cuda.axpby(1.0, &x, 1.0, &y).unwrap()).unwrap(), [9.0; 40]);
    let score = ones(Shape::new(5, 1, 1, 1));
    assert_eq!(cuda.download(&cuda.where_finite(&score, &x).unwrap()).unwrap(), [1.0; 5]);
}

/// Weighing of a few populations, small and large; resampling of a large one by every rule.
fn particles(cuda: &Cuda) {
    let tempering = Tempering::parse("exp", None, 10).unwrap();
    let numbers = Array64::upload(cuda, &[0.1; 2 * 70]).unwrap();
    let many = Array64::upload(cuda, &[0.1; 2 * 1030]).unwrap();
    for resampler in Resampler::ALL {
        let rules = Rules {
            tempering,
            resampler,
            ess_threshold: 2.0,
            max_shift: None,
            potentials: Potentials::Difference,
        };
        let weighing = Weighing {
            rules: &rules,
            event: Event::Step(5),
            step: 5,
            seed: 1,
            alpha: 1.0,
            gather: true,
            bound: None,
        };
        for (n, numbers) in [(70, &numbers), (1030, &many)] {
            let mut populations = Populations::new(cuda, &[0, 1], n).unwrap();
            populations.weigh(cuda, numbers, numbers, weighing).unwrap().download(cuda).unwrap();
        }
        // Three tiles.
        resample::compare(cuda, 9001, &resample::populations(9001)[2].1, resampler, "spread 4");
    }
}

/// A case against the CPU.
fn compare(cuda: &Cuda, case: &Case, elem: Elem, failures: &mut Vec<String>) {
    let found = parity::run(cuda, case, elem);
    let truth = parity::run(&das_cuda::cpu::Cpu::new(), case, elem);
    let honest = parity::honest(case, elem);
    let mut worst = 0.0_f64;
    for (which, found) in found.iter().enumerate() {
        let allowed = parity::tolerance(case, elem, which, &truth[which], &honest[which]);
        worst = worst.max(parity::error(found, &truth[which]) / allowed);
    }
    if worst.is_nan() || worst > 1.0 {
        failures.push(format!("{elem:?} {}: {worst:.2} of what is allowed", case.name()));
    }
}

/// Kernels of every image of which only the others' are of use.
const IDLE: [&str; 10] = [
    "das_tap_sum_bf16",
    "das_finish_f32",
    "das_layer_norm_any_bf16",
    "das_layer_norm_vjp_any_bf16",
    "das_narrow_f32",
    "das_pad_f32",
    "das_patches_f32",
    "das_simt_bf16",
    "das_put_bf16",
    "das_widen_f32",
];

/// A new kernel needs a case here.
fn every_kernel_is_right_in_a_few_cases() {
    let mut failures = Vec::new();
    // In order, and in two orders of the stand-in's choice.
    for seed in 0..if device::gpu_required() { 1 } else { 3 } {
        let cuda = device::open(Elem::F32);
        if seed > 0 {
            das_cuda_emulator::seed_driver(seed);
        }
        cases(Elem::F32).iter().for_each(|case| compare(&cuda, case, Elem::F32, &mut failures));
        for weight in [&[0.5][..], &[0.01, 1.0], &[0.01, 0.01, 1.0]] {
            // Two blocks, of which the second has a tail.
            points::compare(&cuda, weight, 300, weight.len() > 1);
        }
        let cuda = device::open(Elem::Bf16);
        cases(Elem::Bf16).iter().for_each(|case| compare(&cuda, case, Elem::Bf16, &mut failures));
        mixed(&cuda);
        particles(&cuda);
        for tile in 0..Cuda::TILES {
            let cuda = device::open(Elem::Bf16).with_plan(tile, 1 + 2 * (tile % 2));
            compare(&cuda, &linear(Shape::new(1, 1, 35, 72), 40, true), Elem::Bf16, &mut failures);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    if device::gpu_required() {
        // A GPU does not count launches.
        return;
    }
    das_cuda_emulator::seed_driver(0);
    let mut kernels = das_cuda_emulator::kernels().unwrap();
    let not_ours = ["das_planted_", "das_op_"];
    let looked_at = |name: &str| {
        !name.ends_with("_f16") && !IDLE.contains(&name) && !not_ours.iter().any(|n| name.starts_with(n))
    };
    kernels.retain(|name| looked_at(name) && das_cuda_emulator::launches(name) == 0);
    assert!(kernels.is_empty(), "no case runs {}", kernels.join(", "));
}

crate::tests![every_kernel_is_right_in_a_few_cases,];
