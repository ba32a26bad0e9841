//! What is refused: bad options, output and files, each with its exit code, the culprit's name and a fix.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use super::{fails, lines, model, only_folder, program, record_of, run, sample, succeeds, text};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// Runs with a model damaged by `damage`.
fn with_damage(damage: impl FnOnce(&Path)) -> Output {
    let (dir, root) = model();
    damage(&root);
    sample(&dir.path().join("out"), &["-p", "a star", "-m", text(&root)])
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON");
    edit(&mut value);
    fs::write(path, value.to_string()).expect("written");
}

#[test]
fn bad_options_are_usage_errors() {
    let dir = TempDir::new().expect("a temporary folder");
    let empty = dir.path().join("empty.txt");
    fs::write(&empty, "\n\n").expect("written");
    let empty = text(&empty);
    let cases: &[(&[&str], &str)] = &[
        (&[], "-p"),
        (&["-p", "a", "--particles", "0"], "--particles"),
        (&["-p", "a", "--populations", "0"], "--populations"),
        (&["-p", "a", "--populations=-1"], "--populations"),
        (&["-p", "a", "--populations", "1048576"], "--populations"),
        (&["-p", "a", "--populations", "2", "--latents", "x.safetensors"], "not independent"),
        (&["-p", "a", "--steps", "0"], "--steps"),
        (&["-p", "a", "--embedding", ""], "--embedding"),
        (&["-p", "a", "--embedding", "=cat.pt"], "the name \"\" is empty"),
        (&["-p", "a", "--embedding", "c\u{7}at=cat.pt"], "a control character"),
        (&["-p", "a", "--embedding", "cat="], "no path"),
        (&["-p", "a", "--long-prompts", "wrap"], "--long-prompts"),
        (&["-p", "a", "--steps", "5000"], "--steps"),
        (&["-p", "a", "--kl", "0"], "--kl"),
        (&["-p", "a", "--kl", "nan"], "--kl"),
        (&["-p", "a", "--eta", "0"], "--eta"),
        (&["-p", "a", "--cfg-scale=-1"], "--cfg-scale"),
        (&["-p", "a", "--threads", "0"], "--threads"),
        (&["-p", "a", "--count", "0"], "--count"),
        (&["-p", "a", "--seed", "-2"], "--seed"),
        (&["-p", "a", "-p", "b", "--first-index", "268435455"], "--first-index"),
        (&["-p", "a", "--on-nan", "ignore"], "abort"),
        (&["-p", "a", "--overwrite", "--skip-finished"], "--skip-finished"),
        (&["-p", "a", "--ess-threshold", "2"], "--ess-threshold"),
        (&["-p", "a", "--candidates", "0.5"], "--candidates"),
        (&["-p", "a", "--candidates", "nan"], "--candidates"),
        (&["-p", "a", "--candidates", "2000"], "--candidates"),
        (&["-p", "a", "--particles", "2", "--candidates", "1.2"], "leave nobody out"),
        (&["-p", "a", "--thin-at", "1"], "--thin-at"),
        (&["-p", "a", "--candidates", "1", "--thin-at", "0.5"], "--candidates a number above 1"),
        (&["-p", "a", "--candidates", "4", "--tempering", "exp"], "--tempering none"),
        (&["-p", "a", "--candidates", "4", "--tempering-start", "0.2"], "--tempering-start"),
        (&["-p", "a", "--candidates", "4", "--compat", "reference"], "--compat paper"),
        (&["-p", "a", "--tempering", "linear"], "--tempering"),
        (&["-p", "a", "--tempering-start", "1.5"], "--tempering-start"),
        (&["-p", "a", "--tempering-start=-1"], "--tempering-start"),
        (&["-p", "a", "--resample", "bingo"], "ssp"),
        (&["-p", "a", "--reward", "beauty"], "aesthetic"),
        (&["-p", "a", "--reward", "clip=x"], "clip"),
        (&["-p", "a", "--proposal", "none", "--tempering", "exp"], "--tempering"),
        (&["-p", "a", "--device", "tpu"], "--device"),
        (&["-p", "a", "--micro-batch", "0"], "--micro-batch"),
        (&["-p", "a", "-W", "65"], "width"),
        (&["--prompts", empty], "no prompt"),
    ];
    for (args, word) in cases {
        let mut all = vec!["sample", "-q", "-o", text(dir.path())];
        all.extend(*args);
        fails(program().args(&all).output().expect("the program starts"), 2, &[word]);
    }
}

