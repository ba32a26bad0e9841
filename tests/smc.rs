//! Whole chains, on top of the library's Sequential Monte Carlo and nothing else: laws whose normalising
//! constant or modes are known. Every check is also put to schemes that are wrong on purpose, which must fail
//! it.
//!
//! Checks are z-scores from independent runs with fixed seeds; `|z| < 5` has a false-alarm probability of
//! 6e-7 each.

use std::ops::Range;
use std::sync::OnceLock;

use das_cuda::ddim::{SchedulerConfig, log_ratio};
use das_cuda::noise::{Key, Purpose, Uniforms, fill_normals, uniforms};
use das_cuda::smc::{
    Event, Floor, Population, Potentials, Resampler, Rules, Tempering, Weighed, draw, log_sum_exp, weigh,
};
use rayon::prelude::*;

/// What is done to the particles between two looks at them. All but the first are wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scheme {
    Right,
    /// After resampling each slot keeps the twist and the gradient of its former owner (docs/spec.md 5.1,
    /// 5.2).
    StaleTwist,
    /// Log-weights start at 0 instead of -log P (docs/spec.md 5.5).
    StartsAtZero,
    /// Resampling keeps the better half twice, whatever the weights: a biased resampler.
    BestHalf,
}

fn normal(prompt: u32, particle: u32, step: u32, purpose: Purpose) -> [f64; 2] {
    let mut z = [0.0; 2];
    fill_normals(&Key { seed: 2024, prompt, particle, step, purpose }, &mut z);
    z.map(f64::from)
}

fn stream(run: u32, step: usize, purpose: Purpose) -> Uniforms {
    uniforms(Key { seed: 2024, prompt: run, particle: 0, step: step as u32, purpose })
}

/// One event under a scheme: `weigh` and the population after it.
fn step(
    scheme: Scheme,
    rules: &Rules,
    at: &mut Population,
    event: Event,
    ratio: &[f64],
    potential: &[f64],
    run: u32,
) -> Weighed {
    let index = if let Event::Step(j) = event { j } else { 1000 };
    let mut u = stream(run, index, Purpose::Resample);
    if scheme == Scheme::StartsAtZero && event == Event::Step(0) {
        at.log_weights.fill(0.0);
    }
    let mut out = weigh(rules, at, event, ratio, potential, &mut || u.draw());
    if scheme == Scheme::BestHalf && out.resampled {
        let mut order: Vec<u32> = (0..potential.len() as u32).collect();
        order.sort_by(|&a, &b| out.log_weights[b as usize].total_cmp(&out.log_weights[a as usize]));
        out.ancestors = (0..order.len()).map(|p| order[p / 2]).collect();
        out.psi = out.ancestors.iter().map(|&a| out.twist[a as usize]).collect();
    }
    *at = at.after(&out);
    if scheme == Scheme::StaleTwist {
        at.psi.clone_from(&out.twist);
    }
    out
}

fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (var / n).sqrt())
}

// A Gaussian chain with a linear reward.

/// `x_{k+1} = a x_k + sqrt(v) z` from N(0, 1) with `a^2 + v = 1`, so that the end is N(0, 1) and `r = c x`
/// has `Z = exp(c^2 / 2)`. The potential of a state is the reward of the predicted end.
struct Gaussian {
    steps: usize,
    a: f64,
    c: f64,
}

impl Gaussian {
    const CHAIN: Gaussian = Gaussian { steps: 20, a: 0.95, c: 1.0 };

    /// One run of P particles; returns the log of the estimate of Z.
    fn run(&self, scheme: Scheme, rules: &Rules, particles: usize, run: u32) -> f64 {
        let v = 1.0 - self.a * self.a;
        let each = |f: &dyn Fn(usize) -> f64| (0..particles).map(f).collect::<Vec<f64>>();
        let mut x = each(&|p| normal(run, p as u32, 0, Purpose::Initial)[0]);
        let mut ratio = vec![0.0; particles];
        let mut at = Population::new(particles);
        for k in 0..self.steps {
            let slope = self.c * self.a.powi((self.steps - k) as i32);
            let potential: Vec<f64> = x.iter().map(|x| slope * x).collect();
            let out = step(scheme, rules, &mut at, Event::Step(k), &ratio, &potential, run);
            let g = out.lambda_next * slope;
            let z = each(&|p| normal(run, p as u32, k as u32, Purpose::Move)[0]);
            x = each(&|p| self.a * x[out.ancestors[p] as usize] + v * g + v.sqrt() * z[p]);
            ratio = each(&|p| log_ratio(v, 1.0, g * g, g * z[p]));
        }
        let potential: Vec<f64> = x.iter().map(|x| self.c * x).collect();
        step(scheme, rules, &mut at, Event::Final, &ratio, &potential, run);
        at.log_z
    }

