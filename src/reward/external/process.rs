//! A scorer as a process of its own: started once, asked over its standard input and output, started once
//! more after a crash. Each has a process group of its own, which is killed at its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::channel::{Channel, TIMEOUT};
use super::failure::{Failure, shown, told};
use super::protocol::Hello;

/// The groups of the scorers that run. Locked while one is started or killed, and for ever after [`end_all`].
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A list is whole even after a panic.
fn groups() -> MutexGuard<'static, Vec<Pid>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills every scorer and what it started, for a process that ends at once. A thread that would start another
/// waits from now on.
pub fn end_all() {
    let groups = groups();
    groups.iter().for_each(|group| kill(*group));
    std::mem::forget(groups);
}

fn kill(group: Pid) {
    // Where all of them have ended, there is nothing to do.
    let _ = kill_process_group(group, Signal::KILL);
}

/// A command that scores.
pub struct Process {
    /// The program and its arguments.
    words: Vec<String>,
    timeout: Duration,
    /// What the scorer said of itself when it was first started.
    known: Option<Hello>,
    live: Option<Live>,
    /// Whether it has been started again.
    restarted: bool,
    notes: Vec<String>,
}

impl Process {
    /// Starts nothing. `words` are the program and its arguments; `known` is what it said when it was started
    /// before.
    pub fn new(words: Vec<String>, timeout: Duration, known: Option<Hello>) -> Process {
        Process { words, timeout, known, live: None, restarted: false, notes: Vec::new() }
    }

    /// The running process, which is started where there is none.
    fn live(&mut self) -> Result<&mut Live, Ended> {
        if self.live.is_none() {
            let mut live = Live::start(&self.words)?;
            let line = live.line(self.timeout, LONGEST_HELLO)?;
            let hello = Hello::parse(&line).map_err(|failure| live.fault(failure.what, failure.fix))?;
            match &self.known {
                Some(known) if *known != hello => {
                    let what = format!("says in its hello {}, and said something else before", shown(&line));
                    return Err(live.fault(what, "let it say the same whenever it is started"));
                }
                _ => self.known = Some(hello),
            }
            self.live = Some(live);
        }
        let Some(live) = &mut self.live else { unreachable!("it was started above") };
        Ok(live)
    }

    fn exchange(&mut self, request: &str, most: usize) -> Result<Vec<u8>, Ended> {
        let timeout = self.timeout;
        let live = self.live()?;
        live.limit.store(most, Ordering::Relaxed);
        live.send(request);
        live.line(timeout, most)
    }
}

impl Channel for Process {
    fn hello(&mut self) -> Result<Hello, Failure> {
        self.live().map_err(|ended| ended.failure)?;
        let Some(hello) = &self.known else { unreachable!("what runs has said its hello") };
        Ok(hello.clone())
    }

    fn ask(&mut self, request: &str, most: usize) -> Result<Vec<u8>, Failure> {
        let first = match self.exchange(request, most) {
            Ok(line) => return Ok(line),
            Err(ended) => ended,
        };
        self.live = None;
        if !first.crashed {
            return Err(first.failure);
        }
        if std::mem::replace(&mut self.restarted, true) {
            return Err(again(first.failure));
        }
        self.notes.push(format!("was started again, which is done once: it {}", first.failure.what));
        self.exchange(request, most).map_err(|second| {
            self.live = None;
            again(second.failure)
        })
    }

    fn names_requests(&self) -> bool {
        true
    }

    fn give_up(&mut self) -> String {
        self.live.take().map_or(String::new(), |mut live| {
            live.end();
            live.last_words()
        })
    }

    fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }
}

/// What failed in a scorer that had ended before.
fn again(failure: Failure) -> Failure {
    Failure::new(
        format!("had ended before and was started again, which is done once; now it {}", failure.what),
        failure.fix,
    )
}

