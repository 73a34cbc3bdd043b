//! The settings of a metaserver. A flag wins over its environment variable, that over `[metaserver]` in the file, and that over
//! the default.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use dfs_proto::ids::MemberId;
use dfs_proto::units::{ByteLen, KIB, MIB, REPLICAS_MAX};
use serde::Deserialize;
use thiserror::Error;

/// The settings as flags, environment variables or the file give them; `None` if they do not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// This metaserver's number in `bootstrap`, 1 or more. It must never change, nor be given to another metaserver. No default.
    #[arg(long, env = "DFS_METASERVER_ID", value_name = "NUMBER")]
    pub id: Option<u64>,
    /// Name of the cluster, for people. It is used when the cluster is made, and must be the same on all members. Default: local.
    #[arg(long, env = "DFS_METASERVER_CLUSTER", value_name = "NAME")]
    pub cluster: Option<String>,
    /// Directory for the Raft log and the state. It is made if it does not exist. No default.
    #[arg(long, env = "DFS_METASERVER_DATA", value_name = "DIRECTORY")]
    pub data: Option<PathBuf>,
    /// host:port for gRPC (clients, chunkservers, other metaservers). Default: 127.0.0.1:7000. There is no authentication
    /// yet: everyone who reaches this address can read and change everything.
    #[arg(long, env = "DFS_METASERVER_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// host:port at which others reach `listen`. Default: this metaserver's address in `bootstrap`, else `listen`.
    #[arg(long, env = "DFS_METASERVER_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// host:port for /metrics (Prometheus) and /healthz. If it is empty, they are not served. Default: 127.0.0.1:7001.
    #[arg(long, env = "DFS_METASERVER_HTTP", value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// The first members of the cluster, this one included, as 1=host:port,2=host:port,…: 1, 3 or 5 members, the same on all of
    /// them. In the file: [{ id = 1, address = "host:port" }, …]. Default: this metaserver alone.
    #[arg(long, env = "DFS_METASERVER_BOOTSTRAP", value_name = "ID=HOST:PORT", value_delimiter = ',')]
    pub bootstrap: Option<Vec<BootstrapMember>>,
    /// The members of the federation group, as 1=host:port,2=host:port,…: gRPC addresses of 1, 3 or 5 metaservers of different
    /// clusters, the same on all. The numbers have nothing to do with `id`. In the file: [{ id = 1, address = "host:port" }, …].
    /// Default: none; then there is only this cluster, and all directories are in one volume.
    #[arg(
        long,
        env = "DFS_METASERVER_FEDERATION_MEMBERS",
        value_name = "ID=HOST:PORT",
        value_delimiter = ','
    )]
    pub federation_members: Option<Vec<BootstrapMember>>,
    /// This metaserver's number in `federation_members`, if it is one of them.
    #[arg(long, env = "DFS_METASERVER_FEDERATION_ID", value_name = "NUMBER")]
    pub federation_id: Option<u64>,
    /// Copies that a new chunk gets, 1 to 8. It is used when the cluster is made. Default: 2.
    #[arg(long, env = "DFS_METASERVER_COPIES", value_name = "NUMBER")]
    pub copies: Option<u32>,
    /// Copies that are enough for a new chunk while chunkservers are missing. With fewer, writes wait and then fail. It is used
    /// when the cluster is made. Default: one less than `copies`, at least 1.
    #[arg(long, env = "DFS_METASERVER_COPIES_MIN", value_name = "NUMBER")]
    pub copies_min: Option<u32>,
    /// Milliseconds of silence after which a chunkserver gets no new chunks, and its open chunks are sealed; at least 100.
    /// Default: 3000.
    #[arg(long, env = "DFS_METASERVER_SERVER_AWAY_MS", value_name = "MILLISECONDS")]
    pub server_away_ms: Option<u64>,
    /// Milliseconds of silence after which a client loses its session and what it has not written yet; at least 1000.
    /// Default: 300000.
    #[arg(long, env = "DFS_METASERVER_SESSION_EXPIRY_MS", value_name = "MILLISECONDS")]
    pub session_expiry_ms: Option<u64>,
    /// Milliseconds after which a client that was not heard loses its session when another one waits for a lock that it holds;
    /// also how long a new leader waits for those who may hold locks. 1000 to 60000. Default: 10000.
    #[arg(long, env = "DFS_METASERVER_LEASE_TERM_MS", value_name = "MILLISECONDS")]
    pub lease_term_ms: Option<u64>,
    /// Raft entries between two snapshots; at least 100. Fewer make a restart faster, but cause more writes. Default: 10000.
    #[arg(long, env = "DFS_METASERVER_SNAPSHOT_EVERY_LOGS", value_name = "ENTRIES")]
    pub snapshot_every_logs: Option<u64>,
    /// KiB of each file of the Raft log, 4 to 65536. The log is cut by whole files, which are then used again. Default: 4096.
    #[arg(long, env = "DFS_METASERVER_LOG_SEGMENT_KIB", value_name = "KIB")]
    pub log_segment_kib: Option<u64>,
    /// Milliseconds between a leader's heartbeats to the other metaservers; at least 10. At 100, three idle metaservers take
    /// 3.5 % of a core, mostly for internal timers that depend on this. Default: 300.
    #[arg(long, env = "DFS_METASERVER_RAFT_HEARTBEAT_MS", value_name = "MILLISECONDS")]
    pub raft_heartbeat_ms: Option<u64>,
    /// Milliseconds after the end of the leader's lease (which is 1.75 times this) at which a metaserver that hears no leader
    /// stands for election; at least one and a half times `raft_heartbeat_ms`. A lower value makes a failover faster, but on a
    /// slow machine causes needless ones. Default: 450.
    #[arg(long, env = "DFS_METASERVER_ELECTION_TIMEOUT_MS", value_name = "MILLISECONDS")]
    pub election_timeout_ms: Option<u64>,
    /// MiB of memory for metadata that was read; at least 1. Default: 64.
    #[arg(long, env = "DFS_METASERVER_BLOCK_CACHE_MIB", value_name = "MIB")]
    pub block_cache_mib: Option<u64>,
    /// MiB of memory for metadata that was written and is not yet flushed; at least 1. Default: 64.
    #[arg(long, env = "DFS_METASERVER_WRITE_BUFFER_MIB", value_name = "MIB")]
    pub write_buffer_mib: Option<u64>,
    /// MiB that are to stay free on the disk of `data`. With less, new files and data are refused (ENOSPC), but files can still
    /// be deleted; with less than half of it, this metaserver stops, and does not start. Default: 256.
    #[arg(long, env = "DFS_METASERVER_DISK_RESERVE_MIB", value_name = "MIB")]
    pub disk_reserve_mib: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootstrapMember {
    pub id: u64,
    pub address: String,
}

