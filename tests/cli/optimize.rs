//! `optimize`: what it asks, learns and leaves, that it goes on where it was stopped to the same bytes, and
//! what it refuses.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use super::formats::Section;
use super::{fails, json, lines, program, run, succeeds, text};

/// Twelve queries in rounds of four, with a surrogate that learns little.
fn optimize(out: &Path, more: &[&str]) -> Output {
    let mut command = program();
    command.args(["optimize", "--threads", "1", "-q", "-o", text(out)]);
    for (flag, value) in [
        ("--black-box", "gold"),
        ("--queries", "12"),
        ("--batch", "4"),
        ("--epochs", "12"),
        ("-p", "a red star"),
    ] {
        if !more.contains(&flag) {
            command.args([flag, value]);
        }
    }
    command.args(more);
    if !more.contains(&"--") {
        command.args(["--", "--steps", "3", "--particles", "2", "--device", "cpu"]);
    }
    command.output().expect("the program")
}

/// All files under a folder, by their paths.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => drop(all.insert(path.clone(), fs::read(&path).expect("a file"))),
        }
    }
    all
}

const ALL: &str = "ucb,bootstrap,greedy,one-shot,best-of-n,random";

#[test]
fn every_strategy_spends_its_queries_and_records_each() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let more =
        ["--strategies", ALL, "--evaluate", "2", "--eval-reward", "jpeg", "-p", "a red star", "-p", "a ring"];
    let table = succeeds(optimize(&out, &more));
    let all = lines(&out.join("runs.jsonl"));
    assert_eq!(all.len(), 6 * 14);
    for strategy in ALL.split(',') {
        let own: Vec<&Value> = all.iter().filter(|line| line["strategy"] == strategy).collect();
        assert!(table.contains(&format!("| {strategy} |")), "{table}");
        assert_eq!(own.len(), 14);
        for (at, line) in own.iter().enumerate() {
            assert_eq!(line["query"], at);
            let round = if at < 12 { Value::from(at / 4) } else { Value::Null };
            // One shot: half of the queries, in whole batches.
            assert_eq!(line["round"], round, "{strategy} {at}");
            let plain = strategy == "random" || at < 4;
            assert_eq!(line["plain"], plain, "{strategy} {at}");
            for said in ["mean", "bonus", "uncertainty"] {
                assert_eq!(line[said].is_null(), plain, "{strategy} {at} {said}");
            }
            assert_eq!(line["answer"], line["label"]);
            // The answer is what `score` says of the picture.
            let picture = out.join(line["picture"].as_str().expect("a path"));
            assert!(picture.exists());
            if at % 5 == 0 {
                let scored = json(&succeeds(run(&["score", "--reward", "gold", text(&picture)])));
                let answer = line["answer"].as_f64().expect("a number");
                assert!((scored["rewards"]["gold"].as_f64().expect("a number") - answer).abs() < 1e-6);
            }
        }
        let surrogates = out.join("surrogates").join(strategy);
        let expected = match strategy {
            "random" => 0,
            "one-shot" => 1,
            _ => 3,
        };
        assert_eq!(surrogates.read_dir().map_or(0, Iterator::count), expected, "{strategy}");
    }
    // Plain samples are the same for all strategies, and are drawn once.
    assert_eq!(fs::read_dir(out.join("pictures/plain")).expect("pictures").count(), 14);
    let bonus = |strategy: &str| {
        let own = all.iter().filter(|line| line["strategy"] == strategy && line["plain"] == false);
        own.filter_map(|line| line["bonus"].as_f64()).sum::<f64>()
    };
    assert!(bonus("ucb") > 0.0 && bonus("bootstrap") > 0.0 && bonus("greedy") == 0.0);

    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md")).expect("docs");
    let mut section = Section::new(&page, "### runs.jsonl of an optimisation");
    all.iter().for_each(|line| section.check(line));
    section.all_seen();
    let file = |name: &str| json(&fs::read_to_string(out.join(name)).expect("a file"));
    let mut section = Section::new(&page, "### optimize.json");
    section.check(&file("optimize.json"));
    section.all_seen();
    let mut section = Section::new(&page, "### summary.json of an optimisation");
    section.check(&file("summary.json"));
    section.all_seen();
    let csv = fs::read_to_string(out.join("table.csv")).expect("a table");
    assert_eq!(csv.lines().count(), 1 + 6 * 3, "{csv}");
    for name in ["figure.svg", "figure.png", "table.md"] {
        assert!(out.join(name).exists(), "{name}");
    }
    let safetensors = fs::read(out.join("surrogates/bootstrap/1-0012.safetensors")).expect("a surrogate");
    let (_, header) = safetensors::SafeTensors::read_metadata(&safetensors).expect("a header");
    let mut section = Section::new(&page, "### Surrogates");
    section.check(&json(&header.metadata().as_ref().expect("metadata")["das-cuda surrogate"]));
    let safetensors = fs::read(out.join("surrogates/ucb/1-0004.safetensors")).expect("a surrogate");
    let (_, header) = safetensors::SafeTensors::read_metadata(&safetensors).expect("a header");
    section.check(&json(&header.metadata().as_ref().expect("metadata")["das-cuda surrogate"]));
    section.all_seen();
}