#[test]
fn files_that_cannot_be_read_are_errors_of_files() {
    let dir = TempDir::new().expect("a temporary folder");
    for (option, file) in [("--prompts", "nowhere.txt"), ("--prompts", "."), ("--latents", "nowhere")] {
        fails(sample(&dir.path().join("out"), &["-p", "a", option, file]), 1, &[option, file]);
    }
}

/// A negative number is the value of its option, and not an option that nobody knows.
#[test]
fn negative_numbers_are_refused_with_the_option_named() {
    let dir = TempDir::new().expect("a temporary folder");
    for option in [
        "--steps",
        "--kl",
        "--gamma",
        "--eta",
        "--count",
        "--cfg-scale",
        "--tempering-start",
        "--first-index",
        "--micro-batch",
        "--max-vram",
        "--particles",
        "--threads",
        "--ess-threshold",
        "--width",
        "--height",
        "--max-shift",
        "--gradient-every",
        "--candidates",
        "--thin-at",
        "--weigh-every",
        "--duplicates",
        "--guidance-strength",
        "--time-travel",
    ] {
        let output = sample(&dir.path().join("out"), &["-p", "a star", option, "-5"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("unexpected argument"), "{option}: {said}");
        fails(output, 2, &[option]);
    }
}

#[test]
fn options_without_meaning_are_refused_with_the_fix_named() {
    let dir = TempDir::new().expect("a temporary folder");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--proposal", "none", "--kl", "0.1"], &["--kl", "--proposal das"]),
        (&["--proposal", "none", "--ess-threshold", "0.5"], &["--ess-threshold", "--proposal das"]),
        (&["--proposal", "best-of-n", "--candidates", "4"], &["--candidates", "--proposal das"]),
        (&["--proposal", "none", "--thin-at", "0.4"], &["--thin-at", "--proposal das"]),
        (&["--proposal", "none", "--checkpointing", "on"], &["--checkpointing", "--proposal das"]),
        (&["--proposal", "bootstrap", "--checkpointing", "on"], &["--checkpointing", "--proposal das"]),
        (&["--proposal", "best-of-n", "--ess-threshold", "0.5"], &["--ess-threshold"]),
        (&["-n", "blue", "--cfg-scale", "1"], &["negative prompt \"blue\"", "--cfg-scale above 1"]),
        (&["--eval-reward", "clip=0.5"], &["--eval-reward clip,", "--reward clip=0.5"]),
        (&["--select", "all", "--save", "best"], &["--save all", "--select reward"]),
        (&["-p", "a ring", "-o", "a.png"], &["2 prompts", "-o a"]),
        (&["--select", "all", "-o", "a.png"], &["every particle", "-o a"]),
        (&["--save", "none", "-o", "a.png"], &["--save none", "--save best"]),
        (&["--count", "2", "-o", "a.png"], &["--count 2", "-o a"]),
        (&["-o", "a.jpg"], &["PNG", "-o a.png"]),
        (&["-o", "a.tiff"], &["PNG", "-o a.png"]),
        (&["-o", "y/a.BMP"], &["PNG", "-o y/a.png"]),
        (&["-o", "y/.png"], &["without a name", "-o y/NAME.png"]),
        (&["--seed", "-1", "--skip-finished"], &["--seed -1", "--skip-finished", "give --seed a number"]),
        (&["--seed", "18446744073709551615", "--count", "2"], &["--seed", "--count 2", "smaller number"]),
        (&["--proposal", "none", "--compat", "reference"], &["--compat reference", "--proposal das"]),
        (&["--count", "300000000"], &["1 prompt from", "--count 300000000"]),
        (&["-W", "0"], &["a width of 0 has no pixels", "-W 8"]),
        (&["--gamma", "inf"], &["--gamma", "no finite number"]),
    ];
    for (args, words) in cases {
        let small = ["sample", "-q", "-p", "a star", "--particles", "2", "--steps", "2"];
        let output = program().args(small).args(*args).current_dir(dir.path()).output();
        fails(output.expect("the program starts"), 2, words);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0, "{args:?} left something");
    }
}

