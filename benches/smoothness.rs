//! How smooth the reward of the embedded model is along its chain: lengths of the gradient with respect to
//! the noisy latent, and how much of the gain that the gradient promises is there after a shift along it, in
//! standard deviations of the step's noise.
//!
//! ```sh
//! cargo bench --bench smoothness                # the reward aesthetic
//! cargo bench --bench smoothness -- clip
//! ```
//!
//! Rows are steps of plain chains: 8 prompts of `tools/shapes/prompts-tune.txt` with 8 particles each, seed
//! 1.

use das_cuda::assets::SHAPES_FILES;
use das_cuda::backend::{Backend, ParticleId};
use das_cuda::cpu::Cpu;
use das_cuda::ddim::Schedule;
use das_cuda::model::files::Source;
use das_cuda::model::folder::ModelFolder;
use das_cuda::model::pipeline::{LongPrompts, Pipeline, Prompt};
use das_cuda::noise::Purpose;
use das_cuda::reward::{self, Reward, Spec};
use das_cuda::sampler::{Need, Target};
use das_cuda::tape::Recompute;
use das_cuda::target::{Diffusion, Gradient, Settings};
use das_cuda::tensor::HostSlice;

const PROMPTS: &str = include_str!("../tools/shapes/prompts-tune.txt");
const PARTICLES: u32 = 8;
const STEPS: usize = 50;
/// Every such step is measured.
const EVERY: usize = 6;
/// Lengths of the shifts, in standard deviations of the noise.
const SHIFTS: [f64; 4] = [0.5, 1.0, 2.0, 4.0];
const CFG_SCALE: f32 = 5.0;

fn main() -> das_cuda::Result<()> {
    let name = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or("aesthetic".into());
    let cpu = Cpu::new();
    let folder = ModelFolder::from_source(Source::Embedded(SHAPES_FILES), None)?;
    let pipeline = Pipeline::load(&cpu, &folder)?;
    let texts: Vec<String> = PROMPTS.lines().take(8).map(String::from).collect();
    let mut reward = reward::open(&[name.parse::<Spec>()?], folder.source(), &cpu)?;
    reward.prepare(&cpu, &texts)?;
    let size = pipeline.size(None, None)?;
    let inputs: Vec<Prompt<'_>> = texts.iter().map(|text| Prompt { text, negative: None }).collect();
    let encoded = pipeline.encode(&cpu, &inputs, size, CFG_SCALE, LongPrompts::Cut)?;
    let numbers: Vec<u32> = (0..texts.len() as u32).collect();
    let settings = Settings {
        cfg_scale: CFG_SCALE,
        micro_batch: 16,
        recompute: Recompute::Nothing,
        gradient: Gradient::State,
    };
    let target = Diffusion::new(&cpu, &pipeline, &reward, encoded, numbers.clone(), size, settings);
    let schedule = Schedule::new(&pipeline.scheduler, STEPS, 1.0)?;

    let of_prompt = |&prompt: &u32| (0..PARTICLES).map(move |particle| ParticleId { prompt, particle });
    let ids: Vec<ParticleId> = numbers.iter().flat_map(of_prompt).collect();
    let (shape, sample) = (size.latent.with_n(ids.len()), size.latent.sample());
    let normals = |step: usize, purpose| cpu.normals(shape, 1, step as u32, purpose, &ids);
    let mut x = cpu.download(&normals(0, Purpose::Initial)?)?;

    println!("reward {name}: {} prompts, {PARTICLES} particles each", texts.len());
    println!(
        "length of the gradient: median, 99 %, largest; then for shifts of {SHIFTS:?} standard deviations"
    );
    println!("the gain as a share of gradient times shift: quartiles, and in brackets the mean gain");
    for (k, step) in schedule.steps.iter().enumerate() {
        let need = if k % EVERY == 0 { Need::Gradient } else { Need::Noise };
        let at = |x: &[f32], need| -> das_cuda::Result<_> {
            target.evaluate(&cpu.upload(shape, HostSlice::F32(x))?, &ids, step, need)
        };
        let seen = at(&x, need)?;
        let sd = step.variance.sqrt();
        if let (Some(scores), Some(grad)) = (&seen.reward, &seen.grad) {
            let (before, grad) = (scores.download(&cpu)?, cpu.download(grad)?);
            let lengths: Vec<f64> = grad
                .chunks_exact(sample)
                .map(|g| g.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt())
                .collect();
            print!("step {k:2}  {}", quantiles(lengths.clone(), [0.5, 0.99, 1.0]));
            for shift in SHIFTS {
                let mut shifted = x.clone();
                for (i, (x, g)) in shifted.iter_mut().zip(&grad).enumerate() {
                    *x += (shift * sd * f64::from(*g) / lengths[i / sample]) as f32;
                }
                let Some(after) = at(&shifted, Need::Reward)?.reward else {
                    panic!("rewards were asked for")
                };
                let gains: Vec<f64> = after.download(&cpu)?.iter().zip(&before).map(|(a, b)| a - b).collect();
                let mean = gains.iter().sum::<f64>() / gains.len() as f64;
                let shares = gains.iter().zip(&lengths).map(|(gain, g)| gain / (shift * sd * g)).collect();
                print!("   {} ({mean:+.2})", quantiles(shares, [0.25, 0.5, 0.75]));
            }
            println!();
        }
        let (x0, eps) = (cpu.download(&seen.x0)?, cpu.download(&seen.eps)?);
        let noise = cpu.download(&normals(k, Purpose::Move)?)?;
        for (i, x) in x.iter_mut().enumerate() {
            let mean = step.mean.apply(f64::from(x0[i]), f64::from(eps[i]));
            *x = (mean + sd * f64::from(noise[i])) as f32;
        }
    }
    Ok(())
}

fn quantiles(mut values: Vec<f64>, at: [f64; 3]) -> String {
    values.sort_by(f64::total_cmp);
    let value = |q: f64| values[(q * (values.len() - 1) as f64).round() as usize];
    at.map(|q| format!("{:5.2}", value(q))).join(" ")
}
