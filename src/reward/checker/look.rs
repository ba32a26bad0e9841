//! What a picture of the shapes world shows, from its pixels alone. The definition is `look` of
//! `tools/shapes/checker.py`.
//!
//! - The ground's colour is the median of the picture's frame.
//! - Objects are connected regions of pixels that differ from the ground.
//! - The colour of an object is the median of its inner pixels, up to brightness.
//! - Its shape is the one whose drawing overlaps most with it, of all shapes and angles at its centroid and
//!   of its area. Size follows from area and shape, place from the centroid.

use std::f64::consts::TAU;

use super::caption::Object;
use super::world::{COLOURS, GROUNDS, SHAPES, SIDE, Shape, place_of, size_of};
use crate::pixels::Picture;

const PIXELS: usize = SIDE * SIDE;
/// Distance from the ground (bytes, Euclidean) beyond which a pixel belongs to an object.
const APART: f64 = 40.0;
/// Regions of fewer pixels are no objects. The smallest true one, a ring of radius 7, covers 134.
const SMALLEST: usize = 40;
/// Regions of more pixels have an inside, whose median says what full coverage is.
const WITH_INSIDE: usize = 60;
/// Brightness of a colour where shading is weakest, in between, and strongest.
const SHADES: [f64; 3] = [1.0, 0.93, 0.86];

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The largest object, then the second; both are described.
    pub objects: Vec<Object>,
    /// How many objects there are.
    pub count: usize,
    /// Position in the list of grounds.
    pub ground: usize,
}

/// Describes a picture of 64x64 pixels.
pub fn look(picture: &Picture) -> Found {
    let pixels: Vec<[f64; 3]> =
        picture.rgb.chunks_exact(3).map(|p| [p[0], p[1], p[2]].map(f64::from)).collect();
    let on_frame = |at: &usize| {
        let (row, column) = (at / SIDE, at % SIDE);
        row == 0 || row == SIDE - 1 || column == 0 || column == SIDE - 1
    };
    let ground = median_colour((0..PIXELS).filter(on_frame).map(|at| pixels[at]));
    let gap: Vec<f64> = pixels.iter().map(|pixel| distance(*pixel, ground)).collect();
    let regions = regions(&gap);
    Found {
        objects: regions.iter().take(2).map(|region| describe(&soft_mask(&gap, region), &pixels)).collect(),
        count: regions.len(),
        ground: nearest(ground, &GROUNDS),
    }
}

/// The objects as pixels, largest first; of equal ones that which begins further up, then further left.
fn regions(gap: &[f64]) -> Vec<Vec<usize>> {
    let mut open: Vec<bool> = gap.iter().map(|gap| *gap > APART).collect();
    let mut regions = Vec::new();
    for start in 0..PIXELS {
        if !std::mem::take(&mut open[start]) {
            continue;
        }
        let mut region = vec![start];
        let mut done = 0;
        while let Some(&at) = region.get(done) {
            done += 1;
            region.extend(around(at).filter(|near| std::mem::take(&mut open[*near])));
        }
        regions.push(region);
    }
    regions.retain(|region| region.len() >= SMALLEST);
    regions.sort_by_key(|region| std::cmp::Reverse(region.len()));
    regions
}

/// The pixels of the 3x3 square around one, as far as they are in the picture.
fn around(at: usize) -> impl Iterator<Item = usize> {
    let (row, column) = (at / SIDE, at % SIDE);
    let near = |middle: usize| middle.saturating_sub(1)..(middle + 2).min(SIDE);
    near(row).flat_map(move |row| near(column).map(move |column| SIDE * row + column))
}

/// How much of each pixel an object covers, in [0, 1]; 0 further than a pixel away from it.
fn soft_mask(gap: &[f64], region: &[usize]) -> Vec<f64> {
    let mut inside = vec![false; PIXELS];
    region.iter().for_each(|at| inside[*at] = true);
    // A pixel whose four neighbours are of the region too.
    let inner = |at: &usize| {
        let (row, column) = (at / SIDE, at % SIDE);
        let off_frame = (1..SIDE - 1).contains(&row) && (1..SIDE - 1).contains(&column);
        off_frame && [at - SIDE, at - 1, at + 1, at + SIDE].iter().all(|near| inside[*near])
    };
    let full = match median(region.iter().copied().filter(inner).map(|at| gap[at]).collect()) {
        Some(median) if region.len() > WITH_INSIDE => median,
        _ => region.iter().fold(0.0, |most: f64, at| most.max(gap[*at])),
    };
    let mut mask = vec![0.0; PIXELS];
    for near in region.iter().flat_map(|at| around(*at)) {
        mask[near] = (gap[near] / full.max(1.0)).clamp(0.0, 1.0);
    }
    mask
}

