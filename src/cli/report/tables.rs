//! The numbers of a run as tables that unfold.

use maud::{Markup, html};
use serde_json::{Map, Value};

use crate::cli::look::Run;
use crate::cli::words::{self, clean};

/// Entries of `run.json` that are no options, or stand elsewhere on the page.
const NO_OPTIONS: [&str; 17] = [
    "schema",
    "status",
    "program",
    "command",
    "directory",
    "resumed",
    "started",
    "seconds",
    "stopped",
    "error",
    "warnings",
    "prompt",
    "result",
    "model_files",
    "reward_files",
    "repositories",
    "latents_sha256",
];

/// Whether an entry of `run.json` is an option, or follows from some.
pub fn is_option(key: &str) -> bool {
    !NO_OPTIONS.contains(&key)
}

/// All tables of a run.
pub fn tables(run: &Run) -> Markup {
    html! {
        (events(run))
        div.tables {
            (fold("Particles", &particles(run)))
            (fold("Steps", &steps(run)))
            (fold("Options", &options(run)))
            (fold("Files and hashes", &hashes(run)))
            (fold("Cost and machine", &cost(run)))
        }
    }
}

fn fold(title: &str, content: &Markup) -> Markup {
    html! {
        @if !content.0.is_empty() {
            details {
                summary { (title) } div.scroll tabindex="0" role="region" aria-label=(title) { (content) }
            }
        }
    }
}

/// Steps at which something went wrong.
fn events(run: &Run) -> Markup {
    let mut said = Vec::new();
    for line in run.lines() {
        let place = match run.populations.len() {
            1 => format!("step {}", line.step),
            _ => format!("population {}, step {}", line.population, line.step),
        };
        if line.collapsed {
            said.push(format!("{place}: every particle was lost, and the weights were made equal again"));
        }
        for value in &line.non_finite {
            let quantity = words::entry(&value.quantity);
            let what = if quantity == "gradient" { "moved without guidance" } else { "was lost" };
            said.push(format!("{place}: particle {} {what}: its {quantity} was not finite", value.particle));
        }
    }
    const MOST: usize = 50;
    html! {
        @if !said.is_empty() {
            section.events {
                h3 { "Collapses and values that were not finite" }
                ul { @for event in said.iter().take(MOST) { li { (event) } } }
                @if said.len() > MOST { p { "and " (said.len() - MOST) " more, in trace.jsonl" } }
            }
        }
    }
}

fn particles(run: &Run) -> Markup {
    let Some(first) = run.particles.first() else { return html! {} };
    let several = run.populations.len() > 1;
    html! {
        table {
            thead { tr {
                th { "particle" } @if several { th { "population" } }
                th { "weight" } th { "reward" }
                @for name in first.rewards.keys() { th { (words::said(name)) } }
                @for name in first.eval_rewards.keys() {
                    th { (words::said(name)) br; span.soft { "held out" } }
                }
                th { "initial" } th { "SHA-256 of the picture" }
            } }
            tbody { @for p in &run.particles {
                tr data-p=(p.index) class=[p.is_best.then_some("chosen")] {
                    th { (p.index) @if p.is_best { " chosen" } } @if several { td { (p.population) } }
                    td { (words::weight(p.weight)) } td { (words::maybe(p.target)) }
                    @for name in first.rewards.keys() {
                        td { (words::maybe(p.rewards.get(name).and_then(Value::as_f64))) }
                    }
                    @for name in first.eval_rewards.keys() {
                        td { (words::maybe(p.eval_rewards.get(name).and_then(Value::as_f64))) }
                    }
                    td { (p.lineage.first().map_or(words::NONE.into(), usize::to_string)) }
                    td.hash { (p.sha256.as_deref().map_or(words::NONE.into(), clean)) }
                }
            } }
        }
    }
}

