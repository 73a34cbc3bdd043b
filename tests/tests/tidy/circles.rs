//! Files of one crate that use each other in a circle: none of them can be read, tested or changed alone.
//!
//! A file uses another one when its code names an item of it: by `use`, or by a path (`crate::a::f`, `super::T`, `child::f`).
//! An item is where it is defined, whatever re-exports it on the way; so `mod x;` and `pub use x::T` are no uses, and a child
//! that takes from its parent what the parent re-exports from another child uses that child. Tests are left out. Methods are not
//! seen: who may call them has the type already.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{code_of, end_of_group, without_tests, words_of};

/// From the crate's root.
type Module = Vec<String>;
/// From file to files, each with the items that are used.
pub(crate) type Uses = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// What a name stands for in a file.
#[derive(Clone, Debug)]
struct Import {
    path: Vec<String>,
    is_reexport: bool,
}

#[derive(Debug)]
struct File {
    path: String,
    children: BTreeSet<String>,
    /// By the name that they have here.
    imports: BTreeMap<String, Import>,
    /// `use path::*`
    globs: Vec<Import>,
    defined: BTreeSet<String>,
    /// Paths in code, outside of `use`.
    named: Vec<Vec<String>>,
    /// Words of code, outside of `use`.
    words: BTreeSet<String>,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    module: Module,
    /// None: the module itself.
    item: Option<String>,
}

struct Crate(BTreeMap<Module, File>);

/// Which file uses which, of one crate: `sources` are its files below `root`, such as `client/src/`.
pub(crate) fn uses(root: &str, sources: &[(String, String)]) -> Uses {
    let files: BTreeMap<&str, &str> =
        sources.iter().filter_map(|(path, text)| Some((path.strip_prefix(root)?, text.as_str()))).collect();
    let mut read = BTreeMap::new();
    let mut waiting = vec![(Module::new(), "lib.rs".to_owned())];
    while let Some((module, path)) = waiting.pop() {
        let Some(text) = files.get(path.as_str()) else { continue };
        let mut file = read_file(text);
        file.path = format!("{root}{path}");
        let directory = module.iter().map(|name| format!("{name}/")).collect::<String>();
        file.children.retain(|child| {
            let places = [format!("{directory}{child}.rs"), format!("{directory}{child}/mod.rs")];
            let place = places.into_iter().find(|place| files.contains_key(place.as_str()));
            place.is_some_and(|place| {
                waiting.push((joined(&module, child), place));
                true
            })
        });
        read.insert(module, file);
    }
    Crate(read).uses()
}

fn joined(module: &[String], child: &str) -> Module {
    module.iter().cloned().chain([child.to_owned()]).collect()
}

