//! A cluster of real processes on loopback: start it, mount it, hurt it, look at it.
//!
//! Every scenario has a directory and an address of 127.0.0.0/8 of its own (`guard`), so that scenarios do not meet.
//! Daemons are named `meta1`, `chunk1`, …; mounts have the name that they are given.
//!
//! H1  What a cluster started is ended, unmounted and removed when it is dropped, and also when the process is killed.
//! H2  An ERROR line or a panic in a log that the test did not announce (`expect_error`) fails the test.
//! H3  Every daemon's memory is capped, RocksDB's kept small unless a scenario wants what users have.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dfs_net::env::Env;
use dfs_net::rpc::{Expected, Identity, Role, grpc};
use dfs_net::services::admin_client::AdminClient;
use dfs_net::services::federation_client::FederationClient;
use dfs_proto::ids::ClusterId;
use dfs_proto::wire;
use tonic::transport::Channel;

use crate::daemon::{Daemon, tail};
use crate::guard::Guard;
use crate::shell::sh;
use crate::{sys, wait};

/// Until a whole cluster is up, on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Until one member answers a status request.
const STATUS_DEADLINE: Duration = Duration::from_secs(2);

/// What to start.
#[derive(Clone, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub metaservers: u64,
    pub chunkservers: u64,
    pub copies: u32,
    /// Deadlines of mounts for metadata and for data, in milliseconds.
    pub deadline_ms: u64,
    /// RocksDB of every member in as much memory as users' have, instead of little.
    pub default_caches: bool,
    /// More lines for `[metaserver]` of every member.
    pub metaserver_extra: String,
    /// More lines for `[chunkserver]` of every chunkserver.
    pub chunkserver_extra: String,
    /// Each chunkserver's data lie on a memory disk of this size instead of in the scenario's directory.
    pub chunk_disk_mib: Option<u64>,
    /// The data of every server lie on an ext4 filesystem of their own, of this size: for [`Cluster::cut_power`].
    pub ext4_mib: Option<u64>,
    /// Environment variables of the daemons whose names begin so: name, variable, value.
    pub environment: Vec<(String, String, String)>,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            name: "test",
            metaservers: 3,
            chunkservers: 3,
            copies: 2,
            deadline_ms: 30_000,
            default_caches: false,
            metaserver_extra: String::new(),
            chunkserver_extra: String::new(),
            chunk_disk_mib: None,
            ext4_mib: None,
            environment: Vec::new(),
        }
    }
}

impl Shape {
    /// One metaserver, two chunkservers, two copies: the whole path with the least to start.
    pub fn small() -> Shape {
        Shape { metaservers: 1, chunkservers: 2, ..Shape::default() }
    }
}

pub struct Cluster {
    guard: Arc<Guard>,
    host: String,
    pub shape: Shape,
    /// What it shares with other clusters; none: it is on its own.
    federation: Option<Seats>,
    daemons: Mutex<BTreeMap<String, Daemon>>,
    expected_errors: Mutex<Vec<String>>,
    runtime: tokio::runtime::Runtime,
}

/// The federation that a cluster is of.
#[derive(Clone, Debug)]
pub struct Seats {
    /// gRPC addresses of the federation group's members; their numbers are 1 and so on.
    pub members: Vec<String>,
    /// Of the metaservers of all clusters.
    pub metaservers: Vec<String>,
}

/// `meta1` → 7010 (gRPC); HTTP is one above.
fn meta_port(id: u64) -> u64 {
    7000 + 10 * id
}

/// `chunk1` → 7110 (gRPC); frames one above, HTTP two.
fn chunk_port(id: u64) -> u64 {
    7100 + 10 * id
}

impl Cluster {
    /// Starts metaservers and chunkservers and waits until a leader has heard all of them.
    pub fn start(shape: Shape) -> Cluster {
        let cluster = Cluster::prepare(shape);
        cluster.server_names().iter().for_each(|name| cluster.start_daemon(name));
        cluster.wait_whole();
        cluster
    }

    /// Writes the configuration files and starts nothing.
    pub fn prepare(shape: Shape) -> Cluster {
        let cluster = Cluster::reserve(shape);
        cluster.configure();
        cluster
    }

