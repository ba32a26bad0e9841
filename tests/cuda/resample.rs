//! Resampling of populations of any size on the device: the ancestors of the host, exactly.

use das_cuda::backend::Backend;
use das_cuda::cuda::{Cuda, Elem};
use das_cuda::noise::{Key, Purpose, fill_normals, uniforms};
use das_cuda::smc::{Resampler, Weights};
use das_cuda::tensor::{HostSlice, Shape};

use crate::device;

/// Log-weights that have caught out resamplers before.
pub fn populations(n: usize) -> Vec<(&'static str, Vec<f32>)> {
    let normal = |spread: f32, stream: u32| {
        let mut z = vec![0.0; n];
        let key = Key { seed: 8, prompt: 0, particle: stream, step: n as u32, purpose: Purpose::Data };
        fill_normals(&key, &mut z);
        z.iter_mut().for_each(|z| *z *= spread);
        z
    };
    let alone = |at: usize| (0..n).map(|p| if p == at { 3.0 } else { f32::NEG_INFINITY }).collect::<Vec<_>>();
    let mut dead = normal(1.0, 3);
    for (p, v) in dead.iter_mut().enumerate() {
        match p % 7 {
            0 => *v = f32::NAN,
            3 => *v = f32::INFINITY,
            4 | 5 => *v = f32::NEG_INFINITY,
            _ => {}
        }
    }
    let mut rising = normal(4.0, 4);
    rising.sort_by(f32::total_cmp);
    vec![
        ("spread 0.1", normal(0.1, 0)),
        ("spread 1", normal(1.0, 1)),
        ("spread 4", normal(4.0, 2)),
        ("the first alone", alone(0)),
        ("the last alone", alone(n - 1)),
        ("one in the middle alone", alone(n / 2)),
        ("equal", vec![-1.5; n]),
        ("many dead", dead),
        ("all dead", vec![f32::NAN; n]),
        ("rising", rising),
        // Every other particle has nothing, and the sums of halves are exact.
        ("every other", (0..n).map(|p| if p % 2 == 0 { 0.0 } else { f32::NEG_INFINITY }).collect()),
    ]
}

pub fn compare(cuda: &Cuda, n: usize, log_weights: &[f32], resampler: Resampler, what: &str) {
    let key = Key { seed: 1 << 40 | n as u64, prompt: 12, particle: 3, step: 5, purpose: Purpose::Resample };
    let weights = Weights::new(&log_weights.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
    let mut u = uniforms(key);
    let wanted = resampler.ancestors(weights.relative(), &mut || u.draw());
    let x = cuda.upload(Shape::new(n, 1, 1, 1), HostSlice::F32(log_weights)).unwrap();
    let resampled = cuda.resample(&x, resampler, &key).unwrap();
    let found = resampled.ancestors(cuda).unwrap();
    let first = found.iter().zip(&wanted).position(|(a, b)| a != b);
    assert!(found.len() == n && first.is_none(), "{resampler}, {n} particles, {what}: slot {first:?}");
    let (log_sum, ess) = resampled.summary(cuda).unwrap();
    if weights.collapsed() {
        assert_eq!(log_sum, f64::NEG_INFINITY);
    } else {
        // Another order of at most 2^10 roundings, measured 4e-15.
        assert!((log_sum - weights.log_sum()).abs() < 1e-12, "{what}: {log_sum}");
    }
    assert!((ess / weights.ess() - 1.0).abs() < 1e-12, "{what}: {ess} and {}", weights.ess());
    let again = cuda.resample(&x, resampler, &key).unwrap();
    assert_eq!(again.summary(cuda).unwrap(), (log_sum, ess), "the same launches twice");
}

/// One tile, part of a tile, several tiles, and a size that is no multiple of anything.
fn ancestors_of_large_populations_are_those_of_the_host() {
    let cuda = device::open(Elem::F32);
    for n in [1, 2, 3, 5, 33, 1000, 1023, 1024, 1025, 4095, 4096, 4097, 12_291] {
        for (what, log_weights) in populations(n) {
            for resampler in Resampler::ALL {
                compare(&cuda, n, &log_weights, resampler, what);
            }
        }
    }
}

/// More tiles than a warp looks at at once.
fn ancestors_of_many_tiles_are_those_of_the_host() {
    let cuda = device::open(Elem::F32);
    let n = 150_003;
    for (what, log_weights) in populations(n) {
        for resampler in Resampler::ALL {
            compare(&cuda, n, &log_weights, resampler, what);
        }
    }
}

/// Blocks in orders of the stand-in's choice, which pause where they look at each other's sums.
fn ancestors_do_not_depend_on_the_order_of_blocks() {
    let cuda = device::open(Elem::F32);
    device::stand_in_only("the order of threads on a GPU is its own");
    let n = 50_001;
    for seed in 1..=3 {
        das_cuda_emulator::seed_driver(seed);
        for (what, log_weights) in populations(n).into_iter().step_by(2) {
            for resampler in Resampler::ALL {
                compare(&cuda, n, &log_weights, resampler, what);
            }
        }
    }
    das_cuda_emulator::seed_driver(0);
}

fn ancestors_of_millions_are_those_of_the_host() {
    let cuda = device::open(Elem::F32);
    // With more than 2^23, integer weights have fewer bits.
    for (n, which) in [((1 << 20) + 4 * 1024 + 3, 0..5), ((1 << 23) + 1, 1..2)] {
        for (what, log_weights) in populations(n).drain(which) {
            for resampler in Resampler::ALL {
                compare(&cuda, n, &log_weights, resampler, what);
            }
        }
    }
}

fn rows_follow_their_ancestors() {
    let cuda = device::open(Elem::Bf16);
    rows(&cuda);
}

/// Of a 16-bit device.
pub fn rows(cuda: &Cuda) {
    let n = 1111;
    let (_, log_weights) = populations(n).swap_remove(2);
    let x = cuda.upload(Shape::new(n, 1, 1, 1), HostSlice::F32(&log_weights)).unwrap();
    let key = Key { seed: 2, prompt: 0, particle: 0, step: 0, purpose: Purpose::Resample };
    let resampled = cuda.resample(&x, Resampler::Systematic, &key).unwrap();
    let ancestors = resampled.ancestors(cuda).unwrap();
    // Rows of 4, 8, 12, 16 bytes; of 16-bit elements 16; and of several units.
    for d in [1, 2, 3, 4, 8, 12, 28] {
        let host: Vec<f32> = (0..n * d).map(|i| (i % 251) as f32).collect();
        let x = cuda.upload(Shape::new(n, 1, 1, d), HostSlice::F32(&host)).unwrap();
        let y = cuda.gather_resampled(&x, &resampled).unwrap();
        let wanted: Vec<f32> = ancestors.iter().flat_map(|&a| host[a as usize * d..][..d].to_vec()).collect();
        assert_eq!(cuda.download(&y).unwrap(), wanted, "rows of {d}");
    }
}

crate::tests![
    ancestors_of_large_populations_are_those_of_the_host,
    ancestors_of_many_tiles_are_those_of_the_host,
    ancestors_do_not_depend_on_the_order_of_blocks,
    #[ignore = "minutes on the stand-in: cargo test --test cuda resample -- --ignored"]
    ancestors_of_millions_are_those_of_the_host,
    rows_follow_their_ancestors,
];
