//! `score --check`: what agrees, disagrees, and could not be checked.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{fails, json as parsed, only_folder, program, sample, succeeds, text};

/// A folder with the picture of a run, and what `gold` and `clip` give it.
fn picture() -> (TempDir, Value) {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    succeeds(sample(&out, &["-p", "a star", "--proposal", "none", "--save", "best"]));
    let picture = dir.path().join("star.png");
    fs::copy(only_folder(&out).join("best.png"), &picture).expect("a picture");
    let score = program().args(["score", "--reward", "gold", "--reward", "clip", text(&picture)]).output();
    let rewards = parsed(&succeeds(score.expect("the program starts")))["rewards"].clone();
    (dir, rewards)
}

fn pair(image: &str, reward: &str, score: &Value) -> Value {
    json!({"image": image, "reward": reward, "score": score, "tolerance": 1e-6, "source": "here"})
}

/// Checks these lines, kept beside the picture.
fn check(dir: &Path, pairs: &[Value], more: &[&str]) -> Output {
    let file = dir.join("pairs.jsonl");
    let lines: Vec<String> = pairs.iter().map(|pair| format!("{pair}\n")).collect();
    fs::write(&file, lines.join("\n")).expect("it can be written");
    let mut command = program();
    command.env("HF_HUB_CACHE", dir.join("cache")).args(["score", "--device", "cpu", "--check", text(&file)]);
    command.args(more).output().expect("the program starts")
}

fn lines(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(parsed).collect()
}

