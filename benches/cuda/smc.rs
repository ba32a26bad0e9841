//! Weighing and resampling, from 16 particles to 2^26. Bytes are the least that any program moves: what is
//! read once and written once.

use das_cuda::Result;
use das_cuda::backend::{Advance, Backend, ParticleId, Particles};
use das_cuda::cuda::Cuda;
use das_cuda::cuda::testing::Array64;
use das_cuda::engine::{EngineBackend, EngineSetup, Scores, StepInput};
use das_cuda::noise::{Key, Purpose};
use das_cuda::smc::{Event, Potentials, Resampler, Rules, Tempering, Weights};
use das_cuda::tensor::Shape;
use serde_json::json;

use crate::ops::random;
use crate::say;
use crate::timing::{Effort, Times, time};

const SIZES: [usize; 3] = [16, 1_000_000, 1 << 26];
const TINY_SIZES: [usize; 2] = [16, 4096];

/// A line for each size and kind of work.
pub fn run(cuda: &Cuda, effort: Effort) -> Result<()> {
    let sizes = if matches!(effort, Effort::Touch) { &TINY_SIZES[..] } else { &SIZES };
    input(cuda, effort)?;
    for &particles in sizes {
        let log_weights = cuda.download(&random(cuda, Shape::rows(particles, 1))?)?;
        let log_weights: Vec<f64> = log_weights.into_iter().map(f64::from).collect();
        let relative = Array64::upload(cuda, Weights::new(&log_weights).relative())?;
        let key = Key { seed: 1, prompt: 0, particle: 0, step: 3, purpose: Purpose::Resample };
        for resampler in Resampler::ALL {
            let times = time(cuda, effort, || cuda.resample(&relative, resampler, &key).map(drop))?;
            line(&resampler.to_string(), particles, 12 * particles, &times);
        }
    }
    Ok(())
}

/// What a run does in every step besides the networks, for 16 latents of Stable Diffusion 1.5: lengths of
/// states, noise and gradients, the weighing event, ancestors, and the move.
fn input(cuda: &Cuda, effort: Effort) -> Result<()> {
    const PARTICLES: u32 = 16;
    let shape = Shape::new(PARTICLES as usize, 64, 64, 4);
    let [x, x0, eps, grad] = [(); 4].map(|()| random(cuda, shape));
    let (x, x0, eps, grad) = (x?, x0?, eps?, grad?);
    let scores = Scores::Device(random(cuda, Shape::rows(shape.n, 1))?);
    let rules = Rules {
        tempering: Tempering::parse("exp", None, 100)?,
        resampler: Resampler::Ssp,
        ess_threshold: 0.5,
        max_shift: None,
        potentials: Potentials::Difference,
    };
    let ids: Vec<ParticleId> = (0..PARTICLES).map(|particle| ParticleId { prompt: 0, particle }).collect();
    let run =
        EngineSetup { rules: &rules, alpha: 1.0, seed: 1, prompts: &[0], ids: &ids, sample: shape.sample() };
    let Some(mut engine) = cuda.step_engine(run)? else { panic!("16 particles are weighed on the device") };
    let input = StepInput {
        x: &x,
        particles: Particles { x0: &x0, eps: &eps, grad: Some(&grad) },
        event: Some((Event::Step(50), &scores)),
        held: &[],
        shift: &[],
        look: None,
        advance: Advance {
            mean_x0: 0.5,
            mean_eps: 0.8,
            variance: 0.01,
            kappa: 1.0,
            seed: 1,
            step: 50,
            purpose: Purpose::Move,
            ids: &ids,
        },
    };
    let (samples, elements) = match effort {
        Effort::Measure(_) => (200, 1 << 26),
        Effort::Touch => (1, 1 << 10),
    };
    let busy = random(cuda, Shape::rows(elements, 1))?;
    let mut times = Times(Vec::new());
    for _ in 0..samples {
        // As in a run, the GPU is busy while the host queues a step.
        for _ in 0..4 {
            cuda.axpby(0.5, &busy, 0.5, &busy)?;
        }
        times.0.push(cuda.elapsed(|| engine.submit(input).map(drop))?);
        engine.collect()?;
    }
    // Three tensors for their lengths, three for the move, and the new state.
    line("input (ssp)", shape.n, 7 * 4 * shape.len(), &times);
    Ok(())
}

fn line(what: &str, particles: usize, bytes: usize, times: &Times) {
    let mut line = times.json();
    for (key, value) in [
        ("kind", json!("smc")),
        ("what", json!(what)),
        ("particles", json!(particles)),
        ("bytes", json!(bytes)),
    ] {
        line[key] = value;
    }
    say(line);
}
