//! The charts of a comparison: each reward against cost, and against the divergence from the model.

use std::collections::BTreeSet;

use super::chart::{Chart, Point, Series};
use super::design::{Arm, Design};
use super::report::{Report, RewardCells, Row};
use crate::cli::statistics::Interval;
use crate::method::Conclusion;
use crate::run::slug;

/// Divergences that are apart by more than this factor are drawn by their logarithms.
const WIDE: f64 = 50.0;

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
        if r > 0 {
            let chart = against_target(design, report, &reward.name, |row| row.rewards[r].value);
            charts.push((format!("target-{name}.svg"), chart));
        }
    }
    let distance = "pixel distance over seeds";
    charts.push(("distance.svg".into(), against_target(design, report, distance, |row| row.seed_distance)));
    charts
}

/// The points of every arm: of all its budgets for which there is one. A line joins those of `joined` arms.
/// With `sweeps`, arms that a sweep joins are one series at each budget, in the order of its values.
fn series(
    design: &Design,
    report: &Report,
    sweeps: bool,
    joined: impl Fn(&Arm) -> bool,
    point: impl Fn(&Row) -> Option<Point>,
) -> Vec<Series> {
    let rows_of = |label: &str| {
        let mut rows: Vec<&Row> = report.rows.iter().filter(|row| row.arm == label).collect();
        rows.sort_by(|a, b| a.flops.total_cmp(&b.flops));
        rows
    };
    let mut all = Vec::new();
    for (place, arm) in design.arms.iter().enumerate() {
        let sweep = design.sweeps.iter().find(|arms| sweeps && arms.contains(&place));
        let Some(arms) = sweep else {
            let points = rows_of(&arm.label).into_iter().filter_map(&point).collect();
            all.push(Series { label: arm.label.clone(), joined: joined(arm), points });
            continue;
        };
        if arms[0] != place {
            continue;
        }
        let flag = arm.label.rsplit_once('=').map_or(arm.label.as_str(), |(flag, _)| flag);
        for budget in &design.budgets {
            let rows = arms.iter().flat_map(|&arm| rows_of(&design.arms[arm].label));
            let points = rows.filter(|row| row.multiple == budget.multiple).filter_map(&point).collect();
            let label = match design.budgets.len() {
                1 => flag.to_string(),
                _ => format!("{flag}, budget {budget}"),
            };
            all.push(Series { label, joined: true, points });
        }
    }
    all
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
        series: series(design, report, false, |_| true, point),
    }
}

fn against_kl(design: &Design, report: &Report, r: usize) -> Chart {
    let cells = |row: &Row| -> Option<(Interval, Interval)> {
        let RewardCells { against_kl, .. } = &row.rewards[r];
        *against_kl
    };
    let known = report.rows.iter().filter_map(cells).map(|(x, _)| x.mean).filter(|x| *x > 0.0);
    let (least, most) = known.fold((f64::INFINITY, 0.0_f64), |(a, b), x| (a.min(x), b.max(x)));
    // A few nats and hundreds of them are both seen on a logarithmic axis alone.
    let log_x = most > WIDE * least;
    let point = |row: &Row| {
        let (mut x, y) = cells(row)?;
        if log_x {
            x.ends = x.ends.filter(|(low, _)| *low > 0.0);
        }
        (!log_x || x.mean > 0.0).then_some(Point { x, y })
    };
    let name = &report.rows[0].rewards[r].name;
    let of_zero = if log_x { ", and is not 0" } else { "" };
    Chart {
        title: format!("{name} against divergence from the model, {}", report.size()),
        note: format!("of the runs that know it{of_zero}; {}{}", bars(report.prompts), joined(design)),
        x: "divergence from the model's own samples, nats (best-of-n, moves that are not weighed: a bound)"
            .into(),
        y: format!("mean {name} under the weights"),
        log_x,
        // Of the others the law is the same at every budget.
        series: series(design, report, true, |arm| arm.method.conclusion() == Conclusion::Best, point),
    }
}

/// What else of the returned pictures is against their target: a held-out reward, or how much they differ.
fn against_target(
    design: &Design,
    report: &Report,
    name: &str,
    of: impl Fn(&Row) -> Option<Interval>,
) -> Chart {
    let point = |row: &Row| Some(Point { x: row.rewards[0].value?, y: of(row)? });
    Chart {
        title: format!("{name} against the target, {}", report.size()),
        note: format!("of the returned pictures; {}{}", bars(report.prompts), joined(design)),
        x: "mean target of the returned pictures".into(),
        y: format!("mean {name}"),
        log_x: false,
        series: series(design, report, true, |_| true, point),
    }
}

/// What lines join where there are sweeps.
fn joined(design: &Design) -> &'static str {
    if design.sweeps.is_empty() { "" } else { "; lines join a sweep" }
}

/// The largest prefix of units that leaves `most` a number of at least 1, and its factor.
fn prefix(most: f64) -> (&'static str, f64) {
    let prefixes = [("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)];
    prefixes.into_iter().find(|(_, factor)| most >= *factor).unwrap_or(("", 1.0))
}
