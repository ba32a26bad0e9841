//! The target on the model inside the program: the gradient against difference quotients through reward,
//! decoder and both branches of the UNet, and that an answer depends on its own particle alone, bit for bit.

use das_cuda::ErrorKind;
use das_cuda::assets::SHAPES_FILES;
use das_cuda::backend::{Backend, ParticleId};
use das_cuda::cpu::Cpu;
use das_cuda::ddim::Schedule;
use das_cuda::engine::EngineBackend;
use das_cuda::meter::Meter;
use das_cuda::method::{Bootstrap, Das, Method, Plain};
use das_cuda::model::files::Source;
use das_cuda::model::folder::ModelFolder;
use das_cuda::model::pipeline::{LongPrompts, Pipeline, Prompt};
use das_cuda::noise::Purpose;
use das_cuda::reward::{self, Reward, Spec, Sum};
use das_cuda::sampler::{Evaluation, Need, Options, Population, Sampler, Target};
use das_cuda::smc::{Potentials, Resampler, Rules, Tempering};
use das_cuda::tape::Recompute;
use das_cuda::target::{Diffusion, Gradient, Settings};
use das_cuda::tensor::{HostSlice, Shape, Tensor};

/// The model, a reward and the prompts of a run.
struct World<'b> {
    backend: &'b dyn EngineBackend,
    pipeline: Pipeline,
    reward: Sum,
}

const TEXTS: [&str; 3] = ["a star", "a large red circle on a blue background", ""];

impl<'b> World<'b> {
    /// With `rewards` as typed.
    fn new(backend: &'b dyn EngineBackend, rewards: &[&str]) -> World<'b> {
        let folder = ModelFolder::from_source(Source::Embedded(SHAPES_FILES), None).expect("the model");
        let pipeline = Pipeline::load(backend, &folder).expect("a pipeline");
        let specs: Vec<Spec> = rewards.iter().map(|r| r.parse().expect("a reward")).collect();
        let mut reward = reward::open(&specs, folder.source(), backend).expect("rewards");
        reward.prepare(backend, &TEXTS.map(String::from)).expect("prompts");
        World { backend, pipeline, reward }
    }

    /// The three texts as prompts 7, 0 and 3 of a run.
    fn target(&self, cfg_scale: f32, micro_batch: usize) -> Diffusion<'_> {
        self.guide_with(Settings {
            cfg_scale,
            micro_batch,
            recompute: Recompute::Nothing,
            gradient: Gradient::State,
        })
    }

    fn guide_with(&self, settings: Settings) -> Diffusion<'_> {
        let size = self.pipeline.size(None, None).expect("a size");
        let prompts = TEXTS.map(|text| Prompt { text, negative: (text == "a star").then_some("a ring") });
        let encoded = self
            .pipeline
            .encode(self.backend, &prompts, size, settings.cfg_scale, LongPrompts::Cut)
            .expect("texts");
        let numbers = vec![7, 0, 3];
        Diffusion::new(self.backend, &self.pipeline, &self.reward, encoded, numbers, size, settings)
    }

    fn schedule(&self, steps: usize) -> Schedule {
        Schedule::new(&self.pipeline.scheduler, steps, 1.0).expect("a chain")
    }

    fn latents(&self, ids: &[ParticleId]) -> Tensor {
        let shape = self.pipeline.size(None, None).expect("a size").latent.with_n(ids.len());
        self.backend.normals(shape, 3, 0, Purpose::Initial, ids).expect("latents")
    }
}

const IDS: [ParticleId; 5] = [
    ParticleId { prompt: 0, particle: 0 },
    ParticleId { prompt: 7, particle: 0 },
    ParticleId { prompt: 7, particle: 3 },
    ParticleId { prompt: 3, particle: 1 },
    ParticleId { prompt: 0, particle: 2 },
];

fn bits(backend: &dyn Backend, x: &Tensor) -> Vec<u32> {
    backend.download(x).expect("elements").into_iter().map(f32::to_bits).collect()
}

fn rewards(backend: &dyn Backend, evaluation: &Evaluation) -> Vec<f64> {
    evaluation.reward.as_ref().expect("wanted").download(backend).expect("rewards")
}

