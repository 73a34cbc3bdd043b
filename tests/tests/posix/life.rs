//! The life of a mount: started, killed, mounted again, ended with servers alive and dead.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dfs_tests::cluster::{Cluster, Shape, is_mounted};
use dfs_tests::shell::{sh, try_sh};
use dfs_tests::{daemon, sys, tree, wait};

use crate::errno;

/// What `umount`, SIGTERM and Ctrl-C may take with every server dead.
const END_DEADLINE: Duration = Duration::from_secs(10);

fn start() -> Cluster {
    Cluster::start(Shape { chunkservers: 1, copies: 1, ..Shape::small() })
}

#[test]
fn a_mountpoint_whose_daemon_was_killed_is_cleaned_up_and_mounted_again() {
    let cluster = start();
    let dir = cluster.mount("a");
    fs::write(dir.join("file"), "kept").unwrap();
    let open = File::open(dir.join("file")).unwrap();
    open.sync_all().unwrap();
    cluster.kill("a");
    assert_eq!(errno(fs::metadata(dir.join("file"))), libc::ENOTCONN);
    // It answers others before it has its own first answer, without which it does not end well.
    cluster.mount("a");
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"kept");
    drop(open);
    cluster.unmount("a");
}

#[test]
fn a_mount_that_is_killed_before_it_answered_ends_and_its_mountpoint_is_mounted_again() {
    let cluster = start();
    cluster.add_mount("a");
    let dir = cluster.mountpoint("a");
    for _ in 0..5 {
        cluster.start_daemon("a");
        let began = wait::now();
        while !is_mounted(&dir) {
            assert!(began.elapsed() < Duration::from_secs(20), "it is not mounted: {}", cluster.log("a"));
        }
        // The mount asks itself whether it answers: looking without a pause, we stop the server before that has come.
        cluster.pause("meta1");
        wait::until("the mount to wait for itself, or for nothing", Duration::from_secs(20), || {
            daemon::thread_states(cluster.pid("a")?).iter().all(|state| *state != 'R').then_some(())
        });
        cluster.kill("a");
        cluster.resume("meta1");
    }
    cluster.mount("a");
    cluster.unmount("a");
}

#[test]
fn the_end_by_signal_writes_what_is_not_yet_written() {
    let cluster = start();
    let dir = cluster.mount("a");
    for (name, signal) in [("terminated", libc::SIGTERM), ("interrupted", libc::SIGINT)] {
        let made = tree::bytes(signal as u64, 300_000);
        let mut open = File::create(dir.join(name)).unwrap();
        open.write_all(&made).unwrap();
        let pid = cluster.pid("a").unwrap();
        sh(Path::new("/"), &format!("kill -{signal} {pid}"));
        let status = cluster.wait_exit("a", END_DEADLINE);
        assert!(status.success(), "{status}: {}", cluster.log("a"));
        assert!(!is_mounted(&dir));
        drop(open);
        cluster.mount("a");
        assert!(fs::read(dir.join(name)).unwrap() == made, "{name}");
    }
}

#[test]
fn umount_and_fusermount_end_the_daemon() {
    let cluster = start();
    let dir = cluster.mount("a");
    for command in ["umount", "fusermount3 -u"] {
        fs::write(dir.join("file"), command).unwrap();
        sh(Path::new("/"), &format!("{command} {}", dir.display()));
        let status = cluster.wait_exit("a", END_DEADLINE);
        assert!(status.success(), "after {command}: {status}");
        cluster.mount("a");
        assert_eq!(fs::read(dir.join("file")).unwrap(), command.as_bytes());
    }
}

#[test]
fn in_the_background_the_command_returns_when_the_mount_works() {
    let cluster = start();
    cluster.add_mount("b");
    let dir = cluster.mountpoint("b");
    let config = cluster.config_path("b");
    let program = daemon::binary("dfs-mount");
    let log = File::create(cluster.dir().join("logs/b")).unwrap();
    let status = Command::new(&program)
        .arg("--config")
        .arg(&config)
        .arg(&dir)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .status();
    assert!(status.unwrap().success(), "{}", fs::read_to_string(cluster.dir().join("logs/b")).unwrap());
    assert!(is_mounted(&dir), "it is mounted when the command returned");
    fs::write(dir.join("file"), "x").unwrap();
    sh(Path::new("/"), &format!("umount {}", dir.display()));
    wait::until("the daemon in the background to end", END_DEADLINE, || {
        let found = try_sh(Path::new("/"), &format!("pgrep -f -- {}", config.display()));
        // The shell of the search names the path too.
        found.stdout.lines().all(is_shell).then_some(())
    });
}

