//! Budgets in seconds: how many particles each arm draws in that time, found by drawing.

use std::time::Instant;

use serde_json::Value;

use super::design::{Arm, Budget, Design, check_particles, particles};
use crate::cli::progress::Progress;
use crate::cli::{output, signals};
use crate::error::{Error, ErrorKind, Result};
use crate::session::{Prompt, SampleOptions, Session};

/// What a table says of budgets in seconds.
pub const TIMED: &str = "Budgets in seconds are of the machine on which the first run was drawn; \"seconds\" are \
                         means over all runs.";

/// A draw that takes less is timed again, and the least counts: what else the machine does only adds to it.
const SHORT: f64 = 2.0;
/// Most draws for one time.
const MOST_DRAWS: usize = 3;
/// An arm whose draws take this factor more or less than a budget in seconds is named.
const NEAR: f64 = 1.25;

/// Takes the particles at budgets in seconds with which the same design began. Of another design, which is
/// refused later, nothing is taken.
///
/// # Errors
/// What of the design `there` is damaged.
pub fn adopt(design: &mut Design, there: &Value) -> Result<(), String> {
    let timed = places(design);
    let budgets: Value = design.budgets.iter().map(Budget::record).collect();
    let arms = there["arms"].as_array().map_or(0, Vec::len);
    if timed.is_empty() || there["budgets"] != budgets || arms != design.arms.len() {
        return Ok(());
    }
    let clock = there["clock"].as_f64().filter(|seconds| seconds.is_normal() && *seconds > 0.0);
    design.set_clock(clock.ok_or("design.clock is missing or no time")?);
    for (a, arm) in design.arms.iter_mut().enumerate() {
        for &(b, _) in &timed {
            let n = there["arms"][a]["particles"][b].as_u64().and_then(|n| usize::try_from(n).ok());
            let possible = n.filter(|&n| n > 0 && check_particles(arm, &design.budgets[b], n).is_ok());
            arm.particles[b] = possible
                .ok_or_else(|| format!("design.arms[{a}].particles[{b}] is no number of particles"))?;
        }
    }
    Ok(())
}

/// Finds the particles of every arm at the budgets in seconds, where there are any, with progress unless
/// `quiet`. Each arm is drawn with its own particles, and for every budget with as many as that time and the
/// operations say; the time of that draw and the operations say how many it gets. Arms of the same operations
/// get the same.
///
/// # Errors
/// Of the first draw of every arm; [`ErrorKind::Interrupted`] after a signal; of a budget that takes more
/// particles than an arm may have.
pub fn measure(design: &mut Design, session: &mut Session, quiet: bool) -> Result<()> {
    let timed = places(design);
    if timed.is_empty() {
        return Ok(());
    }
    let like = |a: usize| {
        let cost = |arm: &Arm| (arm.fixed, arm.each);
        design.arms.iter().position(|arm| cost(arm) == cost(&design.arms[a])).unwrap_or(a)
    };
    let like: Vec<usize> = (0..design.arms.len()).map(like).collect();
    let kinds = like.iter().enumerate().filter(|(a, like)| a == *like).count();
    let progress = Progress::new((1 + kinds * (1 + timed.len())) as u64, quiet);
    // What is only done by the first draw of a program belongs to no arm.
    draw_any(design, session, &design.arms[0], 1)?;
    progress.step("the time of a draw");
    for (a, &like) in like.iter().enumerate() {
        if like != a {
            design.arms[a].particles = design.arms[like].particles.clone();
            continue;
        }
        let arm = &design.arms[a];
        let message = format!("the time of a draw  {}", arm.label);
        let own = (arm.own_particles, time(design, session, arm, arm.own_particles)?);
        progress.step(&message);
        let guess = |&(b, seconds): &(usize, f64)| {
            let n = by_operations(arm.fixed, arm.each, own, seconds);
            check_particles(arm, &design.budgets[b], n).map(|()| (b, seconds, n))
        };
        let guesses: Vec<(usize, f64, usize)> = timed.iter().map(guess).collect::<Result<_>>()?;
        if a == 0 {
            design.set_clock(own.1);
        }
        for (b, seconds, guess) in guesses {
            let arm = &design.arms[a];
            let near = if guess == own.0 { own } else { (guess, time(design, session, arm, guess)?) };
            let n = by_operations(arm.fixed, arm.each, near, seconds);
            check_particles(arm, &design.budgets[b], n)?;
            design.arms[a].particles[b] = n;
            progress.step(&message);
        }
    }
    drop(progress);
    for &(b, _) in timed.iter().filter(|_| !quiet) {
        let found: Vec<String> =
            design.arms.iter().map(|arm| format!("{} {}", arm.label, arm.particles[b])).collect();
        let budget = &design.budgets[b];
        output::note(format_args!("note: budget {budget} on this machine, particles: {}", found.join(", ")));
    }
    Ok(())
}