/// Everything a look says, as bits.
fn evaluation_bits(backend: &dyn Backend, evaluation: &Evaluation) -> Vec<Vec<u32>> {
    let reward = evaluation.reward.as_ref().map(|scores| scores.download(backend).expect("rewards"));
    let reward = reward.iter().flatten().map(|r| (*r as f32).to_bits()).collect();
    let (grad, correction) = (evaluation.grad.as_ref(), evaluation.correction.as_ref());
    let tensors = [Some(&evaluation.eps), Some(&evaluation.x0), grad, correction];
    tensors.into_iter().flatten().map(|x| bits(backend, x)).chain([reward]).collect()
}

/// Test 9 of docs/spec.md 14, without guidance and with, early and late in the chain: along a random
/// direction d the difference quotient of the reward is `<grad, d>`. Smooth networks alone agree to 1e-3
/// (measured); here the clamp of 12 288 pixels to [0, 1] has some of its corners inside any step that is not
/// lost in f32 (a single pixel is 1 % of the slope), so the root mean square over 15 gradients may be off by
/// 2 % of theirs (measured: 0.6 %). A guidance with one branch only must fail (at the last of the three
/// points; measured: 35 % of all).
#[test]
fn the_gradient_is_that_of_the_reward_through_both_branches() {
    let cpu = Cpu::new();
    let world = World::new(&cpu, &["aesthetic", "clip=0.5"]);
    let schedule = world.schedule(20);
    let x = world.latents(&IDS);
    let host = cpu.download(&x).expect("elements");
    let directions = cpu.normals(x.shape(), 99, 0, Purpose::Data, &IDS).expect("directions");
    let directions = cpu.download(&directions).expect("elements");
    // (slope along the direction, length) of each particle's gradient.
    let slopes = |grad: &Tensor| -> Vec<(f64, f64)> {
        let grad = cpu.download(grad).expect("elements");
        let each = grad.chunks(x.shape().sample()).zip(directions.chunks(x.shape().sample()));
        each.map(|(g, d)| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            (dot(g, d), dot(g, g).sqrt())
        })
        .collect()
    };
    let (mut off, mut one_branch, mut size) = (0.0, 0.0, 0.0);
    for (scale, k) in [(1.0, 12), (5.0, 2), (5.0, 12)] {
        let target = world.target(scale, 5);
        let step = &schedule.steps[k];
        let reward_at = |h: f32| {
            let moved: Vec<f32> = host.iter().zip(&directions).map(|(x, d)| x + h * d).collect();
            let moved = cpu.upload(x.shape(), HostSlice::F32(&moved)).expect("latents");
            rewards(&cpu, &target.evaluate(&moved, &IDS, step, Need::Reward).expect("an evaluation"))
        };
        let h = 0.0005;
        let (after, before) = (reward_at(h), reward_at(-h));
        let grad = |target: &Diffusion<'_>| {
            slopes(
                &target
                    .evaluate(&x, &IDS, step, Need::Gradient)
                    .expect("an evaluation")
                    .grad
                    .expect("a gradient"),
            )
        };
        let right = grad(&target);
        let wrong = if (scale, k) == (5.0, 12) { grad(&world.target(1.0, 5)) } else { right.clone() };
        for p in 0..IDS.len() {
            let quotient = (after[p] - before[p]) / (2.0 * f64::from(h));
            let (slope, length) = right[p];
            assert!((slope - quotient).abs() < 0.02 * length, "scale {scale}, step {k}, particle {p}");
            off += (slope - quotient).powi(2);
            one_branch += (wrong[p].0 - quotient).powi(2);
            size += length * length;
            println!(
                "scale {scale}, step {k}, particle {p}: {slope:.4} against {quotient:.4}, |g| {length:.4}"
            );
        }
    }
    let [off, one_branch] = [off, one_branch].map(|sum: f64| (sum / size).sqrt());
    println!("off by {off:.4} |g|, with one branch by {one_branch:.4}");
    assert!(off < 0.02 && one_branch > 0.1);
}

