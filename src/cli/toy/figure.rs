//! The figure of an experiment: a panel for each method, its samples over those of the target.

use super::design::{Design, TARGET};
use super::draw::RunResult;
use super::table::Report;
use crate::cli::axes::Axis;
use crate::cli::scene::{Colour, Mark, Scene, Side, WORDS};

/// Size of a panel, and of the room around it.
const PANEL: f64 = 250.0;
const GAP: f64 = 30.0;
/// Width of a letter, and room for two lines above a panel.
const LETTER: f64 = 8.5;
const ABOVE: f64 = 2.0 * WORDS + 8.0;
const COLUMNS: usize = 4;
const RADIUS: f64 = 2.0;

const SAMPLES: Colour = [0x00, 0x72, 0xb2];
const GROUND: Colour = [0xcc, 0xcc, 0xcc];
const INK: Colour = [0x22, 0x22, 0x22];
const GREY: Colour = [0x77, 0x77, 0x77];

/// Panels of the first seed's samples, x against y; of points in space also x against z, below.
pub fn scene(design: &Design, report: &Report, results: &[RunResult]) -> Scene {
    let first = design.seeds.first().copied().unwrap_or_default();
    let points = |label: &str| -> &[Vec<f64>] {
        results.iter().find(|run| run.seed == first && run.method == label).map_or(&[], |run| &run.points)
    };
    let axes: Vec<usize> = (1..design.toy.dimensions()).collect();
    // As wide as the model's own samples and the target: a method may go anywhere.
    let known: Vec<f64> =
        [TARGET, "none"].iter().flat_map(|label| points(label)).flatten().copied().collect();
    let reach = known.iter().fold(1.0, |most: f64, x| most.max(x.abs())).ceil();
    let ticks = Axis::new([-reach, reach].into_iter(), false);
    let shown: Vec<f64> = ticks.ticks().iter().copied().filter(|tick| tick.abs() <= reach).collect();
    // Room for the marks of the axis at the left.
    let longest = shown.iter().map(|tick| ticks.label(*tick).len()).max().unwrap_or(0);
    let room = 8.0 + LETTER * longest as f64;
    let rows = report.rows.len().div_ceil(COLUMNS) * axes.len();
    let width = room + COLUMNS.min(report.rows.len()) as f64 * (PANEL + GAP);
    let height = WORDS + GAP + rows as f64 * (PANEL + ABOVE + GAP);
    let words = |x: f64, y: f64, side, colour, text: String| Mark::Words { x, y, side, colour, text };
    let mut marks = vec![words(
        0.5 * width,
        0.5 * (WORDS + GAP),
        Side::Centre,
        INK,
        format!(
            "{}: samples of seed {first} (blue) over the target (grey); numbers are means over seeds",
            report.title
        ),
    )];
    for (place, row) in report.rows.iter().enumerate() {
        for (down, &axis) in axes.iter().enumerate() {
            let line = place / COLUMNS * axes.len() + down;
            let left = room + (place % COLUMNS) as f64 * (PANEL + GAP);
            let top = WORDS + GAP + ABOVE + line as f64 * (PANEL + ABOVE + GAP);
            let at = |point: &Vec<f64>| {
                let share = |v: f64| 0.5 * (v / reach + 1.0);
                (left + PANEL * share(point[0]), top + PANEL * (1.0 - share(point[axis])))
            };
            let inside = |point: &&Vec<f64>| point[0].abs() <= reach && point[axis].abs() <= reach;
            let own = points(&row.method);
            let mut put = |of: &[Vec<f64>], colour| {
                for point in of.iter().filter(inside) {
                    let (x, y) = at(point);
                    marks.push(Mark::Disc { x, y, radius: RADIUS, colour });
                }
            };
            if row.method != TARGET {
                put(points(TARGET), GROUND);
            }
            put(own, SAMPLES);
            marks.push(Mark::Frame { x: left, y: top, width: PANEL, height: PANEL, colour: GREY });
            let seen = |interval: Option<crate::cli::statistics::Interval>| {
                interval.map_or("-".into(), |i| format!("{:.2}", i.mean))
            };
            let outside = own.len() - own.iter().filter(inside).count();
            let name = match (axes.len(), outside) {
                (1, 0) => row.method.clone(),
                (1, n) => format!("{} ({n} outside)", row.method),
                (_, n) => {
                    let coordinate = if axis == 1 { "y" } else { "z" };
                    let out = if n == 0 { String::new() } else { format!(" ({n} outside)") };
                    format!("{}: x, {coordinate}{out}", row.method)
                }
            };
            let middle = left + 0.5 * PANEL;
            marks.push(words(middle, top - 1.5 * WORDS - 4.0, Side::Centre, INK, name));
            let numbers = format!("reward {}, EMD {}", seen(row.reward), seen(row.emd));
            marks.push(words(middle, top - 0.5 * WORDS - 2.0, Side::Centre, GREY, numbers));
            for &tick in &shown {
                let (x, y) = at(&vec![tick; design.toy.dimensions()]);
                let label = ticks.label(tick);
                marks.push(words(x, top + PANEL + 0.6 * WORDS, Side::Centre, GREY, label.clone()));
                if place % COLUMNS == 0 {
                    marks.push(words(left - 4.0, y, Side::Left, GREY, label));
                }
            }
        }
    }
    Scene { width: width.ceil() as usize, height: height.ceil() as usize, title: report.title.clone(), marks }
}
