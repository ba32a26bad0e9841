//! Pictures of discs, boxes and words, as SVG and as pixels: the same marks in the same places.

use std::collections::BTreeMap;

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use crate::pixels::Picture;

/// Red, green, blue.
pub type Colour = [u8; 3];

/// Height of all words, in pixels.
pub const WORDS: f64 = 16.0;

/// Where a text is, as seen from its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Side {
    Centre,
    Left,
    Right,
}

/// How much of its colour a band has.
const BAND: f64 = 0.2;
/// Half the width of a line.
const HALF_LINE: f64 = 1.0;

/// Something drawn.
#[derive(Clone, Debug)]
pub enum Mark {
    Disc {
        x: f64,
        y: f64,
        radius: f64,
        colour: Colour,
    },
    /// The border of a box, a pixel wide.
    Frame {
        x: f64,
        y: f64,
        width: f64,
        height: f64,
        colour: Colour,
    },
    /// A line through points, two pixels wide.
    Line {
        points: Vec<(f64, f64)>,
        colour: Colour,
    },
    /// The area between two lines over the same points across, from left to right, in a fifth of its colour.
    /// Of each point: its place across, and the upper and the lower end.
    Band {
        points: Vec<(f64, f64, f64)>,
        colour: Colour,
    },
    /// Printable ASCII, its middle at the height `y`.
    Words {
        x: f64,
        y: f64,
        side: Side,
        colour: Colour,
        text: String,
    },
}

/// Marks on white ground, the last on top.
#[derive(Clone, Debug)]
pub struct Scene {
    pub width: usize,
    pub height: usize,
    /// For readers who see no picture.
    pub title: String,
    pub marks: Vec<Mark>,
}

impl Scene {
    /// As an SVG document.
    pub fn svg(&self) -> String {
        let (w, h, title) = (self.width, self.height, escaped(&self.title));
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
             role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>\n<rect width=\"{w}\" height=\"{h}\" \
             fill=\"#ffffff\"/>\n"
        );
        for mark in &self.marks {
            text += &match mark {
                Mark::Disc { x, y, radius, colour } => {
                    format!(
                        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{}\"/>\n",
                        hex(*colour)
                    )
                }
                Mark::Frame { x, y, width, height, colour } => format!(
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"none\" \
                     stroke=\"{}\"/>\n",
                    hex(*colour)
                ),
                Mark::Line { points, colour } => format!(
                    "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\"/>\n",
                    corners(points.iter().copied()),
                    hex(*colour),
                    2.0 * HALF_LINE
                ),
                Mark::Band { points, colour } => {
                    let upper = points.iter().map(|&(x, upper, _)| (x, upper));
                    let lower = points.iter().rev().map(|&(x, _, lower)| (x, lower));
                    format!(
                        "<polygon points=\"{}\" fill=\"{}\" fill-opacity=\"{BAND}\"/>\n",
                        corners(upper.chain(lower)),
                        hex(*colour)
                    )
                }
                Mark::Words { x, y, side, colour, text } => {
                    let anchor = match side {
                        Side::Centre => "middle",
                        Side::Left => "end",
                        Side::Right => "start",
                    };
                    format!(
                        "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" font-family=\"monospace\" \
                         font-size=\"14\" fill=\"{}\">{}</text>\n",
                        y + 5.0,
                        hex(*colour),
                        escaped(text)
                    )
                }
            };
        }
        text + "</svg>\n"
    }

    /// As pixels.
    pub fn picture(&self) -> Picture {
        let mut picture = Picture::new(self.width, self.height, vec![255; 3 * self.width * self.height]);
        for mark in &self.marks {
            match mark {
                Mark::Disc { x, y, radius, colour } => {
                    let (left, right) = ((x - radius - 1.0).floor() as i64, (x + radius + 1.0).ceil() as i64);
                    let (top, bottom) = ((y - radius - 1.0).floor() as i64, (y + radius + 1.0).ceil() as i64);
                    for row in top..bottom {
                        for column in left..right {
                            let (dx, dy) = (column as f64 + 0.5 - x, row as f64 + 0.5 - y);
                            let inside = radius + 0.5 - (dx * dx + dy * dy).sqrt();
                            blend(&mut picture, column, row, *colour, inside.clamp(0.0, 1.0));
                        }
                    }
                }
                Mark::Frame { x, y, width, height, colour } => {
                    let [left, top, right, bottom] =
                        [*x, *y, x + width, y + height].map(|v| v.round() as i64);
                    for column in left..=right {
                        [top, bottom].iter().for_each(|row| blend(&mut picture, column, *row, *colour, 1.0));
                    }
                    for row in top..=bottom {
                        [left, right]
                            .iter()
                            .for_each(|column| blend(&mut picture, *column, row, *colour, 1.0));
                    }
                }
                Mark::Line { points, colour } => line(&mut picture, points, *colour),
                Mark::Band { points, colour } => band(&mut picture, points, *colour),
                Mark::Words { x, y, side, colour, text } => {
                    words(&mut picture, (*x, *y), *side, *colour, text)
                }
            }
        }
        picture
    }
}

