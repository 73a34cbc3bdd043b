//! Every way to ask for a durable write, on every kind of handle.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dfs_tests::cluster::{Cluster, Shape};
use dfs_tests::wait;

/// A process with files open that it wrote to. Not this process: its closing them, or a child's that a test beside us starts,
/// would make them durable.
fn start_writer(directory: &Path) -> Child {
    let mut python = Command::new("python3");
    python.args(["-c", include_str!("durable.py")]).arg(directory);
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// What it says until it has written everything: the names of its files.
fn written_by(writer: &mut Child) -> Vec<String> {
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let names: Vec<String> = lines.map(|line| line.unwrap()).take_while(|line| line != "done").collect();
    assert!(names.len() >= 60, "it ended early, after {names:?}");
    names
}

/// `O_APPEND | O_DSYNC`, as write-ahead logs are opened: the write had returned, and after the death of the mount the file
/// was empty.
#[test]
fn a_write_that_was_asked_to_be_durable_survives_the_death_of_the_mount_whichever_way_it_was_asked() {
    let cluster = Cluster::start(Shape { chunkservers: 1, copies: 1, ..Shape::small() });
    cluster.add_mount("a");
    cluster.configure_mount("a", "commit_interval_ms = 60000\n");
    let directory = cluster.mount("a").join("files");
    fs::create_dir(&directory).unwrap();
    let before = wait::now();
    let mut writer = start_writer(&directory);
    let names = written_by(&mut writer);
    cluster.kill("a");
    let took = before.elapsed();
    writer.stdin.take().unwrap().write_all(b"end\n").unwrap();
    writer.wait().unwrap();
    cluster.mount("a");
    let is_whole =
        |name: &String| fs::read(directory.join(name)).unwrap() == format!("{name} ").repeat(20).into_bytes();
    let lost: Vec<&String> = names.iter().filter(|name| !is_whole(name)).collect();
    assert!(lost.is_empty(), "lost: {lost:#?}");
    // What nobody asks for is made durable after a minute: had it been, nothing above would be proved.
    if took < Duration::from_secs(50) {
        assert_eq!(fs::read(directory.join("control")).unwrap(), b"");
    }
}
