//! Single events. Whole chains are in `tests/smc.rs`.

use super::*;
use crate::noise::{Key, Purpose, Uniforms, uniforms};

const DEAD: f64 = f64::NEG_INFINITY;

fn stream() -> Uniforms {
    uniforms(Key { seed: 5, prompt: 0, particle: 0, step: 0, purpose: Purpose::Resample })
}

fn rules(ess_threshold: f64) -> Rules {
    Rules {
        tempering: Tempering::None,
        resampler: Resampler::Ssp,
        ess_threshold,
        max_shift: None,
        potentials: Potentials::Difference,
    }
}

fn event(rules: &Rules, at: &Population, event: Event, ratio: &[f64], potential: &[f64]) -> Weighed {
    let mut u = stream();
    weigh(rules, at, event, ratio, potential, &mut || u.draw())
}

#[test]
fn one_event_computes_what_the_formulas_say() {
    let at = Population {
        kept: vec![DEAD; 2],
        log_weights: vec![0.25_f64.ln(), 0.75_f64.ln()],
        psi: vec![0.5, -0.5],
        lambda: 0.2,
        log_z: 3.0,
    };
    let tempering = Tempering::Exp { gamma: 0.1 };
    let out = event(&Rules { tempering, ..rules(0.0) }, &at, Event::Step(2), &[0.1, -0.2], &[1.0, 2.0]);
    let increment = [0.1 + 0.21 - 0.5, -0.2 + 0.42 + 0.5];
    let z = 0.25 * f64::exp(increment[0]) + 0.75 * f64::exp(increment[1]);
    let w = 0.25 * f64::exp(increment[0]) / z;
    // Measured: 1e-16 each.
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-14, "{a} against {b}");
    near(out.lambda, 0.21);
    near(out.lambda_next, 0.331);
    near(out.increment[0], increment[0]);
    near(out.increment[1], increment[1]);
    near(out.log_z_increment, z.ln());
    near(out.log_weights[0], w.ln());
    near(out.ess, 1.0 / (w * w + (1.0 - w) * (1.0 - w)));
    assert_eq!((out.resampled, &out.ancestors[..]), (false, &[0, 1][..]));
    assert_eq!((&out.psi, &out.next_log_weights), (&out.twist, &out.log_weights));
    near(at.after(&out).log_z, 3.0 + z.ln());
}

/// Without twist until the end the estimate of Z is that of importance sampling.
#[test]
fn a_single_final_event_is_importance_sampling() {
    let potential = [0.3, -1.0, 2.0, 0.0];
    let out = event(&rules(2.0), &Population::new(4), Event::Final, &[0.0; 4], &potential);
    let z = potential.iter().map(|l| l.exp()).sum::<f64>() / 4.0;
    assert!((out.log_z_increment - z.ln()).abs() < 1e-15);
    for (lw, l) in out.log_weights.iter().zip(potential) {
        assert!((lw - (l - (4.0 * z).ln())).abs() < 1e-15);
    }
    assert!(!out.resampled, "the last weights are kept");
}

#[test]
fn lambda_zero_leaves_the_weights_uniform_and_the_population_alone() {
    let rules = Rules { tempering: Tempering::Exp { gamma: 0.008 }, ..rules(1.0) };
    let out = event(&rules, &Population::new(5), Event::Step(0), &[0.0; 5], &[3.0, 1.0, 9.0, -4.0, 0.0]);
    assert_eq!((out.ess, out.resampled), (5.0, false));
    assert!(out.log_z_increment.abs() < 1e-15);
    assert_eq!(out.lambda_next, Tempering::Exp { gamma: 0.008 }.schedule(1).0);
}

/// Every slot is forced to come from one particle. Its children are alike, so equal potentials must give
/// equal weights; with the twist of the slots' former owners they do not.
#[test]
fn children_of_one_ancestor_start_equal() {
    let potential = [0.0, 0.0, 900.0, 0.0];
    let rules = rules(0.5);
    let first = event(&rules, &Population::new(4), Event::Step(0), &[0.0; 4], &potential);
    assert_eq!((first.resampled, &first.ancestors[..]), (true, &[2, 2, 2, 2][..]));
    assert_eq!(first.psi, [900.0; 4]);
    let at = Population::new(4).after(&first);
    let second = event(&rules, &at, Event::Step(1), &[0.0; 4], &[901.0; 4]);
    assert_eq!((second.ess, &second.increment[..]), (4.0, &[1.0; 4][..]));
    assert!((second.log_z_increment - 1.0).abs() < 1e-15);

    let stale = Population { psi: first.twist.clone(), ..at };
    let wrong = event(&rules, &stale, Event::Step(1), &[0.0; 4], &[901.0; 4]);
    assert!(wrong.ess < 3.5 && wrong.log_z_increment > 100.0, "the stale twist must show");
}

