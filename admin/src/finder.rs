//! Which metaservers to ask, and how long each.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use dfs_net::config::{self, ConfigFile};

use crate::cli::Source;

/// For one round of questions, connecting included. Two rounds fit into the 3 s of `dfs status`: those configured, then
/// those that they name.
pub const ASK_DEADLINE: Duration = Duration::from_millis(1200);

/// Addresses of metaservers, and where they come from, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub metaservers: Vec<String>,
    pub origin: String,
}

/// Flag or environment first, then the configuration file.
pub fn find(source: &Source) -> anyhow::Result<Found> {
    let given: Vec<String> = source.federation.iter().filter(|a| !a.is_empty()).cloned().collect();
    if !given.is_empty() {
        return Ok(Found { metaservers: given, origin: "--federation".to_owned() });
    }
    let (path, file): (Option<PathBuf>, ConfigFile) = config::load(source.config.as_deref())?;
    let path = path.context(
        "no federation is configured: start one with `dfs up`, or name one with --federation host:port or --config FILE",
    )?;
    let metaservers = file.federation.metaservers;
    anyhow::ensure!(
        !metaservers.is_empty(),
        "{}: section [federation] has no `metaservers` (a list of host:port)",
        path.display()
    );
    Ok(Found { metaservers, origin: path.display().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::NamedTempFile, Source) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let source = Source { config: Some(file.path().to_owned()), federation: Vec::new() };
        (file, source)
    }

    #[test]
    fn a_flag_goes_before_the_file() {
        let (_file, mut source) = config("[federation]\nmetaservers = [\"h:1\"]\n[metaserver]\nid = 1\n");
        assert_eq!(find(&source).unwrap().metaservers, ["h:1"]);
        source.federation = vec!["x:2".to_owned()];
        assert_eq!(find(&source).unwrap().metaservers, ["x:2"]);
    }

    #[test]
    fn a_file_without_metaservers_is_named_in_the_error() {
        let (file, source) = config("[federation]\n");
        let error = find(&source).unwrap_err().to_string();
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }
}
