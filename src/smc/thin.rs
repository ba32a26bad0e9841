//! Fewer particles out of many, each at most once.

use super::math::ln;
use super::resample::Resampler;
use super::weights::{Weights, fixed_point};

/// `keep` of the particles, never decreasing, each at most once, and their log-weights.
///
/// Particle `p` stays with probability `min(1, c W_p)`, where `c` is such that `keep` stay. Who is sure to
/// stay keeps the weight `W_p`, and who stays by chance gets `1 / c`, so that the expected weight of every
/// particle is the one it had and log Z stays unbiased in Z. Of all such rules it has the least squared error
/// (Fearnhead, Clifford 2003, section 3 of "On-line inference for hidden Markov models via particle
/// filters"). Unlike resampling it makes no copies: as many initial particles stay alive as particles are
/// kept.
///
/// Where fewer than `keep` particles have a weight that counts (see [`fixed_point`]), those of the largest
/// log-weights stay as they are.
#[track_caller]
pub fn thin(weights: &Weights, keep: usize, uniform: f64) -> (Vec<u32>, Vec<f64>) {
    let (log_weights, particles) = (weights.log_weights(), weights.log_weights().len());
    assert!((1..=particles).contains(&keep), "{keep} of {particles} particles");
    let whole = fixed_point(weights.relative());
    let total: u128 = whole.iter().map(|&w| u128::from(w)).sum();
    let mut order: Vec<usize> = (0..particles).collect();
    order.sort_by(|&a, &b| log_weights[b].total_cmp(&log_weights[a]));

    // The heaviest are sure to stay, one after another, as long as their share of the places left for the
    // rest is more than one.
    let (mut sure, mut rest) = (0, total);
    while sure < keep {
        let w = u128::from(whole[order[sure]]);
        if (keep - sure) as u128 * w < rest {
            break;
        }
        (sure, rest) = (sure + 1, rest - w);
    }
    let mut kept: Vec<(u32, f64)> = order[..sure].iter().map(|&p| (p as u32, log_weights[p])).collect();
    let places = keep - sure;
    if places > 0 {
        let mut light = whole;
        order[..sure].iter().for_each(|&p| light[p] = 0);
        let chosen = Resampler::Systematic.ancestors_fixed(&light, places, &mut || uniform);
        let log_weight = ln(rest as f64 / (places as f64 * total as f64));
        kept.extend(chosen.into_iter().map(|p| (p, log_weight)));
    }
    kept.sort_unstable_by_key(|&(p, _)| p);
    kept.into_iter().unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Key, Purpose, uniforms};

    const LOG_WEIGHTS: [f64; 8] = [-0.3, -2.0, -5.0, -2.0, -1.1, -9.0, -3.0, f64::NEG_INFINITY];

    /// `c` of the definition by bisection: the sum of `min(1, c W)` over the particles is `keep`.
    fn factor(weights: &[f64], keep: usize) -> f64 {
        let staying = |c: f64| weights.iter().map(|w| (c * w).min(1.0)).sum::<f64>();
        let (mut low, mut high) = (1.0, 1e12);
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if staying(middle) < keep as f64 { low = middle } else { high = middle }
        }
        high
    }

    /// Everybody's share of the uniforms in which it stays, and its mean weight, by a grid of uniforms. The
    /// grid's 2000 points leave 1 / 2000 (measured: 5e-4 and less).
    #[test]
    fn everybody_stays_as_often_as_the_weight_says_and_keeps_it_on_average() {
        let weights = Weights::new(&LOG_WEIGHTS);
        for keep in 1..=6 {
            let c = factor(weights.weights(), keep);
            let (mut stays, mut mean) = ([0.0; 8], [0.0; 8]);
            let points = 2000;
            for i in 0..points {
                let (kept, log_weights) = thin(&weights, keep, (f64::from(i) + 0.5) / f64::from(points));
                assert_eq!(kept.len(), keep);
                assert!(kept.is_sorted_by(|a, b| a < b), "each once: {kept:?}");
                let total: f64 = log_weights.iter().map(|w| w.exp()).sum();
                assert!((total - 1.0).abs() < 1e-9, "{total}");
                for (&p, log_weight) in kept.iter().zip(&log_weights) {
                    stays[p as usize] += 1.0 / f64::from(points);
                    mean[p as usize] += log_weight.exp() / f64::from(points);
                }
            }
            for p in 0..8 {
                let w = weights.weights()[p];
                assert!((stays[p] - (c * w).min(1.0)).abs() < 1e-3, "{keep}, {p}: {} {c}", stays[p]);
                assert!((mean[p] - w).abs() < 1e-3, "{keep}, {p}: {} {w}", mean[p]);
            }
        }
    }

    #[test]
    fn who_has_no_weight_stays_last() {
        let weights = Weights::new(&LOG_WEIGHTS);
        let (kept, log_weights) = thin(&weights, 7, 0.5);
        assert_eq!(kept, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(log_weights, weights.log_weights()[..7]);
        let (kept, log_weights) = thin(&weights, 8, 0.5);
        assert_eq!((kept.len(), log_weights[7]), (8, f64::NEG_INFINITY));
        // Too light to count against the heaviest, but not dead: by their order.
        let light = Weights::new(&[-300.0, 0.0, -200.0, -100.0, f64::NEG_INFINITY]);
        let (kept, log_weights) = thin(&light, 3, 0.0);
        assert_eq!(kept, [1, 2, 3]);
        assert!((log_weights[1] + 200.0).abs() < 1e-9, "{log_weights:?}");
        let lost = Weights::new(&[f64::NEG_INFINITY; 4]);
        assert_eq!(thin(&lost, 2, 0.3).1, [-(2.0_f64.ln()); 2]);
    }

    /// Any weights and any uniform, its ends too: as many as asked for, each at most once.
    #[test]
    fn nobody_stays_twice() {
        let mut stream = uniforms(Key { seed: 7, prompt: 0, particle: 0, step: 0, purpose: Purpose::Draw });
        for case in 0..2000_usize {
            let particles = 1 + case % 17;
            let scale = [0.0, 0.1, 3.0, 40.0][case % 4];
            let log_weights: Vec<f64> = (0..particles).map(|_| scale * stream.draw().ln()).collect();
            let weights = Weights::new(&log_weights);
            for keep in 1..=particles {
                for uniform in [0.0, stream.draw(), 1.0] {
                    let (kept, after) = thin(&weights, keep, uniform);
                    assert_eq!((kept.len(), after.len()), (keep, keep));
                    assert!(kept.is_sorted_by(|a, b| a < b), "{kept:?}");
                    assert!(after.iter().all(|w| w.is_finite()), "{after:?}");
                }
            }
        }
    }
}
