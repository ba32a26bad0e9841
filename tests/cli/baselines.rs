//! The baselines from the command line: stopped and gone on with, compared at equal cost, with populations,
//! and what they do not go together with.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::{fails, json, lines, only_folder, program, record_of, run, sample, succeeds, text};

const NOT_WEIGHED: [&[&str]; 4] = [
    &["--proposal", "dps"],
    &["--proposal", "freedom"],
    &["--proposal", "mpgd", "--time-travel", "2"],
    &["--proposal", "svdd", "--duplicates", "2", "--kl", "0.1"],
];

/// A line of a trace without what differs from time to time.
fn settled(mut line: Value) -> Value {
    for key in ["ms", "peak_bytes"] {
        line.as_object_mut().expect("an object").remove(key);
    }
    line
}

/// A run that a limit ends in the middle, of time travel too, goes on to the same trace and picture; records
/// say that there is no log Z, and why.
#[test]
fn baselines_go_on_where_they_were_stopped() {
    let dir = TempDir::new().expect("a temporary folder");
    let steered: &[&str] = &["--proposal", "fk", "--potential", "sum", "--weigh-every", "2"];
    for (i, method) in NOT_WEIGHED.iter().chain([&steered]).enumerate() {
        let [whole, part] = ["whole", "part"].map(|name| dir.path().join(format!("{i}{name}")));
        let flags = [&["-p", "a star", "--steps", "6"], *method].concat();
        succeeds(sample(&whole, &flags));
        let stopped = sample(&part, &[&flags[..], &["--max-nfe", "18"]].concat());
        assert!(!stopped.status.success(), "{method:?}");
        succeeds(run(&["resume", text(&part)]));
        let (whole, part) = (only_folder(&whole), only_folder(&part));
        let trace = |folder: &Path| {
            lines(&folder.join("trace.jsonl")).into_iter().map(settled).collect::<Vec<Value>>()
        };
        let (all, gone_on) = (trace(&whole), trace(&part));
        assert_eq!(all, gone_on, "{method:?}");
        let picture = |folder: &Path| fs::read(folder.join("best.png")).expect("a picture");
        assert!(picture(&whole) == picture(&part), "{method:?}");
        let result = &record_of(&whole)["result"];
        let why = result["log_z_unreliable"].as_str().unwrap_or_default();
        assert_eq!(
            method[1] != "fk",
            result["log_z"].is_null() && why.contains("estimates no Z"),
            "{result}"
        );
        // Two of six steps are taken three times, or twice; every pass is a line.
        let expected = match method[1] {
            "freedom" => 6 + 2 * 2 + 1,
            "mpgd" => 6 + 2 + 1,
            _ => 6 + 1,
        };
        assert_eq!(all.len(), expected, "{method:?}");
        let passes = all.iter().filter(|line| line["pass"] != 0).count();
        assert_eq!(passes, expected - 7, "{method:?}");
    }
}

#[test]
fn every_baseline_is_compared_at_equal_cost() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let mut command = program();
    command.args([
        "compare",
        "-p",
        "a star",
        "--seeds",
        "1",
        "--methods",
        "das,best-of-n,fk,dps,freedom,mpgd",
    ]);
    command.args(["--arm", "svdd=--proposal svdd --duplicates 2", "--sweep", "kl=1,2"]);
    command.args(["--threads", "1", "-q", "-o", text(&out), "--", "--steps", "6", "--particles", "3"]);
    let table = succeeds(command.output().expect("the program"));
    let runs = lines(&out.join("runs.jsonl"));
    assert_eq!(runs.len(), 8);
    let cost = |arm: &str| {
        let run = runs.iter().find(|run| run["arm"] == arm).expect("a run");
        (run["flops"].as_f64().expect("a cost"), run["particles"].as_f64().expect("a number"))
    };
    let (das, _) = cost("das kl=1");
    for arm in ["best-of-n", "fk", "dps", "freedom", "mpgd", "svdd"] {
        let (flops, particles) = cost(arm);
        // At least as much, and by less than one particle.
        assert!(
            (1.0..1.0 + 1.1 / (particles - 1.0).max(0.5)).contains(&(flops / das)),
            "{arm}: {flops}, {das}"
        );
    }
    for run in &runs {
        let weighed = ["das kl=1", "das kl=2", "fk", "best-of-n"].iter().any(|arm| run["arm"] == *arm);
        assert_eq!(run["log_z"].is_null(), !weighed, "{run}");
        // What is shifted or chosen without weights knows a bound.
        assert!(weighed || run["kl"].as_f64().is_some_and(|kl| kl > 0.0), "{run}");
    }
    assert!(table.contains("| svdd |"), "{table}");
}

