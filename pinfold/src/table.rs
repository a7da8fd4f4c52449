//! Output of the commands: tables for people, JSON for programs.

use std::io::Write;

use serde_json::Value;

/// The lines of a table of `rows` under `titles`, each column as wide as its widest cell.
pub(crate) fn table(titles: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = titles.iter().map(|t| t.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = line(&titles.iter().map(|t| t.to_uppercase()).collect::<Vec<_>>());
    std::iter::once(head).chain(rows.iter().map(|row| line(row))).collect()
}

/// Prints [`table`].
pub(crate) fn print_table(titles: &[&str], rows: &[Vec<String>]) {
    table(titles, rows).iter().for_each(|line| print_line(line));
}

/// Prints a value for a program.
pub(crate) fn print_json(value: &Value) {
    print_line(&format!("{value:#}"));
}

/// Prints one line. Whoever reads no further, `head` for example, has seen enough.
pub(crate) fn print_line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A member as a table cell: texts bare, numbers and booleans as they are, anything absent empty.
pub(crate) fn cell(value: &Value, member: &str) -> String {
    match &value[member] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
