//! Two mounts work in one directory, one maildir, one working tree.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dfs_tests::cluster::{Cluster, Shape};
use dfs_tests::figures::Figures;
use dfs_tests::shell::sh;
use dfs_tests::{tree, wait};

use crate::{TERM, milliseconds, turn};

const LONG: Duration = Duration::from_secs(60);
/// For those who read to catch up with those who write.
const PATIENCE: Duration = Duration::from_secs(120);

/// Operations that returned, and the longest.
#[derive(Clone, Copy, Default)]
struct Done {
    count: u64,
    longest: Duration,
}

impl Done {
    fn operation(&mut self, act: impl FnOnce()) {
        let before = wait::now();
        act();
        self.count += 1;
        self.longest = self.longest.max(before.elapsed());
    }

    fn and(self, other: Done) -> Done {
        Done { count: self.count + other.count, longest: self.longest.max(other.longest) }
    }

    fn a_second(self, length: Duration) -> f64 {
        self.count as f64 / length.as_secs_f64()
    }
}

/// Makes, renames and unlinks files.
fn change_names(dir: &Path, who: &str, length: Duration) -> Done {
    let (mut done, end) = (Done::default(), wait::now() + length);
    for number in 0.. {
        if wait::now() >= end {
            break;
        }
        let (made, renamed) =
            (dir.join(format!("{who}{number}")), dir.join(format!("{who}{number}-renamed")));
        done.operation(|| drop(fs::File::create(&made).unwrap()));
        done.operation(|| fs::rename(&made, &renamed).unwrap());
        done.operation(|| fs::remove_file(&renamed).unwrap());
    }
    done
}

#[test]
fn two_mounts_that_change_one_directory_neither_starve_nor_crawl() {
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    let [a, b] = ["a", "b"].map(|mount| cluster.mount(mount).join("d"));
    fs::create_dir(&a).unwrap();
    let alone = change_names(&a, "alone", LONG / 3);
    let [of_a, of_b] = std::thread::scope(|scope| {
        let both = [("a", &a), ("b", &b)].map(|(who, dir)| scope.spawn(move || change_names(dir, who, LONG)));
        both.map(|one| one.join().unwrap())
    });
    assert_eq!(fs::read_dir(&a).unwrap().count(), 0);
    let both = of_a.and(of_b);
    let mut figures =
        Figures::new("one_directory", "Two mounts create, rename and unlink in one directory for 60 s.");
    figures.shown("one mount alone", alone.a_second(LONG / 3), "a second");
    figures.at_least("both", both.a_second(LONG), alone.a_second(LONG / 3) / 2.0, "a second");
    figures.shown(
        "the one that did less",
        of_a.count.min(of_b.count) as f64 / LONG.as_secs_f64(),
        "a second",
    );
    figures.at_most("the longest operation", milliseconds(both.longest), milliseconds(TERM / 10), "ms");
    figures.end();
}

/// Puts mails into `new`, as delivery agents do: written in `tmp`, synced, renamed.
fn deliver(maildir: &Path, who: &str, is_over: &AtomicBool) -> u64 {
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        let name = format!("{count}.{who}");
        let written = maildir.join("tmp").join(&name);
        tree::write_durably(&written, &mail(&name)).unwrap();
        fs::rename(&written, maildir.join("new").join(&name)).unwrap();
        count += 1;
    }
    count
}

fn mail(name: &str) -> Vec<u8> {
    format!("Subject: {name}\n").repeat(20).into_bytes()
}

/// Takes mails out of `new`, reads them, and moves them to `cur`. Returns those whose content was wrong.
fn fetch(maildir: &Path, is_over: &AtomicBool) -> Vec<String> {
    let mut wrong = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        for entry in fs::read_dir(maildir.join("new")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let (new, current) =
                (maildir.join("new").join(&name), maildir.join("cur").join(format!("{name}:2,S")));
            if fs::rename(new, &current).is_ok() && fs::read(&current).unwrap() != mail(&name) {
                wrong.push(name); // another reader may have taken it, else
            }
        }
    }
    wrong
}

