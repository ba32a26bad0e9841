//! The training-free baselines (docs/spec.md 10) against their own formulas: chains of the sampler beside the
//! same chains in a few lines of f64, on laws in closed form.
//!
//! Tolerances: states are f32 of size up to 10, each step rounds a handful of products of that size, and the
//! chain does not amplify errors: 20 steps of a few 10 x 6e-8 are below 1e-4. The largest error that was
//! measured stands beside each test.

#[path = "common/laws.rs"]
mod laws;

use das_cuda::backend::Backend;
use das_cuda::cpu::Cpu;
use das_cuda::ddim::{Schedule, SchedulerConfig, Step};
use das_cuda::method::{Dps, Fk, FreeDom, Guidance, METHODS, Method, Mpgd, Plain, Svdd};
use das_cuda::noise::{Key, Purpose, fill_normals, uniforms};
use das_cuda::sampler::{self, Need, Options, Population, Sampler};
use das_cuda::smc::{Potentials, Rules, Tempering};
use laws::{Closed, Grid, Law, correction};

const SEED: u64 = 31;
const STEPS: usize = 20;
const PARTICLES: usize = 3;
const PROMPTS: [u32; 2] = [4, 0];
const TOLERANCE: f64 = 1e-4;

fn chain(eta: f64) -> Schedule {
    Schedule::new(&SchedulerConfig::stable_diffusion(), STEPS, eta).expect("a chain")
}

fn options(method: &'static dyn Method) -> Options {
    let few = Options { prompts: PROMPTS.to_vec(), particles: PARTICLES, ..Options::new(SEED, STEPS) };
    few.by_method(method, STEPS)
}

/// All records and the end of a run.
fn record(
    target: &Closed<'_, 2, Grid>,
    schedule: &Schedule,
    options: Options,
) -> (Vec<sampler::Step>, Vec<Population>) {
    let mut sampler = Sampler::new(target.backend, target, schedule, options).expect("options that work");
    let steps: Vec<_> = (&mut sampler).map(|step| step.expect("a step")).collect();
    assert_eq!(steps.len(), sampler.steps());
    let end = sampler.populations().expect("populations");
    (steps, end)
}

fn ends(options: Options, schedule: &Schedule) -> Vec<Vec<[f64; 2]>> {
    let cpu = Cpu::new();
    let target = Closed::new(&cpu, Grid::new());
    let (_, end) = record(&target, schedule, options);
    end.iter().map(|population| target.states(&population.x).expect("states")).collect()
}

/// The two normals of a particle.
fn normals(prompt: u32, particle: u32, step: u32, purpose: Purpose) -> [f64; 2] {
    let mut z = [0.0; 2];
    fill_normals(&Key { seed: SEED, prompt, particle, step, purpose }, &mut z);
    z.map(f64::from)
}

/// `a x + b y` of each element.
fn add(a: f64, x: [f64; 2], b: f64, y: [f64; 2]) -> [f64; 2] {
    [a * x[0] + b * y[0], a * x[1] + b * y[1]]
}

/// The next state of the model's chain from what is predicted of one.
fn moved(step: &Step, x0: [f64; 2], eps: [f64; 2], z: [f64; 2]) -> [f64; 2] {
    let mean = add(step.mean.first, x0, step.mean.second, eps);
    add(1.0, mean, step.variance.sqrt(), z)
}

/// The largest error of the ends of a run beside those that `chain` computes of each prompt and particle.
fn worst(ends: &[Vec<[f64; 2]>], chain: impl Fn(u32, u32) -> [f64; 2]) -> f64 {
    let mut worst = 0.0_f64;
    for (&prompt, ends) in PROMPTS.iter().zip(ends) {
        for (particle, end) in (0..).zip(ends) {
            let exact = chain(prompt, particle);
            worst = worst.max((end[0] - exact[0]).abs()).max((end[1] - exact[1]).abs());
        }
    }
    worst
}

