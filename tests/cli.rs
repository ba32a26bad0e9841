//! The program as a user meets it: good runs leave complete records, bad input gets an error that names the file
//! or flag and the fix, with the documented exit code, and never a panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use das_cuda::assets::SHAPES_FILES;
use serde_json::Value;
use tempfile::TempDir;

fn program() -> Command {
    Command::cargo_bin("das-cuda").expect("the program is built with its tests")
}

/// `sample` at its smallest: 2 particles, 3 steps.
fn sample(out: &Path, more: &[&str]) -> Output {
    let small = ["sample", "-q", "--particles", "2", "--steps", "3", "-o"];
    program().args(small).arg(out).args(more).output().expect("the program starts")
}

#[track_caller]
fn succeeds(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "exit {:?}: {errors}", output.status.code());
    String::from_utf8(output.stdout).expect("standard output is UTF-8")
}

/// Exit code `code`, an error that says every one of `words` and offers a fix.
#[track_caller]
fn fails(output: Output, code: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in: {text}");
    }
    assert!(text.contains("fix:") || code == 2, "no fix offered in: {text}");
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

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// Runs with a model damaged by `damage`.
fn with_damage(damage: impl FnOnce(&Path)) -> Output {
    let (dir, root) = model();
    damage(&root);
    sample(&dir.path().join("out"), &["-p", "a star", "-m", root.to_str().expect("UTF-8")])
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON");
    edit(&mut value);
    fs::write(path, value.to_string()).expect("written");
}

/// The one folder under `out`.
fn only_folder(out: &Path) -> PathBuf {
    let folders: Vec<_> =
        fs::read_dir(out).expect("an output folder").map(|e| e.expect("an entry").path()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    folders[0].clone()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a JSONL file");
    text.lines().map(|l| serde_json::from_str(l).expect("each line is JSON")).collect()
}

#[test]
fn a_run_leaves_a_complete_record() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let printed =
        succeeds(sample(&out, &["-p", "a large red star", "--save-latents", "--eval-reward", "gold"]));
    let run = only_folder(&out);
    assert_eq!(printed.trim(), run.join("best.png").to_str().expect("UTF-8"));
    let record: Value =
        serde_json::from_slice(&fs::read(run.join("run.json")).expect("run.json")).expect("JSON");
    assert_eq!(record["status"], "finished");
    assert_eq!(record["prompt"], "a large red star");
    let trace = lines(&run.join("trace.jsonl"));
    assert_eq!(trace.len(), 4, "three steps and the final event");
    let particles = lines(&run.join("particles.jsonl"));
    assert_eq!(particles.len(), 2);
    let total: f64 = particles.iter().map(|p| p["weight"].as_f64().expect("a weight")).sum();
    assert!((total - 1.0).abs() < 1e-9, "weights sum to {total}");
    assert_eq!(particles.iter().filter(|p| p["is_best"] == true).count(), 1);
    assert!(particles.iter().all(|p| p["eval_rewards"]["gold"].is_number()));
    for file in ["best.png", "grid.png", "particles/000.png", "particles/001.png", "latents.safetensors"] {
        assert!(run.join(file).is_file(), "{file}");
    }
    let decoder =
        png::Decoder::new(std::io::BufReader::new(fs::File::open(run.join("best.png")).expect("best.png")));
    let reader = decoder.read_info().expect("a PNG");
    let text = &reader.info().uncompressed_latin1_text[0];
    assert_eq!(text.keyword, "parameters");
    assert!(text.text.starts_with("a large red star") && text.text.contains("DAS: {"), "{}", text.text);
}

