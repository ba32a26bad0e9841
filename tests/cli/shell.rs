//! The program among others: signals, standard input, threads, and what it says of itself and of the machine.

use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

use tempfile::TempDir;

use super::{arguments, fails, only_folder, program, record_of, run, sample, succeeds, text};

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn prompts_come_from_standard_input() {
    let dir = TempDir::new().expect("a temporary folder");
    for (name, content) in [
        ("lines", "a ring\n# no prompt\n\na cross\n"),
        ("json", "{\"prompt\": \"a ring\"}\n{\"prompt\": \"a cross\"}"),
    ] {
        let out = dir.path().join(name);
        let args = arguments(&out, &["--prompts", "-", "--proposal", "none"]);
        let output = program().args(args).write_stdin(content).output().expect("the program starts");
        assert_eq!(errors(&output).contains("1 of them left out"), name == "lines", "{}", errors(&output));
        assert_eq!(succeeds(output).lines().count(), 2);
        for folder in ["0000-a-ring", "0001-a-cross"] {
            assert_eq!(record_of(&out.join(folder))["status"], "finished", "{name}");
        }
    }
    let out = dir.path().join("empty");
    let args = arguments(&out, &["--prompts", "-"]);
    fails(
        program().args(args).write_stdin("").output().expect("the program starts"),
        2,
        &["--prompts -", "no prompt"],
    );
}

#[cfg(unix)]
#[test]
fn prompts_come_from_a_pipe_with_a_name() {
    let dir = TempDir::new().expect("a temporary folder");
    let args = arguments(&dir.path().join("out"), &["--prompts", "/dev/fd/0", "--proposal", "none", "-q"]);
    let output = program().args(args).write_stdin("[\"a ring\"]").output().expect("the program starts");
    assert_eq!(succeeds(output).lines().count(), 1);
    assert_eq!(record_of(&only_folder(&dir.path().join("out")))["prompt"], "a ring");
}

#[test]
fn more_threads_than_can_help_are_not_started() {
    let dir = TempDir::new().expect("a temporary folder");
    let output =
        sample(&dir.path().join("out"), &["-p", "a ring", "--proposal", "none", "--threads", "100000"]);
    let said = errors(&output);
    succeeds(output);
    let used = record_of(&only_folder(&dir.path().join("out")))["threads"].as_u64().expect("a number");
    assert!(used <= 4096 && said.contains("--threads 100000") && said.contains(&used.to_string()), "{said}");
}

#[test]
fn the_device_is_chosen_and_said_in_one_line() {
    let dir = TempDir::new().expect("a temporary folder");
    let small = ["-p", "a ring", "--proposal", "none", "--device", "auto"];
    // No driver shows a GPU.
    let run = |name: &str, more: &[&str]| {
        let args = arguments(&dir.path().join(name), &[&small[..], more].concat());
        program().args(args).env("CUDA_VISIBLE_DEVICES", "").output().expect("the program starts")
    };
    let output = run("said", &[]);
    let said = errors(&output);
    assert_eq!(said.lines().filter(|line| line.starts_with("computing on the CPU: ")).count(), 1, "{said}");
    succeeds(output);
    assert_eq!(record_of(&only_folder(&dir.path().join("said")))["device"], "cpu");
    assert_eq!(errors(&run("quiet", &["-q"])), "");
    fails(run("vram", &["--max-vram", "1G"]), 2, &["--max-vram has no meaning with --device cpu"]);
}

#[test]
fn the_program_tells_about_itself() {
    let version = succeeds(run(&["--version"]));
    assert!(version.starts_with(&format!("das-cuda {}\n", env!("CARGO_PKG_VERSION"))), "{version}");
    assert!(version.contains("\ncommit: ") && version.contains("\nkernels: "), "{version}");
    assert_eq!(succeeds(run(&["-V"])), format!("das-cuda {}\n", env!("CARGO_PKG_VERSION")));

    let help = succeeds(run(&["sample", "--help"]));
    let rewards = succeeds(run(&["rewards"]));
    for reward in [
        "aesthetic",
        "clip",
        "pickscore",
        "hpsv2",
        "hpsv2.1",
        "imagereward",
        "jpeg",
        "incompressibility",
        "jpeg-proxy",
        "gold",
        "checker",
        "exec",
        "http",
    ] {
        assert_eq!(
            rewards.lines().filter(|line| line.starts_with(&format!("  {reward} "))).count(),
            1,
            "{reward}"
        );
    }
    // Whole, as they are listed: no line is too long for a terminal of a usual width.
    assert!(help.contains(&rewards), "{rewards} is not in {help}");
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    assert_eq!(help.matches("  das-cuda sample ").count(), 3, "three examples");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = succeeds(run(&["completions", shell]));
        assert!(script.contains("das-cuda") && script.contains("first-index"), "{shell}");
    }
    let page = succeeds(run(&["man"]));
    assert!(page.contains(".TH das-cuda 1") && page.contains("\\-\\-first\\-index"), "no manual page");
    // Everything is in this page; a line of the version stays a line.
    assert!(!page.contains("(1)") && page.contains("\\fBsample\\fR\n"), "a page that does not exist");
    assert!(page.contains("\n.br\ncommit: ") && page.contains("\n.br\nkernels: "), "{page}");
}

