//! A comparison on the page: its table, its curves, its pictures arm beside arm.

use maud::{Markup, html};
use serde_json::Value;

use super::pictures::{embed_named, picture};
use super::plot::{Plot, figure, legend, mark, place, series};
use crate::cli::look::{Comparison, Drawn};
use crate::cli::words::{self, clean};

/// Everything about a comparison; `most` pictures.
pub fn section(comparison: &Comparison, id: &str, most: usize, open: bool) -> Markup {
    let rows = rows(comparison);
    html! {
        details.run.comparison id=(id) open[open] {
            summary { h2 { "Comparison" } " " span.soft { (words::said(&comparison.name())) } }
            p.line {
                (comparison.design("arms").len()) " arms \u{b7} "
                (comparison.design("prompts").len()) " prompts \u{b7} "
                (comparison.design("seeds").len()) " seeds \u{b7} "
                (comparison.design("budgets").len()) " budgets"
            }
            (notes(comparison))
            @if !rows.is_empty() {
                (table(comparison, rows))
                (curves(comparison, rows))
            }
            (pictures(comparison, most))
            (design(comparison))
        }
    }
}

fn rows(comparison: &Comparison) -> &[Value] {
    let rows = comparison.summary.as_ref().and_then(|summary| summary.get("rows")).and_then(Value::as_array);
    rows.map(Vec::as_slice).unwrap_or_default()
}

fn notes(comparison: &Comparison) -> Markup {
    let of = |key: &str| {
        let list = comparison.summary.as_ref().and_then(|summary| summary.get(key)).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(String::from).collect::<Vec<_>>()
    };
    let (warnings, costs) = (of("warnings"), of("notes"));
    html! {
        @if !(warnings.is_empty() && costs.is_empty() && comparison.notes.is_empty()) {
            ul.notes {
                @for note in &comparison.notes { li { (words::said(note)) } }
                @for note in warnings { li.bad { (words::said(&note)) } }
                @for note in costs { li { "Not of equal cost: " (words::said(&note)) "." } }
            }
        }
    }
}

fn number(row: &Value, key: &str) -> String {
    words::maybe(row[key].as_f64())
}

/// A mean with its interval.
pub fn interval(value: &Value, sign: bool) -> Markup {
    let shown = |x: Option<f64>| match x {
        Some(x) if sign && x > 0.0 => format!("+{}", words::number(x)),
        x => words::maybe(x),
    };
    let (low, high) = (value["low"].as_f64(), value["high"].as_f64());
    html! {
        @if value.is_null() { (words::NONE) } @else {
            (shown(value["mean"].as_f64()))
            @if low.is_some() && high.is_some() { br; span.soft { "[" (shown(low)) ", " (shown(high)) "]" } }
        }
    }
}

fn rewards(row: &Value) -> Vec<String> {
    row["rewards"].as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
}

fn table(comparison: &Comparison, rows: &[Value]) -> Markup {
    let names = rewards(&rows[0]);
    let summary = comparison.summary.as_ref();
    let against =
        summary.and_then(|summary| summary.get("against")).and_then(Value::as_str).unwrap_or_default();
    // A difference that its interval leaves no doubt about.
    let sure = |value: &Value| match (value["low"].as_f64(), value["high"].as_f64()) {
        (Some(low), _) if low > 0.0 => Some("better"),
        (_, Some(high)) if high < 0.0 => Some("worse"),
        _ => None,
    };
    html! {
        div.scroll tabindex="0" role="region" aria-label="Table of the comparison" {
            table.runs {
                thead { tr {
                    th { "arm" } th { "budget" } th { "particles" } th { "cost" }
                    @for name in &names { th { (words::said(name)) } th { "minus " (words::said(against)) } }
                    th { "roots" br; span.soft { "median (5 %)" } } th { "pixel distance" }
                    th { "CLIP distance" } th { "over seeds" } th { "KL, nats" }
                    th { "log Z" } th { "its error" } th { "error known" }
                } }
                tbody { @for row in rows {
                    tr {
                        th { (words::entry(&row["arm"])) } td { (words::entry(&row["budget"])) }
                        td { (words::entry(&row["particles"])) } td { (number(row, "cost")) }
                        @for name in &names {
                            @let cells = &row["rewards"][name];
                            td { (interval(&cells["value"], false)) }
                            td class=[sure(&cells["difference"])] { (interval(&cells["difference"], true)) }
                        }
                        td {
                            @if let Some(median) = row["roots_median"].as_f64() {
                                (median) " (" (words::entry(&row["roots_5_percent"])) ")"
                            }
                        }
                        td { (number(row, "pixel_distance")) } td { (number(row, "clip_distance")) }
                        td { (number(row, "seed_distance")) } td { (number(row, "kl")) }
                        td { (number(row, "log_z")) } td { (number(row, "log_z_error")) }
                        td {
                            @if let Some(share) = row["log_z_known"].as_f64() {
                                (format!("{:.0} %", 100.0 * share))
                            }
                        }
                    }
                } }
            }
        }
        p.about {
            "Means of the returned pictures. Brackets are 95 % intervals by the bootstrap over prompts; "
            "differences are paired by prompt and seed, and coloured where the interval leaves out zero."
        }
    }
}

