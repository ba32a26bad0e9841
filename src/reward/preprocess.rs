//! From an image to what an image tower sees, on the tape (docs/spec.md 7, the tensor path): resized to the
//! tower's size with an antialiased filter, made square, channels normalised.

use serde_json::Value;

use crate::backend::{Backend, Filter};
use crate::error::{Error, Result};
use crate::model::files::{Source, join, json};
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

/// CLIP's own statistics.
const MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// How an image becomes a square of the tower's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The shorter side resized by a triangle filter, the centre kept: aesthetic, CLIP and PickScore.
    Centre,
    /// The shorter side resized by a cubic filter, the centre kept as torchvision's `CenterCrop` does, whose
    /// odd margins are rounded to the even number: ImageReward.
    CubicCentre,
    /// The longer side resized by a cubic filter, black around the image: HPSv2.
    CubicWhole,
}

/// Resize, crop and normalise for one tower.
pub struct Preprocess {
    side: usize,
    /// `(x - mean) / std` as `x * gain + shift`.
    gain: Tensor,
    shift: Tensor,
}

impl Preprocess {
    /// For square inputs of `side` pixels. Mean and std are those of `component/preprocessor_config.json` if
    /// there is one, else CLIP's.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file, for values that are no mean or std.
    pub fn open(source: &Source, component: &str, side: usize, backend: &dyn Backend) -> Result<Preprocess> {
        let rel = join(component, FILE);
        let (mean, std) = if source.exists(&rel) {
            parse(&source.read(&rel)?, side).map_err(|e| e.context(source.describe(&rel)))?
        } else {
            (MEAN, STD)
        };
        Preprocess::new(side, mean, std, backend)
    }

    /// For square inputs of `side` pixels; CLIP's own mean and deviation where none are given.
    ///
    /// # Errors
    /// Of the backend.
    pub fn with(
        side: usize,
        mean: Option<[f64; 3]>,
        std: Option<[f64; 3]>,
        backend: &dyn Backend,
    ) -> Result<Preprocess> {
        Preprocess::new(side, mean.unwrap_or(MEAN), std.unwrap_or(STD), backend)
    }

    fn new(side: usize, mean: [f64; 3], std: [f64; 3], backend: &dyn Backend) -> Result<Preprocess> {
        let gain = std.map(|s| (1.0 / s) as f32);
        let shift = [0, 1, 2].map(|c| (-mean[c] / std[c]) as f32);
        Ok(Preprocess {
            side,
            gain: backend.upload(Shape::vector(3), HostSlice::F32(&gain))?,
            shift: backend.upload(Shape::vector(3), HostSlice::F32(&shift))?,
        })
    }

    /// `(n, h, w, 3)` in [0, 1] to `(n, side, side, 3)`.
    ///
    /// # Errors
    /// Of the backend.
    #[track_caller]
    pub fn apply(&self, tape: &Tape<'_>, images: &Var, fit: Fit) -> Result<Var> {
        let Shape { h, w, c, .. } = images.shape();
        assert_eq!(c, 3, "images are (n, h, w, 3), got {}", images.shape());
        let (tall, wide) = match fit {
            Fit::Centre | Fit::CubicCentre => resized(h, w, self.side),
            Fit::CubicWhole => resized_whole(h, w, self.side),
        };
        let filter = if fit == Fit::Centre { Filter::Bilinear } else { Filter::Bicubic };
        let x =
            if (tall, wide) == (h, w) { images.clone() } else { tape.resize(images, tall, wide, filter)? };
        let x = match fit {
            Fit::Centre => crop(tape, &x, self.side, |margin| margin / 2)?,
            Fit::CubicCentre => {
                crop(tape, &x, self.side, |margin| margin / 2 + (margin % 2) * (margin / 2 % 2))?
            }
            Fit::CubicWhole => surround(tape, &x, self.side)?,
        };
        tape.channel_affine(&x, &self.gain, Some(&self.shift))
    }
}

