//! `toy`: what it leaves, that it goes on where it was stopped and says the same anywhere, and what it
//! refuses.

use std::fs;
use std::path::Path;
use std::process::Output;

use das_cuda::toy::Network;
use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

use super::formats::Section;
use super::{fails, json, lines, program, succeeds, text};

fn toy(out: &Path, more: &[&str]) -> Output {
    let mut command = program();
    command.arg("toy").args(more).args(["-q", "-o", text(out)]);
    command.output().expect("the program")
}

const SMALL: [&str; 12] = [
    "gmm1",
    "--analytic",
    "--seeds",
    "1,2",
    "--populations",
    "4",
    "--particles",
    "20",
    "--draws",
    "5",
    "--threads",
    "1",
];

/// Lines of `runs.jsonl` without what differs from time to time.
fn settled(path: &Path) -> Vec<Value> {
    let mut all = lines(path);
    all.iter_mut().for_each(|run| drop(run.as_object_mut().expect("an object").remove("seconds")));
    all
}

fn files(out: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let names =
        ["figure.png", "figure.svg", "runs.jsonl", "summary.json", "table.csv", "table.md", "toy.json"];
    names.map(|name| (name, fs::read(out.join(name)).expect(name))).into()
}

#[test]
fn an_experiment_leaves_its_files_and_goes_on() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md"))
        .expect("docs/formats.md is readable");
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let table = succeeds(toy(&out, &SMALL));
    let runs = lines(&out.join("runs.jsonl"));
    assert_eq!(runs.len(), 14, "seven arms and two seeds");
    let mut section = Section::new(&page, "### runs.jsonl of an experiment");
    runs.iter().for_each(|run| section.check(run));
    section.all_seen();
    for (file, heading) in
        [("toy.json", "### toy.json"), ("summary.json", "### summary.json of an experiment")]
    {
        let mut section = Section::new(&page, heading);
        section.check(&json(&fs::read_to_string(out.join(file)).expect(file)));
        section.all_seen();
    }
    for run in &runs {
        assert_eq!((run["samples"].as_u64(), run["lost"].as_u64()), (Some(20), Some(0)), "{run}");
        assert_eq!(run["points"].as_array().map(Vec::len), Some(20));
        let masses = run["masses"].as_array().expect("masses").iter().filter_map(Value::as_f64).sum::<f64>();
        assert!((masses - 1.0).abs() < 1e-12, "{run}");
        let weighs = ["das", "tds", "bootstrap"].contains(&run["method"].as_str().expect("a name"));
        assert_eq!((weighs, weighs), (run["ess"].is_number(), run["resamplings"].is_number()), "{run}");
        let estimates = run["method"] != "target" && run["method"] != "guidance";
        assert_eq!(run["log_z"].is_number(), estimates, "{run}");
    }
    assert_eq!(table, fs::read_to_string(out.join("table.md")).expect("a table"));
    let csv = fs::read_to_string(out.join("table.csv")).expect("a table");
    let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert!(columns.len() == 8 && columns.iter().all(|n| *n == columns[0]), "{csv}");
    assert!(image::open(out.join("figure.png")).expect("a picture").width() > 1000);
    // With nothing left to do every file keeps its bytes.
    let before = files(&out);
    assert_eq!(succeeds(toy(&out, &SMALL)), table);
    assert!(before == files(&out), "bytes differ");
    let summary = succeeds(toy(&out, &[&SMALL[..], &["--json"]].concat()));
    assert_eq!(summary, fs::read_to_string(out.join("summary.json")).expect("a summary") + "\n");
    // Killed within a line.
    let path = out.join("runs.jsonl");
    let (whole, known) = (fs::read_to_string(&path).expect("runs"), settled(&path));
    let kept: usize = whole.split_inclusive('\n').take(5).map(str::len).sum();
    fs::write(&path, &whole[..kept + 30]).expect("written");
    assert_eq!(succeeds(toy(&out, &SMALL)), table);
    assert_eq!(fs::read_to_string(&path).expect("runs")[..kept], whole[..kept], "what was finished stays");
    assert_eq!(settled(&path), known);
    // A seed of which nothing is finite counts in no mean.
    let whole = fs::read_to_string(&path).expect("runs");
    let mut runs: Vec<Value> = whole.lines().map(json).collect();
    for run in runs.iter_mut().filter(|run| run["seed"] == 2) {
        run["lost"] = run["samples"].clone();
        (run["reward"], run["emd"], run["ess"], run["resamplings"]) =
            (Value::Null, Value::Null, 7000.into(), 7000.into());
    }
    fs::write(&path, runs.iter().map(|run| format!("{run}\n")).collect::<String>()).expect("written");
    let summary = json(&succeeds(toy(&out, &[&SMALL[..], &["--json"]].concat())));
    for row in summary["rows"].as_array().expect("rows") {
        let ess = row["ess"]["mean"].as_f64().unwrap_or_default();
        assert!(ess <= 20.0 && row["ess"]["low"].is_null() && row["lost"] == 20 && row["runs"] == 2, "{row}");
        assert_eq!(
            row["log_z"].is_null(),
            runs.iter().any(|run| run["method"] == row["method"] && run["log_z"].is_null())
        );
    }
    fs::write(&path, whole).expect("written");
    // Another experiment in the same folder, and what the user has there.
    let mine = dir.path().join("mine");
    fs::create_dir(&mine).expect("a folder");
    fs::write(mine.join("figure.svg"), "mine").expect("written");
    fails(toy(&mine, &SMALL), 2, &["mine holds figure.svg, and no toy.json"]);
    let mut other = SMALL.to_vec();
    other[3] = "1,3";
    fails(
        toy(&out, &other),
        2,
        &[
            "holds another experiment: --seeds differs ([1,2] there, [1,3] now)",
            "it began with: ",
            "toy gmm1",
        ],
    );
    let mut other = SMALL.to_vec();
    other[7] = "30";
    fails(toy(&out, &other), 2, &["--particles differs (20 there, 30 now)"]);
    // A device that is not there has begun nothing.
    let absent = dir.path().join("absent");
    let output = toy(&absent, &[&SMALL[..], &["--device", "cuda:99"]].concat());
    assert!(!output.status.success() && !absent.exists(), "{output:?}");
}