#[test]
fn the_same_seed_gives_the_same_bytes_whatever_the_micro_batch() {
    let dir = TempDir::new().expect("a temporary folder");
    let mut pictures = Vec::new();
    for (name, more) in [("a", vec![]), ("b", vec!["--micro-batch", "1"]), ("c", vec!["--seed", "7"])] {
        let out = dir.path().join(name);
        let mut args = vec!["-p", "a ring", "--no-metadata"];
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
    let objects: Vec<Value> = printed.lines().map(|l| serde_json::from_str(l).expect("JSON lines")).collect();
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
    let path = latents.to_str().expect("UTF-8");
    succeeds(sample(&second, &["-p", "a ring", "--latents", path]));
    let wrong = sample(&dir.path().join("third"), &["-p", "a ring", "--latents", path, "--particles", "3"]);
    fails(wrong, 2, &["--particles"]);
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
        let record: Value =
            serde_json::from_slice(&fs::read(run.join("run.json")).expect("run.json")).expect("JSON");
        assert_eq!(record["prompt"], prompt);
    }
}

#[test]
fn every_proposal_runs_and_jpeg_is_refused_where_gradients_are_needed() {
    let dir = TempDir::new().expect("a temporary folder");
    for proposal in ["das", "tds", "bootstrap", "none", "best-of-n"] {
        succeeds(sample(&dir.path().join(proposal), &["-p", "a star", "--proposal", proposal]));
    }
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
        &["--tempering-start", "0.4"],
        &["--resample", "residual", "--ess-threshold", "1"],
        &["--cfg-scale", "1"],
        &["--eta", "0.5"],
        &["--dtype", "bf16"],
        &["--checkpointing", "on"],
        &["--select", "draw"],
        &["--select", "all", "--save", "all"],
        &["--save", "none", "--no-grid"],
        &["--reward", "aesthetic=1", "--reward", "clip=0.5"],
        &["-n", "blue", "--kl", "0.1"],
        &["--particles", "1"],
        &["--steps", "1"],
    ];
    for (i, choice) in choices.iter().enumerate() {
        let out = dir.path().join(i.to_string());
        let mut args = vec!["sample", "-q", "-p", "a star", "-o", out.to_str().expect("UTF-8")];
        args.extend(*choice);
        for (flag, value) in [("--particles", "2"), ("--steps", "3")] {
            if !choice.contains(&flag) {
                args.extend([flag, value]);
            }
        }
        succeeds(program().args(&args).output().expect("the program starts"));
    }
}

#[test]
fn bad_options_are_usage_errors() {
    let dir = TempDir::new().expect("a temporary folder");
    let empty = dir.path().join("empty.txt");
    fs::write(&empty, "\n\n").expect("written");
    let empty = empty.to_str().expect("UTF-8");
    let cases: &[(&[&str], &str)] = &[
        (&[], "-p"),
        (&["-p", "a", "--particles", "0"], "--particles"),
        (&["-p", "a", "--steps", "0"], "--steps"),
        (&["-p", "a", "--steps", "5000"], "--steps"),
        (&["-p", "a", "--kl", "0"], "--kl"),
        (&["-p", "a", "--kl", "nan"], "--kl"),
        (&["-p", "a", "--eta", "0"], "--eta"),
        (&["-p", "a", "--ess-threshold", "2"], "--ess-threshold"),
        (&["-p", "a", "--tempering", "linear"], "--tempering"),
        (&["-p", "a", "--resample", "bingo"], "ssp"),
        (&["-p", "a", "--reward", "beauty"], "aesthetic"),
        (&["-p", "a", "--reward", "clip=x"], "clip"),
        (&["-p", "a", "--proposal", "none", "--tempering", "exp"], "--tempering"),
        (&["-p", "a", "--device", "tpu"], "--device"),
        (&["-p", "a", "--micro-batch", "0"], "--micro-batch"),
        (&["-p", "a", "-W", "65"], "width"),
        (&["--prompts", empty], "no prompt"),
        (&["--prompts", "nowhere.txt"], "nowhere.txt"),
    ];
    for (args, word) in cases {
        let mut all = vec!["sample", "-q", "-o", dir.path().to_str().expect("UTF-8")];
        all.extend(*args);
        fails(program().args(&all).output().expect("the program starts"), 2, &[word]);
    }
}

#[test]
fn an_earlier_result_is_not_overwritten_unasked() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    succeeds(sample(&out, &["-p", "a star"]));
    fails(sample(&out, &["-p", "a star"]), 2, &["--overwrite"]);
    succeeds(sample(&out, &["-p", "a star", "--overwrite"]));
}

