//! The settings of a mount: the section `[mount]` of the configuration, under the flags.

use std::path::PathBuf;
use std::time::Duration;

use dfs_client::Durability;
use dfs_net::config::{ConfigError, ConfigFile};
use serde::Deserialize;
use serde::de::IgnoredAny;
use thiserror::Error;

use crate::cli::{Cli, MountFlags, UnknownOption};

/// The values of `durability`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DurabilityKey {
    Fsync,
    Operation,
}

impl From<DurabilityKey> for Durability {
    fn from(key: DurabilityKey) -> Durability {
        match key {
            DurabilityKey::Fsync => Durability::Fsync,
            DurabilityKey::Operation => Durability::Operation,
        }
    }
}

/// The section `[mount]`, key by key as in the file. A key that is not given is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MountSection {
    metadata_timeout_ms: Option<u64>,
    data_timeout_ms: Option<u64>,
    connect_timeout_ms: Option<u64>,
    session_memory_mib: Option<u64>,
    commit_interval_ms: Option<u64>,
    durability: Option<DurabilityKey>,
    copies: Option<u32>,
    threads: Option<usize>,
}

type File = ConfigFile<IgnoredAny, IgnoredAny, MountSection>;

/// The settings, taken from the flags, the environment, the file and the defaults, and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The addresses of some metaservers; at least one.
    pub(crate) metaservers: Vec<String>,
    pub(crate) flags: MountFlags,
    pub(crate) metadata_timeout: Duration,
    pub(crate) data_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) session_memory_bytes: u64,
    pub(crate) commit_interval: Duration,
    pub(crate) durability: Durability,
    pub(crate) copies: u32,
    /// How many threads take requests from the kernel.
    pub(crate) threads: usize,
}

#[derive(Debug, Error)]
pub(crate) enum SettingsError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Option(#[from] UnknownOption),
    #[error(
        "no federation given: use --federation host:port,…, DFS_FEDERATION, or `metaservers` in section [federation] of \
         {}", file.as_ref().map_or_else(|| "a configuration file".to_owned(), |file| file.display().to_string())
    )]
    NoFederation { file: Option<PathBuf> },
    #[error("federation address `{address}`: host:port is expected")]
    BadAddress { address: String },
    #[error("{key} = {given}: it must be between {min} and {max}")]
    OutOfRange { key: &'static str, given: u64, min: u64, max: u64 },
}

/// Longer than any time-out that makes sense. It keeps sums of time-outs from overflowing.
const TIMEOUT_MS_MAX: u64 = 3_600_000;
const TIMEOUT_MS_MIN: u64 = 100;
/// Below it, each write would soon be a commit of its own.
const COMMIT_INTERVAL_MS_MIN: u64 = 10;
/// Memory for the writes in flight of several files, each of 1 MiB.
const SESSION_MEMORY_MIB_MIN: u64 = 16;
const SESSION_MEMORY_MIB_MAX: u64 = 1 << 20;
/// Each thread has a read buffer of 16 MiB (of which only what was used is resident).
const THREADS_MAX: usize = 64;
/// Two threads take more requests than the tokio runtime behind them answers on a small machine; more than eight only
/// contend for the kernel's queue.
const THREADS_DEFAULT: std::ops::RangeInclusive<usize> = 2..=8;

impl Settings {
    pub(crate) fn load(cli: &Cli) -> Result<Settings, SettingsError> {
        let (path, file) = dfs_net::config::load::<File>(cli.config.as_deref())?;
        Settings::merge(cli, file, path)
    }

