//! The binary `dfs-chunkserver`: reads its settings from the arguments, the environment and the configuration file, then runs
//! [`dfs_chunkserver::start`].

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use dfs_chunkserver::config::{Config, File};
use dfs_chunkserver::{Seams, start};
use dfs_net::descriptors;
use dfs_net::env::{Env, runtime_threads};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// The allocator of this process. It also replaces malloc for the libraries in it that are not Rust.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Stores chunks in one data directory and reports to the metaservers of its cluster.
///
/// Settings: a flag is over its environment variable, which is over the configuration file ([chunkserver] and
/// [federation]). A registered directory keeps its server id, at whatever address it comes back.
#[derive(Parser)]
#[command(name = "dfs-chunkserver", version)]
struct Arguments {
    /// Configuration file (TOML) [default: DFS_CONFIG, ~/.config/dfs/dfs.toml, /etc/dfs/dfs.toml: the first that exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Metaservers of the cluster, host:port, separated by commas; some suffice [config: federation.metaservers]
    #[arg(long, value_name = "ADDRESS,…", env = "DFS_FEDERATION", value_delimiter = ',')]
    federation: Option<Vec<String>>,
    /// Directory for the chunks, made if missing; one that is not empty and not ours is refused
    /// [default: /var/lib/dfs/chunkserver]
    #[arg(long, value_name = "DIR", env = "DFS_CHUNKSERVER_DATA")]
    data: Option<PathBuf>,
    /// gRPC port, host:port; port 0 takes any free one [default: 127.0.0.1:7420]
    #[arg(long, value_name = "ADDRESS", env = "DFS_CHUNKSERVER_LISTEN")]
    listen: Option<String>,
    /// What others are told instead of --listen; needed when that is a wildcard [default: the address listened on]
    #[arg(long, value_name = "ADDRESS", env = "DFS_CHUNKSERVER_ADVERTISE")]
    advertise: Option<String>,
    /// Frame port, which carries the data, host:port [default: 127.0.0.1:7421]
    #[arg(long, value_name = "ADDRESS", env = "DFS_CHUNKSERVER_FRAMES_LISTEN")]
    frames_listen: Option<String>,
    /// What others are told instead of --frames-listen [default: the address listened on]
    #[arg(long, value_name = "ADDRESS", env = "DFS_CHUNKSERVER_FRAMES_ADVERTISE")]
    frames_advertise: Option<String>,
    /// Port of /metrics and /healthz, host:port; an empty one serves none [default: 127.0.0.1:7422]
    #[arg(long, value_name = "ADDRESS", env = "DFS_CHUNKSERVER_HTTP")]
    http: Option<String>,
    /// Copies of a chunk prefer different zones: any name, such as the rack's [default: none]
    #[arg(long, value_name = "NAME", env = "DFS_CHUNKSERVER_ZONE")]
    zone: Option<String>,
    /// Milliseconds between reports to the metaservers, 50 to 2000; a server silent for 3 s counts as away
    /// [default: 1000]
    #[arg(long, value_name = "MS", env = "DFS_CHUNKSERVER_HEARTBEAT_INTERVAL_MS")]
    heartbeat_interval_ms: Option<u64>,
    /// Bytes: with less free than this, or than --full-below-percent, it takes no more data [default: 268435456]
    #[arg(long, value_name = "BYTES", env = "DFS_CHUNKSERVER_FULL_BELOW_BYTES")]
    full_below_bytes: Option<u64>,
    /// Percent of the filesystem, 0 to 90: see --full-below-bytes, the larger counts [default: 5]
    #[arg(long, value_name = "PERCENT", env = "DFS_CHUNKSERVER_FULL_BELOW_PERCENT")]
    full_below_percent: Option<u64>,
    /// Threads that read and write chunks, 1 to 256 [default: 16]
    #[arg(long, value_name = "COUNT", env = "DFS_CHUNKSERVER_IO_THREADS")]
    io_threads: Option<usize>,
    /// Threads that sync and delete chunks, 1 to 256 [default: 8]
    #[arg(long, value_name = "COUNT", env = "DFS_CHUNKSERVER_SYNC_THREADS")]
    sync_threads: Option<usize>,
    /// Milliseconds that clients wait for data, 1000 to 600000; other replicas get a sixth of it for an append, half of
    /// it for a sync [default: 30000]
    #[arg(long, value_name = "MS", env = "DFS_CHUNKSERVER_DATA_DEADLINE_MS")]
    data_deadline_ms: Option<u64>,
    /// Milliseconds until an attempt to connect is given up, 100 to 60000 [default: 2000]
    #[arg(long, value_name = "MS", env = "DFS_CHUNKSERVER_CONNECT_DEADLINE_MS")]
    connect_deadline_ms: Option<u64>,
}

impl Arguments {
    /// The settings of the file, replaced by those that the arguments and the environment give.
    fn config(self) -> anyhow::Result<Config> {
        let (_, file) = dfs_net::config::load::<File>(self.config.as_deref())?;
        let File { mut federation, chunkserver: mut section, .. } = file;
        fn take<T>(setting: &mut T, given: Option<T>) {
            if let Some(given) = given {
                *setting = given;
            }
        }
        take(&mut federation.metaservers, self.federation);
        take(&mut section.data, self.data);
        take(&mut section.listen, self.listen);
        take(&mut section.advertise, self.advertise);
        take(&mut section.frames_listen, self.frames_listen);
        take(&mut section.frames_advertise, self.frames_advertise);
        take(&mut section.http, self.http);
        take(&mut section.zone, self.zone);
        take(&mut section.heartbeat_interval_ms, self.heartbeat_interval_ms);
        take(&mut section.full_below_bytes, self.full_below_bytes);
        take(&mut section.full_below_percent, self.full_below_percent);
        take(&mut section.io_threads, self.io_threads);
        take(&mut section.sync_threads, self.sync_threads);
        take(&mut section.data_deadline_ms, self.data_deadline_ms);
        take(&mut section.connect_deadline_ms, self.connect_deadline_ms);
        Ok(Config { federation, chunkserver: section })
    }
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("DFS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match serve(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The text of each error includes its cause.
            eprintln!("dfs-chunkserver: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let config = arguments.config()?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(runtime_threads()).enable_all().build()?.block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    match descriptors::raise() {
        Ok(limit) if limit < descriptors::FEW => {
            println!(
                "dfs-chunkserver: only {limit} open files are allowed: fewer chunks and connections at a time"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!("raise the limit of open files: {error}"),
    }
    let seams = Seams::real(&config);
    let server = start(config, Env::real(), seams).await?;
    for warning in server.warnings() {
        println!("dfs-chunkserver: {warning}");
    }
    let at = server.advertised();
    println!(
        "dfs-chunkserver: gRPC {}, frames {}, http {}",
        at.grpc,
        at.frames,
        if at.http.is_empty() { "none" } else { &at.http }
    );
    server.run(stop_signal()?).await?;
    Ok(())
}

/// A flag that turns true at SIGTERM or Ctrl-C.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        let _ = stop.send(true); // the server may have ended by itself
    });
    Ok(stopped)
}
