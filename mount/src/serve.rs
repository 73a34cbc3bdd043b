//! The daemon's life.
//!
//! ```text
//!   settings, mountpoint checked ─ fork ─ connect ─ mount ─ first statfs ─► the starter returns
//!                                                                │
//!                            umount from outside ◄───────────────┼───────────► SIGTERM, SIGINT, SIGHUP
//!                                    │                                                │ unmount if nobody uses it
//!                                    └──────────► write what is buffered ◄────────────┘
//!                                                 name what could not be written
//!                                                 detach if still mounted, end
//! ```
//!
//! L1  From the signal, or the unmount, to the end of the process it takes less than [`END_MAX`], whatever the servers
//!     do (promise 7).
//! L2  A daemon that ends in order never leaves its mount in the tree.
//! L3  Users of the mount of a daemon that was killed do not hang: a thread that waits for this mount does not hold
//!     `/dev/fuse` open.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use dfs_client::ClientConfig;
use dfs_client::inode::Client;
use dfs_net::env::{Env, runtime_threads};
use fuser::{MountOption, Session, SessionACL};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::cli::{Cli, MountFlags};
use crate::config::Settings;
use crate::daemon::{self, Side, Starter};
use crate::fs::Fs;
use crate::fuse::{Deadlines, Edge, REQUEST_LEN_MAX};
use crate::kernel_attrs::{OnWritten, Written};
use crate::kernel_caches::KernelCaches;
use crate::mountpoint::{self, Unmount};
use crate::{log, pages};

/// Long enough for a federation that elects a leader, short enough for a user who mistyped an address.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The longest time from a signal, or from an unmount from outside, to the end of the process, unless what is buffered is being
/// committed meanwhile (L1).
const END_MAX: Duration = Duration::from_secs(9);
/// The parts of [`END_MAX`] for an orderly unmount, and for detaching after the buffers were written.
const UNMOUNT_MAX: Duration = Duration::from_secs(2);
const DETACH_MAX: Duration = Duration::from_secs(1);
const _: () = assert!(UNMOUNT_MAX.as_millis() + DETACH_MAX.as_millis() < END_MAX.as_millis() / 2);

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dfs-mount: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does everything that can be refused before there are two processes.
fn start(cli: &Cli) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(cli)?;
    let filter = log::filter(cli.log_level.as_deref())?;
    let log_file = match &cli.log_file {
        Some(path) => Some(daemon::open_log(path).with_context(|| format!("log file {}", path.display()))?),
        None => None,
    };
    let mountpoint = mountpoint::prepare(&cli.mountpoint)?;
    let mut starter = if cli.foreground {
        Starter::foreground()
    } else {
        match daemon::background().context("go to the background")? {
            Side::Parent(code) => return Ok(code),
            Side::Child(starter) => starter,
        }
    };
    if let Some(file) = &log_file {
        daemon::log_to(file)?;
    }
    log::start(filter);
    match serve(&settings, &mountpoint, &mut starter) {
        Ok(code) => Ok(code),
        Err(error) if starter.failed(&format!("{error:#}")) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error),
    }
}

fn serve(settings: &Settings, mountpoint: &Path, starter: &mut Starter) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(runtime_threads())
        .enable_all()
        .thread_name("dfs-mount")
        .build()?;
    let served = runtime.block_on(async {
        let kernel = Arc::new(KernelCaches::new());
        let client = connect(settings, mountpoint, kernel.clone()).await?;
        let mut mount = match Mount::new(settings, mountpoint, client.clone(), kernel) {
            Ok(mount) => mount,
            Err(error) => {
                client.shutdown(DETACH_MAX).await;
                return Err(error);
            }
        };
        let served = mount.serve(starter).await;
        let is_written = mount.end().await;
        served?;
        Ok(if is_written { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    });
    // Nobody waits for requests that still wait for a server: the kernel has given them up. To wait would be wrong,
    // too: a request that is woken while the runtime ends (`deferred`) is dropped by the thread that woke it.
    runtime.shutdown_background();
    served
}

async fn connect(
    settings: &Settings,
    mountpoint: &Path,
    kernel: Arc<KernelCaches>,
) -> anyhow::Result<Arc<Client>> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let config = ClientConfig {
        metaservers: settings.metaservers.clone(),
        name: format!("{}:{}", host.trim(), mountpoint.display()),
        metadata_timeout: settings.metadata_timeout,
        data_timeout: settings.data_timeout,
        connect_timeout: settings.connect_timeout,
        session_memory_bytes: settings.session_memory_bytes,
        commit_interval: settings.commit_interval,
        durability: settings.durability,
        copies: settings.copies,
    };
    let connecting = async || format!("connect to the federation at {}", settings.metaservers.join(", "));
    match timeout(CONNECT_MAX, Client::connect_with(config, Env::real(), kernel)).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(error).context(connecting().await),
        Err(_) => bail!("{}: no metaserver answered within {} s", connecting().await, CONNECT_MAX.as_secs()),
    }
}

