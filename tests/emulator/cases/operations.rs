//! Single operations of the device language against plain loops.

use std::time::Instant;

use bytemuck::Pod;
use das_cuda_emulator::{Guarded, args, launch, seeds};
use half::{bf16, f16};

fn run(name: &str, grid: u32, block: u32, shared: u32, args: &[das_cuda_emulator::Arg], seed: u64) {
    launch(&format!("das_op_{name}"), [grid, 1, 1], [block, 1, 1], shared, args, seed)
        .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
}

/// Numbers without a pattern.
fn mixed(n: usize) -> Vec<u32> {
    let mut s = 1u64;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 32) as u32
    };
    (0..n).map(|_| next()).collect()
}

/// Floats of every exponent, the neighbours of ties of both 16-bit types, and what is special.
fn floats() -> Vec<f32> {
    let mut bits = mixed(200_000);
    for h in 0..=0xffffu32 {
        let wide = f16::from_bits(h as u16).to_f32().to_bits();
        for near in [wide, wide.wrapping_add(0x1000), wide.wrapping_sub(0x1000)] {
            bits.extend([near.wrapping_sub(1), near, near.wrapping_add(1)]);
        }
        bits.extend([h << 16 | 0x7fff, h << 16 | 0x8000, h << 16 | 0x8001]);
    }
    bits.into_iter().map(f32::from_bits).collect()
}

fn every_16_bit_number_widens_as_the_half_crate_says() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    fn check<T: Pod>(name: &str, x: Vec<T>, f: impl Fn(&T) -> f32) {
        let (x, mut y) = (Guarded::from(&x), Guarded::<f32>::poisoned(x.len()));
        run(name, 256, 256, 0, &args![&x, &mut y, x.len() as i32], 0);
        for (x, y) in x.iter().zip(&y[..]) {
            let want = f(x);
            assert!(y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan()), "{y} {want}");
        }
    }
    check("widen_bf16", all.iter().map(|&b| bf16::from_bits(b)).collect(), |x: &bf16| x.to_f32());
    check("widen_f16", all.iter().map(|&b| f16::from_bits(b)).collect(), |x: &f16| x.to_f32());
}

fn floats_round_to_16_bits_as_the_half_crate_says() {
    let floats = floats();
    fn check<T: Pod>(name: &str, x: &Vec<f32>, bits: impl Fn(&T) -> u16, want: impl Fn(f32) -> u16) {
        let (x, mut y) = (Guarded::from(x), Guarded::<T>::poisoned(x.len()));
        run(name, x.len().div_ceil(256) as u32, 256, 0, &args![&x, &mut y, x.len() as i32], 0);
        for (x, y) in x.iter().zip(&y[..]) {
            // The device has one NaN.
            let want = if x.is_nan() { 0x7fff } else { want(*x) };
            assert_eq!(bits(y), want, "{x} ({:08x})", x.to_bits());
        }
    }
    check("narrow_bf16", &floats, |x: &bf16| x.to_bits(), |x| bf16::from_f32(x).to_bits());
    check("narrow_f16", &floats, |x: &f16| x.to_bits(), |x| f16::from_f32(x).to_bits());
}

fn packets_are_read_and_written_whole() {
    let x: Vec<f32> = (0..256).map(|i| i as f32).collect();
    let h: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x / 2.0)).collect();
    let (x, mut y) = (Guarded::from(&x), Guarded::<f32>::poisoned(256));
    run("packets_f32", 1, 32, 0, &args![&x, &mut y], 0);
    assert!((0..256).all(|i| y[i] == i as f32 + 1.0));
    let (x, mut y) = (Guarded::from(&h), Guarded::<bf16>::poisoned(256));
    run("packets_bf16", 1, 32, 0, &args![&x, &mut y], 0);
    assert!((0..256).all(|i| y[i] == bf16::from_f32(h[i].to_f32() + 1.0)));
}

