//! Functions that documents name by their type or module, and where the sources have them.

use std::collections::{BTreeMap, BTreeSet};

use crate::documents::quoted;
use crate::source::{code_of, end_of_group, words_of};

/// Libraries that documents may name functions of. Whether those exist is for their own documentation to say.
const FOREIGN: [(&str, &str); 2] = [
    ("std", "Rust's own"),
    ("openraft", "pinned exactly, and `metaserver/src/raft` does not compile without what it uses"),
];

/// What the sources define, to look names up.
pub(crate) struct Names(Vec<Defined>);

struct Defined {
    /// What a path may call this file: its module, and the directories that it is in (they may re-export what it has).
    modules: BTreeSet<String>,
    items: BTreeSet<String>,
    /// By type or trait: functions, variants, fields, constants.
    members: BTreeMap<String, BTreeSet<String>>,
}

impl Names {
    pub(crate) fn of(sources: &[(String, String)]) -> Names {
        Names(sources.iter().map(|(path, text)| defined_in(path, text)).collect())
    }

    /// Names such as `Type::function` and `module::function` in `text` that nothing in the sources is.
    pub(crate) fn missing(&self, path: &str, text: &str) -> Vec<String> {
        let named: BTreeSet<Vec<String>> = quoted(text).iter().flat_map(|quoted| paths_in(quoted)).collect();
        let missing = named.into_iter().filter(|named| {
            let is_foreign = FOREIGN.iter().any(|(library, _)| named[0] == *library);
            !is_foreign && !named.windows(2).all(|pair| self.has(&pair[0], &pair[1]))
        });
        missing.map(|named| format!("{path}: {}", named.join("::"))).collect()
    }

    fn has(&self, of: &str, name: &str) -> bool {
        let is_type = of.starts_with(|c: char| c.is_uppercase());
        let has_it = |file: &Defined| file.items.contains(name) || file.modules.contains(name);
        self.0.iter().any(|file| match is_type {
            true => file.members.get(of).is_some_and(|members| members.contains(name)),
            false => (file.modules.contains(of) || of == "crate") && has_it(file),
        })
    }
}

/// `a::b::c` in `quoted`, each as its parts.
fn paths_in(quoted: &str) -> Vec<Vec<String>> {
    let words = words_of(quoted);
    let mut paths: Vec<Vec<String>> = Vec::new();
    let mut is_tied = false;
    for (at, word) in words.iter().enumerate() {
        let is_name = word.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if *word == "::" {
            is_tied = at > 0;
        } else if is_name && is_tied {
            paths.last_mut().into_iter().for_each(|path| path.push((*word).to_owned()));
            is_tied = false;
        } else {
            is_tied = false;
            paths.push(if is_name { vec![(*word).to_owned()] } else { Vec::new() });
        }
    }
    paths.retain(|path| path.len() > 1);
    paths
}

fn defined_in(path: &str, text: &str) -> Defined {
    let mut modules: BTreeSet<String> = path
        .trim_end_matches(".rs")
        .split('/')
        .filter(|part| !matches!(*part, "src" | "mod" | "lib" | "main"))
        .map(str::to_owned)
        .collect();
    modules.extend(path.split('/').next().map(|of| format!("dfs_{of}")));
    let code = code_of(text);
    let words = words_of(&code);
    let mut items = BTreeSet::new();
    let mut members: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (at, word) in words.iter().enumerate() {
        let next = words.get(at + 1).map(|next| (*next).to_owned()).unwrap_or_default();
        let body =
            || words[at..].iter().position(|word| matches!(*word, "{" | ";" | "(")).map(|len| at + len);
        match *word {
            "struct" | "enum" => {
                if let Some(body) = body().filter(|body| words[*body] == "{") {
                    members.entry(next.clone()).or_default().extend(parts(&words, body));
                }
                items.insert(next);
            }
            "trait" => {
                let methods =
                    words[at..].iter().position(|word| *word == "{").map(|len| functions(&words, at + len));
                members.entry(next.clone()).or_default().extend(methods.unwrap_or_default());
                items.insert(next);
            }
            // In `x: impl T` and `-> impl T` it begins no block.
            "impl" if at == 0 || matches!(words[at - 1], "}" | ";" | "]" | "{" | "unsafe") => {
                let Some(body) = words[at..].iter().position(|word| *word == "{").map(|len| at + len) else {
                    continue;
                };
                for of in words[at..body].iter().filter(|word| word.starts_with(|c: char| c.is_uppercase())) {
                    members.entry((*of).to_owned()).or_default().extend(functions(&words, body));
                }
            }
            "fn" | "const" | "static" | "mod" | "type" | "union" => drop(items.insert(next)),
            _ => {}
        }
    }
    Defined { modules, items, members }
}

/// Functions, constants and types of the block that begins at `open`.
fn functions(words: &[&str], open: usize) -> Vec<String> {
    let mut found = Vec::new();
    let (mut at, end) = (open + 1, end_of_group(words, open));
    while at + 1 < end {
        match words[at] {
            "{" | "(" | "[" => {
                at = end_of_group(words, at);
                continue;
            }
            "fn" | "const" | "type" => found.push(words[at + 1].to_owned()),
            _ => {}
        }
        at += 1;
    }
    found
}

/// Fields or variants in the block that begins at `open`.
fn parts(words: &[&str], open: usize) -> Vec<String> {
    let mut found = Vec::new();
    let (mut at, end) = (open + 1, end_of_group(words, open));
    let mut is_next = true;
    while at + 1 < end {
        match words[at] {
            "(" | "[" | "{" => {
                at = end_of_group(words, at);
                continue;
            }
            "," => is_next = true,
            "#" | "pub" => {}
            word if is_next => {
                found.push(word.to_owned());
                is_next = false;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_found_at_its_type_or_in_its_module_only() {
        let sources = [
            (
                "a/src/store/mod.rs",
                "pub struct Store { pub len: u64 } impl Store { pub fn open() {} } pub mod file;",
            ),
            (
                "a/src/store/file.rs",
                "enum Kind { #[a(b)] Plain, Full { at: u8 }, Other(X) } fn read() {} // fn gone()",
            ),
            (
                "a/src/lib.rs",
                "trait Seam { fn call(); } impl Seam for Store { fn call() {} } fn only_here(x: impl Seam) {}",
            ),
        ];
        let sources: Vec<(String, String)> =
            sources.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        let names = Names::of(&sources);
        let there = "`Store::open` `store::Store::open(x)` `Store::len` `Kind::Plain` `Kind::Full` `Kind::Other(_)` `file::read` `store::read` `Seam::call` \
                     `Store::call` `store::file` `crate::store::file::read` `dfs_a::only_here` `std::gone::Gone` `no path` `x: Y`";
        assert!(names.missing("d.md", there).is_empty(), "{:?}", names.missing("d.md", there));
        let gone = "`Store::read` `Kind::at` `file::gone` `Gone::open` `gone::read` `dfs_b::only_here` `Store::only_here`";
        let found = names.missing("d.md", gone);
        assert_eq!(found.len(), 7, "{found:?}");
    }
}
