//! The genealogy of a run: every particle at every step, children beside their parents, so that no two lines
//! cross. A line of descent can be followed by pointing at it, at its picture, or with the arrow keys.

use std::collections::BTreeSet;
use std::fmt::Write;

use maud::{Markup, html};

use super::plot::{WIDTH, figure, place};
use crate::cli::look::{Population, Run};
use crate::cli::words;

const LEFT: f64 = 34.0;
/// Room for weights at the right.
const RIGHT: f64 = 92.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 40.0;
/// Between two populations.
const GAP: f64 = 16.0;
/// Height of all particles of a population, and of one of few.
const HEIGHT: f64 = 260.0;
const TALLEST_ROW: f64 = 18.0;
/// Rows of this height have room for a number.
const READABLE: f64 = 9.0;

/// A population as it is drawn.
struct Drawn<'a> {
    population: &'a Population,
    /// Its upper end.
    top: f64,
    height: f64,
    /// Number of its first particle at the end among those of all populations.
    first: usize,
    /// The same of its first particle at the beginning.
    initial: usize,
    /// Of the longest population.
    lines: usize,
}

impl Drawn<'_> {
    fn across(&self, line: usize) -> f64 {
        LEFT + line as f64 / (self.lines - 1).max(1) as f64 * (WIDTH - LEFT - RIGHT)
    }

    fn at(&self, line: usize, slot: usize) -> (f64, f64) {
        let ranks = &self.population.lineage.rank[line];
        let down = (ranks[slot] as f64 + 0.5) / ranks.len() as f64;
        (self.across(line), self.top + self.height * down)
    }

    /// From a parent to its child at `line`, which begins where the pen is.
    fn step(&self, path: &mut String, line: usize, parent: usize, slot: usize) {
        let (from, to) = (self.at(line - 1, parent), self.at(line, slot));
        let middle = (from.0 + to.0) / 2.0;
        let _ = match (from.1 - to.1).abs() < 0.05 {
            true => write!(path, "H{:.1}", to.0),
            false => {
                write!(path, "C{} {} {}", place((middle, from.1)), place((middle, to.1)), place(to))
            }
        };
    }

    /// The line of descent that ends in a slot.
    fn descent(&self, slots: &[usize]) -> String {
        let mut path = format!("M{}", place(self.at(0, slots[0])));
        (1..slots.len()).for_each(|line| self.step(&mut path, line, slots[line - 1], slots[line]));
        path
    }

    /// All that has no descendants at the end.
    fn dead(&self) -> String {
        let lineage = &self.population.lineage;
        let mut path = String::new();
        for (line, parents) in lineage.parents.iter().enumerate().map(|(k, parents)| (k + 1, parents)) {
            let alive: BTreeSet<usize> = lineage.paths.iter().map(|slots| slots[line]).collect();
            for (slot, parent) in parents.iter().enumerate().filter(|(slot, _)| !alive.contains(slot)) {
                let _ = write!(path, "M{}", place(self.at(line - 1, *parent)));
                self.step(&mut path, line, *parent, slot);
            }
        }
        path
    }
}