#[test]
fn the_machine_is_described_and_computes_what_is_known() {
    let devices =
        succeeds(program().arg("devices").env("CUDA_VISIBLE_DEVICES", "").output().expect("starts"));
    assert!(devices.starts_with("cpu ") && devices.contains("processors"), "{devices}");
    assert_eq!(devices.lines().count(), 1, "{devices}");
    let dir = TempDir::new().expect("a temporary folder");
    let doctor =
        program().arg("doctor").env("CUDA_VISIBLE_DEVICES", "").env("XDG_CACHE_HOME", dir.path()).output();
    let found = succeeds(doctor.expect("the program starts"));
    for name in ["program", "cpu", "free", "driver", "NVRTC", "cuBLASLt", "cache", "known run"] {
        assert_eq!(found.lines().filter(|line| line.starts_with(name)).count(), 1, "{name} in {found}");
    }
    assert!(found.contains("cpu fp32 right: ") && found.contains(text(dir.path())), "{found}");
    // A relative path in the variable counts as none.
    let mut doctor = program();
    doctor.arg("doctor").env("XDG_CACHE_HOME", "relative").env("HOME", dir.path()).current_dir(dir.path());
    let found = succeeds(doctor.output().expect("the program starts"));
    let cache = found.lines().find(|line| line.starts_with("cache")).expect("a line");
    assert!(cache.contains(text(&dir.path().join(".cache/das-cuda"))), "{cache}");
    assert!(!dir.path().join("relative").exists());
}

#[cfg(unix)]
mod signals {
    use std::io::{BufRead, BufReader, Read};
    use std::path::Path;
    use std::process::{Child, Command};

    use super::super::{folders, interruptible, lines};
    use super::*;

    fn send(child: &Child, signal: &str) {
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill starts").success());
    }

    fn start(command: &mut Command) -> Child {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
    }

    /// The first line on a stream of a child.
    fn line(stream: &mut impl BufRead) -> String {
        let mut line = String::new();
        stream.read_line(&mut line).expect("a line");
        line
    }

