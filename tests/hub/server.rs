//! A hub on loopback: the requests that a download makes, and the faults that it must bear. Large files are
//! sent on to a second server, as the hub does to where it keeps them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use das_cuda::hash::sha256;
use sha1::{Digest, Sha1};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const REPOSITORY: &str = "tiny/model";

/// What is wrong with a file or the list of all (the empty name).
#[derive(Clone)]
pub enum Fault {
    /// The first answer ends after so many bytes, without an end.
    Cut(usize),
    /// Every answer has another last byte.
    Changed,
    /// An answer like this: status and the code that the hub gives with it.
    Status(u16, &'static str),
    /// The same, once.
    Once(u16),
    /// Every answer leads to itself.
    Circle,
    /// It sends everything, whatever part was asked for.
    NoRanges,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
    /// Whether it came to the server of large files.
    pub large: bool,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: Mutex<BTreeMap<String, Fault>>,
    seen: Mutex<Vec<Seen>>,
}

pub struct Server {
    state: Arc<State>,
    pub address: String,
}

/// Whether a file is kept under its SHA-256.
fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors")
}

impl Server {
    pub fn new(files: impl IntoIterator<Item = (impl Into<String>, impl Into<Vec<u8>>)>) -> Server {
        let files = files.into_iter().map(|(name, content)| (name.into(), content.into())).collect();
        let state = Arc::new(State { files, ..State::default() });
        let store = serve(state.clone(), None);
        let address = serve(state.clone(), Some(store));
        Server { state, address }
    }

    pub fn fault(&self, file: &str, fault: Fault) {
        self.state.faults.lock().unwrap().insert(file.to_string(), fault);
    }

    /// The requests so far, which are forgotten.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.seen.lock().unwrap())
    }
}

/// As git names a content.
fn git_hash(content: &[u8]) -> String {
    let hash = Sha1::new_with_prefix(format!("blob {}\0", content.len())).chain_update(content);
    format!("{:x}", hash.finalize())
}

/// Serves from now on; the address. `store` is the server of large files, `None` for itself.
fn serve(state: Arc<State>, store: Option<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (state, store) = (state.clone(), store.clone());
            // A client that leaves is no failure of the server.
            thread::spawn(move || while answer(&state, store.as_deref(), &stream).unwrap_or(false) {});
        }
    });
    address
}

/// Answers one request; whether there may be another.
fn answer(state: &State, store: Option<&str>, stream: &TcpStream) -> std::io::Result<bool> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_string);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(false) };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_string());
    }
    let (authorization, range) = (headers.remove("authorization"), headers.remove("range"));
    let seen = Seen {
        method: method.clone(),
        path: path.clone(),
        authorization,
        range: range.clone(),
        large: store.is_none(),
    };
    state.seen.lock().unwrap().push(seen);
    let from: usize =
        range.map_or(0, |r| r.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
    let reply = |status: u16, headers: &str, length: usize, body: &[u8]| {
        let mut out = stream;
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n");
        out.write_all(head.as_bytes())?;
        if method != "HEAD" {
            out.write_all(body)?;
        }
        // The rest of a body that was announced will not come.
        let whole = method == "HEAD" || body.len() == length;
        if !whole {
            stream.shutdown(std::net::Shutdown::Both)?;
        }
        std::io::Result::Ok(whole)
    };
    let of_model = format!("/api/models/{REPOSITORY}/revision/");
    let of_file = format!("/{REPOSITORY}/resolve/{COMMIT}/");
    let (name, list) = match (path.strip_prefix(&of_model), path.strip_prefix(&of_file)) {
        (Some("main" | COMMIT), _) => (String::new(), true),
        (Some(_), _) => return reply(404, "x-error-code: RevisionNotFound\r\n", 0, &[]),
        (_, Some(name)) => (name.to_string(), false),
        _ => return reply(404, "x-error-code: RepoNotFound\r\n", 0, &[]),
    };
    let fault = state.faults.lock().unwrap().get(&name).cloned();
    match fault {
        Some(Fault::Status(status, code)) => {
            return reply(status, &format!("x-error-code: {code}\r\n"), 0, &[]);
        }
        Some(Fault::Once(status)) => {
            state.faults.lock().unwrap().remove(&name);
            return reply(status, "", 0, &[]);
        }
        Some(Fault::Circle) => return reply(302, &format!("location: {path}\r\n"), 0, &[]),
        _ => {}
    }
    if list {
        let files: Vec<_> = state.files.keys().map(|f| serde_json::json!({"rfilename": f})).collect();
        let text = serde_json::json!({"sha": COMMIT, "siblings": files}).to_string();
        return reply(200, "", text.len(), text.as_bytes());
    }
    let Some(content) = state.files.get(&name) else {
        return reply(404, "x-error-code: EntryNotFound\r\n", 0, &[]);
    };
    let tag = if is_large(&name) { sha256(content) } else { git_hash(content) };
    if let (true, Some(store)) = (is_large(&name), store) {
        let size = content.len();
        let headers =
            format!("location: {store}{path}\r\nx-linked-etag: \"{tag}\"\r\nx-linked-size: {size}\r\n");
        return reply(302, &headers, 0, &[]);
    }
    let mut content = content.clone();
    let mut end = content.len();
    let (mut from, tag) = (from, format!("etag: \"{tag}\"\r\n"));
    match fault {
        Some(Fault::Cut(at)) if method == "GET" => {
            state.faults.lock().unwrap().remove(&name);
            end = at;
        }
        Some(Fault::Changed) => *content.last_mut().unwrap() ^= 1,
        Some(Fault::NoRanges) => from = 0,
        _ => {}
    }
    let status = if from > 0 { 206 } else { 200 };
    reply(status, &tag, content.len() - from, &content[from..end])
}
