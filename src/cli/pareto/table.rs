//! A front as Markdown, CSV and JSON.

use serde_json::{Map, Value, json};

use super::design::Front;
use super::report::{Report, Row};
use crate::cli::compare::clock::TIMED;
use crate::cli::experiment::{command, counted};
use crate::cli::statistics::Interval;
use crate::error::{Error, Result};
use crate::run::SCHEMA;

/// The table as Markdown, with what must be known to read it, the names of the `plots`, and the command.
pub fn markdown(front: &Front, report: &Report, plots: &[String], typed: &[String]) -> String {
    let is_timed = front.design.clock.is_some();
    let mut text = "| arm | weights | particles |".to_string();
    text += if is_timed { " seconds |" } else { "" };
    let columns =
        front.names.iter().chain(held_out(report)).map(|name| format!(" {} |", name.replace('|', "/")));
    text.extend(columns);
    text += " front |\n|---|---|---|";
    text += if is_timed { "---|" } else { "" };
    text += &"---|".repeat(front.names.len() + held_out(report).count());
    text += "---|\n";
    for row in &report.rows {
        text += &format!("| {} | {} | {} |", row.arm, weights(row, ", "), row.particles);
        if is_timed {
            text += &row.seconds.map_or(" |".into(), |seconds| format!(" {seconds:.2} |"));
        }
        let values = row.rewards.iter().chain(row.held_out.iter().map(|(_, value)| value));
        values.for_each(|value| text += &format!(" {} |", Interval::text(*value)));
        text += if row.on_front { " yes |\n" } else { " |\n" };
    }
    let design = &front.design;
    text += &format!(
        "\n{}; means of the returned pictures{}. `none`: means of all pictures that the best of N \
         is chosen from, which are the same for all weights. \"front\": no other weights of the arm are as good in \
         every reward and better in one.\n",
        front.size(),
        if design.prompts.len() > 1 {
            ", brackets are 95 % intervals by the bootstrap over prompts"
        } else {
            ""
        },
    );
    if !report.volumes.is_empty() {
        text += "\n| arm | hypervolume | minus the best of N |\n|---|---|---|\n";
    }
    for volume in &report.volumes {
        let [value, difference] = [Some(volume.value), volume.difference].map(Interval::text);
        text += &format!("| {} | {value} | {difference} |\n", volume.arm);
    }
    if !report.volumes.is_empty() {
        text += &format!(
            "\nHypervolume: what an arm's points dominate above the means of plain samples, in units of {}{}. A larger \
             one is found by more points, so compare those of as many weights.\n",
            front.names.join(" times "),
            match &design.normalise {
                Some(_) => ", not divided by their scales",
                None => "",
            }
        );
    }
    if report.left_out > 0 {
        text += &format!(
            "\nThe hypervolumes are without {}, for which a reward is not known.\n",
            counted(report.left_out, "prompt")
        );
    }
    if is_timed {
        text += &format!("\n{TIMED}\n");
    }
    report.notes.iter().for_each(|note| text += &format!("\nNot of equal cost: {note}.\n"));
    if !plots.is_empty() {
        text += &format!("\nPlots: {}.\n", plots.join(", "));
    }
    text + &format!("\n    {}\n", command(typed).replace('\n', "\n    "))
}

fn held_out(report: &Report) -> impl Iterator<Item = &String> {
    report.rows.first().into_iter().flat_map(|row| row.held_out.iter().map(|(name, _)| name))
}

fn weights(row: &Row, between: &str) -> String {
    row.weights.iter().map(f64::to_string).collect::<Vec<_>>().join(between)
}

/// The same as CSV; what is not known is empty.
///
/// # Errors
/// None in practice: it is written in memory.
pub fn csv(front: &Front, report: &Report) -> Result<Vec<u8>> {
    let failed = |e: csv::Error| Error::io("table.csv: cannot be made").because(e);
    let mut writer = csv::Writer::from_writer(Vec::new());
    let own = ["arm", "weights", "particles", "flops", "seconds", "runs", "on_front"].map(String::from);
    let names = front.names.iter().chain(held_out(report));
    let columns = names.flat_map(|name| ["", "_low", "_high"].map(|end| format!("{name}{end}")));
    writer.write_record(own.into_iter().chain(columns)).map_err(failed)?;
    for row in &report.rows {
        let own = [
            row.arm.clone(),
            weights(row, " "),
            row.particles.to_string(),
            row.flops.to_string(),
            row.seconds.map_or(String::new(), |seconds| seconds.to_string()),
            row.runs.to_string(),
            row.on_front.to_string(),
        ];
        let values = row.rewards.iter().chain(row.held_out.iter().map(|(_, value)| value));
        let cells = values.flat_map(|value| Interval::cells(*value));
        writer.write_record(own.into_iter().chain(cells)).map_err(failed)?;
    }
    writer.into_inner().map_err(|e| Error::io(format!("table.csv: cannot be made: {e}")))
}

/// The same as JSON.
pub fn json(front: &Front, report: &Report, typed: &[String]) -> String {
    let row = |row: &Row| {
        let held_out: Map<String, Value> =
            row.held_out.iter().map(|(name, value)| (name.clone(), Interval::json(*value))).collect();
        json!({
            "arm": row.arm,
            "weights": row.weights,
            "particles": row.particles,
            "flops": row.flops,
            "seconds": row.seconds,
            "runs": row.runs,
            "on_front": row.on_front,
            "rewards": row.rewards.iter().map(|value| Interval::json(*value)).collect::<Vec<_>>(),
            "eval_rewards": held_out,
        })
    };
    let volumes = report.volumes.iter().map(|volume| {
        json!({
            "arm": volume.arm,
            "value": Interval::json(Some(volume.value)),
            "difference": Interval::json(volume.difference),
        })
    });
    json!({
        "schema": SCHEMA,
        "command": command(typed),
        "rewards": front.names,
        "prompts": front.design.prompts.len(),
        "seeds": front.design.seeds.len(),
        "normalise": front.design.normalise,
        "notes": report.notes,
        "rows": report.rows.iter().map(row).collect::<Vec<_>>(),
        "hypervolumes": volumes.collect::<Vec<_>>(),
        "left_out": report.left_out,
    })
    .to_string()
}
