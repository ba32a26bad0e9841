//! Budgets in seconds: how many particles each arm draws in that time, found by drawing.

use std::time::Instant;

use serde_json::Value;

use super::design::{Arm, Design, check_particles};
use crate::cli::progress::Progress;
use crate::cli::{output, signals};
use crate::error::{Error, ErrorKind, Result};
use crate::session::{Prompt, SampleOptions, Session};

/// Finds the particles of every arm at the budgets in seconds: those with which the design `there` began, or,
/// where nothing began, those that this machine draws in the time, with progress unless `quiet`.
///
/// # Errors
/// Of the first draw of every arm; [`ErrorKind::Interrupted`] after a signal; of a budget that takes more
/// particles than an arm may have.
pub fn settle(design: &mut Design, session: &mut Session, there: Option<&Value>, quiet: bool) -> Result<()> {
    if design.budgets.iter().all(|budget| budget.seconds.is_none()) {
        return Ok(());
    }
    match there {
        Some(there) => adopt(design, there),
        None => measure(design, session, quiet)?,
    }
    // A multiple is what the first arm's time is multiplied by.
    if let Some(clock) = design.clock {
        for budget in &mut design.budgets {
            budget.multiple = budget.seconds.map_or(budget.multiple, |seconds| seconds / clock);
        }
    }
    for arm in &design.arms {
        for (budget, &n) in design.budgets.iter().zip(&arm.particles) {
            check_particles(arm, budget, n)?;
        }
    }
    Ok(())
}

/// Takes what an earlier call with the same design found. Where something lacks, it was another design, which
/// is refused later.
fn adopt(design: &mut Design, there: &Value) {
    design.clock = there["clock"].as_f64().filter(|seconds| *seconds > 0.0);
    for (b, _) in design.budgets.iter().enumerate().filter(|(_, budget)| budget.seconds.is_some()) {
        for (a, arm) in design.arms.iter_mut().enumerate() {
            let particles = there["arms"][a]["particles"][b].as_u64();
            arm.particles[b] = particles.map_or(arm.particles[b], |n| n as usize);
        }
    }
}

/// Draws every arm with its own particles, and once more for every budget with as many as the operations say;
/// the number between or beyond the two is the answer.
fn measure(design: &mut Design, session: &mut Session, quiet: bool) -> Result<()> {
    let budgets: Vec<(usize, f64)> =
        design.budgets.iter().enumerate().filter_map(|(b, budget)| Some((b, budget.seconds?))).collect();
    let draws = 1 + design.arms.len() * (1 + budgets.len());
    let progress = Progress::new(draws as u64, quiet);
    // What is only done by the first draw of a program belongs to no arm.
    time(design, session, &design.arms[0], 1)?;
    progress.step("the time of a draw");
    for a in 0..design.arms.len() {
        let arm = &design.arms[a];
        let own = time(design, session, arm, arm.own_particles)?;
        progress.step(&format!("the time of a draw  {}", arm.label));
        if a == 0 {
            design.clock = Some(own);
        }
        for &(b, seconds) in &budgets {
            let arm = &design.arms[a];
            let first = (arm.own_particles, own);
            let guess = by_operations(arm, first, seconds);
            check_particles(arm, &design.budgets[b], guess)?;
            let second = if guess == first.0 { first } else { (guess, time(design, session, arm, guess)?) };
            progress.step(&format!("the time of a draw  {}", arm.label));
            design.arms[a].particles[b] = on_the_line(first, second, seconds);
        }
    }
    drop(progress);
    for &(b, _) in budgets.iter().filter(|_| !quiet) {
        let found: Vec<String> =
            design.arms.iter().map(|arm| format!("{} {}", arm.label, arm.particles[b])).collect();
        let budget = &design.budgets[b];
        output::note(format_args!("note: budget {budget} on this machine, particles: {}", found.join(", ")));
    }
    Ok(())
}

/// Seconds of a draw with `n` particles, of the first prompt for which a particle is left.
fn time(design: &Design, session: &mut Session, arm: &Arm, n: usize) -> Result<f64> {
    let mut took = Err(Error::usage("no prompt to time a draw of"));
    for prompt in &design.prompts {
        let began = Instant::now();
        let options = session.settle(prompt, &arm.with_particles(n))?.0.seed(design.seeds[0]);
        let drawn = draw(session, prompt, &options).map_err(|e| e.context(format!("arm {}", arm.label)));
        took = drawn.map(|()| began.elapsed().as_secs_f64());
        if !took.as_ref().is_err_and(|e| e.kind() == ErrorKind::Numerical) {
            break;
        }
    }
    took
}

/// Draws a prompt for its time alone.
fn draw(session: &mut Session, prompt: &Prompt, options: &SampleOptions) -> Result<()> {
    let mut drawing = session.sample(prompt, options)?;
    for step in &mut drawing {
        step?;
        if signals::requested().is_some() {
            let place = "while draws were timed for a budget in seconds; nothing is kept of them";
            return Err(Error::new(ErrorKind::Interrupted, format!("stopped {place}")));
        }
    }
    drawing.conclude().map(drop)
}

/// Particles that take so many seconds if time is as operations are, and a draw of `n` took `took`.
fn by_operations(arm: &Arm, (n, took): (usize, f64), seconds: f64) -> usize {
    let operations = (arm.fixed + n as f64 * arm.each) * seconds / took;
    ((operations - arm.fixed) / arm.each).round().max(1.0) as usize
}

/// Particles that take so many seconds if time is on the line through two draws of particles and seconds. A
/// line that does not rise says nothing; then the second, whose number was chosen for the time, is taken.
fn on_the_line((n, took): (usize, f64), (m, then): (usize, f64), seconds: f64) -> usize {
    let slope = (then - took) / (m as f64 - n as f64);
    if !(slope.is_finite() && slope > 0.0) {
        return m;
    }
    let at = (m as f64 + (seconds - then) / slope).round();
    // A small difference of two noisy times must not become a large number.
    at.clamp(0.5 * m as f64, 2.0 * m as f64).round().max(1.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn particles_are_those_that_the_time_allows() {
        // Two seconds, and one for each particle.
        let at = |n: usize| (n, 2.0 + n as f64);
        assert_eq!(on_the_line(at(4), at(16), 12.0), 10);
        assert_eq!(on_the_line(at(4), at(10), 12.0), 10);
        assert_eq!(on_the_line(at(4), at(3), 1.0), 2, "never less than half of what was drawn");
        assert_eq!(on_the_line(at(1), at(1), 1.0), 1, "one draw is no line");
        assert_eq!(on_the_line((4, 3.0), (8, 2.9), 6.0), 8, "a time that falls says nothing");
    }
}