/// The chart; nothing where there is no trace.
pub fn tree(run: &Run) -> Markup {
    let longest = run.populations.iter().map(|population| population.lines.len()).max().unwrap_or(0);
    if longest == 0 {
        return html! {};
    }
    let (mut drawn, mut top, mut first, mut initial) = (Vec::new(), TOP, 0, 0);
    for population in &run.populations {
        let rows = population.lineage.rank.iter().map(Vec::len).max().unwrap_or(1);
        let height = (TALLEST_ROW * rows as f64).min(HEIGHT / (run.populations.len() as f64).sqrt());
        drawn.push(Drawn { population, top, height, first, initial, lines: longest });
        top += height + GAP;
        first += population.lineage.paths.len();
        initial += population.lineage.rank[0].len();
    }
    let bottom = top - GAP;
    let height = bottom + BOTTOM;
    let weights: Vec<f64> = drawn.iter().flat_map(|drawn| weights(run, drawn)).collect();
    let heaviest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let last = run.lines().map(|line| line.step).max().unwrap_or(0);
    let events = run.lines().filter(|line| line.resampled).count();
    let roots: usize = run.populations.iter().map(|population| population.lineage.roots()).sum();
    let about = html! {
        (roots) " of " (run.populations.iter().map(|p| p.lineage.rank[0].len()).sum::<usize>())
        " initial particles have descendants; "
        @match events {
            0 => "nothing was resampled.",
            1 => "resampled once (dashed).",
            n => { "resampled " (n) " times (dashed)." }
        }
        " Point at a line, or focus the chart and use the arrow keys."
    };
    let chosen = run.particles.iter().find(|p| p.is_best).map(|p| p.index);
    let label = format!("Genealogy, {} particles at the end", weights.len());
    let chart = html! {
        svg.tree viewBox=(format!("0 0 {WIDTH} {height:.1}")) role="group" aria-label=(label)
            data-steps=(format!("{:.1} {:.1} {longest}", LEFT, WIDTH - RIGHT)) {
            @for drawn in &drawn {
                @let lines = || drawn.population.lines.iter().enumerate();
                @for (k, line) in lines().filter(|(_, line)| line.resampled || line.collapsed) {
                    path class=(if line.collapsed { "collapse" } else { "event" })
                        d=(format!("M{:.1} {:.1}v{:.1}", drawn.across(k), drawn.top, drawn.height)) {}
                }
                path.dead d=(drawn.dead()) {}
                @if drawn.height / drawn.population.lineage.rank[0].len() as f64 >= READABLE {
                    @for slot in 0..drawn.population.lineage.rank[0].len() {
                        @let down = format!("{:.1}", drawn.at(0, slot).1 + 3.5);
                        text x=(LEFT - 8.0) y=(down) text-anchor="end" {
                            (drawn.initial + slot)
                        }
                    }
                }
                @for (slot, slots) in drawn.population.lineage.paths.iter().enumerate() {
                    @let index = drawn.first + slot;
                    @let (x, y) = drawn.at(slots.len() - 1, slot);
                    @let path = drawn.descent(slots);
                    @let row = drawn.height / drawn.population.lineage.paths.len() as f64;
                    @let say = say(run, drawn, slot, weights[index]);
                    @let stop = if index == 0 { "0" } else { "-1" };
                    g data-p=(index) data-say=(say) tabindex=(stop) role="img" aria-label=(say)
                        class=[(chosen == Some(index)).then_some("chosen")] {
                        path.hit d=(path) {}
                        path.line d=(path) {}
                        @let [left, up, tall] = [x + 32.0, y - 0.32 * row, 0.64 * row].map(|x| format!("{x:.1}"));
                        rect.weight x=(left) y=(up) height=(tall)
                            width=(format!("{:.1}", 1.0 + (RIGHT - 46.0) * weights[index] / heaviest)) {}
                        @if row >= READABLE {
                            text x=(format!("{:.1}", x + 6.0)) y=(format!("{:.1}", y + 3.5)) { (index) }
                        }
                    }
                }
                @for (k, line) in lines() {
                    @let slots = line.log_weights.len();
                    @for lost in line.non_finite.iter().filter(|lost| lost.particle < slots) {
                        @let (x, y) = drawn.at(k, lost.particle);
                        path.lost d=(format!("M{:.1} {:.1}l6 6m0 -6l-6 6", x - 3.0, y - 3.0)) {}
                    }
                }
            }
            path.axis d=(format!("M{LEFT} {:.1}H{}", bottom + 8.0, WIDTH - RIGHT)) {}
            text x=(LEFT) y=(format!("{:.1}", bottom + 24.0)) text-anchor="middle" { "0" }
            @if longest > 1 {
                text x=(WIDTH - RIGHT) y=(format!("{:.1}", bottom + 24.0)) text-anchor="middle" { (last) }
            }
            @let middle = (LEFT + WIDTH - RIGHT) / 2.0;
            text.name x=(middle) y=(format!("{:.1}", bottom + 26.0)) text-anchor="middle" { "step" }
            text.name x=(WIDTH - RIGHT + 32.0) y=(format!("{:.1}", bottom + 24.0)) { "weight" }
            path.cursor d=(format!("M0 {TOP}V{bottom:.1}")) {}
        }
    };
    figure("Genealogy", &about, None, &chart)
}

/// Weights of the particles at the end: final ones, or before the end those of the last step.
fn weights(run: &Run, drawn: &Drawn<'_>) -> Vec<f64> {
    let of_step = drawn.population.lines.last().map(|line| line.log_weights.as_slice()).unwrap_or_default();
    let weight = |slot: usize| match run.particles.iter().find(|p| p.index == drawn.first + slot) {
        Some(particle) => particle.weight,
        None => of_step.get(slot).copied().flatten().map_or(0.0, f64::exp),
    };
    (0..drawn.population.lineage.paths.len())
        .map(weight)
        .map(|w| if w.is_finite() { w.max(0.0) } else { 0.0 })
        .collect()
}

/// A line of descent in a sentence.
fn say(run: &Run, drawn: &Drawn<'_>, slot: usize, weight: f64) -> String {
    let index = drawn.first + slot;
    let slots = &drawn.population.lineage.paths[slot];
    let target = run.particles.iter().find(|p| p.index == index).and_then(|p| p.target);
    let last =
        drawn.population.lines.last().and_then(|line| line.reward.as_ref()?.get(slot).copied().flatten());
    let kin = drawn.population.lineage.paths.iter().filter(|other| other[0] == slots[0]).count() - 1;
    let kin = match kin {
        0 => "which has no other descendants".to_string(),
        1 => "as does one other".to_string(),
        n => format!("as do {n} others"),
    };
    format!(
        "particle {index}: reward {}, weight {}; it descends from initial particle {}, {kin}",
        words::maybe(target.or(last)),
        words::weight(weight),
        drawn.initial + slots[0]
    )
}
