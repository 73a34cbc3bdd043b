//! The rules of `docs/protocols.md` (P2.1), and who cites them.

use std::collections::BTreeSet;

/// A section (P2) or a rule in it (P2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    section: u32,
    item: Option<u32>,
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "P{}", self.section)?;
        self.item.map_or(Ok(()), |item| write!(f, ".{item}"))
    }
}

/// What `text` gives a number: headings such as `## P7 State machine`, and below them items that begin with `1. ` or with the
/// whole number, such as `**P7.1**`.
pub(crate) fn rules_of(text: &str) -> BTreeSet<Rule> {
    let mut rules = BTreeSet::new();
    let mut section = None;
    let mut is_behind_blank = true;
    for line in text.lines() {
        let is_heading = line.starts_with('#');
        let begins = line.trim_start_matches(['#', '*', '-', ' ']);
        let is_item = begins.len() < line.len() || is_behind_blank;
        if let Some((rule, _)) = rule_at(begins).filter(|_| is_item) {
            rules.insert(rule);
            if is_heading {
                section = Some(rule.section);
            }
        } else if is_heading && !line.starts_with("###") {
            section = None;
        } else if let (Some(section), Some(item)) = (section, numbered(line)) {
            rules.insert(Rule { section, item: Some(item) });
        }
        is_behind_blank = line.trim().is_empty();
    }
    rules
}

fn numbered(line: &str) -> Option<u32> {
    let (number, _) = line.split_once(". ")?;
    number.parse().ok()
}

/// The rule whose number begins `text`, and what stands behind it.
fn rule_at(text: &str) -> Option<(Rule, &str)> {
    let (section, behind) = number_at(text.strip_prefix('P')?)?;
    let item = behind.strip_prefix('.').and_then(number_at);
    let (item, rest) = item.map_or((None, behind), |(item, rest)| (Some(item), rest));
    let is_longer_word = rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    (!is_longer_word).then_some((Rule { section, item }, rest))
}

fn number_at(text: &str) -> Option<(u32, &str)> {
    let len = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..len].parse().ok()?, &text[len..]))
}

/// The rules that `line` names, and all between the ends of a range (`P3 to P6`, `P3.1–P3.4`).
pub(crate) fn cited_in(line: &str) -> Vec<Rule> {
    let mut cited: Vec<Rule> = Vec::new();
    let mut rest = line;
    let mut before = ' ';
    let mut is_range = false;
    while let Some(first) = rest.chars().next() {
        let is_start = first == 'P' && !before.is_alphanumeric() && before != '_';
        let Some((rule, behind)) = rule_at(rest).filter(|_| is_start) else {
            (before, is_range) = (first, false);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        if is_range && let Some(from) = cited.last().copied() {
            cited.extend(between(from, rule));
        }
        cited.push(rule);
        let tied = [" to ", "–", "-", " – "].iter().find_map(|tie| behind.strip_prefix(tie));
        is_range = tied.is_some_and(|behind| rule_at(behind).is_some());
        rest = tied.filter(|_| is_range).unwrap_or(behind);
        before = ' ';
    }
    cited
}

fn between(from: Rule, to: Rule) -> Vec<Rule> {
    match (from.item, to.item) {
        (None, None) => (from.section + 1..to.section).map(|section| Rule { section, item: None }).collect(),
        (Some(first), Some(last)) if from.section == to.section => {
            (first + 1..last).map(|item| Rule { item: Some(item), ..from }).collect()
        }
        _ => Vec::new(),
    }
}

/// Citations in `files` of what is no rule.
pub(crate) fn unknown(files: &[(String, String)], rules: &BTreeSet<Rule>) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        for (number, line) in text.lines().enumerate() {
            for rule in cited_in(line).into_iter().filter(|rule| !rules.contains(rule)) {
                found.push(format!("{path}:{}: {rule}", number + 1));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(rules: impl IntoIterator<Item = Rule>) -> String {
        rules.into_iter().map(|rule| rule.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rules_have_numbers_below_a_heading_or_in_full() {
        let text = "# Rules\n\nP1 and P1.1 are cited\nP4.4 too.\n\n## P1 Chunks\n\n1. One.\n2. Two\n   goes on with 3. and\nP4.5.\n10. Ten.\n\n\
                    ## P2 Commit\n\n**P2.1** One.\n\n* **P2.3** Three.\n### P2.4 Four\n\nP2.5 Five.\n\n## No rules\n\n1. Nothing.\n";
        assert_eq!(shown(rules_of(text)), "P1 P1.1 P1.2 P1.10 P2 P2.1 P2.3 P2.4 P2.5");
    }

    #[test]
    fn what_is_cited_is_found_in_lists_and_ranges() {
        assert_eq!(
            shown(cited_in("// keeps P3.1, P3.4 and P12 (P2.1); xP9 P9x P_1 p1 P 1 1P1")),
            "P3.1 P3.4 P12 P2.1"
        );
        assert_eq!(
            shown(cited_in("P3 to P6, P7.1–P7.3, P8 to the end, P9-P10. P1.")),
            "P3 P4 P5 P6 P7.1 P7.2 P7.3 P8 P9 P10 P1"
        );
        assert_eq!(shown(cited_in("zwölf – P13.9…")), "P13.9");
    }

    #[test]
    fn a_rule_that_does_not_exist_is_named_with_its_place() {
        let rules = rules_of("## P1 Chunks\n1. One.\n3. Three.\n");
        let files =
            [("a.rs".to_owned(), "// keeps P1.1\n\n// keeps P1.2 (P2)\n// P1.1 to P1.3\n".to_owned())];
        assert_eq!(unknown(&files, &rules), ["a.rs:3: P1.2", "a.rs:3: P2", "a.rs:4: P1.2"]);
    }
}