fn shuffles_move_what_they_say() {
    let (x, wide) = (mixed(32), (0..32).map(|i| i << 40 | 7).collect::<Vec<u64>>());
    for seed in seeds() {
        let (gx, mut gw, mut y) = (Guarded::from(&x), Guarded::from(&wide), Guarded::<u32>::poisoned(160));
        run("shuffles_f32", 1, 32, 0, &args![&gx, &mut gw, &mut y], seed);
        for l in 0..32 {
            assert_eq!(y[l], x[5]);
            assert_eq!(y[32 + l], x[l / 8 * 8 + (l + 3) % 8]);
            assert_eq!(y[64 + l], x[l ^ 9]);
            assert_eq!(y[96 + l], x[if l >= 3 { l - 3 } else { l }]);
            assert_eq!(y[128 + l], x[if l % 16 + 4 < 16 { l + 4 } else { l }]);
            assert_eq!(gw[l], wide[31 - l]);
        }
    }
}

fn votes_count_the_lanes_of_their_mask() {
    let x: Vec<u32> = mixed(32).iter().map(|v| v % 50).collect();
    let lanes = |f: &dyn Fn(usize) -> bool| (0..32).filter(|&l| f(l)).map(|l| 1u32 << l).sum::<u32>();
    for seed in seeds() {
        let (gx, mut y) = (Guarded::from(&x), Guarded::<u32>::poisoned(160));
        run("votes_f32", 1, 32, 0, &args![&gx, &mut y], seed);
        for l in 0..32 {
            assert_eq!(y[l], lanes(&|k| x[k] & 1 == 1));
            assert_eq!(y[32 + l], u32::from(x.contains(&7)));
            assert_eq!(y[64 + l], 1);
            assert_eq!(y[96 + l], lanes(&|k| x[k] % 5 == x[l] % 5));
            let bit = if l < 16 { 2 } else { 4 };
            assert_eq!(y[128 + l], lanes(&|k| k / 16 == l / 16 && x[k] & bit != 0));
        }
    }
}

fn barriers_count_and_wait() {
    let x = mixed(256).iter().map(|v| v % 100).collect::<Vec<u32>>();
    for seed in seeds() {
        let (gx, mut y) = (Guarded::from(&x), Guarded::<i32>::poisoned(768));
        run("barriers_f32", 1, 256, 0, &args![&gx, &mut y], seed);
        let count = x.iter().filter(|v| *v % 3 == 0).count() as i32;
        assert!(
            (0..256).all(|i| y[i] == count && y[256 + i] == i32::from(x.contains(&77)) && y[512 + i] == 1)
        );

        let mut y = Guarded::<i32>::poisoned(256);
        run("leaving_f32", 1, 256, 0, &args![&mut y], seed);
        let sums = [256, 256 + 192, 256 + 192 + 128, 640];
        assert!((0..256).all(|i| y[i] == sums[3 - i / 64]));

        let x: Vec<f32> = (0..1024).map(|i| (i * 37 % 101) as f32).collect();
        let (gx, mut y) = (Guarded::from(&x), Guarded::<f32>::poisoned(2048));
        run("sums_f32", 1, 1024, 0, &args![&gx, &mut y], seed);
        assert!((0..1024).all(|i| y[2 * i] == x.iter().sum::<f32>() && y[2 * i + 1] == 100.0));
    }
}

fn asynchronous_copies_fill_with_zeros() {
    let x: Vec<f32> = (0..256).map(|i| i as f32 + 1.0).collect();
    for seed in seeds() {
        for bytes in [0, 4, 12, 16] {
            let (gx, mut y) = (Guarded::from(&x), Guarded::<f32>::poisoned(256));
            run("copies_f32", 1, 32, 0, &args![&gx, &mut y, bytes], seed);
            assert!((0..256).all(|i| y[i] == if 4 * (i as i32 % 4) < bytes { x[i] } else { 0.0 }));
        }
    }
}