fn is_shell(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).map_or(true, |name| !name.starts_with("dfs"))
}

#[test]
fn the_mount_ends_within_ten_seconds_with_every_server_dead_and_names_what_is_lost() {
    // The deadlines of requests are the usual 30 s: the end must not wait for them.
    let cluster = start();
    let dir = cluster.mount("a");
    let mut open = File::create(dir.join("unwritten")).unwrap();
    open.write_all(&[7; 100_000]).unwrap();
    cluster.kill("chunk1");
    cluster.kill("meta1");
    cluster.expect_error("unwritten");
    cluster.expect_error("could not be written");
    let pid = cluster.pid("a").unwrap();
    sh(Path::new("/"), &format!("kill -TERM {pid}"));
    cluster.wait_exit("a", END_DEADLINE);
    assert!(!is_mounted(&dir));
    let log = cluster.log("a");
    assert!(log.contains("unwritten") || log.contains("inode"), "it names what could not be written: {log}");
    drop(open);
}

#[test]
fn umount_ends_within_ten_seconds_with_every_server_stopped() {
    let cluster = start();
    let dir = cluster.mount("a");
    tree::write_durably(&dir.join("file"), b"x").unwrap();
    cluster.pause("chunk1");
    cluster.pause("meta1");
    let before = wait::now();
    sh(Path::new("/"), &format!("umount {}", dir.display()));
    cluster.wait_exit("a", END_DEADLINE);
    assert!(before.elapsed() < END_DEADLINE, "it took {:?}", before.elapsed());
    assert!(!is_mounted(&dir));
}

#[test]
fn a_waiting_program_gets_an_error_at_the_deadline() {
    let cluster = Cluster::start(Shape { chunkservers: 1, copies: 1, deadline_ms: 3000, ..Shape::small() });
    let dir = cluster.mount("a");
    fs::write(dir.join("file"), "x").unwrap();
    for stopped in ["meta1", "chunk1"] {
        cluster.pause(stopped);
        sys::drop_caches();
        let before = wait::now();
        let read = fs::read(dir.join("file"));
        // Retries within one call of the library may each take their own deadline once.
        assert!(
            before.elapsed() < Duration::from_secs(8),
            "{stopped} stopped: it took {:?}",
            before.elapsed()
        );
        if let Err(error) = read {
            assert!(![ErrorKind::NotFound, ErrorKind::PermissionDenied].contains(&error.kind()), "{error}");
        } else {
            assert_eq!(stopped, "chunk1", "only the bytes of this file may have been cached");
        }
        cluster.resume(stopped);
        wait::until("the file to be read again", Duration::from_secs(20), || fs::read(dir.join("file")).ok());
    }
}

#[test]
fn a_removed_directory_that_somebody_uses_stays_until_nobody_does() {
    let cluster = start();
    let dir = cluster.mount("a").join("volume");
    for name in ["", "stood_in", "open", "replaced", "new"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    fs::write(dir.join("file"), "").unwrap();
    let inodes = || sys::statfs(&dir).map(|space| space.f_files - space.f_ffree).unwrap();
    let before = inodes();
    let handles = ["open", "replaced"].map(|name| File::open(dir.join(name)).unwrap());
    let mut standing = Command::new("sh")
        .args(["-c", "read go && stat . && names=$(ls -A) && test -z \"$names\" && ! touch file"])
        .current_dir(dir.join("stood_in"))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    fs::remove_dir(dir.join("stood_in")).unwrap();
    fs::remove_dir(dir.join("open")).unwrap();
    fs::rename(dir.join("new"), dir.join("replaced")).unwrap();
    // What the mount lets go of, it lets go of in this order: with the file's, theirs would be gone.
    fs::remove_file(dir.join("file")).unwrap();
    wait::until("the file's inode to go", Duration::from_secs(10), || (inodes() < before).then_some(()));
    for handle in &handles {
        assert!(handle.metadata().unwrap().is_dir());
    }
    standing.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert!(standing.wait().unwrap().success());
    drop(handles);
    wait::until("the directories to go", Duration::from_secs(10), || (inodes() == before - 4).then_some(()));
    cluster.unmount("a");
}
