//! Charts as SVG: points with error bars, a colour and a shape for each series, and lines between them. They
//! bring their own white ground, so they read the same in light and dark viewers.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::element::{DynElement, IntoDynElement};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::cli::axes::{Axis, SHAPES};
use crate::cli::statistics::Interval;
use crate::error::{Error, Result};

/// A point, with its uncertainty in both directions.
pub struct Point {
    pub x: Interval,
    pub y: Interval,
}

/// Points of one kind.
pub struct Series {
    pub label: String,
    /// Whether a line joins them in their order.
    pub joined: bool,
    pub points: Vec<Point>,
}

/// What is drawn.
pub struct Chart {
    pub title: String,
    /// Below the title, and for readers who see no picture.
    pub note: String,
    pub x: String,
    pub y: String,
    /// Whether x, which then is above 0, is drawn by its logarithm.
    pub log_x: bool,
    pub series: Vec<Series>,
}

/// Colours that people with any colour vision tell apart (Okabe, Ito 2008), without the yellow, which is
/// faint on white.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xB2),
    RGBColor(0xD5, 0x5E, 0x00),
    RGBColor(0x00, 0x9E, 0x73),
    RGBColor(0xCC, 0x79, 0xA7),
    RGBColor(0x00, 0x00, 0x00),
    RGBColor(0xE6, 0x9F, 0x00),
    RGBColor(0x56, 0xB4, 0xE9),
];
/// Half the width of a marker, in pixels.
const MARKER: f64 = 6.0;
const WIDTH: u32 = 900;
/// Of everything above the legend.
const HEIGHT: u32 = 540;
/// Of a line of the legend.
const LINE: u32 = 24;
/// Width of a letter of the legend, on the safe side.
const LETTER: u32 = 8;
const MARGIN: u32 = 20;
const GREY: RGBColor = RGBColor(0x55, 0x55, 0x55);
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);

impl Chart {
    /// The chart as an SVG document; `None` where there is no point to draw.
    ///
    /// # Errors
    /// None in practice: it is drawn in memory.
    pub fn svg(&self) -> Result<Option<String>> {
        if self.series.iter().all(|series| series.points.is_empty()) {
            return Ok(None);
        }
        let mut text = String::new();
        self.draw(&mut text).map_err(|e| {
            Error::io(format!("the chart \"{}\" cannot be drawn: {e}", self.title))
                .advice("this is a bug of das-cuda: please report it with the command")
        })?;
        // The crate has no words for these.
        let described = format!(
            "<svg role=\"img\" aria-label=\"{0}\"><title>{0}</title><desc>{1}</desc>",
            escaped(&self.title),
            escaped(&self.note)
        );
        let (open, title) = described.split_once('>').unwrap_or_default();
        Ok(Some(text.replacen("<svg", open, 1).replacen('>', &format!(">\n{title}"), 1)))
    }

