//! What is known of something: names and values in order, as lines or as JSON.

use serde_json::{Map, Value, json};

use crate::cli::words;
use crate::run::SCHEMA;

/// The facts of one thing.
#[derive(Clone, Debug)]
pub struct Facts(Map<String, Value>);

/// Width of the names.
const WIDTH: usize = 18;

impl Facts {
    /// Of something of this kind.
    pub fn new(kind: &str) -> Facts {
        let mut map = Map::new();
        map.insert("schema".into(), json!(SCHEMA));
        map.insert("kind".into(), json!(kind));
        Facts(map)
    }

    /// Adds a fact, unless it is nothing.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Facts {
        self.add(name, value.into());
        self
    }

    fn add(&mut self, name: &str, value: Value) {
        if !is_nothing(&value) {
            self.0.insert(name.into(), value);
        }
    }

    /// That these are the files of a repository, of which some are missing.
    pub fn repository(&mut self, name: &str, missing: &[String]) {
        self.add("repository", json!(name));
        self.add("missing", json!(missing));
    }

    /// As an object on one line.
    pub fn json(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }

    /// As lines: a name, and what it is.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        for (name, value) in self.0.iter().filter(|(name, _)| *name != "schema") {
            let values = match value {
                Value::Array(list) if list.iter().all(Value::is_object) => columns(list),
                Value::Array(list) => list.iter().map(words::entry).collect(),
                Value::Object(map) => {
                    let known = map.iter().filter(|(_, value)| !is_nothing(value));
                    known.map(|(key, value)| format!("{} {}", words::clean(key), shown(key, value))).collect()
                }
                value => vec![shown(name, value)],
            };
            let names = std::iter::once(name.replace('_', " ")).chain(std::iter::repeat(String::new()));
            lines.extend(names.zip(values).map(|(name, value)| {
                let value = value.replace('\n', &format!("\n{:WIDTH$} ", ""));
                format!("{name:<WIDTH$} {value}").trim_end().to_string()
            }));
        }
        lines.join("\n")
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// A value as a text: of a fraction few digits, of bytes their unit.
fn shown(name: &str, value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => fraction(number.as_f64().unwrap_or_default()),
        Value::Number(number) if name == "bytes" => words::bytes(number.as_f64().unwrap_or_default()),
        Value::Number(number) if name == "parameters" => words::count(number.as_f64().unwrap_or_default()),
        Value::Array(list) => list.iter().map(|value| shown("", value)).collect::<Vec<_>>().join(", "),
        Value::Object(map) => {
            let known = map.iter().filter(|(_, value)| !value.is_null());
            let pair =
                |(key, value): (&String, &Value)| format!("{} {}", words::clean(key), shown(key, value));
            known.map(pair).collect::<Vec<_>>().join("; ")
        }
        value => words::entry(value),
    }
}

/// A number as it was given, where that is short.
fn fraction(x: f64) -> String {
    const SHORT: usize = 6;
    let given = words::given(x);
    if given.len() <= SHORT { given } else { words::number(x) }
}

/// Objects as rows, their entries below one another.
fn columns(list: &[Value]) -> Vec<String> {
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|row| {
            let known = row.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
            known.map(|(name, value)| shown(name, value)).collect()
        })
        .collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let padded = |(column, cell): (usize, &String)| {
        let width = width(column);
        format!("{cell:<width$}")
    };
    rows.iter().map(|row| row.iter().enumerate().map(padded).collect::<Vec<_>>().join("  ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_lines_or_json_and_nothing_is_left_out_of_either() {
        let parts = json!([
            {"name": "unet", "parameters": 1_234_567, "bytes": 4_938_268},
            {"name": "text_encoder", "parameters": 12, "bytes": 48},
        ]);
        let facts =
            Facts::new("model").with("path", "a\u{1b}b").with("empty", json!([])).with("parts", parts);
        assert_eq!(
            facts.text(),
            "kind               model\n\
             path               a\\u{1b}b\n\
             parts              unet          1\u{202f}234\u{202f}567  4.938 MB\n                   \
             text_encoder  12         48.00 B"
        );
        let value: Value = serde_json::from_str(&facts.json()).unwrap();
        assert_eq!((&value["schema"], &value["path"]), (&json!(SCHEMA), &json!("a\u{1b}b")));
        assert!(value.get("empty").is_none());
    }
}
