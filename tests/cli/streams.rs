//! What is said where: results on standard output, everything else on stderr, and Ctrl-C.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};

use tempfile::TempDir;

use super::{
    arguments, fails, json, lines, model, only_folder, program, record_of, run, sample, succeeds, text,
};

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// As [`program`], with its streams to be chosen.
fn process(args: &[std::ffi::OsString]) -> std::process::Command {
    let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_das-cuda"));
    process.args(args);
    process
}

#[test]
fn standard_output_holds_results_only_and_stderr_plain_lines_of_progress() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let output = program().args(arguments(&out, &["-p", "a ring", "-p", "a cross"])).output();
    let output = output.expect("the program starts");
    let progress = errors(&output);
    let paths =
        ["0000-a-ring", "0001-a-cross"].map(|f| format!("{}\n", out.join(f).join("best.png").display()));
    assert_eq!(succeeds(output), paths.concat());
    // Two prompts of two steps and a final event each; lines in between depend on the time.
    let counts: Vec<&str> = progress.lines().filter_map(|l| l.split_once("  ")).map(|(n, _)| n).collect();
    assert_eq!((counts.first(), counts.last()), (Some(&"1/6"), Some(&"6/6")), "{progress}");
    let summary = |l: &str| l.contains(": reward ") && l.contains(" -> ") && l.contains("distinct roots ");
    assert!(progress.lines().all(|l| l.contains(" s left  ") || summary(l)), "{progress}");
    assert_eq!(progress.lines().filter(|l| summary(l)).count(), 2, "{progress}");
    // The summary names the reward of the picture that is printed.
    let returned = record_of(&out.join("0000-a-ring"))["result"]["reward"].as_f64().expect("a reward");
    let first = progress.lines().find(|l| summary(l)).expect("a summary");
    assert!(first.contains(&format!(", returned {returned:.3}, ")), "{first}: {returned}");
    assert!(!progress.contains(['\r', '\u{1b}']), "no terminal, no control characters: {progress:?}");
    assert_eq!(errors(&sample(&dir.path().join("quiet"), &["-p", "a ring"])), "");
}

#[test]
fn a_prompt_that_a_held_out_reward_cannot_read_whole_is_said() {
    let dir = TempDir::new().expect("a temporary folder");
    let long = "red star ".repeat(60);
    let output =
        sample(&dir.path().join("out"), &["-p", &long, "--eval-reward", "clip", "--proposal", "none"]);
    let warnings = errors(&output);
    succeeds(output);
    assert!(warnings.contains("reward clip reads only"), "{warnings}");
    assert!(warnings.contains("longer than the text encoder reads"), "{warnings}");
}

/// Scores of an image, for the tests of streams.
fn scored(dir: &Path) -> Vec<std::ffi::OsString> {
    let image = dir.join("image.png");
    image::RgbImage::from_pixel(64, 64, image::Rgb([200, 30, 30])).save(&image).expect("an image");
    let image = text(&image);
    ["score", image, image, image, "--reward", "gold"].map(Into::into).to_vec()
}

#[test]
fn a_reader_that_leaves_ends_the_program_quietly() {
    let dir = TempDir::new().expect("a temporary folder");
    let plan = ["plan", "-p", "a star", "--steps", "2", "--device", "cpu"].map(Into::into).to_vec();
    let script = ["completions", "bash"].map(Into::into).to_vec();
    for args in [scored(dir.path()), plan, script, vec!["rewards".into()]] {
        let output = unread(&args);
        assert_eq!((output.status.code(), errors(&output).as_str()), (Some(0), ""), "{args:?}");
    }
}

/// Runs without a reader of standard output.
fn unread(args: &[std::ffi::OsString]) -> Output {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    process(args).stdout(writer).stderr(Stdio::piped()).output().expect("the program starts")
}

/// Results on disk do not depend on who reads where they are.
#[test]
fn a_list_is_drawn_to_its_end_without_a_reader() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let list = ["-p", "a star", "-p", "a ring", "-p", "a cross", "--proposal", "none", "-q"];
    for more in [&[][..], &["--skip-finished"], &["--json", "--overwrite"]] {
        let output = unread(&arguments(&out, &[&list[..], more].concat()));
        let said = errors(&output);
        assert_eq!((output.status.code(), said.lines().count()), (Some(0), 1), "{more:?}: {said}");
        assert!(said.starts_with("warning: standard output is closed"), "{said}");
        let folders = ["0000-a-star", "0001-a-ring", "0002-a-cross"];
        assert_eq!(super::folders(&out), folders, "{more:?}");
        assert!(folders.iter().all(|name| record_of(&out.join(name))["status"] == "finished"));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_an_error() {
    let dir = TempDir::new().expect("a temporary folder");
    let plan: Vec<std::ffi::OsString> = ["plan", "-p", "a star", "--steps", "2"].map(Into::into).to_vec();
    let as_json = [plan.clone(), vec!["--json".into()]].concat();
    let out = dir.path().join("out");
    let told = [&["--help"][..], &["--version"], &["sample", "-h"], &["help"], &["man"], &["rewards"]];
    let told = told.map(|args| args.iter().map(Into::into).collect());
    let work = [scored(dir.path()), plan, as_json, arguments(&out, &["-p", "a star", "-q"])];
    for args in work.into_iter().chain(told) {
        let full = fs::File::options().write(true).open("/dev/full").expect("a full device");
        let output = process(&args).stdout(full).stderr(Stdio::piped()).output().expect("the program starts");
        fails(output, 1, &["standard output"]);
    }
    assert_eq!(record_of(&only_folder(&out))["status"], "finished");
}

#[cfg(target_os = "linux")]
#[test]
fn paths_need_not_be_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join(std::ffi::OsStr::from_bytes(b"out-\xff"));
    let answer = json(&succeeds(sample(&out, &["-p", "a star", "--json", "--save-latents"])));
    assert!(answer["folder"].as_str().is_some_and(|f| f.contains("out-\u{fffd}")), "{answer}");
    let run = only_folder(&out);
    // As a path it is printed byte for byte, so that another program finds the file.
    let printed = sample(&out, &["-p", "a star", "--skip-finished", "--save-latents"]).stdout;
    let path = std::ffi::OsStr::from_bytes(printed.trim_ascii_end());
    assert_eq!(Path::new(path), run.join("best.png"));
    let again = program()
        .args(arguments(&dir.path().join("again"), &["-p", "a star", "-q"]))
        .arg("--latents")
        .arg(run.join("latents.safetensors"))
        .output();
    succeeds(again.expect("the program starts"));
    let scored = program().arg("score").arg(run.join("best.png")).args(["--reward", "gold"]).output();
    let line = json(&succeeds(scored.expect("the program starts")));
    assert!(line["path"].as_str().is_some_and(|p| p.ends_with("best.png")), "{line}");
}

