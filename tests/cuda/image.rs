//! Moving data: whole accesses and single elements, many runs, every direction of the resize.

use das_cuda::backend::{Backend, Filter};
use das_cuda::cpu::Cpu;
use das_cuda::cuda::Elem;
use das_cuda::tensor::{HostSlice, Shape};

use crate::cases::{Case, Kind, Op};
use crate::device;
use crate::parity;

fn case(op: Op) -> Case {
    Case { op, kind: Kind::Randn, large: false }
}

fn copies() -> Vec<Case> {
    let s = Shape::new;
    let mut cases = Vec::new();
    for (a, b) in [(8, 8), (16, 40), (320, 640), (8, 4), (4, 8), (5, 3), (1, 7), (12, 20), (1280, 1920)] {
        cases.push(case(Op::Concat { x: s(2, 3, 5, a), c: b }));
        cases.push(case(Op::Slice { x: s(2, 3, 5, a + b), from: a, c: b }));
        cases.push(case(Op::Slice { x: s(2, 3, 5, a + b), from: 0, c: a }));
    }
    // Many rows; slices in the middle, which begin within an access.
    cases.push(case(Op::Concat { x: s(1, 1, 2057, 8), c: 16 }));
    cases.push(case(Op::Slice { x: s(1, 1, 2057, 24), from: 8, c: 8 }));
    cases.push(case(Op::Slice { x: s(1, 3, 3, 24), from: 4, c: 8 }));
    for c in [1, 3, 4, 5, 7, 8, 24] {
        let x = s(3, 13, 11, c);
        cases.push(case(Op::Repeat { x, times: 1 }));
        cases.push(case(Op::Repeat { x, times: 5 }));
        cases.push(case(Op::Gather { x, rows: vec![2, 0, 2, 1, 1] }));
        cases.push(case(Op::Stack { x, n: 2 }));
        cases.push(case(Op::Embed { x, token: true }));
        cases.push(case(Op::Embed { x, token: false }));
        cases.push(case(Op::TakeToken { x, at: vec![0, 142, 77] }));
    }
    // Samples of many blocks, and of one access.
    cases.push(case(Op::Gather { x: s(2, 64, 65, 8), rows: vec![1, 0, 1] }));
    cases.push(case(Op::Repeat { x: s(2, 64, 65, 8), times: 3 }));
    cases.push(case(Op::Embed { x: s(2, 16, 16, 64), token: true }));
    cases.push(case(Op::TakeToken { x: s(257, 1, 1, 8), at: vec![0; 257] }));
    cases
}

fn copies_agree_with_the_cpu() {
    parity::check(&copies());
}

fn resize(x: [usize; 4], h: usize, w: usize, filter: Filter) -> Case {
    let [n, y, z, c] = x;
    case(Op::Resize { x: Shape::new(n, y, z, c), h, w, filter })
}

fn resizes_agree_with_the_cpu() {
    let mut cases = Vec::new();
    for filter in [Filter::Bilinear, Filter::Bicubic] {
        cases.extend([
            resize([1, 7, 9, 3], 7, 9, filter),
            resize([2, 16, 24, 3], 37, 5, filter),
            resize([3, 1, 1, 4], 2, 3, filter),
            resize([1, 30, 2, 8], 1, 1, filter),
            resize([2, 11, 13, 8], 5, 29, filter),
            // Channels in runs of 32, the last a part; one row of x more than a block may mix.
            resize([1, 9, 10, 40], 4, 15, filter),
            resize([1, 3, 300, 40], 2, 7, filter),
            resize([1, 2, 2500, 3], 1, 3, filter),
            resize([1, 2, 3, 3], 2, 700, filter),
        ]);
    }
    parity::check(&cases);
}

/// The same weights, the same products, the same order: in f32 the host's bits.
fn a_resize_in_f32_is_the_hosts_to_the_bit() {
    let device = device::open(Elem::F32);
    for filter in [Filter::Bilinear, Filter::Bicubic] {
        for case in [resize([2, 24, 31, 3], 11, 47, filter), resize([1, 5, 7, 5], 9, 4, filter)] {
            let (truth, found) =
                (parity::run(&Cpu::new(), &case, Elem::F32), parity::run(&device, &case, Elem::F32));
            assert_eq!(truth, found, "{}", case.name());
        }
    }
}

/// f32 parts among 16-bit ones: what is stacked or joined becomes f32, exactly.
fn mixed_types_are_widened() {
    for elem in [Elem::F16, Elem::Bf16] {
        let device = device::open(elem);
        let (half, whole) = (Shape::new(1, 1, 3, 4), Shape::new(1, 1, 3, 8));
        let fine: Vec<f32> = (0..12).map(|i| 1.0 + i as f32 * 1e-5).collect();
        let part = device.upload(half, HostSlice::F32(&fine)).unwrap();
        let x = device.concat(&part, &part).unwrap();
        let y = device.upload(whole, HostSlice::F32(&[0.5; 24])).unwrap();
        let both: Vec<f32> = (0..24).map(|i| fine[i / 8 * 4 + i % 4]).collect();
        assert_eq!(device.download(&x).unwrap(), both);
        let stacked = device.download(&device.stack(&[&y, &x, &y]).unwrap()).unwrap();
        assert_eq!(stacked, [&[0.5; 24][..], &both[..], &[0.5; 24][..]].concat());
        let rows = |x: &[f32], y: &[f32]| -> Vec<f32> {
            x.chunks(8).zip(y.chunks(8)).flat_map(|(x, y)| [x, y].concat()).collect()
        };
        assert_eq!(device.download(&device.concat(&y, &x).unwrap()).unwrap(), rows(&[0.5; 24], &both));
        assert_eq!(device.download(&device.slice(&x, 4, 4).unwrap()).unwrap(), fine);
    }
}

/// More runs than a grid has blocks along y.
fn many_runs_share_blocks() {
    for elem in device::elems() {
        let device = device::open(elem);
        let n = 40_000;
        let x: Vec<f32> = (0..8 * n).map(|i| (i / 8 % 200) as f32).collect();
        let shape = Shape::rows(n, 8);
        let x = device.upload(shape, HostSlice::F32(&x)).unwrap();
        let rows: Vec<u32> = (0..n as u32).map(|i| n as u32 - 1 - i).collect();
        let y = device.download(&device.gather(&x, &rows).unwrap()).unwrap();
        assert!(y.iter().enumerate().all(|(i, &v)| v == ((n - 1 - i / 8) % 200) as f32));
    }
}

fn the_order_of_threads_changes_no_bit() {
    device::stand_in_only("the order of threads on a GPU is its own");
    let s = Shape::new;
    parity::check_orders(&[
        case(Op::Concat { x: s(2, 3, 5, 16), c: 40 }),
        case(Op::Repeat { x: s(2, 3, 5, 8), times: 3 }),
        case(Op::Embed { x: s(2, 3, 5, 8), token: true }),
        resize([2, 16, 24, 3], 37, 5, Filter::Bicubic),
    ]);
}

crate::tests![
    copies_agree_with_the_cpu,
    resizes_agree_with_the_cpu,
    a_resize_in_f32_is_the_hosts_to_the_bit,
    mixed_types_are_widened,
    many_runs_share_blocks,
    the_order_of_threads_changes_no_bit,
];
