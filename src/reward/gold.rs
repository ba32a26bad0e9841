//! `gold`: the preference behind the shapes world, measured on pixels. It is what the `aesthetic` head of the
//! shipped model is a noisy proxy of, so it shows over-optimisation: the proxy rises, gold falls. Scenes with
//! one plain ground and one or two bright objects are what it can read; it answers for any image.
//!
//! ```text
//! gold = 1 + 9 (0.30 warmth + 0.25 size + 0.25 centring + 0.20 contrast)       in [1, 10]
//! ```
//!
//! The definition is `tools/shapes/gold.py`; this is its port, number for number.

use super::host::HostReward;
use super::kind::{Needs, RewardKind};
use crate::pixels::Picture;

pub(super) static REWARD: RewardKind = RewardKind {
    name: "gold",
    about: "preference of the shapes world, on pixels",
    needs: Needs { files: None, prompt: false, gradient: false },
    default_alpha: 0.1,
    source: "tools/shapes/gold.py; alpha as for jpeg",
    open: |_, name, _| {
        Ok(Box::new(HostReward::new(name, REWARD.default_alpha, |picture: &_| Ok(gold_score(picture)))))
    },
};

/// Distance from the ground (bytes, Euclidean) at which a pixel starts to count as object, and the further
/// distance at which it counts in full.
const NEAR: f64 = 32.0;
const RAMP: f64 = 32.0;
/// Less object than this many pixels of a 64x64 image is no object.
const SMALLEST: f64 = 8.0;

/// Gold of one picture, in [1, 10]; 1 when it shows no object.
pub fn gold_score(picture: &Picture) -> f64 {
    let (w, h) = (picture.width, picture.height);
    if w == 0 || h == 0 {
        return 1.0;
    }
    let ground = frame_median(picture);
    let (wf, hf) = (w as f64, h as f64);
    let (mut total, mut x, mut y, mut colour) = (0.0, 0.0, 0.0, [0.0; 3]);
    for (at, pixel) in picture.rgb.chunks_exact(3).enumerate() {
        let pixel = [0, 1, 2].map(|c| f64::from(pixel[c]));
        let mask = ((distance(pixel, ground) - NEAR) / RAMP).clamp(0.0, 1.0);
        total += mask;
        x += mask * ((at % w) as f64 + 0.5);
        y += mask * ((at / w) as f64 + 0.5);
        for c in 0..3 {
            colour[c] += mask * pixel[c];
        }
    }
    if total < SMALLEST * hf * wf / 4096.0 {
        return 1.0;
    }
    let colour = colour.map(|c| c / total);
    let off = [(x / total - wf / 2.0) / wf, (y / total - hf / 2.0) / hf];
    // Both are at most a half: not `hypot`, which is a newer one of the C library than anything else here
    // needs.
    let off_centre = 64.0 * (off[0].powi(2) + off[1].powi(2)).sqrt();
    let warmth = (1.0 + (colour[0] - colour[2]) / 255.0) / 2.0;
    let size = (total / (hf * wf) / 0.2).min(1.0).sqrt();
    let centring = (1.0 - off_centre / 24.0).max(0.0);
    let contrast = (distance(colour, ground) / 300.0).min(1.0);
    1.0 + 9.0 * (0.30 * warmth + 0.25 * size + 0.25 * centring + 0.20 * contrast)
}

fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|c| (a[c] - b[c]).powi(2)).sum::<f64>().sqrt()
}

/// Per channel the lower median of the one-pixel frame.
fn frame_median(picture: &Picture) -> [f64; 3] {
    let (w, h) = (picture.width, picture.height);
    let on_frame = |at: usize| {
        let (row, column) = (at / w, at % w);
        row == 0 || row == h - 1 || column == 0 || column == w - 1
    };
    [0, 1, 2].map(|c| {
        let mut values: Vec<u8> = picture
            .rgb
            .chunks_exact(3)
            .enumerate()
            .filter(|(at, _)| on_frame(*at))
            .map(|(_, p)| p[c])
            .collect();
        let middle = (values.len() - 1) / 2;
        f64::from(*values.select_nth_unstable(middle).1)
    })
}
