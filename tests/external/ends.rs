//! How scorers end: with what they started, and with the program, whatever ends that.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use das_cuda::cpu::Cpu;

use crate::{Scorer, graded, open_reward, picture, steered, with};

/// Waits until something is so, which takes a moment; a minute is for a machine that has stopped.
fn comes_true(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..6000 {
        if is_so() {
            return;
        }
        sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within a minute");
}

/// Whether a process is at work. One that nobody waits for stays as a zombie where the system's first process
/// collects none.
fn lives(id: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

/// The numbers of the processes that a scorer was and started.
fn processes(scorer: &Scorer) -> Vec<String> {
    let log = scorer.log();
    let number = |line: &String| {
        let id = line.strip_prefix("start ").or_else(|| line.strip_prefix("child "));
        id.map(String::from)
    };
    log.iter().filter_map(number).collect()
}

fn all_end(scorer: &Scorer, count: usize) {
    let all = processes(scorer);
    assert_eq!(all.len(), count, "{:?}", scorer.log());
    comes_true(scorer.kind, || !all.iter().any(|id| lives(id)));
}

/// The end is seen at once and not when the time is up, which is ten minutes here.
fn an_end_is_seen_while_a_child_holds_the_pipes() {
    let scorer = Scorer::new("killed");
    let (_, _, notes) = steered(with(&scorer.spec())).expect("it is started again");
    assert_eq!(scorer.starts(), 2);
    assert!(notes.iter().any(|note| note.contains("signal: 9") && note.contains("again")), "{notes:?}");
    all_end(&scorer, 3);
}

fn what_a_scorer_started_ends_with_it() {
    let (cpu, scorer) = (Cpu::new(), Scorer::new("parent"));
    let reward = open_reward(&scorer.spec(), &cpu).expect("it opens");
    graded(&reward, &cpu).expect("scores");
    let all = processes(&scorer);
    assert!(all.len() == 2 && all.iter().all(|id| lives(id)), "{:?}", scorer.log());
    drop(reward);
    assert_eq!(scorer.log().last().map(String::as_str), Some("end"), "it was left to end by itself");
    all_end(&scorer, 2);
}

/// A scorer that hangs, in a request or before its hello, while a signal ends the program.
fn a_signal_ends_the_scorer_too() {
    for (command, kind, at) in [
        ("score", "sleeps", "request"),
        ("plan", "hangs", "start"),
        ("sample", "sleeps", "request"),
        ("compare", "hangs", "start"),
    ] {
        let scorer = Scorer::new(kind);
        let (folder, spec) = (scorer.folder.path(), scorer.spec());
        let (picture, out) = (picture(folder), folder.join("out").display().to_string());
        let steps = ["--steps", "2", "--particles", "2"];
        let mut args = vec![command, "-p", "a star", "--reward", &spec];
        match command {
            "score" => args.push(&picture),
            "plan" => args.extend(steps),
            "sample" => args.extend([&["-o", &out][..], &steps].concat()),
            _ => args
                .extend([&["-o", &out, "--seeds", "1", "--methods", "best-of-n", "--"][..], &steps].concat()),
        }
        let mut program = Command::new("env");
        program.args(["--default-signal=HUP,INT,TERM", env!("CARGO_BIN_EXE_das-cuda")]).args(args);
        program.env("CUDA_VISIBLE_DEVICES", "").stdout(Stdio::null()).stderr(Stdio::null());
        let mut program = program.spawn().expect("the program starts");
        comes_true(command, || scorer.log().iter().any(|line| line.starts_with(at)));
        let signalled = Command::new("kill").args(["-INT", &program.id().to_string()]).status();
        assert!(signalled.expect("kill starts").success());
        let status = program.wait().expect("an end");
        // Commands that keep something end in order, the others as if they had not listened.
        let expected = if matches!(command, "score" | "plan") { (None, Some(2)) } else { (Some(130), None) };
        assert_eq!((status.code(), status.signal()), expected, "{command}");
        all_end(&scorer, 1);
    }
}

crate::tests![
    an_end_is_seen_while_a_child_holds_the_pipes,
    what_a_scorer_started_ends_with_it,
    a_signal_ends_the_scorer_too,
];
