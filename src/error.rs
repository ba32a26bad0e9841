//! The one error type: what the world may do to us. Every error says what failed, where, and which
//! flag or file would fix it; `kind` decides the exit code of the program.

use std::fmt;

/// What sort of failure this is. The program's exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Options that cannot be used, alone or together (exit code 2).
    Usage,
    /// Missing, damaged or unsupported model, reward or image files (exit code 3).
    Model,
    /// Device or driver (exit code 4).
    Device,
    /// Memory, of the host or of the device (exit code 4).
    Memory,
    /// Numbers that make going on meaningless, such as all particles lost (exit code 5).
    Numerical,
    /// Reading or writing files other than models (exit code 1).
    Io,
    /// Stopped by the user (exit code 130).
    Interrupted,
}

/// An error with its context and, where one is known, the fix.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    fix: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { inner: Box::new(Inner { kind, message: message.into(), fix: None, source: None }) }
    }
    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Usage, message)
    }
    pub fn model(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Model, message)
    }
    pub fn device(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Device, message)
    }
    pub fn numerical(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Numerical, message)
    }
    pub fn io(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Io, message)
    }

    /// Adds what the user can do about it: a flag to set, a file to fetch.
    pub fn fix(mut self, fix: impl Into<String>) -> Error {
        self.inner.fix = Some(fix.into());
        self
    }

    /// Keeps the underlying cause; it is printed after the message.
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.inner.source = Some(source.into());
        self
    }

    /// Puts the place in front of the message: `context: message`.
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.inner.message = format!("{context}: {}", self.inner.message);
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The process exit code for this error: 1 file I/O, 2 usage, 3 model or format, 4 device or memory,
    /// 5 numerical abort, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self.inner.kind {
            ErrorKind::Io => 1,
            ErrorKind::Usage => 2,
            ErrorKind::Model => 3,
            ErrorKind::Device | ErrorKind::Memory => 4,
            ErrorKind::Numerical => 5,
            ErrorKind::Interrupted => 130,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)?;
        if let Some(source) = &self.inner.source {
            write!(f, ": {source}")?;
        }
        if let Some(fix) = &self.inner.fix {
            write!(f, "\n  fix: {fix}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.inner.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_ref().map(|s| s.as_ref() as _)
    }
}
