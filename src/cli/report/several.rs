//! Several runs side by side: what they came to, and in which options they differ.

use std::collections::BTreeSet;
use std::path::PathBuf;

use maud::{Markup, html};
use serde_json::Value;

use super::pictures::{embed, of_particle, picture};
use super::{one, series, tables};
use crate::cli::look::Run;
use crate::cli::save::BEST;
use crate::cli::words;

/// Entries that differ by nature, and those that follow from others.
const OWN: [&str; 7] = ["index", "output", "alpha", "chains", "unet_evaluations", "vae_class", "scheduler"];
/// Most runs whose curves can be told apart.
const MOST_CURVES: usize = 14;

/// The table, and the curves of all; `ids`: of the sections of the runs.
pub fn section(runs: &[&Run], ids: &[String]) -> Markup {
    let options = differing(runs);
    let held_out: Vec<String> =
        runs.iter().flat_map(|run| run.held_out()).fold(Vec::new(), |mut all: Vec<String>, name| {
            if all.iter().all(|known| known != name) {
                all.push(name.into());
            }
            all
        });
    let known = |run: &Run, key: &str| run.result(key).and_then(Value::as_f64);
    let names = names(runs);
    html! {
        section.several {
            h2 { (runs.len()) " runs side by side" }
            div.scroll tabindex="0" role="region" aria-label="Runs side by side" {
                table.runs {
                    thead { tr {
                        th { "run" } th { "chosen" }
                        th { "reward" }
                        @for name in &held_out { th { (words::said(name)) br; span.soft { "held out" } } }
                        th { "mean reward" br; span.soft { "first \u{2192} last" } }
                        th { "log Z" } th { "ESS" } th { "roots" } th { "time" }
                        @for key in &options { th { (words::clean(key)) } }
                    } }
                    tbody { @for ((run, id), name) in runs.iter().zip(ids).zip(&names) {
                        tr {
                            th {
                                a href={"#" (id)} { (one::prompt(run)) } br;
                                span.soft { (words::said(name)) } " " (one::badge(run))
                            }
                            td { (best(run)) }
                            td { (words::maybe(known(run, "reward"))) }
                            @for name in &held_out {
                                td { (words::maybe(held_out_of(run, name))) }
                            }
                            td { (from_to(run)) }
                            td { @if let Some((value, more)) = one::log_z(run) {
                                (value)
                                " " span.soft {
                                    (more.strip_prefix("unreliable").map_or(more.as_str(), |_| "unreliable"))
                                }
                            } }
                            td { (known(run, "ess").map_or(words::NONE.into(), |ess| format!("{ess:.1}"))) }
                            td { (known(run, "roots_alive").map_or(words::NONE.into(), words::count)) }
                            td { (run.number("seconds").map_or(words::NONE.into(), words::seconds)) }
                            @for key in &options {
                                td { (run.record.get(key).map_or(words::NONE.into(), words::entry)) }
                            }
                        }
                    } }
                }
            }
            @let curves = runs.len().min(MOST_CURVES);
            @if curves < runs.len() {
                p.about { "Curves of the first " (curves) " runs, as many as can be told apart." }
            }
            (series::together(&runs[..curves], &names[..curves]))
        }
    }
}

/// A held-out reward of the chosen particle.
fn held_out_of(run: &Run, name: &str) -> Option<f64> {
    run.result("eval_rewards")?.get(name)?.as_f64()
}

fn best(run: &Run) -> Markup {
    let embedded = match run.particles.iter().find(|p| p.is_best) {
        Some(chosen) => of_particle(run, chosen),
        None => embed(&run.folder.join(BEST)).map_err(|_| "no picture"),
    };
    picture(&embedded, &format!("the chosen picture of {}", words::short(run.text("prompt"), 80)))
}

fn from_to(run: &Run) -> String {
    run.mean_rewards().map_or(words::NONE.into(), |(first, last)| {
        format!("{} \u{2192} {}", words::number(first), words::number(last))
    })
}

/// What tells the runs apart: the names of their folders, with as many above them as it takes.
fn names(runs: &[&Run]) -> Vec<String> {
    let whole: Vec<PathBuf> = runs
        .iter()
        .map(|run| std::path::absolute(&run.folder).unwrap_or_else(|_| run.folder.clone()))
        .collect();
    let depth = whole.iter().map(|path| path.components().count()).max().unwrap_or(1);
    let end = |path: &PathBuf, parts: usize| {
        let all: Vec<_> = path.components().collect();
        all[all.len().saturating_sub(parts)..].iter().collect::<PathBuf>().to_string_lossy().into_owned()
    };
    let of = |parts: usize| whole.iter().map(|path| end(path, parts)).collect::<Vec<_>>();
    let distinct = |names: &[String]| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    (1..=depth).map(of).find(|names| distinct(names)).unwrap_or_else(|| of(depth))
}

/// Options in which the runs differ.
fn differing(runs: &[&Run]) -> Vec<String> {
    let keys = runs.iter().flat_map(|run| run.record.keys());
    let mut options: Vec<String> = Vec::new();
    for key in keys.filter(|key| tables::is_option(key) && !OWN.contains(&key.as_str())) {
        let first = runs[0].record.get(key);
        if runs.iter().any(|run| run.record.get(key) != first) && !options.contains(key) {
            options.push(key.clone());
        }
    }
    options
}