/// Everything in a folder and below, with its bytes.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => all.extend(content(&path)),
            false => all.push((path.display().to_string(), fs::read(&path).expect("a file"))),
        }
    }
    all.sort();
    all
}

#[test]
fn a_run_that_cannot_start_leaves_the_old_results_and_no_empty_folder() {
    let (dir, root) = model();
    fs::write(root.join("vae/config.json"), "{").expect("written");
    let out = dir.path().join("out");
    let refused: &[(&[&str], i32)] = &[
        (&["-m", "no/such/folder"], 3),
        (&["-m", text(&root)], 3),
        (&["--latents", "nowhere.safetensors"], 1),
        (&["--reward", "jpeg"], 2),
        (&["--reward", "clip:no/such/folder"], 3),
    ];
    for (more, code) in refused {
        fails(sample(&out, &[&["-p", "a star"], *more].concat()), *code, &[]);
        assert!(!out.exists(), "{more:?} left a folder");
    }
    succeeds(sample(&out, &["-p", "a star"]));
    let before = content(&out);
    for (more, code) in refused {
        fails(sample(&out, &[&["-p", "a star", "--overwrite"], *more].concat()), *code, &[]);
        assert!(content(&out) == before, "{more:?} changed the old results");
    }
}

/// An alpha this small makes the guidance infinite.
const LETHAL: [&str; 6] = ["-p", "a star", "--kl", "1e-40", "--max-shift", "inf"];

#[test]
fn a_run_that_loses_every_particle_fails_and_says_so() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let output = sample(&out, &LETHAL);
    assert!(output.stdout.is_empty(), "a lost image is no result");
    fails(output, 5, &["every particle was lost", "--kl"]);
    let folder = only_folder(&out);
    let record = record_of(&folder);
    assert_eq!(record["status"], "failed");
    assert!(record["error"].as_str().is_some_and(|e| e.contains("--kl")), "{record}");
    assert!(!folder.join("best.png").exists());
    let trace = lines(&folder.join("trace.jsonl"));
    let lost: Vec<&Value> =
        trace.iter().flat_map(|step| step["non_finite"].as_array().expect("a list")).collect();
    assert!(lost.iter().any(|value| value["particle"] == 1 && value["quantity"] == "latent"), "{lost:?}");
    // A failure is no result to be protected.
    succeeds(sample(&out, &["-p", "a star", "--overwrite"]));
    assert_eq!(record_of(&only_folder(&out))["status"], "finished");
}

/// Weights this large overflow until the last event, which is computed otherwise: there is a result, and what
/// happened on the way is said and recorded.
#[test]
fn every_particle_lost_on_the_way_is_a_warning_and_at_the_end_an_error() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let args = super::arguments(&out, &["-p", "a star", "--reward", "clip=3e38"]);
    let output = program().args(args).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    succeeds(output);
    let record = record_of(&only_folder(&out));
    assert_eq!((&record["status"], &record["result"]["log_z"]), (&"finished".into(), &Value::Null));
    let warnings: Vec<&str> =
        record["warnings"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    for step in ["step 0: every particle was lost", "step 1: every particle was lost"] {
        let with_fix = |w: &&&str| w.starts_with(step) && w.contains("--kl") && w.contains("--reward");
        assert_eq!(warnings.iter().filter(with_fix).count(), 1, "{warnings:?}");
    }
    assert!(warnings.iter().any(|w| w.contains("particle 1: the reward is not finite")), "{warnings:?}");
    let on_stderr: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("warning: ")).collect();
    assert_eq!(on_stderr, warnings, "the record has what was said");
    assert!(said.lines().all(|line| line.len() < 300), "numbers are short: {said}");
}

#[test]
fn a_numerical_abort_names_the_first_value_that_is_not_finite() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let output = sample(&out, &[&LETHAL[..], &["--on-nan", "abort"]].concat());
    fails(output, 5, &["step 1, prompt 0, particle 0", "not finite", "--on-nan drop"]);
    assert_eq!(record_of(&only_folder(&out))["status"], "failed");
}

