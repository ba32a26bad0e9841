//! Draws a few pictures of the embedded model, aligned to its aesthetic reward, and saves the best.
//!
//! `cargo run --release --example sample`

use das_cuda::{Result, Session};

fn main() -> Result<()> {
    let mut session = Session::builder().open()?;
    // Small, so that it takes seconds: the defaults are 16 particles and 50 steps.
    let options = session.defaults().particles(4).steps(6).seed(7);
    let plan = session.plan("a red star", &options)?;
    println!("{}: {} evaluations of the UNet", session.backend().name(), plan.evaluations);

    let mut run = session.sample("a red star", &options)?;
    while let Some(step) = run.next().transpose()? {
        let prompt = &step.prompts[0];
        println!(
            "step {:2}  lambda {:.2}  effective sample size {:.2}",
            step.step, prompt.lambda, prompt.ess
        );
    }
    let samples = run.conclude()?.swap_remove(0);

    let best = samples.best();
    println!("log Z {:.2}, best reward {:.3}", samples.population.log_z, samples.population.rewards[best]);
    samples.best_picture().save("star.png")?;
    println!("star.png");
    Ok(())
}
