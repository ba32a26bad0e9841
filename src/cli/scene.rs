//! Pictures of discs, boxes and words, as SVG and as pixels: the same marks in the same places.

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
}

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
                Mark::Words { x, y, side, colour, text } => {
                    let anchor = match side {
                        Side::Centre => "middle",
                        Side::Left => "end",
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
                Mark::Words { x, y, side, colour, text } => {
                    words(&mut picture, (*x, *y), *side, *colour, text)
                }
            }
        }
        picture
    }
}

fn words(picture: &mut Picture, (x, y): (f64, f64), side: Side, colour: Colour, text: &str) {
    let (weight, height) = (FontWeight::Regular, RasterHeight::Size16);
    let letter = get_raster_width(weight, height) as f64;
    let whole = letter * text.chars().count() as f64;
    let shift = match side {
        Side::Centre => 0.5 * whole,
        Side::Left => whole,
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
