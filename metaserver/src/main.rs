//! `dfs-metaserver`: arguments over environment over file, then [`dfs_metaserver::run`].

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use dfs_metaserver::Storage;
use dfs_metaserver::config::{Config, Settings};
use dfs_net::config::{ConfigFile, load};
use dfs_net::descriptors;
use dfs_net::env::{Env, runtime_threads};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// For this process and, in place of malloc, for the libraries in it that are not Rust.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One metaserver of a dfs cluster: keeps the names, attributes and extents of its files, replicated over the cluster's
/// metaservers, and says which chunkservers hold the bytes.
///
/// Settings come from flags, then from the environment, then from [metaserver] of the configuration file.
#[derive(Parser)]
#[command(name = "dfs-metaserver", version, max_term_width = 110)]
struct Arguments {
    /// Configuration file (TOML). Default: the first that exists of $DFS_CONFIG, ~/.config/dfs/dfs.toml, /etc/dfs/dfs.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is logged to stderr: error, warn, info, debug or trace, for all or as target=level,… Default: info, and of the
    /// Raft library only warnings.
    #[arg(long, env = "RUST_LOG", value_name = "LEVEL")]
    log_level: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

fn main() -> ExitCode {
    match serve(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dfs-metaserver: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let level = arguments.log_level.as_deref().unwrap_or("info,openraft=warn");
    let filter = EnvFilter::try_new(level).with_context(|| format!("`log-level` = {level}"))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    stop_on_panic();
    let (path, file) = load::<ConfigFile<Settings>>(arguments.config.as_deref())?;
    let config = Config::validate(arguments.settings.over(file.metaserver))?;
    if let Some(path) = path {
        tracing::info!("settings from {}", path.display());
    }
    match descriptors::raise() {
        Ok(limit) if limit < descriptors::FEW => {
            tracing::warn!("only {limit} open files are allowed: fewer tables and connections at a time");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!("raise the limit of open files: {error}"),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(runtime_threads())
        .enable_all()
        .build()
        .context("start tokio")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let shutdown = Box::pin(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        let storage = Storage::open(&config)?;
        dfs_metaserver::run(config, Env::real(), storage, shutdown).await?;
        Ok(())
    })
}

/// A broken invariant ends the process: better one member down than two that differ.
fn stop_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}
