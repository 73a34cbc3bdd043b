//! The settings of a chunkserver: the sections `[chunkserver]` and `[federation]` of the configuration file. The environment
//! and the flags take precedence over it (`main.rs`).

use std::path::PathBuf;
use std::time::Duration;

use dfs_net::config::Federation;
use serde::Deserialize;
use serde::de::IgnoredAny;
use thiserror::Error;

use crate::store::FullBelow;

/// The whole configuration file. The sections of other daemons are not looked at.
pub type File = dfs_net::config::ConfigFile<IgnoredAny, Section>;

/// The section `[chunkserver]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Section {
    /// The directory for the chunks; it is made if it does not exist.
    pub data: PathBuf,
    /// The address of the gRPC port, which serves the handshake, and the chunk service for other languages. Port 0 is any
    /// free one.
    pub listen: String,
    /// The address that others get instead of `listen`; needed if that is a wildcard.
    pub advertise: String,
    /// The address of the frame port, which carries the data.
    pub frames_listen: String,
    /// The address that others get instead of `frames_listen`.
    pub frames_advertise: String,
    /// The address of `/metrics` and `/healthz`; empty for none.
    pub http: String,
    /// Any name. The replicas of a chunk are placed in different zones if possible.
    pub zone: String,
    pub heartbeat_interval_ms: u64,
    /// The server takes no more appends when its disk has less free than the larger of this and `full_below_percent`.
    pub full_below_bytes: u64,
    pub full_below_percent: u64,
    /// How many threads read and write.
    pub io_threads: usize,
    /// How many threads sync and delete.
    pub sync_threads: usize,
    /// How long a client waits for data. Other replicas get a sixth of it for an append, and half of it for a sync.
    pub data_deadline_ms: u64,
    pub connect_deadline_ms: u64,
}

impl Default for Section {
    fn default() -> Section {
        Section {
            data: PathBuf::from("/var/lib/dfs/chunkserver"),
            listen: "127.0.0.1:7420".to_owned(),
            advertise: String::new(),
            frames_listen: "127.0.0.1:7421".to_owned(),
            frames_advertise: String::new(),
            http: "127.0.0.1:7422".to_owned(),
            zone: String::new(),
            heartbeat_interval_ms: 1000,
            full_below_bytes: 256 << 20,
            full_below_percent: 5,
            io_threads: 16,
            sync_threads: 8,
            data_deadline_ms: 30_000,
            connect_deadline_ms: 2000,
        }
    }
}

/// Everything [`crate::start`] needs to know.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub federation: Federation,
    pub chunkserver: Section,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("no metaserver is configured: set [federation] metaservers, DFS_FEDERATION or --federation")]
    NoMetaserver,
    #[error("{key} is {value:?}, which is not host:port")]
    Address { key: &'static str, value: String },
    #[error("{key} is {found}, it must be from {min} to {max}")]
    OutOfRange { key: &'static str, found: u64, min: u64, max: u64 },
    #[error("{listen_key} is {listen:?}: others cannot connect to that, set {advertise_key}")]
    NotAdvertised { listen_key: &'static str, listen: String, advertise_key: &'static str },
    #[error("data is empty: name a directory")]
    NoData,
}

impl Config {
    pub fn validate(&self) -> Result<(), ConfigError> {
        let section = &self.chunkserver;
        if self.federation.metaservers.is_empty() {
            return Err(ConfigError::NoMetaserver);
        }
        for metaserver in &self.federation.metaservers {
            check_address("metaservers", metaserver)?;
        }
        if section.data.as_os_str().is_empty() {
            return Err(ConfigError::NoData);
        }
        check_pair("listen", &section.listen, "advertise", &section.advertise)?;
        check_pair("frames_listen", &section.frames_listen, "frames_advertise", &section.frames_advertise)?;
        if !section.http.is_empty() {
            check_address("http", &section.http)?;
        }
        let ranges = [
            ("heartbeat_interval_ms", section.heartbeat_interval_ms, 50, 2000),
            ("full_below_percent", section.full_below_percent, 0, 90),
            ("io_threads", section.io_threads as u64, 1, 256),
            ("sync_threads", section.sync_threads as u64, 1, 256),
            ("data_deadline_ms", section.data_deadline_ms, 1000, 600_000),
            ("connect_deadline_ms", section.connect_deadline_ms, 100, 60_000),
        ];
        for (key, found, min, max) in ranges {
            if !(min..=max).contains(&found) {
                return Err(ConfigError::OutOfRange { key, found, min, max });
            }
        }
        Ok(())
    }
}

impl Section {
    pub fn full_below(&self) -> FullBelow {
        FullBelow { bytes: self.full_below_bytes, percent: self.full_below_percent }
    }

    pub fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis(self.heartbeat_interval_ms)
    }

    pub fn data_deadline(&self) -> Duration {
        Duration::from_millis(self.data_deadline_ms)
    }

    pub fn connect_deadline(&self) -> Duration {
        Duration::from_millis(self.connect_deadline_ms)
    }
}

fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}

fn check_address(key: &'static str, value: &str) -> Result<(), ConfigError> {
    match host_and_port(value) {
        Some(_) => Ok(()),
        None => Err(ConfigError::Address { key, value: value.to_owned() }),
    }
}

fn check_pair(
    listen_key: &'static str,
    listen: &str,
    advertise_key: &'static str,
    advertise: &str,
) -> Result<(), ConfigError> {
    check_address(listen_key, listen)?;
    if !advertise.is_empty() {
        return check_address(advertise_key, advertise);
    }
    if is_wildcard(listen) {
        return Err(ConfigError::NotAdvertised { listen_key, listen: listen.to_owned(), advertise_key });
    }
    Ok(())
}

fn is_wildcard(address: &str) -> bool {
    host_and_port(address).is_some_and(|(host, _)| ["0.0.0.0", "[::]", "::"].contains(&host))
}

/// Whether only this machine can connect to the address.
pub(crate) fn is_loopback(address: &str) -> bool {
    host_and_port(address).is_some_and(|(host, _)| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        let file: File = dfs_net::config::parse(Path::new("dfs.toml"), text).unwrap();
        Config { federation: file.federation, chunkserver: file.chunkserver }
    }

    #[test]
    fn a_file_of_several_daemons_is_read_and_the_rest_has_defaults() {
        let text =
            "[federation]\nmetaservers = [\"a:1\"]\n[metaserver]\nx = 1\n[chunkserver]\nzone = \"rack 7\"\n";
        let config = config(text);
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.chunkserver, Section { zone: "rack 7".to_owned(), ..Section::default() });
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_key() {
        let refused = |section: &str| {
            let text = format!("[federation]\nmetaservers = [\"a:1\"]\n[chunkserver]\n{section}\n");
            config(&text).validate().unwrap_err().to_string()
        };
        assert!(refused("listen = \"nowhere\"").starts_with("listen is \"nowhere\""));
        assert!(refused("frames_listen = \"0.0.0.0:7\"").ends_with("set frames_advertise"));
        assert!(refused("heartbeat_interval_ms = 9000").contains("from 50 to 2000"));
        assert_eq!(config("").validate(), Err(ConfigError::NoMetaserver));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let parsed = dfs_net::config::parse::<File>(Path::new("dfs.toml"), "[chunkserver]\nzoen = \"a\"\n");
        let message = parsed.unwrap_err().to_string();
        assert!(message.contains("line 2") && message.contains("`zone`"), "{message}");
    }

    #[test]
    fn only_addresses_of_this_machine_are_loopback() {
        assert!(is_loopback("127.0.0.1:1") && is_loopback("[::1]:1") && is_loopback("localhost:1"));
        assert!(!is_loopback("0.0.0.0:1") && !is_loopback("10.0.0.1:1"));
    }
}
