//! The sampler without networks: a law on the plane with a score in closed form, a reward, and what the
//! aligned samples should be.
//!
//! Data are a mixture of two normal distributions; the reward prefers the point `WISH`. The target `p(x)
//! exp(r(x))` is then a mixture in closed form too, and so is its normalising constant Z.
//!
//! `cargo run --release --example toy`

use das_cuda::Result;
use das_cuda::backend::ParticleId;
use das_cuda::cpu::Cpu;
use das_cuda::ddim::{Schedule, SchedulerConfig, Step};
use das_cuda::engine::{EngineBackend, Scores};
use das_cuda::sampler::{Evaluation, FinalScores, Need, Options, Sampler, Target};
use das_cuda::tensor::{HostSlice, Shape, Tensor};

type Point = [f64; 2];

const CENTRES: [Point; 2] = [[-1.0, 0.0], [1.0, 0.0]];
/// Variance of each component.
const SPREAD: f64 = 0.04;
/// The reward is `-|x - WISH|^2 / (2 WIDTH)`.
const WISH: Point = [0.6, 0.4];
const WIDTH: f64 = 0.5;

fn dot(a: Point, b: Point) -> f64 {
    a[0] * b[0] + a[1] * b[1]
}

/// `x + k y`.
fn plus(x: Point, k: f64, y: Point) -> Point {
    [x[0] + k * y[0], x[1] + k * y[1]]
}

fn reward(x: Point) -> f64 {
    let away = plus(x, -1.0, WISH);
    -dot(away, away) / (2.0 * WIDTH)
}

/// What a perfect network would say: the posterior mean of the data behind the state `x = a data + s noise`,
/// and the gradient of its reward with respect to the state.
fn denoised(x: Point, a: f64, s: f64) -> (Point, Point) {
    let total = a * a * SPREAD + s * s;
    let slope = a * SPREAD / total;
    // For each component the distance, its log-density's gradient, its mean of the data, and its share.
    let away = CENTRES.map(|centre| plus(x, -a, centre));
    let likelihood = away.map(|d| (-dot(d, d) / (2.0 * total)).exp());
    let share = likelihood.map(|l| l / (likelihood[0] + likelihood[1]));
    let mean = [0, 1].map(|k| plus(CENTRES[k], slope, away[k]));
    let x0 = plus([share[0] * mean[0][0], share[0] * mean[0][1]], share[1], mean[1]);
    let pull = [(WISH[0] - x0[0]) / WIDTH, (WISH[1] - x0[1]) / WIDTH];
    // d share_0 / dx = share_0 share_1 (d log l_0 - d log l_1) / dx.
    let between = plus(away[1], -1.0, away[0]);
    let swing = share[0] * share[1] / total * dot(pull, plus(mean[0], -1.0, mean[1]));
    (x0, plus([slope * pull[0], slope * pull[1]], swing, between))
}

struct Plane<'a>(&'a dyn EngineBackend);

impl Plane<'_> {
    fn points(&self, x: &Tensor) -> Result<Vec<Point>> {
        let values = self.0.download(x)?;
        Ok(values.chunks_exact(2).map(|p| [f64::from(p[0]), f64::from(p[1])]).collect())
    }

    fn tensor(&self, points: impl Iterator<Item = Point>) -> Result<Tensor> {
        let values: Vec<f32> = points.flatten().map(|v| v as f32).collect();
        self.0.upload(Shape::new(values.len() / 2, 1, 1, 2), HostSlice::F32(&values))
    }
}

impl Target for Plane<'_> {
    fn latent(&self) -> Shape {
        Shape::new(1, 1, 1, 2)
    }

    fn evaluate(&self, x: &Tensor, _: &[ParticleId], step: &Step, need: Need) -> Result<Evaluation> {
        let (a, s) = (step.alpha_bar.sqrt(), (1.0 - step.alpha_bar).sqrt());
        let states = self.points(x)?;
        let answers: Vec<(Point, Point)> = states.iter().map(|&x| denoised(x, a, s)).collect();
        let noise =
            states.iter().zip(&answers).map(|(&x, (x0, _))| plus([0.0; 2], 1.0 / s, plus(x, -a, *x0)));
        Ok(Evaluation {
            eps: self.tensor(noise)?,
            x0: self.tensor(answers.iter().map(|(x0, _)| *x0))?,
            reward: (need >= Need::Reward)
                .then(|| Scores::Host(answers.iter().map(|(x0, _)| reward(*x0)).collect())),
            grad: match need {
                Need::Gradient => Some(self.tensor(answers.iter().map(|(_, grad)| *grad))?),
                _ => None,
            },
            correction: None,
        })
    }

    fn finish(&self, x: &Tensor, _: &[ParticleId]) -> Result<FinalScores> {
        let reward = self.points(x)?.into_iter().map(reward).collect();
        Ok(FinalScores { images: x.clone(), reward, parts: Vec::new() })
    }
}

fn main() -> Result<()> {
    let cpu = Cpu::new();
    let schedule = Schedule::new(&SchedulerConfig::stable_diffusion(), 100, 1.0)?;
    let options = Options { particles: 2000, ..Options::new(1, schedule.len()) };
    let plane = Plane(&cpu);
    let population = Sampler::new(&cpu, &plane, &schedule, options)?.run()?.swap_remove(0);

    // Each component's share of the target, and log Z.
    let mass = CENTRES.map(|centre| {
        let away = plus(centre, -1.0, WISH);
        WIDTH / (SPREAD + WIDTH) * (-dot(away, away) / (2.0 * (SPREAD + WIDTH))).exp() / 2.0
    });
    let (exact, log_z) = (mass[1] / (mass[0] + mass[1]), (mass[0] + mass[1]).ln());
    let weighted = plane.points(&population.x)?.into_iter().zip(&population.weights);
    let right: f64 = weighted.filter(|(x, _)| x[0] > 0.0).map(|(_, weight)| weight).sum();
    println!("share of the right component: {right:.3}, exactly {exact:.3}");
    println!("log Z: {:.3}, exactly {log_z:.3}", population.log_z);
    assert!((right - exact).abs() < 0.05 && (population.log_z - log_z).abs() < 0.1);
    Ok(())
}
