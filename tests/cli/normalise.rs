//! `--normalise`: rewards in standard deviations of plain pictures, and what the plain pictures say of
//! held-out rewards.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{fails, folders, lines, model, only_folder, program, record_of, run, sample, succeeds, text};

const TWO: [&str; 11] = [
    "-p",
    "a star",
    "--reward",
    "aesthetic",
    "--reward",
    "jpeg=0.5",
    "--proposal",
    "bootstrap",
    "--steps",
    "3",
    "--normalise",
];

#[test]
fn scales_are_measured_once_and_recorded_as_they_are_given() {
    let dir = TempDir::new().expect("a temporary folder");
    let drawn = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        succeeds(sample(&out, &[&TWO[..], more].concat()));
        let folder = only_folder(&out);
        (record_of(&folder), lines(&folder.join("particles.jsonl")))
    };
    let (record, particles) = drawn("measured", &["std", "--normalise-pictures", "5"]);
    let written = record["normalise"].as_str().expect("the scales").to_string();
    assert_eq!(record["normalise_pictures"], 5);
    // A standard deviation is the unit of alpha; that of `shapes` stands for its head also in a sum.
    assert_eq!((&record["kl"], &record["alpha"]), (&json!(0.12), &json!(0.12)));
    let scales: Vec<f64> =
        written.trim_start_matches("std=").split(',').map(|s| s.parse().expect("a number")).collect();
    assert!(scales.len() == 2 && scales.iter().all(|s| *s > 0.0), "{written}");
    for particle in &particles {
        let number = |value: &Value| value.as_f64().expect("a number");
        let [aesthetic, jpeg] = ["aesthetic", "jpeg"].map(|name| number(&particle["rewards"][name]));
        let sum = aesthetic / scales[0] + 0.5 * jpeg / scales[1];
        // Two products and a sum in f32.
        let rounding = 4.0 * f64::from(f32::EPSILON) * (aesthetic / scales[0]).abs().max(jpeg / scales[1]);
        assert!((number(&particle["target"]) - sum).abs() <= rounding, "{particle}");
    }

    let (given, same) = drawn("given", &[&written]);
    assert_eq!((&given["normalise"], &given["normalise_pictures"]), (&json!(written), &Value::Null));
    assert_eq!(particles, same, "scales that are given draw what measured ones draw");
    let (seed, _) = drawn("seed", &["std", "--normalise-pictures", "5", "--seed", "7"]);
    assert_eq!(seed["normalise"], written, "the seed of the run does not change what alpha means");
    let (more, _) = drawn("more", &["std", "--normalise-pictures", "6"]);
    assert_ne!(more["normalise"], written);
}

#[test]
fn what_cannot_be_normalised_is_refused_by_its_name() {
    let dir = TempDir::new().expect("a temporary folder");
    let refused = |more: &[&str]| sample(&dir.path().join("out"), &[&["-p", "a red star"], more].concat());
    // Two steps draw nothing that shows its prompt.
    let constant =
        ["--proposal", "bootstrap", "--reward", "jpeg", "--reward", "checker", "--normalise", "std"];
    fails(refused(&constant), 2, &["--normalise", "checker is constant over 32 plain pictures"]);
    let silent = ["-p", "anything", "--proposal", "bootstrap", "--reward", "checker", "--normalise", "std"];
    fails(refused(&silent), 2, &["checker gave no finite number for 16 of 32 plain pictures"]);
    for (flags, says) in [
        (&["--normalise", "std=1,2"][..], "2 scales for 1 reward"),
        (&["--normalise", "std=0"], "scale 0 is not a finite number above 0"),
        (&["--normalise", "std=inf"], "scale inf"),
        (&["--normalise", "mad"], "expected std"),
        (&["--normalise-pictures", "8"], "--normalise"),
        (&["--normalise", "std", "--normalise-pictures", "1"], "--normalise-pictures 1"),
        (&["--normalise", "std", "--normalise-pictures", "-3"], "--normalise-pictures"),
        (&["--normalise", "std=1", "--normalise-pictures", "8"], "none are measured"),
    ] {
        fails(refused(flags), 2, &[says]);
    }
    assert!(!dir.path().join("out").exists() || folders(&dir.path().join("out")).is_empty());
}

