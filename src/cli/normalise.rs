//! The scales of rewards: measured before the first draw, and written as `--normalise` takes them.

use super::progress::Progress;
use super::values::Scales;
use super::{output, signals};
use crate::error::{Error, ErrorKind, Result};
use crate::session::{PlainScores, Prompt, SampleOptions, Session};

/// Measures the scales where that is asked for and not done, with progress unless `quiet`, and says them.
///
/// # Errors
/// As [`Session::measure_scales`]; [`ErrorKind::Interrupted`] after a signal.
pub fn measure(
    session: &mut Session,
    prompts: &[Prompt],
    options: &SampleOptions,
    quiet: bool,
) -> Result<Vec<PlainScores>> {
    let mut progress = None;
    let plain = session.measure_scales(prompts, options, |steps| {
        let progress = progress.get_or_insert_with(|| Progress::new(steps, quiet));
        progress.step("plain pictures, to normalise");
        match signals::requested() {
            None => Ok(()),
            Some(_) => Err(Error::new(
                ErrorKind::Interrupted,
                "stopped while plain pictures were drawn to normalise; nothing is kept of them",
            )),
        }
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
