//! Runs that are killed, interrupted and ended early go on to the same bytes. The whole attack, 200 kills:
//!
//! ```text
//! cargo test --test cli survive::two_hundred_kills -- --ignored --nocapture
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use das_cuda::noise::philox;
use das_cuda::run::{encode_checkpoint, read_checkpoint};
use serde_json::{Map, Value};
use tempfile::TempDir;

use super::{fails, json, lines, record_of, succeeds, text};

/// Everything that carries state from step to step.
pub const CASES: &[&[&str]] = &[
    &["-p", "a ring"],
    &["-p", "a ring", "--proposal", "tds"],
    &["-p", "a ring", "--proposal", "bootstrap", "--tempering", "adaptive", "--ess-threshold", "0.9"],
    &["-p", "a ring", "--proposal", "none"],
    &["-p", "a ring", "--proposal", "best-of-n"],
    &["-p", "a ring", "--populations", "3", "--save-latents"],
    &["-p", "a ring", "--candidates", "3", "--populations", "2"],
    &["-p", "a ring", "--gradient-every", "3", "--kl", "0.1"],
    &["-p", "a ring", "-p", "a cross", "--count", "2", "--steps", "3"],
    &["-p", "a ring", "--compat", "reference", "--resample", "multinomial", "--gradient-every", "1"],
    &[
        "-p",
        "a ring",
        "-p",
        "a star",
        "--normalise",
        "std",
        "--normalise-pictures",
        "2",
        "--eval-reward",
        "gold",
    ],
    &["-p", "a ring", "--tempering-start", "0.5", "--gradient", "state", "--cfg-scale", "1"],
];

/// `sample -o out` in a folder of its own, with a checkpoint after every step.
fn command(home: &Path, args: &[&str], more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_das-cuda"));
    command.env("CUDA_VISIBLE_DEVICES", "").env("HF_HUB_OFFLINE", "1").current_dir(home);
    command.args(["sample", "-o", "out", "-q", "--device", "cpu", "--particles", "2"]);
    if !args.contains(&"--steps") {
        command.args(["--steps", "5"]);
    }
    command.args(["--checkpoint-every", "1"]).args(args).args(more);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn resume(home: &Path, what: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_das-cuda"));
    command.env("CUDA_VISIBLE_DEVICES", "").env("HF_HUB_OFFLINE", "1").current_dir(home);
    command.args(["resume", what, "-q"]).args(more);
    command
}

fn whole(mut command: Command) {
    succeeds(command.output().expect("the program starts"));
}

/// Every file under a folder by its path. Of JSON what depends on when and how often a run was started is
/// left out.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    contents_but(folder, &[])
}

/// The same without these entries of `run.json`.
pub fn contents_but(folder: &Path, entries: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(of) = folders.pop() {
        for entry in fs::read_dir(&of).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).expect("below it").to_string_lossy().into_owned();
            let bytes = match path.file_name().and_then(|name| name.to_str()) {
                Some("run.json") => without(
                    json(&fs::read_to_string(&path).expect("a file")),
                    &[&["command", "directory", "started", "seconds", "resumed", "resume"], entries].concat(),
                ),
                Some("trace.jsonl") => {
                    lines(&path).into_iter().flat_map(|line| without(line, &["ms", "peak_bytes"])).collect()
                }
                _ => fs::read(&path).expect("a file"),
            };
            all.insert(name, bytes);
        }
    }
    all
}

fn without(mut value: Value, keys: &[&str]) -> Vec<u8> {
    let object = value.as_object_mut().expect("an object");
    keys.iter().for_each(|key| drop(object.shift_remove(*key)));
    if let Some(Value::Object(result)) = object.get_mut("result") {
        result.shift_remove("peak_bytes");
    }
    format!("{value}\n").into_bytes()
}

#[track_caller]
fn same(home: &Path, whole: &Path, what: &str) {
    same_contents(contents(&home.join("out")), contents(&whole.join("out")), what);
}

#[track_caller]
pub fn same_contents(found: BTreeMap<String, Vec<u8>>, expected: BTreeMap<String, Vec<u8>>, what: &str) {
    let names = |of: &BTreeMap<String, Vec<u8>>| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{what}: the files");
    for (name, bytes) in expected {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(found[&name] == bytes, "{what}: {name}\n{}\n{}", shown(&found[&name]), shown(&bytes));
    }
}