    /// z-score of the mean estimate of Z over `runs`.
    fn z_score(&self, scheme: Scheme, rules: &Rules, particles: usize, runs: Range<u32>) -> f64 {
        let estimates: Vec<f64> =
            runs.into_par_iter().map(|run| self.run(scheme, rules, particles, run).exp()).collect();
        let (mean, error) = mean_and_error(&estimates);
        (mean - (self.c * self.c / 2.0).exp()) / error
    }
}

const FIXED: [Tempering; 3] =
    [Tempering::None, Tempering::Exp { gamma: 0.04 }, Tempering::Poly { gamma: 0.06, power: 2.0 }];

/// 21 z-scores, each from its own 3000 runs. Measured: the largest is 3.46 (residual under exp; ten times the
/// runs give between -1.6 and 2.1).
#[test]
fn the_estimate_of_z_is_unbiased_however_one_resamples() {
    let (mut worst, mut first) = (0.0_f64, 0);
    for tempering in FIXED {
        let mut check = |resampler: Resampler, ess_threshold: f64| {
            let rules = Rules {
                tempering,
                resampler,
                ess_threshold,
                max_shift: None,
                potentials: Potentials::Difference,
            };
            let z = Gaussian::CHAIN.z_score(Scheme::Right, &rules, 8, first..first + 3000);
            first += 3000;
            println!("{tempering}, {resampler}, threshold {ess_threshold}: z = {z:.2}");
            worst = worst.max(z.abs());
        };
        Resampler::ALL.into_iter().for_each(|resampler| check(resampler, 2.0));
        check(Resampler::Ssp, 0.0);
        check(Resampler::Ssp, 0.5);
    }
    assert!(worst < 5.0, "largest z-score {worst}");
}

/// Measured: 11 for the stale twist, 213 for the start at zero, 120 for the better half.
#[test]
fn wrong_schemes_fail_the_test_of_z() {
    for scheme in [Scheme::StaleTwist, Scheme::StartsAtZero, Scheme::BestHalf] {
        let rules = Rules {
            tempering: FIXED[1],
            resampler: Resampler::Ssp,
            ess_threshold: 2.0,
            max_shift: None,
            potentials: Potentials::Difference,
        };
        let z = Gaussian::CHAIN.z_score(scheme, &rules, 8, 0..3000);
        println!("{scheme:?}: z = {z:.1}");
        assert!(z.abs() > 5.0, "{scheme:?} passes with z = {z}");
    }
}

/// With an adaptive lambda the estimate is only consistent: its bias is of the order 1/P. The reward is steep
/// enough for lambda to be chosen at most steps. With P = 256 the log of the mean stays within 0.05 of c^2/2
/// (measured: 0.001, standard error 0.004).
#[test]
fn adaptive_tempering_estimates_z_consistently() {
    let chain = Gaussian { c: 2.5, ..Gaussian::CHAIN };
    for floor in [Floor::Last, Floor::Exp { gamma: 0.02 }] {
        let tempering = Tempering::Adaptive { floor };
        let rules = Rules {
            tempering,
            resampler: Resampler::Systematic,
            ess_threshold: 0.9,
            max_shift: None,
            potentials: Potentials::Difference,
        };
        let logs: Vec<f64> =
            (0..400).into_par_iter().map(|run| chain.run(Scheme::Right, &rules, 256, run)).collect();
        let off = log_sum_exp(&logs) - (logs.len() as f64).ln() - 0.5 * chain.c * chain.c;
        println!("{tempering}: off by {off:.4}, standard error {:.4}", mean_and_error(&logs).1);
        assert!(off.abs() < 0.05);
    }
}