/// One mounted federation.
struct Mount {
    client: Arc<Client>,
    fs: Arc<Fs>,
    path: PathBuf,
    /// Ready when the kernel has ended the connection, whoever unmounted.
    ended: oneshot::Receiver<io::Result<()>>,
    /// The mount is still in the tree, as far as is known.
    is_mounted: bool,
    signals: Signals,
}

impl Mount {
    fn new(
        settings: &Settings,
        path: &Path,
        client: Arc<Client>,
        kernel: Arc<KernelCaches>,
    ) -> anyhow::Result<Mount> {
        let signals = Signals::new()?;
        let fs = Arc::new(Fs::new(client.clone(), kernel.clone()));
        let deadlines =
            Deadlines::new(settings.metadata_timeout, settings.data_timeout, settings.session_memory_bytes);
        let edge = Edge::new(fs.clone(), tokio::runtime::Handle::current(), deadlines);
        let session = Session::new(edge, path, &session_config(settings))
            .with_context(|| format!("mount on {}", path.display()))?;
        fs.set_drop_pages(pages::start(session.notifier(), &fs)?);
        let device = session.as_fd().try_clone_to_owned()?;
        kernel.attrs.connected(pages::invalidate_attrs(device.into(), &fs), on_written(&fs));
        let ended = in_thread("dfs-fuse", move || session.run())?;
        Ok(Mount { client, fs, path: path.to_owned(), ended, is_mounted: true, signals })
    }

    /// Serves until the mount is unmounted, or a signal asks to end.
    async fn serve(&mut self, starter: &mut Starter) -> anyhow::Result<()> {
        let path = self.path.clone();
        let mut first_statfs = in_thread("dfs-statfs", move || {
            without_descriptors(move || {
                mountpoint::raise_read_ahead(&path, REQUEST_LEN_MAX);
                mountpoint::look_at(&path)
            })
        })?;
        tokio::select! {
            answer = &mut first_statfs => answer?.context("first statfs of the mount")?,
            ended = &mut self.ended => return self.has_ended_with(ended),
            () = self.signals.next() => bail!("told to end before the mount answered"),
        }
        starter.ready().context("nobody waits for the mount any more")?;
        tracing::info!("mounted on {}", self.path.display());
        tokio::select! {
            ended = &mut self.ended => self.has_ended_with(ended),
            () = self.signals.next() => Ok(()),
        }
    }

    /// The session has ended. Without an error the mount was unmounted; with one, fuser may not have freed the
    /// mountpoint.
    fn has_ended_with(
        &mut self,
        ended: Result<io::Result<()>, oneshot::error::RecvError>,
    ) -> anyhow::Result<()> {
        ended.context("the thread of the FUSE session ended early")?.context("FUSE session")?;
        self.is_mounted = false;
        Ok(())
    }

    /// Writes what is buffered and frees the mountpoint (L1, L2). False if bytes were lost.
    async fn end(&mut self) -> bool {
        let deadline = Instant::now() + END_MAX;
        self.unmount(Unmount::IfIdle, Instant::now() + UNMOUNT_MAX).await;
        self.fs.close();
        let for_writing = (deadline - DETACH_MAX).saturating_duration_since(Instant::now());
        let lost = self.client.shutdown(for_writing * 9 / 10).await;
        // Processes that wait for an answer get an error now, and processes that use the mount lose it.
        let deadline = Instant::now() + DETACH_MAX;
        self.unmount(Unmount::Abort, deadline - DETACH_MAX / 2).await;
        self.unmount(Unmount::Detach, deadline).await;
        for name in &lost {
            tracing::error!("could not be written: {}", self.fs.inodes().with_path(name));
        }
        tracing::info!("no longer mounted on {}", self.path.display());
        lost.is_empty()
    }

    /// Unmounts by `deadline`, if the mount is still there. Only a success is remembered.
    async fn unmount(&mut self, how: Unmount, deadline: Instant) {
        if !self.is_mounted {
            return;
        }
        let path = self.path.clone();
        let unmount = move || without_descriptors(move || mountpoint::unmount(&path, how));
        let Ok(unmounted) = in_thread("dfs-unmount", unmount) else { return };
        match timeout_at(deadline, unmounted).await {
            Ok(Ok(Ok(()))) => self.is_mounted = false,
            Ok(Ok(Err(error))) => tracing::info!("unmount {} ({how:?}): {error}", self.path.display()),
            Ok(Err(_)) | Err(_) => tracing::info!("unmount {} ({how:?}): no answer", self.path.display()),
        }
    }
}

