//! The processor's threads for the whole program: as many as asked for, or as there are processors, but never
//! more than can help, and fewer where the system gives fewer.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use rayon::{ThreadBuilder, ThreadPoolBuilder};

use super::output;
use crate::error::{Error, Result};

/// More threads than this, and than processors, are not started: each takes memory and none helps.
const MOST: usize = 64;

/// Starts the threads; to be called once, before any work.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for `--threads 0`;
/// [`ErrorKind::Device`](crate::ErrorKind::Device) if not even this thread can be used.
pub fn start(asked: Option<usize>) -> Result<()> {
    if asked == Some(0) {
        return Err(Error::usage("--threads 0: no thread would work").advice("give --threads at least 1"));
    }
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let most = processors.max(MOST);
    let wanted = asked.unwrap_or(processors);
    if wanted > most {
        output::note(format_args!(
            "note: --threads {wanted} is more than helps on {processors} processors: {most} are used"
        ));
    }
    let waiting = workers(wanted.min(most), |run| thread::Builder::new().name("worker".into()).spawn(run));
    if waiting.len() < wanted.min(most) {
        output::note(format_args!(
            "note: the system starts {} of {} threads (see ulimit -u and -v): computing goes on with those",
            waiting.len(),
            wanted.min(most)
        ));
    }
    let built = match waiting.len() {
        // This thread does all.
        0 => ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global(),
        count => {
            let mut waiting = waiting.into_iter();
            let hand_over = move |worker: ThreadBuilder| {
                let thread = waiting.next().ok_or(io::ErrorKind::OutOfMemory)?;
                thread.send(worker).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
            };
            ThreadPoolBuilder::new().num_threads(count).spawn_handler(hand_over).build_global()
        }
    };
    built.map_err(|e| {
        Error::device("the threads that compute cannot be started")
            .because(e)
            .advice("give --threads a smaller number, or raise the limit (ulimit -u)")
    })
}

/// Threads that wait for a part of the pool: `count`, or as many as `spawn` gives. Rayon itself can build its
/// global pool only once, and gives up where one thread does not start.
fn workers(
    count: usize,
    mut spawn: impl FnMut(Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>,
) -> Vec<Sender<ThreadBuilder>> {
    let mut waiting = Vec::new();
    for _ in 0..count {
        let (sender, receiver) = mpsc::channel::<ThreadBuilder>();
        let run = move || {
            if let Ok(worker) = receiver.recv() {
                worker.run();
            }
        };
        match spawn(Box::new(run)) {
            Ok(_) => waiting.push(sender),
            Err(_) => break,
        }
    }
    waiting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_threads_work_as_the_system_starts() {
        let mut left = 3;
        let waiting = workers(8, |run| {
            if left == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            left -= 1;
            thread::Builder::new().spawn(run)
        });
        assert_eq!(waiting.len(), 3);
        let mut waiting = waiting.into_iter();
        let hand_over = move |worker| {
            waiting.next().expect("a thread").send(worker).expect("waits");
            Ok(())
        };
        let pool = ThreadPoolBuilder::new().num_threads(3).spawn_handler(hand_over).build().expect("a pool");
        assert_eq!(pool.broadcast(|worker| worker.index()), [0, 1, 2]);
    }
}
