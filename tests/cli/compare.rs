//! `compare`: what it leaves, that it goes on where it was stopped, and what it refuses.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use super::{fails, json, lines, program, succeeds, text};

/// Two arms, two prompts, two seeds, two budgets.
fn compare(out: &Path, more: &[&str]) -> Output {
    let mut command = program();
    command.args(["compare", "-p", "a star", "-p", "a ring", "--seeds", "3,5"]);
    if !more.contains(&"--budgets") {
        command.args(["--budgets", "1,2"]);
    }
    command.args(["--eval-reward", "gold", "--threads", "1", "-q", "-o", text(out)]);
    command.args(more).args(["--", "--steps", "3", "--particles", "2"]);
    command.output().expect("the program")
}

const TWO: [&str; 2] = ["--methods", "das,best-of-n"];

/// A run without what differs from time to time.
fn settled(line: &str) -> Value {
    let mut value = json(line);
    value.as_object_mut().expect("an object").remove("seconds");
    value
}

#[test]
fn every_arm_gets_the_same_cost_and_every_run_a_line_and_a_picture() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let table = succeeds(compare(&out, &TWO));
    let runs: Vec<Value> = lines(&out.join("runs.jsonl"));
    assert_eq!(runs.len(), 16);
    let cost = |arm: &str, budget: f64| {
        let of_arm = |run: &&Value| run["arm"] == arm && run["budget"] == budget;
        runs.iter().find(of_arm).map(|run| run["flops"].as_f64().expect("a cost")).expect("a run")
    };
    for budget in [1.0, 2.0] {
        let (das, best) = (cost("das", budget), cost("best-of-n", budget));
        // In favour of the baseline, and by less than one chain.
        assert!((1.0..1.5).contains(&(best / das)), "{best} against {das}");
    }
    assert!(cost("das", 2.0) <= 2.0 * cost("das", 1.0) && cost("best-of-n", 2.0) >= 2.0 * cost("das", 1.0));
    // What the model draws by itself is an ordinary sample, not the best of several.
    let plain = dir.path().join("plain");
    succeeds(compare(&plain, &["--methods", "none"]));
    assert!(lines(&plain.join("runs.jsonl")).iter().all(|run| run["particle"] == 0 && run["kl"] == 0.0));
    for run in &runs {
        let picture = out.join(run["picture"].as_str().expect("a path"));
        assert_eq!(image::open(picture).expect("a picture").width(), 64);
        assert!(run["target"].is_f64() && run["eval_rewards"]["gold"].is_f64(), "{run}");
    }
    // What is returned is what `sample` returns with the same seed, index and flags.
    let folder = dir.path().join("alone");
    let mut alone = program();
    alone.args([
        "sample",
        "-p",
        "a ring",
        "--first-index",
        "1",
        "-s",
        "5",
        "--steps",
        "3",
        "--particles",
        "2",
    ]);
    alone.args(["-q", "--json", "-o", text(&folder)]);
    let alone = json(succeeds(alone.output().expect("the program")).trim());
    let same =
        |run: &&Value| run["arm"] == "das" && run["budget"] == 1.0 && run["index"] == 1 && run["seed"] == 5;
    let run = runs.iter().find(same).expect("a run");
    assert_eq!(run["target"], alone["reward"]);
    assert_eq!(table, fs::read_to_string(out.join("table.md")).expect("a table"));
    assert_eq!(table.lines().filter(|line| line.starts_with("| das |")).count(), 2, "{table}");
    assert!(table.contains("2 prompts, 2 seeds") && table.contains("--methods das,best-of-n"), "{table}");
    let rows = json(&fs::read_to_string(out.join("summary.json")).expect("a summary"))["rows"].clone();
    assert_eq!(rows.as_array().expect("rows").len(), 4);
    let csv = fs::read_to_string(out.join("table.csv")).expect("a table");
    let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert!(columns.len() == 5 && columns.iter().all(|&n| n == columns[0]), "{csv}");
}

