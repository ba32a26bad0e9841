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
        "overrun_static" | "missing_thread" => {
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
        "block_race" => {
            let mut sum = Guarded::<i32>::zeros(1);
            go(64, 32, 0, &args![&mut sum])?;
            if sum[0] == 2016 { Ok(()) } else { Err(format!("the sum is {}, not 2016", sum[0])) }
        }
        "ticket" | "hand_over" => {
            let x = Guarded::from(&(0..64).map(|i| i * i + 1).collect::<Vec<u64>>());
            let (mut y, mut control) = (Guarded::<u64>::zeros(64), Guarded::<u64>::zeros(1 + 2 * 64));
            go(64, 32, 0, &args![&x, &mut y, &mut control])?;
            match (0..64).find(|&i| y[i] != x[..=i].iter().sum()) {
                None => Ok(()),
                Some(i) => Err(format!("element {i} is {}, not that", y[i])),
            }
        }
        "packet" | "packet_copy" | "address" => {
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

/// The kernels of planted.cu, and what is said of the wrong form. Empty: the result is wrong.
const CASES: &[(&str, &str)] = &[
    ("reduction", ""),
    ("copy", ""),
    ("overrun_global", "wrote outside of a buffer"),
    ("overrun_static", "wrote outside of s (256 bytes"),
    ("overrun_dynamic", "wrote outside of the dynamic array (160 bytes"),
    ("divergent_barrier", "divergent __syncthreads"),
    ("missing_thread", "spins without end"),
    ("syncwarp", ""),
    ("ticket", ""),
    ("hand_over", ""),
    ("shuffle", "deadlock"),
    ("mask", "reads from lane 20, which does not take part"),
    ("packet", "illegal or misaligned address"),
    ("packet_copy", "misaligned cp.async"),
    ("address", "illegal or misaligned address"),
    ("pipeline", ""),
];

fn right_kernels_pass_under_every_seed() {
    for (case, _) in CASES {
        for seed in seeds() {
            run(case, "right", seed).unwrap_or_else(|e| panic!("{case}, seed {seed}: {e}"));
        }
    }
}

/// A sanitizer ends the process at some of these: there they run one by one (`.ci/sanitize`).
fn wrong_kernels_are_found() {
    for (case, words) in CASES {
        let found: Vec<String> = seeds().into_iter().filter_map(|s| run(case, "wrong", s).err()).collect();
        crate::note!("{case}: {} of {} seeds", found.len(), seeds().len());
        let said = if words.is_empty() { "not" } else { words };
        assert!(found.iter().all(|e| e.contains(said)), "{case}: {found:?}");
        // A report is certain; a wrong result needs an order that shows it.
        let enough = if words.is_empty() { seeds().len() / 2 + 1 } else { seeds().len() };
        assert!(found.len() >= enough, "{case}: found {found:?}");
    }
}

/// Where a report names a kernel's text, it names the line.
fn reports_name_file_and_line() {
    let divergent = run("divergent_barrier", "wrong", 0).unwrap_err();
    assert!(divergent.contains("planted.cu:"), "{divergent}");
    let deadlock = run("shuffle", "wrong", 0).unwrap_err();
    assert_eq!(deadlock.matches("planted.cu:").count(), 2, "{deadlock}");
    let copy = run("packet_copy", "wrong", 0).unwrap_err();
    assert!(copy.contains("mma.cuh:") && copy.contains("thread (0,0,0)"), "{copy}");
}

/// One wrong kernel, in a process that a sanitizer may end: `DAS_PLANTED` names it.
fn alone() {
    let case = std::env::var("DAS_PLANTED").expect("DAS_PLANTED names a case");
    for seed in seeds() {
        // Whether the result shows the bug is not the question here.
        let _ = run(&case, "wrong", seed);
    }
}

crate::tests![
    right_kernels_pass_under_every_seed,
    wrong_kernels_are_found,
    reports_name_file_and_line,
    #[ignore = "for .ci/sanitize"]
    alone,
];
