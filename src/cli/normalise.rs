//! The scales of rewards: measured before the first draw, and written as `--normalise` takes them.

use super::limits::Limits;
use super::progress::Progress;
use super::values::Scales;
use super::{output, signals};
use crate::error::{Error, ErrorKind, Result};
use crate::session::{PlainScores, Prompt, SampleOptions, Session};

/// Measures the scales where that is asked for and not done, with progress unless `quiet` and within
/// `limits`, and says them.
///
/// # Errors
/// As [`Session::measure_scales`]; [`ErrorKind::Interrupted`] after a signal; [`ErrorKind::Limit`].
pub fn measure(
    session: &mut Session,
    prompts: &[Prompt],
    options: &SampleOptions,
    limits: &Limits,
    quiet: bool,
) -> Result<Vec<PlainScores>> {
    let mut progress = None;
    const PLACE: &str = "while plain pictures were drawn to normalise; nothing is kept of them";
    let plain = session.measure_scales(prompts, options, |steps, evaluations| {
        if signals::requested().is_some() {
            return Err(Error::new(ErrorKind::Interrupted, format!("stopped {PLACE}")));
        }
        if let Some(limit) = limits.take(evaluations, 0) {
            let advice = "give a larger limit, or the scales: --normalise std=SCALES";
            return Err(limits.error(limit, PLACE).advice(advice));
        }
        progress.get_or_insert_with(|| Progress::new(steps, quiet)).step("plain pictures, to normalise");
        Ok(())
    })?;
    drop(progress);
    let pictures: usize = plain.iter().map(|of| of.target.len()).sum();
    if let Some(scales) = written(session).filter(|_| pictures > 0 && !quiet) {
        let names: Vec<&str> = plain[0].rewards.iter().map(|(name, _)| name.as_str()).collect();
        output::note(format_args!(
            "note: scales of {} from {pictures} plain pictures: --normalise {scales}",
            names.join(", ")
        ));
    }
    Ok(plain)
}

/// The scales of a session as `--normalise` takes them; `None` where rewards are not divided.
pub fn written(session: &Session) -> Option<String> {
    session.scales().map(|scales| Scales(Some(scales.to_vec())).to_string())
}
