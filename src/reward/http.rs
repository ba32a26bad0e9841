//! `http`: what a server says (docs/reward-protocol.md).

use std::path::Path;

use super::external::channel::Channel;
use super::external::{DEFAULT_ALPHA, External, Hello};
use super::kind::{Needs, RewardKind};
use crate::error::{Error, Result};

pub(super) static REWARD: RewardKind = RewardKind {
    name: "http",
    about: "scores of a server, and gradients if it gives them",
    needs: Needs { files: Some("the rest of its address, //HOST:PORT/PLACE"), prompt: true, gradient: true },
    default_alpha: DEFAULT_ALPHA,
    source: "docs/reward-protocol.md; or as the server says",
    open: |_, name, path| {
        let url = address(path)?;
        let connect = |known| connect(&url, known);
        Ok(Box::new(External::open(name, &url, connect)?))
    },
};

/// The address, of which `path` is what follows the name of this reward: `//HOST`, or the whole address.
fn address(path: Option<&Path>) -> Result<String> {
    let Some(path) = path else { return Err(Error::usage("no address is given")) };
    match path.to_str() {
        Some(rest) if rest.starts_with("//") => Ok(format!("http:{rest}")),
        Some(whole) if whole.starts_with("http://") => Ok(whole.to_string()),
        Some(whole) if whole.starts_with("https:") => Err(encrypted()),
        _ => Err(Error::usage(format!("\"{}\" is no address of a server", path.display()))),
    }
}

/// An address that begins with `https:`.
pub(super) fn encrypted() -> Error {
    Error::usage("encrypted connections are not made, so there is no https")
        .advice("put a tunnel or a proxy on this machine in front of the server, and give http://localhost:PORT/PLACE")
}

#[cfg(feature = "http")]
fn connect(url: &str, _: Option<Hello>) -> Result<Box<dyn Channel>> {
    use super::external::channel::timeout;
    use super::external::server::{Server, check};
    check(url)?;
    Ok(Box::new(Server::new(url, timeout()?)))
}

#[cfg(not(feature = "http"))]
fn connect(_: &str, _: Option<Hello>) -> Result<Box<dyn Channel>> {
    Err(Error::usage("this program was built without the feature http"))
}
