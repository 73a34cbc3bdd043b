//! What a metaserver keeps on disk, and where. A directory that holds something else is left alone.

use std::io;
use std::path::Path;
use std::sync::Arc;

use dfs_net::descriptors;
use dfs_proto::units::{ByteLen, MIB};

use crate::config::Config;
use crate::error::ServeError;
use crate::raft;
use crate::raft::log::disk::{FileDisk, LogDisk};
use crate::rocks::{RocksHome, RocksOptions};
use dfs_state::kv::KvHome;

/// Where a metaserver keeps what survives it.
pub struct Storage {
    pub cluster: GroupStorage,
    /// Of a member of the federation group.
    pub federation: Option<GroupStorage>,
}

/// Where a member of one Raft group keeps its part.
pub struct GroupStorage {
    pub log: Arc<dyn LogDisk>,
    pub state: Arc<dyn KvHome>,
}

/// What a metaserver's data directory may hold before its stamp (`MEMBER`) is written.
const BEFORE_THE_STAMP: [&str; 4] = ["LOCK", "MEMBER.new", "state", FEDERATION];
/// Below the data directory: what the federation group's member keeps.
pub(crate) const FEDERATION: &str = "federation";
/// The map's state is small.
const FEDERATION_MEMORY: ByteLen = ByteLen(4 * MIB);

impl Storage {
    /// The Raft log and the stamp in `config.data`, the state in `config.data/state`, the same of the federation group in
    /// `config.data/federation`; made if they are not there. A directory that holds something else is left alone.
    pub fn open(config: &Config) -> Result<Storage, ServeError> {
        let data = &config.data;
        let refuse = |what: String| ServeError::Storage { data: data.clone(), what };
        if let Some(stranger) = stranger_in(data).map_err(|error| refuse(error.to_string()))? {
            return Err(refuse(format!("it holds {stranger} and is no metaserver's directory")));
        }
        let open_files = RocksOptions::open_files_of(descriptors::obtained());
        let (block_cache, write_buffers) = (config.block_cache, config.write_buffer);
        let limits = RocksOptions { block_cache, write_buffers, open_files };
        let cluster = GroupStorage::open(data, limits).map_err(|error| refuse(error.to_string()))?;
        let is_member = config.federation.as_ref().is_some_and(|federation| federation.own.is_some());
        let (block_cache, write_buffers) = (FEDERATION_MEMORY, FEDERATION_MEMORY);
        let small = RocksOptions { block_cache, write_buffers, open_files };
        let seat = data.join(FEDERATION);
        // Opening it would make it.
        if let Some(lost) = raft::seat_in(data).filter(|_| is_member && !seat.exists()) {
            let why = raft::Contradiction::OtherSeat { expected: lost, actual: None };
            return Err(ServeError::Start { data: seat, why: why.into() });
        }
        let federation = is_member.then(|| GroupStorage::open(&seat, small)).transpose();
        Ok(Storage { cluster, federation: federation.map_err(|error| refuse(error.to_string()))? })
    }
}

impl GroupStorage {
    fn open(directory: &Path, limits: RocksOptions) -> io::Result<GroupStorage> {
        let log = FileDisk::open(directory)?;
        let state = RocksHome::new(&directory.join("state"), limits);
        Ok(GroupStorage { log: Arc::new(log), state: Arc::new(state) })
    }
}

/// The name of something that no metaserver has put there.
fn stranger_in(data: &Path) -> io::Result<Option<String>> {
    let entries = match std::fs::read_dir(data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut stranger = None;
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name == "MEMBER" {
            return Ok(None);
        }
        if !BEFORE_THE_STAMP.contains(&name.as_str()) {
            stranger = Some(name);
        }
    }
    Ok(stranger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn a_directory_with_something_else_in_it_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().expect("temp dir");
        let data = directory.path().join("data");
        let settings = Settings { id: Some(1), data: Some(data.clone()), ..Settings::default() };
        let config = Config::validate(settings).expect("sound settings");
        Storage::open(&config).map(drop).expect("a fresh one is made");
        Storage::open(&config).map(drop).expect("it has no stamp yet, and is ours");
        std::fs::write(data.join("thesis.txt"), "mine").expect("writable");
        let line = Storage::open(&config).map(drop).expect_err("not ours").to_string();
        assert!(line.contains("thesis.txt") && line.contains(data.to_str().expect("text")), "{line}");
    }
}