/// Kills `child` after a time; whether it was still running.
fn kill_after(mut child: Child, time: Duration) -> bool {
    sleep(time);
    let running = child.try_wait().expect("a state").is_none();
    child.kill().expect("a signal");
    child.wait().expect("an end");
    running
}

/// Kills runs of every case in turn, at instants spread over the time that the whole run takes, until so many
/// kills have hit a run that had not ended. Each run is killed a few times, and then ends.
fn attack(kills: usize, seed: u32) {
    const OF_A_RUN: usize = 3;
    const MOST: usize = 20;
    let (mut hit, mut tried) = (0, 0_usize);
    let mut expected: BTreeMap<usize, (TempDir, Duration)> = BTreeMap::new();
    let part = |n: usize| f64::from(philox([n as u32, 0, 0, 0], [seed, 0])[0]) / f64::from(u32::MAX);
    for case in (0..CASES.len()).cycle() {
        assert!(tried < MOST * kills, "only {hit} of {tried} kills hit a run");
        let args = CASES[case];
        let (uninterrupted, time) = expected.entry(case).or_insert_with(|| {
            let home = TempDir::new().expect("a temporary folder");
            let began = Instant::now();
            whole(command(home.path(), args, &[]));
            (home, began.elapsed())
        });
        let home = TempDir::new().expect("a temporary folder");
        for _ in 0..OF_A_RUN {
            // By either command, where there is something to resume.
            let begun = fs::read_dir(home.path().join("out")).is_ok_and(|mut entries| {
                entries.any(|entry| entry.is_ok_and(|entry| entry.path().join("run.json").exists()))
            });
            let mut next = match begun && tried.is_multiple_of(2) {
                true => resume(home.path(), "out", &[]),
                false => command(home.path(), args, &["--resume"]),
            };
            next.stderr(Stdio::null()).stdout(Stdio::null());
            let child = next.spawn().expect("the program starts");
            hit += usize::from(kill_after(child, time.mul_f64(part(tried))));
            tried += 1;
        }
        whole(command(home.path(), args, &["--resume"]));
        same(home.path(), uninterrupted.path(), &format!("{args:?}"));
        if hit >= kills {
            println!("{hit} kills hit a run, of {tried}; all went on to the same bytes");
            break;
        }
    }
}

#[test]
fn a_run_that_is_killed_at_any_instant_goes_on_to_the_same_bytes() {
    attack(12, 1);
}

#[test]
#[ignore = "takes minutes"]
fn two_hundred_kills() {
    attack(200, 2);
}

/// A run that was stopped after some steps by a limit, in `out/0000-a-ring` of a folder.
fn stopped(more: &[&str]) -> (TempDir, PathBuf) {
    let home = TempDir::new().expect("a temporary folder");
    // Four evaluations a step, and four to foresee the end after the second.
    let limited = command(home.path(), &["-p", "a ring"], &[&["--max-nfe", "12"], more].concat());
    fails(
        { limited }.output().expect("the program starts"),
        6,
        &["--max-nfe 12 is reached, after step 2 of 5", "das-cuda resume out"],
    );
    let folder = home.path().join("out/0000-a-ring");
    (home, folder)
}

fn output(mut command: Command) -> Output {
    command.output().expect("the program starts")
}

/// The evaluations of the whole run, of its first prompt.
fn evaluations(home: &Path) -> u64 {
    let mut folders: Vec<_> =
        fs::read_dir(home.join("out")).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    folders.sort();
    record_of(&folders[0])["unet_evaluations"].as_u64().expect("a number")
}

