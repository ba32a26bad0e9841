//! Rewards whose operations have shapes that no network has.

use das_cuda::assets::SHAPES_FILES;
use das_cuda::backend::Backend;
use das_cuda::cpu::{Cpu, Round};
use das_cuda::cuda::Elem;
use das_cuda::model::files::Source;
use das_cuda::reward::{Reward, open};
use das_cuda::tape::Tape;
use das_cuda::tensor::{HostSlice, Shape};

use crate::device;
use crate::parity::error;
use crate::{note, tests};

/// Scores of `jpeg-proxy` and their gradient, of images whose sides are no whole units.
fn jpeg_proxy(backend: &dyn Backend) -> [Vec<f32>; 2] {
    let spec = "jpeg-proxy".parse().unwrap();
    let mut reward = open(&[spec], &Source::Embedded(SHAPES_FILES), backend).unwrap();
    reward.prepare(backend, &[String::new()]).unwrap();
    let shape = Shape::new(2, 37, 50, 3);
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

/// In f32 sums of a few thousand terms in other orders; in 16 bits at most three times as far from them as
/// the CPU that rounds every result.
fn the_jpeg_proxy_is_that_of_the_cpu() {
    let exact = jpeg_proxy(&Cpu::new());
    assert!(exact[1].iter().any(|g| *g != 0.0), "a gradient");
    for elem in device::elems() {
        let found = jpeg_proxy(&device::open(elem));
        let round = match elem {
            Elem::F16 => Some(Round::F16),
            Elem::Bf16 => Some(Round::Bf16),
            Elem::F32 | Elem::U32 => None,
        };
        let honest = jpeg_proxy(&Cpu::with_rounding(round));
        for (which, (found, exact)) in ["score", "gradient"].into_iter().zip(found.iter().zip(&exact)) {
            let honest = &honest[usize::from(which == "gradient")];
            let (off, allowed) = (error(found, exact), 1e-4 + 3.0 * error(honest, exact));
            note!("{elem:?} {which}: off by {off:.1e} of {allowed:.1e}");
            assert!(off <= allowed, "{elem:?} {which}: {off:.1e} > {allowed:.1e}");
        }
    }
}

tests![the_jpeg_proxy_is_that_of_the_cpu];
