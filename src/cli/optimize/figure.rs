//! The learning curves: answers against queries, a line for each strategy with its band over seeds.

use super::report::{Report, Round};
use crate::cli::axes::Axis;
use crate::cli::scene::{Colour, Mark, Scene, Side, WORDS};
use crate::cli::statistics::Interval;

/// Size of a panel, and of the room around it.
const PANEL: (f64, f64) = (420.0, 300.0);
const GAP: f64 = 34.0;
const LEFT: f64 = 64.0;
const ABOVE: f64 = 2.5 * WORDS;

const INK: Colour = [0x22, 0x22, 0x22];
const GREY: Colour = [0x77, 0x77, 0x77];
const GRID: Colour = [0xdd, 0xdd, 0xdd];
/// Colours that people with any colour vision tell apart (Okabe, Ito 2008).
const COLOURS: [Colour; 6] = [
    [0x00, 0x72, 0xb2],
    [0xd5, 0x5e, 0x00],
    [0x00, 0x9e, 0x73],
    [0xcc, 0x79, 0xa7],
    [0xe6, 0x9f, 0x00],
    [0x55, 0x55, 0x55],
];

/// A panel: what it shows, and of each round.
type Panel = (&'static str, fn(&Round) -> Option<Interval>);

const PANELS: [Panel; 2] =
    [("mean answer of a round", |round| round.mean), ("largest answer so far", |round| round.best)];

/// Both panels with the names of the strategies below.
pub fn scene(report: &Report) -> Scene {
    let (wide, tall) = PANEL;
    let columns = PANELS.len() as f64;
    let width = columns * (LEFT + wide) + GAP;
    let legend = report.rows.len().div_ceil(3) as f64 * 1.5 * WORDS;
    let top = 1.6 * WORDS + ABOVE;
    let height = top + tall + 3.4 * WORDS + legend;
    let title = format!("{}: {}", report.black_box, report.size());
    let words = |x: f64, y: f64, side, colour, text: String| Mark::Words { x, y, side, colour, text };
    let mut marks = vec![words(0.5 * width, WORDS, Side::Centre, INK, title.clone())];
    for (at, (name, of)) in PANELS.iter().enumerate() {
        let left = LEFT + at as f64 * (LEFT + wide);
        let all = || report.rows.iter().flat_map(|row| &row.rounds).filter_map(of);
        let ends = |i: Interval| i.ends.map_or([i.mean; 2], |(low, high)| [low, high]);
        let across = Axis::new([0.0, report.queries as f64].into_iter(), false);
        let up = Axis::new(all().flat_map(ends).chain(all().map(|i| i.mean)), false);
        let place = |x: f64, y: f64| (left + wide * across.share(x), top + tall * (1.0 - up.share(y)));
        marks.push(words(left + 0.5 * wide, top - WORDS, Side::Centre, INK, (*name).to_string()));
        if all().next().is_none() {
            continue;
        }
        for &tick in up.ticks() {
            let (_, y) = place(0.0, tick);
            marks.push(Mark::Line { points: vec![(left, y), (left + wide, y)], colour: GRID });
            marks.push(words(left - 6.0, y, Side::Left, GREY, up.label(tick)));
        }
        for &tick in across.ticks() {
            let (x, _) = place(tick, 0.0);
            marks.push(words(x, top + tall + 0.8 * WORDS, Side::Centre, GREY, across.label(tick)));
        }
        marks.push(words(left + 0.5 * wide, top + tall + 2.0 * WORDS, Side::Centre, GREY, "queries".into()));
        for (series, row) in report.rows.iter().enumerate() {
            let colour = COLOURS[series % COLOURS.len()];
            let points = || row.rounds.iter().filter_map(|round| Some((round.queries as f64, of(round)?)));
            let band = points().filter_map(|(x, i)| {
                let (low, high) = i.ends?;
                let (x, upper) = place(x, high);
                Some((x, upper, place(0.0, low).1))
            });
            marks.push(Mark::Band { points: band.collect(), colour });
        }
        for (series, row) in report.rows.iter().enumerate() {
            let colour = COLOURS[series % COLOURS.len()];
            let points: Vec<(f64, f64)> = row
                .rounds
                .iter()
                .filter_map(|round| Some(place(round.queries as f64, of(round)?.mean)))
                .collect();
            marks.extend(points.iter().map(|&(x, y)| Mark::Disc { x, y, radius: 3.0, colour }));
            marks.push(Mark::Line { points, colour });
        }
        marks.push(Mark::Frame { x: left, y: top, width: wide, height: tall, colour: GREY });
    }
    let column = width / 3.0;
    for (series, row) in report.rows.iter().enumerate() {
        let (x, y) = (
            LEFT + (series % 3) as f64 * column,
            top + tall + 3.6 * WORDS + (series / 3) as f64 * 1.5 * WORDS,
        );
        marks.push(Mark::Disc { x, y, radius: 5.0, colour: COLOURS[series % COLOURS.len()] });
        marks.push(words(x + 12.0, y, Side::Right, INK, row.strategy.name().into()));
    }
    Scene { width: width.ceil() as usize, height: height.ceil() as usize, title, marks }
}