fn on_written(fs: &Arc<Fs>) -> OnWritten {
    let fs = Arc::downgrade(fs);
    Box::new(move |inode, written| {
        let Some(fs) = fs.upgrade() else { return };
        match written {
            Written::Moved { from, to } => fs.inodes().content_moved(inode, from, to),
            Written::Lost => fs.lost(inode),
        }
    })
}

/// The first descriptor behind standard input, output and error.
const FIRST_OWN_DESCRIPTOR: u32 = 3;

/// Runs what may block, on a thread of its own. The result comes when it is done, if ever; nobody waits for the
/// thread at the end.
fn in_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _ = sender.send(work());
    })?;
    Ok(receiver)
}

/// Runs what waits for this very mount (L3). When this process is killed, the kernel ends the connection once nobody
/// holds `/dev/fuse`, and only that ends the wait: a thread that waited and held it would stay for ever, and with it
/// every other process that waits for the mount. It does not run on [`in_thread`]'s own thread, whose result wakes
/// the runtime through a descriptor.
fn without_descriptors<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("dfs-look".to_owned()).spawn(move || {
        // SAFETY: takes integers. The table is this thread's own from here on, and nothing that it does needs the others'.
        if unsafe { libc::close_range(FIRST_OWN_DESCRIPTOR, u32::MAX, libc::CLOSE_RANGE_UNSHARE as i32) } != 0
        {
            tracing::warn!("a table of descriptors of its own: {}", io::Error::last_os_error());
        }
        work()
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// The signals that ask to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

fn session_config(settings: &Settings) -> fuser::Config {
    // SAFETY: reads a number of this process; cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    let mut config = fuser::Config::default();
    config.mount_options = mount_options(&settings.flags, &settings.metaservers, is_root);
    // Other users see the mount. A user who is not root may offer that only where fuse.conf allows it.
    config.acl = if is_root { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(settings.threads);
    config.clone_fd = true;
    config
}

fn mount_options(flags: &MountFlags, metaservers: &[String], is_root: bool) -> Vec<MountOption> {
    // fusermount3, which mounts for users other than root, splits its options at commas.
    let comma = if is_root { "," } else { "\\," };
    let choose = |yes, if_yes, if_no| if yes { if_yes } else { if_no };
    vec![
        MountOption::FSName(format!("dfs:{}", metaservers.join(comma))),
        MountOption::CUSTOM("subtype=dfs".to_owned()), // fuser's own `Subtype` does not reach mount(2)
        MountOption::CUSTOM(format!("max_read={REQUEST_LEN_MAX}")),
        MountOption::DefaultPermissions, // walks over cached names are otherwise unchecked (P5.1)
        choose(flags.read_only, MountOption::RO, MountOption::RW),
        choose(flags.devices, MountOption::Dev, MountOption::NoDev),
        choose(flags.set_uid, MountOption::Suid, MountOption::NoSuid),
        choose(flags.execute, MountOption::Exec, MountOption::NoExec),
        choose(flags.access_times, MountOption::Atime, MountOption::NoAtime),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_named_after_its_federation_and_checks_permissions() {
        let servers = ["a:1".to_owned(), "b:2".to_owned()];
        let options = mount_options(&MountFlags::default(), &servers, true);
        assert!(options.contains(&MountOption::FSName("dfs:a:1,b:2".to_owned())));
        assert!(options.contains(&MountOption::DefaultPermissions));
        assert!(options.contains(&MountOption::NoDev) && options.contains(&MountOption::NoSuid));
        let escaped = mount_options(&MountFlags::default(), &servers, false);
        assert!(escaped.contains(&MountOption::FSName("dfs:a:1\\,b:2".to_owned())));
    }

    #[test]
    fn who_waits_for_the_mount_holds_nothing_open_that_the_mount_needs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("open");
        let open = std::fs::File::create(&path).unwrap();
        let is_held = move || {
            let held = std::fs::read_dir("/proc/thread-self/fd")?.filter_map(Result::ok);
            Ok(held.filter_map(|held| std::fs::read_link(held.path()).ok()).any(|held| held == path))
        };
        assert!(is_held().unwrap());
        assert!(!without_descriptors(is_held).unwrap());
        drop(open);
    }
}