#[test]
fn the_plan_counts_the_plain_pictures_once() {
    let plan = |more: &[&str]| {
        let all =
            [&["plan", "--json", "-p", "a", "-p", "b", "--steps", "2", "--particles", "2"], more].concat();
        let value: Value = serde_json::from_str(&succeeds(run(&all))).expect("JSON");
        value
    };
    let (plain, more) = (plan(&[]), plan(&["--normalise", "std", "--normalise-pictures", "8"]));
    // 8 pictures, 2 steps, 2 branches.
    assert_eq!(more["normalise"]["unet_evaluations"], 32);
    assert_eq!(plain["normalise"], Value::Null);
    for (all, part) in [("unet_evaluations", "unet_evaluations"), ("flops", "flops")] {
        let number = |value: &Value| value.as_u64().expect("a number");
        assert_eq!(number(&more[all]), number(&plain[all]) + number(&more["normalise"][part]), "{all}");
    }
}

/// The target is minus the held-out reward, so one falls exactly as the other rises.
#[test]
fn a_held_out_reward_that_falls_is_told() {
    let dir = TempDir::new().expect("a temporary folder");
    let warnings = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let opposed = [
            "-p",
            "a star",
            "--reward",
            "jpeg",
            "--eval-reward",
            "incompressibility",
            "--eval-reward",
            "gold",
        ];
        let long = ["--proposal", "bootstrap", "--steps", "8", "--particles", "32", "--kl", "0.4"];
        succeeds(sample(&out, &[&opposed[..], &long, more].concat()));
        record_of(&only_folder(&out))["warnings"].to_string()
    };
    let measured = ["--normalise", "std", "--normalise-pictures", "32"];
    let said = warnings("measured", &measured);
    assert!(said.contains("the held-out reward incompressibility falls while the target rises"), "{said}");
    assert!(said.contains("against 32 plain pictures of this prompt") && said.contains("--kl"), "{said}");
    // Without plain pictures nothing is known, and plain samples are not aligned.
    assert!(!warnings("given", &["--normalise", "std=0.3"]).contains("held-out"));
    let plain =
        ["-p", "a star", "--reward", "jpeg", "--eval-reward", "incompressibility", "--proposal", "none"];
    let out = dir.path().join("none");
    succeeds(sample(&out, &[&plain[..], &measured].concat()));
    assert!(!record_of(&only_folder(&out))["warnings"].to_string().contains("held-out"));
}

#[test]
fn a_comparison_keeps_the_scales_that_it_began_with() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("table");
    let compare = |more: &[&str]| {
        let mut command = program();
        command.args(["compare", "-p", "a star", "--seeds", "1", "--methods", "das,none", "-o", text(&out)]);
        command.args(more).args(["--", "--steps", "3", "--particles", "2", "--normalise", "std"]);
        command.args(["--normalise-pictures", "4"]);
        command.output().expect("the program starts")
    };
    let first = compare(&[]);
    assert!(String::from_utf8_lossy(&first.stderr).contains("scales of aesthetic from 4 plain pictures"));
    let table = succeeds(first);
    let design = || fs::read_to_string(out.join("compare.json")).expect("a file");
    let before = design();
    assert!(before.contains("\"normalise\":\"std="), "{before}");
    let again = compare(&[]);
    assert!(!String::from_utf8_lossy(&again.stderr).contains("plain pictures"), "measured again");
    assert_eq!((succeeds(again), design()), (table, before));
    let arm = ["--arm", "other=--normalise-pictures 6"];
    fails(compare(&arm), 2, &["scale", "after --"]);
}

/// The embedded head has its own alpha and settings, however it is named.
#[test]
fn the_same_head_has_the_same_defaults_however_it_is_spelt() {
    let (dir, root) = model();
    let settings = |name: &str, flags: &[&str]| {
        let out = dir.path().join(name);
        succeeds(sample(&out, &[&["-p", "a star", "--save", "none"], flags].concat()));
        let record = record_of(&only_folder(&out));
        ["kl", "ess_threshold", "max_shift", "gradient", "gradient_every"].map(|key| record[key].clone())
    };
    let own = settings("embedded", &[]);
    assert_eq!(own[0], 0.05);
    assert_eq!(settings("folder", &["-m", text(&root)]), own);
    let (towers, head) = (root.join("clip"), root.join("aesthetic/model.safetensors"));
    let copy = dir.path().join("copied.safetensors");
    fs::copy(&head, &copy).expect("a copy");
    let reward = format!("aesthetic:{},{}", text(&towers), text(&copy));
    assert_eq!(settings("path", &["--reward", &reward]), own);
    assert_eq!(settings("both", &["-m", text(&root), "--reward", &reward]), own);
    // Another head, of as many bytes.
    let mut bytes = fs::read(&head).expect("a head");
    *bytes.last_mut().expect("bytes") ^= 1;
    fs::write(&copy, bytes).expect("another head");
    assert_eq!(settings("another", &["--reward", &reward])[0], 0.005);
}