/// Bytes that no hello exceeds.
const LONGEST_HELLO: usize = 1 << 16;
/// How long a process that has nothing more to read may take to end by itself.
const GRACE: Duration = Duration::from_secs(2);
/// How often is looked whether a process that is silent has ended.
const GLANCE: Duration = Duration::from_millis(50);
/// How much of its standard error is kept, from the end.
const KEPT: usize = 2048;

const OUTPUT: &str = "let it write nothing but its hello and its answers to standard output, each a JSON object in \
                      one line (docs/reward-protocol.md); everything else belongs to standard error";
const WORDS: &str = "check the command: it is split into words as a shell does it, but no shell runs it; where one is \
                     needed, write exec:sh -c 'COMMAND'";
const BY_ITSELF: &str = "run the command by itself: it must write its hello, and then wait for requests on standard \
                         input";

/// Why there is no line.
struct Ended {
    failure: Failure,
    /// Whether the process ended by itself, so that another one may do better.
    crashed: bool,
}

/// What came from the process.
enum Said {
    Line(Vec<u8>),
    TooLong(Vec<u8>),
}

/// A running process. Threads read and write, so that nothing here waits longer than it wants to.
struct Live {
    child: Child,
    /// Requests to be written; `None` once there are no more.
    requests: Option<Sender<String>>,
    lines: Receiver<Said>,
    /// Bytes that a line may have.
    limit: Arc<AtomicUsize>,
    /// The end of what it wrote to its standard error.
    errors: Arc<Mutex<Vec<u8>>>,
    /// Nothing is sent; closed once standard error is.
    silent: Receiver<()>,
    /// Whether its group has been killed.
    ended: bool,
}