/// Points as SVG takes them.
fn corners(points: impl Iterator<Item = (f64, f64)>) -> String {
    points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}

/// Every pixel by its distance from the nearest part of the line, so that parts do not add up where they
/// meet.
fn line(picture: &mut Picture, points: &[(f64, f64)], colour: Colour) {
    let reach = HALF_LINE + 1.0;
    let mut nearest: BTreeMap<(i64, i64), f64> = BTreeMap::new();
    for ends in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (ends[0], ends[1]);
        let (dx, dy) = (x1 - x0, y1 - y0);
        let square = dx * dx + dy * dy;
        let across = (x0.min(x1) - reach).floor() as i64..(x0.max(x1) + reach).ceil() as i64;
        for column in across {
            for row in (y0.min(y1) - reach).floor() as i64..(y0.max(y1) + reach).ceil() as i64 {
                let (x, y) = (column as f64 + 0.5 - x0, row as f64 + 0.5 - y0);
                let along = if square > 0.0 { ((x * dx + y * dy) / square).clamp(0.0, 1.0) } else { 0.0 };
                let (x, y) = (x - along * dx, y - along * dy);
                let distance = (x * x + y * y).sqrt();
                let least = nearest.entry((column, row)).or_insert(distance);
                *least = least.min(distance);
            }
        }
    }
    for ((column, row), distance) in nearest {
        blend(picture, column, row, colour, (HALF_LINE + 0.5 - distance).clamp(0.0, 1.0));
    }
}

/// Column by column, pixels at the ends by how much of them is inside.
fn band(picture: &mut Picture, points: &[(f64, f64, f64)], colour: Colour) {
    for ends in points.windows(2) {
        let ((x0, upper0, lower0), (x1, upper1, lower1)) = (ends[0], ends[1]);
        for column in x0.round() as i64..x1.round() as i64 {
            let along = ((column as f64 + 0.5 - x0) / (x1 - x0)).clamp(0.0, 1.0);
            let (upper, lower) = (upper0 + along * (upper1 - upper0), lower0 + along * (lower1 - lower0));
            for row in upper.floor() as i64..lower.ceil() as i64 {
                let inside = lower.min(row as f64 + 1.0) - upper.max(row as f64);
                blend(picture, column, row, colour, BAND * inside.clamp(0.0, 1.0));
            }
        }
    }
}

fn words(picture: &mut Picture, (x, y): (f64, f64), side: Side, colour: Colour, text: &str) {
    let (weight, height) = (FontWeight::Regular, RasterHeight::Size16);
    let letter = get_raster_width(weight, height) as f64;
    let whole = letter * text.chars().count() as f64;
    let shift = match side {
        Side::Centre => 0.5 * whole,
        Side::Left => whole,
        Side::Right => 0.0,
    };
    let top = (y - 0.5 * WORDS).round() as i64;
    for (place, c) in text.chars().enumerate() {
        let left = (x - shift + letter * place as f64).round() as i64;
        let Some(raster) = get_raster(c, weight, height).or_else(|| get_raster('?', weight, height)) else {
            continue;
        };
        for (row, pixels) in raster.rows().enumerate() {
            for (column, intensity) in pixels.iter().enumerate() {
                let (at, down) = (left + column as i64, top + row as i64);
                blend(picture, at, down, colour, f64::from(*intensity) / 255.0);
            }
        }
    }
}