#[test]
fn output_that_cannot_be_written_is_named() {
    let dir = TempDir::new().expect("a temporary folder");
    let file = dir.path().join("file");
    fs::write(&file, "in the way").expect("written");
    fails(sample(&file, &["-p", "a star"]), 1, &["file", "-o"]);
    // Before anything is computed, whatever the reason: the model would be refused next.
    let long = dir.path().join("x".repeat(300));
    let picture = dir.path().join(format!("{}.png", "x".repeat(300)));
    let nowhere = dir.path().join("file/below/a.png");
    for output in [long, picture, nowhere] {
        fails(sample(&output, &["-p", "a star", "-m", "no/such/folder"]), 1, &["-o"]);
    }
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
}

/// One part cut in half, replaced by text, with a NaN in it, or missing.
#[test]
fn damaged_weights_are_named() {
    for file in [
        UNET,
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "clip/model.safetensors",
        "aesthetic/model.safetensors",
    ] {
        let truncate = |m: &Path| {
            let bytes = fs::read(m.join(file)).expect("weights");
            fs::write(m.join(file), &bytes[..bytes.len() / 2]).expect("written");
        };
        fails(with_damage(truncate), 3, &[file]);
        fails(with_damage(|m| fs::write(m.join(file), b"not weights at all").expect("written")), 3, &[file]);
        fails(with_damage(|m| spoil_last_number(&m.join(file))), 3, &[file, "NaN"]);
        fails(with_damage(|m| fs::remove_file(m.join(file)).expect("removed")), 3, &[folder_of(file)]);
    }
}

fn folder_of(file: &str) -> &str {
    file.split('/').next().unwrap_or_default()
}

/// NaN in place of the last number of the last tensor that is read; the encoder of images is not.
fn spoil_last_number(path: &Path) {
    let mut bytes = fs::read(path).expect("weights");
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..data]).expect("a header");
    let end = |tensor: &Value| tensor["data_offsets"][1].as_u64().unwrap_or_default() as usize;
    let read = header.as_object().expect("an object").iter();
    let read = read.filter(|(name, _)| !name.starts_with("encoder.") && !name.starts_with("quant_conv."));
    let (_, last) = read.max_by_key(|(_, tensor)| end(tensor)).expect("a tensor");
    let nan = match last["dtype"].as_str() {
        Some("F16") => half::f16::NAN.to_le_bytes().to_vec(),
        Some("F32") => f32::NAN.to_le_bytes().to_vec(),
        other => panic!("weights of type {other:?}"),
    };
    let end = data + end(last);
    bytes[end - nan.len()..end].copy_from_slice(&nan);
    fs::write(path, bytes).expect("written");
}

#[test]
fn damaged_configurations_are_named() {
    fails(
        with_damage(|m| fs::remove_file(m.join("model_index.json")).expect("removed")),
        3,
        &["model_index.json"],
    );
    let broken = |m: &Path| fs::write(m.join("unet/config.json"), "{").expect("written");
    fails(with_damage(broken), 3, &["unet/config.json"]);
    let wrong_type = |m: &Path| edit_json(&m.join("unet/config.json"), |v| v["in_channels"] = "four".into());
    fails(with_damage(wrong_type), 3, &["unet/config.json", "in_channels"]);
    let block =
        |m: &Path| edit_json(&m.join("unet/config.json"), |v| v["down_block_types"][0] = "FooBlock2D".into());
    fails(with_damage(block), 3, &["unet/config.json", "FooBlock2D"]);
    let width = |m: &Path| edit_json(&m.join("unet/config.json"), |v| v["block_out_channels"][0] = 64.into());
    fails(with_damage(width), 3, &[UNET, "expected"]);
    let beta = |m: &Path| {
        edit_json(&m.join("scheduler/scheduler_config.json"), |v| v["beta_schedule"] = "cosmic".into());
    };
    fails(with_damage(beta), 3, &["scheduler_config.json", "cosmic"]);
    let dir = TempDir::new().expect("a temporary folder");
    let nowhere = sample(&dir.path().join("out"), &["-p", "a", "-m", "no/such/folder"]);
    fails(nowhere, 3, &["no/such/folder"]);
}

