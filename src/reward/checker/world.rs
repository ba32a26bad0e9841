//! The shapes world, as far as the checker needs it: words, colours, sizes and outlines. The definition is
//! `tools/shapes/world.py`. Lengths are pixels of a 64x64 picture, y grows downwards, and the centre of pixel
//! (row, column) is at (column + 0.5, row + 0.5). A word is known by its position in its list.

use std::f64::consts::{PI, TAU};

/// Width and height of a picture.
pub const SIDE: usize = 64;

pub const SHAPES: [Shape; 6] =
    [Shape::Circle, Shape::Square, Shape::Triangle, Shape::Star, Shape::Ring, Shape::Cross];
/// Colours of objects, and their RGB bytes.
pub const COLOURS: [(&str, [f64; 3]); 8] =
    [RED, ORANGE, YELLOW, GREEN, ("cyan", [60.0, 205.0, 225.0]), BLUE, PURPLE, WHITE];
/// Colours of the ground, and their RGB bytes.
pub const GROUNDS: [(&str, [f64; 3]); 8] =
    [("black", [20.0, 20.0, 24.0]), ("gray", [128.0, 128.0, 128.0]), WHITE, BLUE, GREEN, PURPLE, YELLOW, RED];

const RED: (&str, [f64; 3]) = ("red", [214.0, 39.0, 40.0]);
const ORANGE: (&str, [f64; 3]) = ("orange", [255.0, 140.0, 20.0]);
const YELLOW: (&str, [f64; 3]) = ("yellow", [250.0, 225.0, 50.0]);
const GREEN: (&str, [f64; 3]) = ("green", [40.0, 160.0, 60.0]);
const BLUE: (&str, [f64; 3]) = ("blue", [40.0, 70.0, 200.0]);
const PURPLE: (&str, [f64; 3]) = ("purple", [140.0, 50.0, 170.0]);
const WHITE: (&str, [f64; 3]) = ("white", [245.0, 245.0, 245.0]);

/// Small, medium and large meet halfway between the largest radius of one and the smallest of the next.
const SIZE_BOUNDS: [f64; 2] = [(8.5 + 10.5) / 2.0, (12.5 + 15.0) / 2.0];

/// The size of an object of this radius: 0 is small, 1 medium, 2 large.
pub fn size_of(radius: f64) -> usize {
    SIZE_BOUNDS.iter().filter(|bound| **bound <= radius).count()
}

/// Positions in the list of places: none, middle, left, right, top, bottom, corner.
const MIDDLE: usize = 1;
const LEFT: usize = 2;
const RIGHT: usize = 3;
const TOP: usize = 4;
const BOTTOM: usize = 5;
const CORNER: usize = 6;

/// The place of an object with this centre; `None` where it is neither central nor clearly to one side.
pub fn place_of([x, y]: [f64; 2]) -> Option<usize> {
    let (dx, dy) = (x - SIDE as f64 / 2.0, y - SIDE as f64 / 2.0);
    let (across, along) = (dx.abs(), dy.abs());
    if across <= 4.0 && along <= 4.0 {
        Some(MIDDLE)
    } else if across > 9.0 && along > 9.0 {
        Some(CORNER)
    } else if along > 7.0 && along > across + 2.0 {
        Some(if dy < 0.0 { TOP } else { BOTTOM })
    } else if across > 7.0 && across > along + 2.0 {
        Some(if dx < 0.0 { LEFT } else { RIGHT })
    } else {
        None
    }
}

/// An outline. `radius` scales it; the factors below make the shapes of one radius look equally large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Ring,
    Cross,
}

/// Half the side of a square of radius 1.
const SQUARE: f64 = 0.88;
/// From the centre of a triangle of radius 1 to its corners.
const TRIANGLE: f64 = 1.30;
/// From the centre of a star of radius 1 to its tips; its notches are at `STAR_IN` of that.
const STAR: f64 = 1.35;
const STAR_IN: f64 = 0.48;
/// The radii of a ring of radius 1.
const RING_OUT: f64 = 1.1;
const RING_IN: f64 = 0.58;
/// From the centre of a cross of radius 1 to the end of an arm, and half the width of an arm.
const CROSS: f64 = 1.12;
const CROSS_ARM: f64 = 0.36;

impl Shape {
    /// The area at radius 1.
    pub fn unit_area(self) -> f64 {
        match self {
            Shape::Circle => PI,
            Shape::Square => 4.0 * SQUARE.powi(2),
            Shape::Triangle => 0.75 * 3.0_f64.sqrt() * TRIANGLE.powi(2),
            Shape::Star => 5.0 * STAR.powi(2) * STAR_IN * (PI / 5.0).sin(),
            Shape::Ring => PI * (RING_OUT.powi(2) - RING_IN.powi(2)),
            Shape::Cross => 8.0 * CROSS * CROSS_ARM - 4.0 * CROSS_ARM.powi(2),
        }
    }

    /// The signed distance, negative inside, of a point in the frame of a shape of radius `r`.
    fn distance(self, x: f64, y: f64, r: f64) -> f64 {
        // Not `hypot`, which is a newer one of the C library than anything else here needs.
        let from_centre = || (x * x + y * y).sqrt();
        match self {
            Shape::Circle => from_centre() - r,
            Shape::Square => x.abs().max(y.abs()) - SQUARE * r,
            Shape::Triangle => y.max(x.abs() * 0.75_f64.sqrt() - y * 0.5) - TRIANGLE * r * 0.5,
            Shape::Star => star(x, y, from_centre(), r),
            Shape::Ring => (from_centre() - RING_OUT * r).max(RING_IN * r - from_centre()),
            Shape::Cross => {
                let (x, y) = (x.abs(), y.abs());
                (x.max(y) - CROSS * r).max(x.min(y) - CROSS_ARM * r)
            }
        }
    }

    /// How much of each pixel a shape of this centre, radius and angle (radians) covers, in [0, 1]; 64x64,
    /// rows from the top.
    pub fn coverage(self, [x, y]: [f64; 2], radius: f64, angle: f64) -> impl Iterator<Item = f64> {
        let (sin, cos) = angle.sin_cos();
        (0..SIDE * SIDE).map(move |at| {
            let (dx, dy) = ((at % SIDE) as f64 + 0.5 - x, (at / SIDE) as f64 + 0.5 - y);
            (0.5 - self.distance(cos * dx + sin * dy, cos * dy - sin * dx, radius)).clamp(0.0, 1.0)
        })
    }
}

/// The signed distance to a star. The plane is folded into one of ten equal sectors; there the edge is one
/// line from a tip to a notch.
fn star(x: f64, y: f64, from_centre: f64, r: f64) -> f64 {
    const SECTOR: f64 = TAU / 5.0;
    let phi = x.atan2(-y);
    let phi = (phi - SECTOR * (phi / SECTOR).round()).abs();
    let (normal_x, normal_y) = (STAR_IN * (SECTOR / 2.0).sin(), 1.0 - STAR_IN * (SECTOR / 2.0).cos());
    let along = (from_centre * phi.cos() - STAR * r) * normal_x + from_centre * phi.sin() * normal_y;
    along / (normal_x.powi(2) + normal_y.powi(2)).sqrt()
}