/// The gradient at the clean latent is sqrt(alpha_bar) times the slope of decoder and reward there; the
/// tolerance is that of the test above, for the same reason (measured: 0.08 %). The gradient back
/// through the UNet must fail. Noise, clean latent and reward are those of the other gradient.
#[test]
fn the_clean_gradient_stops_at_the_predicted_image() {
    let cpu = Cpu::new();
    let world = World::new(&cpu, &["aesthetic", "clip=0.5"]);
    let schedule = world.schedule(20);
    let x = world.latents(&IDS);
    let sample = x.shape().sample();
    let directions = cpu.normals(x.shape(), 99, 0, Purpose::Data, &IDS).expect("directions");
    let directions = cpu.download(&directions).expect("elements");
    let through_unet = world.target(5.0, 5);
    let settings =
        Settings { cfg_scale: 5.0, micro_batch: 2, recompute: Recompute::Nothing, gradient: Gradient::Clean };
    let clean = world.guide_with(settings);
    let (mut off, mut other, mut size) = (0.0, 0.0, 0.0);
    for k in [2, 12] {
        let step = &schedule.steps[k];
        let [right, wrong] = [&clean, &through_unet]
            .map(|target| target.evaluate(&x, &IDS, step, Need::Gradient).expect("an evaluation"));
        let seen = |e: &Evaluation| [&e.eps, &e.x0].map(|x| bits(&cpu, x));
        assert_eq!((seen(&right), rewards(&cpu, &right)), (seen(&wrong), rewards(&cpu, &wrong)));
        let x0 = cpu.download(&right.x0).expect("elements");
        let h = 0.0005;
        let [after, before] = [h, -h].map(|h| {
            let moved: Vec<f32> = x0.iter().zip(&directions).map(|(x, d)| x + h * d).collect();
            let moved = cpu.upload(x.shape(), HostSlice::F32(&moved)).expect("latents");
            clean.finish(&moved, &IDS).expect("rewards").reward
        });
        let [right, wrong] =
            [right, wrong].map(|e| cpu.download(&e.grad.expect("a gradient")).expect("elements"));
        for p in 0..IDS.len() {
            let row = |list: &[f32]| list[p * sample..][..sample].to_vec();
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let quotient = step.alpha_bar.sqrt() * (after[p] - before[p]) / (2.0 * f64::from(h));
            let (g, w, d) = (row(&right), row(&wrong), row(&directions));
            off += (dot(&g, &d) - quotient).powi(2);
            other += (dot(&w, &d) - quotient).powi(2);
            size += dot(&g, &g);
            println!("step {k}, particle {p}: {:.4} against {quotient:.4}", dot(&g, &d));
        }
    }
    let [off, other] = [off, other].map(|sum: f64| (sum / size).sqrt());
    println!("off by {off:.4} |g|, back through the UNet by {other:.4}");
    assert!(off < 0.005 && other > 0.1);
}

/// Whatever the micro-batch and the company: looks at five particles of three prompts.
#[test]
fn an_answer_depends_on_its_own_particle_alone() {
    let cpu = Cpu::new();
    let world = World::new(&cpu, &["aesthetic"]);
    let step = world.schedule(20).steps[10];
    let x = world.latents(&IDS);
    let together = world.target(5.0, 5).evaluate(&x, &IDS, &step, Need::Correction).expect("an evaluation");
    let together = evaluation_bits(&cpu, &together);
    for micro_batch in [2, 4] {
        let split = world
            .target(5.0, micro_batch)
            .evaluate(&x, &IDS, &step, Need::Correction)
            .expect("an evaluation");
        assert_eq!(evaluation_bits(&cpu, &split), together, "micro-batch {micro_batch}");
    }
    let target = world.target(5.0, 5);
    let end = target.finish(&x, &IDS).expect("the end");
    for (slot, &id) in IDS.iter().enumerate() {
        let alone = cpu.gather(&x, &[slot as u32]).expect("one");
        let finish = target.finish(&alone, &[id]).expect("the end");
        assert_eq!((finish.reward[0], finish.parts[0].1[0]), (end.reward[slot], end.parts[0].1[slot]));
        let evaluation = evaluation_bits(
            &cpu,
            &target.evaluate(&alone, &[id], &step, Need::Correction).expect("an evaluation"),
        );
        for (one, all) in evaluation.iter().zip(&together) {
            assert_eq!(one[..], all[slot * one.len()..][..one.len()], "particle {slot}");
        }
    }
    // Another prompt gives another answer.
    let other = [ParticleId { prompt: 3, ..IDS[0] }];
    let alone = cpu.gather(&x, &[0]).expect("one");
    let evaluation =
        evaluation_bits(&cpu, &target.evaluate(&alone, &other, &step, Need::Noise).expect("an evaluation"));
    assert_ne!(evaluation[0][..], together[0][..evaluation[0].len()]);
}

