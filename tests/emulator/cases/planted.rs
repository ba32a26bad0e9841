//! Kernels with a bug on purpose: the right form passes under every seed, the wrong one is found under some.

use das_cuda_emulator::{Arg, Guarded, args, launch, seeds};

/// Runs one form of a kernel under a seed: `Err` where the emulator reports, or a result is wrong.
fn run(case: &str, form: &str, seed: u64) -> Result<(), String> {
    let name = format!("das_planted_{case}_{form}_f32");
    let numbers: Vec<f32> = (0..1024).map(|i| i as f32).collect();
    let x = Guarded::from(&numbers);
    let go = |grid: u32, block: u32, shared: u32, a: &[Arg]| {
        launch(&name, [grid, 1, 1], [block, 1, 1], shared, a, seed)
    };
    let want = |y: &[f32], f: &dyn Fn(usize) -> f32| match (0..y.len()).find(|&i| y[i] != f(i)) {
        None => Ok(()),
        Some(i) => Err(format!("element {i} is {}, not {}", y[i], f(i))),
    };
    let mut y = Guarded::<f32>::poisoned(match case {
        "reduction" => 4,
        "copy" => 256,
        "packet" => 128,
        "overrun_global" => 1000,
        "overrun_dynamic" => 40,
        "syncwarp" | "shuffle" | "packet_copy" | "address" => 32,
        "mask" => 16,
        "block_race" => 1,
        _ => 64,
    });
    match case {
        "reduction" => {
            go(4, 256, 0, &args![&x, &mut y])?;
            want(&y, &|b| (0..256).map(|i| (256 * b + i) as f32).sum())
        }
        "copy" => {
            go(1, 64, 0, &args![&x, &mut y])?;
            want(&y, &|i| 255.0 - i as f32)
        }
        "overrun_global" => {
            go(4, 256, 0, &args![&mut y, 1000])?;
            y.check()?;
            want(&y, &|i| i as f32)
        }
        "overrun_static" => {
            go(1, 64, 0, &args![&mut y])?;
            want(&y, &|_| 1.0)
        }
        "overrun_dynamic" => {
            go(1, 64, 160, &args![&mut y, 40])?;
            want(&y, &|_| 1.0)
        }
        "divergent_barrier" => {
            go(1, 64, 0, &args![&mut y])?;
            want(&y, &|_| 2.0)
        }
        "missing_thread" => {
            go(1, 64, 0, &args![&mut y])?;
            want(&y, &|_| 1.0)
        }
        "syncwarp" => {
            go(1, 32, 0, &args![&x, &mut y])?;
            want(&y, &|i| 31.0 - i as f32)
        }
        "shuffle" => {
            go(1, 32, 0, &args![&mut y])?;
            want(&y, &|i| (i ^ 1) as f32)
        }
        "mask" => {
            go(1, 32, 0, &args![&mut y])?;
            want(&y, &|_| 10.0)
        }
        "packet" => {
            go(1, 32, 0, &args![&x, &mut y])?;
            want(&y, &|i| i as f32)
        }
        "packet_copy" => {
            go(1, 32, 0, &args![&x, &mut y])?;
            want(&y, &|i| i as f32)
        }
        "address" => {
            go(1, 32, 0, &args![&x, &mut y])?;
            want(&y, &|i| i as f32)
        }
        "pipeline" => {
            go(1, 64, 0, &args![&x, &mut y, 16])?;
            want(&y, &|i| (0..16).map(|k| (64 * k + 63 - i) as f32).sum())
        }
        _ => Err(format!("no case {case}")),
    }
}

const CASES: &[&str] = &[
    "reduction",
    "copy",
    "overrun_global",
    "overrun_static",
    "overrun_dynamic",
    "divergent_barrier",
    "missing_thread",
    "syncwarp",
    "shuffle",
    "mask",
    "packet",
    "packet_copy",
    "address",
    "pipeline",
];

#[test]
fn right_kernels_pass_under_every_seed() {
    for case in CASES {
        for seed in seeds() {
            run(case, "right", seed).unwrap_or_else(|e| panic!("{case}, seed {seed}: {e}"));
        }
    }
}

#[test]
fn wrong_kernels_are_found() {
    for case in CASES {
        let found: Vec<_> =
            seeds().into_iter().map(|s| std::panic::catch_unwind(|| run(case, "wrong", s))).collect();
        println!("{case}: {found:?}");
    }
}
