//! The lines of `trace.jsonl` (docs/formats.md): the sampler's records, with what the run adds to them.

use serde::Serialize;

use crate::error::Result;
use crate::run::Lines;
use crate::sampler::{NonFinite, PromptStep, Quantity, Step};

/// One step of one prompt.
#[derive(Serialize)]
struct TraceLine<'a> {
    step: usize,
    t: i64,
    pass: u32,
    population: usize,
    #[serde(flatten)]
    record: &'a PromptStep,
    /// Of this prompt.
    non_finite: Vec<NonFiniteValue>,
    ms: f64,
    peak_bytes: u64,
}

/// A [`NonFinite`] without what the line says already.
#[derive(Serialize)]
struct NonFiniteValue {
    particle: u32,
    quantity: Quantity,
}

/// Writes a line for each prompt of a step of a population. `peak_bytes`: the most bytes of tensors alive at
/// once so far.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
pub fn push(trace: &mut Lines, step: &Step, population: usize, peak_bytes: u64) -> Result<()> {
    step.prompts.iter().try_for_each(|record| trace.push(&line(step, record, population, peak_bytes)))
}

fn line<'a>(step: &Step, record: &'a PromptStep, population: usize, peak_bytes: u64) -> TraceLine<'a> {
    let value_at = |n: &NonFinite| NonFiniteValue { particle: n.particle, quantity: n.quantity };
    let non_finite = step.non_finite.iter().filter(|n| n.prompt == record.prompt).map(value_at).collect();
    TraceLine {
        step: step.step,
        t: step.t,
        pass: step.pass,
        population,
        record,
        non_finite,
        ms: step.ms,
        peak_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn numbers_that_are_not_finite_are_null_and_the_line_stays_json() {
        let record = PromptStep {
            prompt: 7,
            log_weights: vec![0.5, f64::NEG_INFINITY, f64::NAN, f64::INFINITY],
            log_z: f64::NEG_INFINITY,
            reward: vec![1.0, f64::NAN],
            ..PromptStep::default()
        };
        let value_at = |prompt, particle| NonFinite { step: 3, prompt, particle, quantity: Quantity::Noise };
        let (non_finite, notes) = (vec![value_at(6, 0), value_at(7, 2)], Vec::new());
        let step = Step { step: 3, t: 401, pass: 0, prompts: vec![record], non_finite, notes, ms: 2.5 };
        let text = serde_json::to_string(&line(&step, &step.prompts[0], 2, 9)).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["log_weights"], json!([0.5, null, null, null]));
        assert_eq!((&value["log_z"], &value["reward"]), (&Value::Null, &json!([1.0, null])));
        assert_eq!((&value["grad_norm"], &value["ms"]), (&Value::Null, &json!(2.5)));
        assert_eq!(value["non_finite"], json!([{"particle": 2, "quantity": "noise"}]));
        let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "step",
                "t",
                "pass",
                "population",
                "prompt",
                "lambda",
                "lambda_next",
                "log_weights",
                "log_w_increment",
                "ess",
                "resampled",
                "ancestors",
                "reward",
                "grad_norm",
                "chosen",
                "divergence",
                "log_z_increment",
                "log_z",
                "roots_alive",
                "collapsed",
                "non_finite",
                "ms",
                "peak_bytes"
            ]
        );
    }
}