/// Test 5 of docs/spec.md 14: a random walk from 0, the exact linear twist and lambda = 1 make the proposal
/// optimal, so the weights never differ and log Z has no variance. Rounding only: measured 4e-16 and 2e-15.
#[test]
fn an_exact_twist_makes_the_weights_constant() {
    let (v, c, steps, particles) = (0.05_f64, 1.3, 30, 16);
    let rules = Rules {
        tempering: Tempering::None,
        resampler: Resampler::Ssp,
        ess_threshold: 0.5,
        max_shift: None,
        potentials: Potentials::Difference,
    };
    for run in 0..20 {
        let mut at = Population::new(particles);
        let mut x = vec![0.0_f64; particles];
        let mut ratio = vec![0.0; particles];
        for k in 0..=steps {
            let potential: Vec<f64> = x.iter().map(|x| c * x).collect();
            let event = if k == steps { Event::Final } else { Event::Step(k) };
            let out = step(Scheme::Right, &rules, &mut at, event, &ratio, &potential, run);
            assert!(particles as f64 - out.ess < 1e-12, "ESS {}", out.ess);
            for p in 0..particles {
                let z = normal(run, p as u32, k as u32, Purpose::Move)[0];
                x[p] += v * c + v.sqrt() * z;
                ratio[p] = log_ratio(v, 1.0, c * c, c * z);
            }
        }
        let exact = 0.5 * c * c * v * steps as f64;
        assert!((at.log_z - exact).abs() < 1e-12, "{} against {exact}", at.log_z);
    }
}

// The paper's first toy: nine Gaussians on a grid, exact score.

/// The chain of docs/spec.md 9 for GMM 1: modes on {-4, 0, 4}^2 with variance 0.3, reward `-x^2/100 - y^2`,
/// alpha = 1, 100 steps of eta = 1 through 1000 with linear betas.
struct Mixture {
    /// Alpha-bar before and after each step.
    alpha_bars: Vec<(f64, f64)>,
}

/// One coordinate of the score, its derivative, of the diffused mixture of {-4, 0, 4}.
fn score(x: f64, alpha_bar: f64) -> (f64, f64) {
    let s = 0.3 * alpha_bar + 1.0 - alpha_bar;
    let pull = [-4.0, 0.0, 4.0].map(|m| (alpha_bar.sqrt() * m - x) / s);
    let log = pull.map(|d| -0.5 * s * d * d);
    let max = log[0].max(log[1]).max(log[2]);
    let w = log.map(|l| (l - max).exp());
    let sum = w[0] + w[1] + w[2];
    let first = (0..3).map(|i| w[i] * pull[i]).sum::<f64>() / sum;
    let second = (0..3).map(|i| w[i] * pull[i] * pull[i]).sum::<f64>() / sum;
    (first, second - first * first - 1.0 / s)
}

fn reward(x: [f64; 2]) -> f64 {
    -x[0] * x[0] / 100.0 - x[1] * x[1]
}

/// How particles move, and whether they are weighed on the way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moves {
    /// By the chain alone, weighed at the end: importance sampling.
    Free,
    /// By the chain, weighed and resampled at every step.
    Bootstrap,
    /// Guided: DAS.
    Twisted,
}

/// Everything the look at a particle gives; it is gathered as a whole.
#[derive(Clone, Copy, Default)]
struct Evaluation {
    x0: [f64; 2],
    eps: [f64; 2],
    g: [f64; 2],
}

/// What a run, or the mean of many, says of the target: masses of the modes (-4, 0), (0, 0), (4, 0) and the
/// reward, of the weighted particles; and the estimate of Z.
#[derive(Clone, Debug)]
struct Account {
    masses: [f64; 3],
    reward: f64,
    log_z: f64,
    resamplings: usize,
    drawn_reward: f64,
}

impl Mixture {
    fn new() -> Mixture {
        let config = SchedulerConfig { clip_sample: None, ..SchedulerConfig::ddim() };
        let table = config.alphas_cumprod();
        let at = |t: i64| f64::from(table[t.max(0) as usize]);
        // Integer part of 100 points from 999 to 0; the step before is taken to be 10 lower.
        let t = |k: i64| ((99 - k) as f64 * 999.0 / 99.0 + 1e-9) as i64;
        Mixture { alpha_bars: (0..100).map(|k| (at(t(k)), at(t(k) - 10))).collect() }
    }

    fn evaluate(&self, k: usize, x: [f64; 2]) -> Evaluation {
        let abar = self.alpha_bars[k].0;
        let mut evaluation = Evaluation::default();
        for i in 0..2 {
            let (s, ds) = score(x[i], abar);
            evaluation.x0[i] = (x[i] + (1.0 - abar) * s) / abar.sqrt();
            evaluation.eps[i] = -(1.0 - abar).sqrt() * s;
            let jacobian = (1.0 + (1.0 - abar) * ds) / abar.sqrt();
            evaluation.g[i] = jacobian * evaluation.x0[i] * [-0.02, -2.0][i];
        }
        evaluation
    }