#[test]
fn a_comparison_that_was_stopped_goes_on() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let table = succeeds(compare(&out, &TWO));
    let path = out.join("runs.jsonl");
    let whole = fs::read_to_string(&path).expect("runs");
    // Killed within a line.
    let kept: usize = whole.split_inclusive('\n').take(9).map(str::len).sum();
    fs::write(&path, &whole[..kept + 20]).expect("written");
    assert_eq!(succeeds(compare(&out, &TWO)), table);
    let again = fs::read_to_string(&path).expect("runs");
    assert_eq!(again[..kept], whole[..kept], "what was finished stays");
    let settle = |text: &str| text.lines().map(settled).collect::<Vec<_>>();
    assert_eq!(settle(&again), settle(&whole));
    // With nothing left to draw.
    assert_eq!(succeeds(compare(&out, &TWO)), table);
    assert_eq!(fs::read_to_string(&path).expect("runs"), again);
    fs::write(&path, again.replacen("\"arm\"", "\"arms\"", 1)).expect("written");
    fails(compare(&out, &TWO), 1, &[text(&path), "line 1"]);
    // A line that is whole but for its end is a line that was cut off; none may be there twice, or be of
    // another comparison.
    fs::write(&path, &whole[..kept - 1]).expect("written");
    assert_eq!(succeeds(compare(&out, &TWO)), table);
    let first = &whole[..=whole.find('\n').expect("a line")];
    fs::write(&path, first.repeat(2)).expect("written");
    fails(compare(&out, &TWO), 1, &[text(&path), "line 2", "already"]);
    fs::write(&path, first.replacen("\"seed\":3", "\"seed\":91", 1)).expect("written");
    fails(compare(&out, &TWO), 1, &[text(&path), "line 1", "another comparison"]);
    fs::write(&path, &whole).expect("written");
    fails(compare(&out, &["--methods", "das,bootstrap"]), 2, &["another comparison", "arms", "--output"]);
    fs::remove_file(out.join("compare.json")).expect("removed");
    fails(compare(&out, &TWO), 2, &["without their compare.json", "--output"]);
}

#[test]
fn arms_and_sweeps_are_read_and_what_cannot_work_is_refused() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let labels = |more: &[&str]| -> Vec<String> {
        fs::remove_dir_all(&out).ok();
        succeeds(compare(&out, more));
        let design = json(&fs::read_to_string(out.join("compare.json")).expect("a design"));
        let arms = design["design"]["arms"].as_array().expect("arms").clone();
        arms.iter().map(|arm| arm["label"].as_str().expect("a label").to_string()).collect()
    };
    let sweep = ["--methods", "das", "--sweep", "kl=0.1,0.5", "--sweep", "max-shift=1,2"];
    let four = [
        "das kl=0.1 max-shift=1",
        "das kl=0.1 max-shift=2",
        "das kl=0.5 max-shift=1",
        "das kl=0.5 max-shift=2",
    ];
    assert_eq!(labels(&sweep), four);
    let arms = ["--methods", "none", "--arm", "gentle=--proposal das --kl 1 --select reward"];
    assert_eq!(labels(&arms), ["none", "gentle"]);
    // Best-of-n as the first arm has as many chains as `sample` gives it: those that cost what two guided
    // particles do.
    assert_eq!(labels(&["--methods", "best-of-n,das"]), ["best-of-n", "das"]);
    let runs: Vec<Value> = lines(&out.join("runs.jsonl"));
    let guided = runs.iter().find(|run| run["arm"] == "das" && run["budget"] == 1.0).expect("a run");
    assert!(guided["particles"].as_u64() >= Some(2), "{guided}");
    fs::remove_dir_all(&out).ok();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--methods", "dps"], &["dps", "das"]),
        (&["--methods", "das,das"], &["two arms", "--arm"]),
        (&["--arm", "x"], &["--arm", "LABEL=FLAGS"]),
        (&["--arm", "x=--kl nothing"], &["arm x", "--kl"]),
        (&["--arm", "x=--seed 3"], &["arm x", "--seed"]),
        (&["--arm", "x=-s5"], &["arm x", "--seed"]),
        (&["--arm", "x=-nblue"], &["arm x", "--negative-prompt"]),
        (&["--arm", "x=-pb"], &["arm x", "--prompt"]),
        (&["--arm", "x=-ob"], &["arm x", "--output"]),
        (&["--arm", "a|b=--proposal none"], &["--arm", "bars"]),
        (&["--arm", "a/b=--proposal none"], &["--arm", "slashes"]),
        (&["--arm", "a\nb=--proposal none"], &["--arm", "control"]),
        (&["--budgets", "1,2,1"], &["--budgets"]),
        (&["--budgets", "1e9"], &["--particles"]),
        (&["--arm", "x=--reward clip"], &["arm x", "after --"]),
        (&["--arm", "x=--dtype bf16"], &["arm x", "after --"]),
        (&["--arm", "x=--steps 0"], &["arm x", "--steps"]),
        (&["--sweep", "kl"], &["--sweep", "FLAG=VALUE"]),
        (&["--against", "nobody"], &["nobody", "das"]),
    ];
    for (more, words) in cases {
        fails(compare(&out, more), 2, words);
        assert!(!out.exists(), "{more:?}: nothing is made of what is refused");
    }
    for budgets in ["0", "-1", "nan", "x"] {
        let mut command = program();
        command.args(["compare", "-p", "a", "-o", text(&out)]).arg(format!("--budgets={budgets}"));
        fails(command.output().expect("the program"), 2, &["--budgets"]);
    }
}
