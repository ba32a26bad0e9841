use serde::Deserialize;

use super::*;
use crate::model::config::SchedulerFile;
use crate::noise::{Key, Purpose, fill_normals};

#[derive(Deserialize)]
struct Case {
    config: serde_json::Value,
    steps: usize,
    eta: f64,
    timesteps: Vec<i64>,
    alphas_cumprod: Vec<(usize, f64)>,
    moves: Vec<Move>,
}

#[derive(Deserialize)]
struct Move {
    k: usize,
    x: Vec<f64>,
    out: Vec<f64>,
    z: Vec<f64>,
    x0: Vec<f64>,
    prev: Vec<f64>,
}

fn read(json: &str) -> Result<SchedulerConfig> {
    SchedulerFile::parse("scheduler_config.json", json.as_bytes()).map(|file| file.config)
}

fn goldens() -> Vec<Case> {
    serde_json::from_str(include_str!("../../tests/golden/ddim.json")).expect("the golden file")
}

/// Tables: the same f32 bits. Moves: f64 on both sides from the same table; the largest coefficient is 1 /
/// sqrt(1 - abar(0)), 156 for the cosine schedule predicting samples, so 1e-12 is a few dozen roundings
/// (measured: 1.1e-14).
///
/// With zero terminal SNR the table goes through square roots, which torch leaves to a vector library that
/// rounds otherwise in a fifth of all cases; 2000 factors then wander by sqrt(2000) 6e-8 = 2.7e-6 (measured:
/// 1.8e-7, moves 6.9e-7).
#[test]
fn chains_are_those_of_diffusers() {
    let mut worst = [[0.0_f64; 2]; 2];
    for case in goldens() {
        let config = read(&case.config.to_string()).expect("a known configuration");
        let schedule = Schedule::new(&config, case.steps, case.eta).expect("a chain");
        let what = format!("{} steps of {}", case.steps, case.config);
        // Where rounding gives diffusers an extra step at -1, ours ends before it.
        let theirs: Vec<i64> = case.timesteps.iter().copied().filter(|t| *t >= 0).collect();
        assert_eq!(schedule.timesteps(), theirs, "{what}");
        let rescaled = usize::from(config.rescale_betas_zero_snr);
        let (table_tolerance, move_tolerance) = [(0.0, 1e-12), (3e-6, 1e-5)][rescaled];
        let errors = &mut worst[rescaled];
        let table = config.alphas_cumprod();
        for (i, theirs) in case.alphas_cumprod {
            let error = f64::from((table[i] - theirs as f32).abs());
            errors[0] = errors[0].max(error);
            assert!(error <= table_tolerance, "{what}: abar({i}) {} against {theirs}", table[i]);
        }
        for m in case.moves {
            let step = &schedule.steps[m.k];
            for i in 0..m.x.len() {
                let (x0, prev) = step.apply(m.x[i], m.out[i], 0.0, m.z[i]);
                let error = (x0 - m.x0[i]).abs().max((prev - m.prev[i]).abs());
                errors[1] = errors[1].max(error);
                assert!(error < move_tolerance, "{what}: step {} differs by {error}", m.k);
            }
        }
    }
    println!("[table, moves] differ by {:?}, with zero terminal SNR by {:?}", worst[0], worst[1]);
}

/// docs/spec.md 2.1, to the digits printed there.
#[test]
fn the_check_values_of_stable_diffusion_hold() {
    let config = SchedulerConfig::stable_diffusion();
    let table = config.alphas_cumprod();
    for (t, value) in [(0, 0.999150), (1, 0.998296), (991, 0.005130), (999, 0.004660)] {
        assert!((table[t] - value).abs() < 5e-7, "abar({t}) = {}", table[t]);
    }
    let schedule = Schedule::new(&config, 100, 1.0).expect("a chain");
    assert_eq!(schedule.timesteps()[..2], [991, 981]);
    assert_eq!((schedule.steps[99].t, schedule.steps[99].t_prev), (1, -9));
    for (k, v, digit) in
        [(0, 0.111681, 1e-6), (50, 0.0448, 1e-6), (98, 1.42889e-3, 1e-8), (99, 4.26353e-4, 1e-9)]
    {
        let found = schedule.steps[k].variance;
        // Half the last digit, and what an f32 rounding of abar does to 1 - abar/abar'.
        let rounding =
            1.2e-7 * found / (1.0 - schedule.steps[k].alpha_bar / schedule.steps[k].alpha_bar_prev);
        assert!((found - v).abs() < 0.5 * digit + rounding, "v({k}) = {found}");
    }
    assert_eq!(schedule.steps[99].alpha_bar_prev, f64::from(table[0]));
}

#[test]
fn lcm_visits_the_published_steps_and_ends_without_noise() {
    let config = SchedulerConfig::lcm();
    let schedule = Schedule::new(&config, 8, 0.5).expect("a chain");
    assert_eq!(schedule.timesteps(), [999, 879, 759, 639, 499, 379, 259, 139]);
    let last = schedule.steps[7];
    assert_eq!((last.variance, last.mean, last.kappa), (0.0, Affine::new(1.0, 0.0), 0.25));
    assert_eq!(last.log_ratio(3.0, 1.0), 0.0);
    assert!(schedule.steps[..7].iter().all(|s| s.variance == 1.0 - s.alpha_bar_prev && s.variance > 0.0));
}

