//! `--max-seconds` and `--max-nfe`: what a command may spend on all prompts together.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};

/// What is left to spend.
pub struct Limits {
    seconds: Option<(f64, Instant)>,
    /// Evaluations of the UNet, of each particle and branch, as `unet_evaluations` of `run.json` counts.
    evaluations: Option<u64>,
    spent: Mutex<u64>,
}

impl Limits {
    /// Time counts from now on. One that is longer than any clock is none.
    pub fn new(max_seconds: Option<f64>, max_nfe: Option<u64>) -> Limits {
        let end = |seconds: f64| {
            let duration = Duration::try_from_secs_f64(seconds).ok()?;
            Some((seconds, Instant::now().checked_add(duration)?))
        };
        Limits { seconds: max_seconds.and_then(end), evaluations: max_nfe, spent: Mutex::new(0) }
    }

    /// Spends `next` evaluations on the next step, unless a limit is reached: then nothing is spent, and the
    /// limit has the name that `run.json` has for it. Behind that step there must be `behind` left, of all
    /// draws under way together.
    pub fn take(&self, next: u64, behind: u64) -> Option<&'static str> {
        if self.seconds.is_some_and(|(_, end)| Instant::now() >= end) {
            return Some("max_seconds");
        }
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if self.evaluations.is_some_and(|most| *spent + next + behind > most) {
            return Some("max_nfe");
        }
        *spent += next;
        None
    }

    /// What is said of it; `place` as of an interruption, or what else was under way.
    pub fn error(&self, name: &str, place: &str) -> Error {
        let (flag, given) = match (name, self.seconds, self.evaluations) {
            ("max_seconds", Some((seconds, _)), _) => ("--max-seconds", seconds.to_string()),
            (_, _, most) => ("--max-nfe", most.unwrap_or_default().to_string()),
        };
        Error::new(ErrorKind::Limit, format!("{flag} {given} is reached, {place}"))
    }
}