impl FromStr for BootstrapMember {
    type Err = String;
    fn from_str(text: &str) -> Result<BootstrapMember, String> {
        let (id, address) = text.split_once('=').ok_or("expected ID=HOST:PORT")?;
        let id = id.trim().parse().map_err(|_| format!("`{id}` is not a member's number"))?;
        Ok(BootstrapMember { id, address: address.trim().to_owned() })
    }
}

impl Settings {
    /// These settings, completed by those of `below`.
    pub fn over(self, below: Settings) -> Settings {
        Settings {
            id: self.id.or(below.id),
            cluster: self.cluster.or(below.cluster),
            data: self.data.or(below.data),
            listen: self.listen.or(below.listen),
            advertise: self.advertise.or(below.advertise),
            http: self.http.or(below.http),
            bootstrap: self.bootstrap.or(below.bootstrap),
            federation_members: self.federation_members.or(below.federation_members),
            federation_id: self.federation_id.or(below.federation_id),
            copies: self.copies.or(below.copies),
            copies_min: self.copies_min.or(below.copies_min),
            server_away_ms: self.server_away_ms.or(below.server_away_ms),
            session_expiry_ms: self.session_expiry_ms.or(below.session_expiry_ms),
            lease_term_ms: self.lease_term_ms.or(below.lease_term_ms),
            snapshot_every_logs: self.snapshot_every_logs.or(below.snapshot_every_logs),
            log_segment_kib: self.log_segment_kib.or(below.log_segment_kib),
            raft_heartbeat_ms: self.raft_heartbeat_ms.or(below.raft_heartbeat_ms),
            election_timeout_ms: self.election_timeout_ms.or(below.election_timeout_ms),
            block_cache_mib: self.block_cache_mib.or(below.block_cache_mib),
            write_buffer_mib: self.write_buffer_mib.or(below.write_buffer_mib),
            disk_reserve_mib: self.disk_reserve_mib.or(below.disk_reserve_mib),
        }
    }
}

