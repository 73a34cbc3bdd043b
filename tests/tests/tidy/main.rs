//! The source keeps its own rules: who may know whom, sizes, words, and that what the documents name exists.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod circles;
mod documents;
mod invariants;
mod names;
mod rules;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// This program: what it searches for stands in it.
const HERE: &str = "tests/tests/tidy/";
/// A file that is longer is split.
const FILE_LINES_MAX: usize = 1000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file of the project below `dir`, as path from the root and text. Built and fetched things are not ours.
fn files(dir: &str) -> Vec<(String, String)> {
    const NOT_OURS: [&str; 3] = ["target", ".git", "node_modules"];
    let mut found = Vec::new();
    let mut waiting = vec![root().join(dir)];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_symlink() || NOT_OURS.contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no files below {dir}");
    found.sort();
    found
}

fn rust_files(dir: &str) -> Vec<(String, String)> {
    let mut found = files(dir);
    found.retain(|(path, _)| path.ends_with(".rs"));
    found
}

/// Lines that hold code: comments are cut away (good enough: no string of ours has `//` and a searched word behind it).
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(n, line)| (n + 1, line.split("//").next().unwrap_or_default()))
}

/// Places where one of `words` stands in code.
fn uses_of(files: &[(String, String)], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        for (number, line) in code_lines(text) {
            for word in words.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{path}:{number}: {word}"));
            }
        }
    }
    found
}

#[track_caller]
fn assert_none(found: &[String], why: &str) {
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

#[test]
fn only_the_raft_module_knows_openraft_and_only_one_file_knows_rocksdb() {
    let mut sources = rust_files("metaserver/src");
    sources.retain(|(path, _)| !path.starts_with("metaserver/src/raft/"));
    assert_none(
        &uses_of(&sources, &["openraft::", "use openraft"]),
        "openraft belongs behind metaserver/src/raft",
    );
    let mut sources = rust_files("metaserver/src");
    sources.retain(|(path, _)| path != "metaserver/src/rocks.rs");
    assert_none(
        &uses_of(&sources, &["rocksdb::DB", "use rocksdb", "extern crate rocksdb"]),
        "rocksdb belongs behind dfs-state's Kv",
    );
}

#[test]
fn changes_and_reads_reach_consensus_only_through_the_gate() {
    let mut sources = rust_files("metaserver/src");
    // The federation group's own state is no cluster's: it has no inodes and no names that anybody could hold.
    let of_the_group = ["metaserver/src/federation/group.rs", "metaserver/src/federation/follow.rs"];
    sources.retain(|(path, _)| {
        !path.starts_with("metaserver/src/raft/")
            && path != "metaserver/src/coherence/gate.rs"
            && path != "metaserver/src/coherence/landing.rs"
            // They fill a state before any member has it.
            && path != "metaserver/src/service/tests/bounds.rs"
            && path != "metaserver/src/service/tests.rs"
            && !of_the_group.contains(&path.as_str())
    });
    let ways =
        [".propose(", ".propose_in(", "consensus.read(", "consensus().read(", "stale_view(", ".snapshot()"];
    sources.retain(|(path, _)| path != "metaserver/src/rocks.rs");
    let found = uses_of(&sources, &ways);
    assert_none(&found, "another way around coherence/gate.rs (P4.4)");
}

#[test]
fn only_the_simulations_test_plants_bugs() {
    let mut sources = rust_files(".");
    sources.retain(|(path, _)| path != "proto/src/planted.rs" && !path.starts_with(HERE));
    assert!(!uses_of(&sources, &["planted::has("]).is_empty(), "the sources are looked at");
    let planting = uses_of(&sources, &["plant("]);
    let others: Vec<String> =
        planting.into_iter().filter(|at| !at.starts_with("tests/tests/sim.rs")).collect();
    assert_none(&others, "no program has a planted bug");
}

#[test]
fn crates_know_only_whom_they_may() {
    let may: [(&str, &[&str]); 8] = [
        ("proto", &[]),
        ("net", &["dfs-proto"]),
        ("state", &["dfs-proto"]),
        ("metaserver", &["dfs-proto", "dfs-net", "dfs-state"]),
        ("chunkserver", &["dfs-proto", "dfs-net"]),
        ("client", &["dfs-proto", "dfs-net", "dfs-state"]),
        ("mount", &["dfs-proto", "dfs-net", "dfs-client"]),
        ("admin", &["dfs-proto", "dfs-net", "dfs-client"]),
    ];
    for (name, allowed) in may {
        let text = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let (_, dependencies) = text.split_once("[dependencies]").unwrap();
        let names = dependencies.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
        let strangers: Vec<&str> =
            names.filter(|dep| dep.starts_with("dfs-") && !allowed.contains(dep)).collect();
        assert!(strangers.is_empty(), "{name} must not know {strangers:?}");
        if name != "mount" {
            assert!(!dependencies.contains("fuser"), "{name} must not know FUSE");
        }
        if name != "metaserver" {
            assert!(!dependencies.contains("rocksdb"), "{name} must not know RocksDB");
        }
        if name == "proto" || name == "state" {
            assert!(!dependencies.contains("tokio") && !dependencies.contains("tonic"), "{name} does no I/O");
        }
    }
}

#[test]
fn no_source_file_is_longer_than_a_thousand_lines() {
    let long = rust_files(".").into_iter().map(|(path, text)| (path, text.lines().count()));
    let long: Vec<String> = long
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines}"))
        .collect();
    assert_none(&long, "split these");
}

