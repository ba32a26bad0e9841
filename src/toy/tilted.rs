//! The target `p(x) exp(r(x) / alpha) / Z` of a law in closed form.

use super::{Law, MOST_DIMENSIONS, Point, Quadratic};
use crate::noise::{Key, Purpose, fill_normals, uniforms};
use crate::smc::{Weights, draw};

/// What a law becomes with a reward: as the law, mixtures of normal distributions. `exp(-w (x - c)^2)` times
/// `N(m, s^2)` is `N((m + 2 w s^2 c) / q, s^2 / q)` with `q = 1 + 2 w s^2`, and weighs
/// `exp(-w (m - c)^2 / q) / sqrt(q)`. That squares of coordinates count no more than 1e4 in the reward is
/// left aside: no law of this program reaches so far.
#[derive(Clone, Debug)]
pub struct Tilted {
    /// Of each factor of the law.
    factors: Vec<Factor>,
    log_z: f64,
}

#[derive(Clone, Debug)]
struct Factor {
    dimensions: usize,
    weights: Vec<f64>,
    /// Means of the components, one after another.
    means: Vec<f64>,
    /// Standard deviation along each coordinate, the same for all components.
    deviation: Vec<f64>,
    /// Expected reward of each component, its share of the coordinates of this factor.
    rewards: Vec<f64>,
}

impl Tilted {
    /// The target of `law` with `reward` and `alpha`.
    pub fn new(law: &Law, reward: &Quadratic, alpha: f64) -> Tilted {
        let (mut first, mut log_z, mut factors) = (0, 0.0, Vec::new());
        for mixture in &law.factors {
            let dimensions = mixture.dimensions;
            let (centre, weight) =
                (&reward.centre[first..][..dimensions], &reward.weight[first..][..dimensions]);
            let stretch: Vec<f64> = weight.iter().map(|w| 1.0 + 2.0 * w / alpha * mixture.variance).collect();
            let (mut exponents, mut means, mut rewards) = (Vec::new(), Vec::new(), Vec::new());
            for m in mixture.centres.chunks_exact(dimensions) {
                let (mut exponent, mut expected) = (0.0, 0.0);
                for i in 0..dimensions {
                    let away = m[i] - centre[i];
                    exponent -= weight[i] / alpha * away * away / stretch[i];
                    // The mean is nearer to the centre of the reward.
                    expected -= weight[i]
                        * (mixture.variance / stretch[i] + (away / stretch[i]) * (away / stretch[i]));
                    means.push(centre[i] + away / stretch[i]);
                }
                exponents.push(exponent);
                rewards.push(expected);
            }
            let weights = Weights::new(&exponents);
            let roots: f64 = stretch.iter().map(|q| crate::smc::math::ln(*q)).sum();
            log_z += weights.log_sum() - crate::smc::math::ln(exponents.len() as f64) - 0.5 * roots;
            factors.push(Factor {
                dimensions,
                weights: weights.weights().to_vec(),
                means,
                deviation: stretch.iter().map(|q| (mixture.variance / q).sqrt()).collect(),
                rewards,
            });
            first += dimensions;
        }
        Tilted { factors, log_z }
    }

    /// `log E[exp(r / alpha)]` under the law.
    pub fn log_z(&self) -> f64 {
        self.log_z
    }

    /// Mean reward of the target.
    pub fn mean_reward(&self) -> f64 {
        let of = |f: &Factor| f.weights.iter().zip(&f.rewards).map(|(w, r)| w * r).sum::<f64>();
        self.factors.iter().map(of).sum()
    }

    /// How much of the target comes from each component of the first factor.
    pub fn masses(&self) -> &[f64] {
        self.factors.first().map_or(&[], |factor| &factor.weights)
    }

    /// Point `index` of stream `stream` of independent points of the target.
    pub fn draw(&self, seed: u64, stream: u32, index: u32) -> Point {
        let key = |step| Key { seed, prompt: stream, particle: index, step, purpose: Purpose::Data };
        let (mut uniform, mut z, mut x) = (uniforms(key(0)), [0.0; MOST_DIMENSIONS], Point::default());
        fill_normals(&key(1), &mut z);
        let mut first = 0;
        for factor in &self.factors {
            let component = draw(&factor.weights, uniform.draw());
            for i in 0..factor.dimensions {
                let mean = factor.means[component * factor.dimensions + i];
                x[first + i] = mean + factor.deviation[i] * f64::from(z[first + i]);
            }
            first += factor.dimensions;
        }
        x
    }
}