    /// Its addresses are known, and nothing else is there.
    pub(crate) fn reserve(shape: Shape) -> Cluster {
        require_root_and_fuse();
        let guard = Arc::new(Guard::new());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("start a runtime for status calls");
        Cluster {
            host: guard.host(),
            guard,
            shape,
            federation: None,
            daemons: Mutex::default(),
            expected_errors: Mutex::default(),
            runtime,
        }
    }

    /// Before [`Cluster::configure`].
    pub(crate) fn join(&mut self, seats: Seats) {
        self.federation = Some(seats);
    }

    pub(crate) fn configure(&self) {
        for id in 1..=self.shape.metaservers {
            self.add_metaserver(id);
        }
        for id in 1..=self.shape.chunkservers {
            self.add_chunkserver(id);
        }
    }

    /// All daemons but mounts.
    pub fn server_names(&self) -> Vec<String> {
        self.metaserver_names().into_iter().chain(self.chunkserver_names()).collect()
    }

    pub fn dir(&self) -> &Path {
        self.guard.dir()
    }

    pub fn data_dir(&self, daemon: &str) -> PathBuf {
        let on_memory = self.shape.chunk_disk_mib.filter(|_| daemon.starts_with("chunk"));
        match on_memory.or(self.shape.ext4_mib) {
            Some(_) => self.disk(daemon).join("data"),
            None => self.dir().join("data").join(daemon),
        }
    }

    /// Beside the mounts, where the guard finds what is to be unmounted.
    fn disk(&self, daemon: &str) -> PathBuf {
        self.mountpoint(&format!("disk-{daemon}"))
    }

    fn mount_memory_disk(&self, daemon: &str, mib: u64) {
        let disk = self.disk(daemon);
        fs::create_dir_all(&disk).expect("make a disk's mountpoint");
        sh(Path::new("/"), &format!("mount -t tmpfs -o size={mib}m dfs-test {}", disk.display()));
    }

    fn make_ext4(&self, daemon: &str, mib: u64) {
        let (images, image, disk) = (self.mountpoint("images"), self.image(daemon), self.disk(daemon));
        if !is_mounted(&images) {
            fs::create_dir_all(&images).expect("make a mountpoint for images");
            sh(Path::new("/"), &format!("mount -t tmpfs -o size=8g dfs-test {}", images.display()));
        }
        fs::create_dir_all(&disk).expect("make a disk's mountpoint");
        // Nothing is left for the kernel to initialise in the background.
        let options = "-q -m 0 -N 8192 -J size=16 -E lazy_itable_init=0,lazy_journal_init=0";
        let image = image.display();
        sh(Path::new("/"), &format!("truncate -s {mib}M {image} && mkfs.ext4 {options} {image}"));
        self.attach(daemon);
    }

    /// In memory: a power cut lasts as long as mounting again, and a busy disk under the images once made that a minute.
    fn image(&self, daemon: &str) -> PathBuf {
        self.mountpoint("images").join(format!("{daemon}.ext4"))
    }

    /// The loop device goes with the mount. `noauto_da_alloc`: a rename over a file does not bring the new bytes along by
    /// itself, as it does not on other filesystems.
    fn attach(&self, daemon: &str) {
        let (image, disk) = (self.image(daemon), self.disk(daemon));
        let mount = format!("mount -o loop,noauto_da_alloc {} {}", image.display(), disk.display());
        sh(Path::new("/"), &mount);
    }

    /// All these daemons lose power at one moment: they stop, the filesystems of those that have one forget what was not
    /// synced, and then they are gone. What the filesystems kept is there again when this returns.
    pub fn cut_power(&self, names: &[String]) {
        names.iter().for_each(|name| self.pause(name));
        names.iter().for_each(|name| self.with(name, Daemon::wait_stopped));
        let disks = names.iter().filter(|name| self.image(name).exists());
        for name in disks.clone() {
            sys::shut_down_ext4(&self.disk(name)).expect("shut a filesystem down");
        }
        names.iter().for_each(|name| self.kill(name));
        for name in disks {
            sh(Path::new("/"), &format!("umount {}", self.disk(name).display()));
            self.attach(name);
        }
    }