fn read_file(text: &str) -> File {
    let code = code_of(text);
    let all = words_of(&code);
    let words = without_tests(&all);
    let mut file = File {
        path: String::new(),
        children: BTreeSet::new(),
        imports: BTreeMap::new(),
        globs: Vec::new(),
        defined: BTreeSet::new(),
        named: Vec::new(),
        words: BTreeSet::new(),
    };
    let mut at = 0;
    while at < words.len() {
        let word = words[at];
        let next = words.get(at + 1).copied().unwrap_or_default();
        match word {
            "pub" if next == "(" => {
                at = end_of_group(&words, at + 1);
                continue;
            }
            "use" if next != "<" => {
                let is_reexport = at > 0 && matches!(words[at - 1], "pub" | ")");
                at = read_tree(&words, at + 1, &[], is_reexport, &mut file);
                continue;
            }
            "mod" if words.get(at + 2) == Some(&";") => {
                file.children.insert(next.to_owned());
                at += 3;
                continue;
            }
            "fn" | "struct" | "enum" | "union" | "trait" | "type" | "const" | "static" | "mod" => {
                file.defined.insert(next.to_owned());
            }
            _ if next == "::" && is_name(word) => {
                let len = words[at..]
                    .chunks(2)
                    .take_while(|pair| is_name(pair[0]) && pair.get(1) == Some(&"::"))
                    .count();
                let last = words.get(at + 2 * len).copied().filter(|last| is_name(last));
                let path = words[at..at + 2 * len].iter().step_by(2).copied().chain(last);
                if at == 0 || words[at - 1] != "::" {
                    file.named.push(path.map(str::to_owned).collect());
                }
                file.words.insert(word.to_owned());
                at += 2 * len;
                continue;
            }
            _ => {}
        }
        file.words.insert(word.to_owned());
        at += 1;
    }
    file
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// One tree of a `use`, whose path so far is `before`. Answers where its text ends: behind the `;` if it is the whole.
fn read_tree(words: &[&str], from: usize, before: &[String], is_reexport: bool, file: &mut File) -> usize {
    let (mut at, mut path) = (from, before.to_vec());
    let mut alias = None;
    while at < words.len() {
        match words[at] {
            "::" => at += 1,
            "{" => {
                let end = end_of_group(words, at);
                let mut inner = at + 1;
                while inner < end - 1 {
                    inner = read_tree(words, inner, &path, is_reexport, file);
                }
                // Behind the brace stands a `;`, or what ends this tree in the one around it.
                return (end + usize::from(matches!(words.get(end), Some(&(";" | ","))))).max(at + 1);
            }
            "*" => {
                file.globs.push(Import { path: path.clone(), is_reexport });
                at += 1;
            }
            "as" => {
                alias = words.get(at + 1).map(|name| (*name).to_owned());
                at += 2;
            }
            "," | ";" | "}" => {
                at += 1;
                break;
            }
            word => {
                path.push(word.to_owned());
                at += 1;
            }
        }
    }
    let is_glob = words.get(at.saturating_sub(2)) == Some(&"*");
    if path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    if let Some(name) = alias.or_else(|| path.last().cloned()).filter(|_| !is_glob) {
        file.imports.insert(name, Import { path, is_reexport });
    }
    at
}

impl Crate {
    fn uses(&self) -> Uses {
        let mut uses = Uses::new();
        for (module, file) in &self.0 {
            let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            let mut note = |target: Option<Target>| {
                let Some(Target { module: other, item: Some(item) }) = target else { return };
                if other != *module {
                    used.entry(self.0[&other].path.clone()).or_default().insert(item);
                }
            };
            for path in &file.named {
                note(self.resolve(module, path, 0));
            }
            for (name, import) in &file.imports {
                if !import.is_reexport || file.words.contains(name) {
                    note(self.resolve(module, &import.path, 0));
                }
            }
            for glob in file.globs.iter().filter(|glob| !glob.is_reexport) {
                let target = self.resolve(module, &glob.path, 0);
                note(target.map(|target| Target {
                    item: Some(target.item.unwrap_or_else(|| "*".to_owned())),
                    ..target
                }));
            }
            uses.insert(file.path.clone(), used);
        }
        uses
    }

    /// None: an item of another crate, or one that is not found.
    fn resolve(&self, from: &[String], path: &[String], depth: usize) -> Option<Target> {
        const DEPTH_MAX: usize = 16;
        if depth > DEPTH_MAX {
            return None;
        }
        let (first, mut rest) = path.split_first()?;
        let file = self.0.get(from)?;
        let mut module = from.to_vec();
        match first.as_str() {
            "crate" => module.clear(),
            "self" => {}
            "super" => {
                module.pop()?;
                while let Some(("super", behind)) =
                    rest.split_first().map(|(next, behind)| (next.as_str(), behind))
                {
                    module.pop()?;
                    rest = behind;
                }
            }
            child if file.children.contains(child) => module.push(first.clone()),
            name => {
                let import = file.imports.get(name)?;
                let is_itself = import.path.first() == Some(first);
                if is_itself && !file.children.contains(name) {
                    return None; // another crate's
                }
                let whole: Vec<String> = import.path.iter().chain(rest).cloned().collect();
                return self.resolve(from, &whole, depth + 1);
            }
        }
        self.descend(module, rest, depth)
    }

    fn descend(&self, mut module: Module, path: &[String], depth: usize) -> Option<Target> {
        let mut rest = path;
        while let Some((next, behind)) = rest.split_first() {
            if !self.0.get(&module)?.children.contains(next) {
                break;
            }
            module.push(next.clone());
            rest = behind;
        }
        let Some((item, behind)) = rest.split_first() else { return Some(Target { module, item: None }) };
        let file = self.0.get(&module)?;
        if !file.defined.contains(item) {
            if let Some(import) = file.imports.get(item) {
                let whole: Vec<String> = import.path.iter().chain(behind).cloned().collect();
                return self.resolve(&module, &whole, depth + 1);
            }
            for glob in &file.globs {
                let Some(Target { module: other, item: None }) = self.resolve(&module, &glob.path, depth + 1)
                else {
                    continue;
                };
                if self.0.get(&other)?.defined.contains(item) {
                    return Some(Target { module: other, item: Some(item.clone()) });
                }
            }
        }
        Some(Target { module, item: Some(item.clone()) })
    }
}

/// Groups of files of which each leads to every other: each is at least one circle.
pub(crate) fn circles(uses: &Uses) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        uses.keys().map(|file| (file, reachable(uses, file))).collect();
    let mut groups: Vec<BTreeSet<String>> = Vec::new();
    for file in uses.keys().filter(|file| reached[file].contains(file)) {
        if groups.iter().any(|group| group.contains(file)) {
            continue;
        }
        let group = reached[file].iter().filter(|other| reached[*other].contains(file));
        groups.push(group.map(|other| (*other).clone()).collect());
    }
    groups
}

