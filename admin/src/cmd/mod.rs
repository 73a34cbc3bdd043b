//! One file per noun or verb: collect, then print.

pub mod cluster;
pub mod down;
pub mod file;
pub mod node;
pub mod status;
pub mod up;
pub mod volume;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use dfs_net::env::Env;
use dfs_proto::federation::FederationMap;

use crate::cli::{DEFAULT_DIR, Source};
use crate::overview::{self, Federation};
use crate::{federation, finder, verdict};

/// The command could not do what it was asked to. Chosen apart from the verdicts 0, 1 and 2 of `status` but for
/// usage errors, which clap ends with 2 before anything was asked.
pub const EXIT_FAILED: u8 = 3;

/// A federation of which at least one cluster has a leader; else an error that says what is unreachable.
async fn found(env: &Env, source: &Source) -> anyhow::Result<Federation> {
    let found = finder::find(source)?;
    let federation = overview::collect(env, &found.metaservers, &found.origin).await;
    if federation.clusters.iter().all(|cluster| cluster.leader.is_none()) {
        anyhow::bail!("{} (found by {})", verdict::judge_all(&federation).line(), found.origin);
    }
    Ok(federation)
}

/// The federation's map, and metaservers to ask; an error for one cluster on its own.
async fn map(env: &Env, source: &Source) -> anyhow::Result<(Vec<String>, FederationMap)> {
    let found = finder::find(source)?;
    let map = federation::newest_map(env, &found.metaservers).await;
    let map = map.with_context(|| {
        format!(
            "no federation map: no metaserver answers, or this is one cluster on its own (found by {})",
            found.origin
        )
    })?;
    let mapped = map.clusters.iter().flat_map(|(_, entry)| entry.metaservers.clone());
    let addresses: BTreeSet<String> = found.metaservers.into_iter().chain(mapped).collect();
    Ok((addresses.into_iter().collect(), map))
}

/// What names a federation's directory to `dfs up` and `dfs down`.
fn dir_flag(dir: &Path) -> String {
    if dir == Path::new(DEFAULT_DIR) { String::new() } else { format!(" --dir {}", dir.display()) }
}

fn dash(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { "-".to_owned() } else { text }
}

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