/// DPS: the next state of the chain plus `zeta grad_x r(x0(x))`, in the window, with noise and without.
/// Measured: 2.4e-6.
#[test]
fn dps_adds_a_multiple_of_the_gradient() {
    // A strength of 1 drives this law's states off to hundreds, as in docs/spec.md 9.
    for (eta, strength, window) in
        [(1.0, 0.05, (0.0, 1.0)), (0.0, 0.02, (0.0, 1.0)), (0.6, 0.1, (0.25, 0.75))]
    {
        let schedule = chain(eta);
        let guidance = Guidance { strength, window, ..Dps.guidance() };
        let found = ends(Options { guidance, ..options(&Dps) }, &schedule);
        let error = worst(&found, |prompt, particle| {
            let mut x = normals(prompt, particle, 0, Purpose::Initial);
            for (k, step) in schedule.steps.iter().enumerate() {
                let seen = Grid::new().evaluate(x, step);
                x = moved(step, seen.x0, seen.eps, normals(prompt, particle, k as u32, Purpose::Move));
                if (STEPS as f64 * window.0..STEPS as f64 * window.1).contains(&(k as f64)) {
                    x = add(1.0, x, strength, seen.grad);
                }
            }
            x
        });
        println!("dps, eta {eta}, {strength} in {window:?}: {error:e}");
        assert!(error < TOLERANCE, "{error}");
    }
}

/// What is asked of the target, what the records say of a shift that is not weighed, and that no weight, no
/// resampling and no Z come of it.
#[test]
fn shifts_are_neither_weighed_nor_resampled() {
    let (cpu, schedule) = (Cpu::new(), chain(1.0));
    for &method in METHODS.iter().filter(|method| method.shifts()) {
        let target = Closed::new(&cpu, Grid::new());
        let (steps, end) = record(&target, &schedule, options(method));
        let asked: Vec<Need> = target.evaluations.lock().unwrap().iter().map(|(_, need)| *need).collect();
        let shifted = |need: &Need| *need >= Need::Gradient;
        assert_eq!(asked.len(), steps.len() - 1, "{method}");
        let most = if method.corrects() { Need::Correction } else { Need::Gradient };
        assert_eq!(asked.iter().max(), Some(&most), "{method}");
        for (step, need) in steps.iter().zip(asked.iter().map(Some).chain([None])) {
            for prompt in &step.prompts {
                let guided = need.is_some_and(shifted);
                assert_eq!(prompt.grad_norm.len(), if guided { 3 } else { 0 });
                assert_eq!(prompt.reward.len(), if guided || need.is_none() { 3 } else { 0 });
                assert!(!prompt.resampled && prompt.log_z.is_nan() && prompt.log_z_increment.is_nan());
                assert!((prompt.ess - 3.0).abs() < 1e-12 && prompt.roots_alive == 3);
            }
        }
        for population in end {
            assert!(population.log_z.is_nan() && population.log_z_error.is_none());
            assert!(population.weights.iter().all(|w| (w - 1.0 / 3.0).abs() < 1e-12));
        }
    }
}

/// A particle's chain is the same bits alone and beside others.
#[test]
fn particles_do_not_depend_on_their_company() {
    let schedule = chain(1.0);
    for &method in METHODS.iter().filter(|method| method.shifts() || method.chooses()) {
        let together = ends(options(method), &schedule);
        let alone = ends(Options { particles: 1, prompts: vec![0], ..options(method) }, &schedule);
        assert_eq!(alone[0][0], together[1][0], "{method}");
    }
}

/// A gradient that is not finite shifts nothing, once, and is told.
#[test]
fn a_gradient_that_is_not_finite_shifts_nothing() {
    let (cpu, schedule) = (Cpu::new(), chain(1.0));
    let at = schedule.steps[5].t;
    let mut target = Closed::new(&cpu, Grid::new());
    target.spoil = Some(Box::new(move |t, id, seen| {
        if t == at && (id.prompt, id.particle) == (4, 1) {
            seen.grad[0] = f64::NAN;
        }
    }));
    let (steps, end) = record(&target, &schedule, options(&Dps));
    let told: Vec<_> = steps.iter().flat_map(|step| &step.non_finite).collect();
    assert!(
        told.len() == 1 && told[0].quantity == sampler::Quantity::Gradient && told[0].step == 5,
        "{told:?}"
    );
    let x = cpu.download(&end[0].x).expect("states");
    let unspoilt = ends(options(&Dps), &schedule);
    assert!(x.iter().all(|x| x.is_finite()));
    assert_eq!(f64::from(x[0]), unspoilt[0][0][0]);
    assert_ne!(f64::from(x[2]), unspoilt[0][1][0]);
}

