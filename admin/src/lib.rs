//! The `dfs` command starts and stops a federation on this machine, shows the status of any federation, and changes its map.
//!
//! * `cli` is the command tree; its doc comments are the help.
//! * `cmd` has one file for each noun or verb, which gathers what it needs and prints it.
//! * `status` asks every metaserver within a few seconds, joins the answers, and judges them. It is a library: a console
//!   can use it too.
//! * `federation` reads and changes the map of a federation of several clusters.
//! * `sessions` asks the leaders for their sessions, and has one ended. It is a library too.
//! * `local` knows the directory of a local federation: its shape and ports, its processes, and its mount.
//! * `print` makes tables and JSON.
//!
//! Nothing here changes the content of files. The verbs that destroy data (`down --purge`, and `session expire`, which loses
//! what a client has not written yet) ask first.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use dfs_net::env::Env;

pub mod cli;
pub mod cmd;
pub mod federation;
pub mod local;
pub mod print;
pub mod sessions;
pub mod status;

/// Runs the `dfs` command with the arguments of this process; returns its exit code. An error is printed as one line.
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
    use cli::{ClusterVerb, Command, FileVerb, NodeVerb, SessionVerb, VolumeVerb};
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
        Command::Session { verb } => match verb {
            SessionVerb::List { limit } => cmd::session::list(&env, &cli.source, limit, json).await,
            SessionVerb::Expire { id, cluster, yes } => {
                let cluster = cluster.as_deref();
                cmd::session::expire(&env, &cli.source, (cluster, id), yes, json).await
            }
        },
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
