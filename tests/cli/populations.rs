//! Several independent populations of one prompt: each is what it is alone, and together they are one result.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::{folders, json, lines, only_folder, program, record_of, run, sample, succeeds, text};

/// Resampled at every step, so that ancestors are not the identity, and with weights that differ.
const DAS: [&str; 10] =
    ["-p", "a star", "--steps", "3", "--particles", "4", "--ess-threshold", "1", "--kl", "0.5"];

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

/// The pixels of a particle, without what the file says of it.
fn pixels(folder: &Path, index: usize) -> image::RgbImage {
    image::open(folder.join(format!("particles/{index:03}.png"))).expect("a particle").into_rgb8()
}

fn drawn(dir: &TempDir, name: &str, more: &[&str]) -> PathBuf {
    let out = dir.path().join(name);
    succeeds(sample(&out, &[&DAS[..], more].concat()));
    only_folder(&out)
}

#[test]
fn each_population_is_what_it_is_alone_and_weighs_by_its_z() {
    let dir = TempDir::new().expect("a temporary folder");
    let candidates = ["--candidates", "2"];
    let all = drawn(&dir, "all", &[&candidates[..], &["--populations", "3"]].concat());
    let record = record_of(&all);
    let result = &record["result"];
    // 8 candidates at the first of three steps, 4 particles at the others, two branches.
    let evaluations = 3 * (8 + 2 * 4) * 2;
    assert_eq!((&record["populations"], &record["unet_evaluations"]), (&3.into(), &evaluations.into()));
    let told = result["populations"].as_array().expect("a list");
    assert_eq!((told.len(), &told[0]["seed"]), (3, &record["seed"]));
    let particles = lines(&all.join("particles.jsonl"));
    let trace = lines(&all.join("trace.jsonl"));
    assert_eq!((particles.len(), trace.len()), (3 * 4, 3 * 4));

    let z: Vec<f64> = told.iter().map(|p| number(&p["log_z"]).exp()).collect();
    let total: f64 = z.iter().sum();
    assert!((number(&result["log_z"]) - (total / 3.0).ln()).abs() < 1e-12);
    for (m, told) in told.iter().enumerate() {
        let seed = told["seed"].to_string();
        let alone = drawn(&dir, &m.to_string(), &[&candidates[..], &["--seed", &seed]].concat());
        let result = record_of(&alone)["result"].clone();
        assert_eq!((&told["log_z"], &told["log_z_error"]), (&result["log_z"], &result["log_z_error"]));
        let own = lines(&alone.join("particles.jsonl"));
        for (p, own) in own.iter().enumerate() {
            let index = 4 * m + p;
            let line = &particles[index];
            assert_eq!((&line["index"], &line["population"]), (&index.into(), &m.into()));
            assert_eq!((&line["target"], &line["rewards"]), (&own["target"], &own["rewards"]));
            let weight = number(&own["weight"]) * z[m] / total;
            assert!((number(&line["weight"]) - weight).abs() < 1e-12, "particle {index}");
            let ancestors = |line: &Value| -> Vec<u64> {
                line["lineage"].as_array().expect("a list").iter().filter_map(Value::as_u64).collect()
            };
            let moved: Vec<u64> = ancestors(own).iter().map(|a| a + 8 * m as u64).collect();
            assert_eq!(ancestors(line), moved, "particle {index}");
            assert!(pixels(&all, index) == pixels(&alone, p), "particle {index}");
        }
        for (step, own) in lines(&alone.join("trace.jsonl")).iter().enumerate() {
            let line = &trace[4 * m + step];
            assert_eq!((&line["population"], &line["step"]), (&m.into(), &step.into()));
            assert_eq!((&line["log_weights"], &line["log_z"]), (&own["log_weights"], &own["log_z"]));
        }
    }
    let rewards = || particles.iter().map(|line| number(&line["target"]));
    assert_eq!(number(&result["reward"]), rewards().fold(f64::NEG_INFINITY, f64::max), "the best of all");
}

/// Weights of plain samples are equal and those of best-of-n on one, whatever the estimates of Z.
#[test]
fn plain_samples_stay_plain() {
    let dir = TempDir::new().expect("a temporary folder");
    for (proposal, largest) in [("none", 0.25), ("best-of-n", 1.0)] {
        let out = dir.path().join(proposal);
        succeeds(sample(&out, &["-p", "a star", "--populations", "2", "--proposal", proposal]));
        let folder = only_folder(&out);
        let weights: Vec<f64> =
            lines(&folder.join("particles.jsonl")).iter().map(|line| number(&line["weight"])).collect();
        assert_eq!(weights.iter().copied().fold(0.0, f64::max), largest, "{proposal}");
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{proposal}");
        let chains = record_of(&folder)["chains"].as_u64().expect("a number");
        assert_eq!(weights.len() as u64, 2 * chains, "{proposal}");
    }
}

#[test]
fn finished_populations_are_not_drawn_again() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let draw = |populations: &str| {
        let plain = ["-p", "a star", "--proposal", "none", "--skip-finished", "--json", "--count", "2"];
        succeeds(sample(&out, &[&plain[..], &["--populations", populations]].concat()))
    };
    let told = draw("2");
    assert_eq!((folders(&out).len(), draw("2")), (2, told));
    assert_eq!(folders(&out).len(), 2);
    draw("3");
    assert_eq!(folders(&out).len(), 4, "more populations are another result");
}

#[test]
fn the_plan_and_a_comparison_count_every_population() {
    let dir = TempDir::new().expect("a temporary folder");
    let plan = |more: &[&str]| {
        json(&succeeds(run(&[&["plan", "--json", "--device", "cpu"], &DAS[..], more].concat())))
    };
    let (one, three) = (plan(&[]), plan(&["--populations", "3"]));
    for key in ["unet_evaluations", "flops"] {
        assert_eq!(three[key].as_u64(), one[key].as_u64().map(|n| 3 * n), "{key}");
    }
    assert_eq!((&one["populations"], &three["populations"]), (&1.into(), &3.into()));
    let peak = record_of(&drawn(&dir, "run", &["--populations", "3"]))["result"]["peak_bytes"].clone();
    assert_eq!(peak, three["peak_bytes"], "the peak of the run");

    let compared = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let fixed = ["compare", "-p", "a star", "--methods", "none", "--seeds", "1", "-q", "-o", text(&out)];
        let flags = ["--", "--steps", "2", "--particles", "2", "--device", "cpu"];
        let output = program().args(fixed).args(flags).args(more).output();
        succeeds(output.expect("the program starts"));
        lines(&out.join("runs.jsonl")).remove(0)
    };
    let (one, two) = (compared("one", &[]), compared("two", &["--populations", "2"]));
    assert_eq!(number(&two["flops"]), 2.0 * number(&one["flops"]));
    assert_eq!((&two["particles"], &two["roots_alive"]), (&2.into(), &4.into()));
    assert!(one["log_z"] != two["log_z"]);
}
