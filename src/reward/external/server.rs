//! A scorer as a server: a POST for each request. A GET of the same address is its hello; where that is
//! answered by anything else, the server is one of scores alone.

use std::time::Duration;

use ureq::http::header::LOCATION;
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

use super::channel::{Channel, TIMEOUT};
use super::failure::{Failure, shown, told};
use super::protocol::Hello;
use crate::error::Error;

/// A server that scores.
pub struct Server {
    url: String,
    agent: Agent,
    timeout: Duration,
}

/// Bytes that no hello exceeds.
const LONGEST_HELLO: usize = 1 << 16;

/// Refuses what is no address, and what would be kept with the records of a run.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage), without the password.
pub fn check(url: &str) -> Result<(), Error> {
    let uri: Uri = url.parse().map_err(|e| {
        Error::usage(format!("{} is no address of a server ({e})", shown(url.as_bytes())))
            .advice("write it as http://HOST:PORT/PLACE, with %20 for a space and the like")
    })?;
    let whole = uri.authority().map_or("", |authority| authority.as_str());
    if let Some((_, host)) = whole.rsplit_once('@') {
        return Err(Error::usage(format!("the address of {host} has a user's name or a password in it"))
            .advice(
                "leave it out, since records of runs hold the address; a proxy on this machine can add it",
            ));
    }
    let host = uri.host().unwrap_or_default();
    if host.is_empty() {
        return Err(Error::usage(format!("{} names no host", shown(url.as_bytes())))
            .advice("write it as http://HOST:PORT/PLACE"));
    }
    match (whole.strip_prefix(host), uri.port_u16()) {
        (Some(""), _) | (_, Some(1..)) => Ok(()),
        _ => Err(Error::usage(format!("{} has a port that is none", shown(url.as_bytes())))
            .advice("give a number from 1 to 65535 after the host's colon, or no colon for port 80")),
    }
}

impl Server {
    /// Connects to nothing yet.
    pub fn new(url: &str, timeout: Duration) -> Server {
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            // One that is followed would make a GET of a POST.
            .max_redirects(0)
            // A connection that the server closed between two steps must not fail a request.
            .max_idle_connections(0)
            .proxy(None)
            .build();
        Server { url: url.to_string(), agent: config.into(), timeout }
    }

    fn failure(&self, e: ureq::Error) -> Failure {
        match e {
            ureq::Error::Timeout(_) => Failure::new(
                format!("gave no answer within {} s", self.timeout.as_secs_f64()),
                format!("give it longer, {TIMEOUT}=SECONDS in the environment, or see what it waits for"),
            ),
            ureq::Error::BodyExceedsLimit(most) => Failure::new(
                format!("gave an answer of more than the {most} bytes that it may have"),
                "check the address, its path too: the answer is an object of JSON (docs/reward-protocol.md)",
            ),
            e => Failure::new(
                format!("cannot be asked: {}", told(&e.to_string(), 300)),
                "check the address, and that the server runs",
            ),
        }
    }
}

/// That the server is to be asked at another address, which is not done: where pictures go is the user's to
/// choose.
fn redirected(response: &Response<Body>) -> Option<Failure> {
    let to = response.headers().get(LOCATION).filter(|_| response.status().is_redirection())?;
    Some(Failure::new(
        format!("redirects to {} (status {})", shown(to.as_bytes()), response.status().as_u16()),
        "give that address, if it is the scorer's",
    ))
}

fn read(mut response: Response<Body>, most: usize) -> Result<Vec<u8>, ureq::Error> {
    response.body_mut().with_config().limit(most as u64).read_to_vec()
}

fn unsuccessful(status: StatusCode, body: &[u8]) -> Failure {
    Failure::new(
        format!("answered with status {status}: {}", shown(body)),
        "check the address, its path too, and what the server logs",
    )
}

impl Channel for Server {
    fn hello(&mut self) -> Result<Hello, Failure> {
        let response = self.agent.get(&self.url).call().map_err(|e| self.failure(e))?;
        // With one of these two it may send a reader to its pages, which says nothing of a POST.
        let of_all = !matches!(response.status(), StatusCode::FOUND | StatusCode::SEE_OTHER);
        if let Some(elsewhere) = redirected(&response).filter(|_| of_all) {
            return Err(elsewhere);
        }
        let (status, body) = (response.status(), read(response, LONGEST_HELLO));
        match body {
            Ok(body) if status == StatusCode::OK && Hello::is_meant(&body) => Hello::parse(&body),
            body if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
                Err(unsuccessful(status, &body.unwrap_or_default()))
            }
            // One that only scores has nothing here, or something else, such as a long page.
            Ok(_) | Err(ureq::Error::BodyExceedsLimit(_)) => Ok(Hello::unsaid()),
            Err(e) => Err(self.failure(e)),
        }
    }

    fn ask(&mut self, request: &str, most: usize) -> Result<Vec<u8>, Failure> {
        let response = self
            .agent
            .post(&self.url)
            .header("content-type", "application/json")
            .send(request)
            .map_err(|e| self.failure(e))?;
        if let Some(elsewhere) = redirected(&response) {
            return Err(elsewhere);
        }
        let status = response.status();
        let body = read(response, most).map_err(|e| self.failure(e))?;
        if status.is_success() { Ok(body) } else { Err(unsuccessful(status, &body)) }
    }

    fn names_requests(&self) -> bool {
        false
    }

    fn give_up(&mut self) -> String {
        String::new()
    }

    fn notes(&mut self) -> Vec<String> {
        Vec::new()
    }
}
