//! What the `dfs` command does: starts and stops a local federation, and shows what a federation says of itself.
//!
//! * `cli` is the command tree; its doc comments are the help.
//! * `cmd` has one file per verb: collect, then print.
//! * `overview` asks every metaserver within a few seconds and joins the answers; `verdict` judges them, purely.
//! * `federation` reads and changes the map of several clusters.
//! * `local` knows the directory of a local federation: shape and ports, processes, the mount.
//! * `print` makes tables and JSON.
//!
//! Nothing here changes a federation's content; what destroys data (`down --purge`) asks first.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use dfs_net::env::Env;

pub mod cli;
pub mod cmd;
pub mod federation;
pub mod finder;
pub mod local;
pub mod overview;
pub mod print;
pub mod verdict;

/// The `dfs` command: arguments in, exit code out. An error is printed as one line.
pub fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.context("start tokio").and_then(|runtime| runtime.block_on(run(cli)));
    ended.unwrap_or_else(|error| {
        eprintln!("dfs: {error:#}");
        ExitCode::from(cmd::EXIT_FAILED)
    })
}

async fn run(cli: cli::Cli) -> anyhow::Result<ExitCode> {
    use cli::{ClusterVerb, Command, FileVerb, NodeVerb, VolumeVerb};
    let env = Env::real();
    let json = cli.json;
    match cli.command {
        Command::Up(arguments) => cmd::up::run(&env, arguments, json).await,
        Command::Down(arguments) => cmd::down::run(arguments, json).await,
        Command::Status => cmd::status::run(&env, &cli.source, json).await,
        Command::Cluster { verb } => match verb {
            ClusterVerb::List => cmd::cluster::list(&env, &cli.source, json).await,
            ClusterVerb::Join { metaservers } => cmd::cluster::join(&env, &cli.source, &metaservers).await,
            ClusterVerb::Leave { name } => cmd::cluster::leave(&env, &cli.source, &name).await,
        },
        Command::Node { verb: NodeVerb::List } => cmd::node::list(&env, &cli.source, json).await,
        Command::Volume { verb } => match verb {
            VolumeVerb::List => cmd::volume::list(&env, &cli.source, json).await,
            VolumeVerb::Create { path, cluster, mode } => {
                cmd::volume::create(&env, &cli.source, &path, cluster.as_deref(), mode).await
            }
            VolumeVerb::Show { path } => cmd::volume::show(&env, &cli.source, &path, json).await,
        },
        Command::File { verb: FileVerb::Show { path } } => {
            cmd::file::show(&env, &cli.source, &path, json).await
        }
    }
}
