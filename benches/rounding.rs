//! What 16-bit networks do to rewards, in nats of log-weight: the difference to f32 over the reward's default
//! alpha, with the CPU that rounds as a GPU does. What all pictures have in common changes no weight, so the
//! standard deviation over the pictures counts; the mean and the largest difference stand beside it.
//!
//!     cargo bench --bench rounding -- REWARD [REWARD ...] PICTURE [PICTURE ...]
//!
//! Rewards are written as `--reward` of `das-cuda score` takes them. `tools/fullsize.py make clip FOLDER`
//! makes a CLIP of full size with random weights, a head and pictures.

use std::path::PathBuf;

use das_cuda::pixels::Picture;
use das_cuda::reward::{Reward, Spec};
use das_cuda::session::{Device, Dtype, Session};
use das_cuda::{Error, Result};

const PROMPT: &str = "a photo of a cat on a mat";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let (pictures, rewards): (Vec<String>, Vec<String>) =
        arguments.into_iter().partition(|a| a.ends_with(".png") && !a.contains(':'));
    if rewards.is_empty() || pictures.is_empty() {
        println!("rounding: no reward or no picture given, nothing to compare");
        return Ok(());
    }
    let pictures =
        pictures.iter().map(|file| Picture::read(&PathBuf::from(file))).collect::<Result<Vec<_>>>()?;
    for reward in &rewards {
        let spec: Spec = reward.parse()?;
        let scores = |dtype| -> Result<Vec<f64>> {
            let builder = Session::builder().device(Device::Cpu).dtype(dtype).reward(spec.clone());
            let mut scorer = builder.open_scorer()?;
            let each = |picture: &Picture| Ok(scorer.score(std::slice::from_ref(picture), PROMPT)?.target[0]);
            pictures.iter().map(each).collect()
        };
        let alpha = Session::builder()
            .device(Device::Cpu)
            .reward(spec.clone())
            .open_scorer()?
            .reward()
            .default_alpha();
        let exact = scores(Dtype::F32)?;
        println!("{reward}: {} pictures, alpha {alpha}", pictures.len());
        for (name, dtype) in [("bf16", Dtype::Bf16), ("fp16", Dtype::F16)] {
            let errors: Vec<f64> =
                scores(dtype)?.iter().zip(&exact).map(|(found, exact)| (found - exact) / alpha).collect();
            if errors.iter().any(|e| !e.is_finite()) {
                return Err(Error::model(format!("{reward} in {name} is not finite")));
            }
            let mean = errors.iter().sum::<f64>() / errors.len() as f64;
            let square: f64 = errors.iter().map(|e| (e - mean).powi(2)).sum();
            let deviation = (square / (errors.len().max(2) - 1) as f64).sqrt();
            let largest = errors.iter().fold(0.0, |most: f64, e| most.max(e.abs()));
            println!(
                "  {name}: standard deviation {deviation:.3}, mean {mean:+.3}, largest {largest:.3} nats"
            );
        }
    }
    Ok(())
}