/// The settings of a metaserver, complete and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub id: MemberId,
    pub cluster: String,
    pub data: PathBuf,
    pub listen: String,
    /// `None`: the address to which `listen` is bound.
    pub advertise: Option<String>,
    /// `None`: `/metrics` and `/healthz` are not served.
    pub http: Option<String>,
    /// This metaserver is among them.
    pub bootstrap: Vec<BootstrapMember>,
    pub federation: Option<FederationSeats>,
    pub copies: u32,
    pub copies_min: u32,
    pub server_away: Duration,
    pub session_expiry: Duration,
    pub lease_term: Duration,
    pub snapshot_every_logs: u64,
    pub log_segment: ByteLen,
    pub raft_heartbeat: Duration,
    pub election_timeout: Duration,
    pub block_cache: ByteLen,
    pub write_buffer: ByteLen,
    pub disk_reserve: ByteLen,
}

/// The members of the federation group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederationSeats {
    pub members: Vec<BootstrapMember>,
    /// This metaserver's number among them; `None` if it is no member.
    pub own: Option<MemberId>,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SettingError {
    #[error("`{key}` is not set, and has no default")]
    Missing { key: &'static str },
    #[error("`{key}` = {value}: {wanted}")]
    Invalid { key: &'static str, value: String, wanted: &'static str },
}

fn invalid(key: &'static str, value: impl ToString, wanted: &'static str) -> SettingError {
    SettingError::Invalid { key, value: value.to_string(), wanted }
}

fn at_least(key: &'static str, value: u64, least: u64, wanted: &'static str) -> Result<u64, SettingError> {
    if value < least { Err(invalid(key, value, wanted)) } else { Ok(value) }
}

fn address(key: &'static str, text: String) -> Result<String, SettingError> {
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(text),
        _ => Err(invalid(key, text, "expected host:port")),
    }
}

const CLUSTER_NAME_LEN_MAX: usize = 64;
const DEFAULT_LISTEN: &str = "127.0.0.1:7000";
/// Not more, because the log keeps two spare files, and fills a new file with zeros before it is used.
const LOG_SEGMENT_KIB: std::ops::RangeInclusive<u64> = 4..=65536;
/// Two of a client's heartbeats at least; and no longer than an application is patient.
const LEASE_TERM_MS: std::ops::RangeInclusive<u64> = 1000..=60_000;
const DEFAULT_HTTP: &str = "127.0.0.1:7001";

