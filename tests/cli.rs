//! The program as a user meets it: good runs leave complete records, bad input gets an error that names the
//! file or flag and the fix, with the documented exit code, and never a panic. Here what a run computes; in
//! `cli/` what it leaves, says, foretells and refuses.

#[path = "cli/baselines.rs"]
mod baselines;
#[path = "cli/check.rs"]
mod check;
#[path = "cli/compare.rs"]
mod compare;
#[path = "cli/eval.rs"]
mod eval;
#[path = "cli/formats.rs"]
mod formats;
#[path = "cli/inspect.rs"]
mod inspect;
#[path = "common/lpips.rs"]
mod lpips;
#[path = "cli/normalise.rs"]
mod normalise;
#[path = "cli/optimize.rs"]
mod optimize;
#[path = "cli/pareto.rs"]
mod pareto;
#[path = "cli/plan.rs"]
mod plan;
#[path = "cli/populations.rs"]
mod populations;
#[path = "cli/preview.rs"]
mod preview;
#[path = "cli/record.rs"]
mod record;
#[path = "cli/refusal.rs"]
mod refusal;
#[path = "cli/runs.rs"]
mod runs;
#[path = "cli/shell.rs"]
mod shell;
#[cfg(unix)]
#[path = "cli/spread.rs"]
mod spread;
#[path = "cli/streams.rs"]
mod streams;
#[cfg(unix)]
#[path = "cli/survive.rs"]
mod survive;
#[path = "cli/toy.rs"]
mod toy;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use das_cuda::assets::SHAPES_FILES;
use das_cuda::run::sha256_file;
use serde_json::Value;
use tempfile::TempDir;

/// The program, which sees no GPU whatever this machine has.
fn program() -> Command {
    let mut command = Command::cargo_bin("das-cuda").expect("the program is built with its tests");
    // No test asks the network.
    command.env("CUDA_VISIBLE_DEVICES", "").env("HF_HUB_OFFLINE", "1");
    command
}

/// `sample -o out` and `more`, at its smallest: 2 particles, 2 steps, on the CPU, where `more` says nothing
/// else.
fn arguments(out: &Path, more: &[&str]) -> Vec<OsString> {
    let mut all: Vec<OsString> = vec!["sample".into(), "-o".into(), out.into()];
    all.extend(more.iter().map(OsString::from));
    for (flag, value) in [("--particles", "2"), ("--steps", "2"), ("--device", "cpu")] {
        if !more.contains(&flag) {
            all.extend([flag, value].map(OsString::from));
        }
    }
    all
}

/// The same, run without progress.
fn sample(out: &Path, more: &[&str]) -> Output {
    program().args(arguments(out, more)).arg("-q").output().expect("the program starts")
}

fn run(args: &[&str]) -> Output {
    program().args(args).output().expect("the program starts")
}

#[track_caller]
fn succeeds(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "exit {:?}: {errors}", output.status.code());
    String::from_utf8(output.stdout).expect("standard output is UTF-8")
}

/// Exit code `code`, an error that says every one of `words` and offers a fix; where clap speaks, that is its
/// help.
#[track_caller]
fn fails(output: Output, code: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in: {text}");
    }
    let claps = code == 2 && text.contains("try '--help'");
    assert!(text.contains("fix:") || claps, "no fix offered in: {text}");
}

/// The embedded model as a folder, to be damaged.
fn model() -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("a temporary folder");
    let root = dir.path().join("model");
    for (name, bytes) in SHAPES_FILES {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, bytes).expect("files");
    }
    (dir, root)
}