    fn run(&self, scheme: Scheme, moves: Moves, particles: usize, run: u32) -> Account {
        let rules = &Rules {
            tempering: Tempering::Exp { gamma: 0.008 },
            resampler: Resampler::Ssp,
            ess_threshold: 0.5,
            max_shift: None,
            potentials: Potentials::Difference,
        };
        let mut x: Vec<[f64; 2]> =
            (0..particles).map(|p| normal(run, p as u32, 0, Purpose::Initial)).collect();
        let mut ratio = vec![0.0; particles];
        let mut at = Population::new(particles);
        let mut resamplings = 0;
        for (k, &(abar, abar_prev)) in self.alpha_bars.iter().enumerate() {
            let v = (1.0 - abar_prev) / (1.0 - abar) * (1.0 - abar / abar_prev);
            let evaluations: Vec<Evaluation> = x.iter().map(|&x| self.evaluate(k, x)).collect();
            let mut lambda_next = 0.0;
            let mut ancestors: Vec<u32> = (0..particles as u32).collect();
            if moves != Moves::Free {
                let potential: Vec<f64> = evaluations.iter().map(|l| reward(l.x0)).collect();
                let out = step(scheme, rules, &mut at, Event::Step(k), &ratio, &potential, run);
                lambda_next = if moves == Moves::Twisted { out.lambda_next } else { 0.0 };
                ancestors = out.ancestors;
                resamplings += usize::from(out.resampled);
            }
            for p in 0..particles {
                let evaluation = &evaluations[ancestors[p] as usize];
                let target = if scheme == Scheme::StaleTwist { evaluations[p].g } else { evaluation.g };
                let z = normal(run, p as u32, k as u32, Purpose::Move);
                let (mut gg, mut gz) = (0.0, 0.0);
                for i in 0..2 {
                    let g = lambda_next * target[i];
                    let mean = abar_prev.sqrt() * evaluation.x0[i]
                        + (1.0 - abar_prev - v).max(0.0).sqrt() * evaluation.eps[i];
                    x[p][i] = mean + v * g + v.sqrt() * z[i];
                    gg += g * g;
                    gz += g * z[i];
                }
                ratio[p] = log_ratio(v, 1.0, gg, gz);
            }
        }
        let rewards: Vec<f64> = x.iter().map(|&x| reward(x)).collect();
        step(scheme, rules, &mut at, Event::Final, &ratio, &rewards, run);
        let w: Vec<f64> = at.log_weights.iter().map(|l| l.exp()).collect();
        let mass = |m: f64| {
            let near = |x: &[f64; 2]| (x[0] - m).abs() < 2.0 && x[1].abs() < 2.0;
            (0..particles).filter(|&p| near(&x[p])).map(|p| w[p]).sum()
        };
        Account {
            masses: [mass(-4.0), mass(0.0), mass(4.0)],
            reward: (0..particles).map(|p| w[p] * rewards[p]).sum(),
            log_z: at.log_z,
            resamplings,
            drawn_reward: rewards[draw(&w, stream(run, 0, Purpose::Draw).draw())],
        }
    }

    fn runs(&self, scheme: Scheme, moves: Moves, particles: usize, runs: Range<u32>) -> Accounts {
        Accounts(runs.into_par_iter().map(|run| self.run(scheme, moves, particles, run)).collect())
    }
}

/// Independent runs.
struct Accounts(Vec<Account>);

impl Accounts {
    /// Mean and standard error.
    fn of(&self, f: impl Fn(&Account) -> f64) -> (f64, f64) {
        mean_and_error(&self.0.iter().map(f).collect::<Vec<_>>())
    }
    fn z(&self) -> (f64, f64) {
        self.of(|a| a.log_z.exp())
    }
    fn log_mean_z(&self) -> f64 {
        let logs: Vec<f64> = self.0.iter().map(|a| a.log_z).collect();
        log_sum_exp(&logs) - (logs.len() as f64).ln()
    }
    fn print(&self, name: &str) {
        let masses = [0, 1, 2].map(|i| self.of(|a| a.masses[i]));
        let (reward, drawn) = (self.of(|a| a.reward), self.of(|a| a.drawn_reward));
        let resamplings = self.of(|a| a.resamplings as f64).0;
        println!(
            "{name}: masses {masses:.3?}, reward {reward:.3?}, of a draw {drawn:.3?}, Z {:.4?}, log mean Z {:.2}, \
             {resamplings:.1} resamplings",
            self.z(),
            self.log_mean_z()
        );
    }
}

/// Whether two independent estimates differ by less than five standard errors.
fn agree(a: (f64, f64), b: (f64, f64)) -> bool {
    (a.0 - b.0).abs() < 5.0 * a.1.hypot(b.1)
}

