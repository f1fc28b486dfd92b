//! What a call answers, and the ways of RabbitMQ's tools to write it.

use serde_json::{Map, Value as Json};

use crate::terminal;

/// A way to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Table,
    Json,
    Csv,
    PrettyTable,
}

/// An answer.
pub(super) enum Output {
    Nothing,
    Text(String),
    /// What only people care for.
    Note(String),
    Rows(Rows),
    /// What is written in words, or as JSON.
    Report(String, Json),
}

/// Columns of values. An object is a table of arguments.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<Json>>,
    /// Where there are no rows, some commands write an empty line.
    pub(super) has_line_for_none: bool,
}

impl Format {
    pub(super) fn from_word(word: &str) -> Option<Self> {
        match word {
            "table" => Some(Self::Table),
            "json" => Some(Self::Json),
            "csv" => Some(Self::Csv),
            "pretty_table" => Some(Self::PrettyTable),
            _ => None,
        }
    }

    /// Whether people read it, who are told what happens.
    pub(super) fn is_for_people(self) -> bool {
        matches!(self, Self::Table | Self::PrettyTable)
    }
}

impl Output {
    /// As it is printed; every line ends.
    pub(super) fn write(&self, format: Format, has_headers: bool) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Text(text) if text.is_empty() => String::new(),
            Self::Text(text) | Self::Note(text) => format!("{text}\n"),
            Self::Report(_, json) if format == Format::Json => format!("{json}\n"),
            Self::Report(text, _) => terminal::shown_lines(text).into_owned(),
            Self::Rows(rows) => match format {
                Format::Table => rows.table(has_headers),
                Format::Json => rows.json(),
                Format::Csv => rows.csv(has_headers),
                Format::PrettyTable => rows.pretty(),
            },
        }
    }
}

impl Rows {
    fn table(&self, has_headers: bool) -> String {
        if self.rows.is_empty() {
            return if self.has_line_for_none { "\n".to_owned() } else { String::new() };
        }
        let mut text = String::new();
        if has_headers {
            text.push_str(&format!("{}\n", self.columns.join("\t")));
        }
        for row in &self.rows {
            let cells: Vec<_> = row.iter().map(cell).collect();
            text.push_str(&format!("{}\n", cells.join("\t")));
        }
        text
    }

    fn csv(&self, has_headers: bool) -> String {
        let line = |cells: Vec<String>| {
            let quoted = cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\"")));
            format!("{}\n", quoted.collect::<Vec<_>>().join(","))
        };
        let mut text = String::new();
        if has_headers && !self.rows.is_empty() {
            text.push_str(&line(self.columns.clone()));
        }
        text.extend(self.rows.iter().map(|row| line(row.iter().map(cell).collect())));
        text
    }

    fn json(&self) -> String {
        if self.rows.is_empty() && self.has_line_for_none {
            return "[]\n".to_owned();
        }
        let objects = self.rows.iter().map(|row| {
            let fields = self.columns.iter().zip(row).map(|(name, value)| {
                let value = match value {
                    Json::Object(table) => typed(table),
                    other => other.clone(),
                };
                format!("{}:{value}", Json::from(name.as_str()))
            });
            format!("{{{}}}\n", fields.collect::<Vec<_>>().join(","))
        });
        format!("[\n{}]\n", objects.collect::<Vec<_>>().join(","))
    }

    /// With the terminal's own lines (VT100, DEC special graphics).
    fn pretty(&self) -> String {
        let bold = |name: &String| (name.chars().count(), format!("\x1b[1m{name}\x1b[0m"));
        let mut rows = vec![self.columns.iter().map(bold).collect::<Vec<_>>()];
        rows.extend(self.rows.iter().map(|row| {
            let cells = row.iter().map(|value| match value {
                Json::Array(words) => words.iter().map(cell).collect::<Vec<_>>().join(", "),
                other => cell(other),
            });
            cells.map(|cell| (cell.chars().count(), cell)).collect()
        }));
        let width = |at: usize| {
            rows.iter().filter_map(|row| Some(row.get(at)?.0)).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let rule = |left: &str, between: &str, right: &str| {
            let lines: Vec<_> = widths.iter().map(|width| "q".repeat(width + 2)).collect();
            format!("\x1b(0{left}{}{right}\x1b(B\n", lines.join(between))
        };
        let mut text = rule("l", "w", "k");
        for (index, row) in rows.iter().enumerate() {
            if index > 0 {
                text.push_str(&rule("t", "n", "u"));
            }
            for ((long, cell), width) in row.iter().zip(&widths) {
                let blank = " ".repeat(width.saturating_sub(*long));
                text.push_str(&format!("\x1b(0x\x1b(B {cell}{blank} "));
            }
            text.push_str("\x1b(0x\x1b(B\n");
        }
        text.push_str(&rule("m", "v", "j"));
        text
    }
}

