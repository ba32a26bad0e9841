//! One run on the page.

use maud::{Markup, html};
use serde_json::Value;

use super::{pictures, scatter, series, tables, tree};
use crate::cli::look::Run;
use crate::cli::words::{self, clean};
use crate::session::NOT_ESTIMATED;

/// Everything about a run. `open`: whether it is unfolded at first.
pub fn section(run: &Run, id: &str, most: usize, open: bool) -> Markup {
    html! {
        details.run id=(id) open[open] {
            summary { h2 { (prompt(run)) } " " (badge(run)) " " span.soft { (words::said(&run.name())) } }
            p.line { (line(run)) }
            (said(run))
            (tiles(run))
            (pictures::gallery(run, most))
            (pictures::previews(run, most))
            div.charts {
                (tree::tree(run))
                (series::charts(run))
                (scatter::held_out(run))
            }
            (tables::tables(run))
        }
    }
}

/// The prompt, or that there is none.
pub fn prompt(run: &Run) -> Markup {
    match run.text("prompt").trim() {
        "" => html! { em { "no prompt" } },
        text => words::said(text),
    }
}

/// How the run stands.
pub fn badge(run: &Run) -> Markup {
    let (class, text) = match run.standing() {
        "finished" => ("good", "finished"),
        "running" => ("warn", "running"),
        "killed" => ("warn", "killed"),
        "interrupted" => ("warn", "interrupted"),
        "failed" => ("bad", "failed"),
        _ => ("bad", "of unknown status"),
    };
    html! { span class={"badge " (class)} { (text) } }
}

/// What was done, in a line.
fn line(run: &Run) -> Markup {
    let of = |key: &str, what: &str| run.number(key).map(|n| format!("{} {what}", words::count(n)));
    let populations = of("populations", "populations").filter(|_| run.number("populations") != Some(1.0));
    let parts = [
        Some(format!("{} towards {}", clean(run.text("proposal")), clean(&run.target()))),
        run.number("alpha").map(|alpha| format!("alpha {}", words::given(alpha))),
        Some(format!("model {}", clean(run.text("model")))),
        populations,
        of("chains", "particles"),
        of("steps", "steps"),
        run.number("cfg_scale").map(|scale| format!("guidance {}", words::given(scale))),
        run.record.get("seed").map(|seed| format!("seed {seed}")),
        run.number("width").zip(run.number("height")).map(|(w, h)| format!("{w}\u{d7}{h} pixels")),
    ];
    html! {
        (parts.into_iter().flatten().collect::<Vec<_>>().join(" \u{b7} "))
        @if !run.text("negative_prompt").is_empty() {
            " \u{b7} without: " (words::said(run.text("negative_prompt")))
        }
    }
}

/// What the run has said, and what of its files could not be read.
fn said(run: &Run) -> Markup {
    let warnings = run.record.get("warnings").and_then(Value::as_array).into_iter().flatten();
    let warnings: Vec<&str> = warnings.filter_map(Value::as_str).collect();
    let (error, stopped) = (run.text("error"), run.text("stopped"));
    let ended = run.standing();
    let unfinished = (ended != "finished" && ended != "running").then(|| {
        let command = [Value::from("das-cuda"), "resume".into(), run.folder.to_string_lossy().into()];
        tables::quoted(&command)
    });
    html! {
        @if !(warnings.is_empty() && run.notes.is_empty() && unfinished.is_none() && error.is_empty()) {
            ul.notes {
                @if !error.is_empty() { li.bad { (words::said(error)) } }
                @if !stopped.is_empty() { li { "Ended by its limit: " (words::said(stopped)) "." } }
                @if let Some(command) = unfinished {
                    li {
                        "Not finished: what is here is what there was. " code { (clean(&command)) }
                        @if ended == "failed" { " tries again, and fails where the cause is still there." }
                        @else { " goes on with it." }
                    }
                }
                @for note in &run.notes { li.bad { (words::said(note)) } }
                @for warning in warnings { li { (words::said(warning)) } }
            }
        }
    }
}

/// A number with its name and what is to be known of it.
fn tile(name: &str, value: &str, more: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) @if !more.is_empty() { span.soft { (more) } } } } }
}

/// The numbers that count.
fn tiles(run: &Run) -> Markup {
    let known = |key: &str| run.result(key).and_then(Value::as_f64);
    let n = run.particles.len();
    let of_all = if n > 0 { format!("of {n}") } else { String::new() };
    let (first, last) = run.mean_rewards().unzip();
    let last = mean(run.particles.iter().filter_map(|p| p.target)).or(last);
    let of_initial = run.initial().map_or(of_all.clone(), |initial| format!("of {initial} at first"));
    let log_z = log_z(run);
    let held_out = run.result("eval_rewards").and_then(Value::as_object).cloned().unwrap_or_default();
    html! {
        dl.tiles {
            @if let Some(reward) = known("reward") {
                (tile("reward, chosen", &words::number(reward), &chosen(run)))
            }
            @for (name, value) in &held_out {
                (tile(&format!("{}, held out", clean(name)), &words::maybe(value.as_f64()), "of the chosen"))
            }
            @if let (Some(first), Some(last)) = (first, last) {
                (tile("mean reward", &words::number(last), &format!("{} at first", words::number(first))))
            }
            @if let Some((value, more)) = log_z { (tile("log Z", &value, &more)) }
            @if let Some(ess) = known("ess") { (tile("ESS", &format!("{ess:.1}"), &of_all)) }
            @if let Some(roots) = known("roots_alive") {
                (tile("roots alive", &words::count(roots), &of_initial))
            }
            @if let Some(pictures) = known("distinct_pictures") {
                (tile("distinct pictures", &words::count(pictures), &of_all))
            }
            @if let Some(seconds) = run.number("seconds") {
                @let evaluations = run.number("unet_evaluations").map(words::count);
                @let planned = if run.status() == "finished" { "" } else { " planned" };
                @let more = evaluations.map_or(String::new(), |n| format!("{n} UNet evaluations{planned}"));
                (tile("cost", &words::seconds(seconds), &more))
            }
        }
    }
}

/// Which particle was chosen, and how.
fn chosen(run: &Run) -> String {
    let particle = run.result("best").map_or(words::NONE.into(), words::entry);
    let how = match run.text("select") {
        "reward" => ", of the largest reward",
        "argmax" => ", of the largest weight",
        "draw" => ", drawn by weight",
        _ => "",
    };
    format!("particle {particle}{how}")
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    (n > 0.0).then(|| sum / n)
}

/// The estimate of log Z, and its error or why there is none; `None` before there is a result.
pub fn log_z(run: &Run) -> Option<(String, String)> {
    run.record.get("result")?;
    let why = run.result("log_z_unreliable").and_then(Value::as_str);
    if why == Some(NOT_ESTIMATED) {
        return Some((words::NONE.into(), clean(NOT_ESTIMATED).to_string()));
    }
    let value = match run.result("log_z")? {
        Value::Null => "minus infinity".into(),
        value => words::maybe(value.as_f64()),
    };
    let error = run.result("log_z_error").and_then(Value::as_f64);
    let more = match (error, why) {
        (Some(error), _) => format!("\u{b1} {}", words::number(error)),
        (None, Some(why)) => format!("unreliable: {}", clean(why)),
        _ => String::new(),
    };
    Some((value, more))
}
