//! The one error type: what failed and where, which option it concerns, and what would help.
//!
//! Messages of the library name an option of a run in backticks and snake case (`micro_batch`), and put what
//! the user gave into double quotes. So each surface can call the option by its own name: the command line
//! prints the flag in its place.

use std::fmt;

/// What sort of failure this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Options that cannot be used, alone or together.
    Usage,
    /// Missing, damaged or unsupported model, reward or image files.
    Model,
    /// Device or driver.
    Device,
    /// Memory, of the host or of the device.
    Memory,
    /// Numbers that make going on meaningless, such as all particles lost.
    Numerical,
    /// Reading or writing files other than models.
    Io,
    /// Stopped by the user.
    Interrupted,
    /// Ended early by a limit that the user gave.
    Limit,
}

/// An error: what failed, and where one is known the option it concerns, the advice and the cause.
///
/// [`Display`](fmt::Display) prints the message and the advice; the cause is in
/// [`source`](std::error::Error::source), for reports that print the whole chain. [`Debug`] prints all of it.
///
/// ```
/// use das_cuda::{Error, ErrorKind};
///
/// let error = Error::usage("`steps` is 0").option("steps").advice("give `steps` at least 1");
/// assert_eq!(error.kind(), ErrorKind::Usage);
/// assert_eq!(error.option_name(), Some("steps"));
/// assert_eq!(error.advice_text(), Some("give `steps` at least 1"));
/// assert_eq!(error.to_string(), "`steps` is 0\n  fix: give `steps` at least 1");
/// ```
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    option: Option<&'static str>,
    advice: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A result whose error is an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        let inner = Inner { kind, message: message.into(), option: None, advice: None, source: None };
        Error { inner: Box::new(inner) }
    }
    /// An [`ErrorKind::Usage`].
    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Usage, message)
    }
    /// An [`ErrorKind::Model`].
    pub fn model(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Model, message)
    }
    /// An [`ErrorKind::Device`].
    pub fn device(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Device, message)
    }
    /// An [`ErrorKind::Numerical`].
    pub fn numerical(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Numerical, message)
    }
    /// An [`ErrorKind::Io`].
    pub fn io(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Io, message)
    }

    /// Names the option at fault, in snake case: `micro_batch`.
    #[must_use]
    pub fn option(mut self, name: &'static str) -> Error {
        self.inner.option = Some(name);
        self
    }

    /// Adds what the user can do about it: an option to set, a file to fetch.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Error {
        self.inner.advice = Some(advice.into());
        self
    }

    /// Keeps the underlying cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.inner.source = Some(source.into());
        self
    }

    /// Puts the place in front of the message: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.inner.message = format!("{context}: {}", self.inner.message);
        self
    }

    /// Puts more behind the message: `message; more`.
    #[must_use]
    pub fn addition(mut self, more: impl fmt::Display) -> Error {
        self.inner.message = format!("{}; {more}", self.inner.message);
        self
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }
    /// What failed, and where; neither the cause nor the advice.
    pub fn message(&self) -> &str {
        &self.inner.message
    }
    /// The option at fault, in snake case.
    pub fn option_name(&self) -> Option<&'static str> {
        self.inner.option
    }
    /// What the user can do about it.
    pub fn advice_text(&self) -> Option<&str> {
        self.inner.advice.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)?;
        match &self.inner.advice {
            Some(advice) => write!(f, "\n  fix: {advice}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.inner.kind)?;
        match &self.inner.source {
            Some(source) => write!(f, "\n  cause: {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_ref().map(|s| s.as_ref() as _)
    }
}