fn reachable<'u>(uses: &'u Uses, from: &String) -> BTreeSet<&'u String> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<&String> = uses[from].keys().collect();
    while let Some(file) = waiting.pop() {
        if reached.insert(file) {
            waiting.extend(uses.get(file).into_iter().flat_map(BTreeMap::keys));
        }
    }
    reached
}

/// The uses inside of a group, a line for each.
pub(crate) fn explain(uses: &Uses, group: &BTreeSet<String>) -> Vec<String> {
    let inner =
        group.iter().flat_map(|file| uses[file].iter().map(move |(other, items)| (file, other, items)));
    inner
        .filter(|(_, other, _)| group.contains(*other))
        .map(|(file, other, items)| {
            let items: Vec<&str> = items.iter().map(String::as_str).collect();
            format!("    {file} uses {} of {other}", items.join(", "))
        })
        .collect()
}

/// Each circle, and which file uses what of which other one in it.
pub(crate) fn explained(uses: &Uses) -> Vec<String> {
    let explained = circles(uses).into_iter().flat_map(|group| {
        let files: Vec<&str> = group.iter().map(String::as_str).collect();
        let mut lines = vec![format!("a circle, {}:", files.join(", "))];
        lines.extend(explain(uses, &group));
        lines
    });
    explained.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses_of(files: &[(&str, &str)]) -> Uses {
        let sources: Vec<(String, String)> =
            files.iter().map(|(path, text)| (format!("a/src/{path}"), (*text).to_owned())).collect();
        uses("a/src/", &sources)
    }

    #[track_caller]
    fn assert_circles(files: &[(&str, &str)], expected: &[&[&str]]) {
        let uses = uses_of(files);
        let found: Vec<Vec<String>> =
            circles(&uses).into_iter().map(|group| group.into_iter().collect()).collect();
        let expected: Vec<Vec<String>> =
            expected.iter().map(|group| group.iter().map(|path| format!("a/src/{path}")).collect()).collect();
        assert_eq!(found, expected, "{uses:#?}");
    }

    #[test]
    fn two_files_that_use_each_other_are_a_circle_by_use_or_by_path() {
        let lib = ("lib.rs", "mod one; mod two;");
        let two = ("two.rs", "use super::one::{self, One}; pub struct Two(One);");
        assert_circles(&[lib, ("one.rs", "use crate::two::Two; struct One;"), two], &[&["one.rs", "two.rs"]]);
        assert_circles(
            &[lib, ("one.rs", "struct One; fn f() { crate::two::g(); }"), two],
            &[&["one.rs", "two.rs"]],
        );
        assert_circles(&[lib, ("one.rs", "struct One; // crate::two::g()"), two], &[]);
        assert_circles(&[lib, ("one.rs", "struct One; #[cfg(test)] use crate::two::Two;"), two], &[]);
    }

    #[test]
    fn a_circle_of_three_is_one_group_and_two_circles_are_two() {
        let three = [
            ("lib.rs", "mod a; mod b; mod c; mod d; mod e;"),
            ("a.rs", "use crate::b::B; struct A;"),
            ("b.rs", "use crate::c as other; struct B; fn f() -> other::C {}"),
            ("c.rs", "struct C(crate::a::A);"),
            ("d.rs", "use crate::e::E; struct D(crate::a::A);"),
            ("e.rs", "struct E(super::d::D);"),
        ];
        assert_circles(&three, &[&["a.rs", "b.rs", "c.rs"], &["d.rs", "e.rs"]]);
    }

    #[test]
    fn a_circle_is_told_with_what_each_file_uses_of_the_other() {
        let both = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B; struct A;"),
            ("b.rs", "struct B(crate::a::A);"),
        ];
        let told = explained(&uses_of(&both));
        assert_eq!((told.len(), told[1].trim()), (3, "a/src/a.rs uses B of a/src/b.rs"), "{told:?}");
        assert!(explained(&uses_of(&both[..2])).is_empty());
    }

    #[test]
    fn declaring_and_reexporting_a_child_is_no_use_of_it_but_working_with_it_is() {
        let child = ("m/child.rs", "use super::Thing; pub struct Child(Thing);");
        let lib = ("lib.rs", "mod m;");
        assert_circles(
            &[lib, ("m/mod.rs", "mod child; pub use child::Child; pub struct Thing;"), child],
            &[],
        );
        let works = "mod child; pub use child::Child; pub struct Thing; fn f() -> Child {}";
        assert_circles(&[lib, ("m/mod.rs", works), child], &[&["m/child.rs", "m/mod.rs"]]);
        let calls = "mod child; pub struct Thing; fn f() { child::g(); }";
        assert_circles(&[lib, ("m/mod.rs", calls), child], &[&["m/child.rs", "m/mod.rs"]]);
    }

    #[test]
    fn an_item_that_a_parent_reexports_is_its_definers() {
        let files = [
            ("lib.rs", "mod m;"),
            ("m/mod.rs", "mod one; mod two; use one::One; pub(crate) use two::*; fn f(one: One) {}"),
            ("m/one.rs", "pub struct One;"),
            ("m/two.rs", "pub(in crate::m) use super::One; pub struct Two(One); impl crate::m::Two {}"),
        ];
        let uses = uses_of(&files);
        assert_eq!(uses["a/src/m/two.rs"].keys().collect::<Vec<_>>(), ["a/src/m/one.rs"]);
        assert_eq!(uses["a/src/m/mod.rs"].keys().collect::<Vec<_>>(), ["a/src/m/one.rs"]);
        assert_circles(&files, &[]);
    }

    #[test]
    fn what_is_not_declared_or_of_another_crate_is_no_file_of_this_one() {
        let files = [
            ("lib.rs", "mod one; #[cfg(test)] mod fakes;"),
            (
                "one.rs",
                "use one::f; use other::one; use std::fmt; fn g() { fmt::h(); one::i(); String::from(x); }",
            ),
            ("fakes.rs", "use crate::one::g;"),
        ];
        assert!(uses_of(&files).values().all(BTreeMap::is_empty), "{:?}", uses_of(&files));
        assert!(!uses_of(&files).contains_key("a/src/fakes.rs"));
    }
}