/// The names of the folders under `out`, in order.
fn folders(out: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(out)
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// The one folder under `out`.
fn only_folder(out: &Path) -> PathBuf {
    let folders: Vec<_> =
        fs::read_dir(out).expect("an output folder").map(|e| e.expect("an entry").path()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    folders[0].clone()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text.trim()).expect("JSON")
}

/// `run.json` of a prompt's folder.
fn record_of(folder: &Path) -> Value {
    json(&fs::read_to_string(folder.join("run.json")).expect("run.json"))
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a JSONL file");
    text.lines().map(json).collect()
}

/// The program with the signals of a terminal as they are by default. A script's background job hands on
/// SIGINT ignored, and what is ignored stays so: without this, what a test sees would depend on how it was
/// started.
#[cfg(unix)]
fn interruptible() -> std::process::Command {
    let mut command = std::process::Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM", env!("CARGO_BIN_EXE_das-cuda")]);
    command
}

#[test]
fn the_same_seed_gives_the_same_bytes_whatever_the_micro_batch() {
    let dir = TempDir::new().expect("a temporary folder");
    let mut pictures = Vec::new();
    for (name, more) in [("a", vec![]), ("b", vec!["--micro-batch", "1"]), ("c", vec!["--seed", "7"])] {
        let out = dir.path().join(name);
        let mut args = vec!["-p", "a ring"];
        args.extend(more);
        succeeds(sample(&out, &args));
        pictures.push(fs::read(only_folder(&out).join("best.png")).expect("best.png"));
    }
    assert!(pictures[0] == pictures[1], "the micro-batch changed the result");
    assert!(pictures[0] != pictures[2], "the seed changed nothing");
}

#[test]
fn several_prompts_give_what_each_gives_alone() {
    let dir = TempDir::new().expect("a temporary folder");
    let (both, alone) = (dir.path().join("both"), dir.path().join("alone"));
    let printed = succeeds(sample(&both, &["-p", "a ring", "-p", "a cross", "--json"]));
    let objects: Vec<Value> = printed.lines().map(json).collect();
    assert_eq!(objects.len(), 2);
    succeeds(sample(&alone, &["-p", "a ring"]));
    let read = |out: &Path| fs::read(out.join("0000-a-ring/particles/001.png")).expect("a particle");
    assert!(read(&both) == read(&alone), "company changed a particle");
}

#[test]
fn saved_latents_can_start_another_run() {
    let dir = TempDir::new().expect("a temporary folder");
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    succeeds(sample(&first, &["-p", "a ring", "--save-latents"]));
    let latents = only_folder(&first).join("latents.safetensors");
    let path = text(&latents);
    succeeds(sample(&second, &["-p", "a ring", "--latents", path]));
    let record = record_of(&only_folder(&second));
    assert_eq!(record["latents_sha256"], sha256_file(&latents).expect("a hash"));
    let wrong = sample(&dir.path().join("third"), &["-p", "a ring", "--latents", path, "--particles", "3"]);
    fails(wrong, 2, &["[2, 4, 8, 8]", "[3, 4, 8, 8]", "--particles 2"]);
    let best_of = ["-p", "a ring", "--latents", path, "--proposal", "best-of-n"];
    fails(sample(&dir.path().join("best"), &best_of), 2, &["so many chains cost what 2 particles"]);
    let wide = sample(&dir.path().join("wide"), &["-p", "a ring", "--latents", path, "-W", "128"]);
    fails(wide, 2, &["[2, 4, 8, 16]", "-W"]);
    fails(sample(&dir.path().join("x"), &["-p", "a", "--latents", "nowhere.safetensors"]), 1, &["nowhere"]);
}

#[test]
fn odd_prompts_get_safe_names_and_keep_their_text() {
    let dir = TempDir::new().expect("a temporary folder");
    let long = "red star ".repeat(556);
    for (name, prompt) in [("a", "../../etc/passwd"), ("b", "⭐🔴 星"), ("c", long.as_str()), ("d", "")] {
        let out = dir.path().join(name);
        succeeds(sample(&out, &["-p", prompt]));
        let run = only_folder(&out);
        let folder = run.file_name().expect("a name").to_str().expect("UTF-8");
        assert!(folder.is_ascii() && folder.len() <= 45, "{folder}");
        assert_eq!(record_of(&run)["prompt"], prompt);
    }
}

#[test]
fn every_proposal_runs_and_jpeg_is_refused_where_gradients_are_needed() {
    let dir = TempDir::new().expect("a temporary folder");
    for proposal in ["das", "twisted", "tds", "bootstrap", "none", "best-of-n"] {
        succeeds(sample(&dir.path().join(proposal), &["-p", "a star", "--proposal", proposal]));
    }
    let read = |name: &str| fs::read(dir.path().join(name).join("0000-a-star/best.png")).expect("best.png");
    assert!(read("das") == read("twisted"), "two names of one method");
    for proposal in ["bootstrap", "best-of-n"] {
        let out = dir.path().join(format!("jpeg-{proposal}"));
        succeeds(sample(&out, &["-p", "a star", "--proposal", proposal, "--reward", "jpeg"]));
    }
    let refused = sample(&dir.path().join("no"), &["-p", "a star", "--reward", "jpeg"]);
    fails(refused, 2, &["jpeg", "--proposal bootstrap"]);
}

#[test]
fn every_other_choice_runs() {
    let dir = TempDir::new().expect("a temporary folder");
    let choices: &[&[&str]] = &[
        &["--tempering", "poly:2"],
        &["--tempering", "adaptive"],
        &["--tempering", "none"],
        &["--tempering-start", "0.5"],
        &["--resample", "residual", "--ess-threshold", "1"],
        &["--cfg-scale", "1"],
        &["--eta", "0.5"],
        &["--dtype", "bf16"],
        &["--checkpointing", "on"],
        &["--save", "none", "--no-grid"],
        &["--reward", "aesthetic=1", "--reward", "clip=0.5"],
        &["-n", "blue", "--kl", "0.1"],
        &["--particles", "1"],
        &["--steps", "1"],
    ];
    for (i, choice) in choices.iter().enumerate() {
        let args = [&["-p", "a star"], *choice].concat();
        succeeds(sample(&dir.path().join(i.to_string()), &args));
    }
}

#[test]
fn prompts_come_from_files() {
    let dir = TempDir::new().expect("a temporary folder");
    let (plain, objects) = (dir.path().join("p.txt"), dir.path().join("p.jsonl"));
    fs::write(&plain, "a ring\n\na cross\n").expect("written");
    fs::write(
        &objects,
        "{\"prompt\": \"a ring\"}\n{\"prompt\": \"a cross\", \"negative_prompt\": \"red\"}\n",
    )
    .expect("written");
    for (name, file, negatives) in [("a", &plain, ["blue", "blue"]), ("b", &objects, ["blue", "red"])] {
        let out = dir.path().join(name);
        succeeds(sample(&out, &["--prompts", text(file), "-n", "blue", "--proposal", "none"]));
        for (folder, prompt, negative) in
            [("0000-a-ring", "a ring", negatives[0]), ("0001-a-cross", "a cross", negatives[1])]
        {
            let record = record_of(&out.join(folder));
            assert_eq!((&record["prompt"], &record["negative_prompt"]), (&prompt.into(), &negative.into()));
        }
    }
    let read = |out: &str| fs::read(dir.path().join(out).join("0001-a-cross/best.png")).expect("best.png");
    assert!(read("a") != read("b"), "the negative prompt of a line changed nothing");
}

#[test]
fn a_model_folder_gives_what_the_embedded_model_gives() {
    let (dir, root) = model();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let head = root.join("aesthetic/model.safetensors");
    let reward = format!("aesthetic:{},{}", root.join("clip").display(), head.display());
    // The settings for the embedded model are not those of a folder.
    let same = ["-p", "a star", "--no-metadata", "--kl", "0.1", "--candidates", "3", "--gradient", "clean"];
    succeeds(sample(&a, &same));
    succeeds(sample(&b, &[&same[..], &["-m", text(&root), "--reward", &reward]].concat()));
    let read = |out: &Path| fs::read(out.join("0000-a-star/best.png")).expect("best.png");
    assert!(read(&a) == read(&b), "the folder's pictures differ from the embedded model's");
}