const FILE: &str = "preprocessor_config.json";

/// The shorter side becomes `side`, the longer keeps the proportion, rounded down (as torchvision).
fn resized(h: usize, w: usize, side: usize) -> (usize, usize) {
    if h <= w { (side, side * w / h) } else { (side * h / w, side) }
}

/// The longer side becomes `side`, the shorter keeps the proportion, rounded to the even number at a half (as
/// Python rounds) and at least one pixel.
fn resized_whole(h: usize, w: usize, side: usize) -> (usize, usize) {
    let scale = side as f64 / h.max(w) as f64;
    let scaled = |length: usize| ((length as f64 * scale).round_ties_even() as usize).max(1);
    (scaled(h), scaled(w))
}

/// The central `side` x `side` pixels; `before` says how much of a margin is cut at the beginning. Rows and
/// columns are runs of channels under other shapes.
fn crop(tape: &Tape<'_>, x: &Var, side: usize, before: fn(usize) -> usize) -> Result<Var> {
    let Shape { n, h, w, c } = x.shape();
    let mut x = x.clone();
    if w > side {
        let rows = x.reshape(Shape::rows(n * h, w * c));
        x = tape.slice(&rows, before(w - side) * c, side * c)?;
    }
    if h > side {
        let images = x.reshape(Shape::rows(n, h * side * c));
        x = tape.slice(&images, before(h - side) * side * c, side * side * c)?;
    }
    Ok(x.reshape(Shape::new(n, side, side, c)))
}

/// The image in the middle of `side` x `side` black pixels; where the margin is odd, one more is at the end.
fn surround(tape: &Tape<'_>, x: &Var, side: usize) -> Result<Var> {
    let Shape { n, h, w, c } = x.shape();
    let x = pad(tape, &x.reshape(Shape::rows(n * h, w * c)), w, side, c)?;
    let x = pad(tape, &x.reshape(Shape::rows(n, h * side * c)), h, side, c)?;
    Ok(x.reshape(Shape::new(n, side, side, c)))
}

/// Zeros before and behind each sample of `x`, which is `length` runs of pixels of `c` channels, to make
/// `side` runs of it.
fn pad(tape: &Tape<'_>, x: &Var, length: usize, side: usize, c: usize) -> Result<Var> {
    let Shape { n, c: all, .. } = x.shape();
    let run = all / length;
    let zeros = |count: usize| -> Result<Var> {
        // Made as pixels, so that they are kept in the precision of pixels.
        let zeros = tape.backend().zeros(Shape::new(n, 1, count * run / c, c))?;
        Ok(Var::from(zeros).reshape(Shape::rows(n, count * run)))
    };
    let (before, behind) = ((side - length) / 2, (side - length).div_ceil(2));
    let mut x = x.clone();
    if before > 0 {
        x = tape.concat(&zeros(before)?, &x)?;
    }
    if behind > 0 {
        x = tape.concat(&x, &zeros(behind)?)?;
    }
    Ok(x)
}

