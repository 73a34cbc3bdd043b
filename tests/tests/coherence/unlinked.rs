//! A file that one mount unlinks, and that the other one has open.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use dfs_tests::cluster::{Cluster, Shape};
use dfs_tests::wait;

use super::scenario;

fn bytes_of(file: &File) -> Vec<u8> {
    let mut seen = vec![0; 10_000];
    let len = file.read_at(&mut seen, 0).unwrap();
    seen.truncate(len);
    seen
}

#[test]
fn what_a_mount_wrote_and_closed_before_it_unlinked_the_file_another_one_reads_that_has_it_open() {
    let fs = scenario("closed_and_unlinked");
    let (ours, theirs) = (fs.dir("a").join("file"), fs.dir("b").join("file"));
    for round in 0..20_u8 {
        fs::write(&ours, "old").unwrap();
        let open = File::open(&theirs).unwrap();
        fs::write(&ours, [round; 5000]).unwrap();
        fs::remove_file(&ours).unwrap();
        assert!(bytes_of(&open) == [round; 5000], "round {round}");
    }
}

#[test]
fn what_a_mount_writes_to_a_file_that_it_has_unlinked_another_one_reads_that_has_it_open() {
    let fs = scenario("unlinked_and_written");
    let (ours, theirs) = (fs.dir("a").join("file"), fs.dir("b").join("file"));
    for round in 0..20_u8 {
        fs::write(&ours, "old").unwrap();
        let (open, writing) =
            (File::open(&theirs).unwrap(), OpenOptions::new().write(true).open(&ours).unwrap());
        writing.write_all_at(&[1; 100], 0).unwrap();
        fs::remove_file(&ours).unwrap();
        writing.write_all_at(&[round; 5000], 0).unwrap();
        if round % 2 == 0 {
            assert!(bytes_of(&open) == [round; 5000], "round {round}: before the close");
        }
        writing.write_all_at(&[7; 10], 5000).unwrap();
        drop(writing);
        assert!(bytes_of(&open) == [&[round; 5000][..], &[7; 10]].concat(), "round {round}: after the close");
    }
}

/// The second look of a mount asks nobody: the leader hears of the open when the name is taken.
#[test]
fn a_file_that_was_opened_without_a_question_stays_while_it_is_open_and_its_space_comes_back() {
    let cluster = Cluster::start(Shape::default()); // of its own: others make inodes, too
    let inodes = || cluster.status().expect("the leader answers").inodes;
    let [a, b] = ["a", "b"].map(|mount| cluster.mount(mount));
    let (ours, theirs) = (a.join("file"), b.join("file"));
    let before = inodes();
    let mut opened = Vec::new();
    for round in 0..40_u8 {
        fs::write(&ours, [round; 5000]).unwrap();
        for _ in 0..2 {
            assert!(fs::read(&theirs).unwrap() == [round; 5000]);
        }
        opened.push(File::open(&theirs).unwrap());
        match round % 2 {
            0 => fs::remove_file(&ours).unwrap(),
            _ => {
                fs::write(a.join("new"), "new").unwrap();
                fs::rename(a.join("new"), &ours).unwrap();
                fs::remove_file(&ours).unwrap();
            }
        }
    }
    for (round, file) in opened.iter().enumerate() {
        assert!(bytes_of(file) == [round as u8; 5000], "round {round}");
    }
    drop(opened);
    wait::until("the space to come back", Duration::from_secs(10), || (inodes() == before).then_some(()));
}