/// What diffusers reads without a word is read here too, and said.
#[test]
fn a_scheduler_file_without_content_is_read_with_a_warning() {
    let (dir, root) = model();
    let file = root.join("scheduler/scheduler_config.json");
    fs::write(&file, "{}").expect("written");
    let out = dir.path().join("out");
    let output = sample(&out, &["-p", "a star", "-m", text(&root), "--proposal", "none"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    succeeds(output);
    let warnings = record_of(&only_folder(&out))["warnings"].to_string();
    for word in ["scheduler_config.json: says nothing of its betas", "beta_start 0.0001", "prediction_type"] {
        assert!(said.contains(word) && warnings.contains(word), "{word}: {said}{warnings}");
    }
}

/// A device has no end, and a pipe without a writer no beginning: whatever is read whole is a regular file,
/// also behind a link.
#[cfg(unix)]
#[test]
fn devices_and_pipes_are_no_files() {
    let (dir, root) = model();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo starts").success());
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/dev/zero", &link).expect("a link");
    for (path, kind) in [(Path::new("/dev/zero"), "a device"), (&link, "a device"), (&pipe, "a pipe")] {
        let path = text(path);
        let words = [path, kind, "not a regular file"];
        fails(run(&["score", path, "--reward", "gold"]), 1, &words);
        fails(sample(&dir.path().join("out"), &["-p", "a star", "--latents", path]), 1, &words);
    }
    for file in ["unet/config.json", UNET, "tokenizer/merges.txt", "text_encoder/model.safetensors"] {
        let (held, kept) = (root.join(file), dir.path().join("kept"));
        fs::rename(&held, &kept).expect("moved");
        for (target, kind) in [(Path::new("/dev/zero"), "a device"), (&pipe, "a pipe")] {
            std::os::unix::fs::symlink(target, &held).expect("a link");
            let output = sample(&dir.path().join("out"), &["-p", "a star", "-m", text(&root)]);
            fails(output, 3, &[file, kind, "not a regular file"]);
            fs::remove_file(&held).expect("removed");
        }
        fs::rename(&kept, &held).expect("moved back");
    }
}

/// A limit of the system is an error with its name, not the end of the program.
#[cfg(unix)]
#[test]
fn limits_of_the_system_are_said_and_recorded() {
    let dir = TempDir::new().expect("a temporary folder");
    let limited = |limit: &str, out: &Path| {
        let script = format!("ulimit {limit}; exec \"$0\" \"$@\"");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_das-cuda")]);
        let args = super::arguments(out, &["-p", "a star", "-q", "--save-latents", "--particles", "16"]);
        shell.args(args).output().expect("a shell")
    };
    // In blocks of 512 bytes: room for the records, none for 16 latents.
    let out = dir.path().join("large");
    fails(limited("-f 32", &out), 1, &["cannot be written", "ulimit -f"]);
    assert_eq!(record_of(&only_folder(&out))["status"], "failed");
    fails(limited("-n 4", &dir.path().join("many")), 1, &["ulimit -n"]);
}

/// Activations of 400 particles at this size are some hundreds of gigabytes. Nothing is computed, and nothing
/// is left.
#[test]
fn a_run_that_the_memory_cannot_hold_is_not_begun() {
    let dir = TempDir::new().expect("a temporary folder");
    let large = ["-p", "a star", "-W", "512", "-H", "512", "--particles", "400", "--micro-batch", "400"];
    let out = dir.path().join("out");
    fails(sample(&out, &large), 4, &["GB of memory at its peak", "are free", "--micro-batch", "-W"]);
    assert!(!out.exists());
}

#[test]
fn images_that_cannot_be_read_are_named() {
    let dir = TempDir::new().expect("a temporary folder");
    fails(run(&["score", "nowhere.png", "--reward", "gold"]), 1, &["nowhere.png"]);
    let notes = dir.path().join("notes.png");
    fs::write(&notes, "hello").expect("written");
    fails(run(&["score", text(&notes), "--reward", "gold"]), 1, &["notes.png"]);
    fails(run(&["score", text(&notes), "--reward", "gold", "-m", "no/such/folder"]), 3, &["no/such/folder"]);
}