/// What the user should know of arms whose time is not near a budget in seconds. `seconds` tells the mean of
/// an arm's draws at a budget.
pub fn late(design: &Design, seconds: impl Fn(&Arm, usize) -> Option<f64>) -> Vec<String> {
    let mut late = Vec::new();
    for (b, wanted) in places(design) {
        for arm in &design.arms {
            let Some(took) = seconds(arm, b) else { continue };
            if !(1.0 / NEAR..=NEAR).contains(&(took / wanted)) {
                let (particles, budget) = (particles(arm.particles[b]), &design.budgets[b]);
                late.push(format!("{}, budget {budget}: {particles}, {took:.2} s in the mean", arm.label));
            }
        }
    }
    late
}

/// The budgets in seconds: their places, and the seconds.
fn places(design: &Design) -> Vec<(usize, f64)> {
    design.budgets.iter().enumerate().filter_map(|(b, budget)| Some((b, budget.seconds()?))).collect()
}

/// Seconds of a draw with `n` particles.
fn time(design: &Design, session: &mut Session, arm: &Arm, n: usize) -> Result<f64> {
    let (mut least, mut all) = (f64::INFINITY, 0.0);
    for _ in 0..MOST_DRAWS {
        let took = draw_any(design, session, arm, n)?;
        (least, all) = (took.min(least), all + took);
        if all > SHORT {
            break;
        }
    }
    Ok(least)
}

/// Draws the first prompt for which a particle is left; the seconds that took.
fn draw_any(design: &Design, session: &mut Session, arm: &Arm, n: usize) -> Result<f64> {
    let mut took = Err(Error::usage("no prompt to time a draw of"));
    for prompt in &design.prompts {
        let options = session.settle(prompt, &arm.with_particles(n))?.0.seed(design.seeds[0]);
        let began = Instant::now();
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
            let what =
                "stopped while draws were timed for a budget in seconds; the same command begins with that";
            return Err(Error::new(ErrorKind::Interrupted, what));
        }
    }
    drawing.conclude().map(drop)
}

/// Particles that take so many seconds if time is as operations are, `fixed` ones and `each` for a particle,
/// and a draw of `n` took `took` seconds.
fn by_operations(fixed: f64, each: f64, (n, took): (usize, f64), seconds: f64) -> usize {
    let operations = (fixed + n as f64 * each) * seconds / took;
    ((operations - fixed) / each).round().max(1.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn particles_are_those_that_the_time_allows() {
        // Four operations, and two for each particle: a draw of 8 has 20.
        let at = |n: usize, took: f64, seconds: f64| by_operations(4.0, 2.0, (n, took), seconds);
        assert_eq!(at(8, 10.0, 10.0), 8);
        assert_eq!(at(8, 10.0, 20.0), 18);
        assert_eq!(at(8, 10.0, 1.0), 1, "at least one");
        assert_eq!(at(8, 10.0, 1e300), usize::MAX, "more than can be, which is refused");
    }
}
