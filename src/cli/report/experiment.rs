//! The table of an experiment on the page, with its charts.

use maud::{Markup, html};

use super::pictures::embed_svg;
use crate::cli::look::Table;
use crate::cli::words::{self, clean};

/// Everything about a table.
pub fn section(table: &Table, id: &str, open: bool) -> Markup {
    html! {
        details.run.comparison id=(id) open[open] {
            summary { h2 { (table.kind) } " " span.soft { (words::said(&table.name())) } }
            @if !table.notes.is_empty() {
                ul.notes { @for note in &table.notes { li { (words::said(note)) } } }
            }
            @if !table.rows.is_empty() { (cells(table)) }
            div.charts {
                @for chart in &table.charts {
                    @let name = chart.file_stem().unwrap_or_default().to_string_lossy();
                    figure.chart {
                        figcaption { h3 { (clean(&name)) } }
                        (super::pictures::picture(&embed_svg(chart), &name))
                    }
                }
            }
            @if let Some(command) = &table.command { pre { (clean(command)) } }
        }
    }
}

/// A column with what says how sure it is.
struct Column<'a> {
    name: &'a str,
    at: usize,
    /// Its two ends.
    interval: Option<(usize, usize)>,
}

fn columns(table: &Table) -> Vec<Column<'_>> {
    let place = |name: String| table.header.iter().position(|own| *own == name);
    let ends = |name: &str| place(format!("{name}_low")).zip(place(format!("{name}_high")));
    let of_another = |name: &str| {
        ["_low", "_high"].iter().any(|end| {
            name.strip_suffix(end)
                .is_some_and(|whole| place(whole.to_string()).is_some() && ends(whole).is_some())
        })
    };
    let own = table.header.iter().enumerate().filter(|(_, name)| !of_another(name));
    own.map(|(at, name)| Column { name, at, interval: ends(name) }).collect()
}

fn cells(table: &Table) -> Markup {
    let columns = columns(table);
    let shown = |row: &[String], at: usize| match row.get(at).map(|cell| (cell, cell.parse::<f64>())) {
        None => words::NONE.into(),
        Some((cell, _)) if cell.is_empty() => words::NONE.into(),
        Some((cell, Ok(number))) if number.fract() == 0.0 => cell.clone(),
        Some((_, Ok(number))) => words::number(number),
        Some((cell, Err(_))) => clean(cell),
    };
    html! {
        div.scroll tabindex="0" role="region" aria-label={ "Table of " (clean(&table.name())) } {
            table.runs {
                thead { tr { @for column in &columns { th { (words::said(&column.name.replace('_', " "))) } } } }
                tbody { @for row in &table.rows { tr {
                    @for (i, column) in columns.iter().enumerate() {
                        @if i == 0 { th { (shown(row, column.at)) } } @else { td {
                            (shown(row, column.at))
                            @if let Some((low, high)) = column.interval {
                                @if !row[low].is_empty() {
                                    br; span.soft { "[" (shown(row, low)) ", " (shown(row, high)) "]" }
                                }
                            }
                        } }
                    }
                } } }
            }
        }
        p.about { "Brackets are 95 % intervals." }
    }
}