fn ldmatrix_gives_each_lane_its_piece() {
    let x: Vec<u16> = (0..256).collect();
    for seed in seeds() {
        let gx = Guarded::from(&x);
        let (mut y, mut t) = (Guarded::<u32>::poisoned(128), Guarded::<u32>::poisoned(128));
        run("ldmatrix_bf16", 1, 32, 0, &args![&gx, &mut y, &mut t], seed);
        for l in 0..32 {
            for j in 0..4 {
                let element = |r: usize, c: usize| u32::from(x[j * 64 + r * 8 + c]);
                let (g, c) = (l / 4, l % 4 * 2);
                assert_eq!(y[4 * l + j], element(g, c) | element(g, c + 1) << 16);
                assert_eq!(t[4 * l + j], element(c, g) | element(c + 1, g) << 16);
            }
        }
    }
}

fn mma_is_a_matrix_product() {
    let raw = mixed(16 * 16 + 8 * 16 + 16 * 8);
    // Small whole numbers and eighths: every sum is exact, in any order.
    let number = |i: usize| (raw[i] % 129) as f32 / 8.0 - 8.0;
    let (a, b): (Vec<f32>, Vec<f32>) = ((0..256).map(number).collect(), (256..384).map(number).collect());
    let d: Vec<f32> = (384..512).map(number).collect();
    fn check<T: Pod>(name: &str, a: &[f32], b: &[f32], d: &[f32], narrow: impl Fn(f32) -> T, seed: u64) {
        let half = |x: &[f32]| Guarded::from(&x.iter().map(|&x| narrow(x)).collect::<Vec<T>>());
        let (ga, gb, mut gd) = (half(a), half(b), Guarded::from(d));
        run(name, 1, 32, 0, &args![&ga, &gb, &mut gd, 2], seed);
        for i in 0..16 {
            for j in 0..8 {
                let sum: f32 = (0..16).map(|k| a[i * 16 + k] * b[j * 16 + k]).sum();
                assert_eq!(gd[i * 8 + j], d[i * 8 + j] + 2.0 * sum, "{name} {i} {j}");
            }
        }
    }
    for seed in seeds() {
        check("mma_bf16", &a, &b, &d, bf16::from_f32, seed);
        check("mma_f16", &a, &b, &d, f16::from_f32, seed);
    }
}

fn atomics_lose_nothing() {
    let x = mixed(64 * 100).iter().map(|v| v % 1000).collect::<Vec<u32>>();
    for seed in seeds() {
        let (gx, mut y) = (Guarded::from(&x), Guarded::from(&vec![0u32, 0, u32::MAX, 0, 0]));
        let (mut wide, mut sum) = (Guarded::<u64>::zeros(1), Guarded::<f32>::zeros(1));
        run("atomics_f32", 100, 64, 0, &args![&gx, &mut y, &mut wide, &mut sum], seed);
        let total: u32 = x.iter().sum();
        let or = x.iter().fold(0, |a, b| a | b);
        assert_eq!(y[..], [total, *x.iter().max().unwrap(), *x.iter().min().unwrap(), or, total]);
        assert_eq!((wide[0], sum[0]), (u64::from(total) << 30, 6400.0));
    }
}

fn blocks_that_wait_for_earlier_ones_come_to_an_end() {
    for seed in seeds() {
        let (mut ticket, mut flags) = (Guarded::<u32>::zeros(1), Guarded::<u32>::zeros(200));
        let mut sums = Guarded::<f32>::poisoned(200);
        run("look_back_f32", 200, 32, 0, &args![&mut ticket, &mut flags, &mut sums], seed);
        assert!((0..200).all(|b| sums[b] == (b * (b + 1) / 2) as f32));
    }
}

