//! `pareto`: its sums, what it leaves, that it goes on where it was stopped, and what it refuses.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::formats::Section;
use super::{fails, json, lines, program, succeeds, text};

const SUMS: [&str; 6] = ["--reward", "aesthetic", "--reward", "clip", "--weights", "0,0.25,1"];

fn pareto(out: &Path, more: &[&str]) -> Output {
    let mut command = program();
    command.args(["pareto", "-p", "a star", "-p", "a ring", "--seeds", "3", "--eval-reward", "gold"]);
    command.args(["--threads", "1", "-q", "-o", text(out)]).args(more);
    if !more.contains(&"--") {
        command.args(["--", "--steps", "3", "--particles", "2"]);
    }
    command.output().expect("the program")
}

/// The number at a place of a list.
fn number(list: &Value, at: usize) -> f64 {
    list[at].as_f64().expect("a number")
}

#[test]
fn every_sum_is_aligned_to_and_the_best_of_n_chooses_by_it() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let table = succeeds(pareto(&out, &SUMS));
    let all: Vec<Value> = lines(&out.join("runs.jsonl"));
    // Of each of two prompts: three sums of two arms, and the plain samples.
    assert_eq!(all.len(), 14);
    let of = |arm: &str, first: f64, index: usize| {
        let found = all.iter().find(|line| {
            line["arm"] == arm && line["index"] == index && line["weights"] == json!([first, 1.0 - first])
        });
        found.expect("a line").clone()
    };
    // What is returned is what `sample` returns for the same sum.
    let alone = |proposal: &str| {
        let folder = dir.path().join(proposal);
        let mut alone = program();
        alone.args(["sample", "-p", "a ring", "--first-index", "1", "-s", "3", "--proposal", proposal]);
        alone.args(["--reward", "aesthetic=0.25", "--reward", "clip=0.75", "--eval-reward", "gold"]);
        alone.args(["--steps", "3", "--particles", "2", "-q", "--json", "-o", text(&folder)]);
        json(succeeds(alone.output().expect("the program")).trim())
    };
    for arm in ["das", "best-of-n"] {
        let (own, alone) = (of(arm, 0.25, 1), alone(arm));
        let rewards = json!([alone["rewards"]["aesthetic"], alone["rewards"]["clip"]]);
        assert_eq!(own["rewards"], rewards, "{arm}");
        assert_eq!(own["eval_rewards"], alone["eval_rewards"], "{arm}");
        assert!(out.join(own["picture"].as_str().expect("a path")).exists());
    }
    // Of the same pictures the best by one reward alone has the most of it, and plain samples have less.
    for index in 0..2 {
        let best = [0.0, 0.25, 1.0].map(|first| of("best-of-n", first, index)["rewards"].clone());
        assert!(number(&best[2], 0) >= number(&best[0], 0) && number(&best[0], 1) >= number(&best[2], 1));
        let plain = all.iter().find(|line| line["arm"] == "none" && line["index"] == index).expect("a line");
        assert!(plain["particle"].is_null() && plain["picture"].is_null());
        assert!(number(&plain["rewards"], 0) <= number(&best[2], 0), "{plain}");
        assert!(number(&plain["rewards"], 1) <= number(&best[0], 1), "{plain}");
    }
    let cost = |arm: &str| of(arm, 0.0, 0)["flops"].as_f64().expect("a cost");
    assert!((1.0..1.5).contains(&(cost("best-of-n") / cost("das"))), "in favour of the rival");

    let summary = json(&fs::read_to_string(out.join("summary.json")).expect("a summary"));
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md")).expect("docs");
    let mut section = Section::new(&page, "### pareto: summary.json");
    section.check(&summary);
    section.all_seen();
    let mut section = Section::new(&page, "### pareto: runs.jsonl");
    all.iter().for_each(|line| section.check(line));
    section.all_seen();
    let mut section = Section::new(&page, "### pareto.json");
    section.check(&json(&fs::read_to_string(out.join("pareto.json")).expect("a design")));
    // No draw takes a millisecond.
    let timed = dir.path().join("timed");
    let said = succeeds(pareto(&timed, &[&SUMS[..4], &["--weights", "0,1", "--budget", "0.001s"]].concat()));
    for words in
        ["| particles | seconds |", "Not of equal cost: das, budget 0.001s: 1 particle, the fewest, "]
    {
        assert!(said.contains(words), "{said}");
    }
    section.check(&json(&fs::read_to_string(timed.join("pareto.json")).expect("a design")));
    section.all_seen();
    assert_eq!(summary["rows"].as_array().expect("rows").len(), 7);
    assert_eq!(summary["hypervolumes"].as_array().expect("volumes").len(), 2);
    let csv = fs::read_to_string(out.join("table.csv")).expect("a table");
    assert_eq!(csv.lines().count(), 8, "{csv}");
    for name in ["front-aesthetic-clip-0-1.svg", "held-out-gold-0.svg"] {
        assert!(table.contains(name) && out.join(name).exists(), "{name}: {table}");
    }
    assert!(table.contains("2 prompts x 1 seed;") && table.contains("--weights 0,0.25,1"), "{table}");
}

