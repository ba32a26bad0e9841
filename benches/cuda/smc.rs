//! Weighing and resampling, from 16 particles to 2^26. Bytes are the least that any program moves: what is read once and
//! written once.

use das_cuda::Result;
use das_cuda::cuda::{Cuda, Populations, Weighing, Wide};
use das_cuda::noise::{Key, Purpose};
use das_cuda::smc::{Event, Resampler, Rules, Tempering};
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
    weigh(cuda, effort)?;
    for &particles in sizes {
        let log_weights = random(cuda, Shape::rows(particles, 1))?;
        let x = random(cuda, Shape::rows(particles, 2))?;
        let key = Key { seed: 1, prompt: 0, particle: 0, step: 3, purpose: Purpose::Resample };
        for resampler in [Resampler::Systematic, Resampler::Stratified] {
            let times = time(cuda, effort, || cuda.resample(&log_weights, resampler, &key).map(drop))?;
            line(&resampler.to_string(), particles, 8 * particles, &times);
        }
        let resampled = cuda.resample(&log_weights, Resampler::Systematic, &key)?;
        let times = time(cuda, effort, || cuda.gather_resampled(&x, &resampled).map(drop))?;
        line("gather 2 x f32", particles, 20 * particles, &times);
    }
    Ok(())
}

/// A weighing event of 16 particles as in every step of a run: tempering, weights, effective size, ancestors.
fn weigh(cuda: &Cuda, effort: Effort) -> Result<()> {
    const PARTICLES: usize = 16;
    let ratio = Wide::upload(cuda, &[0.0; PARTICLES])?;
    let potential: Vec<f64> = (0..PARTICLES as u64).map(|p| f64::from(crate::folder::normal(p))).collect();
    let potential = Wide::upload(cuda, &potential)?;
    let rules = Rules {
        tempering: Tempering::parse("exp", None, 100)?,
        resampler: Resampler::Ssp,
        ess_threshold: 0.5,
    };
    let weighing =
        Weighing { rules: &rules, event: Event::Step(50), step: 50, seed: 1, alpha: 1.0, gather: true };
    let mut populations = Populations::new(cuda, &[0], PARTICLES)?;
    let times = time(cuda, effort, || populations.weigh(cuda, &ratio, &potential, weighing).map(drop))?;
    line("weigh (ssp)", PARTICLES, 8 * 2 * PARTICLES, &times);
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