    pub fn config_path(&self, daemon: &str) -> PathBuf {
        self.dir().join("etc").join(format!("{daemon}.toml"))
    }

    pub fn meta_address(&self, id: u64) -> String {
        format!("{}:{}", self.host, meta_port(id))
    }

    /// gRPC, frames and HTTP.
    pub fn chunk_addresses(&self, id: u64) -> [String; 3] {
        [0, 1, 2].map(|n| format!("{}:{}", self.host, chunk_port(id) + n))
    }

    pub fn http_address(&self, daemon: &str) -> String {
        match (daemon.strip_prefix("meta"), daemon.strip_prefix("chunk")) {
            (Some(id), _) => format!("{}:{}", self.host, meta_port(number(id)) + 1),
            (_, Some(id)) => self.chunk_addresses(number(id))[2].clone(),
            _ => panic!("{daemon} has no HTTP port"),
        }
    }

    pub fn federation(&self) -> Vec<String> {
        (1..=self.shape.metaservers).map(|id| self.meta_address(id)).collect()
    }

    fn federation_toml(&self) -> String {
        format!("[federation]\nmetaservers = {:?}\n", self.federation())
    }

    fn add_metaserver(&self, id: u64) {
        let name = format!("meta{id}");
        if let Some(mib) = self.shape.ext4_mib {
            self.make_ext4(&name, mib);
        }
        let bootstrap: Vec<String> = (1..=self.shape.metaservers)
            .map(|id| format!("{{ id = {id}, address = \"{}\" }}", self.meta_address(id)))
            .collect();
        let text = format!(
            "{federation}
[metaserver]
id = {id}
cluster = \"{cluster}\"
data = {data:?}
listen = \"{listen}\"
\
             http = \"{http}\"
bootstrap = [{bootstrap}]
copies = {copies}
{caches}{seats}{extra}
",
            federation = self.federation_toml(),
            cluster = self.shape.name,
            seats = self.seats_toml(id),
            data = self.data_dir(&name),
            listen = self.meta_address(id),
            http = self.http_address(&name),
            bootstrap = bootstrap.join(", "),
            copies = self.shape.copies,
            caches =
                if self.shape.default_caches { "" } else { "block_cache_mib = 8\nwrite_buffer_mib = 8\n" },
            extra = self.shape.metaserver_extra,
        );
        self.add_daemon(&name, "dfs-metaserver", &text);
    }

    fn seats_toml(&self, id: u64) -> String {
        let Some(seats) = &self.federation else { return String::new() };
        let members: Vec<String> = (1..)
            .zip(&seats.members)
            .map(|(number, address)| format!("{{ id = {number}, address = \"{address}\" }}"))
            .collect();
        let own = (1..).zip(&seats.members).find(|(_, address)| **address == self.meta_address(id));
        let own = own.map(|(number, _): (u64, _)| format!("federation_id = {number}\n")).unwrap_or_default();
        format!("federation_members = [{}]\n{own}", members.join(", "))
    }

    /// Writes the configuration of one more chunkserver; `start_daemon` starts it.
    pub fn add_chunkserver(&self, id: u64) {
        let name = format!("chunk{id}");
        let [listen, frames, http] = self.chunk_addresses(id);
        let text = format!(
            "{federation}\n[chunkserver]\ndata = {data:?}\nlisten = \"{listen}\"\nframes_listen = \"{frames}\"\n\
             http = \"{http}\"\n{extra}\n",
            federation = self.federation_toml(),
            data = self.data_dir(&name),
            extra = self.shape.chunkserver_extra,
        );
        if let Some(mib) = self.shape.chunk_disk_mib {
            self.mount_memory_disk(&name, mib);
        } else if let Some(mib) = self.shape.ext4_mib {
            self.make_ext4(&name, mib);
        }
        self.add_daemon(&name, "dfs-chunkserver", &text);
    }

    fn add_daemon(&self, name: &str, program: &str, config: &str) {
        let path = self.config_path(name);
        fs::write(&path, config).expect("write a daemon's configuration");
        let mut daemon = Daemon::new(&self.guard, name, program, &["--config", &path.to_string_lossy()]);
        for (_, variable, value) in self.shape.environment.iter().filter(|(who, ..)| name.starts_with(who)) {
            daemon = daemon.with_variable(variable, value);
        }
        self.daemons().insert(name.to_owned(), daemon);
    }

