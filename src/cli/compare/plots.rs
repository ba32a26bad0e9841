//! The charts of a comparison: each reward against cost, and against the divergence from the model.

use std::collections::BTreeSet;

use super::chart::{Chart, Point, Series};
use super::design::{Arm, Design};
use super::report::{Report, RewardCells, Row};
use crate::cli::statistics::Interval;
use crate::method::Conclusion;
use crate::run::slug;

/// The charts with the names of their files.
pub fn charts(design: &Design, report: &Report) -> Vec<(String, Chart)> {
    let Some(first) = report.rows.first() else { return Vec::new() };
    let mut used = BTreeSet::new();
    let mut charts = Vec::new();
    for (r, reward) in first.rewards.iter().enumerate() {
        let own = slug(&reward.name);
        let mut name = own.clone();
        let mut number = 2;
        while !used.insert(name.clone()) {
            name = format!("{own}-{number}");
            number += 1;
        }
        charts.push((format!("cost-{name}.svg"), against_cost(design, report, r)));
        charts.push((format!("kl-{name}.svg"), against_kl(design, report, r)));
    }
    charts
}

/// The points of every arm: of all its budgets for which there is one. A line joins those of `joined` arms.
fn series(
    design: &Design,
    report: &Report,
    joined: impl Fn(&Arm) -> bool,
    point: impl Fn(&Row) -> Option<Point>,
) -> Vec<Series> {
    let of_arm = |label: &str| {
        let mut rows: Vec<&Row> = report.rows.iter().filter(|row| row.arm == label).collect();
        rows.sort_by(|a, b| a.flops.total_cmp(&b.flops));
        rows.into_iter().filter_map(&point).collect()
    };
    design
        .arms
        .iter()
        .map(|arm| Series { label: arm.label.clone(), joined: joined(arm), points: of_arm(&arm.label) })
        .collect()
}

/// What the uncertainty in a chart of so many prompts is.
pub fn bars(prompts: usize) -> &'static str {
    match prompts {
        1 => "no intervals: one prompt",
        _ => "bars: 95 % intervals over prompts",
    }
}

fn against_cost(design: &Design, report: &Report, r: usize) -> Chart {
    let most = report.rows.iter().map(|row| row.flops).fold(0.0, f64::max);
    let (prefix, unit) = prefix(most);
    let point = |row: &Row| {
        let x = Interval { mean: row.flops / unit, ends: None };
        Some(Point { x, y: row.rewards[r].value? })
    };
    let name = &report.rows[0].rewards[r].name;
    Chart {
        title: format!("{name} against cost, {}", report.size()),
        note: format!("{}; lines join the budgets of an arm", bars(report.prompts)),
        x: format!("cost of one prompt, {prefix}FLOP"),
        y: format!("mean {name} of the returned pictures"),
        log_x: design.budgets.len() > 1,
        series: series(design, report, |_| true, point),
        links: Vec::new(),
    }
}

fn against_kl(design: &Design, report: &Report, r: usize) -> Chart {
    let cells = |row: &Row| -> Option<(Interval, Interval)> {
        let RewardCells { against_kl, .. } = &row.rewards[r];
        *against_kl
    };
    let point = |row: &Row| cells(row).map(|(x, y)| Point { x, y });
    let budgets = design.budgets.iter();
    let links = budgets.flat_map(|budget| {
        design.sweeps.iter().map(|arms| {
            let row = |arm: &usize| {
                let label = &design.arms[*arm].label;
                report.rows.iter().find(|row| row.arm == *label && row.multiple == budget.multiple)
            };
            let means = arms.iter().filter_map(row).filter_map(cells);
            means.map(|(x, y)| (x.mean, y.mean)).collect::<Vec<_>>()
        })
    });
    let name = &report.rows[0].rewards[r].name;
    let joined = if design.sweeps.is_empty() { "" } else { "; dashed lines join a sweep" };
    Chart {
        title: format!("{name} against divergence from the model, {}", report.size()),
        note: format!("of the runs that know it; {}{joined}", bars(report.prompts)),
        x: "divergence from the model's own samples, nats (best-of-n: its bound)".into(),
        y: format!("mean {name} under the weights"),
        log_x: false,
        // Of the others the law is the same at every budget.
        series: series(design, report, |arm| arm.method.conclusion() == Conclusion::Best, point),
        links: links.collect(),
    }
}

/// The largest prefix of units that leaves `most` a number of at least 1, and its factor.
fn prefix(most: f64) -> (&'static str, f64) {
    let prefixes = [("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)];
    prefixes.into_iter().find(|(_, factor)| most >= *factor).unwrap_or(("", 1.0))
}
