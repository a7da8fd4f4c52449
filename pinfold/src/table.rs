//! Output of the commands: tables for people, JSON for programs.

use serde_json::Value;

/// Prints `rows` under `titles`, each column as wide as its widest cell.
#[expect(clippy::print_stdout, reason = "this is what the command is for")]
pub(crate) fn print_table(titles: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = titles.iter().map(|t| t.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        println!("{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    };
    line(&titles.iter().map(|t| t.to_uppercase()).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}

/// Prints a value for a program.
#[expect(clippy::print_stdout, reason = "this is what the command is for")]
pub(crate) fn print_json(value: &Value) {
    println!("{value:#}");
}

/// Prints one line.
#[expect(clippy::print_stdout, reason = "this is what the command is for")]
pub(crate) fn print_line(text: &str) {
    println!("{text}");
}

/// A member as a table cell: texts bare, numbers and booleans as they are, anything absent empty.
pub(crate) fn cell(value: &Value, member: &str) -> String {
    match &value[member] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
