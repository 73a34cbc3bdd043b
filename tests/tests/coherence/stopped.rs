//! A mount that has a file open, of which no leader was told, is stopped, and the other mount removes the file.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use dfs_tests::cluster::{Cluster, Shape};
use dfs_tests::{tree, wait};

const LEN: usize = 3_000_000;

/// What the leader has answered.
fn reads(cluster: &Cluster) -> u64 {
    let page = cluster.http_get(&cluster.leader(), "/metrics").unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix("dfs_metaserver_reads_total "));
    value.unwrap_or_else(|| panic!("{page}")).trim().parse().unwrap()
}

/// The file in this directory, opened without a question. Nothing of it was read.
fn open_untold(cluster: &Cluster, directory: &Path) -> File {
    let directory = File::open(directory).unwrap();
    // A path without names of directories, which are asked for.
    let path = format!("/proc/self/fd/{}/file", directory.as_raw_fd());
    wait::until("an open that asks nobody", Duration::from_secs(10), || {
        let before = reads(cluster);
        let file = File::open(&path).unwrap();
        (reads(cluster) == before).then_some(file)
    })
}

/// All bytes.
fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; LEN];
    file.read_exact_at(&mut bytes, 0).map(|()| bytes)
}

/// Mounts `a` and `b`; what `b` has open of a file with these bytes, and how many inodes there were before.
fn opened(cluster: &Cluster, bytes: &[u8]) -> (File, u64) {
    let (a, b) = (cluster.mount("a").join("d"), cluster.mount("b").join("d"));
    fs::create_dir(&a).unwrap();
    let before = cluster.status().unwrap().inodes;
    tree::write_durably(&a.join("file"), bytes).unwrap();
    (open_untold(cluster, &b), before)
}

#[test]
fn a_stopped_mount_that_goes_on_reads_a_file_that_was_removed_meanwhile_and_then_its_space_comes_back() {
    let cluster = Cluster::start(Shape { copies: 1, chunkservers: 1, ..Shape::default() });
    let bytes = tree::bytes(9, LEN);
    let (file, before) = opened(&cluster, &bytes);
    cluster.pause("b");
    let began = wait::now();
    fs::remove_file(cluster.mountpoint("a").join("d/file")).unwrap();
    assert!(began.elapsed() < Duration::from_secs(8), "held up for {:?}", began.elapsed());
    // It may have been opened: nobody knows.
    assert_eq!(cluster.status().unwrap().inodes, before + 1);
    cluster.resume("b");
    assert!(read_all(&file).unwrap() == bytes);
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert!(fs::metadata(cluster.mountpoint("b").join("d/file")).is_err());
    drop(file);
    wait::until("the space to come back", Duration::from_secs(20), || {
        (cluster.status().unwrap().inodes == before).then_some(())
    });
}

/// Not even the next leader knows of the open before the mount is back.
#[test]
fn a_stopped_mount_reads_a_file_that_was_removed_under_the_next_leader() {
    let cluster = Cluster::start(Shape { copies: 1, chunkservers: 1, ..Shape::default() });
    let bytes = tree::bytes(10, LEN);
    let (file, before) = opened(&cluster, &bytes);
    cluster.pause("b");
    let leader = cluster.leader();
    cluster.kill(&leader);
    fs::remove_file(cluster.mountpoint("a").join("d/file")).unwrap();
    cluster.resume("b"); // before a process is started: its exec would close the file, and wait for the mount
    cluster.start_daemon(&leader);
    assert!(read_all(&file).unwrap() == bytes);
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);
    wait::until("the space to come back", Duration::from_secs(30), || {
        (cluster.status().unwrap().inodes == before).then_some(())
    });
}

/// Its session has ended, and the file with it.
#[test]
fn a_mount_that_was_stopped_for_too_long_gets_an_error_for_a_file_that_is_gone_and_goes_on() {
    let cluster = Cluster::start(Shape {
        metaservers: 1,
        chunkservers: 1,
        copies: 1,
        metaserver_extra: "session_expiry_ms = 6000\n".to_owned(),
        ..Shape::default()
    });
    let bytes = tree::bytes(11, LEN);
    let (file, before) = opened(&cluster, &bytes);
    let sessions = cluster.status().unwrap().sessions;
    cluster.pause("b");
    fs::remove_file(cluster.mountpoint("a").join("d/file")).unwrap();
    cluster.wait_status("the session to expire", Duration::from_secs(30), |s| s.sessions < sessions);
    wait::until("the space to come back", Duration::from_secs(10), || {
        (cluster.status().unwrap().inodes == before).then_some(())
    });
    cluster.resume("b");
    let began = wait::now();
    let told = read_all(&file).map(|read| assert!(read == bytes)).map_err(|error| error.raw_os_error());
    assert!(matches!(told, Ok(()) | Err(Some(libc::ESTALE | libc::EIO))), "{told:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    drop(file);
    let there = cluster.mountpoint("b").join("after");
    wait::until("the mount to work again", Duration::from_secs(30), || fs::write(&there, "after").ok());
    assert_eq!(fs::read(cluster.mountpoint("a").join("after")).unwrap(), b"after");
}
