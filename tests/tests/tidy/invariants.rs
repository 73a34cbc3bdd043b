//! The invariants of modules: lines such as `//! U4  Silence is not slowness`, and comments that cite them.

use std::collections::{BTreeMap, BTreeSet};

/// Letters and number.
type Invariant = (String, u32);

/// Behind the number stand two spaces, or one behind a number of two digits.
fn defined_in(line: &str) -> Option<Invariant> {
    let (invariant, behind) = invariant_at(line.trim_start().strip_prefix("//! ")?)?;
    let is_apart = behind.starts_with("  ") || (behind.starts_with(' ') && invariant.1 >= 10);
    is_apart.then_some(invariant)
}

fn invariant_at(text: &str) -> Option<(Invariant, &str)> {
    const LETTERS_MAX: usize = 2;
    let letters = text.find(|c: char| !c.is_ascii_uppercase())?;
    let digits = text[letters..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - letters);
    let number = text[letters..letters + digits].parse().ok()?;
    (1..=LETTERS_MAX)
        .contains(&letters)
        .then(|| ((text[..letters].to_owned(), number), &text[letters + digits..]))
}

/// The crate that a file is of: the directory at the root.
fn crate_of(path: &str) -> &str {
    path.split('/').next().unwrap_or_default()
}

/// What is wrong with the letters of `files`: `P` is the rules', and two files of a crate have different ones.
pub(crate) fn collisions(files: &[(String, String)]) -> Vec<String> {
    let mut definers: BTreeMap<(&str, String), BTreeSet<&str>> = BTreeMap::new();
    for (path, text) in files {
        for (letters, _) in text.lines().filter_map(defined_in) {
            definers.entry((crate_of(path), letters)).or_default().insert(path);
        }
    }
    let mut found = Vec::new();
    for ((of, letters), paths) in definers {
        let paths: Vec<&str> = paths.into_iter().collect();
        if letters == "P" || paths.len() > 1 {
            found.push(format!("{of}: {letters} of {}", paths.join(", ")));
        }
    }
    found
}

/// `keeps U4` where the crate has no U4.
pub(crate) fn unknown(files: &[(String, String)]) -> Vec<String> {
    let known: BTreeSet<(&str, Invariant)> = files
        .iter()
        .flat_map(|(path, text)| {
            text.lines().filter_map(defined_in).map(move |invariant| (crate_of(path), invariant))
        })
        .collect();
    let mut found = Vec::new();
    for (path, text) in files {
        for (number, line) in text.lines().enumerate() {
            for (letters, of_letters) in kept_in(line) {
                let is_rule = letters == "P";
                if !is_rule && !known.contains(&(crate_of(path), (letters.clone(), of_letters))) {
                    found.push(format!("{path}:{}: {letters}{of_letters}", number + 1));
                }
            }
        }
    }
    found
}

/// What a comment says that its code keeps.
fn kept_in(line: &str) -> Vec<Invariant> {
    let Some((_, comment)) = line.split_once("//") else { return Vec::new() };
    let Some(at) = comment.find("eeps ").filter(|at| comment[..*at].ends_with(['k', 'K'])) else {
        return Vec::new();
    };
    let mut rest = &comment[at + "eeps ".len()..];
    let mut kept = Vec::new();
    while let Some((invariant, behind)) = invariant_at(rest) {
        kept.push(invariant);
        let Some(next) = [" and ", ", "].iter().find_map(|tie| behind.strip_prefix(tie)) else { break };
        rest = next;
    }
    kept
}

/// `path.rs`, U4 in a document where the file has no U4.
pub(crate) fn unknown_in_document(path: &str, text: &str, files: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (quoted, behind) in text.split('`').skip(1).step_by(2).zip(text.split('`').skip(2).step_by(2)) {
        let cited = behind.strip_prefix(',').and_then(|behind| invariant_at(behind.trim_start()));
        let Some(((letters, number), _)) = cited.filter(|_| quoted.ends_with(".rs")) else { continue };
        let end = format!("/{quoted}");
        let is_it = |(file, _): &&(String, String)| *file == quoted || file.ends_with(&end);
        let defines =
            |text: &str| text.lines().filter_map(defined_in).any(|it| it == (letters.clone(), number));
        if !files.iter().filter(is_it).any(|(_, text)| defines(text)) {
            found.push(format!("{path}: {quoted}, {letters}{number}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(texts: &[(&str, &str)]) -> Vec<(String, String)> {
        texts.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn a_letter_of_two_files_of_a_crate_and_the_letter_of_the_rules_are_refused() {
        let files = files(&[
            ("a/src/x.rs", "//! About.\n//!\n//! C1  One.\n//! C10 Ten.\n//! C2 is no definition here.\n"),
            ("a/src/y.rs", "//! C3  Three.\n//! CD1  Other letters.\n"),
            ("b/src/z.rs", "//! C1  Another crate's.\n//! P1  Not a rule.\n//! ABC1  A word.\n"),
        ]);
        assert_eq!(collisions(&files), ["a: C of a/src/x.rs, a/src/y.rs", "b: P of b/src/z.rs"]);
        assert!(collisions(&files[..1]).is_empty());
    }

    #[test]
    fn what_is_kept_has_to_be_defined_in_the_crate() {
        let files = files(&[
            ("a/src/x.rs", "//! C1  One.\nfn f() {} // keeps C1\n/// Keeps C1, C2 and P1.2, that is all.\n"),
            ("b/src/y.rs", "g(); // keeps C1: not ours\nh(); // keeps Constantly moving\n"),
        ]);
        assert_eq!(unknown(&files), ["a/src/x.rs:3: C2", "b/src/y.rs:1: C1"]);
    }

    #[test]
    fn what_a_document_says_of_a_file_has_to_be_defined_in_it() {
        let files =
            files(&[("a/src/x.rs", "//! C1  One.\n//! C10 Ten.\n"), ("a/src/y.rs", "//! D1  One.\n")]);
        let there = "One (`a/src/x.rs`, C1), ten (`x.rs`,\nC10), no (`a/b`, C3), `C2`, `a/src/y.rs`, A file.";
        assert!(unknown_in_document("d.md", there, &files).is_empty());
        let gone = "Two (`a/src/x.rs`, C2), another's (`a/src/x.rs`, D1), nobody's (`z.rs`, D1).";
        assert_eq!(
            unknown_in_document("d.md", gone, &files),
            ["d.md: a/src/x.rs, C2", "d.md: a/src/x.rs, D1", "d.md: z.rs, D1"]
        );
    }
}