#[test]
fn scores_are_json_lines_and_say_whose_towers_judge() {
    let (dir, root) = model();
    let out = dir.path().join("out");
    let best = succeeds(sample(&out, &["-p", "a star", "--proposal", "none"]));
    let best = best.trim();
    let score =
        ["score", best, "--reward", "aesthetic", "--reward", "clip", "--reward", "jpeg", "--reward", "gold"];
    let by_default = run(&score);
    let note = errors(&by_default);
    assert!(note.starts_with("note: ") && note.contains("`shapes`") && note.contains("-m"), "{note}");
    let printed = succeeds(by_default);
    let line = json(&printed);
    for name in ["aesthetic", "clip", "jpeg", "gold"] {
        assert!(line["rewards"][name].is_number(), "{name} in {line}");
    }
    assert_eq!((&line["path"], &line["prompt"]), (&best.into(), &"a star".into()));
    // The same towers, named: the same scores, and nothing to note.
    let by_name = run(&[&score[..], &["-m", text(&root)]].concat());
    assert_eq!(errors(&by_name), "");
    assert_eq!(succeeds(by_name), printed);
    assert_eq!(errors(&run(&["score", best, "--reward", "gold"])), "", "no tower judges");
}

/// The checker judges nothing where the prompt states nothing.
#[test]
fn a_score_that_is_not_finite_is_null_and_said() {
    let dir = TempDir::new().expect("a temporary folder");
    let image = dir.path().join("image.png");
    image::RgbImage::from_pixel(64, 64, image::Rgb([200, 30, 30])).save(&image).expect("an image");
    let output = run(&["score", text(&image), "-p", "a", "--reward", "jpeg", "--reward", "checker"]);
    let said = errors(&output);
    let line = json(&succeeds(output));
    assert!(line["target"].is_null() && line["rewards"]["jpeg"].is_number(), "{line}");
    assert!(said.contains("warning: ") && said.contains("\"target\" is null: checker gave"), "{said}");
}

/// The second prompt's warning quotes it, and is longer than the pipe that is not read: the program stands
/// still in its second prompt until the signal has been sent.
#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_done() {
    use std::io::{BufRead, BufReader, Read};
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    // Pipes hold 64 kB; an argument may have 128 kB.
    let long = "red star ".repeat(11_000);
    let prompts = ["-p", "a ring", "-p", &long, "--eval-reward", "clip", "--steps", "4", "-q"];
    let mut child = super::interruptible()
        .args(arguments(&out, &prompts))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut stderr = child.stderr.take().expect("a pipe");

    let mut first = String::new();
    stdout.read_line(&mut first).expect("the first prompt's result");
    let done = out.join("0000-a-ring");
    assert_eq!(first, format!("{}\n", done.join("best.png").display()));
    let mut said = vec![0; 1];
    stderr.read_exact(&mut said).expect("the second prompt's warning");
    let mut folders = fs::read_dir(&out).expect("folders").map(|e| e.expect("an entry").path());
    let running = folders.find(|path| *path != done).expect("the second prompt's folder");
    assert_eq!(record_of(&running)["status"], "running");
    assert_eq!(record_of(&done)["status"], "finished");
    assert!(done.join("best.png").is_file() && done.join("particles/001.png").is_file());

    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill starts").success());
    stderr.read_to_end(&mut said).expect("the rest of stderr");
    let mut more = String::new();
    stdout.read_to_string(&mut more).expect("the rest of standard output");
    let code = child.wait().expect("the program ends").code();
    let said = String::from_utf8_lossy(&said);
    assert_eq!((code, more.as_str()), (Some(130), ""), "{}", &said[said.len().saturating_sub(500)..]);
    assert!(
        said.contains("of prompt 1; what is finished is in"),
        "{}",
        &said[said.len().saturating_sub(500)..]
    );

    assert_eq!(record_of(&done)["status"], "finished");
    assert_eq!(record_of(&running)["status"], "interrupted");
    let steps = lines(&running.join("trace.jsonl"));
    assert!((1..4).contains(&steps.len()), "{} steps", steps.len());
    assert!(!running.join("best.png").exists());
}
