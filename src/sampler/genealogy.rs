//! Where the particles of one prompt came from.

use std::collections::BTreeMap;

use crate::smc::error_bar::{FEWEST, student};

/// Error that rounding may leave in a sum of weights.
const ROUNDING: f64 = 1e-12;

/// What a step that drew ancestors says about the error of log Z.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Drawn {
    /// Effective sample size before.
    pub ess: f64,
    /// Squared relative standard error of the factor of Z since the draw before.
    pub error: f64,
}

/// Ancestors of every step, and what follows from them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Genealogy {
    /// Ancestors of each step: as many as particles go on.
    pub ancestors: Vec<Vec<u32>>,
    /// Of each step that drew them.
    pub drawn: Vec<Option<Drawn>>,
    /// Weights that the particles in the slots had after the last draw.
    pub since: Vec<f64>,
    /// Initial particle of each slot.
    roots: Vec<u32>,
    /// Initial particles.
    pub initial: usize,
}

impl Genealogy {
    pub fn new(particles: usize) -> Genealogy {
        Genealogy {
            ancestors: Vec::new(),
            drawn: Vec::new(),
            since: vec![1.0 / particles as f64; particles],
            roots: (0..particles as u32).collect(),
            initial: particles,
        }
    }

    /// One more step: its ancestors and, where they were drawn, the weights before the draw and after it.
    pub fn push(&mut self, ancestors: &[u32], draw: Option<(Vec<f64>, Vec<f64>)>) {
        let drawn = draw.map(|(before, after)| {
            let drawn = Drawn { ess: 1.0 / squares(&before), error: self.squared_error(&before) };
            self.since = after;
            drawn
        });
        self.roots = ancestors.iter().map(|&a| self.roots[a as usize]).collect();
        self.ancestors.push(ancestors.to_vec());
        self.drawn.push(drawn);
    }

    /// The genealogy of `initial` particles whose steps are known, and the weights after the last draw. Takes
    /// no more memory than these.
    pub fn known(
        initial: usize,
        ancestors: Vec<Vec<u32>>,
        drawn: Vec<Option<Drawn>>,
        since: Vec<f64>,
    ) -> Genealogy {
        let mut roots: Vec<u32> =
            ancestors.first().cloned().unwrap_or_else(|| (0..since.len() as u32).collect());
        for step in ancestors.iter().skip(1) {
            roots = step.iter().map(|&a| roots[a as usize]).collect();
        }
        Genealogy { ancestors, drawn, since, roots, initial }
    }

    /// Squared relative standard error of the mean that turned the weights of the last draw into `weights`.
    fn squared_error(&self, weights: &[f64]) -> f64 {
        let changes = weights.iter().zip(&self.since).map(|(now, then)| (now - then).powi(2));
        changes.sum::<f64>() / (1.0 - squares(&self.since))
    }

    /// Steps so far.
    pub fn len(&self) -> usize {
        self.ancestors.len()
    }

    /// Distinct initial particles among the ancestors of the slots.
    pub fn roots_alive(&self) -> usize {
        let mut roots = self.roots.clone();
        roots.sort_unstable();
        roots.dedup();
        roots.len()
    }

    /// For each slot its ancestor at every step, first step first.
    pub fn lineages(&self) -> Vec<Vec<u32>> {
        let line = |slot: usize| {
            let mut at = slot as u32;
            let mut line: Vec<u32> = self
                .ancestors
                .iter()
                .rev()
                .map(|ancestors| {
                    at = ancestors[at as usize];
                    at
                })
                .collect();
            line.reverse();
            line
        };
        (0..self.roots.len()).map(line).collect()
    }

    /// Half of a 95 % error bar of log Z from one run of N particles: the relative standard error of the
    /// estimate of Z times [`student`], because so few particles tell it that it is itself uncertain. Two
    /// estimates of the squared standard error are known, and the larger is taken:
    ///
    /// - from the genealogy, `1 - (N / (N - 1))^(m + 1) (1 - sum over roots of (their descendants'
    ///   weight)^2)` with m resamplings (Lee, Whiteley 2018, equation 8); it falls short where few runs have
    ///   rare heavy weights. Thinned particles are no equal draws, and it does not hold for them;
    /// - the sum over the m draws and the end of `sum of (W - V)^2 / (1 - sum of V^2)`, where the weights V
    ///   after one draw became W before the next, as if the factors of the estimate were independent. After a
    ///   resampling that is `(N / ESS - 1) / (N - 1)`.
    ///
    /// Without resampling both are the squared error of a mean of weights. `None` where nothing can be said:
    /// fewer than [`FEWEST`] roots, as counted by their weight, or less effective sample size at any of these
    /// events; or weights that never differed by more than rounding: a weight that no particle has met, as
    /// that of a reward of 0 or 1, does not show.
    pub fn log_z_error(&self, weights: &[f64]) -> Option<f64> {
        let n = weights.len() as f64;
        let mut root_weights = BTreeMap::new();
        for (&root, w) in self.roots.iter().zip(weights) {
            *root_weights.entry(root).or_insert(0.0) += w;
        }
        let alike = squares(&root_weights.into_values().collect::<Vec<f64>>());
        let drawn = || self.drawn.iter().flatten();
        let smallest = drawn().map(|d| d.ess).chain([1.0 / squares(weights)]).fold(1.0 / alike, f64::min);
        // Not a number where all weights are zero.
        if smallest.is_nan() || smallest < FEWEST * (1.0 - ROUNDING) {
            return None;
        }
        let genealogy = match weights.len() == self.initial {
            true => 1.0 - (n / (n - 1.0)).powi(drawn().count() as i32 + 1) * (1.0 - alike),
            false => 0.0,
        };
        let independent = drawn().map(|d| d.error).sum::<f64>() + self.squared_error(weights);
        let squared = genealogy.max(independent);
        (squared > ROUNDING).then(|| squared.sqrt() * student(smallest - 1.0))
    }
}