impl Config {
    /// Fills in the defaults and checks every setting.
    pub fn validate(settings: Settings) -> Result<Config, SettingError> {
        let id = settings.id.ok_or(SettingError::Missing { key: "id" })?;
        let id = MemberId(at_least("id", id, 1, "expected 1 or more")?);
        let cluster = settings.cluster.unwrap_or_else(|| "local".to_owned());
        if cluster.is_empty() || cluster.len() > CLUSTER_NAME_LEN_MAX {
            return Err(invalid("cluster", cluster, "expected 1 to 64 bytes"));
        }
        let listen = address("listen", settings.listen.unwrap_or_else(|| DEFAULT_LISTEN.to_owned()))?;
        let in_bootstrap =
            settings.bootstrap.iter().flatten().find(|m| m.id == id.0).map(|m| m.address.clone());
        let advertise =
            settings.advertise.or(in_bootstrap).map(|text| address("advertise", text)).transpose()?;
        let alone =
            || vec![BootstrapMember { id: id.0, address: advertise.clone().unwrap_or(listen.clone()) }];
        let bootstrap = check_members("bootstrap", settings.bootstrap.unwrap_or_else(alone))?;
        if bootstrap.iter().all(|member| member.id != id.0) {
            return Err(invalid("bootstrap", shown(&bootstrap), "this metaserver's `id` is not among them"));
        }
        let federation = check_federation(settings.federation_members, settings.federation_id)?;
        let http = settings.http.unwrap_or_else(|| DEFAULT_HTTP.to_owned());
        let http = (!http.is_empty()).then(|| address("http", http)).transpose()?;
        let copies = settings.copies.unwrap_or(2);
        if !(1..=REPLICAS_MAX as u32).contains(&copies) {
            return Err(invalid("copies", copies, "expected 1 to 8"));
        }
        let copies_min = settings.copies_min.unwrap_or((copies - 1).max(1));
        if !(1..=copies).contains(&copies_min) {
            return Err(invalid("copies_min", copies_min, "expected 1 to `copies`"));
        }
        let away = at_least("server_away_ms", settings.server_away_ms.unwrap_or(3000), 100, "at least 100")?;
        let expiry = settings.session_expiry_ms.unwrap_or(300_000);
        let expiry = at_least("session_expiry_ms", expiry, 1000, "at least 1000")?;
        let lease_term = settings.lease_term_ms.unwrap_or(10_000);
        if !LEASE_TERM_MS.contains(&lease_term) {
            return Err(invalid("lease_term_ms", lease_term, "expected 1000 to 60000"));
        }
        let every = settings.snapshot_every_logs.unwrap_or(10_000);
        let segment = settings.log_segment_kib.unwrap_or(4096);
        if !LOG_SEGMENT_KIB.contains(&segment) {
            return Err(invalid("log_segment_kib", segment, "expected 4 to 65536"));
        }
        let heartbeat = settings.raft_heartbeat_ms.unwrap_or(300);
        let heartbeat = at_least("raft_heartbeat_ms", heartbeat, 10, "at least 10")?;
        let election = settings.election_timeout_ms.unwrap_or(450);
        let wanted = "at least one and a half times `raft_heartbeat_ms`";
        let election = at_least("election_timeout_ms", election, heartbeat.saturating_mul(3) / 2, wanted)?;
        let mib = |key, value: Option<u64>| {
            let mib = at_least(key, value.unwrap_or(64), 1, "at least 1")?;
            Ok(ByteLen(mib.saturating_mul(MIB)))
        };
        Ok(Config {
            id,
            cluster,
            data: settings.data.ok_or(SettingError::Missing { key: "data" })?,
            listen,
            advertise,
            http,
            bootstrap,
            federation,
            copies,
            copies_min,
            server_away: Duration::from_millis(away),
            session_expiry: Duration::from_millis(expiry),
            lease_term: Duration::from_millis(lease_term),
            snapshot_every_logs: at_least("snapshot_every_logs", every, 100, "at least 100")?,
            log_segment: ByteLen(segment * KIB),
            raft_heartbeat: Duration::from_millis(heartbeat),
            election_timeout: Duration::from_millis(election),
            block_cache: mib("block_cache_mib", settings.block_cache_mib)?,
            write_buffer: mib("write_buffer_mib", settings.write_buffer_mib)?,
            disk_reserve: ByteLen(settings.disk_reserve_mib.unwrap_or(256).saturating_mul(MIB)),
        })
    }
}

fn shown(members: &[BootstrapMember]) -> String {
    members.iter().map(|m| format!("{}={}", m.id, m.address)).collect::<Vec<_>>().join(",")
}

