//! Text encoders that have learned a word, and texts in windows: on the GPU as on the CPU.

use std::path::Path;

use das_cuda::backend::Backend;
use das_cuda::cpu::Cpu;
use das_cuda::cuda::Elem;
use das_cuda::model::embedding::{Embedding, Spec};
use das_cuda::model::folder::ModelFolder;
use das_cuda::model::pipeline::{LongPrompts, Pipeline, Prompt};
use das_cuda::tape::Tape;
use das_cuda::tensor::{HostSlice, Shape};

use crate::device;
use crate::golden::{LEAST, SLACK, assemble, nmse};
use crate::note;

/// Normalised mean squared errors measured on the stand-in: states 3.2e-14, pooled text 8.6e-14, noise
/// 9.2e-13.
fn learned_words_and_windows_condition_as_on_the_cpu() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/embeddings/xl.safetensors");
    let dir = assemble("pipeline_sdxl");
    let noise = |backend: &dyn Backend| {
        let word = Embedding::open(&Spec { name: Some("<pair>".into()), path: file.clone() }).unwrap();
        let folder = ModelFolder::open(dir.path(), None).unwrap().with_embeddings(vec![word]).unwrap();
        let pipeline = Pipeline::load(backend, &folder).unwrap();
        let text = "a large red star and a <pair> ring, ".repeat(4);
        let prompts = [Prompt { text: &text, negative: Some("blurry <pair>") }];
        let size = pipeline.size(Some(12), Some(20)).unwrap();
        let encoded = pipeline.encode(backend, &prompts, size, 4.0, LongPrompts::Chunk).unwrap();
        let texts = pipeline.read(backend, &[&text], Some(2)).unwrap();
        assert_eq!(texts.states.shape(), Shape::new(1, 1, 64, 28));
        let x: Vec<f32> = (0..240).map(|i| (i as f32 * 0.7).sin()).collect();
        let x = backend.upload(Shape::new(1, 6, 10, 4), HostSlice::F32(&x)).unwrap();
        let rows = encoded.rows(&[0], true);
        let tape = Tape::off(backend);
        let both = pipeline.unet.forward(&tape, &x.into(), 500.0, &encoded.conditioning, &rows).unwrap();
        [&texts.states, &texts.pooled.unwrap(), both.value()].map(|found| backend.download(found).unwrap())
    };
    let [on_gpu, on_cpu] = [noise(&device::open(Elem::F32)), noise(&Cpu::new())];
    for ((what, found), expected) in ["states", "pooled", "noise"].into_iter().zip(&on_gpu).zip(&on_cpu) {
        let error = nmse(found, expected);
        note!("{what}: {error:.1e}");
        // The UNet is deeper than a text encoder by as much as its golden file says: tests/embeddings.rs.
        let yardstick = if what == "noise" { 2.6e-12 } else { LEAST };
        // Both have roundings of their own.
        assert!(error <= 2.0 * SLACK * yardstick, "{what}: {error:.1e}");
    }
}

crate::tests![learned_words_and_windows_condition_as_on_the_cpu];
