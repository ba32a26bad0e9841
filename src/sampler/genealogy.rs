//! Where the particles of one prompt came from.

/// Error that rounding may leave in a sum of weights.
const ROUNDING: f64 = 1e-12;

/// Fewer particles, as counted by their weight, say nothing about the error of log Z.
const FEWEST: f64 = 3.0;

/// Ancestors of every step, and what follows from them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Genealogy {
    /// Ancestors chosen at each step, P each.
    ancestors: Vec<Vec<u32>>,
    /// Effective sample size of each step that resampled.
    resampled: Vec<Option<f64>>,
    /// Initial particle of each slot.
    roots: Vec<u32>,
}

impl Genealogy {
    pub fn new(particles: usize) -> Genealogy {
        let roots = (0..particles as u32).collect();
        Genealogy { ancestors: Vec::new(), resampled: Vec::new(), roots }
    }

    /// One more step: its ancestors and, where it resampled, the effective sample size before that.
    pub fn push(&mut self, ancestors: &[u32], resampled: Option<f64>) {
        self.roots = ancestors.iter().map(|&a| self.roots[a as usize]).collect();
        self.ancestors.push(ancestors.to_vec());
        self.resampled.push(resampled);
    }

    /// Steps so far.
    pub fn len(&self) -> usize {
        self.ancestors.len()
    }

    /// Ancestors of step `k` and, where it resampled, its effective sample size.
    pub fn step(&self, k: usize) -> (&[u32], Option<f64>) {
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

    /// Half of a 95 % error bar of log Z from one run of N particles: the relative standard error of the
    /// estimate of Z times [`student`], because so few particles tell it that it is itself uncertain. Two
    /// estimates of the squared standard error are known, and the larger is taken:
    ///
    /// - from the genealogy, `1 - (N / (N - 1))^(m + 1) (1 - sum over roots of (their descendants'
    ///   weight)^2)` with m resamplings (Lee, Whiteley 2018, equation 8); it falls short where few runs have
    ///   rare heavy weights;
    /// - the sum over the m resamplings and the end of `(N / ESS - 1) / (N - 1)`, as if the factors of the
    ///   estimate were independent.
    ///
    /// Without resampling both are the squared error of a mean of weights. `None` where nothing can be said:
    /// fewer than [`FEWEST`] roots, as counted by their weight, or less effective sample size at any of these
    /// events.
    pub fn log_z_error(&self, weights: &[f64]) -> Option<f64> {
        let n = weights.len() as f64;
        let mut root_weights = vec![0.0; weights.len()];
        for (&root, w) in self.roots.iter().zip(weights) {
            root_weights[root as usize] += w;
        }
        let squares = |list: &[f64]| list.iter().map(|w| w * w).sum::<f64>();
        let alike = squares(&root_weights);
        let sizes = || self.resampled.iter().flatten().copied().chain([1.0 / squares(weights)]);
        let smallest = sizes().fold(1.0 / alike, f64::min);
        // Not a number where all weights are zero.
        if smallest.is_nan() || smallest < FEWEST * (1.0 - ROUNDING) {
            return None;
        }
        let resamplings = self.resampled.iter().flatten().count() as i32;
        let genealogy = 1.0 - (n / (n - 1.0)).powi(resamplings + 1) * (1.0 - alike);
        let independent: f64 = sizes().map(|size| (n / size - 1.0) / (n - 1.0)).sum();
        Some(genealogy.max(independent).max(0.0).sqrt() * student(smallest - 1.0))
    }
}

/// By how much a 95 % error bar is wider where its standard error comes from `freedom` + 1 values: the 97.5 %
/// quantile of Student's t over that of the normal distribution. Fisher's expansion, 3 % too small at 2
/// degrees of freedom and better above.
fn student(freedom: f64) -> f64 {
    let z = 1.959_964_f64;
    let (z3, z5, z7) = (z.powi(3), z.powi(5), z.powi(7));
    let first = (z3 + z) / 4.0;
    let second = (5.0 * z5 + 16.0 * z3 + 3.0 * z) / 96.0;
    let third = (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / 384.0;
    1.0 + (first + (second + third / freedom) / freedom) / (freedom * z)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lineages_name_the_ancestor_of_every_step() {
        let mut family = Genealogy::new(4);
        family.push(&[0, 0, 2, 3], Some(3.0));
        family.push(&[1, 2, 2, 2], Some(3.0));
        family.push(&[0, 1, 2, 3], None);
        assert_eq!(family.roots, [0, 2, 2, 2]);
        assert_eq!(family.roots_alive(), 2);
        assert_eq!(family.lineages(), [[0, 1, 0], [2, 2, 1], [2, 2, 2], [2, 2, 3]]);
    }

    /// Quantiles of Student's t over that of the normal distribution, from tables.
    #[test]
    fn few_roots_widen_the_error_bar_as_students_t_does() {
        for (freedom, quantile) in [(2.0, 4.303), (3.0, 3.182), (5.0, 2.571), (10.0, 2.228), (60.0, 2.000)] {
            let (factor, exact) = (student(freedom), quantile / 1.959_964);
            assert!((factor / exact - 1.0).abs() < 0.031, "{freedom} degrees: {factor} against {exact}");
        }
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
        assert_eq!(Genealogy::new(4).log_z_error(&[0.25; 4]), Some(0.0), "weights that do not scatter");
        let mut family = Genealogy::new(4);
        family.push(&[2, 2, 2, 2], Some(3.0));
        assert_eq!(family.log_z_error(&[0.25; 4]), None, "one root");
        let mut family = Genealogy::new(4);
        family.push(&[0, 1, 2, 3], Some(1.5));
        assert_eq!(family.log_z_error(&[0.25; 4]), None, "few particles at an event");
    }
}