#[test]
fn a_guidance_that_makes_no_sense_is_refused() {
    let (cpu, schedule) = (Cpu::new(), chain(1.0));
    for (guidance, named) in [
        (Guidance { strength: 0.0, ..Dps.guidance() }, "`guidance_strength`"),
        (Guidance { strength: f64::NAN, ..Dps.guidance() }, "`guidance_strength`"),
        (Guidance { window: (0.5, 0.5), ..Dps.guidance() }, "`guidance_window`"),
        (Guidance { window: (-0.1, 0.5), ..Dps.guidance() }, "`guidance_window`"),
        (Guidance { window: (0.51, 0.54), ..Dps.guidance() }, "none of 20 steps is in `guidance_window`"),
    ] {
        let target = Closed::new(&cpu, Grid::new());
        let refused = Sampler::new(&cpu, target, &schedule, Options { guidance, ..options(&Dps) });
        let error = refused.err().expect("refused").to_string();
        assert!(error.contains(named), "{error}");
    }
}

/// The log-weights of each event before any resampling, of particles that are never resampled: `log G_k` is
/// the difference, maximum or sum of the rewards so far, and the final event makes the product `exp(r /
/// alpha)`. Measured: 7.1e-15.
#[test]
fn fk_potentials_are_those_of_the_paper_and_telescope() {
    let (cpu, schedule, alpha) = (Cpu::new(), chain(1.0), 1.7);
    let temperings = [Tempering::None, Tempering::Exp { gamma: 0.1 }];
    for (potentials, tempering) in Potentials::ALL.into_iter().flat_map(|p| temperings.map(|t| (p, t))) {
        let target = Closed::new(&cpu, Grid::new());
        let rules = Rules { tempering, ess_threshold: 0.0, potentials, ..Fk.rules(STEPS) };
        let run = Options { rules, alpha, weigh_every: 3, ..options(&Fk) };
        let (steps, end) = record(&target, &schedule, run);
        for (b, population) in end.iter().enumerate() {
            let mut seen: Vec<Vec<f64>> = vec![Vec::new(); PARTICLES];
            let mut total = [0.0; PARTICLES];
            for step in &steps {
                let prompt = &step.prompts[b];
                let last = step.step == STEPS;
                assert_eq!(prompt.reward.is_empty(), !last && (step.step < 4 || (step.step - 4) % 3 != 0));
                for (p, reward) in prompt.reward.iter().enumerate() {
                    let l = prompt.lambda * reward / alpha;
                    let before = seen[p].last().copied().unwrap_or(0.0);
                    seen[p].push(l);
                    let log_g = match potentials {
                        _ if last => l - total[p],
                        Potentials::Difference => l - before,
                        Potentials::Max => seen[p].iter().copied().fold(f64::NEG_INFINITY, f64::max),
                        _ => seen[p].iter().sum(),
                    };
                    total[p] += log_g;
                    let error = (prompt.log_w_increment[p] - log_g).abs() / log_g.abs().max(1.0);
                    assert!(error < 1e-12, "{potentials}, step {}: {error:e}", step.step);
                }
            }
            for (total, reward) in total.iter().zip(&population.rewards) {
                assert!((total - reward / alpha).abs() < 1e-12 * total.abs().max(1.0), "{total}");
            }
        }
    }
}

/// SVDD with alpha 0 and above: in f64, of the M next states the one of the largest reward, or by the softmax
/// and the particle's own uniform. Measured: 1.9e-6.
#[test]
fn svdd_chooses_among_next_states_by_the_softmax_of_their_rewards() {
    let schedule = chain(1.0);
    for (alpha, duplicates) in [(0.0, 4), (0.3, 5), (2.0, 2), (0.0, 1)] {
        let found = ends(Options { alpha, duplicates, ..options(&Svdd) }, &schedule);
        let error = worst(&found, |prompt, particle| {
            let mut x = normals(prompt, particle, 0, Purpose::Initial);
            for (k, step) in schedule.steps.iter().enumerate() {
                let seen = Grid::new().evaluate(x, step);
                let next: Vec<[f64; 2]> = (0..duplicates as u32)
                    .map(|m| normals(prompt, particle + (m << 20), k as u32, Purpose::Move))
                    .map(|z| moved(step, seen.x0, seen.eps, z))
                    .collect();
                let value = |x: &[f64; 2]| match schedule.steps.get(k + 1) {
                    Some(next) => Grid::new().evaluate(*x, next).reward,
                    None => Grid::new().reward(*x),
                };
                let values: Vec<f64> = next.iter().map(value).collect();
                let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let m = if alpha == 0.0 {
                    values.iter().position(|v| *v == largest)
                } else {
                    let w: Vec<f64> = values.iter().map(|v| ((v - largest) / alpha).exp()).collect();
                    let key = Key { seed: SEED, prompt, particle, step: k as u32, purpose: Purpose::Choose };
                    let u = uniforms(key).draw() * w.iter().sum::<f64>();
                    (0..w.len()).find(|m| u < w[..=*m].iter().sum())
                };
                x = next[m.expect("one of them")];
            }
            x
        });
        println!("svdd, alpha {alpha}, {duplicates} next states: {error:e}");
        assert!(error < TOLERANCE, "{error}");
    }
    let plain = ends(options(&Plain), &schedule);
    assert_eq!(ends(Options { duplicates: 1, ..options(&Svdd) }, &schedule), plain);
}