fn squares(list: &[f64]) -> f64 {
    list.iter().map(|w| w * w).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A draw from equal weights of four.
    fn even() -> Option<(Vec<f64>, Vec<f64>)> {
        Some((vec![0.25; 4], vec![0.25; 4]))
    }

    /// Five of which two go on: what the error adds up from, and whose roots they have.
    #[test]
    fn thinned_particles_keep_their_roots_and_the_error_of_their_weights() {
        let mut family = Genealogy::new(6);
        let before = vec![0.1, 0.1, 0.3, 0.2, 0.2, 0.1];
        family.push(&[0, 1, 2, 3, 4, 5], None);
        family.push(&[1, 2, 3, 5], Some((before.clone(), vec![0.2, 0.3, 0.25, 0.25])));
        assert_eq!((family.roots_alive(), family.roots.clone()), (4, vec![1, 2, 3, 5]));
        assert_eq!(family.lineages()[3], [5, 5]);
        let end = [0.3, 0.2, 0.25, 0.25];
        let first = before.iter().map(|w| (w - 1.0 / 6.0_f64).powi(2)).sum::<f64>() * 6.0 / 5.0;
        let then = [0.2, 0.3, 0.25, 0.25];
        let second = 2.0 * 0.1_f64.powi(2) / (1.0 - then.iter().map(|v| v * v).sum::<f64>());
        let freedom = 1.0 / end.iter().map(|w| w * w).sum::<f64>() - 1.0;
        let exact = (first + second).sqrt() * student(freedom);
        let error = family.log_z_error(&end).unwrap();
        assert!((error - exact).abs() < 1e-14, "{error} against {exact}");
    }

    #[test]
    fn lineages_name_the_ancestor_of_every_step() {
        let mut family = Genealogy::new(4);
        family.push(&[0, 0, 2, 3], even());
        family.push(&[1, 2, 2, 2], even());
        family.push(&[0, 1, 2, 3], None);
        assert_eq!(family.roots, [0, 2, 2, 2]);
        assert_eq!(family.roots_alive(), 2);
        assert_eq!(family.lineages(), [[0, 1, 0], [2, 2, 1], [2, 2, 2], [2, 2, 3]]);
    }

    /// Without resampling the estimate is the usual error of a mean, widened for few values.
    #[test]
    fn without_resampling_the_error_of_log_z_is_that_of_a_mean() {
        let raw = [0.3, 1.2, 0.7, 1.1, 0.4_f64];
        let n = raw.len() as f64;
        let mean = raw.iter().sum::<f64>() / n;
        let var = raw.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let weights: Vec<f64> = raw.iter().map(|w| w / (n * mean)).collect();
        let error = Genealogy::new(5).log_z_error(&weights).unwrap();
        let roots = 1.0 / weights.iter().map(|w| w * w).sum::<f64>();
        let exact = (var / n).sqrt() / mean * student(roots - 1.0);
        assert!((error - exact).abs() < 1e-14, "{error} against {exact}");
    }

    #[test]
    fn an_error_that_is_not_known_is_not_told() {
        assert_eq!(Genealogy::new(1).log_z_error(&[1.0]), None, "one particle");
        assert_eq!(Genealogy::new(3).log_z_error(&[1.0, 0.0, 0.0]), None, "one weight");
        assert_eq!(Genealogy::new(4).log_z_error(&[0.5, 0.5, 0.0, 0.0]), None, "two weights");
        assert_eq!(Genealogy::new(2).log_z_error(&[f64::NAN, f64::NAN]), None, "no weight");
        assert_eq!(Genealogy::new(4).log_z_error(&[0.25; 4]), None, "weights that do not scatter");
        let mut family = Genealogy::new(4);
        family.push(&[2, 2, 2, 2], even());
        assert_eq!(family.log_z_error(&[0.25; 4]), None, "one root");
        let mut family = Genealogy::new(4);
        family.push(&[0, 1, 2, 3], Some((vec![0.8, 0.2, 0.0, 0.0], vec![0.25; 4])));
        assert_eq!(family.log_z_error(&[0.25; 4]), None, "few particles at an event");
    }
}