#[test]
fn output_that_cannot_be_written_is_named() {
    let dir = TempDir::new().expect("a temporary folder");
    let file = dir.path().join("file");
    fs::write(&file, "in the way").expect("written");
    fails(sample(&file, &["-p", "a star"]), 1, &["file", "-o"]);
}

#[test]
fn damaged_weights_are_named() {
    fails(with_damage(|m| fs::remove_file(m.join(UNET)).expect("removed")), 3, &["unet"]);
    let truncate = |m: &Path| {
        let bytes = fs::read(m.join(UNET)).expect("weights");
        fs::write(m.join(UNET), &bytes[..bytes.len() / 2]).expect("written");
    };
    fails(with_damage(truncate), 3, &[UNET]);
    fails(with_damage(|m| fs::write(m.join(UNET), b"not weights at all").expect("written")), 3, &[UNET]);
    let nan = |m: &Path| {
        let mut bytes = fs::read(m.join(UNET)).expect("weights");
        let end = bytes.len();
        bytes[end - 2..].copy_from_slice(&half::f16::NAN.to_le_bytes());
        fs::write(m.join(UNET), bytes).expect("written");
    };
    fails(with_damage(nan), 3, &[UNET, "NaN"]);
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
    let nowhere = sample(Path::new("unused"), &["-p", "a", "-m", "no/such/folder"]);
    fails(nowhere, 3, &["no/such/folder"]);
}

#[test]
fn a_model_folder_gives_what_the_embedded_model_gives() {
    let (dir, root) = model();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let head = root.join("aesthetic/model.safetensors");
    let reward = format!("aesthetic:{},{}", root.join("clip").display(), head.display());
    let same = ["-p", "a star", "--no-metadata", "--kl", "0.1"];
    succeeds(sample(&a, &same));
    succeeds(sample(&b, &[&same[..], &["-m", root.to_str().expect("UTF-8"), "--reward", &reward]].concat()));
    let read = |out: &Path| fs::read(out.join("0000-a-star/best.png")).expect("best.png");
    assert!(read(&a) == read(&b), "the folder's pictures differ from the embedded model's");
}

#[test]
fn scores_of_a_saved_image_are_printed_as_json_lines() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let best = succeeds(sample(&out, &["-p", "a star"]));
    let rewards = ["--reward", "aesthetic", "--reward", "clip", "--reward", "jpeg", "--reward", "gold"];
    let printed =
        succeeds(program().arg("score").arg(best.trim()).args(rewards).output().expect("the program starts"));
    let line: Value = serde_json::from_str(printed.trim()).expect("a JSON line");
    for name in ["aesthetic", "clip", "jpeg", "gold"] {
        assert!(line["rewards"][name].is_number(), "{name} in {line}");
    }
    let missing =
        program().args(["score", "nowhere.png", "--reward", "gold"]).output().expect("the program starts");
    fails(missing, 1, &["nowhere.png"]);
}

#[test]
fn the_plan_foretells_the_peak_memory_of_the_run() {
    let dir = TempDir::new().expect("a temporary folder");
    let small = ["-p", "a star", "--particles", "4", "--steps", "3", "--micro-batch", "2"];
    let plan =
        succeeds(program().arg("plan").args(small).arg("--json").output().expect("the program starts"));
    let plan: Value = serde_json::from_str(plan.trim()).expect("JSON");
    let out = dir.path().join("out");
    succeeds(
        program().args(["sample", "-q", "-o"]).arg(&out).args(small).output().expect("the program starts"),
    );
    let peak = lines(&only_folder(&out).join("trace.jsonl"))
        .iter()
        .filter_map(|l| l["peak_bytes"].as_f64())
        .fold(0.0, f64::max);
    let foretold = plan["peak_bytes"].as_f64().expect("a prediction");
    // The issue allows 20 %.
    assert!((foretold / peak - 1.0).abs() < 0.2, "plan {foretold:.3e} bytes, run {peak:.3e}");
}