/// A value in a table, as it is shown. Clients wrote the names.
fn cell(value: &Json) -> String {
    terminal::shown(&plain(value)).into_owned()
}

/// A value in a table.
fn plain(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        Json::Array(items) => {
            format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", "))
        }
        Json::Object(table) => erlang_table(table),
        other => other.to_string(),
    }
}

/// As Erlang writes a list of pairs.
fn erlang_table(table: &Map<String, Json>) -> String {
    let pairs = table
        .iter()
        .map(|(name, value)| format!("{{{},{}}}", Json::from(name.as_str()), erlang(value)));
    format!("[{}]", pairs.collect::<Vec<_>>().join(","))
}

fn erlang(value: &Json) -> String {
    match value {
        Json::Object(table) => erlang_table(table),
        Json::Array(items) => {
            format!("[{}]", items.iter().map(erlang).collect::<Vec<_>>().join(","))
        }
        Json::Null => "undefined".to_owned(),
        other => other.to_string(),
    }
}

/// A table of AMQP as RabbitMQ writes one in JSON: names, types and values.
fn typed(table: &Map<String, Json>) -> Json {
    let pairs = table.iter().map(|(name, value)| {
        let (kind, value) = typed_value(value);
        Json::from(vec![Json::from(name.as_str()), Json::from(kind), value])
    });
    pairs.collect()
}

fn typed_value(value: &Json) -> (&'static str, Json) {
    match value {
        Json::Null => ("void", Json::Null),
        Json::Bool(_) => ("bool", value.clone()),
        Json::Number(number) if number.is_f64() => ("double", value.clone()),
        Json::Number(_) => ("long", value.clone()),
        Json::String(_) => ("longstr", value.clone()),
        Json::Array(items) => {
            let items = items.iter().map(|item| {
                let (kind, value) = typed_value(item);
                Json::from(vec![Json::from(kind), value])
            });
            ("array", items.collect())
        }
        Json::Object(table) => ("table", typed(table)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows() -> Rows {
        let arguments = json!({ "x-max-length": 5, "nested": { "a": [true, null] } });
        Rows {
            columns: ["name", "arguments"].map(str::to_owned).into(),
            rows: vec![vec![json!("q \"1\""), arguments], vec![json!("r"), json!(["a", "b"])]],
            has_line_for_none: false,
        }
    }

    #[test]
    fn a_table_is_lines_of_cells_between_tabs() {
        let expected = "name\targuments\n\
                        q \"1\"\t[{\"nested\",[{\"a\",[true,undefined]}]},{\"x-max-length\",5}]\n\
                        r\t[a, b]\n";
        let output = Output::Rows(rows());
        assert_eq!(output.write(Format::Table, true), expected);
        let headless = expected.split_once('\n').unwrap().1;
        assert_eq!(output.write(Format::Table, false), headless);
    }

    #[test]
    fn json_and_csv_are_one_line_for_each_row() {
        let output = Output::Rows(rows());
        let expected = "[\n{\"name\":\"q \\\"1\\\"\",\"arguments\":[[\"nested\",\"table\",\
                        [[\"a\",\"array\",[[\"bool\",true],[\"void\",null]]]]],\
                        [\"x-max-length\",\"long\",5]]}\n,{\"name\":\"r\",\"arguments\":[\"a\",\"b\"]}\n]\n";
        assert_eq!(output.write(Format::Json, true), expected);
        let csv = output.write(Format::Csv, true);
        assert!(csv.starts_with("\"name\",\"arguments\"\n\"q \"\"1\"\"\",\"[{\"\"nested"), "{csv}");
        assert_eq!(Output::Rows(Rows::default()).write(Format::Json, true), "[\n]\n");
    }

    #[test]
    fn a_name_makes_no_row_and_commands_no_terminal() {
        let cells = vec![json!("a\tb\nc\x1b[2J"), json!({ "x\u{9b}": ["\u{9b}"] })];
        let rows = Rows { rows: vec![cells], ..rows() };
        let output = Output::Rows(rows);
        let row = "a\\tb\\nc\\u{1b}[2J\t[{\"x\\u{9b}\",[\"\\u{9b}\"]}]\n";
        assert_eq!(output.write(Format::Table, false), row);
        let csv = output.write(Format::Csv, false);
        assert!(csv.starts_with("\"a\\tb\\nc\\u{1b}[2J\",\""), "{csv}");
        assert!(output.write(Format::PrettyTable, false).contains("a\\tb\\nc\\u{1b}[2J "));
    }
}
