//! The configuration file: where it is found and how it is read. Errors name the line, and the known key that is nearest to an
//! unknown one.
//!
//! One TOML file may serve all daemons of a machine. Each daemon reads `[federation]` and its own section, and refuses keys there
//! that it does not know. A flag wins over its environment variable, that over the file, and that over the default.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use thiserror::Error;

/// The section `[federation]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Federation {
    /// gRPC addresses (`host:port`) of some metaservers. Any of them can tell the addresses of all others.
    pub metaservers: Vec<String>,
}

/// The whole file. A daemon gives the type of its own section, and the other daemons' sections are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    bound = "M: DeserializeOwned + Default, C: DeserializeOwned + Default, T: DeserializeOwned + Default"
)]
pub struct ConfigFile<M = IgnoredAny, C = IgnoredAny, T = IgnoredAny> {
    pub federation: Federation,
    pub metaserver: M,
    pub chunkserver: C,
    pub mount: T,
}

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}, line {line}: {what}")]
    Parse { path: PathBuf, line: usize, what: String },
}

/// The path of the file: `explicit` if it is given, else `$DFS_CONFIG` if it is set (either must exist), else the first that
/// exists of `~/.config/dfs/dfs.toml` and `/etc/dfs/dfs.toml`.
pub fn find(explicit: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = explicit {
        return Some(path.to_owned());
    }
    if let Some(path) = std::env::var_os("DFS_CONFIG").filter(|p| !p.is_empty()) {
        return Some(path.into());
    }
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/dfs/dfs.toml"));
    home.into_iter().chain([PathBuf::from("/etc/dfs/dfs.toml")]).find(|path| path.exists())
}

/// Finds, reads and parses the file, and returns its path too. Without a file, all settings are the defaults.
pub fn load<F: DeserializeOwned + Default>(
    explicit: Option<&Path>,
) -> Result<(Option<PathBuf>, F), ConfigError> {
    let Some(path) = find(explicit) else { return Ok((None, F::default())) };
    let text =
        std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    parse(&path, &text).map(|file| (Some(path), file))
}

/// Parses the text of the file at `path`, which the error names.
pub fn parse<F: DeserializeOwned>(path: &Path, text: &str) -> Result<F, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text[..start].matches('\n').count() + 1;
        ConfigError::Parse { path: path.to_owned(), line, what: explain(error.message()) }
    })
}

/// Adds the nearest known key to serde's message about an unknown field.
fn explain(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (true, [unknown, known @ ..]) = (message.starts_with("unknown field"), quoted.as_slice()) else {
        return message.replace('\n', " ");
    };
    let nearest = known.iter().min_by_key(|key| distance(unknown, key));
    match nearest {
        Some(nearest) => format!("unknown key `{unknown}`; the nearest known one is `{nearest}`"),
        None => format!("unknown key `{unknown}`; none is known here"),
    }
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Section {
        listen: String,
        heartbeat_interval_ms: u64,
    }

    type File = ConfigFile<IgnoredAny, Section>;

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_key() {
        let text = "[federation]\nmetaservers = [\"a:1\"]\n\n[chunkserver]\nheartbeat_intervall_ms = 3\n";
        let error = parse::<File>(Path::new("x.toml"), text).unwrap_err().to_string();
        assert!(error.contains("x.toml, line 5"), "{error}");
        assert!(error.contains("nearest known one is `heartbeat_interval_ms`"), "{error}");
    }

    #[test]
    fn an_unknown_section_is_refused_and_other_daemons_sections_are_ignored() {
        assert!(parse::<File>(Path::new("x.toml"), "[chunkservr]\n").is_err());
        let text = "[metaserver]\nanything = 1\n[chunkserver]\nlisten = \"h:1\"\nheartbeat_interval_ms = 7\n";
        let file = parse::<File>(Path::new("x.toml"), text).unwrap();
        assert_eq!((file.chunkserver.listen.as_str(), file.chunkserver.heartbeat_interval_ms), ("h:1", 7));
    }
}