/// Flags of guided draws ask nothing of plain ones.
#[test]
fn candidates_are_of_guided_draws_alone() {
    let dir = TempDir::new().expect("a temporary folder");
    let more = ["--strategies", "ucb,best-of-n,random", "--queries", "4", "--batch", "2"];
    let flags = ["--", "--steps", "3", "--particles", "2", "--device", "cpu", "--candidates", "2"];
    let out = dir.path().join("out");
    succeeds(optimize(&out, &[&more[..], &flags].concat()));
    assert_eq!(lines(&out.join("runs.jsonl")).len(), 3 * 4);
}

/// Stopped within a round, between rounds, within a line, without its surrogates: the same command leaves the
/// same bytes in every file.
#[test]
fn what_was_stopped_goes_on_to_the_same_bytes() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let more = ["--strategies", "bootstrap,ucb", "--seeds", "1,2", "--noise", "0.2"];
    let table = succeeds(optimize(&out, &more));
    let whole = files(&out);
    let path = out.join("runs.jsonl");
    let text_of_runs = fs::read_to_string(&path).expect("runs");
    assert_eq!(text_of_runs.lines().count(), 48);
    for (kept, cut, surrogates) in [(0, 0, false), (6, 9, true), (8, 0, false), (21, 3, false), (48, 0, true)]
    {
        let bytes: usize = text_of_runs.split_inclusive('\n').take(kept).map(str::len).sum();
        fs::write(&path, &text_of_runs[..bytes + cut]).expect("written");
        if !surrogates {
            fs::remove_dir_all(out.join("surrogates")).expect("removed");
        }
        for name in ["table.md", "summary.json", "figure.png"] {
            fs::remove_file(out.join(name)).expect("removed");
        }
        assert_eq!(succeeds(optimize(&out, &more)), table, "{kept} {cut}");
        let again = files(&out);
        for (name, content) in &whole {
            assert!(again.get(name) == Some(content), "{kept} {cut}: {} differs", name.display());
        }
        assert_eq!(again.len(), whole.len());
    }
    let others: &[(&[&str], &str)] = &[
        (&["--strategies", "ucb", "--seeds", "1,2", "--noise", "0.2"], "strategies differs"),
        (&["--strategies", "bootstrap,ucb", "--seeds", "1,2", "--noise", "0.3"], "noise differs"),
        (
            &["--strategies", "bootstrap,ucb", "--seeds", "1,2", "--noise", "0.2", "--bonus", "2"],
            "bonus differs",
        ),
    ];
    for (other, word) in others {
        fails(optimize(&out, other), 2, &["another optimisation", word, "--output"]);
    }
    let flags = ["--", "--steps", "3", "--particles", "3", "--device", "cpu"];
    let base = ["--strategies", "bootstrap,ucb", "--seeds", "1,2", "--noise", "0.2"];
    let others: [(&[&str], &str); 3] = [
        (&["--eval-reward", "jpeg"], "--eval-reward differs"),
        (&["--method", "tds"], "--method differs (\"das\" there, \"tds\" now)"),
        (&["--spread", "covariance"], "--spread differs"),
    ];
    for (other, word) in others {
        fails(optimize(&out, &[&base[..], other].concat()), 2, &["another optimisation", word]);
    }
    fails(optimize(&out, &[&base[..], &flags].concat()), 2, &["--particles differs"]);
    // A surrogate of another seed, round or strategy is named; without it, all is as it was.
    for (own, other, word) in [
        ("bootstrap/1-0008", "bootstrap/2-0008", "other answers"),
        ("bootstrap/1-0008", "bootstrap/1-0004", "4 answers, not 8"),
        ("ucb/1-0012", "bootstrap/1-0012", "optimism is bootstrap, not ucb"),
    ] {
        let path = |name: &str| out.join("surrogates").join(format!("{name}.safetensors"));
        fs::copy(path(other), path(own)).expect("copied");
        fails(optimize(&out, &more), 1, &[&format!("{own}.safetensors"), word, "remove the file"]);
        fs::remove_file(path(own)).expect("removed");
        succeeds(optimize(&out, &more));
        assert!(files(&out) == whole, "{own}");
    }
    // A picture that was learned from and is gone is named.
    fs::remove_dir_all(out.join("surrogates")).expect("removed");
    fs::write(&path, text_of_runs.split_inclusive('\n').take(6).collect::<String>()).expect("written");
    fs::remove_file(out.join("pictures/plain/1-0002.png")).expect("removed");
    fails(optimize(&out, &more), 1, &["1-0002.png", "put it back"]);
}

