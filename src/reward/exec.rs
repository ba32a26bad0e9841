//! `exec`: what a program of the user's says, a process beside this one (docs/reward-protocol.md).

use std::path::Path;

use super::external::channel::{Channel, timeout};
use super::external::{DEFAULT_ALPHA, External, Hello};
use super::kind::{Needs, RewardKind};
use crate::error::{Error, Result};

pub(super) static REWARD: RewardKind = RewardKind {
    name: "exec",
    about: "scores of a program of your own, and gradients if it gives them",
    needs: Needs { files: Some("its command, such as \"python scorer.py\""), prompt: true, gradient: true },
    default_alpha: DEFAULT_ALPHA,
    source: "docs/reward-protocol.md; or as the program says",
    open: |_, name, path| {
        let command = command(path)?;
        let words = shlex::split(command).filter(|words| !words.is_empty()).ok_or_else(|| {
            Error::usage(format!("\"{command}\" cannot be split into the words of a command"))
        })?;
        let connect = |known| connect(words, known);
        Ok(Box::new(External::open(name, &format!("exec:{command}"), connect)?))
    },
};

fn command(path: Option<&Path>) -> Result<&str> {
    let Some(path) = path else { return Err(Error::usage("no command is given")) };
    path.to_str().ok_or_else(|| Error::usage(format!("the command {} is not UTF-8", path.display())))
}

#[cfg(unix)]
fn connect(words: Vec<String>, known: Option<Hello>) -> Result<Box<dyn Channel>> {
    Ok(Box::new(super::external::process::Process::new(words, timeout()?, known)))
}

#[cfg(not(unix))]
fn connect(_: Vec<String>, _: Option<Hello>) -> Result<Box<dyn Channel>> {
    timeout()?;
    Err(Error::usage("commands are run on Unix only").advice("start the scorer as a server, http:URL"))
}
