//! An optimisation on the page: its table, its learning curves, the best picture of each strategy.

use maud::{Markup, html};
use serde_json::Value;

use super::comparison::{Point, Style, Words, chart, ends, interval};
use super::pictures::{embed_named, picture};
use super::plot::{Plot, figure, legend, mark, place, series};
use crate::cli::look::{Optimisation, Query};
use crate::cli::words::{self, clean};

/// Everything about an optimisation; `most` pictures.
pub fn section(of: &Optimisation, id: &str, most: usize, open: bool) -> Markup {
    html! {
        details.run.comparison id=(id) open[open] {
            summary { h2 { "Optimisation" } " " span.soft { (words::said(&of.name())) } }
            p.line {
                "black box " (words::said(of.black_box())) " \u{b7} "
                (of.number("queries")) " queries in rounds of " (of.number("batch")) " \u{b7} "
                (of.design("strategies").len()) " strategies \u{b7} "
                (of.design("prompts").len()) " prompts \u{b7} "
                (of.design("seeds").len()) " seeds"
            }
            @if !of.notes.is_empty() {
                ul.notes { @for note in &of.notes { li { (words::said(note)) } } }
            }
            @if !of.rows().is_empty() { (table(of)) (curves(of)) }
            (expected(of))
            (pictures(of, most))
        }
    }
}

fn table(of: &Optimisation) -> Markup {
    let against = of.summary.as_ref().and_then(|summary| summary.get("against")).and_then(Value::as_str);
    let evaluated = of.number("evaluate") > 0;
    html! {
        div.scroll tabindex="0" role="region" aria-label="Table of the optimisation" {
            table.runs {
                thead { tr {
                    th { "strategy" } th { "last round" }
                    th { "minus " (words::said(against.unwrap_or_default())) }
                    @if evaluated { th { "evaluation" } }
                    th { "largest" } th { "expected minus answer" } th { "off by" } th { "covered" }
                } }
                tbody { @for row in of.rows() {
                    tr {
                        th { (words::entry(&row["strategy"])) }
                        td { (interval(&row["last"], false)) }
                        td { (interval(&row["last_difference"], true)) }
                        @if evaluated { td { (interval(&row["evaluation"], false)) } }
                        td { (interval(&row["best"], false)) }
                        td { (words::maybe(row["bias"].as_f64())) }
                        td { (words::maybe(row["error"].as_f64())) }
                        td {
                            @if let Some(share) = row["coverage"].as_f64() {
                                (format!("{:.0} %", 100.0 * share)) " of " (words::entry(&row["guided"]))
                            }
                        }
                    }
                } }
            }
        }
        p.about {
            "Means of answers. Brackets are 95 % intervals over seeds by Student's t, differences paired by seed. "
            "What the surrogate expected, and the share of answers within twice its uncertainty, are of guided "
            "pictures before they were asked about."
        }
    }
}

/// The names of the strategies, as the table has them.
fn names(of: &Optimisation) -> Vec<String> {
    of.rows().iter().filter_map(|row| row["strategy"].as_str().map(String::from)).collect()
}

fn curves(of: &Optimisation) -> Markup {
    html! {
        (legend(&names(of)))
        div.charts {
            (curve(of, "Mean answer of a round", "mean"))
            (curve(of, "Largest answer so far", "best"))
        }
    }
}

fn curve(of: &Optimisation, title: &str, key: &str) -> Markup {
    let rounds: Vec<Vec<&Value>> =
        of.rows().iter().map(|row| row["rounds"].as_array().into_iter().flatten().collect()).collect();
    let words = Words { title, about: "Mean over seeds; bars are 95 % intervals.", x: "queries" };
    chart(&rounds, &words, Style { log_x: false, joined: true }, |round| {
        let (x, y) = (round["queries"].as_f64()?, round[key]["mean"].as_f64()?);
        Some(Point { x, y, across: None, upright: ends(&round[key]) })
    })
}

/// Most points of a chart of single queries.
const MOST_POINTS: usize = 2000;

/// What was answered against what was expected: over-optimisation lies below the line.
fn expected(of: &Optimisation) -> Markup {
    let names: Vec<&str> = of.design("strategies").iter().filter_map(Value::as_str).collect();
    let known =
        |query: &Query| Some((query.mean?, query.answer, names.iter().position(|n| *n == query.strategy)?));
    let points: Vec<(f64, f64, usize)> =
        of.queries.iter().filter(|query| query.round.is_some()).filter_map(known).take(MOST_POINTS).collect();
    let values = || points.iter().flat_map(|(x, y, _)| [*x, *y]);
    let Some(plot) = Plot::new(values(), values(), false, "expected by the surrogate") else {
        return html! {};
    };
    let (low, high) = values().fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
    let inner = html! {
        path.axis d=(format!("M{}L{}", place(plot.at(low, low)), place(plot.at(high, high)))) {}
        @for (x, y, i) in &points {
            path class={"mark " (series(*i))} d=(mark(*i, plot.at(*x, *y), 3.0)) {}
        }
    };
    let about = html! {
        "Each guided query, before it was asked about. Below the line the surrogate expected too much."
    };
    let label = format!("Answers against expectations, {} points", points.len());
    html! {
        @if of.rows().is_empty() { (legend(&names.iter().map(|n| (*n).to_string()).collect::<Vec<_>>())) }
        div.charts { (figure("Answers against expectations", &about, None, &plot.svg(&label, None, &inner))) }
    }
}

/// The pictures of the largest answers of each strategy.
fn pictures(of: &Optimisation, most: usize) -> Markup {
    let names: Vec<&str> = of.design("strategies").iter().filter_map(Value::as_str).collect();
    let each = (most / names.len().max(1)).clamp(1, 8);
    let best = |name: &str| {
        let mut own: Vec<&Query> =
            of.queries.iter().filter(|query| query.strategy == name && query.round.is_some()).collect();
        own.sort_by(|a, b| b.answer.total_cmp(&a.answer));
        own.truncate(each);
        own
    };
    html! {
        @if !of.queries.is_empty() {
            h3 { "Pictures of the largest answers" }
            div.scroll tabindex="0" role="region" aria-label="Pictures of the largest answers" {
                table.runs.matrix { tbody { @for name in &names {
                    tr {
                        th { (words::said(name)) }
                        @for query in best(name) {
                            td { (shown(of, query)) br; (words::number(query.answer)) br;
                                span.soft { "seed " (query.seed) ", query " (query.query) } }
                        }
                    }
                } } }
            }
        }
    }
}

fn shown(of: &Optimisation, query: &Query) -> Markup {
    let embedded = embed_named(&of.folder, &query.picture);
    let alt = format!(
        "{} of {}, answer {}",
        clean(&query.strategy),
        words::short(&query.prompt, 80),
        words::number(query.answer)
    );
    picture(&embedded, &alt)
}
