//! What is wrong gets one clear line that says what and where, and a non-zero exit; nothing crashes, nothing is lost.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dfs_tests::cluster::{Cluster, Shape};
use dfs_tests::shared::Shared;
use dfs_tests::shell::Ran;
use dfs_tests::{daemon, tree, wait};

/// A daemon that cannot start says so at once.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(20);

static SHARED: Shared = Shared::new(Shape::small, &["a"]);

/// Nothing started, but with configuration files and an address of its own.
fn prepared() -> Cluster {
    Cluster::prepare(Shape::small())
}

/// Runs a program that must refuse to start, and gives what it said.
fn refused(program: &str, arguments: &[&str], parts: &[&str]) -> Ran {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", &REFUSAL_DEADLINE.as_secs().to_string()]);
    check(command, program, arguments, parts)
}

/// The same as user nobody.
fn refused_as_nobody(program: &str, arguments: &[&str], parts: &[&str]) -> Ran {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.args(["timeout", "-k", "1", &REFUSAL_DEADLINE.as_secs().to_string()]);
    check(command, program, arguments, parts)
}

#[track_caller]
fn check(mut command: Command, program: &str, arguments: &[&str], parts: &[&str]) -> Ran {
    command.arg(daemon::binary(program)).args(arguments).stdin(Stdio::null()).current_dir("/");
    let ran = Ran::from(command.output().unwrap());
    assert!(
        !ran.ok && ran.code != Some(124) && ran.code != Some(137),
        "{program} {arguments:?} did not refuse: {ran:?}"
    );
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    let start = format!("{program}: ");
    let said: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with(&start)).collect();
    assert_eq!(said.len(), 1, "one line that says why: {ran:?}");
    for part in parts {
        assert!(said[0].contains(part), "`{part}` is not in `{}`", said[0]);
    }
    ran
}

fn config(path: &Path) -> [&str; 2] {
    ["--config", path.to_str().unwrap()]
}

/// Changes a daemon's configuration file.
fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn an_unknown_key_is_refused_with_file_line_and_the_nearest_key() {
    let cluster = prepared();
    cluster.add_mount("a");
    let wrong = [
        ("dfs-metaserver", "meta1", "copies = 2", "copeis = 2", "`copies`"),
        ("dfs-chunkserver", "chunk1", "frames_listen", "frame_listen", "`frames_listen`"),
        ("dfs-mount", "a", "data_timeout_ms", "data_timeout_mss", "`data_timeout_ms`"),
    ];
    for (program, name, right, typed, nearest) in wrong {
        let path = cluster.config_path(name);
        edit(&path, right, typed);
        let mountpoint = cluster.mountpoint("a");
        let mut arguments = config(&path).to_vec();
        if program == "dfs-mount" {
            arguments.push(mountpoint.to_str().unwrap());
        }
        refused(program, &arguments, &[path.to_str().unwrap(), "line ", nearest]);
    }
    let path = cluster.config_path("meta1");
    fs::write(&path, "[metaserver\n").unwrap();
    refused("dfs-metaserver", &config(&path), &[path.to_str().unwrap(), "line 1"]);
    refused("dfs-metaserver", &["--config", "/nowhere/dfs.toml"], &["/nowhere/dfs.toml"]);
}

#[test]
fn a_value_out_of_range_is_refused_with_its_key() {
    let cluster = prepared();
    edit(&cluster.config_path("meta1"), "copies = 2", "copies = 200");
    refused("dfs-metaserver", &config(&cluster.config_path("meta1")), &["copies", "200"]);
    let listen = cluster.chunk_addresses(1)[0].clone();
    edit(&cluster.config_path("chunk1"), &listen, "no-port-here");
    refused("dfs-chunkserver", &config(&cluster.config_path("chunk1")), &["listen", "no-port-here"]);
    edit(&cluster.config_path("meta1"), "copies = 200", "copies = 2\nsnapshot_every_logs = 0");
    refused("dfs-metaserver", &config(&cluster.config_path("meta1")), &["snapshot_every_logs"]);
}

