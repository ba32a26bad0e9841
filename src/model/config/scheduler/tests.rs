use super::*;

fn parse(json: &str) -> Result<SchedulerFile> {
    SchedulerFile::parse("scheduler_config.json", json.as_bytes())
}

#[test]
fn what_cannot_be_sampled_is_refused_and_named() {
    let refusal = |json: &str| parse(json).expect_err(json).to_string();
    assert!(refusal(r#"{"beta_schedule": "sigmoid"}"#).contains("sigmoid"));
    assert!(refusal(r#"{"prediction_type": "flow_prediction"}"#).contains("expected one of `epsilon`"));
    assert!(refusal(r#"{"timestep_spacing": "karras"}"#).contains("karras"));
    assert!(refusal(r#"{"thresholding": true}"#).contains("thresholding"));
    assert!(refusal(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#).contains("flow matching"));
    assert!(refusal(r#"{"num_train_timesteps": 0}"#).contains("num_train_timesteps"));
    assert!(refusal(r#"{"trained_betas": [0.1]}"#).contains("betas"));
    assert!(refusal("{").contains("not valid JSON"));
    let missing =
        SchedulerFile::open(&Source::Dir("no/such".into()), "", "DDIMScheduler").expect_err("no file");
    assert!(missing.to_string().contains("no/such/scheduler_config.json"));
}

#[test]
fn numbers_that_make_no_chain_are_refused_with_the_fix() {
    for (json, says) in [
        (r#"{"num_train_timesteps": 0}"#, "num_train_timesteps is 0, expected 1 to 1000000"),
        (r#"{"num_train_timesteps": 1000000000000000}"#, "num_train_timesteps is 1000000000000000"),
        (r#"{"num_train_timesteps": 1e15}"#, "expected an integer from 0"),
        (r#"{"num_train_timesteps": -5}"#, "expected an integer from 0"),
        (r#"{"num_train_timesteps": 1000000}"#, "the betas make alpha-bar 0"),
        (r#"{"steps_offset": 1000}"#, "steps_offset is 1000"),
        (r#"{"steps_offset": 18446744073709551615}"#, "steps_offset is 18446744073709551615"),
        (r#"{"beta_start": 0.02, "beta_end": 0.01}"#, "beta_start 0.02 and beta_end 0.01"),
        (r#"{"beta_start": -0.01}"#, "beta_start -0.01"),
        (r#"{"beta_start": -0.01, "beta_schedule": "scaled_linear"}"#, "beta_start -0.01"),
        (r#"{"beta_start": 0}"#, "beta_start 0"),
        (r#"{"beta_end": 1}"#, "beta_end 1"),
        (r#"{"beta_end": 1e300}"#, "beta_end 1000"),
        (r#"{"beta_start": 1e-12}"#, "the betas make alpha-bar 1 at training step 0"),
        (r#"{"beta_start": 0.9, "beta_end": 0.9}"#, "the betas make alpha-bar 0"),
        (r#"{"num_train_timesteps": 1, "rescale_betas_zero_snr": true}"#, "the betas make alpha-bar NaN"),
        (r#"{"num_train_timesteps": 2, "trained_betas": [0.1]}"#, "trained_betas has 1 entries"),
        (r#"{"num_train_timesteps": 2, "trained_betas": [0.1, -0.1]}"#, "trained_betas has -0.1"),
        (r#"{"num_train_timesteps": 2, "trained_betas": [0.1, 1e39]}"#, "trained_betas"),
        (r#"{"num_train_timesteps": 2, "trained_betas": [0, 0.1]}"#, "the betas make alpha-bar 1"),
        (r#"{"clip_sample_range": -1}"#, "clip_sample_range is -1"),
        (r#"{"clip_sample_range": 0}"#, "clip_sample_range is 0"),
        (
            r#"{"_class_name": "LCMScheduler", "original_inference_steps": 0}"#,
            "original_inference_steps is 0",
        ),
        (r#"{"_class_name": "LCMScheduler", "original_inference_steps": 1001}"#, "expected 1 to 1000"),
        (r#"{"_class_name": "LCMScheduler", "timestep_scaling": 0}"#, "timestep_scaling is 0"),
        (r#"{"_class_name": "LCMScheduler", "timestep_scaling": 1e200}"#, "timestep_scaling is 1000"),
    ] {
        let text = parse(json).expect_err(json).to_string();
        assert!(text.contains(says) && text.contains("fix:"), "{json}: {text}");
    }
}

#[test]
fn missing_and_unknown_entries_are_no_obstacle() {
    let euler = parse(
        r#"{"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": false, "clip_sample": null}"#,
    )
    .expect("a known configuration")
    .config;
    assert_eq!((euler.clip_sample, euler.timestep_spacing), (None, Spacing::Leading));
    let ddim = parse("{}").expect("defaults").config;
    assert_eq!((ddim.clip_sample, ddim.beta_schedule), (Some(1.0), BetaSchedule::Linear));
}

#[test]
fn files_that_diffusers_writes_are_read() {
    // `DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")`,
    // saved.
    let text = r#"{
      "_class_name": "DPMSolverMultistepScheduler", "_diffusers_version": "0.42.1", "algorithm_type": "dpmsolver++",
      "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
      "dynamic_thresholding_ratio": 0.995, "euler_at_final": false, "final_sigmas_type": "zero", "flow_shift": 1.0,
      "lambda_min_clipped": -Infinity, "lower_order_final": true, "num_train_timesteps": 1000,
      "prediction_type": "epsilon", "rescale_betas_zero_snr": false, "sample_max_value": 1.0, "solver_order": 2,
      "solver_type": "midpoint", "steps_offset": 0, "thresholding": false, "time_shift_type": "exponential",
      "timestep_spacing": "linspace", "trained_betas": null, "use_beta_sigmas": false,
      "use_dynamic_shifting": false, "use_exponential_sigmas": false, "use_flow_sigmas": false,
      "use_karras_sigmas": true, "use_lu_lambdas": false, "variance_type": null
    }"#;
    let file = parse(text).unwrap();
    let expected = SchedulerConfig {
        set_alpha_to_one: true,
        steps_offset: 0,
        timestep_spacing: Spacing::Linspace,
        ..SchedulerConfig::stable_diffusion()
    };
    assert_eq!((file.config, file.has_steps_offset, file.states_clip_sample), (expected, true, false));
    assert_eq!(file.unknown_keys, [""; 0]);
}

#[test]
fn no_key_that_changes_the_result_is_ignored() {
    for (json, says) in [
        (
            r#"{"_class_name": "EDMEulerScheduler", "sigma_max": 120.0}"#,
            "EDMEulerScheduler: models of continuous",
        ),
        (r#"{"_class_name": "EDMDPMSolverMultistepScheduler"}"#, "models of continuous noise levels"),
        (r#"{"_class_name": "CosineDPMSolverMultistepScheduler"}"#, "models of continuous noise levels"),
        (r#"{"_class_name": "FlowMapEulerDiscreteScheduler"}"#, "flow matching"),
        (r#"{"_class_name": "SCMScheduler"}"#, "SCMScheduler: this sampler is not"),
        (r#"{"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": true}"#, "use_flow_sigmas"),
        (r#"{"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}"#, "timestep_type"),
        (r#"{"_class_name": "DDPMScheduler", "variance_type": "learned_range"}"#, "variance_type"),
        (r#"{"_class_name": "DDPMScheduler", "beta_schedule": "laplace"}"#, "beta_schedule is \"laplace\""),
        (r#"{"snr_shift_scale": 3.0}"#, "snr_shift_scale"),
        (r#"{"beta_start": NaN}"#, "beta_start is \"NaN\", expected a finite number"),
        (
            r#"{"prediction_type": null, "clip_sample_range": Infinity, "clip_sample": true}"#,
            "clip_sample_range",
        ),
    ] {
        let text = parse(json).expect_err(json).to_string();
        assert!(
            text.contains(says) && text.contains("scheduler_config.json") && text.contains("fix:"),
            "{text}"
        );
    }
    let odd = parse(r#"{"clip_samples": true, "_note": 1, "solver_order": 3, "beta_low": null, "x": [1]}"#)
        .unwrap();
    assert_eq!(odd.unknown_keys, ["clip_samples: true", "x: [1]"]);
    // `null` is false, as Python has it.
    assert_eq!(parse(r#"{"clip_sample": null}"#).unwrap().config.clip_sample, None);
}

#[test]
fn a_file_that_says_nothing_of_its_betas_tells_what_is_assumed() {
    let assumed = |json: &str| parse(json).expect("a scheduler").assumed.join(", ");
    assert_eq!(
        assumed("{}"),
        "beta_start 0.0001, beta_end 0.02, beta_schedule linear, num_train_timesteps 1000, \
         prediction_type epsilon, timestep_spacing leading"
    );
    let some = r#"{"beta_start": null, "prediction_type": "v_prediction", "num_train_timesteps": 500}"#;
    assert_eq!(
        assumed(some),
        "beta_start 0.0001, beta_end 0.02, beta_schedule linear, timestep_spacing leading"
    );
    let lcm = assumed(r#"{"_class_name": "LCMScheduler"}"#);
    assert!(lcm.starts_with("beta_start 0.00085, beta_end 0.012, beta_schedule scaled_linear"), "{lcm}");
    // Files of Stable Diffusion 1 state the betas and neither prediction nor spacing.
    assert_eq!(assumed(r#"{"beta_start": 0.00085}"#), "");
}