/// The maps of each prediction type agree with each other: an output that means the same noise gives the same
/// x0 and eps. f64 throughout; coefficients up to 14, measured 4e-15.
#[test]
fn prediction_types_agree_on_the_same_noise() {
    for t in [0, 500, 999] {
        let config = SchedulerConfig::stable_diffusion();
        let abar = f64::from(config.alphas_cumprod()[t as usize]);
        let (clean, noise) = (0.7, -1.3);
        let x = abar.sqrt() * clean + (1.0 - abar).sqrt() * noise;
        let outputs = [
            (Prediction::Epsilon, noise),
            (Prediction::Sample, clean),
            (Prediction::VPrediction, abar.sqrt() * noise - (1.0 - abar).sqrt() * clean),
        ];
        for (prediction_type, out) in outputs {
            let config = SchedulerConfig { prediction_type, ..config.clone() };
            let (x0, eps) = predictions(&config, t, abar).expect("two maps");
            assert!((x0.apply(x, out) - clean).abs() < 1e-13, "{prediction_type:?} at {t}");
            assert!((eps.apply(x, out) - noise).abs() < 1e-13 / (1.0 - abar).sqrt());
        }
    }
}

/// Closed form against the difference of two Gaussian log-densities, for DDIM and LCM (kappa = eta^2), D =
/// 64. The densities are sums of 64 terms of size 1, so 1e-11 is ample (measured: 7e-15).
#[test]
fn the_density_ratio_has_its_closed_form() {
    let mut worst = 0.0_f64;
    for (case, (v, kappa)) in [(0.111, 1.0), (4.3e-4, 1.0), (0.9, 0.25), (0.2, 0.25)].into_iter().enumerate()
    {
        let mut numbers = [0.0_f32; 192];
        let key = Key { seed: 7, prompt: 0, particle: case as u32, step: 0, purpose: Purpose::Data };
        fill_normals(&key, &mut numbers);
        let at = |i: usize| f64::from(numbers[i]);
        let (mut log_p, mut log_m, mut gg, mut gz, mut expanded) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for i in 0..64 {
            let (mean, g, z) = (at(i), at(64 + i), at(128 + i));
            let x = mean + kappa * v * g + v.sqrt() * z;
            log_p -= (x - mean).powi(2) / (2.0 * v);
            log_m -= (x - mean - kappa * v * g).powi(2) / (2.0 * v);
            gg += g * g;
            gz += g * z;
            expanded += -kappa * g * (x - mean) + 0.5 * kappa * kappa * v * g * g;
        }
        let closed = log_ratio(v, kappa, gg, gz);
        worst = worst.max((closed - (log_p - log_m)).abs()).max((closed - expanded).abs());
        // The authors' LCM density uses eta^2 times the variance: it must not pass.
        if kappa < 1.0 {
            assert!((closed - (log_p - log_m) / kappa).abs() > 1e-3);
        }
    }
    println!("worst difference {worst:e}");
    assert!(worst < 1e-11);
    assert_eq!(log_ratio(0.0, 1.0, f64::INFINITY, 0.0), 0.0);
    assert_eq!(log_ratio(0.3, 1.0, 0.0, 0.0), 0.0);
}

#[test]
fn chains_that_cannot_be_run_are_refused_and_named() {
    let sd = SchedulerConfig::stable_diffusion();
    let refusal = |steps, eta| Schedule::new(&sd, steps, eta).expect_err("refused").to_string();
    assert!(refusal(0, 1.0).contains("`steps`"));
    assert!(refusal(1001, 1.0).contains("1000 training steps"));
    assert!(refusal(1000, 1.0).contains("past the last training step"));
    assert!(refusal(50, 1.5).contains("`eta`"));
    assert!(refusal(50, f64::NAN).contains("`eta`"));
    let lcm = SchedulerConfig::lcm();
    assert!(Schedule::new(&lcm, 51, 0.5).expect_err("refused").to_string().contains("distillation"));
    let clipped = SchedulerConfig { clip_sample: Some(1.0), ..SchedulerConfig::lcm() };
    assert!(Schedule::new(&clipped, 8, 0.5).expect_err("refused").to_string().contains("clip_sample"));
    let zero = SchedulerConfig {
        rescale_betas_zero_snr: true,
        timestep_spacing: Spacing::Trailing,
        ..SchedulerConfig::stable_diffusion()
    };
    assert!(Schedule::new(&zero, 10, 1.0).expect_err("refused").to_string().contains("zero terminal"));
}

#[test]
fn a_chain_of_every_length_has_finite_coefficients() {
    for json in [
        "{}",
        r#"{"timestep_spacing": "trailing", "steps_offset": 999}"#,
        r#"{"timestep_spacing": "linspace", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}"#,
        r#"{"prediction_type": "v_prediction", "rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}"#,
        r#"{"num_train_timesteps": 1}"#,
        r#"{"num_train_timesteps": 7, "set_alpha_to_one": false}"#,
        r#"{"_class_name": "LCMScheduler", "original_inference_steps": 37, "num_train_timesteps": 40}"#,
    ] {
        let config = read(json).expect(json);
        let longest = match config.kind {
            ChainKind::Lcm { original_steps, .. } => original_steps,
            ChainKind::Ddim => config.num_train_timesteps,
        };
        for steps in 1..=longest {
            let chain = Schedule::new(&config, steps, 1.0).expect(json);
            let finite = |a: Affine| a.first.is_finite() && a.second.is_finite();
            for s in chain.steps {
                let right =
                    finite(s.x0) && finite(s.eps) && finite(s.mean) && (0.0..=1.0).contains(&s.variance);
                assert!(right, "{json}: {steps} steps: {s:?}");
            }
        }
    }
}
