//! One guided step of DAS with the model inside the binary: UNet with guidance, decoder, CLIP tower, head,
//! and the gradient of the reward with respect to the latents. Throughput counts particles.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use das_cuda::assets::SHAPES_FILES;
use das_cuda::backend::{Backend, ParticleId};
use das_cuda::cpu::Cpu;
use das_cuda::ddim::Schedule;
use das_cuda::model::files::Source;
use das_cuda::model::folder::ModelFolder;
use das_cuda::model::pipeline::{LongPrompts, Pipeline, Prompt};
use das_cuda::noise::Purpose;
use das_cuda::reward::{self, Reward};
use das_cuda::sampler::{Need, Target};
use das_cuda::tape::Recompute;
use das_cuda::target::{Diffusion, Gradient, Settings};

const PARTICLES: usize = 16;

fn step(c: &mut Criterion) {
    let cpu = Cpu::new();
    let folder = ModelFolder::from_source(Source::Embedded(SHAPES_FILES), None).expect("the embedded model");
    let pipeline = Pipeline::load(&cpu, &folder).expect("its networks");
    let specs = ["aesthetic".parse().expect("a reward")];
    let mut reward = reward::open(&specs, folder.source(), &cpu).expect("its reward");
    reward.prepare(&cpu, &["a star".into()]).expect("a prompt");
    let schedule = Schedule::new(&pipeline.scheduler, 50, 1.0).expect("a schedule");
    let size = pipeline.size(None, None).expect("its own size");
    let ids: Vec<ParticleId> =
        (0..PARTICLES as u32).map(|particle| ParticleId { prompt: 0, particle }).collect();
    let x =
        cpu.normals(size.latent.with_n(PARTICLES), 0, 0, Purpose::Initial, &ids).expect("initial latents");

    let mut group = c.benchmark_group("guided step, shapes, 16 particles");
    group.throughput(Throughput::Elements(PARTICLES as u64)).sample_size(10);
    for micro_batch in [1, 2, 4, 8, 16] {
        for (name, need) in [("gradient", Need::Gradient), ("reward", Need::Reward), ("noise", Need::Noise)] {
            let prompt = Prompt { text: "a star", negative: None };
            let texts =
                pipeline.encode(&cpu, &[prompt], size, 5.0, LongPrompts::Cut).expect("an encoded prompt");
            let settings = Settings {
                cfg_scale: 5.0,
                micro_batch,
                recompute: Recompute::Nothing,
                gradient: Gradient::State,
            };
            let target = Diffusion::new(&cpu, &pipeline, &reward, texts, vec![0], size, settings);
            group.bench_function(format!("{name}/micro-batch {micro_batch}"), |b| {
                b.iter(|| {
                    black_box(target.evaluate(&x, &ids, &schedule.steps[25], need).expect("an evaluation"))
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
