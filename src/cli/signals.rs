//! SIGINT, SIGTERM and SIGHUP: the run ends in order, within seconds, and keeps what is finished.
//!
//! The first signal is answered by one line at once. The run looks at [`requested`] between steps; where a
//! step takes longer than [`GRACE`], a thread that waits for nothing else records the interruption and ends
//! the process. A second signal does that at once. A signal that was ignored when the program began (`nohup`,
//! the background jobs of a script) stays ignored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::output;
use crate::reward;

/// How long the step under way may take to end after the first signal.
const GRACE: Duration = Duration::from_secs(3);

/// Exit code of the signal that came, 128 and its number; 0 before.
static CODE: AtomicU8 = AtomicU8::new(0);

/// What concludes the work in hand if the process ends within a step, by the folder of each. Locked while
/// files are put in their place, and by the thread that ends the process.
static IN_HAND: Mutex<BTreeMap<PathBuf, Conclude>> = Mutex::new(BTreeMap::new());

/// Records that the work in hand was interrupted.
type Conclude = Box<dyn FnOnce() + Send>;

/// The exit code of a run that has been asked to stop.
pub fn requested() -> Option<u8> {
    Some(CODE.load(Ordering::SeqCst)).filter(|code| *code != 0)
}

/// Says what concludes the work in this folder if the process has to end within a step. Waits while the
/// process is ended.
pub fn in_hand(folder: &Path, conclude: impl FnOnce() + Send + 'static) {
    locked().insert(folder.into(), Box::new(conclude));
}

/// Does `f`, which an end of the process waits for; the work in this folder is not in hand any more.
pub fn finishing<T>(folder: &Path, f: impl FnOnce() -> T) -> T {
    let mut in_hand = locked();
    in_hand.remove(folder);
    f()
}

/// What is in hand is whole even after a panic.
fn locked() -> MutexGuard<'static, BTreeMap<PathBuf, Conclude>> {
    IN_HAND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens for signals from now on; at the first it says `what` happens.
pub fn listen(what: String) {
    let (sender, receiver) = mpsc::channel();
    // Where no thread can be started, signals end the program as they do by themselves.
    if thread::Builder::new().name("end".into()).spawn(move || end(&receiver)).is_ok() {
        hear(what, sender);
    }
}

/// Takes note of a signal with the exit code `code`; whether it is the first.
fn signalled(code: u8, sender: &Sender<()>) -> bool {
    let first = CODE.swap(code, Ordering::SeqCst) == 0;
    // The receiver lives as long as the process.
    let _ = sender.send(());
    first
}

/// Waits for a signal, then for the run to end, and ends the process where that takes too long.
fn end(signals: &Receiver<()>) {
    if signals.recv().is_err() {
        return;
    }
    if let Err(RecvTimeoutError::Disconnected) = signals.recv_timeout(GRACE) {
        thread::sleep(GRACE);
    }
    let mut in_hand = locked();
    reward::end_scorers();
    std::mem::take(&mut *in_hand).into_values().for_each(|conclude| conclude());
    exit(CODE.load(Ordering::SeqCst).into());
}

#[cfg(unix)]
fn hear(what: String, sender: Sender<()>) {
    on_each(move |signal| {
        if signalled(128 + signal as u8, &sender) {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            let most = GRACE.as_secs();
            output::note(format_args!("{name}: {what}, within {most} s (at once if it comes again)"));
        }
    });
}

/// For commands that keep nothing: from now on a signal ends the scorers, and then the program as it does by
/// itself.
#[cfg(unix)]
pub fn end_scorers_first() {
    on_each(|signal| {
        reward::end_scorers();
        let _ = signal_hook::low_level::emulate_default_handler(signal);
        // Where that cannot be done.
        exit(128 + signal);
    });
}

/// Does that for each signal from now on.
#[cfg(unix)]
fn on_each(mut answer: impl FnMut(i32) + Send + 'static) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;
    let heard: Vec<i32> = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !ignored(*signal)).collect();
    let (ready, listening) = mpsc::channel();
    let listener = move || {
        let Ok(mut signals) = Signals::new(heard) else { return };
        // The receiver waits for it.
        let _ = ready.send(());
        signals.forever().for_each(&mut answer);
    };
    if thread::Builder::new().name("signals".into()).spawn(listener).is_ok() {
        // An error means that the listener has ended, and signals do what they do by themselves.
        let _ = listening.recv();
    }
}

/// Makes a file that would grow beyond the limit of the system (`ulimit -f`) an error to report and record,
/// in place of the signal SIGXFSZ, which ends the program within a write.
#[cfg(unix)]
#[allow(unsafe_code)]
pub fn ignore_file_limit() {
    // SAFETY: to ignore a signal needs no handler; where it fails, the signal does what it does by itself.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

#[cfg(not(unix))]
pub fn ignore_file_limit() {}

/// Whether a signal was ignored when the program began.
#[cfg(unix)]
#[allow(unsafe_code)]
fn ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action, `sigaction` only writes the present one; all zeros is a valid value of it.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Without the handlers of a usual exit, which may wait for threads at work.
#[cfg(unix)]
fn exit(code: i32) {
    signal_hook::low_level::exit(code);
}

#[cfg(not(unix))]
fn hear(what: String, sender: Sender<()>) {
    // Where no handler can be set, Ctrl-C ends the program as it does by itself.
    let _ = ctrlc::set_handler(move || {
        if signalled(130, &sender) {
            let most = GRACE.as_secs();
            output::note(format_args!("Ctrl-C: {what}, within {most} s (at once if it comes again)"));
        }
    });
}

/// Scorers are run on Unix only.
#[cfg(not(unix))]
pub fn end_scorers_first() {}

#[cfg(not(unix))]
fn exit(code: i32) {
    std::process::exit(code);
}