fn steps(run: &Run) -> Markup {
    if run.lines().next().is_none() {
        return html! {};
    }
    let several = run.populations.len() > 1;
    html! {
        table {
            thead { tr {
                @if several { th { "population" } }
                th { "step" } th { "t" } th { "lambda" } th { "ESS" } th { "resampled" } th { "log Z" }
                th { "roots" }
                th { "mean reward" } th { "best reward" } th { "ms" }
            } }
            tbody { @for line in run.lines() {
                tr {
                    @if several { td { (line.population) } }
                    th { (line.step) } td { (line.t) } td { (words::number(line.lambda)) }
                    td { (words::number(line.ess)) }
                    td { @if line.collapsed { "collapsed" } @else if line.resampled { "yes" } }
                    td { (words::maybe(line.log_z)) } td { (line.roots_alive) }
                    td { (words::maybe(line.mean_reward())) }
                    td { (words::maybe(line.rewards().reduce(f64::max))) }
                    td { (words::number(line.ms)) }
                }
            } }
        }
    }
}

fn options(run: &Run) -> Markup {
    let known = run.record.iter().filter(|(key, value)| is_option(key) && !is_nothing(value));
    let unread: Vec<String> = run
        .record
        .iter()
        .filter(|(key, value)| is_option(key) && is_nothing(value))
        .map(|(key, _)| clean(key))
        .collect();
    html! {
        table.pairs {
            tbody { @for (key, value) in known { tr { th { (clean(key)) } td { (words::entry(value)) } } } }
        }
        @if !unread.is_empty() {
            p.about { "Not given, or not read by this method: " (unread.join(", ")) "." }
        }
        @if let Some(command) = run.record.get("command").and_then(Value::as_array) {
            p.about { "Command, given in " (words::said(run.text("directory"))) ":" }
            pre { (clean(&quoted(command))) }
        }
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// A command line as a shell takes it.
pub fn quoted(command: &[Value]) -> String {
    let words = command.iter().filter_map(Value::as_str);
    let quoted = words.map(|word| shlex::try_quote(word).map_or_else(|_| format!("{word:?}"), Into::into));
    quoted.collect::<Vec<_>>().join(" ")
}

fn hashes(run: &Run) -> Markup {
    let of = |key: &str| run.record.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
    let groups: [(&str, Map<String, Value>); 2] =
        [("model", of("model_files")), ("rewards", of("reward_files"))];
    let repositories = run.record.get("repositories").and_then(Value::as_array).into_iter().flatten();
    let latents = run.record.get("latents_sha256").and_then(Value::as_str);
    html! {
        table.pairs { tbody {
            @for repository in repositories {
                tr {
                    th { (clean(repository["name"].as_str().unwrap_or_default())) }
                    td.hash { "commit " (words::entry(&repository["commit"])) }
                }
            }
            @for (group, files) in &groups { @for (path, hash) in files {
                tr { th { span.soft { (group) " " } (clean(path)) } td.hash { (words::entry(hash)) } }
            } }
            @if let Some(hash) = latents { tr { th { "latents" } td.hash { (clean(hash)) } } }
        } }
    }
}

fn cost(run: &Run) -> Markup {
    let peak = run.result("peak_bytes").and_then(Value::as_f64);
    let resumed = run.record.get("resumed").and_then(Value::as_array).map_or(0, Vec::len);
    let steps: f64 = run.lines().map(|line| line.ms).sum::<f64>() / 1e3;
    let slowest = run.lines().max_by(|a, b| a.ms.total_cmp(&b.ms));
    html! {
        table.pairs { tbody {
            @if let Some(n) = run.number("unet_evaluations") {
                tr { th { "evaluations of the UNet" } td { (words::count(n)) } }
            }
            @if let Some(n) = run.number("seconds") { tr { th { "time" } td { (words::seconds(n)) } } }
            @if steps > 0.0 { tr { th { "of which steps" } td { (words::seconds(steps)) } } }
            @if let Some(line) = slowest {
                tr { th { "slowest step" } td { (line.step) ", " (words::number(line.ms)) " ms" } }
            }
            @if let Some(n) = peak { tr { th { "most memory of tensors" } td { (words::bytes(n)) } } }
            @if resumed > 0 { tr { th { "went on after being stopped" } td { (resumed) " times" } } }
            tr { th { "device" } td { (words::said(run.text("device"))) } }
            tr { th { "type" } td { (words::said(run.text("dtype"))) } }
            tr { th { "version" } td { "das-cuda " (words::said(run.text("version"))) } }
        } }
    }
}
