//! Draws over several devices and several processes: the same files as of one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use super::survive::{CASES, contents_but, same_contents};
use super::{fails, json, lines, record_of, run, succeeds, text};

/// What else may differ in `run.json`.
const OF_THE_PLACE: [&str; 2] = ["device_choice", "shard"];

fn command(home: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_das-cuda"));
    command.env("CUDA_VISIBLE_DEVICES", "").env("HF_HUB_OFFLINE", "1").current_dir(home);
    command.args(["sample", "-o", "out", "-q", "--particles", "3", "--steps", "3"]).args(more);
    if !more.contains(&"--device") {
        command.args(["--device", "cpu"]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(mut command: Command) -> Output {
    command.output().expect("the program starts")
}

fn home() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

#[track_caller]
fn same(found: &Path, expected: &Path, what: &str) {
    let contents = |home: &Path| contents_but(&home.join("out"), &OF_THE_PLACE);
    same_contents(contents(found), contents(expected), what);
}

/// A prompt's particles over two, three and five processors, of which two have nothing to do.
#[test]
fn particles_over_several_devices_have_the_same_bits() {
    let once = |args: &&&[&str]| !args.contains(&"--count") && !args.contains(&"--normalise");
    for args in CASES.iter().filter(once) {
        let (args, _) = args.split_at(args.iter().position(|arg| *arg == "--steps").unwrap_or(args.len()));
        let alone = home();
        succeeds(output(command(alone.path(), args)));
        for devices in ["cpu,cpu", "cpu,cpu,cpu", "cpu,cpu,cpu,cpu,cpu"] {
            let several = home();
            succeeds(output(command(several.path(), &[args, &["--device", devices]].concat())));
            same(several.path(), alone.path(), &format!("{args:?} on {devices}"));
        }
    }
}

const LIST: [&str; 8] = ["-p", "a ring", "-p", "a cross", "-p", "a star", "--eval-reward", "gold"];

/// Several prompts, each on a processor of its own, with scales that are measured once; and two prompts over
/// five processors.
#[test]
fn prompts_over_several_devices_have_the_same_bits() {
    for list in [
        [&LIST[..], &["--count", "2", "--normalise", "std", "--normalise-pictures", "2"]].concat(),
        LIST[..4].to_vec(),
    ] {
        let (alone, several) = (home(), home());
        let printed = succeeds(output(command(alone.path(), &list)));
        let devices = ["--device", if list.len() > 4 { "cpu,cpu" } else { "cpu,cpu,cpu,cpu,cpu" }];
        let shuffled = succeeds(output(command(several.path(), &[&list, &devices[..]].concat())));
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(String::from).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&shuffled), sorted(&printed));
        same(several.path(), alone.path(), &format!("{list:?}"));
    }
}

/// A failure ends the others' taking up of further prompts, and what was under way is kept; resumed on one
/// device all of it is as it would have been.
#[test]
fn a_limit_and_a_kill_over_several_devices_are_gone_on_from() {
    let (alone, several) = (home(), home());
    succeeds(output(command(alone.path(), &LIST)));
    let limited =
        [&LIST[..], &["--device", "cpu,cpu", "--checkpoint-every", "1", "--max-nfe", "30"]].concat();
    fails(output(command(several.path(), &limited)), 6, &["--max-nfe 30 is reached"]);
    let spent: u64 = fs::read_dir(several.path().join("out"))
        .expect("a folder")
        .map(|entry| lines(&entry.expect("an entry").path().join("trace.jsonl")).len() as u64 * 6)
        .sum();
    assert!((1..=30).contains(&spent), "{spent} evaluations");
    let mut child = command(several.path(), &[&LIST[..], &["--device", "cpu,cpu", "--resume"]].concat())
        .spawn()
        .expect("it starts");
    sleep(Duration::from_millis(300));
    child.kill().expect("a signal");
    child.wait().expect("an end");
    succeeds(output(command(several.path(), &[&LIST[..], &["--resume"]].concat())));
    let contents = |home: &TempDir| {
        contents_but(&home.path().join("out"), &["device_choice", "max_nfe", "checkpoint_every"])
    };
    same_contents(contents(&several), contents(&alone), "after a limit and a kill");
}

#[test]
fn devices_that_do_not_go_together_are_refused() {
    for (devices, says) in [
        ("cpu,cuda:0", "several devices must be GPUs"),
        ("auto,cpu", "several devices must be GPUs"),
        ("cuda:1,cuda:1", "`cuda:1` is named twice"),
        ("cpu,", "expected `auto`, `cpu`"),
        ("", "expected `auto`, `cpu`"),
    ] {
        let refused = run(&["sample", "-p", "a", &format!("--device={devices}")]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && said.contains(says), "{devices}: {said}");
    }
}

/// The folders of a run in a directory.
fn folders(home: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(home.join("out"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect();
    all.sort();
    all
}

fn merge(home: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_das-cuda"));
    command.current_dir(home).args(["merge", "out"]).args(more);
    output(command)
}

/// Parts of a list at the same time, one of them killed and started again; in any order, and twice.
#[test]
fn parts_of_a_list_make_what_one_process_makes() {
    let list = [&LIST[..], &["--count", "2", "--checkpoint-every", "1"]].concat();
    let part = |shard: &'static str| [&list[..], &["--shard", shard]].concat();
    let (alone, parts) = (home(), home());
    succeeds(output(command(alone.path(), &list)));
    assert_eq!(succeeds(merge(alone.path(), &[])), "out/table.csv\n");
    let mut killed = command(parts.path(), &part("1/3")).spawn().expect("it starts");
    let others: Vec<_> =
        ["0/3", "2/3"].map(|shard| command(parts.path(), &part(shard)).spawn().expect("it starts")).into();
    sleep(Duration::from_millis(400));
    killed.kill().expect("a signal");
    killed.wait().expect("an end");
    for other in others {
        succeeds(other.wait_with_output().expect("an end"));
    }
    // What is missing is named, and the table is of what there is.
    let open = merge(parts.path(), &[]);
    let begun = folders(parts.path()).len();
    assert!((4..6).contains(&begun) || open.status.success(), "{begun} folders");
    if !open.status.success() {
        fails(open, 1, &["draws have not finished: ", "--shard"]);
    }
    let again = output({
        let mut again = command(parts.path(), &part("auto"));
        again
            .env("SLURM_ARRAY_TASK_ID", "2")
            .env("SLURM_ARRAY_TASK_MIN", "1")
            .env("SLURM_ARRAY_TASK_COUNT", "3");
        again
    });
    succeeds(again);
    // Once more: nothing is left to do, and every folder of the part is named.
    let twice = succeeds(output(command(parts.path(), &part("1/3"))));
    assert_eq!(twice.lines().collect::<Vec<_>>(), ["out/0001-a-ring/best.png", "out/0004-a-star/best.png"]);
    let merged = succeeds(merge(parts.path(), &["--json"]));
    let without_tables = |home: &TempDir| {
        let mut all = contents_but(&home.path().join("out"), &OF_THE_PLACE);
        assert!(["table.csv", "table.jsonl"].iter().all(|name| all.remove(*name).is_some()));
        all
    };
    same_contents(without_tables(&parts), without_tables(&alone), "parts");
    let rows: Vec<_> = merged.lines().map(json).collect();
    assert_eq!(rows.len(), 6);
    for (number, row) in rows.iter().enumerate() {
        let record = record_of(&parts.path().join("out").join(row["folder"].as_str().expect("a folder")));
        assert_eq!((&row["number"], &row["seed"]), (&number.into(), &(42 + number % 2).into()));
        assert_eq!(
            (&row["reward"], &row["eval_rewards.gold"]),
            (&record["result"]["reward"], &record["result"]["eval_rewards"]["gold"])
        );
        assert_eq!(record["shard"], format!("{}/3", number % 3));
    }
    let table = fs::read_to_string(parts.path().join("out/table.csv")).expect("a table");
    assert!(
        table.lines().count() == 7 && table.starts_with("folder,list_sha256,number,index,seed,prompt,"),
        "{table}"
    );
    // A directory that holds another run under the number of a draw, or what is none.
    for (other, says) in
        [(["--kl", "0.7"], "kl was"), (["--save", "best"], "save was \"all\" and is \"best\"")]
    {
        let refused = output(command(parts.path(), &[&part("0/3")[..], &other].concat()));
        fails(refused, 2, &["0000-a-ring: another run is there: ", says, "give another with -o"]);
    }
    let damaged = parts.path().join("out/0000-a-ring/run.json");
    let record = fs::read_to_string(&damaged).expect("a record");
    for text in ["{", "[]", &record.replacen("\"schema\": 1", "\"schema\": 7", 1)] {
        fs::write(&damaged, text).expect("it can be written");
        let refused = output(command(parts.path(), &part("0/3")));
        fails(
            refused,
            1,
            &["0000-a-ring: what is in it is no run that this program knows", "move the folder away"],
        );
        let warned = merge(parts.path(), &[]);
        fails(warned, 1, &["run.json: is no record that this program knows", "0 (not begun)"]);
    }
    fs::write(&damaged, record).expect("it can be written");
    // One that is a folder hides none of the others.
    let folder = parts.path().join("out/0100-a-star");
    fs::create_dir_all(folder.join("run.json")).expect("folders");
    let merged = merge(parts.path(), &[]);
    let said = String::from_utf8_lossy(&merged.stderr).into_owned();
    assert!(merged.status.success() && said.contains("0100-a-star/run.json: is no record"), "{said}");
    fs::remove_dir_all(folder).expect("removed");
    for (shard, says) in [("3/3", "counted from 0"), ("x", "expected I/N"), ("auto", "no variables of Slurm")]
    {
        let refused = output(command(parts.path(), &part(shard)));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && said.contains(says), "{shard}: {said}");
    }
    let empty = output(command(parts.path(), &["-p", "a ring", "--shard", "1/2"]));
    assert!(empty.status.success() && String::from_utf8_lossy(&empty.stderr).contains("has no draws"));
}

/// The same part by several processes at once: each draw is made once, and who comes too late says so.
#[test]
fn a_part_that_runs_twice_is_drawn_once() {
    let home = home();
    let part = [&LIST[..], &["--shard", "0/1", "--threads", "1"]].concat();
    let all: Vec<_> = (0..4).map(|_| command(home.path(), &part).spawn().expect("it starts")).collect();
    for child in all {
        let ended = child.wait_with_output().expect("an end");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        let elsewhere = ended.status.code() == Some(1) && said.contains("are being made by another process");
        assert!(ended.status.success() || elsewhere, "{said}");
    }
    succeeds(output(command(home.path(), &part)));
    assert_eq!(folders(home.path()).len(), 3);
    let merged = merge(home.path(), &[]);
    let said = String::from_utf8_lossy(&merged.stderr).into_owned();
    assert!(merged.status.success() && said == "all draws have finished: 3\n", "{said}");
    // More of the same list, and a copy.
    succeeds(output(command(home.path(), &[&LIST[..], &["-p", "a disk", "--shard", "0/1"]].concat())));
    fs::create_dir(home.path().join("out/0009-copy")).expect("a folder");
    let record = home.path().join("out/0000-a-ring/run.json");
    fs::copy(record, home.path().join("out/0009-copy/run.json")).expect("a copy");
    let merged = merge(home.path(), &[]);
    let said = String::from_utf8_lossy(&merged.stderr).into_owned();
    let twice = "draw 0 is there more than once: 0000-a-ring, 0009-copy";
    assert!(merged.status.success() && said.contains(twice) && said.contains("finished: 4\n"), "{said}");
}

/// No reward is a number for a prompt that states nothing.
#[test]
fn a_draw_that_fails_keeps_none_of_the_others_from_being_made() {
    let home = home();
    let of_checker = ["--reward", "checker", "--proposal", "bootstrap"];
    let list = [&["-p", "a red star", "-p", "hello", "-p", "a ring"][..], &of_checker].concat();
    for devices in ["cpu", "cpu,cpu"] {
        let drawn = output(command(home.path(), &[&list[..], &["--resume", "--device", devices]].concat()));
        fails(drawn, 5, &["error: prompt 1: every particle was lost", "1 of 3 draws failed", "--resume"]);
        assert_eq!(folders(home.path()).len(), 3);
    }
    fails(merge(home.path(), &[]), 1, &["1 of 3 draws have not finished: 1 (0001-hello: failed)"]);
}

#[test]
fn a_part_that_a_launcher_numbers_is_not_guessed() {
    let home = home();
    let mut all = command(home.path(), &["-p", "a ring", "-p", "a cross"]);
    all.env("RANK", "1").env("WORLD_SIZE", "4");
    let all = output(all);
    assert!(all.status.success(), "{}", String::from_utf8_lossy(&all.stderr));
    assert_eq!(folders(home.path()).len(), 2, "nobody asked for a part");
    fs::create_dir(home.path().join("nothing")).expect("a folder");
    fails(run(&["merge", text(&home.path().join("nothing"))]), 2, &["there is no run in it"]);
}