#[test]
fn every_module_says_what_it_is() {
    let silent = rust_files(".").into_iter().filter(|(_, text)| !text.trim_start().starts_with("//!"));
    // Generated into the build directory, build scripts are three lines long.
    let silent: Vec<String> =
        silent.map(|(path, _)| path).filter(|path| !path.ends_with("build.rs")).collect();
    assert_none(&silent, "these start without `//!`");
}

#[test]
fn nothing_is_unbounded_ignored_or_allowed_without_a_reason() {
    let sources = rust_files(".");
    let others: Vec<_> = sources.into_iter().filter(|(path, _)| !path.starts_with(HERE)).collect();
    assert_none(&uses_of(&others, &["unbounded_channel", "mpsc::unbounded"]), "every queue has a bound");
    assert_none(&uses_of(&others, &["#[ignore"]), "tests are not ignored");
    assert_none(&uses_of(&others, &["todo!(", "unimplemented!(", "dbg!("]), "unfinished");
}

/// A file that takes another's place: its bytes are on the disk before it has the name, and the name before anybody counts on
/// it. Killing a process shows no difference, and most filesystems hide it at a power cut.
#[test]
fn a_file_that_replaces_another_is_synced_before_and_its_directory_after() {
    const LINES_BETWEEN_MAX: usize = 5;
    let (mut found, mut seen) = (Vec::new(), 0);
    for name in ["metaserver", "chunkserver", "admin", "mount", "client"] {
        let mut sources = rust_files(&format!("{name}/src"));
        sources.retain(|(path, _)| !path.contains("tests"));
        for (path, text) in sources {
            let lines: Vec<&str> = code_lines(&text).map(|(_, line)| line).collect();
            for (at, line) in lines.iter().enumerate() {
                let is_rename = line.contains("fs::rename(") || line.contains("disk.rename(");
                if !is_rename || path == "chunkserver/src/disk/real.rs" {
                    continue; // that is the call itself, for whoever uses the disk
                }
                let before = &lines[at.saturating_sub(LINES_BETWEEN_MAX)..at];
                let after = &lines[at + 1..(at + 1 + LINES_BETWEEN_MAX).min(lines.len())];
                let has_sync = |lines: &[&str]| lines.iter().any(|line| line.contains("sync"));
                seen += 1;
                if !has_sync(before) || !has_sync(after) {
                    found.push(format!("{path}:{}", at + 1));
                }
            }
        }
    }
    assert!(seen >= 4, "{seen} were looked at");
    assert_none(&found, "a rename without a sync of the file before, or of its directory after");
}

#[test]
fn no_path_of_somebodys_machine_is_in_the_project() {
    // In pieces, so that this file does not contain them.
    let private =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/tmp/", "t/")];
    let mut found = Vec::new();
    for (path, text) in files(".") {
        for (number, line) in text.lines().enumerate() {
            for word in private.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{path}:{}: {word}", number + 1));
            }
        }
    }
    assert_none(&found, "paths of one machine");
}

