//! The way to a scorer: a process, or a server.

use std::time::Duration;

use super::failure::Failure;
use super::protocol::Hello;
use crate::error::{Error, Result};

/// The way to a scorer.
pub trait Channel: Send {
    /// Asks the scorer what it is, and remembers that.
    fn hello(&mut self) -> Result<Hello, Failure>;

    /// Sends a request, a line of JSON, and returns the line of the answer, which has at most `most` bytes.
    fn ask(&mut self, request: &str, most: usize) -> Result<Vec<u8>, Failure>;

    /// Whether answers must repeat the request's id.
    fn names_requests(&self) -> bool;

    /// After an answer that cannot be used: ends the scorer, and returns what it last wrote to its standard
    /// error, in words that go behind a message.
    fn give_up(&mut self) -> String;

    /// What happened since the last call that the user should know.
    fn notes(&mut self) -> Vec<String>;
}

/// The environment's word on how long a scorer may take.
pub const TIMEOUT: &str = "DAS_REWARD_TIMEOUT";

/// How long an answer may take: time to load a large model before the first one.
const DEFAULT_SECONDS: f64 = 600.0;

/// How long a hello or an answer may take.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where the environment has something else there.
pub fn timeout() -> Result<Duration> {
    let Some(text) = std::env::var_os(TIMEOUT) else { return Ok(Duration::from_secs_f64(DEFAULT_SECONDS)) };
    let text = text.to_string_lossy().into_owned();
    let seconds = text.trim().parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(|| {
        Error::usage(format!("the environment variable {TIMEOUT} is {text:?}, which is no number of seconds"))
            .advice(format!("set it to a number above 0, or remove it for {DEFAULT_SECONDS}"))
    })
}