    fn wait_for(path: &Path) {
        while !path.exists() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// As under nohup and in the background jobs of scripts.
    #[test]
    fn ignored_signals_stay_ignored() {
        let dir = TempDir::new().expect("a temporary folder");
        let out = dir.path().join("out");
        let args =
            arguments(&out, &["-p", "a ring", "-p", "a cross", "-p", "a star", "--proposal", "none", "-q"]);
        let script = "trap '' HUP INT; exec \"$0\" \"$@\"";
        let mut child =
            start(Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_das-cuda")]).args(args));
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        assert!(line(&mut stdout).contains("0000-a-ring"));
        send(&child, "-HUP");
        send(&child, "-INT");
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).expect("results");
        assert_eq!((child.wait().expect("an end").code(), rest.lines().count()), (Some(0), 2));
        let mut said = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("stderr");
        assert_eq!(said, "");
    }

    /// A step at this size takes longer than the signal is waited for, on machines of today; on a faster one
    /// the run ends after a step.
    #[test]
    fn a_signal_is_answered_at_once_and_ends_a_long_step() {
        for (signal, name, code) in [("-TERM", "SIGTERM", 143), ("-HUP", "SIGHUP", 129)] {
            let dir = TempDir::new().expect("a temporary folder");
            let out = dir.path().join("out");
            let long = ["-p", "a star", "--proposal", "none", "--particles", "1", "--steps", "40", "-q"];
            let args =
                arguments(&out, &[&long[..], &["-W", "1024", "-H", "1024", "--reward", "gold"]].concat());
            let mut child = start(interruptible().args(args));
            let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
            let folder = out.join("0000-a-star");
            wait_for(&folder.join("trace.jsonl"));
            send(&child, signal);
            let said = line(&mut stderr);
            assert!(said.starts_with(&format!("{name}: stopping; ")) && said.contains("out"), "{said}");
            assert_eq!(child.wait().expect("an end").code(), Some(code));
            let record = record_of(&folder);
            assert_eq!(record["status"], "interrupted");
            assert!(record["error"].as_str().is_some_and(|e| e.contains("stopped")), "{}", record["error"]);
            assert!(record["seconds"].is_number());
            assert!(lines(&folder.join("trace.jsonl")).len() < 40);
        }
    }

    #[test]
    fn the_second_signal_ends_the_run_at_once() {
        let dir = TempDir::new().expect("a temporary folder");
        let out = dir.path().join("out");
        let long = ["-p", "a star", "--particles", "1", "-q", "-W", "1024", "-H", "1024"];
        let mut child = start(interruptible().args(arguments(&out, &long)));
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        wait_for(&out.join("0000-a-star/trace.jsonl"));
        send(&child, "-INT");
        assert!(line(&mut stderr).starts_with("SIGINT: "));
        send(&child, "-INT");
        assert_eq!(child.wait().expect("an end").code(), Some(130));
        assert_eq!(record_of(&out.join("0000-a-star"))["status"], "interrupted");
    }

    /// The second prompt's warning is longer than the pipe that is not read: the program stands still in its
    /// second prompt until it is killed.
    #[test]
    fn a_run_that_is_killed_loses_nothing_that_is_finished() {
        let dir = TempDir::new().expect("a temporary folder");
        let out = dir.path().join("out");
        let long = "red star ".repeat(11_000);
        let list = ["-p", "a ring", "-p", &long, "--eval-reward", "clip", "--proposal", "none"];
        let killed = |more: &[&str]| {
            let args = arguments(&out, &[&list[..], more, &["-q"]].concat());
            let mut child = start(interruptible().args(args));
            line(&mut BufReader::new(child.stdout.take().expect("a pipe")));
            child.stderr.as_mut().expect("a pipe").read_exact(&mut [0]).expect("the second prompt's warning");
            send(&child, "-KILL");
            child.wait().expect("an end");
        };
        killed(&[]);
        let second = folders(&out)[1].clone();
        let status = |name: &str| record_of(&out.join(name))["status"].clone();
        assert_eq!([status("0000-a-ring"), status(&second)], ["finished", "running"]);
        let ring = fs::read(out.join("0000-a-ring/best.png")).expect("best.png");

        // The same command again goes on: the first prompt is kept, and the second is drawn.
        let output = sample(&out, &[&list[..], &["--skip-finished"]].concat());
        assert_eq!(succeeds(output).lines().count(), 2);
        assert_eq!(folders(&out).len(), 3);
        let drawn = folders(&out)[2].clone();
        assert_eq!(status(&drawn), "finished");
        assert!(fs::read(out.join("0000-a-ring/best.png")).expect("best.png") == ring);

        // Killed while it replaces, it has replaced what is finished, and nothing else.
        succeeds(sample(&out, &[&list[..], &["--overwrite"]].concat()));
        let old = fs::read(out.join(&second).join("best.png")).expect("best.png");
        killed(&["--overwrite", "--seed", "7"]);
        assert_eq!(record_of(&out.join("0000-a-ring"))["seed"], 7);
        assert_eq!(record_of(&out.join(&second))["seed"], 42);
        assert!(fs::read(out.join(&second).join("best.png")).expect("best.png") == old);
        // What it left is in nobody's way.
        succeeds(sample(&out, &[&list[..], &["--overwrite", "--seed", "8"]].concat()));
        assert_eq!(record_of(&out.join(&second))["seed"], 8);
        assert_eq!(fs::read_dir(&out).expect("a folder").count(), 3);
    }
}

#[test]
fn a_closed_standard_input_is_no_prompt() {
    let dir = TempDir::new().expect("a temporary folder");
    let args = arguments(&dir.path().join("out"), &["--prompts", "-"]);
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_das-cuda"))
        .args(args)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("a pipe").flush().expect("closed");
    fails(child.wait_with_output().expect("an end"), 2, &["no prompt"]);
}