#[test]
fn a_disk_without_room_is_refused_with_its_directory_before_it_is_full() {
    let cluster = prepared();
    edit(&cluster.config_path("meta1"), "copies = 2", "copies = 2\ndisk_reserve_mib = 1000000000000");
    let data = cluster.data_dir("meta1");
    refused(
        "dfs-metaserver",
        &config(&cluster.config_path("meta1")),
        &[data.to_str().unwrap(), "MiB free", "disk_reserve_mib"],
    );
}

#[test]
fn a_used_port_is_named() {
    let cluster = prepared();
    let [grpc, frames, http] = cluster.chunk_addresses(1);
    for address in [&grpc, &frames, &http] {
        let _taken = TcpListener::bind(address).unwrap();
        refused("dfs-chunkserver", &config(&cluster.config_path("chunk1")), &[address]);
    }
    for address in [cluster.meta_address(1), cluster.http_address("meta1")] {
        let _taken = TcpListener::bind(&address).unwrap();
        refused("dfs-metaserver", &config(&cluster.config_path("meta1")), &[&address]);
    }
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let cluster = prepared();
    for (program, name) in [("dfs-metaserver", "meta1"), ("dfs-chunkserver", "chunk1")] {
        let (path, data) = (cluster.config_path(name), cluster.data_dir(name));
        refused_as_nobody(program, &config(&path), &[data.to_str().unwrap()]);
        fs::write(&data, "a file").unwrap();
        refused(program, &config(&path), &[data.to_str().unwrap()]);
        assert_eq!(fs::read(&data).unwrap(), b"a file");
        fs::remove_file(&data).unwrap();
        fs::create_dir(&data).unwrap();
        fs::write(data.join("thesis.txt"), "mine").unwrap();
        refused(program, &config(&path), &[data.to_str().unwrap()]);
        let left: Vec<_> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["thesis.txt"], "a directory that is not ours is left alone");
    }
}

#[test]
fn a_newer_or_foreign_data_directory_is_refused_and_left_alone() {
    let ours = Cluster::start(Shape { chunkservers: 1, copies: 1, ..Shape::small() });
    let other = Cluster::start(Shape { chunkservers: 1, copies: 1, ..Shape::small() });
    for cluster in [&ours, &other] {
        cluster.terminate("chunk1");
    }
    // A chunkserver with the directory of another cluster.
    let (path, data) = (ours.config_path("chunk1"), ours.data_dir("chunk1"));
    edit(&path, data.to_str().unwrap(), other.data_dir("chunk1").to_str().unwrap());
    refused("dfs-chunkserver", &config(&path), &["cluster"]);
    // Metaservers with the directory of another kind, of another member, of a later release.
    for cluster in [&ours, &other] {
        cluster.terminate("meta1");
    }
    let (path, data) = (ours.config_path("meta1"), ours.data_dir("meta1"));
    edit(&path, "id = 1\n", "id = 2\n");
    edit(&path, "{ id = 1,", "{ id = 2,");
    refused("dfs-metaserver", &config(&path), &[data.to_str().unwrap(), "metaserver 1", "metaserver 2"]);
    edit(&path, "id = 2\n", "id = 1\n");
    edit(&path, "{ id = 2,", "{ id = 1,");
    for (program, name) in [("dfs-metaserver", "meta1"), ("dfs-chunkserver", "chunk1")] {
        let (path, data) = (other.config_path(name), other.data_dir(name));
        let stamp = stamp_file(&data);
        let text = fs::read_to_string(&stamp).unwrap();
        let format = text.lines().find(|line| line.starts_with("format = ")).unwrap();
        fs::write(&stamp, text.replace(format, "format = 99")).unwrap();
        refused(program, &config(&path), &[data.to_str().unwrap(), "format"]);
        fs::write(&stamp, "rubbish").unwrap();
        refused(program, &config(&path), &[data.to_str().unwrap()]);
        fs::write(&stamp, text).unwrap();
    }
    // Put right again, all of it is still there.
    other.start_daemon("meta1");
    other.start_daemon("chunk1");
    other.wait_whole();
}