/// What classifier-free guidance adds to the noise, `s (eps_c - eps_u)`: in proportion to the scale, and with
/// the noise at two scales as the lines through them say. The rest of the answer is what a need for the
/// gradient gets. Two noises of size 1 are subtracted and scaled by 2, three times: 1e-5 is enough (measured:
/// 1.7e-6).
#[test]
fn the_correction_is_what_guidance_adds_to_the_noise() {
    let cpu = Cpu::new();
    let world = World::new(&cpu, &["aesthetic"]);
    let (step, x) = (world.schedule(20).steps[10], world.latents(&IDS));
    let seen = |scale, need| world.target(scale, 5).evaluate(&x, &IDS, &step, need).expect("an evaluation");
    let numbers = |x: &Tensor| cpu.download(x).expect("elements");
    let at = [2.0, 4.0].map(|scale| seen(scale, Need::Correction));
    let [half, whole] = at.each_ref().map(|seen| numbers(seen.correction.as_ref().expect("wanted")));
    let [low, high] = at.each_ref().map(|seen| numbers(&seen.eps));
    let (mut worst, mut largest) = (0.0_f32, 0.0_f32);
    for i in 0..whole.len() {
        // Twice the scale adds twice as much, and the noises differ by half of the larger.
        let off = (whole[i] - 2.0 * half[i]).abs().max((whole[i] - 2.0 * (high[i] - low[i])).abs());
        (worst, largest) = (worst.max(off), largest.max(whole[i].abs()));
    }
    println!("off by {worst:e}, of corrections up to {largest}");
    assert!(worst < 1e-5 && largest > 0.1, "{worst} of {largest}");
    let Evaluation { eps, x0, reward, grad, correction } = seen(4.0, Need::Gradient);
    assert!(correction.is_none());
    let alike = Evaluation { eps, x0, reward, grad, correction: at[1].correction.clone() };
    assert!(evaluation_bits(&cpu, &alike) == evaluation_bits(&cpu, &at[1]));
    assert!(world.target(4.0, 5).without_correction().is_none());
    assert!(world.target(1.0, 5).without_correction().is_some_and(|why| why.contains("`cfg_scale` 1")));
}

/// Checkpointing computes the same bits twice; on the meter it holds less at once.
#[test]
fn checkpointing_changes_memory_and_nothing_else() {
    let (cpu, meter) = (Cpu::new(), Meter::new());
    let evaluation = |backend: &dyn EngineBackend, recompute: Recompute| {
        let world = World::new(backend, &["aesthetic"]);
        let step = world.schedule(20).steps[10];
        let target = world.guide_with(Settings {
            cfg_scale: 5.0,
            micro_batch: 5,
            recompute,
            gradient: Gradient::State,
        });
        let x = world.latents(&IDS);
        backend.reset_peak();
        let evaluation = target.evaluate(&x, &IDS, &step, Need::Gradient).expect("an evaluation");
        (evaluation_bits(backend, &evaluation), backend.memory().peak)
    };
    let levels = [Recompute::Nothing, Recompute::FeedForward, Recompute::Projections, Recompute::Blocks];
    let computed = levels.map(|level| evaluation(&cpu, level));
    assert!(computed.iter().all(|(bits, _)| *bits == computed[0].0));
    let peaks = levels.map(|level| evaluation(&meter, level).1);
    println!("peaks {peaks:?}");
    assert!(peaks.is_sorted_by(|more, less| more > less), "{peaks:?}");
    assert_eq!(peaks, computed.map(|(_, peak)| peak));
}

fn short(prompts: &[u32], steps: usize) -> Options {
    let tempering = Tempering::Exp { gamma: 0.3 };
    Options {
        prompts: prompts.to_vec(),
        particles: 3,
        alpha: 0.05,
        rules: Rules {
            tempering,
            resampler: Resampler::Ssp,
            ess_threshold: 0.9,
            max_shift: None,
            potentials: Potentials::Difference,
        },
        ..Options::new(11, steps)
    }
}

fn end_bits(backend: &dyn Backend, end: &Population) -> (Vec<u32>, Vec<u32>, Vec<u64>) {
    let numbers = end.rewards.iter().chain(&end.log_weights).chain([&end.log_z]);
    (bits(backend, &end.x), bits(backend, &end.images), numbers.map(|v| v.to_bits()).collect())
}