/// A point of a chart, with the ends of its intervals.
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub across: Option<(f64, f64)>,
    pub upright: Option<(f64, f64)>,
}

/// What a chart is of.
pub struct Words<'a> {
    pub title: &'a str,
    pub about: &'a str,
    pub x: &'a str,
}

/// How its points are drawn.
#[derive(Clone, Copy)]
pub struct Style {
    /// Where all are above 0, x by its logarithm.
    pub log_x: bool,
    /// A line through the points of a series.
    pub joined: bool,
}

/// The ends of an interval.
pub fn ends(value: &Value) -> Option<(f64, f64)> {
    value["low"].as_f64().zip(value["high"].as_f64())
}

fn curves(comparison: &Comparison, rows: &[Value]) -> Markup {
    let labels: Vec<&str> =
        comparison.design("arms").iter().filter_map(|arm| arm["label"].as_str()).collect();
    let arms: Vec<Vec<&Value>> = labels
        .iter()
        .map(|label| {
            let mut of_arm: Vec<&Value> =
                rows.iter().filter(|row| row["arm"].as_str() == Some(label)).collect();
            let flops = |row: &Value| row["flops"].as_f64().unwrap_or(0.0);
            of_arm.sort_by(|a, b| flops(a).total_cmp(&flops(b)));
            of_arm
        })
        .collect();
    let budgets = comparison.design("budgets").len();
    let (prefix, unit) =
        words::prefix(rows.iter().filter_map(|row| row["flops"].as_f64()).fold(0.0, f64::max));
    html! {
        (legend(&labels.iter().map(|label| (*label).to_string()).collect::<Vec<_>>()))
        div.charts {
            @for name in rewards(&rows[0]) {
                @let shown = clean(&name);
                (chart(
                    &arms,
                    &Words {
                        title: &format!("{shown} against cost"),
                        about: "Mean of the returned pictures; lines join the budgets of an arm.",
                        x: &format!("cost of one prompt, {prefix}FLOP"),
                    },
                    Style { log_x: budgets > 1, joined: budgets > 1 },
                    |row| against_cost(row, &name, unit),
                ))
                (chart(
                    &arms,
                    &Words {
                        title: &format!("{shown} against divergence"),
                        about: "Mean under the final weights, of the runs that know both.",
                        x: "divergence from the model's own samples, nats",
                    },
                    Style { log_x: false, joined: false },
                    |row| against_divergence(row, &name),
                ))
            }
        }
    }
}

fn against_cost(row: &Value, reward: &str, unit: f64) -> Option<Point> {
    let value = &row["rewards"][reward]["value"];
    let (x, y) = (row["flops"].as_f64()? / unit, value["mean"].as_f64()?);
    Some(Point { x, y, across: None, upright: ends(value) })
}

fn against_divergence(row: &Value, reward: &str) -> Option<Point> {
    let cells = &row["rewards"][reward];
    let (kl, weighted) = (&cells["kl"], &cells["weighted"]);
    let (x, y) = (kl["mean"].as_f64()?, weighted["mean"].as_f64()?);
    Some(Point { x, y, across: ends(kl), upright: ends(weighted) })
}

/// The chart of series of rows, each with a point or none.
pub fn chart(
    series_of_rows: &[Vec<&Value>],
    &Words { title, about, x }: &Words<'_>,
    Style { log_x, joined }: Style,
    point: impl Fn(&Value) -> Option<Point>,
) -> Markup {
    let points: Vec<Vec<Point>> =
        series_of_rows.iter().map(|rows| rows.iter().filter_map(|row| point(row)).collect()).collect();
    let log_x = log_x && points.iter().flatten().all(|p| p.x > 0.0);
    let all = || points.iter().flatten();
    let both = |ends: Option<(f64, f64)>| ends.into_iter().flat_map(|(low, high)| [low, high]);
    let xs = all().flat_map(|p| both(p.across).chain([p.x]));
    let ys = all().flat_map(|p| both(p.upright).chain([p.y]));
    let Some(plot) = Plot::new(xs, ys, log_x, x) else { return html! {} };
    let bar = |from: (f64, f64), to: (f64, f64)| format!("M{}L{}", place(from), place(to));
    let inner = html! {
        @for (i, points) in points.iter().enumerate() {
            @if joined {
                path class={"curve " (series(i))} d=(plot.line(points.iter().map(|p| (p.x, Some(p.y))))) {}
            }
            @for p in points {
                @if let Some((low, high)) = p.upright {
                    path class={"bar " (series(i))} d=(bar(plot.at(p.x, low), plot.at(p.x, high))) {}
                }
                @if let Some((low, high)) = p.across {
                    path class={"bar " (series(i))} d=(bar(plot.at(low, p.y), plot.at(high, p.y))) {}
                }
                path class={"mark " (series(i))} d=(mark(i, plot.at(p.x, p.y), 5.0)) {}
            }
        }
    };
    let label = format!("{title}, {} points", all().count());
    figure(title, &html! { (about) }, None, &plot.svg(&label, None, &inner))
}