#[test]
fn a_maildir_of_two_mounts_loses_no_mail() {
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    let [a, b] = ["a", "b"].map(|mount| cluster.mount(mount).join("maildir"));
    for part in ["tmp", "new", "cur"] {
        fs::create_dir_all(a.join(part)).unwrap();
    }
    let (delivered_all, fetched_all) = (AtomicBool::new(false), AtomicBool::new(false));
    let (delivered, wrong) = std::thread::scope(|scope| {
        let deliver = |dir: &PathBuf, who: &'static str| {
            let dir = dir.clone();
            let is_over = &delivered_all;
            scope.spawn(move || (who, deliver(&dir, who, is_over)))
        };
        let agents = [deliver(&a, "a1"), deliver(&a, "a2"), deliver(&b, "b1"), deliver(&b, "b2")];
        let readers = [&a, &b].map(|dir| scope.spawn(|| fetch(dir, &fetched_all)));
        wait::pause(LONG);
        delivered_all.store(true, Ordering::Relaxed);
        let delivered = agents.map(|agent| agent.join().unwrap());
        let is_empty = || (fs::read_dir(a.join("new")).unwrap().count() == 0).then_some(());
        let caught_up = wait::at_most(PATIENCE, is_empty);
        fetched_all.store(true, Ordering::Relaxed); // in any case, or the readers would never end
        assert!(caught_up.is_some(), "mails that nobody has read after {PATIENCE:?}");
        (delivered, readers.map(|reader| reader.join().unwrap()).concat())
    });
    let all: BTreeSet<String> = delivered
        .iter()
        .flat_map(|(who, count)| (0..*count).map(move |number| format!("{number}.{who}:2,S")))
        .collect();
    let mut figures =
        Figures::new("maildir", "Two mounts deliver into one maildir and read from it for 60 s.");
    figures.shown("mails", all.len() as f64 / LONG.as_secs_f64(), "a second");
    for (mount, dir) in [("one", &a), ("the other", &b)] {
        let names = fs::read_dir(dir.join("cur"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let there: BTreeSet<String> = names.collect();
        figures.is(
            &format!("lost or too many, as {mount} mount shows"),
            all.symmetric_difference(&there).count() as u64,
            0,
        );
    }
    figures.is("with other bytes", wrong.len() as u64, 0);
    figures.end();
}

const MAKEFILE: &str = r"
sources := $(wildcard src/*.txt)
all: $(patsubst src/%.txt,out/%.up,$(sources))
	cat $^ > whole
out/%.up: src/%.txt
	@mkdir -p out
	tr a-z A-Z < $< > $@
";

/// One changes sources and commits them, the other builds what is there; the two know of each other by their turns alone.
#[test]
fn what_git_commits_on_one_mount_make_builds_on_the_other() {
    const ROUNDS: usize = 50;
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    let [a, b] = ["a", "b"].map(|mount| cluster.mount(mount).join("tree"));
    fs::create_dir_all(a.join("src")).unwrap();
    fs::write(a.join("Makefile"), MAKEFILE).unwrap();
    (0..40).for_each(|number| {
        fs::write(a.join(format!("src/{number:02}.txt")), format!("source {number}\n")).unwrap()
    });
    sh(
        &a,
        "git init -q . && git config user.name t && git config user.email t@example.org && echo out > .gitignore \
            && echo whole >> .gitignore && git add -A && git commit -qm first",
    );
    let mut wrong = 0;
    for round in 0..ROUNDS {
        let script = format!(
            "echo 'changed in {round}' >> src/{:02}.txt && git commit -qam 'round {round}' && git checkout -q HEAD~1 \
             && git checkout -q - && git rev-parse HEAD",
            round % 40
        );
        let head = sh(&a, &script);
        sh(&b, "make -s");
        let (built, meant) = (sh(&b, "cat whole"), sh(&a, "cat src/*.txt | tr a-z A-Z"));
        wrong += u64::from(built != meant || sh(&b, "git rev-parse HEAD && git status --porcelain") != head);
    }
    sh(&b, "git fsck --strict");
    let mut figures =
        Figures::new("working_tree", "git on one mount, make on the other, of one tree, 50 rounds.");
    figures.is("rounds in which the build or the state of the tree was wrong", wrong, 0);
    figures.end();
}
