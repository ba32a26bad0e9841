//! Where the particles of one prompt came from.

/// Error that rounding may leave in a sum of weights.
const ROUNDING: f64 = 1e-12;

/// Ancestors of every step, and what follows from them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Genealogy {
    /// Ancestors chosen at each step, P each.
    ancestors: Vec<Vec<u32>>,
    /// Whether each step resampled.
    resampled: Vec<bool>,
    /// Initial particle of each slot.
    roots: Vec<u32>,
}

impl Genealogy {
    pub fn new(particles: usize) -> Genealogy {
        let roots = (0..particles as u32).collect();
        Genealogy { ancestors: Vec::new(), resampled: Vec::new(), roots }
    }

    pub fn push(&mut self, ancestors: &[u32], resampled: bool) {
        self.roots = ancestors.iter().map(|&a| self.roots[a as usize]).collect();
        self.ancestors.push(ancestors.to_vec());
        self.resampled.push(resampled);
    }

    /// Steps so far.
    pub fn len(&self) -> usize {
        self.ancestors.len()
    }

    /// Ancestors of step `k`, and whether it resampled.
    pub fn step(&self, k: usize) -> (&[u32], bool) {
        (&self.ancestors[k], self.resampled[k])
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

    /// Relative standard error of the estimate of Z from one run (Lee, Whiteley 2018, equation 8, with the
    /// number of actual resamplings), the root of `1 - (N / (N - 1))^(m + 1) (1 - sum over roots of (their
    /// descendants' weight)^2)`. Without resampling (m = 0) that is the error of a mean of weights.
    ///
    /// `None` where it is no error bar: fewer than two roots, as counted by their weight, or a square below
    /// 0.
    pub fn log_z_error(&self, weights: &[f64]) -> Option<f64> {
        let n = weights.len() as f64;
        let mut of_root = vec![0.0; weights.len()];
        for (&root, w) in self.roots.iter().zip(weights) {
            of_root[root as usize] += w;
        }
        let alike: f64 = of_root.iter().map(|w| w * w).sum();
        // Not a number where all weights are zero.
        let known = alike * 2.0 <= 1.0 + ROUNDING;
        let resamplings = self.resampled.iter().filter(|&&r| r).count() as i32;
        let square = 1.0 - (n / (n - 1.0)).powi(resamplings + 1) * (1.0 - alike);
        (known && square >= -ROUNDING).then(|| square.max(0.0).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lineages_name_the_ancestor_of_every_step() {
        let mut family = Genealogy::new(4);
        family.push(&[0, 0, 2, 3], true);
        family.push(&[1, 2, 2, 2], true);
        family.push(&[0, 1, 2, 3], false);
        assert_eq!(family.roots, [0, 2, 2, 2]);
        assert_eq!(family.roots_alive(), 2);
        assert_eq!(family.lineages(), [[0, 1, 0], [2, 2, 1], [2, 2, 2], [2, 2, 3]]);
    }

    /// Without resampling the estimate is the usual error of a mean.
    #[test]
    fn without_resampling_the_error_of_log_z_is_that_of_a_mean() {
        let raw = [0.3, 1.2, 0.7, 2.2, 0.1_f64];
        let n = raw.len() as f64;
        let mean = raw.iter().sum::<f64>() / n;
        let var = raw.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let weights: Vec<f64> = raw.iter().map(|w| w / (n * mean)).collect();
        let error = Genealogy::new(5).log_z_error(&weights).unwrap();
        assert!((error - (var / n).sqrt() / mean).abs() < 1e-14, "{error}");
    }

    #[test]
    fn an_error_that_is_not_known_is_not_told() {
        assert_eq!(Genealogy::new(1).log_z_error(&[1.0]), None, "one particle");
        assert_eq!(Genealogy::new(3).log_z_error(&[1.0, 0.0, 0.0]), None, "one weight");
        assert_eq!(Genealogy::new(2).log_z_error(&[f64::NAN, f64::NAN]), None, "no weight");
        assert_eq!(Genealogy::new(4).log_z_error(&[0.25; 4]), Some(0.0), "weights that do not scatter");
        let mut family = Genealogy::new(4);
        family.push(&[2, 2, 2, 2], true);
        assert_eq!(family.log_z_error(&[0.25; 4]), None, "one root");
        // Equal offspring many times over: the estimate of the square is below 0.
        let mut family = Genealogy::new(4);
        (0..9).for_each(|_| family.push(&[0, 1, 2, 3], true));
        assert_eq!(family.log_z_error(&[0.25; 4]), None, "a negative square");
    }
}