/// Whole runs: bit for bit the same for any micro-batch and for any set of prompts beside.
#[test]
fn a_run_depends_on_neither_micro_batch_nor_company() {
    let cpu = Cpu::new();
    let world = World::new(&cpu, &["aesthetic"]);
    let schedule = world.schedule(4);
    let run = |prompts: &[u32], micro_batch: usize| {
        let target = world.target(3.0, micro_batch);
        let mut sampler = Sampler::new(&cpu, &target, &schedule, short(prompts, 4)).expect("a run");
        let resampled = sampler.any(|s| s.expect("a step").prompts.iter().any(|p| p.resampled));
        (&mut sampler).for_each(|s| drop(s.expect("a step")));
        let ends = sampler.populations().expect("populations");
        (ends.iter().map(|e| end_bits(&cpu, e)).collect::<Vec<_>>(), resampled)
    };
    let (together, resampled) = run(&[7, 3], 6);
    assert!(resampled, "a run in which nothing happens");
    for (prompts, micro_batch, which) in [(&[7][..], 1, 0), (&[3][..], 2, 1)] {
        assert_eq!(run(prompts, micro_batch).0[0], together[which], "micro-batch {micro_batch}");
    }
}

/// A clamp turns NaN into a number; the target does not.
#[test]
fn images_that_are_not_finite_have_no_reward() {
    let cpu = Cpu::new();
    let world = World::new(&cpu, &["aesthetic"]);
    let step = world.schedule(20).steps[10];
    let mut host = cpu.download(&world.latents(&IDS)).expect("elements");
    let shape = world.latents(&IDS).shape();
    host[2 * shape.sample() + 5] = f32::NAN;
    let x = cpu.upload(shape, HostSlice::F32(&host)).expect("latents");
    let target = world.target(5.0, 5);
    let evaluation = target.evaluate(&x, &IDS, &step, Need::Gradient).expect("an evaluation");
    let (seen, end) = (rewards(&cpu, &evaluation), target.finish(&x, &IDS).expect("the end").reward);
    for p in 0..IDS.len() {
        assert_eq!((seen[p].is_finite(), end[p].is_finite()), (p != 2, p != 2), "particle {p}");
    }
    // Its neighbours have the gradients they have beside a sound particle.
    let sound = target.evaluate(&world.latents(&IDS), &IDS, &step, Need::Gradient).expect("an evaluation");
    let (a, b) = (evaluation.grad.expect("a gradient"), sound.grad.expect("a gradient"));
    let (a, b) = (bits(&cpu, &a), bits(&cpu, &b));
    let sample = shape.sample();
    assert!([0, 1, 3, 4].into_iter().all(|p| a[p * sample..][..sample] == b[p * sample..][..sample]));
}

#[test]
fn rewards_on_bytes_guide_without_gradients_only() {
    let cpu = Cpu::new();
    let world = World::new(&cpu, &["aesthetic", "jpeg=0.1"]);
    let (target, schedule) = (world.target(1.0, 4), world.schedule(3));
    assert_eq!(target.without_gradient().as_deref(), Some("jpeg"));
    let refused = Sampler::new(&cpu, &target, &schedule, short(&[0], 3)).err().expect("refused");
    assert!(refused.kind() == ErrorKind::Usage && refused.to_string().contains("jpeg"), "{refused}");
    let bootstrap = Options { method: &Bootstrap, ..short(&[0], 3) };
    let ends = Sampler::new(&cpu, &target, &schedule, bootstrap).expect("a run").run().expect("an end");
    let end = &ends[0];
    assert_eq!(end.parts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["aesthetic", "jpeg"]);
    for p in 0..3 {
        let total = end.parts[0].1[p] + 0.1 * end.parts[1].1[p];
        assert!((end.rewards[p] - total).abs() < 1e-12);
    }
    assert_eq!(end.images.shape(), Shape::new(3, 64, 64, 3));
}

/// The same sampler runs on the meter; splitting into micro-batches does the same arithmetic.
#[test]
fn a_run_can_be_counted() {
    let count = |micro_batch: usize, method: &'static dyn Method| {
        let meter = Meter::new();
        let world = World::new(&meter, &["aesthetic"]);
        let (target, schedule) = (world.target(5.0, micro_batch), world.schedule(4));
        meter.reset_counts();
        let options = Options { method, ..short(&[0, 7], 4) };
        Sampler::new(&meter, &target, &schedule, options).expect("a run").run().expect("an end");
        meter.counts().flops as f64
    };
    let whole = count(6, &Das);
    // What is computed once per network call, such as the time embedding, is a small part.
    assert!((count(1, &Das) / whole - 1.0).abs() < 0.05);
    let ratio = whole / count(6, &Plain);
    println!("a guided chain costs {ratio:.2} plain ones");
    assert!(ratio > 2.0 && ratio < 10.0);
}
