//! What the documents name has to be there: files, tests, and what links lead to. Functions are looked up by `names`.

use std::collections::BTreeSet;

/// A line of a document is no longer, so that it is read without scrolling and a change shows what changed.
pub(crate) const LINE_LEN_MAX: usize = 160;

/// Endings of files that the project has.
const ENDINGS: [&str; 8] = ["rs", "md", "proto", "toml", "json", "txt", "sh", "py"];

/// What stands between backquotes, outside of blocks.
pub(crate) fn quoted(text: &str) -> Vec<String> {
    let mut is_block = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if !is_block {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Names among `quoted` that read like a test's: three underscores or more.
pub(crate) fn named_tests(quoted: &[String]) -> BTreeSet<String> {
    let last = quoted.iter().map(|name| name.rsplit("::").next().unwrap_or(name));
    let is_name = |name: &&str| {
        name.matches('_').count() >= 3
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    last.filter(is_name).map(str::to_owned).collect()
}

/// The first word of `quoted`, if it reads like a path of a file or directory of the project.
fn named_path(quoted: &str) -> Option<&str> {
    let word = quoted.split_whitespace().next()?.trim_end_matches([':', ',']);
    let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let is_ours = !word.starts_with(['/', '-', '.']) && !word.starts_with("target/");
    let has_ending =
        word.rsplit_once('.').is_some_and(|(name, ending)| !name.is_empty() && ENDINGS.contains(&ending));
    let is_directory = word.len() > 1 && word.ends_with('/');
    // `bench/NAME.json` stands for many.
    let is_pattern = word.split(['/', '.']).any(|part| part == "NAME" || part == "PID");
    let is_path = has_ending || is_directory || word.contains('/');
    (is_plain && is_ours && is_path && !is_pattern && !word.contains("//")).then_some(word)
}

/// Paths that `text`, the document at `path`, names and that are not there. A path counts from the root or from the
/// document; the end of one will do if only one file has it, and so will the mere name of a file.
pub(crate) fn missing_paths(path: &str, text: &str, files: &BTreeSet<String>) -> Vec<String> {
    let beside = path.rsplit_once('/').map_or(String::new(), |(directory, _)| format!("{directory}/"));
    let is_there = |named: &str| {
        let named = named.trim_end_matches('/');
        let below = format!("{named}/");
        files.contains(named) || files.iter().any(|file| file.starts_with(&below))
    };
    let is_end = |named: &str| {
        let end = format!("/{}", named.trim_end_matches('/'));
        let count = files.iter().filter(|file| file.ends_with(&end)).count();
        count == 1 || (count > 1 && !named.contains('/'))
    };
    let quoted = quoted(text);
    let paths: BTreeSet<&str> = quoted.iter().filter_map(|quoted| named_path(quoted)).collect();
    let missing = paths.into_iter().filter(|named| {
        // `read/write` is no path: one begins at a directory of the project, or ends as a file does.
        let first = named.split('/').next().unwrap_or_default();
        let is_sure = is_there(first)
            || named.ends_with('/')
            || ENDINGS.iter().any(|e| named.ends_with(&format!(".{e}")));
        is_sure && !is_there(named) && !is_there(&format!("{beside}{named}")) && !is_end(named)
    });
    missing.map(|named| format!("{path}: {named}")).collect()
}

/// Links of `text` to files that are not there.
pub(crate) fn dead_links(path: &str, text: &str, files: &BTreeSet<String>) -> Vec<String> {
    let mut dead = Vec::new();
    for (target, _) in text.split("](").skip(1).filter_map(|behind| behind.split_once(')')) {
        let file = target.split('#').next().unwrap_or_default();
        if file.is_empty() || file.contains("://") || file.contains(char::is_whitespace) {
            continue;
        }
        let mut at: Vec<&str> = path.split('/').collect();
        at.pop();
        for part in file.split('/') {
            match part {
                ".." => drop(at.pop()),
                part => at.push(part),
            }
        }
        let place = at.join("/");
        let below = format!("{}/", place.trim_end_matches('/'));
        if !files.contains(&place) && !files.iter().any(|file| file.starts_with(&below)) {
            dead.push(format!("{path}: {target}"));
        }
    }
    dead
}

/// Lines that are too long.
pub(crate) fn long_lines(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.chars().count()));
    lines
        .filter(|(_, len)| *len > LINE_LEN_MAX)
        .map(|(number, len)| format!("{path}:{number}: {len}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(paths: &[&str]) -> BTreeSet<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn what_stands_in_a_block_is_not_quoted_and_a_quotation_may_go_over_lines() {
        assert_eq!(quoted("a `b` c\n```sh\n`d`\n```\n`e\nf`, `g::h`"), ["b", "e\nf", "g::h"]);
    }

    #[test]
    fn a_path_that_is_not_there_is_named() {
        let files = set(&[
            "a/src/lib.rs",
            "a/src/x/one.rs",
            "b/src/lib.rs",
            "docs/d.md",
            "docs/tools/run",
            "README.md",
        ]);
        let there = "`a/src/x/one.rs` `a/src/` `a/src/x` `x/one.rs` `one.rs` `lib.rs` `tools/run ARG` `d.md` `read/write` \
                     `/etc/x.toml` `~/a/b.rs` `target/release/x` `a/NAME.json` `Type::f` `1/2` `-v`";
        assert!(
            missing_paths("docs/d.md", there, &files).is_empty(),
            "{:?}",
            missing_paths("docs/d.md", there, &files)
        );
        let gone = "`a/src/y.rs` `two.rs` `x/two.rs` `a/tests/` `a/src/x/three` `src/lib.rs`";
        let found = missing_paths("docs/d.md", gone, &files);
        assert_eq!(found.len(), 6, "{found:?}");
    }

    #[test]
    fn a_link_leads_to_a_file_or_to_the_web() {
        let files = set(&["docs/d.md", "docs/e.md", "README.md", "bench/x/y"]);
        let text = "[a](e.md) [b](../README.md#part) [c](https://x.y/z) [d](#here) [e](../bench/x)";
        assert!(dead_links("docs/d.md", text, &files).is_empty());
        assert_eq!(
            dead_links("docs/d.md", "[a](f.md) [b](README.md)", &files),
            ["docs/d.md: f.md", "docs/d.md: README.md"]
        );
        assert!(dead_links("README.md", "[a](docs/d.md) [b](bench/x/)", &files).is_empty());
    }

    #[test]
    fn a_line_counts_characters() {
        let (fits, long) = ("ö".repeat(LINE_LEN_MAX), "o".repeat(LINE_LEN_MAX + 1));
        assert_eq!(long_lines("d.md", &format!("{fits}\n{long}\n{fits}")), ["d.md:2: 161"]);
    }
}
