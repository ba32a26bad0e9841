//! A scorer as a server: a POST for each request. A GET of the same address is its hello; where that is
//! answered by anything else, the server is one of scores alone.

use std::time::Duration;

use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::channel::{Channel, Failure, TIMEOUT};
use super::protocol::{Hello, shown};

/// A server that scores.
pub struct Server {
    url: String,
    agent: Agent,
    timeout: Duration,
}

/// Bytes that no hello exceeds.
const LONGEST_HELLO: usize = 1 << 16;

impl Server {
    /// Connects to nothing yet.
    pub fn new(url: &str, timeout: Duration) -> Server {
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            // A connection that the server closed between two steps must not fail a request.
            .max_idle_connections(0)
            .proxy(None)
            .build();
        Server { url: url.to_string(), agent: config.into(), timeout }
    }

    fn body(&self, mut response: Response<Body>, most: usize) -> Result<(StatusCode, Vec<u8>), Failure> {
        let body = response.body_mut().with_config().limit(most as u64).read_to_vec();
        Ok((response.status(), body.map_err(|e| self.failure(e))?))
    }

    fn failure(&self, e: ureq::Error) -> Failure {
        match e {
            ureq::Error::Timeout(_) => Failure::new(
                format!("gave no answer within {} s", self.timeout.as_secs_f64()),
                format!("give it longer, {TIMEOUT}=SECONDS in the environment, or see what it waits for"),
            ),
            e => Failure::new(format!("cannot be asked: {e}"), "check the address, and that the server runs"),
        }
    }
}

impl Channel for Server {
    fn hello(&mut self) -> Result<Hello, Failure> {
        let response = self.agent.get(&self.url).call().map_err(|e| self.failure(e))?;
        match self.body(response, LONGEST_HELLO) {
            Ok((StatusCode::OK, body)) if Hello::is_meant(&body) => Hello::parse(&body).map_err(|what| {
                Failure::new(
                    what,
                    "let GET answer with a hello (docs/reward-protocol.md), or with a status of 404",
                )
            }),
            _ => Ok(Hello::unsaid()),
        }
    }

    fn ask(&mut self, request: &str, most: usize) -> Result<Vec<u8>, Failure> {
        let response = self
            .agent
            .post(&self.url)
            .header("content-type", "application/json")
            .send(request)
            .map_err(|e| self.failure(e))?;
        match self.body(response, most)? {
            (status, body) if status.is_success() => Ok(body),
            (status, body) => Err(Failure::new(
                format!("answered with status {status}: {}", shown(&body)),
                "check the address, its path too, and what the server logs",
            )),
        }
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
