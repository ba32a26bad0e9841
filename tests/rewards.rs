//! Rewards against PyTorch, Pillow and the definition of gold. Golden files come from
//! `tools/golden/rewards.py` and `tools/shapes/golden.py`. The checker's is read by its own tests, in
//! `src/reward/checker/tests.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use das_cuda::assets::SHAPES_FILES;
use das_cuda::backend::Backend;
use das_cuda::cpu::Cpu;
use das_cuda::model::files::Source;
use das_cuda::pixels::Picture;
use das_cuda::reward::{Fit, Preprocess, Reward, Spec, Sum, gold_score, jpeg_size, open};
use das_cuda::tape::{Tape, Var};
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use das_cuda::{ErrorKind, Result};
use safetensors::SafeTensors;

fn golden(name: &str) -> Vec<u8> {
    let path = golden_path(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn golden_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Pictures `(n, h, w, 3)` or `(h, w, 3)` of bytes.
fn pictures(file: &SafeTensors<'_>, name: &str) -> Vec<Picture> {
    let view = file.tensor(name).unwrap();
    let [.., h, w, 3] = *view.shape() else { panic!("{name} is {:?}", view.shape()) };
    view.data().chunks(h * w * 3).map(|rgb| Picture::new(w, h, rgb.to_vec())).collect()
}

fn doubles(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    file.tensor(name).unwrap().data().chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn gold_is_the_definition_on_pixels() {
    let bytes = golden("shapes_gold.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (pictures, expected) = (pictures(&file, "images"), doubles(&file, "gold"));
    assert_eq!(pictures.len(), expected.len());
    // Sums of 4096 terms in f64: relative error below 4096 * 2^-53 = 5e-13, times 10.
    for (i, (picture, expected)) in pictures.iter().zip(&expected).enumerate() {
        let found = gold_score(picture);
        assert!((found - expected).abs() < 5e-12, "image {i}: {found} against {expected}");
    }
    assert!(expected.contains(&1.0) && expected.iter().any(|g| *g > 5.0), "the file covers both ends");
}

/// A disc of radius `r` around (x, 32).
fn disc(rgb: [u8; 3], ground: [u8; 3], r: f64, x: f64) -> Picture {
    let pixel = |at: usize| {
        let (dx, dy) = ((at % 64) as f64 + 0.5 - x, (at / 64) as f64 + 0.5 - 32.0);
        if dx.hypot(dy) < r { rgb } else { ground }
    };
    Picture::new(64, 64, (0..4096).flat_map(pixel).collect())
}

#[test]
fn gold_prefers_what_it_says_it_prefers() {
    let disc = |rgb, r, x| gold_score(&disc(rgb, [20, 20, 40], r, x));
    let (red, blue) = ([230, 30, 30], [30, 30, 230]);
    let best = disc(red, 17.0, 32.0);
    assert!(best > disc(blue, 17.0, 32.0), "warm");
    assert!(best > disc(red, 8.0, 32.0), "large");
    assert!(best > disc(red, 17.0, 20.0), "centred");
    assert!(best > disc([130, 30, 40], 17.0, 32.0), "contrasting");
    assert_eq!(disc(red, 0.0, 32.0), 1.0, "no object");
}

#[test]
fn jpeg_sizes_are_those_of_libjpeg() {
    let bytes = golden("rewards.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for i in 0..8 {
        let picture = &pictures(&file, &format!("jpeg.{i}.picture"))[0];
        let expected = file.tensor(&format!("jpeg.{i}.bytes")).unwrap();
        let expected = i32::from_le_bytes(expected.data().try_into().unwrap()) as usize;
        // The same arithmetic on integers: not a byte more or less, at the edges too. The fifth picture has
        // 67x45 pixels, of which one has a luma halfway between two integers; the last two are smaller than a
        // unit.
        assert_eq!(jpeg_size(picture).unwrap(), expected, "picture {i}");
    }
}

#[test]
fn a_picture_too_large_for_jpeg_is_refused() {
    let error = jpeg_size(&Picture::new(65521, 1, vec![0; 3 * 65521])).unwrap_err().to_string();
    assert!(error.contains("65521x1") && error.contains("1 to 65520") && error.contains("fix:"), "{error}");
    assert!(jpeg_size(&Picture::new(65520, 1, vec![0; 3 * 65520])).is_ok());
    assert!(jpeg_size(&Picture::new(0, 1, Vec::new())).is_err());
}

// CLIP: a folder of random weights as a user would have it, against PyTorch in float64.

const SHAPES: Source = Source::Embedded(SHAPES_FILES);

/// The prompts of `tools/golden/rewards.py`; the last is longer than the text tower reads.
const PROMPTS: [&str; 3] = [
    "a large red star on a blue background",
    "ring",
    "a small green circle above a large yellow triangle on a white background, and a cross, and a square",
];
const PROMPT_OF: [u32; 3] = [2, 0, 1];

fn specs(texts: &[&str]) -> Vec<Spec> {
    let texts: Vec<String> = texts.iter().map(|t| t.to_string()).collect();
    Spec::parse_all("reward", &texts).unwrap()
}

fn load(texts: &[&str], model: &Source, backend: &Cpu) -> Result<Sum> {
    let mut sum = open(&specs(texts), model, backend)?;
    sum.prepare(backend, &PROMPTS.map(String::from))?;
    Ok(sum)
}

fn tiny(kind: &str) -> String {
    format!("{kind}:{}", golden_path("clip_tiny").display())
}

/// A golden tensor of f32 or f64 and, for one of f32, its shape.
fn tensor(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f64>) {
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let data = view.data();
    let values = match view.dtype() {
        safetensors::Dtype::F64 => doubles(file, name),
        _ => data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
    };
    (view.shape().to_vec(), values)
}

fn upload(backend: &Cpu, (shape, values): &(Vec<usize>, Vec<f64>)) -> Tensor {
    let [n, h, w, c] = shape[..] else { panic!("{shape:?}") };
    let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    backend.upload(Shape::new(n, h, w, c), HostSlice::F32(&values)).unwrap()
}

/// `|found - expected|^2 / |expected|^2`.
fn nmse(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let error: f64 = found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).powi(2)).sum();
    error / expected.iter().map(|e| e * e).sum::<f64>()
}

/// Scores, and the gradient with respect to the images for the cotangents `seed`.
fn value_and_gradient(
    backend: &Cpu,
    reward: &dyn Reward,
    images: &Tensor,
    seed: &[f32],
) -> (Vec<f32>, Option<Vec<f32>>) {
    let tape = Tape::new(backend);
    let leaf = tape.watch(images.clone());
    let score = reward.score(&tape, &leaf, &PROMPT_OF).unwrap();
    assert_eq!(score.shape(), Shape::rows(images.shape().n, 1));
    let values = backend.download(score.value()).unwrap();
    let seed = backend.upload(score.shape(), HostSlice::F32(seed)).unwrap();
    let gradient = tape.gradient(&score, seed, &leaf).unwrap();
    (values, gradient.map(|g| backend.download(&g).unwrap()))
}

#[test]
fn clip_rewards_and_their_gradients_are_those_of_pytorch() {
    let bytes = golden("rewards.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let backend = Cpu::new();
    let seed = [1.0, -0.5, 2.0];
    for size in ["wide", "tall", "square"] {
        let images = upload(&backend, &tensor(&file, &format!("clip.{size}.images")));
        for (reward, key, factor) in
            [("aesthetic", "aesthetic", 1.0), ("clip", "cosine", 20.0), ("pickscore", "cosine", 1.0)]
        {
            let reward = load(&[&tiny(reward)], &SHAPES, &backend).unwrap();
            assert!(reward.differentiable());
            let (values, gradient) = value_and_gradient(&backend, &reward, &images, &seed);
            for (what, found) in [("", values), (".gradient", gradient.unwrap())] {
                let key = format!("{key}{what}");
                let (_, expected) = tensor(&file, &format!("clip.{size}.{key}"));
                let expected: Vec<f64> = expected.iter().map(|e| factor * e).collect();
                // Twice PyTorch's own error in float32, but at least a random walk of 1024 roundings, since a
                // score is but three numbers. Measured: at most 9e-15 (aesthetic), 1.0e-13 (cosine), 1.2e-12
                // (gradients).
                let honest = tensor(&file, &format!("clip.{size}.error.{key}")).1[0];
                let tolerance = (2.0 * honest).max(1024.0 * 2f64.powi(-48));
                let error = nmse(&found, &expected);
                assert!(
                    error <= tolerance,
                    "{} {key} of {size}: {error:.2e} > {tolerance:.2e}",
                    reward.name()
                );
            }
        }
    }
}

#[test]
fn images_reach_the_tower_as_torchvision_would_send_them() {
    let bytes = golden("rewards.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let backend = Cpu::new();
    let folder = Source::Dir(golden_path("clip_tiny"));
    let preprocess = Preprocess::open(&folder, "", 32, &backend).unwrap();
    for size in ["wide", "tall"] {
        let images = upload(&backend, &tensor(&file, &format!("clip.{size}.images")));
        let pixels = preprocess.apply(&Tape::off(&backend), &Var::from(images), Fit::Centre).unwrap();
        assert_eq!(pixels.shape(), Shape::new(3, 32, 32, 3));
        let (_, expected) = tensor(&file, &format!("clip.{size}.pixels"));
        let found = backend.download(pixels.value()).unwrap();
        let worst = found.iter().zip(&expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
        // Pixels are at most 2.2, weights and sums carry a few roundings of 2^-24 each. Measured 6e-7.
        assert!(worst <= 2e-6, "{size}: {worst:.1e}");
    }
}

/// A golden model of `tools/golden/scorers.py`.
fn scorer(kind: &str) -> String {
    let folder = if kind == "imagereward" { "imagereward_tiny" } else { "hpsv2_tiny" };
    format!("{kind}:{}", golden_path(folder).display())
}

#[test]
fn scorers_and_their_gradients_are_those_of_their_packages() {
    let bytes = golden("scorers.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let backend = Cpu::new();
    let seed = [1.0, -0.5, 2.0];
    for (reward, key) in [("hpsv2", "hpsv2"), ("hpsv2.1", "hpsv2"), ("imagereward", "imagereward")] {
        let reward = load(&[&scorer(reward)], &SHAPES, &backend).unwrap();
        assert!(reward.differentiable() && reward.reads_prompt());
        for size in ["wide", "tall", "square"] {
            let images = upload(&backend, &tensor(&file, &format!("{size}.images")));
            let (scores, gradient) = value_and_gradient(&backend, &reward, &images, &seed);
            let expect = |what: &str| tensor(&file, &format!("{size}.{key}.{what}")).1;
            let (score, slope) =
                (nmse(&scores, &expect("score")), nmse(&gradient.unwrap(), &expect("gradient")));
            println!("{} of {size}: scores {score:.1e}, gradients {slope:.1e}", reward.name());
            // Relative 1e-5 and 1e-4, squared. Measured: at most 3.7e-12 and 2.8e-12.
            assert!(score <= 1e-10, "{} of {size}: {score:.1e}", reward.name());
            assert!(slope <= 1e-8, "{} gradient of {size}: {slope:.1e}", reward.name());
        }
    }
}

#[test]
fn one_openclip_file_is_loaded_once_and_serves_clip_too() {
    let bytes = golden("scorers.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let backend = Cpu::new();
    let before = backend.memory().live;
    let one = load(&[&scorer("hpsv2")], &SHAPES, &backend).unwrap();
    let alone = backend.memory().live - before;
    drop(one);
    let weights = golden_path("hpsv2_tiny/open_clip_model.safetensors");
    let by_file = format!("clip:{}", weights.display());
    let sum = load(&[&scorer("hpsv2"), &by_file], &SHAPES, &backend).unwrap();
    let both = backend.memory().live - before;
    assert!(both < alone + 1024, "{both} bytes for two rewards, {alone} for hpsv2");
    // Square images of the tower's size are prepared alike.
    let images = upload(&backend, &tensor(&file, "square.images"));
    let scores = sum.part_scores(&backend, &images, &PROMPT_OF).unwrap();
    for (hps, clip) in scores[0].1.iter().zip(&scores[1].1) {
        assert!((20.0 * hps - clip).abs() < 1e-5, "{hps} and {clip}");
    }
}

#[test]
fn a_file_of_another_scorer_is_refused_by_what_it_is() {
    let backend = Cpu::new();
    let folder = tempfile::tempdir().unwrap();
    let says = |text: &str, kind: ErrorKind, what: &[&str]| {
        let error = load(&[text], &SHAPES, &backend).err().expect("an error");
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{text}");
        what.iter().for_each(|what| assert!(text.contains(what), "`{what}` in: {text}"));
    };
    let clip = golden_path("clip_tiny");
    let of_transformers = clip.join("model.safetensors");
    says("hpsv2", ErrorKind::Usage, &["hpsv2:PATH"]);
    says("imagereward", ErrorKind::Usage, &["imagereward:PATH"]);
    says(&format!("hpsv2:{}", clip.display()), ErrorKind::Model, &["transformers", "OpenCLIP", "fix:"]);
    says(&format!("hpsv2:{}", of_transformers.display()), ErrorKind::Model, &["fix:"]);
    says(&format!("imagereward:{}", of_transformers.display()), ErrorKind::Model, &["transformers", "fix:"]);
    says(
        &format!("clip:{}", of_transformers.display()),
        ErrorKind::Model,
        &["open_clip_config.json", "fix:"],
    );

    // Without its configuration the file must be what was published: the first tensor that is not says so.
    let lone = folder.path().join("hps.safetensors");
    fs::copy(golden_path("hpsv2_tiny/open_clip_model.safetensors"), &lone).unwrap();
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(golden_path("hpsv2_tiny").join(name), folder.path().join(name)).unwrap();
    }
    says(&format!("hpsv2:{}", lone.display()), ErrorKind::Model, &["vocabulary of 49408", "vocab.json"]);
    says(&format!("imagereward:{}", lone.display()), ErrorKind::Model, &["an OpenCLIP file", "fix:"]);
    let judge = folder.path().join("ImageReward.safetensors");
    fs::copy(golden_path("imagereward_tiny/ImageReward.safetensors"), judge).unwrap();
    says(&format!("imagereward:{}", folder.path().display()), ErrorKind::Model, &["vocab.txt", "fix:"]);
    // The two files of HPSv2 are of one shape, and only their names tell them apart.
    let other = folder.path().join("HPS_v2_compressed.pt");
    fs::copy(&lone, &other).unwrap();
    says(&format!("hpsv2.1:{}", other.display()), ErrorKind::Model, &["the weights of hpsv2,", "hpsv2:PATH"]);
    let newer = folder.path().join("HPS_v2.1_compressed.safetensors");
    fs::copy(&lone, &newer).unwrap();
    says(
        &format!("hpsv2:{}", newer.display()),
        ErrorKind::Model,
        &["the weights of hpsv2.1,", "hpsv2.1:PATH"],
    );
    for kind in ["clip", "pickscore", "hpsv2", "imagereward"] {
        let nowhere = "nowhere: there is no such file or folder";
        says(&format!("{kind}:nowhere"), ErrorKind::Model, &[nowhere, "fix:"]);
        if cfg!(unix) {
            says(&format!("{kind}:/dev/zero"), ErrorKind::Model, &["this is a device", "fix:"]);
        }
    }
}

/// Directional derivative by central differences, with the leading error removed (Richardson).
fn slope(
    backend: &Cpu,
    reward: &dyn Reward,
    images: &[f32],
    shape: Shape,
    direction: &[f32],
    step: f32,
) -> f64 {
    let total = |h: f32| -> f64 {
        let moved: Vec<f32> = images.iter().zip(direction).map(|(x, d)| x + h * d).collect();
        let images = Var::from(backend.upload(shape, HostSlice::F32(&moved)).unwrap());
        let score = reward.score(&Tape::off(backend), &images, &PROMPT_OF[..shape.n]).unwrap();
        backend.download(score.value()).unwrap().iter().map(|s| f64::from(*s)).sum()
    };
    let central = |h: f32| (total(h) - total(-h)) / (2.0 * f64::from(h));
    (4.0 * central(step) - central(2.0 * step)) / 3.0
}

#[test]
fn the_gradient_of_a_sum_is_its_slope() {
    let backend = Cpu::new();
    let reward = load(&[&tiny("aesthetic=0.7"), &tiny("clip=-0.5")], &SHAPES, &backend).unwrap();
    let shape = Shape::new(3, 40, 36, 3);
    let wave = |i: usize, f: f32| 0.5 + 0.4 * (f * i as f32).sin();
    let images: Vec<f32> = (0..shape.len()).map(|i| wave(i, 0.017)).collect();
    let direction: Vec<f32> = (0..shape.len()).map(|i| wave(i, 0.31) - 0.5).collect();
    let tensor = backend.upload(shape, HostSlice::F32(&images)).unwrap();
    let (_, gradient) = value_and_gradient(&backend, &reward, &tensor, &[1.0; 3]);
    let gradient = gradient.unwrap();
    let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
    let found = slope(&backend, &reward, &images, shape, &direction, 0.01);
    // Scores of about 10 in f32 over steps of 0.01: 1e-6 / 0.01 = 1e-4 of noise. Measured 1.4e-4.
    assert!((found - expected).abs() < 1e-3 * (1.0 + expected.abs()), "slope {found}, gradient {expected}");
    assert!(expected.abs() > 0.1, "a direction that matters: {expected}");
}

#[test]
fn a_sum_is_linear_and_shares_its_towers() {
    let bytes = golden("rewards.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let backend = Cpu::new();
    let images = upload(&backend, &tensor(&file, "clip.wide.images"));
    let (aesthetic, clip, jpeg) = (tiny("aesthetic"), tiny("clip"), "jpeg");
    let alone = |text: &str| {
        let reward = load(&[text], &SHAPES, &backend).unwrap();
        let score = reward.score(&Tape::off(&backend), &Var::from(images.clone()), &PROMPT_OF).unwrap();
        backend.download(score.value()).unwrap()
    };
    let parts = [alone(&aesthetic), alone(&clip), alone(jpeg)];

    let before = backend.memory().live;
    let one = load(&[&clip], &SHAPES, &backend).unwrap();
    let towers = backend.memory().live - before;
    drop(one);
    let texts = [tiny("aesthetic=2"), tiny("clip=-0.25"), "jpeg=0.5".into()];
    let sum = load(&[&texts[0], &texts[1], &texts[2]], &SHAPES, &backend).unwrap();
    let both = backend.memory().live - before;
    assert!(both < towers + 1024, "{both} bytes for three rewards, {towers} for clip");

    assert_eq!(sum.name(), "2 aesthetic + -0.25 clip + 0.5 jpeg");
    assert!(!sum.differentiable(), "jpeg is not");
    assert!(sum.reads_prompt() && sum.default_alpha() == 0.005);
    let hashes = sum.hashes().unwrap();
    let files: Vec<&str> = hashes.iter().map(|f| f.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(files, ["aesthetic.safetensors", "model.safetensors"], "each file once");
    let score = sum.score(&Tape::off(&backend), &Var::from(images.clone()), &PROMPT_OF).unwrap();
    let found = backend.download(score.value()).unwrap();
    let records = sum.part_scores(&backend, &images, &PROMPT_OF).unwrap();
    let names: Vec<&str> = records.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["aesthetic", "clip", "jpeg"]);
    for i in 0..3 {
        let expected = 2.0 * parts[0][i] - 0.25 * parts[1][i] + 0.5 * parts[2][i];
        // Three products and two sums of numbers below 20, each rounded.
        assert!((found[i] - expected).abs() < 5e-6, "image {i}: {} against {expected}", found[i]);
        (0..3).for_each(|k| assert_eq!(records[k].1[i], parts[k][i]));
    }
}

#[test]
fn each_image_is_compared_with_its_own_prompt() {
    let bytes = golden("rewards.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let backend = Cpu::new();
    let images = Var::from(upload(&backend, &tensor(&file, "clip.square.images")));
    let reward = load(&[&tiny("clip")], &SHAPES, &backend).unwrap();
    let score = |of: &[u32]| {
        backend.download(reward.score(&Tape::off(&backend), &images, of).unwrap().value()).unwrap()
    };
    let by_prompt = [score(&[0; 3]), score(&[1; 3]), score(&[2; 3])];
    let mixed = score(&[2, 0, 1]);
    for (i, of) in [2, 0, 1].into_iter().enumerate() {
        assert_eq!(mixed[i], by_prompt[of][i]);
        assert_ne!(mixed[i], by_prompt[(of + 1) % 3][i]);
    }
}

#[test]
fn a_prompt_that_does_not_fit_is_reported() {
    let backend = Cpu::new();
    let reward = load(&[&tiny("clip"), &tiny("pickscore=2")], &SHAPES, &backend).unwrap();
    let warnings = reward.warnings();
    assert_eq!(warnings.len(), 2, "one prompt of three, two rewards: {warnings:?}");
    assert!(
        warnings[0].contains("clip reads only 16 tokens") && warnings[0].contains("square"),
        "{warnings:?}"
    );
    assert!(!warnings[0].contains("small"), "only what is not read: {warnings:?}");
}

#[test]
fn the_shipped_model_brings_its_own_rewards() {
    // Discs: eight colours, three sizes, centred and not, on two grounds.
    let colours = [
        [220, 40, 40],
        [240, 140, 30],
        [240, 220, 50],
        [50, 180, 70],
        [50, 90, 220],
        [140, 60, 190],
        [240, 130, 180],
        [120, 75, 40],
    ];
    let mut pictures = Vec::new();
    for (i, colour) in colours.iter().enumerate() {
        for (r, x) in [(7.0, 32.0), (12.0, 32.0), (17.0, 32.0), (7.0, 14.0), (12.0, 18.0), (17.0, 22.0)] {
            let ground = if i % 2 == 0 { [30, 30, 60] } else { [225, 225, 230] };
            pictures.push(disc(*colour, ground, r, x));
        }
    }
    let backend = Cpu::new();
    let reward = load(&["aesthetic", "clip", "gold"], &SHAPES, &backend).unwrap();
    let scores = reward.picture_scores(&backend, &pictures, &vec![0; pictures.len()]).unwrap();
    // The proxy was fitted to noisy ratings of gold: it must follow it, not equal it. Measured 0.78.
    let correlation = correlation(&scores[0].1, &scores[2].1);
    assert!(correlation > 0.6, "proxy and gold correlate by {correlation:.2}");
    // The prompt is "a large red star on a blue background": a large red disc on dark blue is closer to it
    // than a small blue one.
    assert!(scores[1].1[2] > scores[1].1[24] + 1.0, "clip {:?}", scores[1].1);
    let files: Vec<String> = reward.hashes().unwrap().iter().map(|f| f.path.clone()).collect();
    assert_eq!(files, ["aesthetic/model.safetensors", "clip/model.safetensors"]);
}

fn correlation(x: &[f32], y: &[f32]) -> f64 {
    let n = x.len() as f64;
    let mean = |v: &[f32]| v.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let (mx, my) = (mean(x), mean(y));
    let product = |a: &[f32], ma: f64, b: &[f32], mb: f64| -> f64 {
        a.iter().zip(b).map(|(a, b)| (f64::from(*a) - ma) * (f64::from(*b) - mb)).sum()
    };
    product(x, mx, y, my) / (product(x, mx, x, mx) * product(y, my, y, my)).sqrt()
}

#[test]
fn pictures_of_any_sizes_score_as_their_floats_do() {
    let bytes = golden("rewards.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let backend = Cpu::new();
    let reward = load(&[&tiny("aesthetic"), "jpeg"], &SHAPES, &backend).unwrap();
    let pictures: Vec<Picture> =
        (0..6).map(|i| pictures(&file, &format!("jpeg.{i}.picture")).remove(0)).collect();
    let scores = reward.picture_scores(&backend, &pictures, &[0; 6]).unwrap();
    for (i, picture) in pictures.iter().enumerate() {
        let shape = Shape::new(1, picture.height, picture.width, 3);
        let image = backend.upload(shape, HostSlice::F32(&picture.to_floats())).unwrap();
        let single = reward.part_scores(&backend, &image, &[0]).unwrap();
        assert_eq!(scores[1].1[i], single[1].1[0]);
        // A batch may be summed in another order: a few roundings of numbers below 10.
        assert!((scores[0].1[i] - single[0].1[0]).abs() < 1e-5);
        assert_eq!(scores[1].1[i], -(jpeg_size(picture).unwrap() as f32) / 1000.0);
    }
}

#[test]
fn rewards_on_bytes_leave_no_gradient_and_report_broken_images() {
    let backend = Cpu::new();
    let shape = Shape::new(3, 16, 16, 3);
    let mut images = vec![0.5f32; shape.len()];
    images[shape.sample() + 7] = f32::NAN;
    let images = backend.upload(shape, HostSlice::F32(&images)).unwrap();
    for name in ["jpeg", "incompressibility", "gold"] {
        let reward = load(&[name], &SHAPES, &backend).unwrap();
        assert!(!reward.differentiable() && !reward.reads_prompt());
        let (values, gradient) = value_and_gradient(&backend, &reward, &images, &[1.0; 3]);
        assert!(gradient.is_none());
        assert!(values[0].is_finite() && values[1].is_nan() && values[0] == values[2], "{name}: {values:?}");
    }
}

#[test]
fn the_checker_reads_the_prompt_of_each_picture() {
    let backend = Cpu::new();
    let mut reward = load(&["checker"], &SHAPES, &backend).unwrap();
    assert!(!reward.differentiable() && reward.reads_prompt());
    let prompts = ["a small red circle", "a large red circle, black background", "a ring", ""];
    reward.prepare(&backend, &prompts.map(String::from)).unwrap();
    let pictures =
        [7.5, 16.0, 7.5, 16.0, 16.0, 16.0, 0.0].map(|r| disc([214, 39, 40], [20, 20, 24], r, 32.0));
    let scores = reward.picture_scores(&backend, &pictures, &[0, 0, 1, 1, 2, 3, 3]).unwrap();
    // The last two are of the prompt that states nothing.
    assert_eq!((scores.len(), scores[0].0.as_str()), (1, "checker"));
    assert_eq!(scores[0].1[..5], [1.0, 0.0, 0.0, 1.0, 0.0]);
    assert!(scores[0].1.len() == 7 && scores[0].1[5..].iter().all(|score| score.is_nan()));
    let large = Picture::new(128, 128, vec![0; 3 * 128 * 128]);
    let error = reward.picture_scores(&backend, &[large], &[0]).expect_err("another size");
    assert_eq!((error.kind(), error.option_name()), (ErrorKind::Usage, None));
}

#[test]
fn a_reward_without_its_files_says_what_it_needs() {
    let backend = Cpu::new();
    let empty = tempfile::tempdir().unwrap();
    let model = Source::Dir(empty.path().to_path_buf());
    let says = |texts: &[&str], model: &Source, kind: ErrorKind, what: &[&str]| {
        let error = load(texts, model, &backend).err().expect("an error");
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{text}");
        what.iter().for_each(|what| assert!(text.contains(what), "`{what}` in: {text}"));
    };
    says(&["aesthetic"], &model, ErrorKind::Usage, &["aesthetic", "no path", "fix:", "aesthetic:PATH"]);
    says(&["clip"], &model, ErrorKind::Usage, &["clip:PATH"]);
    says(&["pickscore"], &SHAPES, ErrorKind::Usage, &["pickscore:PATH"]);
    says(
        &["clip:/nowhere/at/all"],
        &model,
        ErrorKind::Model,
        &["reward clip", "/nowhere/at/all: there is no such file or folder", "fix:"],
    );

    // Towers without a head, a head that is not there, a head for other towers.
    let path = |name: &str| empty.path().join(name);
    for name in ["config.json", "model.safetensors", "vocab.json", "merges.txt"] {
        fs::copy(golden_path("clip_tiny").join(name), path(name)).unwrap();
    }
    let folder = empty.path().display();
    let aesthetic = format!("aesthetic:{folder}");
    says(&[&aesthetic], &SHAPES, ErrorKind::Model, &["reward aesthetic", "aesthetic.safetensors", "fix:"]);
    let missing = format!("aesthetic:{folder},{folder}/head.pth");
    says(&[&missing], &SHAPES, ErrorKind::Model, &["head.pth", "missing", "HEAD.pth"]);
    let foreign = path("foreign.safetensors");
    fs::write(&foreign, SHAPES_FILES.iter().find(|f| f.0 == "aesthetic/model.safetensors").unwrap().1)
        .unwrap();
    let foreign = format!("aesthetic:{folder},{}", foreign.display());
    says(&[&foreign], &SHAPES, ErrorKind::Model, &["foreign.safetensors", "layers.0.weight", "20"]);

    // A head of one's own by its path.
    let head = golden_path("clip_tiny").join("aesthetic.safetensors");
    load(&[&format!("aesthetic:{folder},{}", head.display())], &SHAPES, &backend).unwrap();

    // Weights cut short.
    let whole = fs::read(path("model.safetensors")).unwrap();
    fs::write(path("model.safetensors"), &whole[..whole.len() / 2]).unwrap();
    says(&[&format!("clip:{folder}")], &SHAPES, ErrorKind::Model, &["reward clip", "model.safetensors"]);
}

/// Against a definition in float64 that makes blocks and their transform one after another. Scores are sums
/// of some thousand terms of f32 (measured 2.6e-6), and gradients of small coefficients are differences of
/// large ones (1.3e-11).
#[test]
fn the_jpeg_proxy_and_its_gradient_are_those_of_pytorch() {
    let (bytes, known) = (golden("jpeg_proxy.safetensors"), golden("rewards.safetensors"));
    let (file, known) =
        (SafeTensors::deserialize(&bytes).unwrap(), SafeTensors::deserialize(&known).unwrap());
    let backend = Cpu::new();
    let reward = load(&["jpeg-proxy"], &Source::Embedded(SHAPES_FILES), &backend).unwrap();
    let mut gradients = 0;
    for i in 0..8 {
        let picture = &pictures(&known, &format!("jpeg.{i}.picture"))[0];
        let shape = Shape::new(1, picture.height, picture.width, 3);
        let images = backend.upload(shape, HostSlice::F32(&picture.to_floats())).unwrap();
        let (score, gradient) = value_and_gradient(&backend, &reward, &images, &[1.0]);
        let expected = doubles(&file, &format!("{i}.score"))[0];
        let off = (f64::from(score[0]) / expected - 1.0).abs();
        // Its unit is that of the true size, and at these sizes it is within a tenth of it.
        let true_size = jpeg_size(picture).unwrap() as f64 / 1000.0;
        assert!((expected / -true_size - 1.0).abs() < 0.1, "picture {i}: {expected} for {true_size} kB");
        println!("picture {i}: score off by {off:.1e}");
        assert!(off < 1e-5, "picture {i}: {} against {expected}", score[0]);
        let Ok(view) = file.tensor(&format!("{i}.gradient")) else { continue };
        let of_four = view.data().chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
        let slope = nmse(&gradient.unwrap(), &of_four.collect::<Vec<_>>());
        println!("picture {i}: gradient off by {slope:.1e}");
        assert!(slope < 1e-9, "picture {i}: gradient off by {slope:.1e}");
        gradients += 1;
    }
    assert_eq!(gradients, 4);
}

/// Its slope along a direction is that of its gradient, also where the sides are no whole units; and an image
/// that is not finite has no score.
#[test]
fn the_jpeg_proxy_has_the_slope_of_its_gradient() {
    let backend = Cpu::new();
    let reward = load(&["jpeg-proxy"], &Source::Embedded(SHAPES_FILES), &backend).unwrap();
    let shape = Shape::new(2, 19, 23, 3);
    let pixel = |i: usize| 0.5 + 0.3 * ((i as f32 * 0.37).sin() * (i as f32 * 0.011).cos());
    let images: Vec<f32> = (0..shape.len()).map(pixel).collect();
    let direction: Vec<f32> = (0..shape.len()).map(|i| (i as f32 * 1.7).sin()).collect();
    let tensor = backend.upload(shape, HostSlice::F32(&images)).unwrap();
    let (scores, gradient) = value_and_gradient(&backend, &reward, &tensor, &[1.0; 2]);
    let gradient = gradient.unwrap();
    let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
    let found = slope(&backend, &reward, &images, shape, &direction, 2e-4);
    // Scores of about 1 in f32 over steps of 2e-4 are noise of 1e-3, and within a step some of the pieces of
    // its bits bend. Measured 3e-3.
    println!("slope {found}, gradient {expected}");
    assert!((found - expected).abs() < 0.02 * (1.0 + expected.abs()), "slope {found}, gradient {expected}");
    assert!(scores.iter().all(|score| score.is_finite() && *score < 0.0));
    let mut broken = images;
    broken[5] = f32::NAN;
    let tensor = backend.upload(shape, HostSlice::F32(&broken)).unwrap();
    let (scores, _) = value_and_gradient(&backend, &reward, &tensor, &[1.0; 2]);
    assert!(scores[0].is_nan() && scores[1].is_finite(), "{scores:?}");
}