    fn daemons(&self) -> MutexGuard<'_, BTreeMap<String, Daemon>> {
        self.daemons.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn with<T>(&self, name: &str, act: impl FnOnce(&mut Daemon) -> T) -> T {
        act(self.daemons().get_mut(name).unwrap_or_else(|| panic!("there is no daemon {name}")))
    }

    pub fn start_daemon(&self, name: &str) {
        self.with(name, Daemon::start);
    }

    /// `kill -9`; it is gone when this returns.
    pub fn kill(&self, name: &str) {
        self.with(name, Daemon::kill);
    }

    /// SIGSTOP.
    pub fn pause(&self, name: &str) {
        self.with(name, |daemon| daemon.signal(libc::SIGSTOP));
    }

    /// SIGCONT.
    pub fn resume(&self, name: &str) {
        self.with(name, |daemon| daemon.signal(libc::SIGCONT));
    }

    /// SIGTERM, and waits for the end.
    #[track_caller]
    pub fn terminate(&self, name: &str) -> ExitStatus {
        self.with(name, |daemon| daemon.signal(libc::SIGTERM));
        self.wait_exit(name, Duration::from_secs(30))
    }

    #[track_caller]
    pub fn wait_exit(&self, name: &str, deadline: Duration) -> ExitStatus {
        self.with(name, |daemon| daemon.wait_exit(deadline))
    }

    pub fn is_running(&self, name: &str) -> bool {
        self.with(name, Daemon::is_running)
    }

    pub fn pid(&self, name: &str) -> Option<u32> {
        self.with(name, |daemon| daemon.pid())
    }

    pub fn log(&self, name: &str) -> String {
        self.with(name, |daemon| daemon.log())
    }

    /// Kills it, removes what it stored, and leaves it stopped.
    pub fn empty(&self, name: &str) {
        self.kill(name);
        fs::remove_dir_all(self.data_dir(name)).expect("remove a daemon's data");
    }

    pub fn metaserver_names(&self) -> Vec<String> {
        (1..=self.shape.metaservers).map(|id| format!("meta{id}")).collect()
    }

    pub fn chunkserver_names(&self) -> Vec<String> {
        (1..=self.shape.chunkservers).map(|id| format!("chunk{id}")).collect()
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a daemon's number"))
}

/// Tests do not skip: what they need must be there.
fn require_root_and_fuse() {
    // SAFETY: geteuid has no preconditions.
    assert_eq!(unsafe { libc::geteuid() }, 0, "whole-system tests mount filesystems: run them as root");
    assert!(Path::new("/dev/fuse").exists(), "whole-system tests need /dev/fuse");
}

// ---- what the cluster says of itself ----

impl Cluster {
    /// One member's view; `None` when it does not answer.
    pub fn status_of(&self, id: u64) -> Option<wire::StatusReply> {
        self.ask(id, async |channel| {
            let reply = AdminClient::new(channel).status(wire::StatusRequest {}).await.ok()?.into_inner();
            reply.error.is_none().then_some(reply)
        })
    }

    /// The federation map as this metaserver serves it.
    pub fn map_of(&self, id: u64) -> Option<wire::FederationMap> {
        self.ask(id, async |channel| {
            let reply = FederationClient::new(channel).get_map(wire::GetMapRequest::default()).await;
            reply.ok()?.into_inner().map
        })
    }

    fn ask<T>(&self, id: u64, question: impl AsyncFnOnce(Channel) -> Option<T>) -> Option<T> {
        let address = self.meta_address(id);
        let own = Identity { role: Role::Admin, id: 0, cluster: ClusterId::UNKNOWN };
        let expected = Expected { role: Role::Metaserver, id, cluster: ClusterId::UNKNOWN };
        let ask = async {
            let channel = grpc::connect(&Env::real(), &address, &own, &expected, STATUS_DEADLINE).await;
            question(channel.ok()?).await
        };
        self.runtime.block_on(async { tokio::time::timeout(STATUS_DEADLINE, ask).await.ok().flatten() })
    }

