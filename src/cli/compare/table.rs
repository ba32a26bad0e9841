//! The rows of a comparison as Markdown, CSV and JSON.

use serde_json::{Map, Value, json};

use super::clock::TIMED;
use super::log_z::FEWEST_SEEDS;
use super::report::{Report, Row};
use crate::cli::statistics::Interval;

/// The table as Markdown, with what must be known to read it, the names of the `plots`, and the command.
pub fn markdown(report: &Report, plots: &[String]) -> String {
    let mut text = "| arm | budget | particles | cost |".to_string();
    text += if report.timed { " seconds |" } else { "" };
    text += " roots, median (5 %) |";
    for name in names(report) {
        text += &format!(" {name} | minus {} |", report.against);
    }
    text +=
        " pixel distance | CLIP distance | over seeds | KL, nats | log Z | its error | known | covered |\n";
    text += "|---|---|---|---|---|";
    text += if report.timed { "---|" } else { "" };
    text += &"---|---|".repeat(names(report).len());
    text += "---|---|---|---|---|---|---|---|\n";
    for row in &report.rows {
        text += &format!("| {} | {} | {} | {:.2} |", row.arm, row.budget, row.particles, row.cost);
        if report.timed {
            text += &row.seconds.map_or(" |".into(), |seconds| format!(" {seconds:.2} |"));
        }
        text += &match row.roots {
            Some((median, low)) => format!(" {median} ({low}) |"),
            None => " |".into(),
        };
        for reward in &row.rewards {
            text += &format!(" {} |", reward.value.map_or(String::new(), |i| format!("{:.3}", i.mean)));
            text += &format!(" {} |", Interval::signed(reward.difference));
        }
        let number = |x: Option<f64>| x.map_or(String::new(), |x| format!("{x:.3}"));
        let share = |x: Option<f64>| x.map_or(String::new(), |x| format!("{:.0} %", 100.0 * x));
        let covered = row.coverage.as_ref().map_or(String::new(), |coverage| {
            format!("{} of {}", share(Some(coverage.share)), coverage.judged)
        });
        text += &format!(
            " {} | {} | {} | {} | {} | {} | {} | {covered} |\n",
            number(row.pixel_distance),
            number(row.clip_distance),
            number(row.seed_distance.map(|interval| interval.mean)),
            number(row.kl),
            number(row.log_z),
            number(row.log_z_error),
            share(row.reliable)
        );
    }
    text += &format!("\n{}. Differences are paired by prompt and seed", report.size());
    text += match report.prompts {
        1 => "; one prompt gives no interval. ",
        _ => "; brackets are 95 % intervals by the bootstrap over prompts. ",
    };
    text += "Cost 1 is the first arm with its own particles; costs are counted, backward passes included. \
             \"Over seeds\" is the pixel distance of the pictures that the seeds of a prompt returned. \"Known\" \
             are the runs that know the error of their log Z, \"covered\" those of them within twice \
             the error of what the other seeds say.";
    if report.rows.iter().all(|row| row.coverage.is_none()) {
        text += &format!(
            " That is empty: it takes runs that know their error, and {FEWEST_SEEDS} other seeds that agree on \
             log Z better than the run."
        );
    }
    if report.timed {
        text += &format!(" {TIMED}");
    }
    text += "\n";
    for note in &report.notes {
        text += &format!("\nNot of equal cost: {note}.\n");
    }
    for warning in &report.warnings {
        text += &format!("\n{warning}.\n");
    }
    if !plots.is_empty() {
        text += &format!("\nPlots: {}.\n", plots.join(", "));
    }
    text += &format!("\n    {}\n", report.command.replace('\n', "\n    "));
    text
}

/// The same as CSV; what is not known is empty.
pub fn csv(report: &Report) -> String {
    let mut text = columns().iter().map(|(name, _)| *name).collect::<Vec<_>>().join(",");
    for name in names(report) {
        let name = name.replace(['"', ','], " ");
        let parts = ["", "_low", "_high", "_difference", "_difference_low", "_difference_high"];
        parts.iter().for_each(|part| text += &format!(",{name}{part}"));
    }
    text.push('\n');
    for row in &report.rows {
        let cells = columns().into_iter().map(|(_, cell)| match cell(row) {
            Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
            Value::Null => String::new(),
            other => other.to_string(),
        });
        text += &cells.collect::<Vec<_>>().join(",");
        for interval in row.rewards.iter().flat_map(|reward| [reward.value, reward.difference]) {
            text += &format!(",{}", Interval::cells(interval).join(","));
        }
        text.push('\n');
    }
    text
}

/// The same as JSON.
pub fn json(report: &Report) -> String {
    let interval = Interval::json;
    let row = |row: &Row| {
        let rewards: Map<String, Value> = row
            .rewards
            .iter()
            .map(|reward| {
                let (kl, weighted) = reward.against_kl.unzip();
                let cells = json!({
                    "value": interval(reward.value),
                    "difference": interval(reward.difference),
                    "kl": interval(kl),
                    "weighted": interval(weighted),
                });
                (reward.name.clone(), cells)
            })
            .collect();
        let mut cells: Map<String, Value> =
            columns().into_iter().map(|(name, cell)| (name.to_string(), cell(row))).collect();
        cells.insert("rewards".into(), rewards.into());
        cells
    };
    json!({
        "schema": crate::run::SCHEMA,
        "command": report.command,
        "against": report.against,
        "prompts": report.prompts,
        "seeds": report.seeds,
        "notes": report.notes,
        "warnings": report.warnings,
        "rows": report.rows.iter().map(row).collect::<Vec<_>>(),
    })
    .to_string()
}

/// A column of CSV and JSON: its name and its cell.
type Column = (&'static str, fn(&Row) -> Value);

/// All columns but those of the rewards.
fn columns() -> [Column; 21] {
    [
        ("arm", |row| json!(row.arm)),
        ("budget", |row| json!(row.budget)),
        ("multiple", |row| json!(row.multiple)),
        ("particles", |row| json!(row.particles)),
        ("cost", |row| json!(row.cost)),
        ("flops", |row| json!(row.flops)),
        ("runs", |row| json!(row.runs)),
        ("roots_median", |row| json!(row.roots.map(|roots| roots.0))),
        ("roots_5_percent", |row| json!(row.roots.map(|roots| roots.1))),
        ("distinct_pictures_median", |row| json!(row.pictures)),
        ("pixel_distance", |row| json!(row.pixel_distance)),
        ("clip_distance", |row| json!(row.clip_distance)),
        ("seed_distance", |row| json!(row.seed_distance.map(|interval| interval.mean))),
        ("kl", |row| json!(row.kl)),
        ("log_z_known", |row| json!(row.reliable)),
        ("log_z", |row| json!(row.log_z)),
        ("log_z_error", |row| json!(row.log_z_error)),
        ("log_z_unreliable", |row| json!(row.unreliable)),
        ("log_z_covered", |row| json!(row.coverage.as_ref().map(|coverage| coverage.share))),
        ("log_z_judged", |row| json!(row.coverage.as_ref().map_or(0, |coverage| coverage.judged))),
        ("seconds", |row| json!(row.seconds)),
    ]
}

fn names(report: &Report) -> Vec<&str> {
    let first = report.rows.first();
    first.map(|row| row.rewards.iter().map(|reward| reward.name.as_str()).collect()).unwrap_or_default()
}