#[test]
fn scores_agree_or_not_and_the_exit_code_says_so() {
    let (dir, rewards) = picture();
    let dir = dir.path();
    // The prompt of `clip` is in the picture.
    let both = [pair("star.png", "gold", &rewards["gold"]), pair("star.png", "clip", &rewards["clip"])];
    let model = ["-m", concat!(env!("CARGO_MANIFEST_DIR"), "/assets/shapes")];
    let output = check(dir, &both, &model);
    let told = lines(&output);
    assert!(told.iter().all(|line| line["agrees"] == true && line["skipped"].is_null()), "{told:?}");
    assert_eq!((told.len(), &told[0]["score"]), (2, &told[0]["published"]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("2 checked: 2 agree, 0 disagree; 0 skipped"));
    succeeds(output);

    let off = json!(rewards["gold"].as_f64().expect("a number") + 0.01);
    let output = check(dir, &[both[1].clone(), pair("star.png", "gold", &off)], &model);
    let agreed: Vec<Value> = lines(&output).iter().map(|line| line["agrees"].clone()).collect();
    assert_eq!(agreed, [true, false]);
    fails(output, 5, &["1 of 2 scores disagree"]);
    let mut wide = pair("star.png", "gold", &off);
    wide["tolerance"] = json!(0.02);
    succeeds(check(dir, &[wide], &[]));
    let mut other = both[1].clone();
    other["prompt"] = json!("a large blue square");
    fails(check(dir, &[other], &model), 5, &["1 of 1 scores disagree"]);
    // Nobody published what the embedded towers say.
    for named in [&[][..], &["--reward", "clip"]] {
        fails(check(dir, &both[1..], named), 2, &["nothing could be checked", "clip:PATH"]);
    }
}

#[test]
fn what_is_missing_is_skipped_and_nothing_at_all_is_an_error() {
    let (dir, rewards) = picture();
    let dir = dir.path();
    let gold = pair("star.png", "gold", &rewards["gold"]);
    let gone = pair("gone.png", "gold", &rewards["gold"]);
    let mut judged = pair("star.png", "imagereward", &json!(0.5));
    judged["prompt"] = json!("a star");
    let output = check(dir, &[gone.clone(), judged.clone(), gold.clone()], &[]);
    let told = lines(&output);
    let skipped: Vec<&str> = told.iter().map(|line| line["skipped"].as_str().unwrap_or_default()).collect();
    assert_eq!((skipped[0], skipped[1]), ("the image is missing", ""));
    assert!(skipped[2].contains("weights are missing; --reward imagereward"), "{skipped:?}");
    assert!(told[0]["agrees"].is_null() && told[0]["score"].is_null());
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 checked: 1 agree, 0 disagree; 2 skipped"));
    succeeds(output);
    fails(check(dir, &[gone, judged.clone()], &[]), 2, &["nothing could be checked", "--images"]);
    // Rewards that are named are those that are checked.
    fails(check(dir, std::slice::from_ref(&gold), &["--reward", "clip"]), 2, &["--reward names others"]);
    succeeds(check(dir, &[gold.clone(), judged.clone()], &["--reward", "gold"]));
    fails(check(dir, &[judged], &["--reward", "imagereward:nowhere"]), 3, &["nowhere"]);
    // Images lie where the user says.
    let elsewhere = dir.join("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    fs::rename(dir.join("star.png"), elsewhere.join("star.png")).expect("moved");
    fails(check(dir, std::slice::from_ref(&gold), &[]), 2, &["nothing could be checked"]);
    succeeds(check(dir, std::slice::from_ref(&gold), &["--images", text(&elsewhere)]));
    fs::write(elsewhere.join("star.png"), "no picture").expect("damaged");
    let damaged = &["nothing could be checked", "line 1", "star.png", "not an image"];
    fails(check(dir, &[gold], &["--images", text(&elsewhere)]), 2, damaged);
}

#[test]
fn pairs_that_cannot_be_meant_are_refused_by_their_line() {
    let (dir, rewards) = picture();
    let dir = dir.path();
    let gold = pair("star.png", "gold", &rewards["gold"]);
    let with = |key: &str, value: Value| {
        let mut pair = gold.clone();
        pair[key] = value;
        pair
    };
    for (wrong, says) in [
        (with("reward", json!("beauty")), "no reward is called \"beauty\""),
        // A file from anywhere starts no program.
        (with("reward", json!("exec:touch ran")), "more than a name"),
        (with("reward", json!("gold=2")), "more than a name"),
        (with("tolerance", json!(-1)), "tolerance -1 is negative"),
        (with("tolerance", Value::Null), "no pair"),
        (with("scores", json!(1)), "unknown field"),
        (json!({"image": "star.png"}), "missing field"),
        (json!([1]), "no pair"),
        // By position, this would be a pair.
        (json!(["star.png", "a", "gold", 1, 1, "here"]), "no pair"),
        (with("image", json!("")), "no path"),
    ] {
        // Lines between are blank.
        fails(check(dir, &[gold.clone(), wrong], &[]), 2, &["pairs.jsonl: line 3", says]);
    }
    fails(check(dir, &[], &[]), 2, &["holds no pair"]);
    fails(check(dir, std::slice::from_ref(&gold), &["--reward", "gold=2"]), 2, &["weight", "--check"]);
    fails(check(dir, std::slice::from_ref(&gold), &["-p", "a star"]), 2, &["--check"]);
    fails(check(dir, std::slice::from_ref(&gold), &[text(&dir.join("star.png"))]), 2, &["--check"]);
    let nowhere = program().args(["score", "--check", "nowhere.jsonl"]).output().expect("starts");
    fails(nowhere, 1, &["--check nowhere.jsonl"]);
    let folder = check(dir, std::slice::from_ref(&gold), &["--images", "no-folder"]);
    fails(folder, 2, &["--images no-folder"]);
    let alone = program().args(["score", "--images", "x", "--reward", "gold", "y"]).output().expect("starts");
    fails(alone, 2, &["--check"]);
}

/// The pairs that are shipped can be read, each has an address, and images are not shipped.
#[test]
fn the_published_pairs_are_there_without_their_images() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/published/scores.jsonl");
    let page = fs::read_to_string(&file).expect("the pairs");
    assert!(page.lines().count() > 0 && page.lines().all(|line| line.contains("https://")), "{page}");
    let dir = TempDir::new().expect("a temporary folder");
    let mut command = program();
    command.env("HF_HUB_CACHE", dir.path()).args(["score", "--check", text(&file)]);
    let output = command.output().expect("the program starts");
    assert_eq!(lines(&output).len(), page.lines().count());
    fails(output, 2, &["nothing could be checked"]);
}