#[allow(clippy::cast_possible_truncation)]
fn arithmetic_rounds_once_per_operation() {
    let mut x: Vec<f64> = mixed(4096).chunks(2).map(|c| f64::from(c[0]) / f64::from(c[1]) - 0.7).collect();
    x.extend([0.0, -0.0, 0.5, 1.5, 2.5, -3.0, 1e30, -1e30, f64::NAN, f64::INFINITY, 1.8446744073709552e19]);
    let (gx, mut y) = (Guarded::from(&x), Guarded::<f64>::poisoned(12 * x.len()));
    run("arithmetic_f32", x.len().div_ceil(256) as u32, 256, 0, &args![&gx, &mut y, x.len() as i32], 0);
    for (i, &d) in x.iter().enumerate() {
        let f = d as f32;
        // u64::MAX is not a double: the device's result, widened.
        let unsigned = |d: f64| if d.is_nan() { (1u64 << 63) as f64 } else { d as u64 as f64 };
        let integer = if f.is_nan() { 0.0 } else { f64::from(f.round_ties_even() as i32) };
        let want = [
            f64::from(f * f),
            f64::from(f * f + f),
            f64::from(f.mul_add(f, f)),
            f64::from(1.0 / f),
            f64::from(f.abs().sqrt()),
            d * d + d,
            unsigned(d),
            unsigned(d.round_ties_even()),
            integer,
            d.to_bits() as f64,
            f64::from(f.min(1.0)),
            f64::from(f.max(1.0)),
        ];
        for (j, want) in want.into_iter().enumerate() {
            let got = y[12 * i + j];
            assert!(got == want || (got.is_nan() && want.is_nan()), "{d}: result {j} is {got}, not {want}");
        }
    }
}

fn bits_are_counted_and_moved() {
    let mut x = mixed(256);
    x[..4].copy_from_slice(&[0, 1, u32::MAX, 1 << 31]);
    let (gx, mut y) = (Guarded::from(&x), Guarded::<u32>::poisoned(8 * 256));
    run("bits_f32", 1, 256, 0, &args![&gx, &mut y], 0);
    for (i, &v) in x.iter().enumerate() {
        let wide = u128::from(u64::from(v) << 32 | u64::from(v)) * 0xdead_beef_cafe_f00d;
        let bytes: Vec<u8> = v.to_le_bytes().into_iter().chain((!v).to_le_bytes()).collect();
        let shift = v & 31;
        let want = [
            v.count_ones(),
            v.leading_zeros(),
            if v == 0 { 0 } else { v.trailing_zeros() + 1 },
            v.reverse_bits(),
            ((u64::from(v) * 0xdead_beef) >> 32) as u32,
            (wide >> 96) as u32,
            u32::from_le_bytes([bytes[0], bytes[4], bytes[2], bytes[6]]),
            ((u64::from(!v) << 32 | u64::from(v)) << shift >> 32) as u32,
        ];
        assert_eq!(y[8 * i..8 * i + 8], want, "{v:08x}");
    }
}

fn shared_memory_is_poison_in_every_block() {
    for seed in seeds() {
        let (mut y, mut place) = (Guarded::<u32>::zeros(64 * 50), Guarded::<u64>::zeros(100));
        run("shared_f32", 50, 32, 128, &args![&mut y, &mut place], seed);
        assert!(y.iter().all(|&v| v == u32::MAX), "seed {seed}");
        assert!(place.iter().all(|p| p % 16 == 0));
    }
}

fn launches_that_a_gpu_refuses_are_refused() {
    let mut y = Guarded::<f32>::poisoned(64);
    let go = |grid: [u32; 3], block: [u32; 3], shared: u32, y: &mut Guarded<f32>| {
        launch("das_planted_overrun_static_right_f32", grid, block, shared, &args![y], 0)
    };
    go([1, 1, 1], [64, 1, 1], 0, &mut y).unwrap();
    for (grid, block, shared) in [
        ([0, 1, 1], [64, 1, 1], 0),
        ([1, 1, 1], [0, 1, 1], 0),
        ([1, 1, 1], [65, 1, 1], 0),
        ([1, 70000, 1], [64, 1, 1], 0),
        ([1, 1, 1], [64, 1, 1], 228 << 10),
        // With the static array it is more than there is.
        ([1, 1, 1], [64, 1, 1], 227 << 10),
    ] {
        go(grid, block, shared, &mut y).unwrap_err();
    }
    let x = Guarded::<f32>::zeros(64);
    let name = "das_planted_packet_right_f32";
    let one = |args: &[das_cuda_emulator::Arg]| launch(name, [1; 3], [16, 1, 1], 0, args, 0);
    one(&args![&x, &mut y]).unwrap();
    assert!(one(&args![&x]).unwrap_err().contains("1 arguments for 2 parameters"));
    assert!(one(&args![&x, 1.0f32]).unwrap_err().contains("bytes"));
    assert!(one(&args![&x, 1i64]).unwrap_err().contains("a value"));
    assert!(one(&args![&y, &x]).unwrap_err().contains("read"));
    assert!(launch("das_nothing_f32", [1; 3], [1; 3], 0, &[], 0).unwrap_err().contains("no kernel"));
}

