//! Rewards whose operations have shapes that no network has.

use std::sync::Arc;

use das_cuda::assets::SHAPES_FILES;
use das_cuda::backend::Backend;
use das_cuda::cpu::{Cpu, Round};
use das_cuda::cuda::Elem;
use das_cuda::model::files::Source;
use das_cuda::reward::{Reward, Sum, open};
use das_cuda::surrogate::{Optimism, Pair, Settings, Shared, Spread, SurrogateReward};
use das_cuda::tape::Tape;
use das_cuda::tensor::{HostSlice, Shape};

use crate::device;
use crate::parity::error;
use crate::{note, tests};

/// The reward of the embedded model of this name.
fn named(backend: &dyn Backend, name: &str) -> Sum {
    open(&[name.parse().unwrap()], &Source::Embedded(SHAPES_FILES), backend).unwrap()
}

/// Scores of two images of `h` by `w` pixels and their gradient.
fn judged(backend: &dyn Backend, mut reward: impl Reward, h: usize, w: usize) -> [Vec<f32>; 2] {
    reward.prepare(backend, &[String::new()]).unwrap();
    let shape = Shape::new(2, h, w, 3);
    let pixel = |i: usize| 0.5 + 0.4 * ((i as f32 * 0.37).sin() * (i as f32 * 0.0011).cos());
    let pixels: Vec<f32> = (0..shape.len()).map(pixel).collect();
    let images = backend.upload(shape, HostSlice::F32(&pixels)).unwrap();
    let tape = Tape::new(backend);
    let leaf = tape.watch(images);
    let score = reward.score(&tape, &leaf, &[0, 0]).unwrap();
    let scores = backend.download(score.value()).unwrap();
    let seed = backend.upload(score.shape(), HostSlice::F32(&[1.0, 0.5])).unwrap();
    let gradient = tape.gradient(&score, seed, &leaf).unwrap().unwrap();
    [scores, backend.download(&gradient).unwrap()]
}

/// Scores and gradients on the GPU against the CPU: in f32 sums of a few thousand terms in other orders; in
/// 16 bits at most three times as far from them as the CPU that rounds every result.
fn as_on_the_cpu(what: &str, judged: impl Fn(&dyn Backend) -> [Vec<f32>; 2]) {
    let exact = judged(&Cpu::new());
    assert!(exact[1].iter().any(|g| *g != 0.0), "a gradient");
    for elem in device::elems() {
        let found = judged(&device::open(elem));
        let round = match elem {
            Elem::F16 => Some(Round::F16),
            Elem::Bf16 => Some(Round::Bf16),
            Elem::F32 | Elem::U32 => None,
        };
        let honest = judged(&Cpu::with_rounding(round));
        for (which, (found, exact)) in ["score", "gradient"].into_iter().zip(found.iter().zip(&exact)) {
            let honest = &honest[usize::from(which == "gradient")];
            let (off, allowed) = (error(found, exact), 1e-4 + 3.0 * error(honest, exact));
            note!("{what}, {elem:?} {which}: off by {off:.1e} of {allowed:.1e}");
            assert!(off <= allowed, "{what}, {elem:?} {which}: {off:.1e} > {allowed:.1e}");
        }
    }
}

/// Of images whose sides are no whole units.
fn the_jpeg_proxy_is_that_of_the_cpu() {
    as_on_the_cpu("jpeg-proxy", |backend| judged(backend, named(backend, "jpeg-proxy"), 37, 50));
}

/// Through the embedded model's CLIP tower, of surrogates that have learned from a few pairs: the bonus and
/// the largest of several heads are made of operations in shapes that nothing else has.
fn a_surrogate_is_that_of_the_cpu() {
    let value = |i: usize, k: usize| ((i * 131 + k * 7) as f32 * 0.61).sin();
    let pair = |i: usize| {
        let row: Vec<f32> = (0..128).map(|k| value(i, k)).collect();
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        let embedding = row.iter().map(|x| x / length).collect();
        Pair { embedding, answer: f64::from(value(i, 1000)) }
    };
    let pairs: Vec<Pair> = (0..12).map(pair).collect();
    for optimism in [Optimism::Ucb(Spread::Sum), Optimism::Bootstrap] {
        let settings = Settings { epochs: 3, ..Settings::new(optimism) };
        let learned = settings.fit(&Cpu::new(), &pairs, None, (1, 0), |_| Ok(())).unwrap();
        let shared = Shared::default();
        shared.set(Some(Arc::new(learned)), true);
        as_on_the_cpu(optimism.name(), |backend| {
            let tower = Box::new(named(backend, "aesthetic"));
            judged(backend, SurrogateReward::new(tower, shared.clone(), 0.1), 48, 64)
        });
    }
}

tests![the_jpeg_proxy_is_that_of_the_cpu, a_surrogate_is_that_of_the_cpu];