    fn merge(cli: &Cli, file: File, path: Option<PathBuf>) -> Result<Settings, SettingsError> {
        let mut metaservers = cli.federation.clone();
        metaservers.retain(|address| !address.trim().is_empty());
        if metaservers.is_empty() {
            metaservers = file.federation.metaservers;
        }
        if metaservers.is_empty() {
            return Err(SettingsError::NoFederation { file: path });
        }
        for address in &metaservers {
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
            if port.and_then(|port| port.parse::<u16>().ok()).is_none() {
                return Err(SettingsError::BadAddress { address: address.clone() });
            }
        }
        let section = file.mount;
        let timeout = |key, flag: Option<u64>, file: Option<u64>, default| {
            in_range(key, flag.or(file).unwrap_or(default), TIMEOUT_MS_MIN, TIMEOUT_MS_MAX)
                .map(Duration::from_millis)
        };
        let memory_mib = cli.session_memory_mib.or(section.session_memory_mib).unwrap_or(256);
        let flags = MountFlags::parse(cli.options.iter().map(String::as_str))?;
        let commit_interval_ms = cli.commit_interval_ms.or(section.commit_interval_ms).unwrap_or(1_000);
        let durability = flags.durability.or(section.durability.map(Durability::from)).unwrap_or_default();
        let threads = cli.threads.or(section.threads).unwrap_or_else(default_threads);
        Ok(Settings {
            metaservers,
            flags,
            metadata_timeout: timeout(
                "metadata_timeout_ms",
                cli.metadata_timeout_ms,
                section.metadata_timeout_ms,
                30_000,
            )?,
            data_timeout: timeout("data_timeout_ms", cli.data_timeout_ms, section.data_timeout_ms, 30_000)?,
            connect_timeout: timeout(
                "connect_timeout_ms",
                cli.connect_timeout_ms,
                section.connect_timeout_ms,
                2_000,
            )?,
            session_memory_bytes: in_range(
                "session_memory_mib",
                memory_mib,
                SESSION_MEMORY_MIB_MIN,
                SESSION_MEMORY_MIB_MAX,
            )? << 20,
            commit_interval: in_range(
                "commit_interval_ms",
                commit_interval_ms,
                COMMIT_INTERVAL_MS_MIN,
                TIMEOUT_MS_MAX,
            )
            .map(Duration::from_millis)?,
            durability,
            copies: cli.copies.or(section.copies).unwrap_or(0),
            threads: in_range("threads", threads as u64, 1, THREADS_MAX as u64)? as usize,
        })
    }
}

fn default_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    processors.clamp(*THREADS_DEFAULT.start(), *THREADS_DEFAULT.end())
}

fn in_range(key: &'static str, given: u64, min: u64, max: u64) -> Result<u64, SettingsError> {
    if (min..=max).contains(&given) {
        Ok(given)
    } else {
        Err(SettingsError::OutOfRange { key, given, min, max })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;

    fn settings(arguments: &[&str], toml: &str) -> Result<Settings, SettingsError> {
        let cli = Cli::parse_from(["dfs-mount", "/mnt"].iter().chain(arguments));
        let file = dfs_net::config::parse::<File>(Path::new("dfs.toml"), toml)?;
        Settings::merge(&cli, file, Some(PathBuf::from("dfs.toml")))
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let toml = "[federation]\nmetaservers = [\"a:1\"]\n[mount]\ndata_timeout_ms = 500\nmetadata_timeout_ms = 700\n";
        let settings = settings(&["--federation", "b:2,c:3", "--data-timeout-ms", "900"], toml).unwrap();
        assert_eq!(settings.metaservers, ["b:2", "c:3"]);
        assert_eq!(settings.data_timeout, Duration::from_millis(900));
        assert_eq!(settings.metadata_timeout, Duration::from_millis(700));
        assert_eq!(settings.connect_timeout, Duration::from_millis(2000));
    }

    #[test]
    fn durability_is_an_option_or_a_key_and_its_default_is_fsync() {
        let federation = ["--federation", "b:2"];
        let durability = |arguments: &[&str], toml: &str| {
            settings(&[&federation, arguments].concat(), toml).map(|settings| settings.durability).ok()
        };
        assert_eq!(durability(&[], ""), Some(Durability::Fsync));
        let operation = "[mount]\ndurability = \"operation\"\ncommit_interval_ms = 20\n";
        assert_eq!(durability(&[], operation), Some(Durability::Operation));
        assert_eq!(durability(&["-o", "durability=fsync"], operation), Some(Durability::Fsync));
        assert_eq!(durability(&[], "[mount]\ndurability = \"never\"\n"), None);
    }

    #[test]
    fn an_unknown_key_of_the_section_is_refused_with_the_nearest_one() {
        let error = settings(&["--federation", "b:2"], "[mount]\ntreads = 3\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("`threads`"), "{error}");
    }

    #[test]
    fn without_a_federation_the_error_says_where_to_name_it() {
        let error = settings(&[], "").unwrap_err().to_string();
        assert!(error.contains("--federation") && error.contains("dfs.toml"), "{error}");
    }

    #[test]
    fn values_out_of_range_and_addresses_without_a_port_are_refused() {
        for bad in [["--threads", "0"], ["--data-timeout-ms", "5"], ["--federation", "host"]] {
            let error = settings(&bad, "[federation]\nmetaservers = [\"a:1\"]\n");
            assert!(error.is_err(), "{bad:?}");
        }
    }
}
