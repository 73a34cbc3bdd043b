//! The verbs of the command line, one file for each noun or verb: it gathers what it needs, then prints.

pub mod cluster;
pub mod down;
pub mod file;
pub mod node;
pub mod session;
pub mod status;
pub mod up;
pub mod volume;

use std::collections::BTreeSet;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::Context as _;
use dfs_net::env::Env;
use dfs_proto::federation::FederationMap;

use crate::cli::{DEFAULT_DIR, Source};
use crate::federation;
use crate::status::find::{FindError, Metaservers};
use crate::status::{FederationStatus, find, gather, judge};

/// The exit code of a command that could not do what it was asked to. It differs from 0, 1 and 2, with which `status` tells
/// how healthy the federation is. (A usage error ends with 2 too, as clap has it, before anything is asked.)
pub const EXIT_FAILED: u8 = 3;

/// The metaservers to ask: those that the flag or the environment names, else those of the configuration file.
fn metaservers(source: &Source) -> anyhow::Result<Metaservers> {
    let addresses: Vec<String> = source.federation.iter().filter(|a| !a.is_empty()).cloned().collect();
    if !addresses.is_empty() {
        return Ok(Metaservers { addresses, origin: "--federation".to_owned() });
    }
    find::configured(source.config.as_deref()).map_err(|error| match error {
        FindError::NoFile => anyhow::anyhow!(
            "{error}: start one with `dfs up`, or name one with --federation host:port or --config FILE"
        ),
        error => error.into(),
    })
}

/// The status of a federation in which at least one cluster has a leader; else an error that says what is unreachable.
async fn federation_status(env: &Env, source: &Source) -> anyhow::Result<FederationStatus> {
    let metaservers = metaservers(source)?;
    let federation = gather::federation(env, &metaservers).await;
    if federation.clusters.iter().all(|cluster| cluster.leader.is_none()) {
        anyhow::bail!("{} (found by {})", judge::federation(&federation), metaservers.origin);
    }
    Ok(federation)
}

/// The federation's map, and the addresses of metaservers to ask; an error for one cluster on its own.
async fn federation_map(env: &Env, source: &Source) -> anyhow::Result<(Vec<String>, FederationMap)> {
    let Metaservers { addresses, origin } = metaservers(source)?;
    let map = federation::newest_map(env, &addresses).await;
    let map = map.with_context(|| {
        format!(
            "no federation map: no metaserver answers, or this is one cluster on its own (found by {origin})"
        )
    })?;
    let mapped = map.clusters.iter().flat_map(|(_, entry)| entry.metaservers.clone());
    let addresses: BTreeSet<String> = addresses.into_iter().chain(mapped).collect();
    Ok((addresses.into_iter().collect(), map))
}

/// Says what is about to happen, and asks for a yes. On stderr, because stdout may be JSON.
fn is_confirmed(what_happens: &str) -> anyhow::Result<bool> {
    eprint!("{what_happens} Type yes: ");
    std::io::stderr().flush().context("ask")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    if !std::io::stdin().is_terminal() {
        eprintln!();
    }
    Ok(answer.trim() == "yes")
}

/// The flag that names a federation's directory to `dfs up` and `dfs down`, with a blank before it; empty for the default.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_goes_before_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "[federation]\nmetaservers = [\"h:1\"]\n[metaserver]\nid = 1\n";
        std::fs::write(file.path(), text).unwrap();
        let mut source = Source { config: Some(file.path().to_owned()), federation: Vec::new() };
        assert_eq!(metaservers(&source).unwrap().addresses, ["h:1"]);
        source.federation = vec!["x:2".to_owned()];
        assert_eq!(metaservers(&source).unwrap().addresses, ["x:2"]);
    }
}