fn check_members(
    key: &'static str,
    members: Vec<BootstrapMember>,
) -> Result<Vec<BootstrapMember>, SettingError> {
    let ids: BTreeSet<u64> = members.iter().map(|m| m.id).collect();
    let addresses: BTreeSet<&str> = members.iter().map(|m| m.address.as_str()).collect();
    if ids.len() != members.len() || ids.contains(&0) {
        return Err(invalid(key, shown(&members), "expected different ids, 1 or more"));
    }
    if addresses.len() != members.len() {
        return Err(invalid(key, shown(&members), "expected different addresses"));
    }
    if !matches!(members.len(), 1 | 3 | 5) {
        return Err(invalid(key, shown(&members), "expected 1, 3 or 5 members"));
    }
    for member in &members {
        address(key, member.address.clone())?;
    }
    Ok(members)
}

fn check_federation(
    members: Option<Vec<BootstrapMember>>,
    own: Option<u64>,
) -> Result<Option<FederationSeats>, SettingError> {
    let Some(members) = members else {
        return match own {
            Some(own) => Err(invalid("federation_id", own, "`federation_members` is not set")),
            None => Ok(None),
        };
    };
    let members = check_members("federation_members", members)?;
    if let Some(own) = own.filter(|own| members.iter().all(|member| member.id != *own)) {
        return Err(invalid("federation_id", own, "it is not among `federation_members`"));
    }
    Ok(Some(FederationSeats { members, own: own.map(MemberId) }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dfs_net::config::{ConfigFile, parse};

    use super::*;

    fn least() -> Settings {
        Settings { id: Some(1), data: Some("/data".into()), ..Settings::default() }
    }

    #[test]
    fn id_and_data_are_enough() {
        let config = Config::validate(least()).unwrap();
        assert_eq!((config.copies, config.copies_min), (2, 1));
        assert_eq!(config.bootstrap, [BootstrapMember { id: 1, address: DEFAULT_LISTEN.to_owned() }]);
    }

    #[test]
    fn a_setting_that_cannot_be_used_is_named_with_its_value() {
        let refused = |change: fn(&mut Settings)| {
            let mut settings = least();
            change(&mut settings);
            Config::validate(settings).unwrap_err().to_string()
        };
        assert_eq!(refused(|s| s.data = None), "`data` is not set, and has no default");
        assert_eq!(refused(|s| s.listen = Some("here".into())), "`listen` = here: expected host:port");
        assert_eq!(refused(|s| s.copies = Some(9)), "`copies` = 9: expected 1 to 8");
        assert_eq!(refused(|s| s.lease_term_ms = Some(999)), "`lease_term_ms` = 999: expected 1000 to 60000");
        assert_eq!(refused(|s| s.copies_min = Some(3)), "`copies_min` = 3: expected 1 to `copies`");
        let elsewhere = |s: &mut Settings| s.bootstrap = Some(vec!["2=h:1".parse().unwrap()]);
        assert_eq!(refused(elsewhere), "`bootstrap` = 2=h:1: this metaserver's `id` is not among them");
        let two =
            |s: &mut Settings| s.bootstrap = Some(vec!["1=h:1".parse().unwrap(), "2=h:2".parse().unwrap()]);
        assert!(refused(two).ends_with("expected 1, 3 or 5 members"));
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let text = "[metaserver]\nid = 2\ndata = \"/file\"\n\
                    bootstrap = [{ id = 1, address = \"a:1\" }, { id = 2, address = \"b:1\" }, { id = 3, address = \"c:1\" }]\n";
        let file: ConfigFile<Settings> = parse(Path::new("x.toml"), text).unwrap();
        let flags = Settings { data: Some("/flag".into()), ..Settings::default() };
        let config = Config::validate(flags.over(file.metaserver)).unwrap();
        assert_eq!((config.id, config.data.as_path()), (MemberId(2), Path::new("/flag")));
        assert_eq!(config.bootstrap.len(), 3);
    }
}