impl Live {
    fn start(words: &[String]) -> Result<Live, Ended> {
        let Some((program, arguments)) = words.split_first() else { unreachable!("a command has a word") };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // In a group of its own: Ctrl-C is for this program, which ends the scorer when it needs it no more.
        command.process_group(0);
        let mut running = groups();
        let mut child = command.spawn().map_err(|e| Ended {
            failure: Failure::new(format!("cannot be started: {program:?}: {e}"), WORDS),
            crashed: false,
        })?;
        running.push(Pid::from_child(&child));
        drop(running);
        let limit = Arc::new(AtomicUsize::new(LONGEST_HELLO));
        let errors = Arc::new(Mutex::new(Vec::new()));
        let (requests, to_write) = channel::<String>();
        // A process that floods its output is held up, instead of filling the memory.
        let (said, lines) = sync_channel(1);
        let (open, silent) = channel();
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(mut stderr)) = pipes else { unreachable!("all are piped") };
        thread::spawn(move || {
            for request in to_write {
                // That the process reads no more is seen by its silence or its end.
                if writeln!(stdin, "{request}").and_then(|()| stdin.flush()).is_err() {
                    break;
                }
            }
        });
        let most = limit.clone();
        thread::spawn(move || read_lines(stdout, &most, &said));
        let kept = errors.clone();
        thread::spawn(move || {
            let mut bytes = [0; KEPT];
            while let Ok(read @ 1..) = stderr.read(&mut bytes) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&bytes[..read]);
                let surplus = kept.len().saturating_sub(KEPT);
                kept.drain(..surplus);
            }
            drop(open);
        });
        Ok(Live { child, requests: Some(requests), lines, limit, errors, silent, ended: false })
    }

    fn send(&mut self, request: &str) {
        if let Some(requests) = &self.requests {
            // Where nobody writes any more, the process has ended, and `line` says so.
            let _ = requests.send(request.to_string());
        }
    }

    /// The next line.
    fn line(&mut self, timeout: Duration, most: usize) -> Result<Vec<u8>, Ended> {
        match self.said(timeout) {
            Ok(Said::Line(line)) => Ok(line),
            Ok(Said::TooLong(line)) => {
                let what =
                    format!("wrote {}, a line of more than the {most} bytes that it may have", shown(&line));
                Err(self.fault(what, OUTPUT))
            }
            Err(RecvTimeoutError::Timeout) => {
                let what = format!("gave no answer within {} s", timeout.as_secs_f64());
                let fix =
                    format!("give it longer, {TIMEOUT}=SECONDS in the environment, or see what it waits for");
                Err(self.fault(what, fix))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.wait();
                let how =
                    status.map_or("it closed its standard output".to_string(), |status| status.to_string());
                let what = format!("ended before it answered ({how}){}", self.last_words());
                Err(Ended { failure: Failure::new(what, BY_ITSELF), crashed: true })
            }
        }
    }

    /// What comes within that time. The end of the process is seen even where one that it started holds the
    /// pipe open, and what it wrote before is read.
    fn said(&mut self, timeout: Duration) -> Result<Said, RecvTimeoutError> {
        let began = Instant::now();
        loop {
            let left = timeout.saturating_sub(began.elapsed());
            match self.lines.recv_timeout(left.min(GLANCE)) {
                Err(RecvTimeoutError::Timeout) if self.has_ended() => {
                    self.end();
                    return self.lines.recv_timeout(GRACE).map_err(|_| RecvTimeoutError::Disconnected);
                }
                Err(RecvTimeoutError::Timeout) if left > GLANCE => {}
                said => return said,
            }
        }
    }

    /// Ends the process, because of what it did.
    fn fault(&mut self, what: impl std::fmt::Display, fix: impl Into<String>) -> Ended {
        self.end();
        let what = format!("{what}{}", self.last_words());
        Ended { failure: Failure::new(what, fix), crashed: false }
    }

    /// Waits for an end that is near, and kills what is left then. How it ended, if by itself.
    fn wait(&mut self) -> Option<ExitStatus> {
        self.requests = None;
        let began = Instant::now();
        while !self.has_ended() && began.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(2));
        }
        let by_itself = self.has_ended();
        let status = self.end();
        status.filter(|_| by_itself)
    }

    /// Whether the process has ended. It is left as a zombie, so that the number of its group stays its own.
    fn has_ended(&self) -> bool {
        let asked = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        // An error says that there is no such child: one that has been waited for.
        self.ended || !matches!(waitid(WaitId::Pid(Pid::from_child(&self.child)), asked), Ok(None))
    }

    /// Ends the process and those that it started, also those that are left when it has ended by itself.
    fn end(&mut self) -> Option<ExitStatus> {
        if !std::mem::replace(&mut self.ended, true) {
            self.requests = None;
            let group = Pid::from_child(&self.child);
            let mut running = groups();
            kill(group);
            running.retain(|other| *other != group);
            drop(running);
            // Also where it went to another group.
            let _ = self.child.kill();
        }
        self.child.wait().ok()
    }

    /// After its end: what it wrote to its standard error last, in words that go behind a message.
    fn last_words(&mut self) -> String {
        // What it started may hold the pipe open.
        let _ = self.silent.recv_timeout(GRACE);
        let kept = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        match String::from_utf8_lossy(&kept).trim() {
            "" => String::new(),
            text => {
                format!("; its standard error ends with:\n    {}", told(text, KEPT).replace('\n', "\n    "))
            }
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if !self.ended {
            self.wait();
        }
    }
}

/// Sends the lines of `out`, each of at most `limit` bytes, until it ends. What has no end of line is none.
fn read_lines(out: impl Read, limit: &AtomicUsize, said: &SyncSender<Said>) {
    let mut out = BufReader::new(out);
    let mut line = Vec::new();
    loop {
        let part = match out.fill_buf() {
            Ok([]) => return,
            Ok(part) => part,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let end = part.iter().position(|&byte| byte == b'\n');
        let taken = end.unwrap_or(part.len());
        line.extend_from_slice(&part[..taken]);
        out.consume(taken + usize::from(end.is_some()));
        if line.len() > limit.load(Ordering::Relaxed) {
            let _ = said.send(Said::TooLong(line));
            return;
        }
        if end.is_some() && said.send(Said::Line(std::mem::take(&mut line))).is_err() {
            return;
        }
    }
}