    /// The leader's view: of those that say that they lead, the one of the highest term.
    pub fn status(&self) -> Option<wire::StatusReply> {
        let running = (1..=self.shape.metaservers).filter(|id| self.is_running(&format!("meta{id}")));
        let replies = running.filter_map(|id| self.status_of(id)).filter(|reply| reply.is_leader);
        replies.max_by_key(|reply| reply.term)
    }

    /// Waits for a leader and tells its daemon's name.
    #[track_caller]
    pub fn leader(&self) -> String {
        let status = wait::until("a leader", START_DEADLINE, || self.status());
        format!("meta{}", status.answered_by)
    }

    /// Waits until `holds` is true of the leader's view.
    #[track_caller]
    pub fn wait_status(
        &self,
        what: &str,
        deadline: Duration,
        holds: impl Fn(&wire::StatusReply) -> bool,
    ) -> wire::StatusReply {
        let mut last = None;
        let found = wait::at_most(deadline, || {
            last = self.status();
            last.clone().filter(&holds)
        });
        found.unwrap_or_else(|| panic!("waited {deadline:?} for {what}; the status is {last:#?}"))
    }

    /// Waits until a leader hears every running chunkserver and no running metaserver lags.
    #[track_caller]
    pub fn wait_whole(&self) {
        let servers = self.chunkserver_names().iter().filter(|name| self.is_running(name)).count();
        let members = self.metaserver_names().iter().filter(|name| self.is_running(name)).count();
        self.wait_status("every server to be heard", START_DEADLINE, |status| {
            let alive = wire::ServerState::Alive as i32;
            let heard = status.chunkservers.iter().filter(|s| s.heard && s.state == alive).count();
            let close = status.members.iter().filter(|m| m.is_leader || m.log_lag.is_some_and(|n| n < 100));
            heard >= servers && close.count() >= members
        });
    }

    /// The server id of a chunkserver, by its address.
    #[track_caller]
    pub fn server_id(&self, name: &str) -> u64 {
        let frames = self.chunk_addresses(number(name.trim_start_matches("chunk")))[1].clone();
        let status = self.wait_status("a leader", START_DEADLINE, |_| true);
        let server = status.chunkservers.iter().find(|server| server.frames_address == frames);
        server.unwrap_or_else(|| panic!("{name} ({frames}) never registered: {status:#?}")).server
    }

    /// The body of `GET path` on a daemon's HTTP port.
    pub fn http_get(&self, daemon: &str, path: &str) -> std::io::Result<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(self.http_address(daemon))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }
}

// ---- mounts ----

impl Cluster {
    pub fn mountpoint(&self, name: &str) -> PathBuf {
        self.dir().join("mnt").join(name)
    }

    /// Writes a mount's configuration and its mountpoint; `mount` starts it.
    pub fn add_mount(&self, name: &str) {
        let mountpoint = self.mountpoint(name);
        fs::create_dir_all(&mountpoint).expect("make a mountpoint");
        let path = self.config_path(name);
        let metaservers = match &self.federation {
            Some(seats) => seats.metaservers.clone(),
            None => self.federation(),
        };
        let text = format!(
            "[federation]\nmetaservers = {metaservers:?}\n[mount]\nmetadata_timeout_ms = {ms}\ndata_timeout_ms = {ms}\n",
            ms = self.shape.deadline_ms,
        );
        fs::write(&path, text).expect("write a mount's configuration");
        let arguments = ["-f", "--config", &path.to_string_lossy(), &mountpoint.to_string_lossy()];
        let daemon = Daemon::new(&self.guard, name, "dfs-mount", &arguments);
        self.daemons().insert(name.to_owned(), daemon);
    }

    /// Adds lines to the `[mount]` part of a mount's configuration, for its next start.
    pub fn configure_mount(&self, name: &str, lines: &str) {
        let path = self.config_path(name);
        let text = fs::read_to_string(&path).expect("read a mount's configuration");
        fs::write(&path, text + lines).expect("write a mount's configuration");
    }

    /// Mounts under `name` (again, if it was mounted before) and waits until it answers.
    #[track_caller]
    pub fn mount(&self, name: &str) -> PathBuf {
        if !self.daemons().contains_key(name) {
            self.add_mount(name);
        }
        self.start_daemon(name);
        self.wait_mounted(name)
    }

