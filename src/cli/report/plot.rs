//! Charts as inline SVG: axes, lines and marks, with classes in the place of colours, so that the page's
//! style decides what light and dark look like.

use std::fmt::Write;

use maud::{Markup, html};

use crate::cli::axes::{Axis, SHAPES};
use crate::cli::words;

/// Width of every chart, in its own units. The page scales it.
pub const WIDTH: f64 = 480.0;
/// Height of a usual one.
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 40.0;
/// Larger values are no numbers to draw.
const LARGEST: f64 = 1e100;

/// The area of a chart.
pub struct Plot {
    x: Axis,
    y: Axis,
    /// What is along x.
    name: String,
}

/// Whether a value can be drawn.
pub fn drawable(x: f64) -> bool {
    x.abs() < LARGEST
}

/// A place in a chart, as short as can be.
pub fn place((x, y): (f64, f64)) -> String {
    format!("{x:.1} {y:.1}")
}

impl Plot {
    /// A chart with room for these values, where there are any to draw.
    pub fn new(
        x: impl Iterator<Item = f64>,
        y: impl Iterator<Item = f64>,
        log_x: bool,
        name: impl Into<String>,
    ) -> Option<Plot> {
        let (x, y): (Vec<f64>, Vec<f64>) =
            (x.filter(|x| drawable(*x)).collect(), y.filter(|y| drawable(*y)).collect());
        if x.is_empty() || y.is_empty() {
            return None;
        }
        Some(Plot {
            x: Axis::new(x.into_iter(), log_x),
            y: Axis::new(y.into_iter(), false),
            name: name.into(),
        })
    }

    /// Where a point is drawn.
    pub fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let across = LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT);
        let down = HEIGHT - BOTTOM - self.y.share(y) * (HEIGHT - TOP - BOTTOM);
        (across, down)
    }

    /// The path of a line through points, with a gap where a point has no value. A point between gaps is a
    /// short dash.
    pub fn line(&self, points: impl Iterator<Item = (f64, Option<f64>)>) -> String {
        let (mut path, mut joined) = (String::new(), 0);
        let end = |path: &mut String, joined: &mut usize| {
            if *joined == 1 {
                path.push_str("m-3 0h6");
            }
            *joined = 0;
        };
        for (x, y) in points {
            let Some(y) = y.filter(|y| drawable(*y)) else {
                end(&mut path, &mut joined);
                continue;
            };
            let _ = write!(path, "{}{}", if joined > 0 { "L" } else { "M" }, place(self.at(x, y)));
            joined += 1;
        }
        end(&mut path, &mut joined);
        path
    }

    /// A level line from end to end.
    pub fn level(&self, y: f64) -> String {
        let down = place((0.0, self.at(0.0, y).1));
        let down = down.split(' ').next_back().unwrap_or_default();
        format!("M{LEFT} {down}H{}", WIDTH - RIGHT)
    }

    /// The chart with `inner` drawn on its grid; `attributes`: whether it can be focused, and where its first
    /// and last step are.
    pub fn svg(&self, label: &str, steps: Option<(f64, f64, usize)>, inner: &Markup) -> Markup {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let rows = self.y.ticks().iter().map(|tick| (self.at(0.0, *tick).1, tick_label(&self.y, *tick)));
        let columns = self.x.ticks().iter().map(|tick| {
            let (across, _) = (LEFT + self.x.share(*tick) * (WIDTH - LEFT - RIGHT), ());
            (across, tick_label(&self.x, *tick))
        });
        let ends = steps.map(|(first, last, n)| {
            let across = |x: f64| LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT);
            format!("{:.1} {:.1} {n}", across(first), across(last))
        });
        let focus = ends.is_some().then_some("0");
        html! {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(label) tabindex=[focus]
                data-steps=[ends] {
                @for (down, text) in rows {
                    path.grid d=(format!("M{LEFT} {down:.1}H{right}")) {}
                    text x=(LEFT - 7.0) y=(format!("{:.1}", down + 4.0)) text-anchor="end" { (text) }
                }
                @for (across, text) in columns {
                    path.tick d=(format!("M{across:.1} {bottom}v4")) {}
                    text x=(format!("{across:.1}")) y=(bottom + 18.0) text-anchor="middle" { (text) }
                }
                path.axis d=(format!("M{LEFT} {bottom}H{right}")) {}
                text.name x=((LEFT + right) / 2.0) y=(HEIGHT - 5.0) text-anchor="middle" { (self.name) }
                (inner)
                @if steps.is_some() { path.cursor d=(format!("M0 {TOP}V{bottom}")) {} }
            }
        }
    }
}

fn tick_label(axis: &Axis, value: f64) -> String {
    if value.abs() >= 1e5 { words::number(value) } else { axis.label(value) }
}

/// The mark of series `i` at a place: a path that has its shape.
pub fn mark(i: usize, (x, y): (f64, f64), size: f64) -> String {
    match SHAPES[i % SHAPES.len()] {
        [] => format!(
            "M{:.1} {y:.1}a{size} {size} 0 1 0 {d} 0a{size} {size} 0 1 0 -{d} 0z",
            x - size,
            d = 2.0 * size
        ),
        corners => {
            let corner = |&(dx, dy): &(f64, f64)| place((x + size * dx, y + size * dy));
            format!("M{}z", corners.iter().map(corner).collect::<Vec<_>>().join("L"))
        }
    }
}

/// The legend of series, in their order: a mark and a name each.
pub fn legend(names: &[String]) -> Markup {
    html! {
        ul.legend {
            @for (i, name) in names.iter().enumerate() {
                li {
                    svg.key viewBox="-8 -8 16 16" aria-hidden="true" {
                        path class=(series(i)) d=(mark(i, (0.0, 0.0), 5.0)) {}
                    }
                    (words::said(name))
                }
            }
        }
    }
}

/// The class of series `i`, which has its colour. There are seven, and eight shapes: 56 series differ.
pub fn series(i: usize) -> String {
    format!("s{}", i % 7)
}

/// A chart with its title, what it says, and a place for what is pointed at.
pub fn figure(title: &str, about: &Markup, reading: Option<&[String]>, chart: &Markup) -> Markup {
    let reading = reading.map(|list| serde_json::Value::from(list).to_string());
    html! {
        figure.chart data-read=[reading] {
            figcaption { h3 { (title) } p.about { (about) } }
            (chart)
            output aria-live="polite" {}
        }
    }
}