/// Renaming the particles renames the results: weights and twists move with their owners, and after a
/// resampling every slot carries its ancestor's twist.
#[test]
fn renaming_particles_renames_everything() {
    let n = 8;
    let mut u = stream();
    let mut numbers = |scale: f64| -> Vec<f64> { (0..n).map(|_| scale * (u.draw() - 0.5)).collect() };
    let (ratio, potential, psi, raw) = (numbers(1.0), numbers(4.0), numbers(1.0), numbers(2.0));
    let names = [3, 0, 7, 1, 6, 2, 5, 4];
    let renamed = |v: &[f64]| -> Vec<f64> { names.iter().map(|&i| v[i]).collect() };
    let at = Population { log_weights: Weights::new(&raw).log_weights().to_vec(), psi, ..Population::new(n) };
    let other = Population { log_weights: renamed(&at.log_weights), psi: renamed(&at.psi), ..at.clone() };
    for threshold in [0.0, 2.0] {
        let a = event(&rules(threshold), &at, Event::Step(1), &ratio, &potential);
        let b = event(&rules(threshold), &other, Event::Step(1), &renamed(&ratio), &renamed(&potential));
        assert_eq!(b.increment, renamed(&a.increment));
        assert_eq!(b.twist, renamed(&a.twist));
        // The order of a sum changes its last digit: measured 2e-16.
        assert!((a.log_z_increment - b.log_z_increment).abs() < 1e-14 && (a.ess - b.ess).abs() < 1e-13);
        assert!(b.log_weights.iter().zip(renamed(&a.log_weights)).all(|(x, y)| (x - y).abs() < 1e-14));
        for out in [a, b] {
            assert_eq!(out.resampled, threshold > 0.0);
            for (slot, &ancestor) in out.ancestors.iter().enumerate() {
                assert_eq!(out.psi[slot], out.twist[ancestor as usize]);
            }
        }
    }
}

#[test]
fn a_dead_particle_has_no_weight_until_it_is_resampled_away() {
    let never = rules(0.0);
    for bad in [f64::NAN, f64::INFINITY, DEAD] {
        let first = event(&never, &Population::new(4), Event::Step(0), &[0.0; 4], &[0.0, bad, 0.0, 0.0]);
        assert_eq!((first.log_weights[1], first.increment[1], first.twist[1]), (DEAD, DEAD, 0.0));
        assert!((first.ess - 3.0).abs() < 1e-15);
        assert!((first.log_z_increment - 0.75_f64.ln()).abs() < 1e-15);
        // It may score again; it stays dead.
        let at = Population::new(4).after(&first);
        let second = event(&never, &at, Event::Step(1), &[0.0; 4], &[0.0, 50.0, 0.0, 0.0]);
        assert_eq!(second.log_weights[1], DEAD);
        let third = event(&rules(0.9), &at, Event::Step(1), &[0.0; 4], &[0.0; 4]);
        assert!(third.resampled && !third.ancestors.contains(&1));
        // The same through the ratio of its move, and with lambda = 0.
        let moved = event(&never, &Population::new(4), Event::Step(0), &[0.0, bad, 0.0, 0.0], &[0.0; 4]);
        assert_eq!(moved.log_weights[1], DEAD);
        let cold = Rules { tempering: Tempering::Exp { gamma: 0.1 }, ..never };
        let cold = event(&cold, &Population::new(4), Event::Step(0), &[0.0; 4], &[0.0, bad, 0.0, 0.0]);
        assert_eq!(cold.log_weights[1], DEAD);
    }
}

#[test]
fn a_population_that_dies_says_so_and_goes_on_uniformly() {
    let out = event(&rules(0.5), &Population::new(2), Event::Step(0), &[0.0; 2], &[f64::NAN, DEAD]);
    assert!(out.collapsed && !out.resampled);
    let at = Population::new(2).after(&out);
    assert_eq!((at.log_z, &at.psi[..]), (DEAD, &[0.0, 0.0][..]));
    let next = event(&rules(0.5), &at, Event::Step(1), &[0.0; 2], &[1.0, 1.0]);
    assert!(!next.collapsed && next.ess == 2.0);
    assert_eq!(at.after(&next).log_z, DEAD, "the estimate of Z stays 0");
}