/// The target of the chain itself, from 100 000 unguided particles weighted by their reward; and how it
/// differs from the tilted mixture it approximates: masses (.315, .370, .315), Z = .237.
fn truth(mixture: &Mixture) -> &'static Accounts {
    static TRUTH: OnceLock<Accounts> = OnceLock::new();
    TRUTH.get_or_init(|| weigh_the_chain(mixture))
}

fn weigh_the_chain(mixture: &Mixture) -> Accounts {
    let truth = mixture.runs(Scheme::Right, Moves::Free, 500, 10_000..10_200);
    truth.print("importance sampling");
    // The nine Gaussians and the reward's are integrated in closed form; discretisation may move a mass by
    // 0.02 (measured: 0.010 with 20 times the particles) and log Z by 0.1 (measured: 0.05).
    let factor = |m: f64, q: f64| (-m * m * q / (1.0 + 0.6 * q)).exp() / (1.0 + 0.6 * q).sqrt();
    let rows = [-4.0, 0.0, 4.0].map(|m| factor(m, 0.01));
    let sum: f64 = rows.iter().sum();
    for (i, row) in rows.iter().enumerate() {
        assert!((truth.of(|a| a.masses[i]).0 - row / sum).abs() < 0.02);
    }
    let z = sum * (factor(0.0, 1.0) + 2.0 * factor(4.0, 1.0)) / 9.0;
    assert!((truth.log_mean_z() - z.ln()).abs() < 0.1);
    truth
}

/// Masses of the modes of the paper's first toy within five standard errors, for P = 100 and 16; and the
/// reward of the reference simulation, -0.253 and -0.256 (docs/spec.md 14), whose own standard error is about
/// 0.014 (300 draws). Measured: masses off by at most 0.018 (1.7 standard errors); rewards -0.255 and -0.257;
/// resamplings 5.4 and 3.0, as there (5.4 and 3.1).
#[test]
fn the_modes_of_the_mixture_have_their_masses() {
    let mixture = Mixture::new();
    let truth = truth(&mixture);
    for (particles, runs, reward, resamplings) in [(100, 300, -0.253, 5.4), (16, 600, -0.256, 3.1)] {
        let das = mixture.runs(Scheme::Right, Moves::Twisted, particles, 0..runs);
        das.print(&format!("P = {particles}"));
        for i in 0..3 {
            let (mass, exact) = (das.of(|a| a.masses[i]), truth.of(|a| a.masses[i]));
            assert!(agree(mass, exact), "P = {particles}: mass {mass:?} against {exact:?}");
        }
        assert!(agree(das.of(|a| a.reward), (reward, 0.014)));
        assert!(agree(das.of(|a| a.drawn_reward), (reward, 0.014)));
        assert!((das.of(|a| a.resamplings as f64).0 - resamplings).abs() < 0.3);
    }
}

/// The estimate of Z against importance sampling. With bootstrap moves its tails are light and a z-score is
/// fair (measured: 0.2). Guided moves make them heavy (the error of 300 runs is itself unknown;
/// docs/spec.md 14 scatters from -1.40 to -1.86 about -1.44), so there the log of the mean must come within
/// 1, which the stale twist misses by more than 5 (measured: off by 0.23 for P = 100 and 0.54 for P = 16;
/// stale 16.7 and 8.0, bootstrap stale 29.6).
#[test]
fn the_estimate_of_z_of_the_mixture_is_right_and_a_stale_twist_ruins_it() {
    let mixture = Mixture::new();
    let truth = truth(&mixture);
    let bootstrap = |scheme| mixture.runs(scheme, Moves::Bootstrap, 100, 0..300);
    let right = bootstrap(Scheme::Right);
    right.print("bootstrap");
    let stale = bootstrap(Scheme::StaleTwist);
    stale.print("bootstrap, stale");
    assert!(agree(right.z(), truth.z()));
    assert!((stale.log_mean_z() - truth.log_mean_z()).abs() > 1.0);
    for (particles, runs) in [(100, 300), (16, 600)] {
        let off = |scheme: Scheme| {
            let das = mixture.runs(scheme, Moves::Twisted, particles, 0..runs);
            das.print(&format!("{scheme:?}, P = {particles}"));
            das.log_mean_z() - truth.log_mean_z()
        };
        assert!(off(Scheme::Right).abs() < 1.0);
        assert!(off(Scheme::StaleTwist) > 5.0);
    }
}