/// The text file that says whose directory it is.
fn stamp_file(data: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut stamps =
        files.filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("format = ")));
    stamps.next().unwrap_or_else(|| panic!("no stamp in {}", data.display()))
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let cluster = &SHARED.scenario("in_use").cluster;
    for (program, name) in [("dfs-metaserver", "meta1"), ("dfs-chunkserver", "chunk1")] {
        let text = fs::read_to_string(cluster.config_path(name)).unwrap();
        let path = cluster.dir().join("etc").join(format!("second-{name}.toml"));
        // Its ports are elsewhere: only the directory is shared.
        let host = cluster.meta_address(1).split_once(':').unwrap().0.to_owned();
        fs::write(&path, text.replace(&host, "127.255.0.1")).unwrap();
        refused(program, &config(&path), &[cluster.data_dir(name).to_str().unwrap()]);
    }
}

#[test]
fn a_mountpoint_that_is_missing_a_file_or_not_empty_is_named() {
    let scenario = SHARED.scenario("mountpoints");
    let cluster = scenario.cluster;
    let config = cluster.config_path("a");
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("full")).unwrap();
    fs::write(dir.path().join("full/x"), "x").unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    for (name, why) in [("none", "no such directory"), ("file", "not a directory"), ("full", "not empty")] {
        let path = dir.path().join(name);
        let arguments = ["--config", config.to_str().unwrap(), path.to_str().unwrap()];
        refused("dfs-mount", &arguments, &[path.to_str().unwrap(), why]);
        refused("dfs-mount", &[&["-f"], &arguments[..]].concat(), &[path.to_str().unwrap(), why]);
    }
    let mounted = cluster.mountpoint("a");
    refused("dfs-mount", &["--config", config.to_str().unwrap(), mounted.to_str().unwrap()], &["already"]);
    let free = dir.path().join("free");
    fs::create_dir(&free).unwrap();
    let arguments = ["-o", "nonsense", "--config", config.to_str().unwrap(), free.to_str().unwrap()];
    refused("dfs-mount", &arguments, &["nonsense"]);
}

#[test]
fn a_federation_that_cannot_be_reached_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.toml");
    fs::write(&empty, "").unwrap();
    let mountpoint = dir.path().join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let base = ["--config", empty.to_str().unwrap(), mountpoint.to_str().unwrap()];
    refused("dfs-mount", &base, &["--federation"]);
    let short = ["--metadata-timeout-ms", "2000", "--federation", "127.255.0.9:7"];
    refused("dfs-mount", &[&short[..], &base[..]].concat(), &["127.255.0.9:7"]);
    let bad = ["--federation", "nonsense"];
    refused("dfs-mount", &[&bad[..], &base[..]].concat(), &["nonsense"]);
}

#[test]
fn status_of_a_dead_federation_answers_within_three_seconds_and_says_what_is_unreachable() {
    let before = wait::now();
    let ran = Command::new(daemon::binary("dfs"))
        .args(["--federation", "127.255.0.9:7", "status"])
        .output()
        .unwrap();
    let ran = Ran::from(ran);
    assert!(before.elapsed() < Duration::from_secs(3), "it took {:?}", before.elapsed());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(format!("{}{}", ran.stdout, ran.stderr).contains("127.255.0.9:7"), "{ran:?}");
}

/// What strangers may send.
fn garbage() -> Vec<Vec<u8>> {
    let mut all = vec![
        Vec::new(),
        b"\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"GET /../../etc/passwd HTTP/1.0\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        vec![0; 100_000],
        vec![0xff; 100_000],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
    ];
    all.extend((0..40).map(|seed| tree::bytes(seed, 1 << (seed % 16))));
    all
}