/// How far moves diverge from the model's own, in f64: two normal laws of one variance that are a shift
/// apart, and a choice beside a blind one; infinite where a shift has no noise. Measured: a relative 7.4e-7.
#[test]
fn records_tell_how_far_moves_diverge_from_the_models_own() {
    let (cpu, schedule, strength, alpha, duplicates) = (Cpu::new(), chain(1.0), 0.05, 0.7, 4);
    let target = Closed::new(&cpu, Grid::new());
    let shifted = Options { guidance: Guidance { strength, ..Dps.guidance() }, ..options(&Dps) };
    let chosen = Options { alpha, duplicates, ..options(&Svdd) };
    let mut worst = 0.0_f64;
    for (run, chooses) in [(shifted, false), (chosen, true)] {
        let (steps, _) = record(&target, &schedule, run);
        for (b, &prompt) in PROMPTS.iter().enumerate() {
            for particle in 0..PARTICLES {
                let normals = |k: usize, m: u32, purpose: Purpose| {
                    normals(prompt, particle as u32 + (m << 20), k as u32, purpose)
                };
                let mut x = normals(0, 0, Purpose::Initial);
                for (k, step) in schedule.steps.iter().enumerate() {
                    let seen = Grid::new().evaluate(x, step);
                    let next = |m: u32| moved(step, seen.x0, seen.eps, normals(k, m, Purpose::Move));
                    let exact = if chooses {
                        let states: Vec<[f64; 2]> = (0..duplicates as u32).map(next).collect();
                        x = states[steps[k].prompts[b].chosen[particle] as usize];
                        let value = |x: &[f64; 2]| match schedule.steps.get(k + 1) {
                            Some(next) => Grid::new().evaluate(*x, next).reward,
                            None => Grid::new().reward(*x),
                        };
                        let w: Vec<f64> = states.iter().map(|x| (value(x) / alpha).exp()).collect();
                        let sum: f64 = w.iter().sum();
                        match step.variance {
                            0.0 => 0.0,
                            _ => w.iter().map(|w| w / sum * (duplicates as f64 * w / sum).ln()).sum(),
                        }
                    } else {
                        let shift = add(strength, seen.grad, 0.0, [0.0; 2]);
                        x = add(1.0, next(0), 1.0, shift);
                        (shift[0] * shift[0] + shift[1] * shift[1]) / (2.0 * step.variance)
                    };
                    let found = steps[k].prompts[b].divergence[particle];
                    match step.variance {
                        0.0 => assert_eq!(found, if chooses { 0.0 } else { f64::INFINITY }),
                        // The states are f32, and a choice that is nearly blind is a small difference.
                        _ => worst = worst.max((found - exact).abs() / exact.max(0.1)),
                    }
                }
                assert!(steps[STEPS].prompts[b].divergence.is_empty());
            }
        }
    }
    println!("divergence: {worst:e}");
    assert!(worst < TOLERANCE, "{worst}");
    for method in [&Plain as &'static dyn Method, &Fk] {
        let (steps, _) = record(&target, &schedule, options(method));
        assert!(steps.iter().flat_map(|step| &step.prompts).all(|prompt| prompt.divergence.is_empty()));
    }
}