/// Of every case: after a limit there are pictures and records of what there was, and `resume` makes of them
/// what there would have been.
#[test]
fn a_run_that_reached_a_limit_has_its_best_so_far_and_goes_on_to_the_same_bytes() {
    for args in CASES {
        let (uninterrupted, home) =
            (TempDir::new().expect("a temporary folder"), TempDir::new().expect("a temporary folder"));
        whole(command(uninterrupted.path(), args, &[]));
        // Two plain pictures of five steps and two branches.
        let measured = if args.contains(&"--normalise") { 20 } else { 0 };
        let most = (measured + evaluations(uninterrupted.path()) * 7 / 10).to_string();
        let limited = command(home.path(), args, &["--max-nfe", &most]).output().expect("the program starts");
        fails(limited, 6, &["--max-nfe", "is reached", "das-cuda resume"]);
        let folder = fs::read_dir(home.path().join("out")).expect("a folder").next().expect("a run");
        let folder = folder.expect("an entry").path();
        let record = record_of(&folder);
        assert_eq!((&record["status"], &record["stopped"]), (&"interrupted".into(), &"max_nfe".into()));
        assert!(record["result"]["reward"].is_number(), "{args:?}: {record}");
        let particles = lines(&folder.join("particles.jsonl"));
        assert!(!particles.is_empty() && particles.iter().any(|line| line["is_best"] == true));
        assert!(folder.join("best.png").exists() && folder.join("checkpoint.safetensors").exists());
        whole(resume(home.path(), text(&folder), &[]));
        let record = record_of(&folder);
        assert_eq!(record["resumed"].as_array().map(Vec::len), Some(1));
        assert_ne!(record["resumed"][0]["step"], 0, "{args:?}: it began anew");
        // Prompts that had not begun.
        whole(command(home.path(), args, &["--resume"]));
        let (found, mut expected) =
            (contents(&home.path().join("out")), contents(&uninterrupted.path().join("out")));
        // The limit stays in the record of the run that it ended.
        let limit = format!("\"max_nfe\":{most}");
        let of_limit = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&limit, "\"max_nfe\":null");
        for (name, bytes) in found {
            let there = expected.remove(&name).unwrap_or_else(|| panic!("{args:?}: {name} is new"));
            assert!(
                bytes == there || of_limit(&bytes) == of_limit(&there),
                "{args:?}: {name}\n{}\n{}",
                of_limit(&bytes),
                of_limit(&there)
            );
        }
        assert!(expected.is_empty(), "{args:?}: missing {:?}", expected.keys());
    }
}

#[test]
fn a_run_that_ran_out_of_time_says_so_and_goes_on_without_the_limit() {
    let home = TempDir::new().expect("a temporary folder");
    // Over before the first step.
    let none = output(command(home.path(), &["-p", "a ring"], &["--max-seconds", "1e-9"]));
    fails(none, 6, &["--max-seconds 0.000000001 is reached, before prompt 0 takes a step"]);
    assert!(!home.path().join("out").exists(), "a folder without anything in it");
    for (flags, says) in [
        (["--max-seconds", "0"], "--max-seconds 0 is no number above 0"),
        (["--max-seconds", "nan"], "--max-seconds"),
        (["--max-nfe", "0"], "--max-nfe 0"),
        (["--max-nfe", "-1"], "--max-nfe"),
        (["--seed=-1", "--resume"], "--resume"),
        (["--overwrite", "--resume"], "--resume"),
    ] {
        fails(output(command(home.path(), &["-p", "a ring"], &flags)), 2, &[says]);
    }
    let (home, folder) = stopped(&[]);
    fails(output(resume(home.path(), "out", &["--max-nfe", "1"])), 6, &["--max-nfe 1"]);
    assert_eq!(record_of(&folder)["stopped"], "max_nfe", "what was there stays");
    let answer = json(&succeeds(output(resume(home.path(), "out", &["--json"]))));
    assert_eq!((&answer["prompt"], &answer["index"]), (&"a ring".into(), &0.into()));
    assert!(!folder.join("checkpoint.safetensors").exists());
    // And again: nothing is left to do.
    assert_eq!(succeeds(output(resume(home.path(), "out", &[]))), "");
    let printed = output({
        let mut again = command(home.path(), &["-p", "a ring"], &["--resume"]);
        again.stdout(Stdio::piped());
        again
    });
    assert_eq!(succeeds(printed).trim(), "out/0000-a-ring/best.png");
}