/// Mean and deviation of each channel. What else the file says is what is done here, or is refused; but for
/// the filter (`resample`), which on tensors is always a triangle.
fn parse(bytes: &[u8], side: usize) -> Result<([f64; 3], [f64; 3])> {
    let settings = json::parse(bytes)?;
    let refuse = |key: &str, supported: &str| {
        Err(Error::model(format!(
            "{key} is {}, which is not supported; supported: {supported}",
            settings[key]
        ))
        .advice("use a CLIP model that prepares its images as CLIP does"))
    };
    for key in ["do_resize", "do_center_crop", "do_rescale", "do_normalize"] {
        if settings.get(key).is_some_and(|v| v.as_bool() != Some(true)) {
            return refuse(key, "true");
        }
    }
    let factor = settings.get("rescale_factor").map(Value::as_f64);
    if factor.is_some_and(|factor| factor.is_none_or(|x| (255.0 * x - 1.0).abs() > 1e-6)) {
        return refuse("rescale_factor", "1/255");
    }
    for (key, parts) in [("size", &["shortest_edge"][..]), ("crop_size", &["height", "width"])] {
        // One number in files of old versions.
        let right = |v: &Value| match v {
            Value::Object(map) => {
                !map.is_empty()
                    && map.iter().all(|(k, v)| parts.contains(&k.as_str()) && v.as_u64() == Some(side as u64))
            }
            v => v.as_u64() == Some(side as u64),
        };
        if settings.get(key).is_some_and(|v| !v.is_null() && !right(v)) {
            return refuse(key, &format!("the image_size of the tower, {side}"));
        }
    }
    let three = |key: &str, default: [f64; 3], ok: fn(f64) -> bool| {
        let Some(value) = settings.get(key).filter(|v| !v.is_null()) else { return Ok(default) };
        let list: Option<Vec<f64>> =
            value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        match list.as_deref() {
            Some(&[r, g, b]) if [r, g, b].into_iter().all(ok) => Ok([r, g, b]),
            _ => Err(Error::model(format!("{key} is {value}, expected three numbers between 0 and 1"))
                .advice("download the file again, or remove it to use CLIP's own values")),
        }
    };
    // Of intensities between 0 and 1. A deviation of less than a step of 8 bits is none.
    let mean = three("image_mean", MEAN, |x| (0.0..=1.0).contains(&x))?;
    let std = three("image_std", STD, |x| (1.0 / 256.0..=1.0).contains(&x))?;
    Ok((mean, std))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_side_decides() {
        assert_eq!(resized(512, 512, 224), (224, 224));
        assert_eq!(resized(40, 53, 32), (32, 42)); // 42.4
        assert_eq!(resized(45, 24, 32), (60, 32));
        assert_eq!(resized(64, 64, 64), (64, 64));
    }

    #[test]
    fn the_longer_side_decides_where_the_whole_image_is_kept() {
        assert_eq!(resized_whole(512, 512, 224), (224, 224));
        assert_eq!(resized_whole(40, 53, 32), (24, 32)); // 24.15
        assert_eq!(resized_whole(64, 5, 32), (32, 2)); // 2.5
        assert_eq!(resized_whole(1000, 1, 32), (32, 1)); // 0.03
    }

    #[test]
    fn settings_are_read_and_nonsense_refused() {
        let (mean, std) = parse(br#"{"image_mean": [0.5, 0.5, 0.5]}"#, 224).unwrap();
        assert_eq!((mean, std), ([0.5; 3], STD));
        let usual =
            br#"{"crop_size": {"height": 224, "width": 224}, "do_center_crop": true, "do_convert_rgb": true,
            "do_normalize": true, "do_rescale": true, "do_resize": true, "resample": 3,
            "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 224}}"#;
        assert_eq!(parse(usual, 224).unwrap(), (MEAN, STD));
        assert_eq!(parse(br#"{"crop_size": 32, "size": 32}"#, 32).unwrap(), (MEAN, STD));
        for bad in [
            "{",
            r#"{"image_std": [0, 1, 1]}"#,
            r#"{"image_std": [1e-300, 1, 1]}"#,
            r#"{"image_mean": [1e300, 0, 0]}"#,
            r#"{"image_mean": 0.5}"#,
            r#"{"image_mean": [1, 2]}"#,
            r#"{"image_mean": [NaN, 0, 0]}"#,
            r#"{"do_normalize": false}"#,
            r#"{"rescale_factor": 1}"#,
            r#"{"crop_size": 225}"#,
            r#"{"size": {"height": 224, "width": 224}}"#,
        ] {
            let text = parse(bad.as_bytes(), 224).unwrap_err().to_string();
            assert!(text.contains("fix:"), "{text}");
        }
    }
}