    fn draw(&self, text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let all = |of: fn(&Point) -> Interval| {
            self.series.iter().flat_map(|series| &series.points).flat_map(move |point| {
                let Interval { mean, ends } = of(point);
                ends.map_or(vec![mean], |(low, high)| vec![low, mean, high])
            })
        };
        let x = Axis::new(all(|point| point.x), self.log_x);
        let y = Axis::new(all(|point| point.y), false);
        let longest = self.series.iter().map(|s| shown(&s.label).chars().count()).max().unwrap_or(0) as u32;
        let columns = ((WIDTH - 2 * MARGIN) / (longest * LETTER + 40)).max(1);
        let lines = (self.series.len() as u32).div_ceil(columns);
        let root =
            SVGBackend::with_string(text, (WIDTH, HEIGHT + lines * LINE + MARGIN / 2)).into_drawing_area();
        root.fill(&WHITE)?;
        let (upper, lower) = root.split_vertically(HEIGHT);
        let font = |size: u32, colour: RGBColor| ("sans-serif", size).into_font().color(&colour);
        let centre = Pos::new(HPos::Center, VPos::Top);
        upper.draw(&Text::new(shown(&self.title), (WIDTH as i32 / 2, 14), font(24, INK).pos(centre)))?;
        upper.draw(&Text::new(self.note.as_str(), (WIDTH as i32 / 2, 44), font(16, GREY).pos(centre)))?;
        let mut chart = ChartBuilder::on(&upper)
            .margin(MARGIN)
            .margin_top(72)
            .x_label_area_size(52)
            .y_label_area_size(76)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(0xDD, 0xDD, 0xDD))
            .axis_style(GREY)
            .x_desc(self.x.as_str())
            .y_desc(self.y.as_str())
            .label_style(font(16, INK))
            .axis_desc_style(font(18, INK))
            .draw()?;
        for (i, series) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let means = series.points.iter().map(|p| (p.x.mean, p.y.mean));
            if series.joined {
                chart.draw_series(LineSeries::new(means, colour.stroke_width(2)))?;
            }
            for Point { x, y } in &series.points {
                let upright = y.ends.map(|(low, high)| [(x.mean, low), (x.mean, high)]);
                let level = x.ends.map(|(low, high)| [(low, y.mean), (high, y.mean)]);
                let bars = [upright, level].into_iter().flatten();
                chart.draw_series(bars.map(|ends| PathElement::new(ends, colour.stroke_width(1))))?;
                chart.draw_series([EmptyElement::at((x.mean, y.mean)) + marker(i)])?;
            }
            let (column, line) = (i as u32 % columns, i as u32 / columns);
            let place =
                ((MARGIN + column * (longest * LETTER + 40) + 12) as i32, (line * LINE + LINE / 2) as i32);
            lower.draw(&(EmptyElement::at(place) + marker(i)))?;
            let left = Pos::new(HPos::Left, VPos::Center);
            lower.draw(&Text::new(shown(&series.label), (place.0 + 16, place.1), font(17, INK).pos(left)))?;
        }
        root.present()?;
        Ok(())
    }
}

/// The mark of the points of series `i`.
fn marker<B: DrawingBackend>(i: usize) -> DynElement<'static, B, (i32, i32)> {
    let style = COLOURS[i % COLOURS.len()].filled();
    let pixel = |v: f64| (v * MARKER).round() as i32;
    match SHAPES[i % SHAPES.len()] {
        [] => Circle::new((0, 0), MARKER as i32, style).into_dyn(),
        corners => {
            let corners: Vec<(i32, i32)> = corners.iter().map(|&(x, y)| (pixel(x), pixel(y))).collect();
            Polygon::new(corners, style).into_dyn()
        }
    }
}

/// Most letters of a text in a chart.
const MOST_LETTERS: usize = 100;

/// A text as it is drawn: what does not fit or cannot be in XML is left out.
fn shown(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    match text.chars().count() > MOST_LETTERS {
        true => plain.take(MOST_LETTERS - 1).chain(['\u{2026}']).collect(),
        false => plain.collect(),
    }
}

fn escaped(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + (self.share(*value) * f64::from(to - from)).round() as i32
    }
    fn key_points<H: KeyPointHint>(&self, hint: H) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks().to_vec() }
    }
    fn range(&self) -> Range<f64> {
        self.ends()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        value.to_string()
    }
    fn format_ext(&self, value: &f64) -> String {
        self.label(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_holds_every_label_as_xml_can_and_none_is_drawn_of_nothing() {
        let exactly = |mean: f64| Interval { mean, ends: None };
        let series = |label: &str| Series {
            label: label.into(),
            joined: true,
            points: vec![Point { x: exactly(1.0), y: Interval { mean: 2.0, ends: Some((1.5, 2.5)) } }],
        };
        let mut chart = Chart {
            title: "a < b & \"c\"".into(),
            note: "note".into(),
            x: "x".into(),
            y: "y".into(),
            log_x: true,
            series: vec![series("<&>"), series(&"x".repeat(300))],
        };
        let text = chart.svg().expect("drawn").expect("points");
        for part in
            ["<title>a &lt; b &amp; &quot;c&quot;</title>", "&lt;&amp;&gt;", "role=\"img\"", "viewBox"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains(&format!("{}\u{2026}", "x".repeat(99))));
        chart.series.iter_mut().for_each(|series| series.points.clear());
        assert!(chart.svg().expect("drawn").is_none());
    }
}