/// What the records say of a choice, how often the networks are asked, and that every reward counts.
#[test]
fn svdd_evaluates_every_next_state_once() {
    let (cpu, schedule, duplicates) = (Cpu::new(), chain(1.0), 3);
    let mut target = Closed::new(&cpu, Grid::new());
    // The first of the next states is never chosen where its reward is not finite.
    target.spoil = Some(Box::new(|_, id, seen| {
        if (id.prompt, id.particle) == (4, 1) {
            seen.reward = f64::NAN;
        }
    }));
    let run = Options { duplicates, ..options(&Svdd) };
    let mut sampler = Sampler::new(&cpu, &target, &schedule, run).expect("options that work");
    let mut states = 0;
    loop {
        states += sampler.next_states();
        let Some(step) = sampler.next() else { break };
        let step = step.expect("a step");
        for prompt in &step.prompts {
            let last = step.step == STEPS;
            assert_eq!(prompt.chosen.len(), if last { 0 } else { PARTICLES });
            assert!(prompt.chosen.iter().all(|m| *m < duplicates as u32));
            assert_eq!(prompt.reward.is_empty(), step.step == 0);
            assert!(prompt.log_z.is_nan() && !prompt.collapsed && !prompt.resampled);
            assert_eq!(prompt.log_w_increment, [0.0; PARTICLES]);
        }
    }
    let asked = target.evaluations.lock().unwrap();
    let slots = PARTICLES * PROMPTS.len();
    assert_eq!(asked.len(), 1 + duplicates * (STEPS - 1));
    assert_eq!(states, slots * asked.len());
    assert!(asked[0].1 == Need::Noise && asked[1..].iter().all(|(_, need)| *need == Need::Reward));
}

/// A larger alpha takes more than the best, and M next states with alpha 0 raise the reward.
#[test]
fn svdd_raises_the_reward() {
    let mean = |method: &'static dyn Method, alpha: f64| {
        let (cpu, schedule) = (Cpu::new(), chain(1.0));
        let target = Closed::new(&cpu, Grid::new());
        let run = Options { alpha, particles: 200, prompts: vec![0], ..options(method) };
        let (_, end) = record(&target, &schedule, run);
        end[0].rewards.iter().sum::<f64>() / 200.0
    };
    let [plain, soft, hard] = [mean(&Plain, 1.0), mean(&Svdd, 5.0), mean(&Svdd, 0.0)];
    println!("plain {plain}, alpha 5 {soft}, alpha 0 {hard}");
    assert!(plain + 1.0 < soft && soft < hard, "{plain} {soft} {hard}");
}

/// Length over the root of the number of elements.
fn rms(x: [f64; 2]) -> f64 {
    ((x[0] * x[0] + x[1] * x[1]) / 2.0).sqrt()
}

/// MPGD as its program writes it: the clean state moved along the gradient, then the posterior of the next
/// state given it and the state, with the DDPM coefficients. Measured: 1.1e-6.
#[test]
fn mpgd_moves_the_clean_state_and_takes_the_posterior() {
    let schedule = chain(1.0);
    for (strength, window) in [(0.3, (0.3, 0.7)), (0.1, (0.0, 1.0))] {
        let guidance = Guidance { strength, window, ..Mpgd.guidance() };
        let found = ends(Options { guidance, ..options(&Mpgd) }, &schedule);
        let error = worst(&found, |prompt, particle| {
            let mut x = normals(prompt, particle, 0, Purpose::Initial);
            for (k, step) in schedule.steps.iter().enumerate() {
                let seen = Grid::new().evaluate(x, step);
                let mut x0 = seen.x0;
                if (STEPS as f64 * window.0..STEPS as f64 * window.1).contains(&(k as f64)) {
                    let c = strength * rms(correction(&seen)) / rms(seen.grad);
                    x0 = add(1.0, x0, c, seen.grad);
                }
                let (t, s) = (step.alpha_bar, step.alpha_bar_prev);
                let c1 = s.sqrt() * (1.0 - t / s) / (1.0 - t);
                let c2 = (t / s).sqrt() * (1.0 - s) / (1.0 - t);
                let v = (1.0 - s) * (1.0 - t / s) / (1.0 - t);
                let mean = add(c1, x0, c2, x);
                x = add(1.0, mean, v.sqrt(), normals(prompt, particle, k as u32, Purpose::Move));
            }
            x
        });
        println!("mpgd, {strength} in {window:?}: {error:e}");
        assert!(error < TOLERANCE, "{error}");
    }
}