/// The page of `report` has its table, curves and pictures, also while it is not finished; `inspect` and
/// `eval` read it.
#[test]
fn its_folder_is_looked_at() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let few = ["--queries", "4", "--batch", "2", "--epochs", "2", "--strategies", "ucb,random"];
    succeeds(optimize(&out, &few));
    let page = |name: &str| {
        let file = dir.path().join(name);
        succeeds(run(&["report", text(&out), "-o", text(&file)]));
        fs::read_to_string(file).expect("a page")
    };
    let whole = page("whole.html");
    for part in
        ["Optimisation out", "Mean answer of a round", "Answers against expectations", "data:image/png"]
    {
        assert!(whole.contains(part), "{part}");
    }
    let facts = json(&succeeds(run(&["inspect", "--json", text(&out)])));
    assert_eq!((&facts["black_box"], &facts["lines"]), (&Value::from("gold"), &Value::from(8)));
    let judged = succeeds(run(&["eval", text(&out), "--reward", "gold"]));
    assert!(judged.contains("out: ucb | 1 | 2 |") && judged.contains("out: random"), "{judged}");
    fs::remove_file(out.join("summary.json")).expect("removed");
    assert!(page("part.html").contains("all queries are done; the same command makes the table"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--queries", "0"], &["--queries 0"]),
        (&["--queries", "-3"], &["--queries"]),
        (&["--batch", "0"], &["--batch 0"]),
        (&["--first", "0"], &["--first 0"]),
        (&["--queries", "4"], &["none are left to guide"]),
        (&["--strategies", "magic"], &["magic", "bootstrap"]),
        (&["--strategies", "ucb,ucb"], &["twice"]),
        (&["--black-box", "gold=2"], &["--black-box gold=2", "weight"]),
        (&["--black-box", "beauty"], &["--black-box", "beauty"]),
        (&["--tower", "gold"], &["--tower"]),
        (&["--method", "random"], &["random"]),
        (&["--method", "best-of-n"], &["--method best-of-n"]),
        (&["--bonus", "-1"], &["--bonus"]),
        (&["--strategies", "greedy", "--bonus", "1"], &["--bonus"]),
        (&["--epochs", "0"], &["--epochs"]),
        (&["--learning-rate", "0"], &["--learning-rate"]),
        (&["--surrogate-batch", "0"], &["--surrogate-batch"]),
        (&["--langevin", "inf"], &["--langevin"]),
        (&["--noise", "-1"], &["--noise"]),
        (&["--template", "nothing"], &["{prompt}"]),
        (&["--template-share", "0.5"], &["--template"]),
        (&["--template", "a {prompt}", "--template-share", "2"], &["--template-share 2"]),
        (&["--", "--reward", "clip"], &["--reward", "--black-box"]),
        (&["--", "--proposal", "tds"], &["--proposal", "--method"]),
        (&["--", "--seed", "3"], &["--seed"]),
        (&["--", "--normalise", "std"], &["--normalise"]),
        (&["--", "--populations", "2"], &["--populations"]),
    ];
    for (args, words) in cases {
        fails(optimize(&out, args), 2, words);
        assert!(!out.exists(), "{args:?} left something");
    }
}

/// A black box of the test's own: what it answers to its requests, one after another, is in its list.
#[cfg(unix)]
fn judge(folder: &Path, answers: &str) -> String {
    let script = folder.join("judge.sh");
    let body = format!(
        "n=0\nfor answer in {answers}; do read -r line || exit 0; id=$(printf %s \"$line\" | sed 's/.*\"id\":\\([0-9]*\\).*/\\1/'); \
         printf '{{\"id\":%s,\"scores\":%s}}\\n' \"$id\" \"$answer\"; done\n"
    );
    let hello = "printf '{\"das_cuda_reward\":1,\"prompts\":false}\\n'\n";
    fs::write(&script, format!("{hello}{body}")).expect("written");
    format!("exec:sh {}", script.display())
}

/// What a black box answers that is no number, or not one for each picture, is an error that names the black
/// box, the round and the query, and nothing that was answered is lost.
#[cfg(unix)]
#[test]
fn a_black_box_that_answers_nonsense_is_named() {
    let dir = TempDir::new().expect("a temporary folder");
    for (number, (nonsense, words)) in [
        ("[null]", &["no finite number", "query 5 of round 1", "ucb, seed 1", "exec"][..]),
        ("[]", &["query 5 of round 1", "ucb, seed 1", "exec"]),
        ("[1,2]", &["query 5 of round 1", "ucb, seed 1", "exec"]),
    ]
    .into_iter()
    .enumerate()
    {
        let out = dir.path().join(number.to_string());
        let good = "[1] [2] [3] [4] [5]";
        let black_box = judge(dir.path(), &format!("{good} {nonsense}"));
        let failed = optimize(&out, &["--black-box", &black_box]);
        let code = if number == 0 { 5 } else { 3 };
        fails(failed, code, words);
        assert_eq!(lines(&out.join("runs.jsonl")).len(), 5, "{nonsense}");
        // Once it answers again, the same command goes on.
        judge(dir.path(), "[6] [7] [8] [9] [10] [11] [12]");
        succeeds(optimize(&out, &["--black-box", &black_box]));
        let answers: Vec<f64> = lines(&out.join("runs.jsonl"))
            .iter()
            .map(|line| line["answer"].as_f64().expect("a number"))
            .collect();
        assert_eq!(answers, (1..=12).map(f64::from).collect::<Vec<_>>());
    }
}
