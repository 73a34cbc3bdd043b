//! The `dfs` command: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use dfs_admin::cli::Cli;

const _: () = assert!(!dfs_proto::planted::POSSIBLE, "no program is built with planted bugs");

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match dfs_admin::run(cli).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dfs: {error:#}");
            ExitCode::from(dfs_admin::EXIT_FAILED)
        }
    }
}