/// With less noise than DDPM, and with none, MPGD derives the noise again from the moved clean state. The
/// gradient that the networks answer with is a multiple of that at the clean state, which the ratio takes
/// out. Measured: 1.0e-6.
#[test]
fn mpgd_derives_the_noise_again() {
    for eta in [0.5, 0.0] {
        let schedule = chain(eta);
        let found = ends(options(&Mpgd), &schedule);
        let error = worst(&found, |prompt, particle| {
            let mut x = normals(prompt, particle, 0, Purpose::Initial);
            for (k, step) in schedule.steps.iter().enumerate() {
                let seen = Grid::new().evaluate(x, step);
                let (mut x0, mut eps) = (seen.x0, seen.eps);
                if (6..14).contains(&k) {
                    let g = seen.grad.map(|g| 7.0 * g);
                    x0 = add(1.0, x0, 15.0 * rms(correction(&seen)) / rms(g), g);
                    let t = step.alpha_bar;
                    eps = add(1.0 / (1.0 - t).sqrt(), x, -(t / (1.0 - t)).sqrt(), x0);
                }
                x = moved(step, x0, eps, normals(prompt, particle, k as u32, Purpose::Move));
            }
            x
        });
        println!("mpgd, eta {eta}: {error:e}");
        assert!(error < 10.0 * TOLERANCE, "{error}");
    }
}

/// FreeDoM: the shift is as long as the correction of the noise times rho, and steps from 30 to 60 % are
/// taken three times, with the noise of the step again between. Measured: 1.3e-6.
#[test]
fn freedom_shifts_and_travels() {
    let schedule = chain(1.0);
    for (strength, passes) in [(0.2, 3), (0.5, 1), (0.1, 2)] {
        let guidance = Guidance { strength, passes, ..FreeDom.guidance() };
        let found = ends(Options { guidance, ..options(&FreeDom) }, &schedule);
        let error = worst(&found, |prompt, particle| {
            let mut x = normals(prompt, particle, 0, Purpose::Initial);
            for (k, step) in schedule.steps.iter().enumerate() {
                let passes = if (6..12).contains(&k) { passes } else { 1 };
                for pass in 0..passes {
                    let key = k as u32 | pass << 20;
                    let seen = Grid::new().evaluate(x, step);
                    x = moved(step, seen.x0, seen.eps, normals(prompt, particle, key, Purpose::Move));
                    if (6..14).contains(&k) {
                        let rho = strength * rms(correction(&seen)) / rms(seen.grad);
                        x = add(1.0, x, rho, seen.grad);
                    }
                    if pass + 1 < passes {
                        let ratio = step.alpha_bar / step.alpha_bar_prev;
                        let z = normals(prompt, particle, key, Purpose::Again);
                        x = add(ratio.sqrt(), x, (1.0 - ratio).sqrt(), z);
                    }
                }
            }
            x
        });
        println!("freedom, {strength}, {passes} passes: {error:e}");
        assert!(error < TOLERANCE, "{error}");
    }
}

/// Passes in the records: a step for each, with the timestep of the transition.
#[test]
fn every_pass_is_a_step_of_the_record() {
    let (cpu, schedule) = (Cpu::new(), chain(1.0));
    let target = Closed::new(&cpu, Grid::new());
    let (steps, _) = record(&target, &schedule, options(&FreeDom));
    let passes: Vec<(usize, u32)> = (0..STEPS)
        .flat_map(|k| (0..if (6..12).contains(&k) { 3 } else { 1 }).map(move |pass| (k, pass)))
        .collect();
    assert_eq!(steps.len(), STEPS + 2 * 6 + 1);
    for (step, (k, pass)) in steps.iter().zip(&passes) {
        assert_eq!((step.t, step.pass), (schedule.steps[*k].t, *pass));
    }
    assert!(steps.iter().enumerate().all(|(number, step)| step.step == number));
    assert!(steps.last().is_some_and(|end| (end.t, end.pass) == (0, 0)));
}

/// What measures its shift by classifier-free guidance is refused where there is none.
#[test]
fn a_correction_that_does_not_exist_is_refused() {
    let (cpu, schedule) = (Cpu::new(), chain(1.0));
    for &method in METHODS {
        let target =
            Closed { without_correction: Some("no branch".into()), ..Closed::new(&cpu, Grid::new()) };
        let sampler = Sampler::new(&cpu, target, &schedule, options(method));
        let refused = sampler.err().map(|error| error.to_string());
        assert_eq!(refused.is_some(), method.corrects(), "{method}: {refused:?}");
        assert!(
            refused.is_none_or(|text| text.contains("no branch") && text.contains("`cfg_scale` above 1"))
        );
    }
    let guidance = Guidance { passes: 0, ..FreeDom.guidance() };
    let refused = Sampler::new(
        &cpu,
        Closed::new(&cpu, Grid::new()),
        &schedule,
        Options { guidance, ..options(&FreeDom) },
    );
    assert!(refused.err().expect("refused").to_string().contains("`time_travel`"));
}