    #[track_caller]
    pub fn wait_mounted(&self, name: &str) -> PathBuf {
        let mountpoint = self.mountpoint(name);
        wait::until(&format!("mount {name}"), START_DEADLINE, || {
            assert!(self.is_running(name), "dfs-mount ended:\n{}", tail(&self.log(name)));
            // In its own words: a mount that died is listed until the next one takes it away, and one that answers already
            // may not have seen its own first answer, without which it ends with an error when it is told to end.
            self.with(name, |daemon| daemon.log_since_start()).contains(": mounted on ").then_some(())
        });
        mountpoint
    }

    /// SIGTERM, as a user ends it; flushed and unmounted when this returns.
    #[track_caller]
    pub fn unmount(&self, name: &str) {
        let status = self.terminate(name);
        assert!(status.success(), "dfs-mount ended with {status}:\n{}", tail(&self.log(name)));
        assert!(!is_mounted(&self.mountpoint(name)), "{name} is still mounted");
    }

    /// Empties the caches between a reader and the chunkservers: the mount's by mounting anew, the kernel's by request.
    #[track_caller]
    pub fn remount_cold(&self, name: &str) -> PathBuf {
        self.unmount(name);
        sys::drop_caches();
        self.mount(name)
    }
}

pub fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/mounts").expect("read /proc/mounts");
    let path = path.to_string_lossy();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(&*path))
}

// ---- the end of a scenario ----

impl Cluster {
    /// Announces that a log line with `part` in it is no failure of this scenario.
    pub fn expect_error(&self, part: &str) {
        self.expected_errors.lock().unwrap_or_else(|p| p.into_inner()).push(part.to_owned());
    }

    /// Lines of all logs, since the last call, that should not be there (H2).
    pub fn unexpected_errors(&self) -> Vec<String> {
        let expected = self.expected_errors.lock().unwrap_or_else(|p| p.into_inner()).clone();
        let mut found = Vec::new();
        for daemon in self.daemons().values_mut() {
            let log = daemon.new_log();
            let bad = log.lines().filter(|line| is_error(line));
            let bad = bad.filter(|line| !expected.iter().any(|part| line.contains(part)));
            found.extend(bad.map(|line| format!("{}: {line}", daemon.name)));
        }
        found
    }

    /// The ends of all logs, for someone who looks at a failed test.
    pub fn print_logs(&self) {
        for daemon in self.daemons().values() {
            eprintln!("---- {} ----\n{}", daemon.name, tail(&daemon.log()));
        }
        if std::env::var_os("DFS_KEEP_LOGS").is_some() {
            let kept = self.dir().with_extension("logs");
            let copied =
                std::process::Command::new("cp").arg("-a").arg(self.dir().join("logs")).arg(&kept).status();
            eprintln!("logs kept in {} ({copied:?})", kept.display());
        }
    }

    fn end_all(&self) {
        let mut daemons = self.daemons();
        // Mounts first: whoever waits in one gets an error at once.
        let mounts = fs::read_dir(self.dir().join("mnt")).into_iter().flatten().flatten();
        let mounts: Vec<_> = mounts.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        for name in &mounts {
            if let Some(daemon) = daemons.get_mut(name) {
                daemon.kill();
            }
            let mountpoint = self.dir().join("mnt").join(name);
            if is_mounted(&mountpoint)
                && let Err(error) = sys::unmount_lazily(&mountpoint)
            {
                eprintln!("unmount {}: {error}", mountpoint.display());
            }
        }
        for daemon in daemons.values_mut() {
            daemon.kill();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end_all(); // keeps H1; the guard removes the directory
        let errors = self.unexpected_errors();
        if std::thread::panicking() {
            self.print_logs();
        } else if !errors.is_empty() {
            self.print_logs();
            panic!("log lines that nobody expected:\n{}", errors.join("\n"));
        }
    }
}

/// A line as `tracing` writes it, or a panic's message.
fn is_error(line: &str) -> bool {
    line.contains(" ERROR ") || line.contains("\u{1b}[31mERROR") || line.contains("panicked at")
}