#[test]
fn the_threshold_is_strict() {
    let pair = [0.0, DEAD];
    let at = Population::new(2);
    assert!(!event(&rules(0.5), &at, Event::Step(0), &[0.0; 2], &pair).resampled, "ESS 1 is not below 1");
    assert!(event(&rules(0.51), &at, Event::Step(0), &[0.0; 2], &pair).resampled);
    assert!(!event(&rules(1.0), &at, Event::Step(0), &[0.0; 2], &[7.0; 2]).resampled, "equal weights");
    assert!(event(&rules(1.1), &at, Event::Step(0), &[0.0; 2], &[7.0; 2]).resampled, "always");
    assert!(!event(&rules(1.0), &Population::new(1), Event::Step(0), &[0.0], &[7.0]).resampled);
}

/// Lambda never falls, never passes 1, holds the sample size at the threshold where it is free, and looks
/// ahead.
#[test]
fn adaptive_lambda_rises_to_one() {
    let n = 32;
    for floor in [Floor::Last, Floor::Exp { gamma: 0.02 }] {
        let rules = Rules { tempering: Tempering::Adaptive { floor }, ..rules(0.5) };
        let (mut at, mut u) = (Population::new(n), stream());
        let mut potential: Vec<f64> = (0..n).map(|_| 60.0 * u.draw()).collect();
        let (mut free, mut reached) = (0, false);
        for j in 0..60 {
            let out = weigh(&rules, &at, Event::Step(j), &vec![0.0; n], &potential, &mut || u.draw());
            let (low, low_next) = rules.tempering.schedule(j);
            assert!(out.lambda >= at.lambda && out.lambda >= low && out.lambda <= 1.0);
            assert!(out.lambda_next >= out.lambda && out.lambda_next <= 1.0);
            assert!(out.lambda_next >= (out.lambda + low_next - low).min(1.0) - 1e-15);
            if j == 0 {
                assert_eq!((out.lambda, out.ess), (0.0, n as f64));
            } else if out.lambda > at.lambda.max(low) && out.lambda < 1.0 {
                free += 1;
                assert!((out.ess - 0.5 * n as f64).abs() < 1e-6 * n as f64);
                assert!(
                    out.resampled,
                    "at the threshold up to rounding, {} of it",
                    out.ess / (0.5 * n as f64)
                );
            }
            potential = out.ancestors.iter().map(|&a| potential[a as usize] + u.draw()).collect();
            reached |= out.lambda == 1.0;
            at = at.after(&out);
        }
        assert!(reached && free > 0, "{floor:?}: reached {reached}, free {free}");
        let end = weigh(&rules, &at, Event::Final, &vec![0.0; n], &potential, &mut || 0.5);
        assert_eq!((end.lambda, end.lambda_next), (1.0, 1.0));
    }
}

#[test]
fn a_long_shift_is_shortened_to_its_bound() {
    let bounded = Rules { max_shift: Some(1.5), ..rules(0.5) };
    let (kappa, variance) = (0.5, 0.04);
    let bound = bounded.drift_bound(kappa, variance);
    for length in [0.0, 0.1, 10.0, 1e6] {
        let s = f64::from(strength(0.8, 0.2, bound, length * length));
        let shift = kappa * variance.sqrt() * s * length;
        // The strength is rounded to f32.
        assert!(shift <= 1.5 * (1.0 + 1e-7) && s <= 4.0, "length {length}: {s}, shift {shift}");
        assert!(s == 4.0 || (shift / 1.5 - 1.0).abs() < 1e-7, "length {length}: {s}, shift {shift}");
    }
    // A gradient that is not finite is not followed; without a bound, and without noise, nothing changes.
    assert_eq!(strength(0.8, 0.2, bound, f64::INFINITY), 4.0);
    assert_eq!(strength(0.8, 0.2, bound, f64::NAN), 4.0);
    assert_eq!(strength(0.8, 0.2, rules(0.5).drift_bound(kappa, variance), 1e12), 4.0);
    assert_eq!(strength(0.8, 0.2, bounded.drift_bound(kappa, 0.0), 1e12), 4.0);
}