/// The pictures of the first prompts and seeds, a column for each arm and budget.
fn pictures(comparison: &Comparison, most: usize) -> Markup {
    let mut columns: Vec<(&str, f64)> = Vec::new();
    let mut rows: Vec<(usize, u64, &str)> = Vec::new();
    for run in &comparison.runs {
        if !columns.contains(&(run.arm.as_str(), run.budget)) {
            columns.push((&run.arm, run.budget));
        }
        if !rows.iter().any(|(index, seed, _)| (*index, *seed) == (run.index, run.seed)) {
            rows.push((run.index, run.seed, &run.prompt));
        }
    }
    columns.sort_by(|a, b| a.1.total_cmp(&b.1));
    let all = rows.len();
    rows.truncate((most / columns.len().max(1)).max(1));
    let budgets = comparison.design("budgets").len();
    let named = |budget: f64| {
        let row = self::rows(comparison).iter().find(|row| row["multiple"].as_f64() == Some(budget));
        row.and_then(|row| row["budget"].as_str()).map_or_else(|| budget.to_string(), words::clean)
    };
    let find = |row: (usize, u64), column: (&str, f64)| -> Option<&Drawn> {
        comparison
            .runs
            .iter()
            .find(|run| (run.index, run.seed) == row && (run.arm.as_str(), run.budget) == column)
    };
    html! {
        @if !rows.is_empty() {
            h3 { "Returned pictures" }
            div.scroll tabindex="0" role="region" aria-label="Returned pictures" {
                table.runs.matrix {
                    thead { tr {
                        th { "prompt and seed" }
                        @for (arm, budget) in &columns {
                            th { (words::said(arm)) @if budgets > 1 { br; span.soft { "budget " (named(*budget)) } } }
                        }
                    } }
                    tbody { @for (index, seed, prompt) in &rows {
                        tr {
                            th { (words::said(&words::short(prompt, 120))) br; span.soft { "seed " (seed) } }
                            @for column in &columns {
                                td { @if let Some(run) = find((*index, *seed), *column) {
                                    (returned(comparison, run))
                                    br; (words::maybe(run.target))
                                    @for (name, value) in &run.eval_rewards {
                                        br;
                                        span.soft {
                                            (words::short(name, 14)) " " (words::maybe(value.as_f64()))
                                        }
                                    }
                                } }
                            }
                        }
                    } }
                }
            }
            @if rows.len() < all {
                p.about {
                    "The first " (rows.len()) " of " (all) " prompts with their seeds; --pictures shows more."
                }
            }
        }
    }
}

/// The picture of a run.
fn returned(comparison: &Comparison, run: &Drawn) -> Markup {
    if run.picture.is_empty() {
        return picture(&Err("every particle was lost"), &format!("{} of {}", run.arm, run.prompt));
    }
    let embedded = embed_named(&comparison.folder, &run.picture);
    let (prompt, reward) = (words::short(&run.prompt, 80), words::maybe(run.target));
    picture(&embedded, &format!("{} of {prompt}, reward {reward}", run.arm))
}

fn design(comparison: &Comparison) -> Markup {
    let flags =
        |arm: &Value| super::tables::quoted(arm["flags"].as_array().map(Vec::as_slice).unwrap_or_default());
    let command = comparison.record.get("command").and_then(Value::as_array);
    html! {
        div.tables { details {
            summary { "Design" }
            div.scroll tabindex="0" role="region" aria-label="Design" {
                table { thead { tr { th { "arm" } th { "its flags" } th { "particles, by budget" } } } tbody {
                    @for arm in comparison.design("arms") {
                        tr {
                            th { (words::entry(&arm["label"])) } td { code { (clean(&flags(arm))) } }
                            td { (words::entry(&arm["particles"])) }
                        }
                    }
                } }
                @if let Some(command) = command { pre { (clean(&super::tables::quoted(command))) } }
            }
        } }
    }
}