/// Describes an object of which a soft mask is given.
fn describe(mask: &[f64], pixels: &[[f64; 3]]) -> Object {
    let area: f64 = mask.iter().sum();
    let moment = |centre: fn(usize) -> usize| -> f64 {
        mask.iter().enumerate().map(|(at, mask)| mask * (centre(at) as f64 + 0.5)).sum()
    };
    let centroid = [moment(|at| at % SIDE) / area, moment(|at| at / SIDE) / area];
    let kind = best_shape(mask, centroid, area);
    // The inside: where coverage is full, or where it is largest.
    let covered = mask.iter().copied().filter(|mask| *mask > 0.5).collect();
    let bound = quantile(covered, 0.6).map_or(0.95, |quantile| quantile.min(0.95));
    let core = (0..PIXELS).filter(|at| mask[*at] >= bound).map(|at| pixels[at]);
    Object {
        size: Some(size_of(radius_of(SHAPES[kind], area))),
        colour: Some(nearest(median_colour(core), &COLOURS)),
        shape: Some(kind),
        place: place_of(centroid),
    }
}

/// The angles at which a shape is tried: how many, and after what part of a turn it is the same again.
fn angles(shape: Shape) -> impl Iterator<Item = f64> {
    let (count, symmetry) = match shape {
        Shape::Circle | Shape::Ring => (1, 1.0),
        Shape::Square | Shape::Cross => (10, 4.0),
        Shape::Triangle => (16, 3.0),
        Shape::Star => (10, 5.0),
    };
    (0..count).map(move |i| f64::from(i) * TAU / symmetry / f64::from(count))
}

fn radius_of(shape: Shape, area: f64) -> f64 {
    (area / shape.unit_area()).sqrt()
}

/// Position in the list of shapes of the one that overlaps most: soft intersection over union. The first of
/// equal ones.
fn best_shape(mask: &[f64], centroid: [f64; 2], area: f64) -> usize {
    let (mut best, mut most) = (0, f64::NEG_INFINITY);
    for (kind, shape) in SHAPES.into_iter().enumerate() {
        let radius = radius_of(shape, area);
        for angle in angles(shape) {
            let (mut both, mut either) = (0.0, 0.0);
            for (mask, drawn) in mask.iter().zip(shape.coverage(centroid, radius, angle)) {
                both += mask.min(drawn);
                either += mask.max(drawn);
            }
            if both / either > most {
                (best, most) = (kind, both / either);
            }
        }
    }
    best
}

/// Position of the colour that is nearest, at whatever brightness; the first of equal ones.
fn nearest(rgb: [f64; 3], colours: &[(&str, [f64; 3])]) -> usize {
    let (mut best, mut least) = (0, f64::INFINITY);
    for (i, (_, colour)) in colours.iter().enumerate() {
        for shade in SHADES {
            let gap = distance(rgb, colour.map(|c| c * shade));
            if gap < least {
                (best, least) = (i, gap);
            }
        }
    }
    best
}

fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|c| (a[c] - b[c]).powi(2)).sum::<f64>().sqrt()
}

/// Per channel the median; black of no pixels.
fn median_colour(pixels: impl Iterator<Item = [f64; 3]>) -> [f64; 3] {
    let pixels: Vec<[f64; 3]> = pixels.collect();
    [0, 1, 2].map(|c| median(pixels.iter().map(|pixel| pixel[c]).collect()).unwrap_or_default())
}

/// The middle value, or the mean of the two in the middle; `None` of no values.
fn median(values: Vec<f64>) -> Option<f64> {
    let values = sorted(values);
    let last = values.len().checked_sub(1)?;
    Some((values[last / 2] + values[last.div_ceil(2)]) / 2.0)
}

/// The value below which a fraction `q` in [0, 1] of the values lies, interpolated linearly; `None` of no
/// values.
fn quantile(values: Vec<f64>, q: f64) -> Option<f64> {
    let values = sorted(values);
    let last = values.len().checked_sub(1)?;
    let at = q * last as f64;
    let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
    // Of the two ways to write it, the one that begins at the nearer value, as in NumPy.
    let part = at.fract();
    let gap = above - below;
    Some(if part < 0.5 { below + gap * part } else { above - gap * (1.0 - part) })
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values
}
