//! Reads from the configuration file which metaservers to ask.

use std::path::{Path, PathBuf};

use dfs_net::config::{self, ConfigError, ConfigFile};
use thiserror::Error;

/// Some metaservers of a federation; the others are learnt from their answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metaservers {
    /// `host:port` of their gRPC ports.
    pub addresses: Vec<String>,
    /// Where the addresses come from, for messages.
    pub origin: String,
}

/// Why no metaserver is known.
#[derive(Debug, Error)]
pub enum FindError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("no federation is configured")]
    NoFile,
    #[error("{}: section [federation] has no `metaservers` (a list of host:port)", path.display())]
    NoMetaservers { path: PathBuf },
}

/// The metaservers that the configuration file names: `file`, or the first one that exists of the usual places.
pub fn configured(file: Option<&Path>) -> Result<Metaservers, FindError> {
    let (path, file): (Option<PathBuf>, ConfigFile) = config::load(file)?;
    let path = path.ok_or(FindError::NoFile)?;
    let addresses = file.federation.metaservers;
    if addresses.is_empty() {
        return Err(FindError::NoMetaservers { path });
    }
    Ok(Metaservers { addresses, origin: path.display().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_metaservers_is_named_in_the_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[federation]\n").unwrap();
        let error = configured(Some(file.path())).unwrap_err().to_string();
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }
}