/// What a stranger reads: path and text.
fn documents() -> Vec<(String, String)> {
    let mut found = files(".");
    let is_one = |path: &str| {
        let at_root = ["README.md", "ARCHITECTURE.md", "SEMANTICS.md", "bench/README.md"];
        at_root.contains(&path) || (path.starts_with("docs/") && path.ends_with(".md"))
    };
    found.retain(|(path, _)| is_one(path));
    assert!(found.len() > 4, "the documents are looked at");
    found
}

/// The paths of everything in the project.
fn paths() -> BTreeSet<String> {
    files(".").into_iter().map(|(path, _)| path).collect()
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let sources: String = rust_files(".").into_iter().map(|(_, text)| text).collect();
    for (document, text) in documents() {
        let names = documents::named_tests(&documents::quoted(&text));
        assert!(document != "SEMANTICS.md" || !names.is_empty(), "{document} names no test");
        let missing: Vec<String> =
            names.into_iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
        assert_none(&missing, &format!("{document} names tests that do not exist"));
    }
}

#[test]
fn every_file_and_function_that_the_documents_name_exists() {
    let (paths, names) = (paths(), names::Names::of(&rust_files(".")));
    let mut found = Vec::new();
    for (document, text) in documents() {
        found.extend(documents::missing_paths(&document, &text, &paths));
        found.extend(documents::dead_links(&document, &text, &paths));
        found.extend(names.missing(&document, &text));
    }
    assert_none(&found, "documents name what is not there");
}

#[test]
fn no_line_of_a_document_is_longer_than_a_screen() {
    let mut documents = documents();
    documents.retain(|(path, _)| path == "ARCHITECTURE.md" || path.starts_with("docs/"));
    let long: Vec<String> =
        documents.iter().flat_map(|(path, text)| documents::long_lines(path, text)).collect();
    assert_none(&long, &format!("break these lines at {} characters", documents::LINE_LEN_MAX));
}

#[test]
fn every_rule_that_is_cited_is_in_the_protocols() {
    let protocols = fs::read_to_string(root().join("docs/protocols.md"))
        .unwrap_or_else(|e| panic!("docs/protocols.md: {e}"));
    let rules = rules::rules_of(&protocols);
    assert!(rules.len() > 12, "docs/protocols.md has rules");
    let mut citing = files(".");
    citing.retain(|(path, _)| !path.starts_with(HERE));
    assert_none(&rules::unknown(&citing, &rules), "no such rule in docs/protocols.md");
}

#[test]
fn the_letters_of_a_crates_invariants_are_one_modules_each() {
    let mut sources = rust_files(".");
    sources.retain(|(path, _)| !path.starts_with(HERE));
    assert_none(&invariants::collisions(&sources), "give these another letter, in citations too");
    assert_none(&invariants::unknown(&sources), "no such invariant in this crate");
    let in_documents = documents()
        .into_iter()
        .flat_map(|(path, text)| invariants::unknown_in_document(&path, &text, &sources));
    assert_none(&in_documents.collect::<Vec<_>>(), "no such invariant in this file");
}

#[test]
fn every_rule_that_the_code_cites_has_the_form_of_one() {
    let mut found = Vec::new();
    for (path, text) in rust_files(".").into_iter().filter(|(path, _)| !path.starts_with(HERE)) {
        for (number, line) in text.lines().enumerate() {
            let Some((_, cited)) = line.split_once("// keeps ") else { continue };
            let rule: String = cited.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
            let digits = rule.trim_start_matches(|c: char| c.is_ascii_uppercase());
            if digits.is_empty()
                || digits.len() == rule.len()
                || !digits.starts_with(|c: char| c.is_ascii_digit())
            {
                found.push(format!("{path}:{}: {rule}", number + 1));
            }
        }
    }
    assert_none(&found, "`// keeps` names a rule such as P2.3 or K1");
}

/// The crates' directories, each with its sources in `src/`.
fn crates() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, behind) = manifest.split_once("members = [").unwrap();
    let (members, _) = behind.split_once(']').unwrap();
    members.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn files_of_a_crate_use_each_other_in_no_circle() {
    let mut uses = circles::Uses::new();
    for name in crates() {
        let src = format!("{name}/src/");
        uses.extend(circles::uses(&src, &rust_files(&src)));
    }
    assert!(uses.len() > 150, "the sources are looked at");
    assert_none(&circles::explained(&uses), "move what both need into a file of its own");
}
