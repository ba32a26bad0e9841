//! The rows of an optimisation as Markdown, CSV and JSON.

use serde_json::{Map, Value, json};

use super::report::{Report, Row};
use crate::cli::experiment::command;
use crate::cli::statistics::Interval;
use crate::error::{Error, Result};
use crate::run::SCHEMA;

/// The table as Markdown, with what must be known to read it and the command.
pub fn markdown(report: &Report, typed: &[String]) -> String {
    let evaluated = report.evaluate > 0;
    let mut heads =
        vec!["strategy".to_string(), "last round".into(), format!("minus {}", report.against.name())];
    if evaluated {
        heads.extend(["evaluation".to_string(), format!("minus {}", report.against.name())]);
    }
    heads.extend(["largest", "expected minus answer", "off by", "covered"].map(String::from));
    heads.extend(held_out(report).into_iter().map(|name| format!("{name}, last round")));
    let mut text = format!("| {} |\n|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    for row in &report.rows {
        let mut cells = vec![
            row.strategy.name().to_string(),
            Interval::text(row.last),
            Interval::signed(row.last_difference),
        ];
        if evaluated {
            cells.extend([Interval::text(row.evaluation), Interval::signed(row.evaluation_difference)]);
        }
        cells.push(Interval::text(row.best));
        cells.push(row.bias.map_or(String::new(), |x| format!("{x:+.3}")));
        cells.push(row.error.map_or(String::new(), |x| format!("{x:.3}")));
        cells.push(row.coverage.map_or(String::new(), |x| format!("{:.0} % of {}", 100.0 * x, row.guided)));
        cells.extend(row.held_out.iter().map(|(_, interval)| Interval::text(*interval)));
        text += &format!("| {} |\n", cells.join(" | "));
    }
    let few = match report.seeds {
        1 => "One seed gives no interval.",
        _ => "Brackets are 95 % intervals over seeds, by Student's t; differences are paired by seed.",
    };
    text += &format!(
        "\nAnswers of {}: {}. {few} \"Largest\" is the best of all queries; what the surrogate expected, how far \
         it was off (root mean square) and the share of answers within twice its uncertainty are of guided \
         pictures, before they were asked about.\n",
        report.black_box,
        report.size()
    );
    if evaluated {
        text += &format!(
            "\nThe evaluation draws {} pictures with the last surrogate and no optimism; they are in nobody's \
             budget.\n",
            report.evaluate
        );
    }
    text + &format!("\nPlot: figure.svg, figure.png.\n\n    {}\n", command(typed).replace('\n', "\n    "))
}

fn held_out(report: &Report) -> Vec<String> {
    report
        .rows
        .first()
        .map(|row| row.held_out.iter().map(|(name, _)| name.clone()).collect())
        .unwrap_or_default()
}

/// A column of intervals: its name and its cell.
type Column = (&'static str, fn(&Row) -> Option<Interval>);

const INTERVALS: [Column; 6] = [
    ("last", |row| row.last),
    ("last_difference", |row| row.last_difference),
    ("evaluation", |row| row.evaluation),
    ("evaluation_difference", |row| row.evaluation_difference),
    ("best", |row| row.best),
    ("all", |row| row.all),
];

/// The same as CSV, a row for each strategy and round; what is not known is empty.
///
/// # Errors
/// None in practice: it is made in memory.
pub fn csv(report: &Report) -> Result<Vec<u8>> {
    let fail = |e: &dyn std::fmt::Display| Error::io(format!("the table cannot be written as CSV: {e}"));
    let mut out = csv::Writer::from_writer(Vec::new());
    let parts = |name: &str| [name.to_string(), format!("{name}_low"), format!("{name}_high")];
    let mut heads = vec!["strategy".to_string(), "queries".into()];
    heads.extend(["mean", "best"].iter().flat_map(|name| parts(name)));
    heads.extend(["surrogate_error", "best_epoch"].map(String::from));
    out.write_record(&heads).map_err(|e| fail(&e))?;
    let number = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
    for row in &report.rows {
        for round in &row.rounds {
            let mut cells = vec![row.strategy.name().to_string(), round.queries.to_string()];
            cells.extend([round.mean, round.best].into_iter().flat_map(Interval::cells));
            cells.extend([number(round.error), number(round.best_epoch)]);
            out.write_record(&cells).map_err(|e| fail(&e))?;
        }
    }
    out.into_inner().map_err(|e| fail(&e))
}

/// The same as JSON, with the rows.
pub fn json(report: &Report, typed: &[String]) -> String {
    let row = |row: &Row| {
        let mut cells = Map::new();
        cells.insert("strategy".into(), json!(row.strategy.name()));
        for (name, of) in INTERVALS {
            cells.insert(name.into(), Interval::json(of(row)));
        }
        let held_out: Map<String, Value> =
            row.held_out.iter().map(|(name, interval)| (name.clone(), Interval::json(*interval))).collect();
        cells.insert("eval_rewards".into(), held_out.into());
        cells.insert("guided".into(), json!(row.guided));
        cells.insert("coverage".into(), json!(row.coverage));
        cells.insert("bias".into(), json!(row.bias));
        cells.insert("error".into(), json!(row.error));
        let rounds = row.rounds.iter().map(|round| {
            json!({
                "queries": round.queries,
                "mean": Interval::json(round.mean),
                "best": Interval::json(round.best),
                "surrogate_error": round.error,
                "best_epoch": round.best_epoch,
            })
        });
        cells.insert("rounds".into(), rounds.collect::<Vec<_>>().into());
        let pictures = row
            .pictures
            .iter()
            .map(|(seed, answer, picture)| json!({"seed": seed, "answer": answer, "picture": picture}));
        cells.insert("pictures".into(), pictures.collect::<Vec<_>>().into());
        cells
    };
    json!({
        "schema": SCHEMA,
        "command": command(typed),
        "black_box": report.black_box,
        "against": report.against.name(),
        "seeds": report.seeds,
        "queries": report.queries,
        "evaluate": report.evaluate,
        "rows": report.rows.iter().map(row).collect::<Vec<_>>(),
    })
    .to_string()
}
