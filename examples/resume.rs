//! A run that is stopped in the middle and goes on to the same bits: what it is after a step is written to a
//! file, and a second sampler starts from there.
//!
//! Data are two independent normal numbers, of which the first is the reward, so the network's answer has a
//! closed form.
//!
//! `cargo run --release --example resume`

use das_cuda::Result;
use das_cuda::backend::{Backend, ParticleId};
use das_cuda::cpu::Cpu;
use das_cuda::ddim::{Schedule, SchedulerConfig, Step};
use das_cuda::engine::{EngineBackend, Scores};
use das_cuda::sampler::{Evaluation, FinalScores, Need, Options, Sampler, Snapshot, Target};
use das_cuda::tensor::{HostSlice, Shape, Tensor};

struct Normal<'a>(&'a dyn EngineBackend);

impl Normal<'_> {
    /// The first number of each sample.
    fn rewards(&self, x: &Tensor) -> Result<Vec<f64>> {
        Ok(self.0.download(x)?.chunks_exact(2).map(|p| f64::from(p[0])).collect())
    }
}

impl Target for Normal<'_> {
    fn latent(&self) -> Shape {
        Shape::new(1, 1, 1, 2)
    }

    /// For the state `x = a data + s noise` with `a^2 + s^2 = 1`, the data's mean is `a x` and the noise's `s
    /// x`.
    fn evaluate(&self, x: &Tensor, _: &[ParticleId], step: &Step, need: Need) -> Result<Evaluation> {
        let (a, s) = (step.alpha_bar.sqrt() as f32, (1.0 - step.alpha_bar).sqrt() as f32);
        let x0 = self.0.scale(a, x)?;
        let rewards = self.rewards(&x0)?;
        let slopes = [a, 0.0].repeat(rewards.len());
        Ok(Evaluation {
            eps: self.0.scale(s, x)?,
            x0,
            reward: (need >= Need::Reward).then_some(Scores::Host(rewards)),
            grad: match need {
                Need::Gradient => Some(self.0.upload(x.shape(), HostSlice::F32(&slopes))?),
                _ => None,
            },
            correction: None,
        })
    }

    fn finish(&self, x: &Tensor, _: &[ParticleId]) -> Result<FinalScores> {
        Ok(FinalScores { images: x.clone(), reward: self.rewards(x)?, parts: Vec::new() })
    }
}

fn main() -> Result<()> {
    let cpu = Cpu::new();
    let target = Normal(&cpu);
    let schedule = Schedule::new(&SchedulerConfig::stable_diffusion(), 50, 1.0)?;
    let options = Options { particles: 64, ..Options::new(7, schedule.len()) };
    let sampler = || Sampler::new(&cpu, &target, &schedule, options.clone());

    // Twenty steps, and the process could end here.
    let mut stopped = sampler()?;
    for step in stopped.by_ref().take(20) {
        step?;
    }
    let file = stopped.snapshot()?.to_bytes()?;
    println!("after 20 steps the run is {} bytes", file.len());

    let resumed = sampler()?.restore(&Snapshot::from_bytes(&file)?)?.run()?.swap_remove(0);
    let whole = sampler()?.run()?.swap_remove(0);
    assert_eq!(cpu.download(&resumed.x)?, cpu.download(&whole.x)?);
    assert_eq!((resumed.log_weights, resumed.log_z), (whole.log_weights, whole.log_z));
    println!("log Z {:.6} either way", resumed.log_z);
    Ok(())
}