#[test]
fn what_is_no_checkpoint_of_the_run_is_refused_and_says_why() {
    let (home, folder) = stopped(&[]);
    let file = folder.join("checkpoint.safetensors");
    let whole_file = fs::read(&file).expect("a checkpoint");
    let (about, parts) = read_checkpoint(&file).expect("a checkpoint").expect("a file");
    let refused = |code, words: &[&str]| fails(output(resume(home.path(), "out", &[])), code, words);
    for damaged in [&whole_file[..whole_file.len() / 2], &whole_file[..0], b"no checkpoint"] {
        fs::write(&file, damaged).expect("it can be written");
        refused(1, &["checkpoint.safetensors", "damaged", "remove the file"]);
    }
    let changed = |change: &dyn Fn(&mut Map<String, Value>)| {
        let mut about = about.clone();
        change(&mut about);
        fs::write(&file, encode_checkpoint(&about, &parts).expect("bytes")).expect("it can be written");
    };
    changed(&|about| about["version"] = "9.9.9".into());
    refused(2, &["checkpoint.safetensors", "das-cuda 9.9.9", "go on with that version"]);
    changed(&|about| about["run"]["seed"] = 43.into());
    refused(2, &["checkpoint.safetensors", "seed was 43 and is 42"]);
    fs::write(&file, &whole_file).expect("it can be written");
    // A record of a later program.
    let record = fs::read_to_string(folder.join("run.json")).expect("a record");
    let later = record.replacen("\"schema\": 1", "\"schema\": 2", 1);
    assert_ne!(later, record);
    fs::write(folder.join("run.json"), later).expect("it can be written");
    refused(2, &["run.json", "layout 2, and this program knows layout 1"]);
    fs::write(folder.join("run.json"), record).expect("it can be written");
    // A trace that was cut.
    let trace = fs::read(folder.join("trace.jsonl")).expect("a trace");
    fs::write(folder.join("trace.jsonl"), &trace[..trace.len() / 2]).expect("it can be written");
    refused(1, &["trace.jsonl"]);
    fs::write(folder.join("trace.jsonl"), &trace).expect("it can be written");
    // Other options find nothing to go on with, touch nothing, and say of the same prompt and seed what
    // differs.
    let silent = output(command(home.path(), &["-p", "a ring", "--seed", "7"], &["--resume"]));
    assert!(silent.status.success() && silent.stderr.is_empty(), "{silent:?}");
    let other = output(command(home.path(), &["-p", "a ring", "--kl", "0.1"], &["--resume"]));
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    let what = "out/0000-a-ring: a run of this prompt that has not finished is left alone, since it is another: kl was";
    assert!(other.status.success() && said.contains(what), "{said}");
    assert!(home.path().join("out/0002-a-ring").exists() && fs::read(&file).expect("there") == whole_file);
    // One process at a time.
    let lock = fs::File::open(&folder).expect("a folder");
    lock.lock().expect("a lock");
    refused(2, &["another run is writing this folder"]);
    fails(output(command(home.path(), &["-p", "a ring"], &["--resume"])), 2, &["another run is writing"]);
    drop(lock);
    // A folder of another place goes on as well.
    let moved = home.path().join("moved");
    fs::rename(home.path().join("out"), &moved).expect("it can be moved");
    whole(resume(home.path(), text(&moved.join("0000-a-ring/run.json")), &[]));
    let uninterrupted = TempDir::new().expect("a temporary folder");
    whole(command(uninterrupted.path(), &["-p", "a ring"], &[]));
    let picture = |folder: &Path| fs::read(folder.join("0000-a-ring/best.png")).expect("a picture");
    assert!(picture(&moved) == picture(&uninterrupted.path().join("out")));
    fails(output(resume(home.path(), "nowhere", &[])), 1, &["nowhere"]);
    fs::create_dir(home.path().join("empty")).expect("a folder");
    fails(output(resume(home.path(), "empty", &[])), 2, &["there is no run in it"]);
}

