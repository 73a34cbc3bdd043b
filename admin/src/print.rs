//! Makes tables and JSON, and formats sizes and ages for people.

use std::fmt::Write as _;

use serde::Serialize;

/// A table of rows under a header. Each column is as wide as its widest cell.
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(header: impl Into<Vec<&'static str>>) -> Table {
        Table { header: header.into(), rows: Vec::new() }
    }

    /// Adds a row. The cells are in the order of the header; missing ones are empty.
    pub fn row(&mut self, cells: impl Into<Vec<String>>) {
        let mut cells = cells.into();
        cells.resize(self.header.len(), String::new());
        self.rows.push(cells);
    }

    /// The table as text. Columns of numbers are aligned to the right, all others to the left; no line has trailing blanks.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let header: Vec<String> = self.header.iter().map(|h| (*h).to_owned()).collect();
        let columns = 0..self.header.len();
        let widths: Vec<usize> = columns
            .clone()
            .map(|c| self.lines(&header).map(|r| r[c].chars().count()).max().unwrap_or(0))
            .collect();
        let numeric: Vec<bool> =
            columns.map(|c| self.rows.iter().all(|r| is_number(&r[c])) && !self.rows.is_empty()).collect();
        for row in self.lines(&header) {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&numeric) {
                let pad = " ".repeat(width - cell.chars().count());
                let (before, after) = if *right { (pad.as_str(), "") } else { ("", pad.as_str()) };
                let _ = write!(line, "{before}{cell}{after}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn lines<'a>(&'a self, header: &'a Vec<String>) -> impl Iterator<Item = &'a Vec<String>> {
        std::iter::once(header).chain(&self.rows)
    }
}

fn is_number(cell: &str) -> bool {
    cell.is_empty() || cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit())
}

/// Text that somebody else has chosen, fit for a terminal: what would steer one is escaped.
pub fn harmless(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// Prints `value` to stdout as indented JSON.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Formats a size as `3.4 GiB`: in binary units, with one decimal from KiB on.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Formats an age as `0.4 s`, `12 s`, `5 min` or `3 h`.
pub fn age(millis: u64) -> String {
    match millis {
        0..10_000 => format!("{:.1} s", millis as f64 / 1000.0),
        10_000..120_000 => format!("{} s", millis / 1000),
        120_000..7_200_000 => format!("{} min", millis / 60_000),
        _ => format!("{} h", millis / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_aligns_text_left_and_numbers_right() {
        let mut table = Table::new(["name", "chunks", "state"]);
        table.row(["a".to_owned(), "7".to_owned(), "alive".to_owned()]);
        table.row(["longer".to_owned(), "1234567".to_owned()]);
        assert_eq!(table.render(), "name     chunks  state\na             7  alive\nlonger  1234567\n");
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(Table::new(["a", "b"]).render(), "a  b\n");
    }

    #[test]
    fn sizes_and_ages_are_short() {
        let sizes: Vec<_> = [0, 1023, 1024, 1536, 1 << 20, (1 << 20) - 1, u64::MAX].map(bytes).into();
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 MiB", "16.0 EiB"]);
        let ages: Vec<_> = [0, 9_949, 12_345, 300_000, 9_000_000].map(age).into();
        assert_eq!(ages, ["0.0 s", "9.9 s", "12 s", "5 min", "2 h"]);
    }
}