#[test]
fn a_front_that_was_stopped_goes_on() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let table = succeeds(pareto(&out, &SUMS));
    let path = out.join("runs.jsonl");
    let whole = fs::read_to_string(&path).expect("runs");
    let settle = |text: &str| {
        let mut all: Vec<String> = text
            .lines()
            .map(|line| {
                let mut line = json(line);
                line.as_object_mut().expect("an object").remove("seconds");
                line.to_string()
            })
            .collect();
        all.sort();
        all
    };
    // Within a line of the guided arm, and among those that the best of N writes together.
    for lines in [1, 5, 8] {
        let kept: usize = whole.split_inclusive('\n').take(lines).map(str::len).sum();
        fs::write(&path, &whole[..kept + 20]).expect("written");
        assert_eq!(succeeds(pareto(&out, &SUMS)), table, "{lines}");
        let again = fs::read_to_string(&path).expect("runs");
        assert_eq!(settle(&again), settle(&whole), "{lines}");
    }
    let other = [&SUMS[..4], &["--weights", "0..1:0.5"]].concat();
    fails(pareto(&out, &other), 2, &["another front", "--weights differs", "--output"]);
}

#[test]
fn three_rewards_have_a_grid_and_what_cannot_work_is_refused() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let three =
        ["--reward", "aesthetic", "--reward", "clip", "--reward", "jpeg-proxy", "--weights", "0..1:0.5"];
    let small = ["--", "--steps", "2", "--particles", "1", "--normalise", "std=1,2,3"];
    let table = succeeds(pareto(&out, &[&three[..], &small].concat()));
    assert!(
        table.contains("| das | 0, 0.5, 0.5 |") && table.contains("aesthetic times clip times jpeg-proxy"),
        "{table}"
    );
    assert_eq!(lines(&out.join("runs.jsonl")).len(), 2 * 13);
    let refused = dir.path().join("refused");
    let two = &SUMS[..4];
    let cases: &[(&[&str], &[&str])] = &[
        (&["--reward", "clip"], &["one reward has no front"]),
        (&["--reward", "clip=2", "--reward", "aesthetic"], &["clip=2", "--weights"]),
        (&["--reward", "clip", "--reward", "nothing"], &["nothing"]),
        (&[two, &["--weights", "0..1:0.3"]].concat(), &["part of 1"]),
        (&[&three[..6], &["--weights", "0,1"]].concat(), &["0..1:STEP"]),
        (&[two, &["--method", "best-of-n"]].concat(), &["--method best-of-n"]),
        (&[two, &["--method", "none"]].concat(), &["--method none"]),
        (&[two, &["--method", "nobody"]].concat(), &["nobody", "--method takes one of: das"]),
        (&[two, &["--method", " "]].concat(), &["begins with no method"]),
        (&[two, &["--method", "dps --duplicates 2"]].concat(), &["arm dps", "--duplicates"]),
        (&[two, &["--", "--reward", "jpeg-proxy"]].concat(), &["--reward stands after --", "before --"]),
        (&[two, &["--", "--proposal", "tds"]].concat(), &["--proposal stands after --", "--method"]),
        (&[two, &["--budget", "0"]].concat(), &["above 0"]),
        (
            &[two, &["--budget", "1e9"]].concat(),
            &["--budget 1000000000, arm", "give --budget a smaller number"],
        ),
        (&[two, &["--", "--seed", "3"]].concat(), &["--seed"]),
    ];
    for (args, words) in cases {
        fails(pareto(&refused, args), 2, words);
        assert!(!refused.exists(), "{args:?} left something");
    }
    // Without a gradient nothing can be steered, and what is weighed still can.
    let without = ["--reward", "jpeg", "--reward", "gold", "--weights", "0,1"];
    fails(pareto(&refused, &without), 2, &["gradient"]);
    succeeds(pareto(&refused, &[&without[..], &["--method", "bootstrap"]].concat()));
}

/// Flags of the method alone are not for the best of N.
#[test]
fn a_method_may_have_flags_of_its_own() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let table = succeeds(pareto(&out, &[&SUMS[..], &["--method", "dps --guidance-strength 0.5"]].concat()));
    assert!(table.contains("| dps |") && table.contains("| best-of-n |"), "{table}");
    let design = json(&fs::read_to_string(out.join("pareto.json")).expect("a design"));
    let flags = json!(["--proposal", "dps", "--guidance-strength", "0.5"]);
    assert_eq!(design["design"]["arms"][0]["flags"], flags);
    // A picture that is gone is told, and not drawn again.
    let line = &lines(&out.join("runs.jsonl"))[0];
    let picture = line["picture"].as_str().expect("a path").to_string();
    fs::remove_file(out.join(&picture)).expect("removed");
    let again = pareto(&out, &[&SUMS[..], &["--method", "dps --guidance-strength 0.5"]].concat());
    assert!(String::from_utf8_lossy(&again.stderr).contains(&picture));
    assert_eq!(succeeds(again), table);
}

/// The checker has no number for a prompt that states nothing: the other prompts are drawn all the same.
#[test]
fn a_prompt_without_a_reward_keeps_no_other_from_being_drawn() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let sums = ["-p", "zzz", "--reward", "aesthetic", "--reward", "checker", "--weights", "0.5"];
    let output = pareto(&out, &[&sums[..], &["--method", "bootstrap"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let table = succeeds(output);
    assert!(said.contains("\"zzz\"") && said.contains("every particle was lost"), "{said}");
    assert!(table.contains("without 1 prompt"), "{table}");
    let all = lines(&out.join("runs.jsonl"));
    let (lost, whole): (Vec<&Value>, Vec<&Value>) = all.iter().partition(|line| line["lost"].is_string());
    assert!(lost.iter().all(|line| line["prompt"] == "zzz" && line["picture"].is_null()), "{lost:?}");
    assert!(!lost.is_empty() && whole.iter().filter(|line| line["arm"] == "bootstrap").count() == 2);
}