/// By itself a short run leaves a checkpoint where a signal ends it.
#[test]
fn a_signal_leaves_a_checkpoint() {
    let (home, uninterrupted) =
        (TempDir::new().expect("a temporary folder"), TempDir::new().expect("a temporary folder"));
    let start = |home: &Path| {
        let mut command = super::interruptible();
        command.env("CUDA_VISIBLE_DEVICES", "").env("HF_HUB_OFFLINE", "1").current_dir(home);
        command.args(["sample", "-p", "a ring", "-o", "out", "-q", "--device", "cpu"]);
        command.args(["--particles", "2", "--steps", "300", "--cfg-scale", "1"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    whole(start(uninterrupted.path()));
    let child = start(home.path()).spawn().expect("the program starts");
    let folder = home.path().join("out/0000-a-ring");
    while !fs::read(folder.join("trace.jsonl")).is_ok_and(|text| !text.is_empty()) {
        sleep(Duration::from_millis(2));
    }
    let signalled = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(signalled.expect("kill").success());
    let ended = child.wait_with_output().expect("an end");
    assert_eq!(ended.status.code(), Some(143), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(record_of(&folder)["status"], "interrupted");
    assert!(folder.join("checkpoint.safetensors").exists());
    whole(resume(home.path(), "out", &[]));
    assert_ne!(record_of(&folder)["resumed"][0]["step"], 0);
    same(home.path(), uninterrupted.path(), "after a signal");
}

/// A run with --overwrite waits in a hidden folder beside the result that it is to replace.
#[test]
fn a_run_that_was_to_replace_another_does_so_when_it_goes_on() {
    let (home, folder) = stopped(&["--seed", "7"]);
    let hidden = home.path().join("out/.0000-a-ring.part");
    fs::rename(&folder, &hidden).expect("it can be moved");
    whole(command(home.path(), &["-p", "a ring"], &[]));
    assert_eq!(record_of(&folder)["seed"], 42);
    whole(resume(home.path(), "out", &[]));
    assert!(!hidden.exists() && super::folders(&home.path().join("out")) == ["0000-a-ring"]);
    let record = record_of(&folder);
    assert_eq!((&record["seed"], &record["status"]), (&7.into(), &"finished".into()));
}

#[test]
fn a_model_that_has_changed_is_refused_by_its_file() {
    let (dir, _) = super::model();
    let args = ["-m", "model", "--reward", "gold", "--proposal", "bootstrap"];
    let args = [&["-p", "a ring"][..], &args].concat();
    let limited = output(command(dir.path(), &args, &["--max-nfe", "13"]));
    fails(limited, 6, &["--max-nfe 13 is reached"]);
    let file = dir.path().join("model/scheduler/scheduler_config.json");
    let before = fs::read_to_string(&file).expect("a file");
    fs::write(&file, format!("{before} ")).expect("it can be written");
    let refused = output(resume(dir.path(), "out", &[]));
    fails(refused, 2, &["the model's file scheduler/scheduler_config.json has changed"]);
    fs::rename(dir.path().join("model"), dir.path().join("elsewhere")).expect("it can be moved");
    fails(output(resume(dir.path(), "out", &[])), 3, &["model"]);
    fs::rename(dir.path().join("elsewhere"), dir.path().join("model")).expect("it can be moved");
    fs::write(&file, before).expect("it can be written");
    // From elsewhere: relative paths are of the directory that the run began in.
    let other = TempDir::new().expect("a temporary folder");
    whole(resume(other.path(), text(&dir.path().join("out")), &[]));
    let picture = dir.path().join("out/0000-a-ring/best.png");
    let replay = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_das-cuda"));
        command.env("CUDA_VISIBLE_DEVICES", "").current_dir(dir.path());
        output({
            command.args(["replay", text(&picture)]).args(more);
            command
        })
    };
    assert!(succeeds(replay(&[])).contains("best.png: the bytes agree"));
    fs::write(&file, format!("{} ", fs::read_to_string(&file).expect("a file"))).expect("written");
    fails(replay(&[]), 3, &["the model's file scheduler/scheduler_config.json has changed"]);
}

#[test]
fn a_replay_says_whether_the_bytes_agree() {
    let home = TempDir::new().expect("a temporary folder");
    let replay = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_das-cuda"));
        command.env("CUDA_VISIBLE_DEVICES", "").current_dir(home.path());
        command.arg("replay").args(more);
        output(command)
    };
    for (number, args) in CASES.iter().enumerate().filter(|(_, args)| !args.contains(&"--count")) {
        let args: Vec<String> =
            args.iter().map(|arg| arg.replace("a ring", &format!("ring {number}"))).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let home = TempDir::new().expect("a temporary folder");
        whole(command(home.path(), &args, &[]));
        let folder = home.path().join(format!("out/0000-ring-{number}"));
        for source in
            [folder.join("best.png"), folder.join("grid.png"), folder.join("run.json"), folder.clone()]
        {
            let out = home.path().join("again");
            let said = succeeds(replay(&[text(&source), "-q", "-o", text(&out)]));
            assert!(
                !said.is_empty() && said.lines().all(|line| line.ends_with(": the bytes agree")),
                "{args:?}: {said}"
            );
        }
    }
    whole(command(home.path(), &["-p", "a ring"], &[]));
    let source = "out/0000-a-ring/best.png";
    for (changes, says) in [
        (&["--seed", "7"][..], "the pictures differ, in "),
        (&["--proposal", "none"], "the pictures differ, in "),
        (&["--micro-batch", "1"], "the bytes agree"),
        (&["-W", "128"], "a picture of another size"),
        // The value that it has anyway, in other words.
        (&["--reward", "aesthetic=1.0", "--eval-reward", "gold"], "the pixels agree, and the texts"),
    ] {
        let said = succeeds(replay(&[&[source, "-q"], changes].concat()));
        assert!(said.contains(says), "{changes:?}: {said}");
    }
    // A run that wrote fewer files is compared in those.
    whole(command(home.path(), &["-p", "a disk"], &["--save", "best"]));
    let said = succeeds(replay(&["out/0001-a-disk", "-q"]));
    let particles = "particles.jsonl: the particles agree; their pictures were not written both times\n";
    assert_eq!(said, format!("out/0001-a-disk/best.png: the bytes agree\nout/0001-a-disk/{particles}"));
    whole(command(home.path(), &["-p", "a cross"], &["--save", "none"]));
    assert_eq!(succeeds(replay(&["out/0002-a-cross", "-q"])), format!("out/0002-a-cross/{particles}"));
    let fewer = replay(&["out/0000-a-ring/grid.png", "-q", "--save", "best"]);
    fails(fewer, 2, &["nothing of it was compared"]);
    fs::write(home.path().join("alone.json"), record_of(&home.path().join("out/0000-a-ring")).to_string())
        .expect("it can be written");
    fs::create_dir(home.path().join("alone")).expect("a folder");
    fs::rename(home.path().join("alone.json"), home.path().join("alone/record")).expect("it can be moved");
    fails(replay(&["alone/record"]), 1, &["alone/record", "none of the run's files is beside it"]);
    // One that a limit ended has no result of its own.
    let (stopped, folder) = stopped(&[]);
    fails(replay(&[text(&folder), "-q"]), 2, &["interrupted", "das-cuda resume"]);
    let picture = folder.join("best.png");
    fails(replay(&[text(&picture), "-q"]), 2, &["best.png", "\"max_nfe\" had ended", "das-cuda resume"]);
    drop(stopped);
    // Without a change another result is an error.
    let picture = home.path().join(source);
    let other = home.path().join("replay/0000-a-ring/best.png");
    let mut record = record_of(&home.path().join("out/0000-a-ring"));
    record["seed"] = 8.into();
    let edited = home.path().join("out/0000-a-ring/run.json");
    fs::write(&edited, record.to_string()).expect("it can be written");
    fails(replay(&[text(&edited), "-q"]), 5, &["is another result", "version"]);
    let later = fs::read_to_string(&edited).expect("a record").replacen("\"schema\":1", "\"schema\":2", 1);
    fs::write(home.path().join("later.json"), later).expect("it can be written");
    fails(replay(&["later.json", "-q"]), 2, &["later.json", "layout 2"]);
    assert!(picture.exists() && other.exists());
    fails(replay(&["nowhere.png"]), 1, &["nowhere.png"]);
    fails(replay(&[source, "--nonsense"]), 2, &["--nonsense"]);
    fs::write(home.path().join("no.json"), "{}").expect("it can be written");
    fails(replay(&["no.json"]), 1, &["no record of a run"]);
}

/// Checks what a run left whose files found no room: everything that is there is whole.
fn left(out: &Path) -> usize {
    let mut finished = 0;
    for entry in fs::read_dir(out).into_iter().flatten() {
        let folder = entry.expect("an entry").path();
        for name in ["trace.jsonl", "particles.jsonl"] {
            if folder.join(name).exists() {
                lines(&folder.join(name));
            }
        }
        if folder.join("run.json").exists() {
            let record = record_of(&folder);
            finished += usize::from(record["status"] == "finished");
        }
        let parts = fs::read_dir(&folder).into_iter().flatten();
        let parts =
            parts.filter(|e| e.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().contains(".part")));
        assert_eq!(parts.count(), 0, "parts of files in {}", folder.display());
    }
    finished
}

/// A limit on the size of files is met at one file after another.
#[test]
fn a_file_that_finds_no_room_ends_the_run_and_is_named() {
    let args = ["-p", "a ring", "--save-latents"];
    let uninterrupted = TempDir::new().expect("a temporary folder");
    whole(command(uninterrupted.path(), &args, &[]));
    let mut named = BTreeMap::new();
    for blocks in 0.. {
        let home = TempDir::new().expect("a temporary folder");
        let run = command(home.path(), &args, &[]);
        let mut limited = Command::new("sh");
        limited.current_dir(home.path()).env("CUDA_VISIBLE_DEVICES", "").env("HF_HUB_OFFLINE", "1");
        limited.args(["-c", &format!("ulimit -f {blocks}; exec \"$0\" \"$@\"")]);
        limited.arg(run.get_program()).args(run.get_args());
        let ended = output(limited);
        if ended.status.success() {
            break;
        }
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        let file = ["run.json", "trace.jsonl", "checkpoint", "png", "particles.jsonl", "latents", "out"];
        let file = file.into_iter().find(|name| said.contains(name)).expect("a name");
        *named.entry(file).or_insert(0) += 1;
        fails(ended, 1, &["cannot be"]);
        left(&home.path().join("out"));
        whole(command(home.path(), &args, &["--resume"]));
        same(home.path(), uninterrupted.path(), &said);
    }
    assert!(named.len() >= 3, "the limit was met at {named:?} only");
}

/// A file system that is full, at one write after another of a list.
#[test]
fn a_full_disk_ends_the_run_and_what_was_finished_stays() {
    let mount = "mount -t tmpfs -o size=${SIZE}k none room && cp -a start/. room/ && cd room";
    let probe = TempDir::new().expect("a temporary folder");
    for name in ["room", "start"] {
        fs::create_dir(probe.path().join(name)).expect("a folder");
    }
    let inside = |home: &Path, size: usize, script: &str| {
        let mut command = Command::new("unshare");
        command.current_dir(home).env("SIZE", size.to_string());
        command.env("CUDA_VISIBLE_DEVICES", "").env("HF_HUB_OFFLINE", "1");
        command.args(["-rm", "sh", "-c", &format!("{mount} && {script}")]);
        command
    };
    if !inside(probe.path(), 64, "true").output().is_ok_and(|o| o.status.success()) {
        println!("SKIPPED: no file system can be mounted here (unshare -rm)");
        return;
    }
    let args = ["-p", "a ring", "-p", "a cross", "--steps", "2"];
    let uninterrupted = TempDir::new().expect("a temporary folder");
    whole(command(uninterrupted.path(), &args, &[]));
    let (mut full, mut kept) = (0, 0);
    for size in (16..).step_by(24) {
        let home = TempDir::new().expect("a temporary folder");
        for name in ["room", "start", "saved"] {
            fs::create_dir(home.path().join(name)).expect("a folder");
        }
        let run = command(home.path(), &args, &[]);
        let mut limited = inside(home.path(), size, "\"$0\" \"$@\"; code=$?; cp -a . ../saved; exit $code");
        limited.arg(run.get_program()).args(run.get_args());
        let ended = output(limited);
        if ended.status.success() {
            break;
        }
        full += 1;
        fails(ended, 1, &["No space left on device"]);
        let saved = home.path().join("saved");
        kept += left(&saved.join("out"));
        whole(command(&saved, &args, &["--resume"]));
        same(&saved, uninterrupted.path(), &format!("{size} KiB"));
    }
    assert!(full > 1 && kept > 0, "{full} disks were full, and {kept} results were kept");
}