/// Operations per microsecond, the best of ten.
fn rate(operations: f64, mut f: impl FnMut()) -> f64 {
    let mut best = 0f64;
    for _ in 0..10 {
        let start = Instant::now();
        f();
        best = best.max(operations / start.elapsed().as_secs_f64() / 1e6);
    }
    best
}

/// `DAS_EMULATOR_THREADS=1 cargo test --test emulator speed -- --ignored --nocapture`
fn speed() {
    for seed in 0..5 {
        let (x, mut y) = (Guarded::<f32>::zeros(256), Guarded::<f32>::zeros(256));
        let waits = rate(256.0 * 400.0, || run("rounds_f32", 1, 256, 0, &args![&x, &mut y, 200], seed));
        let (x, mut y) = (Guarded::<f32>::zeros(1 << 18), Guarded::<bf16>::zeros(1 << 18));
        let threads =
            rate(f64::from(1 << 18), || run("narrow_bf16", 1024, 256, 0, &args![&x, &mut y, 1 << 18], seed));
        let product = |size: usize| {
            let n = size as i32;
            let (a, b) = (Guarded::<bf16>::zeros(size * size), Guarded::<bf16>::zeros(size * size));
            let mut c = Guarded::<f32>::zeros(size * size);
            rate((size as f64).powi(3), || {
                let (grid, arguments) = ([size as u32 / 64; 2], args![&a, &b, &mut c, n, n]);
                let grid = [grid[0], grid[1], 1];
                launch("das_op_product_bf16", grid, [128, 1, 1], 20480, &arguments, seed).unwrap();
            })
        };
        let product = product(128);
        crate::note!("seed {seed}: {waits:.0} M waits/s, {threads:.0} M threads/s, {product:.0} M MAC/s");
    }
}

fn a_product_of_tiles_is_the_product() {
    let raw = mixed(2 * 128 * 128);
    let number = |v: &u32| bf16::from_f32((v % 17) as f32 - 8.0);
    let (a, b): (Vec<_>, Vec<_>) =
        (raw[..128 * 128].iter().map(number).collect(), raw[128 * 128..].iter().map(number).collect());
    let (ga, gb) = (Guarded::from(&a), Guarded::from(&b));
    for seed in seeds() {
        let mut c = Guarded::<f32>::poisoned(128 * 128);
        let arguments = args![&ga, &gb, &mut c, 128, 128];
        launch("das_op_product_bf16", [2, 2, 1], [128, 1, 1], 20480, &arguments, seed).unwrap();
        for i in 0..128 {
            for j in (i % 7..128).step_by(7) {
                let sum: f32 = (0..128).map(|k| a[i * 128 + k].to_f32() * b[j * 128 + k].to_f32()).sum();
                assert_eq!(c[i * 128 + j], sum, "seed {seed}, {i} {j}");
            }
        }
    }
}

crate::tests![
    every_16_bit_number_widens_as_the_half_crate_says,
    floats_round_to_16_bits_as_the_half_crate_says,
    packets_are_read_and_written_whole,
    shuffles_move_what_they_say,
    votes_count_the_lanes_of_their_mask,
    barriers_count_and_wait,
    asynchronous_copies_fill_with_zeros,
    ldmatrix_gives_each_lane_its_piece,
    mma_is_a_matrix_product,
    atomics_lose_nothing,
    blocks_that_wait_for_earlier_ones_come_to_an_end,
    arithmetic_rounds_once_per_operation,
    bits_are_counted_and_moved,
    shared_memory_is_poison_in_every_block,
    launches_that_a_gpu_refuses_are_refused,
    #[ignore = "measures"]
    speed,
    a_product_of_tiles_is_the_product,
];