/// Puts `share` of a colour over a pixel, if it is in the picture.
fn blend(picture: &mut Picture, x: i64, y: i64, colour: Colour, share: f64) {
    let inside = |v: i64, size: usize| usize::try_from(v).ok().filter(|v| *v < size);
    let (Some(x), Some(y)) = (inside(x, picture.width), inside(y, picture.height)) else { return };
    let at = 3 * (y * picture.width + x);
    for (old, new) in picture.rgb[at..at + 3].iter_mut().zip(colour) {
        *old = (f64::from(*old) + share * (f64::from(new) - f64::from(*old))).round() as u8;
    }
}

fn hex([r, g, b]: Colour) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn escaped(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixel(picture: &Picture, x: usize, y: usize) -> &[u8] {
        &picture.rgb[3 * (y * picture.width + x)..][..3]
    }

    #[test]
    fn lines_and_bands_are_where_they_should_be() {
        let (black, red) = ([0; 3], [255, 0, 0]);
        let line = Mark::Line { points: vec![(5.0, 10.0), (20.0, 10.0), (20.0, 18.0)], colour: black };
        let band = Mark::Band { points: vec![(30.0, 4.0, 8.0), (40.0, 4.0, 16.0)], colour: red };
        let scene = Scene { width: 60, height: 20, title: "t".into(), marks: vec![line, band] };
        let picture = scene.picture();
        // Two pixels wide, also where its parts meet.
        assert_eq!([8, 9, 10, 11].map(|y| pixel(&picture, 12, y)[0]), [255, 0, 0, 255]);
        assert_eq!([18, 19, 20, 21].map(|x| pixel(&picture, x, 14)[0]), [255, 0, 0, 255]);
        let pale = [255, 204, 204];
        assert_eq!((pixel(&picture, 31, 6), pixel(&picture, 38, 12)), (&pale[..], &pale[..]));
        assert_eq!((pixel(&picture, 31, 12), pixel(&picture, 41, 6)), (&[255; 3][..], &[255; 3][..]));
        let svg = scene.svg();
        for part in
            ["points=\"5.0,10.0 20.0,10.0", "<polygon points=\"30.0,4.0 40.0,4.0 40.0,16.0 30.0,8.0\""]
        {
            assert!(svg.contains(part), "{part}: {svg}");
        }
    }

    #[test]
    fn marks_are_where_they_should_be_and_the_last_on_top() {
        let red = [255, 0, 0];
        let disc = |x, colour| Mark::Disc { x, y: 10.0, radius: 4.0, colour };
        let frame = Mark::Frame { x: 30.0, y: 2.0, width: 6.0, height: 6.0, colour: red };
        let words =
            Mark::Words { x: 40.0, y: 10.0, side: Side::Left, colour: [0; 3], text: "<&\u{e9}".into() };
        let outside = disc(-3.0, [0, 0, 255]);
        let scene = Scene {
            width: 60,
            height: 20,
            title: "a \"b\"".into(),
            marks: vec![disc(10.0, [0; 3]), disc(12.0, red), frame, words, outside],
        };
        let picture = scene.picture();
        assert_eq!((pixel(&picture, 7, 10), pixel(&picture, 10, 10)), (&[0, 0, 0][..], &red[..]));
        assert_eq!((pixel(&picture, 0, 19), pixel(&picture, 33, 2)), (&[255; 3][..], &red[..]));
        assert!(
            (16..40).any(|x| (2..18).any(|y| pixel(&picture, x, y)[1] < 60 && pixel(&picture, x, y)[0] < 60))
        );
        assert!((41..60).all(|x| (0..20).all(|y| pixel(&picture, x, y) == [255; 3])));
        let svg = scene.svg();
        for part in
            ["&lt;&amp;", "aria-label=\"a &quot;b&quot;\"", "<circle cx=\"10.0\"", "text-anchor=\"end\""]
        {
            assert!(svg.contains(part), "{part}: {svg}");
        }
    }
}
