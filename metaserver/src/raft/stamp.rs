//! Whose data directory this is: format, member, directory id, and the cluster once it is known.

use dfs_proto::env::Rng;
use dfs_proto::ids::{ClusterId, DirectoryId, MemberId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::log_disk::{LogDisk, WholeFile};

/// Of everything in a metaserver's data directory together. 2: names of entries are values, not keys.
/// 3: volumes come and go.
const DIRECTORY_FORMAT: u32 = 3;
const KIND: &str = "dfs-metaserver";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) member: MemberId,
    pub(crate) directory: DirectoryId,
    /// Unknown until the cluster is made.
    pub(crate) cluster: ClusterId,
}

/// A data directory that this member must not use.
#[derive(Debug, Error)]
pub enum StampError {
    #[error("data directory: {0}")]
    Io(#[from] std::io::Error),
    #[error("the data directory's MEMBER file cannot be read: {what}")]
    Unreadable { what: String },
    #[error("the data directory belongs to {actual}, not to a metaserver")]
    Kind { actual: String },
    #[error(
        "the data directory has format {actual}, this release reads {DIRECTORY_FORMAT}: update dfs-metaserver"
    )]
    Newer { actual: u32 },
    #[error(
        "the data directory has format {actual}, this release reads {DIRECTORY_FORMAT} and converts none: run the \
         release that wrote it, and copy the files from its mount to one of this release"
    )]
    Older { actual: u32 },
    #[error("the data directory belongs to {actual}, this is {expected}: give it the directory of its own")]
    Member { actual: MemberId, expected: MemberId },
    #[error("the data directory holds a log but no MEMBER file: it is not whole")]
    Missing,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kind: String,
    format: u32,
    member: u64,
    directory: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
}

/// What every format has.
#[derive(Deserialize)]
struct AnyFormat {
    kind: String,
    format: u32,
}

impl Stamp {
    /// Reads it, or makes it in a fresh directory.
    pub(crate) async fn load(disk: &dyn LogDisk, member: MemberId, rng: &Rng) -> Result<Stamp, StampError> {
        let Some(bytes) = disk.read_whole(WholeFile::Stamp).await? else {
            if !disk.list().await?.is_empty() {
                return Err(StampError::Missing);
            }
            let stamp = Stamp { member, directory: DirectoryId(rng.u128()), cluster: ClusterId::UNKNOWN };
            stamp.store(disk).await?;
            return Ok(stamp);
        };
        let stamp = Stamp::parse(&bytes)?;
        if stamp.member != member {
            return Err(StampError::Member { actual: stamp.member, expected: member });
        }
        Ok(stamp)
    }

    pub(crate) async fn store(&self, disk: &dyn LogDisk) -> Result<(), StampError> {
        let file = File {
            kind: KIND.to_owned(),
            format: DIRECTORY_FORMAT,
            member: self.member.0,
            directory: self.directory.to_string(),
            cluster: self.cluster.is_known().then(|| self.cluster.to_string()),
        };
        let text = toml::to_string(&file).map_err(std::io::Error::other)?;
        Ok(disk.write_whole(WholeFile::Stamp, text.into_bytes()).await?)
    }

    fn parse(bytes: &[u8]) -> Result<Stamp, StampError> {
        let unreadable = |what: String| StampError::Unreadable { what };
        let text = std::str::from_utf8(bytes).map_err(|error| unreadable(error.to_string()))?;
        let first_line = |error: toml::de::Error| unreadable(error.message().replace('\n', " "));
        let any: AnyFormat = toml::from_str(text).map_err(first_line)?;
        if any.kind != KIND {
            return Err(StampError::Kind { actual: any.kind });
        }
        if any.format > DIRECTORY_FORMAT {
            return Err(StampError::Newer { actual: any.format });
        }
        if any.format < DIRECTORY_FORMAT {
            return Err(StampError::Older { actual: any.format });
        }
        let file: File = toml::from_str(text).map_err(first_line)?;
        let directory = file.directory.parse().map_err(|error| unreadable(format!("directory: {error}")))?;
        let cluster = match file.cluster {
            None => ClusterId::UNKNOWN,
            Some(cluster) => cluster.parse().map_err(|error| unreadable(format!("cluster: {error}")))?,
        };
        Ok(Stamp { member: MemberId(file.member), directory, cluster })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::raft::log_disk::SimulatedDisk;

    #[tokio::test]
    async fn a_directory_keeps_its_id_and_its_cluster() {
        let (disk, rng) = (SimulatedDisk::new(Duration::ZERO), Rng::seeded(1));
        let mut first = Stamp::load(&disk, MemberId(2), &rng).await.unwrap();
        first.cluster = ClusterId(77);
        first.store(&disk).await.unwrap();
        assert_eq!(Stamp::load(&disk, MemberId(2), &rng).await.unwrap(), first);
    }

    #[tokio::test]
    async fn a_foreign_or_newer_or_older_or_broken_directory_is_refused_with_what_is_wrong() {
        let (disk, rng) = (SimulatedDisk::new(Duration::ZERO), Rng::seeded(1));
        Stamp::load(&disk, MemberId(2), &rng).await.unwrap();
        let error = Stamp::load(&disk, MemberId(1), &rng).await.unwrap_err().to_string();
        assert!(error.contains("metaserver 2") && error.contains("metaserver 1"), "{error}");
        for (stamp, expected) in [
            ("kind = \"dfs-metaserver\"\nformat = 9\nnew = true\n", "format 9, this release reads 3: update"),
            ("kind = \"dfs-chunkserver\"\nformat = 1\n", "dfs-chunkserver"),
            ("kind = \"dfs-metaserver\"\nformat = 1\n", "format 1, this release reads 3 and converts none"),
            ("\u{1}garbage", "cannot be read"),
        ] {
            disk.write_whole(WholeFile::Stamp, stamp.as_bytes().to_vec()).await.unwrap();
            let error = Stamp::load(&disk, MemberId(2), &rng).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
