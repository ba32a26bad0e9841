//! The charts of a front: every pair of rewards, and each held-out reward against the first weight of two.

use super::design::{Front, PLAIN};
use super::report::{Report, Row};
use crate::cli::compare::chart::{Chart, Point, Series};
use crate::cli::compare::plots::bars;
use crate::cli::statistics::Interval;
use crate::run::slug;

/// The charts with the names of their files.
pub fn charts(front: &Front, report: &Report) -> Vec<(String, Chart)> {
    let size = front.size();
    let bars = bars(front.design.prompts.len());
    let two = front.names.len() == 2;
    let series = |point: &dyn Fn(&Row) -> Option<Point>| -> Vec<Series> {
        let arms = front.design.arms.iter().map(|arm| arm.label.as_str()).chain([PLAIN]);
        arms.map(|arm| Series {
            label: if arm == PLAIN { "plain samples".into() } else { arm.to_string() },
            joined: two,
            points: report.rows.iter().filter(|row| row.arm == arm).filter_map(point).collect(),
        })
        .collect()
    };
    let mut charts = Vec::new();
    for (a, first) in front.names.iter().enumerate() {
        for (b, second) in front.names.iter().enumerate().skip(a + 1) {
            let chart = Chart {
                title: format!("{second} against {first}, {size}"),
                note: format!("{bars}{}", if two { "; lines follow the weights" } else { "" }),
                x: format!("mean {first} of the returned pictures"),
                y: format!("mean {second} of the returned pictures"),
                log_x: false,
                series: series(&|row| Some(Point { x: row.rewards[a]?, y: row.rewards[b]? })),
            };
            charts.push((format!("front-{}-{}-{a}-{b}.svg", slug(first), slug(second)), chart));
        }
    }
    let held_out = report.rows.first().into_iter().flat_map(|row| row.held_out.iter().enumerate());
    for (at, (name, _)) in held_out.filter(|_| two) {
        let first = &front.names[0];
        let point = |row: &Row| {
            let x = Interval { mean: *row.weights.first()?, ends: None };
            Some(Point { x, y: row.held_out.get(at)?.1? })
        };
        let chart = Chart {
            title: format!("held out: {name} against the weight of {first}, {size}"),
            note: format!("{bars}; nothing was aligned to {name}"),
            x: format!("weight of {first}, the rest is that of {}", front.names[1]),
            y: format!("mean {name} of the returned pictures"),
            log_x: false,
            series: series(&point).into_iter().filter(|series| !series.points.is_empty()).collect(),
        };
        charts.push((format!("held-out-{}-{at}.svg", slug(name)), chart));
    }
    charts
}
