//! What the hub is asked, and what its answers mean.
//!
//! Redirects are followed here and not by the HTTP client, for two reasons: hash and size of a large file are
//! headers of the redirect to where its content is, and the token must go to no other host.

use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Method, Request, Response, Uri};
use ureq::{Agent, Body};

use super::cache::is_commit;
use super::name::{Name, is_part, is_weights};
use super::settings::Settings;
use crate::error::{Error, Result};

const MOST_REDIRECTS: usize = 8;
/// Most bytes of the list of a repository's files.
const MOST_OF_LIST: u64 = 64 << 20;
/// How often a request is made that fails for a reason that may pass.
pub const TRIES: u32 = 3;

/// Asks for one repository.
pub struct Client {
    agent: Agent,
    endpoint: String,
    authorization: Option<String>,
    name: Name,
}

/// A revision of the repository.
pub struct Revision {
    pub commit: String,
    /// Every file of it.
    pub files: Vec<String>,
}

/// What the hub says of a file.
pub struct About {
    /// SHA-256 of a large file, the hash of git's of a small one.
    pub hash: String,
    pub size: u64,
}

/// The content of a file from some byte on.
pub struct Content {
    pub from: u64,
    pub reader: Box<dyn Read>,
}

/// Why there is no answer.
pub enum Failure {
    /// It may come when it is asked for again.
    Passing(Error),
    Lasting(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Passing(error) | Failure::Lasting(error) => error,
        }
    }
}

/// Which redirects are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    All,
    /// Those within the hub, as of a repository with a new name.
    Within,
}

