//! One file per noun or verb: collect, then print.

pub mod cluster;
pub mod down;
pub mod file;
pub mod node;
pub mod status;
pub mod up;
pub mod volume;

use std::path::Path;

use dfs_proto::env::Env;

use crate::cli::{DEFAULT_DIR, Source};
use crate::overview::{self, Cluster, Leader, Overview};
use crate::{finder, verdict};

/// The overview of a federation that has a leader; else an error that says what is unreachable.
async fn led(env: &Env, source: &Source) -> anyhow::Result<(Overview, Cluster, Leader)> {
    let found = finder::find(source)?;
    let overview = overview::collect(env, &found.metaservers, &found.origin).await;
    match (overview.cluster.clone(), overview.leader.clone()) {
        (Some(cluster), Some(leader)) => Ok((overview, cluster, leader)),
        (_, _) => anyhow::bail!("{} (found by {})", verdict::judge(&overview).line(), found.origin),
    }
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
