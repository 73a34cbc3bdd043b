//! The `dfs` command: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use dfs_admin::cli::Cli;

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