impl Client {
    pub fn new(settings: &Settings, name: &Name) -> Result<Client> {
        let endpoint = settings.endpoint.clone();
        let known = ["https://", "http://"].iter().any(|scheme| endpoint.starts_with(scheme));
        if !known || endpoint.parse::<Uri>().is_err() {
            return Err(Error::usage(format!("HF_ENDPOINT is \"{endpoint}\", which is no address"))
                .advice("set it to one such as https://huggingface.co, or unset it"));
        }
        let authorization = match settings.token.as_ref().map(|token| token.header()) {
            Some(None) => {
                return Err(Error::usage("the token of the hub has characters that no token has")
                    .advice("correct HF_TOKEN or the file of the token: hf auth login"));
            }
            header => header.flatten(),
        };
        let mut config = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(concat!("das-cuda/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_per_read(Some(Duration::from_secs(60)));
        // A server on this machine is reached without a proxy.
        if ["127.0.0.1", "localhost", "[::1]"].contains(&host(&endpoint)) {
            config = config.proxy(None);
        }
        Ok(Client { agent: config.build().into(), endpoint, authorization, name: name.clone() })
    }

    /// What the revision is, and which files it has.
    pub fn revision(&self, revision: &str) -> Result<Revision> {
        let url = format!(
            "{}/api/models/{}/revision/{}",
            self.endpoint,
            self.name.repository,
            encoded(revision, false)
        );
        let body = again(|| {
            let mut response = self.send(&Method::GET, &url, 0, Follow::All, None)?;
            let body = response.body_mut().with_config().limit(MOST_OF_LIST).read_to_vec();
            body.map_err(|e| self.failed(e))
        })?;
        let odd = || {
            Error::model("the answer of the hub is not understood").advice(format!(
                "check that {} is a hub (HF_ENDPOINT), or download with: hf download {}",
                self.endpoint, self.name.repository
            ))
        };
        let answer: Value = serde_json::from_slice(&body).map_err(|e| odd().because(e))?;
        let commit = answer["sha"].as_str().filter(|sha| is_commit(sha)).ok_or_else(odd)?;
        let files = answer["siblings"].as_array().ok_or_else(odd)?;
        let files = files.iter().filter_map(|file| Some(file["rfilename"].as_str()?.to_string())).collect();
        Ok(Revision { commit: commit.to_string(), files })
    }

    /// Hash and size of a file.
    pub fn about(&self, commit: &str, file: &str) -> Result<About> {
        let url = self.address(commit, file);
        let response = again(|| self.send(&Method::HEAD, &url, 0, Follow::Within, Some(file)))?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let hash = header("x-linked-etag")
            .or(header("etag"))
            .map(|tag| tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').to_string());
        // Of a redirect, the length is that of its own text.
        let size = match response.status().is_redirection() {
            true => header("x-linked-size"),
            false => header("x-linked-size").or(header("content-length")),
        };
        match (hash.filter(|hash| is_part(hash)), size.and_then(|size| size.parse().ok())) {
            (Some(hash), Some(size)) => Ok(About { hash, size }),
            _ => {
                Err(Error::model(format!("{file}: the hub does not say its hash and size")).advice(format!(
                    "check that {} is a hub (HF_ENDPOINT), or download with: hf download {} {file}",
                    self.endpoint, self.name.repository
                )))
            }
        }
    }

    /// The content of a file from byte `from` on, or all of it where the server cannot do that.
    pub fn open(&self, commit: &str, file: &str, from: u64) -> Result<Content, Failure> {
        let response = self.send(&Method::GET, &self.address(commit, file), from, Follow::All, Some(file))?;
        let from = if response.status() == 206 { from } else { 0 };
        Ok(Content { from, reader: Box::new(response.into_body().into_reader()) })
    }

    /// The error of a file that the repository lacks.
    pub fn lacks(&self, commit: &str, file: &str, files: &[String]) -> Error {
        let alike: Vec<&str> =
            files.iter().map(String::as_str).filter(|name| is_weights(name)).take(8).collect();
        let alike = match alike.is_empty() {
            true => "it has no file of weights at all".to_string(),
            false => format!("its weights are {}", alike.join(", ")),
        };
        Error::model(format!("the repository has no file {file} at commit {commit}")).advice(alike)
    }

    fn address(&self, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, self.name.repository, encoded(file, true))
    }

    fn send(
        &self,
        method: &Method,
        url: &str,
        from: u64,
        follow: Follow,
        file: Option<&str>,
    ) -> Result<Response<Body>, Failure> {
        let mut url = url.to_string();
        for _ in 0..=MOST_REDIRECTS {
            let mut request =
                Request::builder().method(method).uri(&url).header("accept-encoding", "identity");
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            if let Some(authorization) = &self.authorization
                && origin(&url) == origin(&self.endpoint)
            {
                request = request.header("authorization", authorization);
            }
            let odd = |what: &str| Failure::Lasting(self.error(file, what).advice(self.by_hand()));
            let request = request.body(()).map_err(|_| odd("the hub sent on to an address that is none"))?;
            let response = self.agent.run(request).map_err(|e| self.failed(e))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if !status.is_redirection() {
                return Err(self.refused(&response, file));
            }
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            let Some(next) = location.map(|location| joined(&url, location)) else {
                return Err(odd("the hub sent on to nowhere"));
            };
            let within = origin(&next) == origin(&self.endpoint);
            let linked =
                ["x-linked-etag", "x-linked-size"].iter().all(|name| response.headers().contains_key(*name));
            if follow == Follow::Within && (!within || linked) {
                return Ok(response);
            }
            url = next;
        }
        let what = format!("too many redirects, more than {MOST_REDIRECTS}");
        let fix = "check HF_ENDPOINT and the proxy, which send in circles";
        Err(Failure::Lasting(self.error(file, &what).advice(fix)))
    }

    fn error(&self, file: Option<&str>, what: &str) -> Error {
        Error::model(match file {
            Some(file) => format!("{file}: {what}"),
            None => what.to_string(),
        })
    }

    fn by_hand(&self) -> String {
        format!("try again later, or download with: hf download {}", self.name.repository)
    }

    /// An answer that is none of what was asked for.
    fn refused(&self, response: &Response<Body>, file: Option<&str>) -> Failure {
        let status = response.status().as_u16();
        let code = response.headers().get("x-error-code").and_then(|value| value.to_str().ok());
        let Name { repository, revision, .. } = &self.name;
        let page = format!("{}/{repository}", self.endpoint);
        let token = match self.authorization {
            Some(_) => "a token was given: check that it is valid and of that account (hf auth login)",
            None => "then give a token of that account: set HF_TOKEN, or hf auth login",
        };
        let no_name =
            "there is no such file or folder here, and the hub has no such repository, or a private one";
        let error = match (status, code) {
            (401 | 404, Some("RepoNotFound")) | (404, None) if file.is_none() => {
                self.error(file, no_name).advice(format!("check the name; for a private repository {token}"))
            }
            (401 | 403, _) => self
                .error(file, &format!("the hub refuses it ({status}): the repository is gated or private"))
                .advice(format!("accept its terms at {page} with your account; {token}")),
            (404, Some("RevisionNotFound")) => self
                .error(file, &format!("the repository has no revision {revision}"))
                .advice(format!("choose a branch, tag or commit of {page}/tree/main")),
            (404, _) => {
                self.error(file, "the hub has no such file").advice(format!("look at {page}/tree/{revision}"))
            }
            (408 | 429 | 500..=599, _) => {
                let error = self.error(file, &format!("the hub answers {status}")).advice(self.by_hand());
                return Failure::Passing(error);
            }
            _ => self.error(file, &format!("the hub answers {status}")).advice(self.by_hand()),
        };
        Failure::Lasting(error)
    }

    /// No answer.
    fn failed(&self, e: ureq::Error) -> Failure {
        let lasting = match &e {
            ureq::Error::Io(e) => e.kind() == io::ErrorKind::ConnectionRefused,
            ureq::Error::Timeout(_) => false,
            _ => true,
        };
        let what = format!("{} cannot be reached", self.endpoint);
        let error = Error::model(what).because(e).advice(
            "check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT; what is in the cache can be used \
             without the network",
        );
        if lasting { Failure::Lasting(error) } else { Failure::Passing(error) }
    }
}

/// Asks up to [`TRIES`] times, with pauses.
fn again<T>(ask: impl Fn() -> Result<T, Failure>) -> Result<T> {
    for tried in 1..TRIES {
        match ask() {
            Err(Failure::Passing(_)) => pause(tried),
            answer => return Ok(answer?),
        }
    }
    Ok(ask()?)
}

/// Waits after the `tried`-th failure.
pub fn pause(tried: u32) {
    thread::sleep(Duration::from_secs(u64::from(tried)));
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    url[..end].to_ascii_lowercase()
}

/// The host of an address, without its port.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The address that `location` means in an answer of `url`.
fn joined(url: &str, location: &str) -> String {
    if location.contains("://") && !location.starts_with('/') {
        return location.to_string();
    }
    let origin = origin(url);
    if location.starts_with("//") {
        let scheme = origin.split("//").next().unwrap_or_default();
        return format!("{scheme}{location}");
    }
    if location.starts_with('/') {
        return format!("{origin}{location}");
    }
    let path = url.split(['?', '#']).next().unwrap_or(url);
    match path[origin.len()..].rfind('/') {
        Some(at) => format!("{}/{location}", &path[..origin.len() + at]),
        None => format!("{origin}/{location}"),
    }
}

/// `text` in an address; slashes stay where they part a path.
fn encoded(text: &str, slashes: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'/' if slashes => out.push('/'),
            b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_another_unless_it_is_written_the_same() {
        let hub = origin("https://huggingface.co");
        for same in ["https://huggingface.co/a", "HTTPS://HuggingFace.co?x", "https://huggingface.co#x"] {
            assert_eq!(origin(same), hub, "{same}");
        }
        for other in [
            "http://huggingface.co/a",
            "https://huggingface.co.evil.com/",
            "https://huggingface.co@evil.com/",
            "https://huggingface.co:8443/",
            "https://cdn.huggingface.co/",
        ] {
            assert_ne!(origin(other), hub, "{other}");
        }
        assert_eq!(host("http://127.0.0.1:80/x"), "127.0.0.1");
        assert_eq!(host("http://[::1]:80"), "[::1]");
    }

    #[test]
    fn a_redirect_is_relative_to_where_it_came_from() {
        let base = "https://hub.co/a/b?c=/d";
        for (location, url) in [
            ("http://x.y/z", "http://x.y/z"),
            ("//x.y/z", "https://x.y/z"),
            ("/z?u=http://v", "https://hub.co/z?u=http://v"),
            ("z", "https://hub.co/a/z"),
        ] {
            assert_eq!(joined(base, location), url, "{location}");
        }
        assert_eq!(joined("https://hub.co", "z"), "https://hub.co/z");
    }

    #[test]
    fn what_an_address_cannot_hold_is_encoded() {
        assert_eq!(encoded("a b/ü.safetensors", true), "a%20b/%C3%BC.safetensors");
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}
