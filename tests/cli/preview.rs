//! `--preview`: pictures of what the particles are about to become, and the same result as without.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::{fails, folders, model, only_folder, record_of, run, sample, succeeds, text};

/// What a run leaves that its bits decide.
fn results(folder: &Path) -> Vec<Vec<u8>> {
    let names = ["best.png", "grid.png", "particles/000.png", "particles/001.png", "particles.jsonl"];
    names.iter().map(|name| fs::read(folder.join(name)).expect(name)).collect()
}

#[test]
fn previews_are_written_when_due_and_change_nothing() {
    let dir = TempDir::new().expect("a temporary folder");
    let (plain, shown) = (dir.path().join("plain"), dir.path().join("shown"));
    // Every kind of step: with a new gradient, with a held one, and with resampling.
    let steps = ["-p", "a star", "--steps", "5", "--gradient-every", "2", "--ess-threshold", "1"];
    succeeds(sample(&plain, &steps));
    succeeds(sample(&shown, &[&steps[..], &["--preview", "2"]].concat()));
    let (plain, shown) = (only_folder(&plain), only_folder(&shown));
    assert!(results(&plain) == results(&shown), "a preview changed the result");
    assert!(!plain.join("previews").exists());
    assert_eq!(folders(&shown.join("previews")), ["002.png", "004.png"]);
    assert_eq!((&record_of(&plain)["preview"], &record_of(&shown)["preview"]), (&().into(), &2.into()));
    let late = ["sample", "-p", "a star", "--particles", "2", "--steps", "5", "--preview", "5", "-o"];
    let late = run(&[&late[..], &[text(&dir.path().join("late"))]].concat());
    let said = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(late.status.success() && said.contains("--preview 5 writes none"), "{said}");
    // Two particles of 64 pixels side by side, with a gap of 2 around each.
    let size = image::image_dimensions(shown.join("previews/004.png")).expect("a picture");
    assert_eq!(size, (134, 68));
    // It comes nearer to what it becomes, and is nearer to that than grey is: 3 steps from the end, 1 step,
    // grey.
    let read = |name: &str| image::open(shown.join(name)).expect("a picture").into_rgb8().into_raw();
    let end = read("grid.png");
    let distance = |picture: &[u8]| -> f64 {
        let squares = picture.iter().zip(&end).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        squares.sum::<f64>() / end.len() as f64
    };
    let grey = distance(&vec![128; end.len()]);
    let (early, late) = (distance(&read("previews/002.png")), distance(&read("previews/004.png")));
    assert!(late < early && late < grey, "{early}, {late}, {grey}");
}

#[test]
fn other_models_are_shown_by_a_map_or_by_their_decoder() {
    let (dir, root) = model();
    let mut pictures = Vec::new();
    for (name, more) in [("map", vec![]), ("decoder", vec!["--preview-decoder"])] {
        let out = dir.path().join(name);
        let args = ["-p", "a star", "-m", text(&root), "--proposal", "none", "--preview", "1"];
        succeeds(sample(&out, &[&args[..], &more].concat()));
        let path = only_folder(&out).join("previews/001.png");
        assert_eq!(image::image_dimensions(&path).expect("a picture"), (134, 68), "{name}");
        pictures.push(fs::read(path).expect("a preview"));
    }
    assert!(pictures[0] != pictures[1], "the decoder decoded nothing");
}

#[test]
fn populations_are_told_apart_and_a_replaced_run_leaves_no_previews() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let args = ["-p", "a star", "--proposal", "none", "--overwrite"];
    succeeds(sample(&out, &[&args[..], &["--preview", "1", "--populations", "2"]].concat()));
    let folder = only_folder(&out);
    assert_eq!(folders(&folder.join("previews")), ["0-001.png", "1-001.png"]);
    fs::write(folder.join("previews/mine.txt"), "kept").expect("written");
    succeeds(sample(&out, &args));
    assert_eq!(folders(&folder.join("previews")), ["mine.txt"], "what others have put there stays");
    fails(sample(&out, &[&args[..], &["--preview", "0"]].concat()), 2, &["--preview 0"]);
}