#[test]
fn populations_that_are_not_weighed_have_equal_weights_and_no_z() {
    let dir = TempDir::new().expect("a temporary folder");
    for (i, method) in NOT_WEIGHED.iter().enumerate() {
        let out = dir.path().join(i.to_string());
        let flags = [&["-p", "a star", "--steps", "4", "--populations", "2", "--json"], *method].concat();
        let answer = json(&succeeds(sample(&out, &flags)));
        assert!(answer["log_z"].is_null() && answer["log_z_error"].is_null(), "{answer}");
        let folder = only_folder(&out);
        let particles = lines(&folder.join("particles.jsonl"));
        assert!(
            particles.iter().all(|line| line["weight"].as_f64().is_some_and(|w| (w - 0.25).abs() < 1e-12))
        );
        let text = succeeds(run(&["inspect", text(&folder)]));
        assert!(text.contains("estimates no Z"), "{text}");
    }
}

/// A window counts the steps of the run's own chain, wherever it lies.
#[test]
fn a_narrow_window_is_taken_wherever_it_lies() {
    let dir = TempDir::new().expect("a temporary folder");
    for (proposal, window, guided) in
        [("dps", "0.5..0.75", 1), ("freedom", "0.25..0.5", 1), ("mpgd", "0.25..1", 3)]
    {
        let out = dir.path().join(proposal);
        let flags = ["-p", "a star", "--proposal", proposal, "--guidance-window", window, "--steps", "4"];
        succeeds(sample(&out, &[&flags[..], &["--particles", "1"]].concat()));
        let trace = lines(&only_folder(&out).join("trace.jsonl"));
        let timesteps: BTreeSet<i64> = trace
            .iter()
            .filter(|line| line["grad_norm"].is_array())
            .map(|line| line["t"].as_i64().expect("a timestep"))
            .collect();
        assert_eq!(timesteps.len(), guided, "{proposal}: {timesteps:?}");
    }
    let none = ["-p", "a star", "--proposal", "dps", "--guidance-window", "0.6..0.7", "--steps", "4"];
    fails(sample(&dir.path().join("none"), &none), 2, &["none of 4 steps", "--guidance-window 0.6..0.7"]);
}

#[test]
fn what_baselines_do_not_read_is_refused_with_the_fix_named() {
    let dir = TempDir::new().expect("a temporary folder");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--guidance-strength", "2"], &["--guidance-strength", "--proposal dps, freedom or mpgd"]),
        (&["--proposal", "svdd", "--guidance-window", "0..1"], &["--guidance-window", "--proposal dps"]),
        (&["--proposal", "dps", "--time-travel", "2"], &["--time-travel", "--proposal freedom or mpgd"]),
        (&["--proposal", "dps", "--duplicates", "2"], &["--duplicates", "--proposal svdd"]),
        (&["--proposal", "dps", "--kl", "1"], &["--kl", "--proposal das"]),
        (&["--proposal", "dps", "--potential", "max"], &["--potential", "--proposal das"]),
        (&["--proposal", "das", "--weigh-every", "2"], &["--weigh-every", "--proposal bootstrap or fk"]),
        (&["--proposal", "mpgd", "--gradient", "state"], &["--gradient", "--proposal das or tds"]),
        (&["--proposal", "mpgd", "--cfg-scale", "1"], &["classifier-free guidance", "--cfg-scale above 1"]),
        (&["--proposal", "freedom", "--cfg-scale", "1"], &["--cfg-scale 1", "--proposal dps"]),
        (&["--proposal", "dps", "--reward", "jpeg"], &["jpeg", "--proposal bootstrap"]),
        (&["--proposal", "svdd", "--eta", "0"], &["no noise", "--eta above 0"]),
        (&["--proposal", "svdd", "--duplicates", "0"], &["--duplicates"]),
        (&["--proposal", "svdd", "--kl=-1"], &["--kl"]),
        (&["--proposal", "dps", "--guidance-strength", "0"], &["--guidance-strength"]),
        (&["--proposal", "dps", "--guidance-window", "0.7..0.3"], &["--guidance-window", "0.3..0.7"]),
        (&["--proposal", "dps", "--guidance-window", "0.1..0.2"], &["none of 2 steps", "--guidance-window"]),
        (&["--proposal", "freedom", "--time-travel", "0"], &["--time-travel"]),
        (&["--proposal", "fk", "--weigh-every", "0"], &["--weigh-every"]),
        (&["--proposal", "fk", "--potential", "add"], &["diff, max, sum"]),
        (&["--potential", "sum", "--tempering", "adaptive"], &["--potential"]),
        (&["--potential", "sum", "--compat", "reference"], &["--potential", "--compat paper"]),
    ];
    for (args, words) in cases {
        let output = sample(&dir.path().join("out"), &[&["-p", "a star"], *args].concat());
        fails(output, 2, words);
    }
}
