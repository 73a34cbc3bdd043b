//! `dfs volume list`.

use std::process::ExitCode;

use dfs_proto::env::Env;

use super::led;
use crate::cli::Source;
use crate::print::{self, Table};

pub async fn list(env: &Env, source: &Source, json: bool) -> anyhow::Result<ExitCode> {
    let (_, _, leader) = led(env, source).await?;
    if json {
        print::json(&leader.volumes)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["volume", "name", "cluster", "inodes"]);
    for volume in leader.volumes {
        table.row([volume.number.to_string(), volume.name, volume.cluster, volume.inodes.to_string()]);
    }
    print!("{}", table.render());
    Ok(ExitCode::SUCCESS)
}
