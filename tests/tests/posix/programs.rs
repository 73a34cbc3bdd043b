//! Programs that nobody changed for us.

use std::fs;

use dfs_tests::shell::sh;
use dfs_tests::{sys, tree};

use crate::scenario;

/// No configuration of the machine's user counts.
const GIT: &str = "export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
    export GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@example.org GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@example.org\n";

#[test]
fn git_clones_checks_commits_packs_and_pushes() {
    let fs = scenario("git");
    let outside = tempfile::tempdir().unwrap();
    tree::make(&outside.path().join("origin"), 21, 400).unwrap();
    sh(
        outside.path(),
        &format!(
            "{GIT} cd origin; git init -q -b main; git add .; git commit -qm one
             for n in 1 2 3 4; do echo $n >> d0/f0; git mv d0/f1$n moved$n; git commit -qam change$n; done
             git init -q --bare ../bare; git push -q ../bare main"
        ),
    );
    sh(
        &fs.dir("a"),
        &format!(
            "{GIT} git clone -q --no-local -b main {0}/bare work; cd work
             git fsck --full; [ -z \"$(git status --porcelain)\" ]; [ $(git rev-list --count main) = 5 ]
             diff -r --exclude .git --no-dereference . {0}/origin
             echo new > new; git add new; git commit -qm new; git gc -q; git fsck --full; git push -q origin main
             git checkout -q main~3; git checkout -q main; git branch side; git rebase -q main side
             cd ..; git clone -q work again; git -C again fsck --full; [ \"$(cat again/new)\" = new ]",
            outside.path().display()
        ),
    );
    sh(outside.path(), &format!("{GIT} [ $(git -C bare rev-list --count main) = 6 ]"));
}

#[test]
fn sqlite_keeps_the_transactions_of_several_processes() {
    for journal in ["delete", "wal"] {
        let fs = scenario(&format!("sqlite_{journal}"));
        sh(
            &fs.dir("a"),
            &format!(
                "sqlite3 db 'pragma journal_mode={journal}; create table t(worker, round, text); create index i on t(worker)'
                 for worker in 1 2 3 4; do
                    (for round in $(seq 40); do
                        sqlite3 -cmd '.timeout 60000' db \\
                            \"begin immediate; insert into t values($worker, $round, hex(randomblob(500))); commit\"
                     done) &
                 done; wait
                 [ $(sqlite3 db 'select count(*) from t') = 160 ]
                 [ $(sqlite3 db 'select count(distinct worker * 1000 + round) from t') = 160 ]
                 [ $(sqlite3 db 'pragma integrity_check') = ok ]"
            ),
        );
        sys::drop_caches();
        sh(
            &fs.dir("a"),
            "[ $(sqlite3 db 'pragma integrity_check') = ok ]; sqlite3 db 'delete from t; vacuum'",
        );
    }
}

#[test]
fn a_python_environment_is_made_and_runs() {
    let fs = scenario("venv");
    sh(
        &fs.dir("a"),
        "unset PYTHONDONTWRITEBYTECODE; python3 -m venv env
         env/bin/python -c 'import sys, pip; assert sys.prefix.endswith(\"/venv/env\"), sys.prefix'
         printf 'def f():\\n    return 7\\n' > env/mod.py; cd env; bin/python -c 'import mod; print(mod.f())' | grep -x 7
         ls __pycache__ | grep -q mod; rm -r ../env",
    );
}

#[test]
fn cargo_builds_and_rebuilds_a_crate() {
    let fs = scenario("cargo");
    let clean = "unset CARGO_TARGET_DIR RUSTFLAGS CARGO_BUILD_TARGET_DIR; export CARGO_HOME=$PWD/home";
    fs::create_dir_all(fs.path("tiny/src")).unwrap();
    fs::write(
        fs.path("tiny/Cargo.toml"),
        "[package]\nname = \"tiny\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n",
    )
    .unwrap();
    fs::write(
        fs.path("tiny/src/lib.rs"),
        "pub fn seven() -> u32 { 7 }\n#[test] fn t() { assert_eq!(seven(), 7); }\n",
    )
    .unwrap();
    fs::write(fs.path("tiny/src/main.rs"), "fn main() { println!(\"{}\", tiny::seven()); }\n").unwrap();
    sh(
        &fs.dir("a"),
        &format!(
            "{clean}; cd tiny; [ $(cargo run -q --offline) = 7 ]; cargo test -q --offline > /dev/null
             sed -i 's/{{ 7 }}/{{ 8 }}/' src/lib.rs; [ $(cargo run -q --offline) = 8 ]
             cargo build --offline 2>&1 | grep -q Finished; cp target/debug/tiny copy; [ $(./copy) = 8 ]; cargo clean -q --offline"
        ),
    );
}

#[test]
fn a_file_edited_in_place_and_by_replacement_is_right() {
    let fs = scenario("edited");
    sh(
        &fs.dir("a"),
        "seq 5000 > file; sed -i 's/^42$/forty-two/' file; [ $(sed -n 42p file) = forty-two ]
         printf 'x' | dd of=file conv=notrunc bs=1 seek=10 status=none; [ $(wc -l < file) = 5000 ]
         sort -n file > sorted; sort -R file | sort -n | cmp - sorted; split -l 100 file part.; cat part.* | cmp - file
         gzip -k file; gunzip -c file.gz | cmp - file; tail -n 1 file | grep -x 5000; tee -a file < sorted > /dev/null
         [ $(wc -l < file) = 10000 ]",
    );
}

#[test]
fn tail_follows_a_growing_file() {
    let fs = scenario("tail");
    sh(
        &fs.dir("a"),
        "touch log; timeout 60 tail -f -n +1 log > ../tail.out & tail=$!
         for n in $(seq 200); do echo $n >> log; done
         timeout 50 sh -c 'until [ \"$(tail -n 1 ../tail.out)\" = 200 ]; do :; done'; kill $tail
         seq 200 | cmp - ../tail.out; rm ../tail.out",
    );
}