/// The numbers of `tests/golden/toy.jsonl`, to the last bit, on any machine and with any number of threads.
#[test]
fn the_same_seed_gives_the_same_bits_anywhere() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let mut args = SMALL.to_vec();
    args[11] = "3";
    succeeds(toy(&out, &args));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/toy.jsonl");
    assert_eq!(settled(&out.join("runs.jsonl")), settled(&golden));
}

/// Networks of a few points and epochs: they are kept, and what is trained on the reward goes on with them.
#[test]
fn networks_are_trained_once_for_each_seed() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let args = [
        &["swiss-roll", "--learn", "200", "--epochs", "20", "--tuning-epochs", "1", "--seeds", "1,2"][..],
        &["--methods", "none,das,guidance,ddpo,backprop,dds,dds-trained", "--threads", "2"],
        &["--populations", "2", "--particles", "8", "--draws", "4"],
    ]
    .concat();
    let table = succeeds(toy(&out, &args));
    assert!(
        table.contains("swiss-roll, trained score") && table.contains("training are not counted"),
        "{table}"
    );
    let networks = ["network-1.safetensors", "network-2.safetensors"].map(|name| out.join(name));
    let bytes = networks.each_ref().map(|path| fs::read(path).expect("a network"));
    assert_ne!(bytes[0], bytes[1]);
    let path = out.join("runs.jsonl");
    let known = settled(&path);
    assert_eq!(known.len(), 16);
    assert!(known.iter().all(|run| run["loss"].is_number() == (run["method"] != "target")));
    // Without its lines everything is drawn again, from the networks that are there, to the same bits.
    fs::write(&path, "").expect("written");
    succeeds(toy(&out, &args));
    assert_eq!(settled(&path), known);
    assert_eq!(networks.each_ref().map(|path| fs::read(path).expect("a network")), bytes);
    // One of another seed or another training is named, and so is a damaged one.
    fs::write(&path, "").expect("written");
    fs::write(&networks[0], &bytes[1]).expect("written");
    fails(toy(&out, &args), 1, &["network-1.safetensors: is the network of seed 2", "remove the file"]);
    let said = |bytes: &[u8]| {
        let (_, header) = SafeTensors::read_metadata(bytes).expect("a header");
        header.metadata().as_ref().expect("metadata")["das-cuda"].clone()
    };
    let other = said(&bytes[0]).replace(r#""epochs":20"#, r#""epochs":30"#);
    let of = |network: &Network, said: &str| network.encode(said).expect("bytes");
    let (mut network, _) = Network::decode("network", &bytes[0], 3).expect("a network");
    fs::write(&networks[0], of(&network, &other)).expect("written");
    fails(toy(&out, &args), 1, &["network-1.safetensors: is a network of epochs 30, not 20"]);
    *network.parameters_mut().last().expect("biases") = vec![0.0, f32::NAN, 0.0];
    fs::write(&networks[0], of(&network, &said(&bytes[0]))).expect("written");
    fails(toy(&out, &args), 1, &["network-1.safetensors", "holds NaN", "remove the file"]);
    fs::write(&networks[0], &bytes[0]).expect("written");
    fs::write(&path, "").expect("written");
    fs::write(&networks[1], &bytes[1][..200]).expect("written");
    let output = toy(&out, &args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("network-2.safetensors: no safetensors file"),
        "{said}"
    );
}

