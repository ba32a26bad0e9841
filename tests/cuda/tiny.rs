//! The decoder of a tiny autoencoder: latents and pictures are f32, and what is between is of the device's
//! type.

use std::path::Path;

use das_cuda::backend::Backend;
use das_cuda::cpu::{Cpu, Round};
use das_cuda::cuda::Elem;
use das_cuda::model::config::DecoderConfig;
use das_cuda::model::decoder::ImageDecoder;
use das_cuda::model::files::Source;
use das_cuda::tape::Tape;
use das_cuda::tensor::{HostSlice, Shape};

use crate::{device, parity};

/// A picture, and the gradient of the sum of its elements, weighed.
fn decoded(backend: &dyn Backend) -> [Vec<f32>; 2] {
    let source = Source::Dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/vae_tiny"));
    let config = DecoderConfig::open(&source, "").unwrap();
    let decoder = ImageDecoder::load(backend, &source.checkpoint("", None).unwrap(), &config).unwrap();
    let upload = |shape: Shape, step: f32, scale: f32| {
        let data: Vec<f32> = (0..shape.len()).map(|i| (i as f32 * step).sin() * scale).collect();
        backend.upload(shape, HostSlice::F32(&data)).unwrap()
    };
    let tape = Tape::new(backend);
    let leaf = tape.watch(upload(Shape::new(2, 12, 20, 4), 0.7, 4.0));
    let image = decoder.decode(&tape, &leaf).unwrap();
    let weights = upload(image.shape(), 1.3, 1.0);
    let found = backend.download(image.value()).unwrap();
    let gradient = tape.gradient(&image, weights, &leaf).unwrap().unwrap();
    [found, backend.download(&gradient).unwrap()]
}

fn a_tiny_autoencoder_decodes_as_rounding_allows() {
    let truth = decoded(&Cpu::new());
    for elem in device::elems() {
        let found = decoded(&device::open(elem));
        let round = match elem {
            Elem::Bf16 => Some(Round::Bf16),
            Elem::F16 => Some(Round::F16),
            _ => None,
        };
        let honest = decoded(&Cpu::with_rounding(round));
        for ((found, honest), truth) in found.iter().zip(&honest).zip(&truth) {
            let [error, rounded] = [found, honest].map(|x| parity::error(x, truth));
            // In f32 the CPU is the truth: a few roundings of 2^-24 in ten layers.
            let allowed = if round.is_some() { 2.0 * rounded } else { 1e-6 };
            println!("{elem:?}: {error:.2e}, the CPU {rounded:.2e}");
            assert!(error <= allowed, "{elem:?}: {error:.2e}, allowed {allowed:.2e}");
        }
    }
}

crate::tests![a_tiny_autoencoder_decodes_as_rounding_allows];
