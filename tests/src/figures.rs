//! What a long test has measured, each with its limit and a verdict: printed, and left in `bench/long/`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The figures of one test.
pub struct Figures {
    /// Names the file.
    name: &'static str,
    about: &'static str,
    rows: Vec<Row>,
}

struct Row {
    what: String,
    value: String,
    limit: String,
    holds: bool,
}

impl Figures {
    pub fn new(name: &'static str, about: &'static str) -> Figures {
        Figures { name, about, rows: Vec::new() }
    }

    pub fn at_most(&mut self, what: &str, value: f64, limit: f64, unit: &str) {
        let limits = format!("at most {} {unit}", short(limit));
        self.add(what, format!("{} {unit}", short(value)), limits, value <= limit);
    }

    pub fn at_least(&mut self, what: &str, value: f64, limit: f64, unit: &str) {
        let limits = format!("at least {} {unit}", short(limit));
        self.add(what, format!("{} {unit}", short(value)), limits, value >= limit);
    }

    pub fn is(&mut self, what: &str, value: u64, wanted: u64) {
        self.add(what, value.to_string(), wanted.to_string(), value == wanted);
    }

    /// It has no limit.
    pub fn shown(&mut self, what: &str, value: f64, unit: &str) {
        self.add(what, format!("{} {unit}", short(value)), String::new(), true);
    }

    fn add(&mut self, what: &str, value: String, limit: String, holds: bool) {
        self.rows.push(Row { what: what.to_owned(), value, limit, holds });
    }

    fn table(&self) -> String {
        let mut table = String::from("| what | value | limit | verdict |\n| --- | ---: | ---: | --- |\n");
        for Row { what, value, limit, holds } in &self.rows {
            let verdict = match (limit.is_empty(), holds) {
                (true, _) => "",
                (false, true) => "holds",
                (false, false) => "**does not hold**",
            };
            let _ = writeln!(table, "| {what} | {value} | {limit} | {verdict} |");
        }
        table
    }

    /// Writes them down, and then fails if a limit does not hold.
    #[track_caller]
    pub fn end(self) {
        let table = self.table();
        println!("{}\n\n{table}", self.about);
        let path = directory().join(format!("{}.md", self.name));
        let text = format!("{}\n\nMade by `make test-long`.\n\n{table}", self.about);
        fs::create_dir_all(directory()).expect("make the directory of figures");
        fs::write(&path, text).expect("write the figures down");
        assert!(self.rows.iter().all(|row| row.holds), "a limit does not hold:\n{table}");
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/long")
}

/// Three digits are enough to compare.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || size.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The one in the middle. There must be one.
pub fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|one, other| one.partial_cmp(other).expect("comparable"));
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_of_each_limit_whether_it_holds() {
        let mut figures = Figures::new("none", "Nothing.");
        figures.at_most("a stat", 31.26, 30.0, "µs");
        figures.at_least("a rate", 600.4, 300.0, "a second");
        figures.is("stale", 0, 0);
        figures.shown("memory", 12.34, "MiB");
        let rows: Vec<String> = figures.table().lines().skip(2).map(str::to_owned).collect();
        assert_eq!(rows[0], "| a stat | 31.3 µs | at most 30 µs | **does not hold** |");
        assert_eq!(rows[1], "| a rate | 600 a second | at least 300 a second | holds |");
        assert_eq!(rows[2], "| stale | 0 | 0 | holds |");
        assert_eq!(rows[3], "| memory | 12.3 MiB |  |  |");
    }

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median(vec![3, 9, 1]), 3);
    }
}