#[test]
fn garbage_on_any_port_harms_nobody() {
    let scenario = SHARED.scenario("garbage");
    let cluster = scenario.cluster;
    fs::write(scenario.path("before"), "kept").unwrap();
    let mut ports = vec![cluster.meta_address(1), cluster.http_address("meta1")];
    ports.extend(cluster.chunk_addresses(1));
    for address in &ports {
        for bytes in garbage() {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            // The server may hang up in the middle, or wait for more: both are fine.
            let _ = stream.write_all(&bytes);
            let _ = stream.read(&mut [0; 1000]);
        }
    }
    for name in ["meta1", "chunk1", "chunk2", "a"] {
        assert!(cluster.is_running(name), "{name} has ended:\n{}", daemon::tail(&cluster.log(name)));
    }
    assert_eq!(fs::read(scenario.path("before")).unwrap(), b"kept");
    fs::write(scenario.path("after"), tree::bytes(1, 100_000)).unwrap();
    assert!(cluster.http_get("chunk1", "/metrics").unwrap().contains("dfs_chunkserver_"));
    assert!(cluster.http_get("meta1", "/metrics").unwrap().contains("dfs_metaserver_"));
    assert!(cluster.http_get("meta1", "/healthz").is_ok());
}

/// Lowers or raises how many descriptors a running daemon may have.
fn allow_descriptors(pid: u32, count: usize) {
    let limit = format!("--nofile={count}:20000");
    let set = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status().unwrap();
    assert!(set.success());
}

/// Connections that say nothing, many more than one kind of daemon takes from strangers.
const SILENT_CONNECTIONS: usize = 400;

/// Its copies were written down as damaged, for good, and their readers got EIO.
#[test]
fn servers_without_descriptors_and_with_hundreds_of_silent_strangers_damage_nothing_and_go_on() {
    let cluster = Cluster::start(Shape::small());
    let content = tree::bytes(3, 300_000);
    // Each in a chunk of its own: a chunk has one session.
    for name in ["first", "second"] {
        fs::write(cluster.mount("a").join(name), &content).unwrap();
        cluster.unmount("a");
    }
    for name in cluster.chunkserver_names() {
        cluster.terminate(&name);
        cluster.start_daemon(&name);
    }
    cluster.wait_whole();
    let dir = cluster.mount("a");
    let ports = [cluster.meta_address(1), cluster.chunk_addresses(1)[1].clone()];
    let silent = |address: &String| TcpStream::connect(address).unwrap();
    let strangers: Vec<_> =
        ports.iter().flat_map(|port| (0..SILENT_CONNECTIONS).map(move |_| silent(port))).collect();
    assert_eq!(fs::read(dir.join("first")).unwrap(), content);
    drop(strangers);
    // They keep what they have open, and find no descriptor for another chunk.
    let names = cluster.chunkserver_names();
    let allow = |count| {
        names.iter().filter_map(|name| cluster.pid(name)).for_each(|pid| allow_descriptors(pid, count))
    };
    allow(3);
    let second = dir.join("second");
    let reading = std::thread::spawn(move || fs::read(second));
    wait::until("a chunkserver lacks descriptors", REFUSAL_DEADLINE, || {
        names.iter().any(|name| cluster.log(name).contains("that is not damage")).then_some(())
    });
    allow(20_000);
    assert_eq!(reading.join().unwrap().unwrap(), content);
    cluster.wait_whole();
    assert_eq!(cluster.status().map(|status| status.chunks_damaged), Some(0));
}

#[test]
fn unknown_flags_and_missing_arguments_are_refused() {
    for (program, arguments) in [
        ("dfs-metaserver", vec!["--colour", "blue"]),
        ("dfs-chunkserver", vec!["--colour", "blue"]),
        ("dfs-mount", vec![]),
        ("dfs", vec!["staus"]),
    ] {
        let ran = Ran::from(Command::new(daemon::binary(program)).args(&arguments).output().unwrap());
        assert!(!ran.ok && !ran.stderr.is_empty(), "{program} {arguments:?}: {ran:?}");
    }
}