#[test]
fn a_file_of_points_is_a_toy() {
    let dir = TempDir::new().expect("a temporary folder");
    let (file, out) = (dir.path().join("points.csv"), dir.path().join("out"));
    let points: String = (0..60).map(|i| format!("{},{},{}\n", i % 7 - 3, i % 5 - 2, i % 3 - 1)).collect();
    fs::write(&file, format!("x,y,z\n{points}")).expect("written");
    let args = ["--analytic", "--methods", "das", "--seeds", "4", "--populations", "2", "--particles", "8"];
    succeeds(toy(&out, &[&[text(&file)], &args[..]].concat()));
    let runs = lines(&out.join("runs.jsonl"));
    assert!(runs.len() == 2 && runs.iter().all(|run| run["masses"].is_null() && run["emd"].is_number()));
    let design = json(&fs::read_to_string(out.join("toy.json")).expect("a design"));
    assert!(design["design"]["bandwidth"].as_f64().is_some_and(|h| h > 0.0));
    assert_eq!(design["design"]["points_sha256"].as_str().map(str::len), Some(64));
    // The same points under another bandwidth are another experiment.
    let more = [&[text(&file)], &args[..], &["--bandwidth", "0.5"]].concat();
    fails(toy(&out, &more), 2, &["--bandwidth differs"]);
}

#[test]
fn what_is_no_experiment_is_refused_before_anything_is_made() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let csv = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::write(&path, content).expect("written");
        text(&path).to_string()
    };
    let (ragged, empty) = (csv("ragged.csv", "1,2\n1,2,3\n"), csv("empty.csv", ""));
    let (nan, one) = (csv("nan.csv", "1,2\nNaN,3\n"), csv("one.csv", "1,2\n"));
    let words = csv("words.csv", "1,2\nfirst,second\n");
    let semicolons = csv("semicolons.csv", "1;5\n1,2\n3,4\n");
    // A byte order mark is no part of the first number.
    let marked = csv("marked.csv", "\u{feff}1,2\n3,4\n");
    for (args, said) in [
        (&["gmm3"][..], "gmm3: neither a toy nor a file"),
        (&[&ragged], "ragged.csv: line 2 has 3 numbers"),
        (&[&empty], "empty.csv: 0 points"),
        (&[&nan], "nan.csv: line 2 holds NaN"),
        (&[&one], "one.csv: 1 point"),
        (&[&words], "words.csv: line 2 holds what is no number"),
        (&["gmm1", "--populations", "0"], "--populations 0"),
        (&["gmm1", "--particles", "0"], "--particles 0"),
        (&["gmm1", "--draws", "0"], "--draws 0"),
        (&["gmm1", "--populations", "10000000"], "of 100 particles are more than 10000000"),
        (&["gmm1", "--particles", "2", "--draws", "9999999"], "of 9999999 draws are more than 10000000"),
        (&["gmm1", "--seeds", "none"], "none"),
        (&["gmm1", "--seeds", "3..1"], "ends before it begins"),
        (&["gmm1", "--kl", "-1"], "--kl -1"),
        (&["gmm1", "--methods", "das,magic"], "unknown method \"magic\""),
        (&["gmm1", "--methods", "das,twisted"], "twisted is there twice"),
        (&["gmm1", "--methods", "das,ddpo"], "ddpo trains a network, and --analytic has none"),
        (&["gmm1", "--bandwidth", "0.1"], "--bandwidth is of points in a file"),
        (&[&one, "--bandwidth", "0"], "1 point"),
        (&[&semicolons], "semicolons.csv: line 1 holds what is no number"),
        (&[&marked, "--bandwidth", "17"], "--bandwidth"),
    ] {
        let all = [args, &["--analytic"]].concat();
        fails(toy(&out, &all), 2, &[said]);
        assert!(!out.exists(), "{args:?} made something");
    }
    for (args, said) in [
        (&["gmm1", "--epochs", "99999999999"][..], "--epochs 99999999999 is more than"),
        (
            &["gmm1", "--methods", "ddpo", "--tuning-epochs", "99999999999"],
            "--tuning-epochs 99999999999 is more",
        ),
        (&["gmm1", "--tuning-epochs", "3"], "--tuning-epochs 3: no method trains on the reward"),
        (&["gmm1", "--learn", "99999999999"], "--learn 99999999999"),
        (&[&marked, "--learn", "100"], "--learn 100: of a file all points are learned from"),
    ] {
        fails(toy(&out, args), 2, &[said]);
        assert!(!out.exists(), "{args:?} made something");
    }
}
