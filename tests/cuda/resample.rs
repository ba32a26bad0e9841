//! Resampling of populations of any size on the device: the ancestors of the host, exactly.

use das_cuda::cuda::testing::Array64;
use das_cuda::cuda::{Cuda, Elem};
use das_cuda::noise::{Key, Purpose, fill_normals, uniforms};
use das_cuda::smc::{Resampler, Weights};

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
    let relative = Array64::upload(cuda, weights.relative()).unwrap();
    let found = cuda.resample(&relative, resampler, &key).unwrap().ancestors(cuda).unwrap();
    let first = found.iter().zip(&wanted).position(|(a, b)| a != b);
    assert!(found.len() == n && first.is_none(), "{resampler}, {n} particles, {what}: slot {first:?}");
    let again = cuda.resample(&relative, resampler, &key).unwrap();
    assert_eq!(again.ancestors(cuda).unwrap(), found, "the same launches twice");
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

crate::tests![
    ancestors_of_large_populations_are_those_of_the_host,
    ancestors_of_many_tiles_are_those_of_the_host,
    ancestors_do_not_depend_on_the_order_of_blocks,
    #[ignore = "minutes on the stand-in: cargo test --test cuda resample -- --ignored"]
    ancestors_of_millions_are_those_of_the_host,
];
