//! Sets of pictures as Markdown, CSV and JSON.

use serde_json::{Map, Value, json};

use crate::cli::args::Eval;
use crate::cli::experiment::command;
use crate::cli::statistics::Interval;
use crate::error::{Error, Result};
use crate::model::lpips::{Range, SIDE};
use crate::run::SCHEMA;

/// What a set came to.
pub struct Row {
    pub name: String,
    pub prompts: usize,
    pub pictures: usize,
    /// Of each scorer: its name, the mean with its interval over prompts, the population standard deviation
    /// over pictures, and the pictures without a finite number.
    pub scores: Vec<(String, Option<Interval>, Option<f64>, usize)>,
    /// Mean distance of two pictures' embeddings: of all pairs, and of the pairs of one prompt.
    pub distance: Option<Interval>,
    pub distance_within: Option<Interval>,
    /// Truncated CLIP entropy.
    pub entropy: Option<Interval>,
    /// Mean LPIPS of two pictures: of all pairs, and of the pairs of one prompt; where it was asked for.
    pub lpips: Option<(Option<Interval>, Option<Interval>)>,
    pub notes: Vec<String>,
}

/// The table as Markdown, with what must be known to read it, and the command.
pub fn markdown(rows: &[Row], args: &Eval, typed: &[String]) -> String {
    let names: Vec<&str> = rows.first().map(names).unwrap_or_default();
    let mut text = "| set | prompts | pictures |".to_string();
    names.iter().for_each(|name| text += &format!(" {name} | sd |"));
    let lpips = rows.iter().any(|row| row.lpips.is_some());
    text += " CLIP distance | within a prompt | TCE |";
    text += if lpips { " LPIPS | within a prompt |\n|---|---|---|---|---|" } else { "\n|---|---|---|" };
    text += &"---|---|".repeat(names.len());
    text += "---|---|---|\n";
    for row in rows {
        text += &format!("| {} | {} | {} |", row.name.replace('|', "/"), row.prompts, row.pictures);
        for (_, value, spread, _) in &row.scores {
            text += &format!(
                " {} | {} |",
                Interval::text(*value),
                spread.map_or(String::new(), |x| format!("{x:.3}"))
            );
        }
        let last = [row.distance, row.distance_within, row.entropy].map(Interval::text);
        text += &format!(" {} |", last.join(" | "));
        if let Some((all, within)) = row.lpips {
            text += &format!(" {} | {} |", Interval::text(all), Interval::text(within));
        }
        text.push('\n');
    }
    text += "\nMeans over pictures as their files have them, prompt by prompt; brackets are 95 % intervals, of scores by \
             the bootstrap over prompts, of the rest by the jackknife over prompts. \"sd\": population standard \
             deviation over pictures. CLIP distance: one minus the cosine of two pictures' embeddings, mean over \
             all pairs, and over those of one prompt. ";
    text += &format!(
        "TCE: truncated CLIP entropy of {} eigenvalues; only sets of as many pictures compare.\n",
        args.eigenvalues
    );
    if let (true, Some(path)) = (lpips, &args.lpips) {
        text += &format!(
            "LPIPS: version 0.1 by AlexNet of {path}, pictures at {SIDE} x {SIDE}, mean over all pairs, and over those \
             of one prompt{}.\n",
            match args.lpips_inputs {
                Range::Signed => "",
                Range::Unit => "; intensities in [0, 1], so that only numbers of programs that do so compare",
            }
        );
    }
    for row in rows {
        for note in row.notes.iter().chain(&lost(row)) {
            text += &format!("\n{}: {note}.\n", row.name);
        }
    }
    text + &format!("\n    {}\n", command(typed).replace('\n', "\n    "))
}

/// What is said of pictures without a score.
fn lost(row: &Row) -> Vec<String> {
    let lost = row.scores.iter().filter(|(.., lost)| *lost > 0);
    lost.map(|(name, .., lost)| {
        format!("{name} is not a number for {lost} pictures, which its mean is without")
    })
    .collect()
}

fn names(row: &Row) -> Vec<&str> {
    row.scores.iter().map(|(name, ..)| name.as_str()).collect()
}

/// The same as CSV; what is not known is empty.
///
/// # Errors
/// None in practice: it is written in memory.
pub fn csv(rows: &[Row]) -> Result<Vec<u8>> {
    let failed = |e: csv::Error| Error::io("table.csv: cannot be made").because(e);
    let mut writer = csv::Writer::from_writer(Vec::new());
    let names: Vec<&str> = rows.first().map(names).unwrap_or_default();
    let of_scores =
        names.iter().flat_map(|name| ["", "_low", "_high", "_sd", "_lost"].map(|end| format!("{name}{end}")));
    let of_sets = ["clip_distance", "clip_distance_within", "tce", "lpips", "lpips_within"];
    let of_sets = of_sets.iter().flat_map(|name| ["", "_low", "_high"].map(|end| format!("{name}{end}")));
    let first = ["set", "prompts", "pictures"].map(String::from);
    writer.write_record(first.into_iter().chain(of_scores).chain(of_sets)).map_err(failed)?;
    let text = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
    for row in rows {
        let mut record = vec![row.name.clone(), row.prompts.to_string(), row.pictures.to_string()];
        for (_, value, spread, lost) in &row.scores {
            record.extend(Interval::cells(*value));
            record.extend([text(*spread), lost.to_string()]);
        }
        let (lpips, lpips_within) = row.lpips.unwrap_or_default();
        [row.distance, row.distance_within, row.entropy, lpips, lpips_within]
            .iter()
            .for_each(|value| record.extend(Interval::cells(*value)));
        writer.write_record(&record).map_err(failed)?;
    }
    writer.into_inner().map_err(|e| Error::io(format!("table.csv: cannot be made: {e}")))
}

/// The same as JSON.
pub fn json(rows: &[Row], args: &Eval, typed: &[String]) -> String {
    let row = |row: &Row| {
        let scores: Map<String, Value> = row
            .scores
            .iter()
            .map(|(name, value, spread, lost)| {
                (name.clone(), json!({"value": Interval::json(*value), "sd": spread, "lost": lost}))
            })
            .collect();
        json!({
            "set": row.name,
            "prompts": row.prompts,
            "pictures": row.pictures,
            "scores": scores,
            "clip_distance": Interval::json(row.distance),
            "clip_distance_within": Interval::json(row.distance_within),
            "tce": Interval::json(row.entropy),
            "lpips": Interval::json(row.lpips.and_then(|lpips| lpips.0)),
            "lpips_within": Interval::json(row.lpips.and_then(|lpips| lpips.1)),
            "notes": row.notes.iter().cloned().chain(lost(row)).collect::<Vec<_>>(),
        })
    };
    json!({
        "schema": SCHEMA,
        "command": command(typed),
        "eigenvalues": args.eigenvalues,
        "sets": rows.iter().map(row).collect::<Vec<_>>(),
    })
    .to_string()
}
