//! The stamp of a data directory, its file `MEMBER`: its format, whose directory it is, and how far its log has come.
//!
//! `MEMBER` is the first file that is made. As long as it does not say how far the log has come, the directory is still being
//! made, and nothing in it was used yet. Once it does, all other files must be there (`examine`).
//!
//! ST1  The log has come at least as far as the stamp says: the stamp is written after the batch that it names was synced.
//! ST2  Each start writes the stamp again, so that what an earlier process failed to sync is on the disk.

use std::io;
use std::path::Path;
use std::sync::Arc;

use dfs_net::env::Rng;
use dfs_proto::ids::{ClusterId, DirectoryId, MemberId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::raft::log::disk::{LogDisk, WholeFile};
use crate::raft::log::recover::Reached;

/// The format of a metaserver's data directory as a whole. It is raised whenever an earlier release could not read what is written
/// now, so that it refuses the directory before it reads anything.
///
/// 7: the log may have entries of version 7, and the state the table of who may write. 6: entries of version 6, and an orphan several
/// holders. 5: the second versions of inodes, extents and chunks, and the table of space. 4: the stamp says how far the log has
/// come, and each segment whose it is. 3: volumes can be made and removed. 2: names of entries are values, not keys.
const DIRECTORY_FORMAT: u32 = 7;
/// The oldest format that can be read. The first start makes it [`DIRECTORY_FORMAT`] (ST2).
const DIRECTORY_FORMAT_BEFORE: u32 = 3;
const KIND: &str = "dfs-metaserver";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) member: MemberId,
    pub(crate) directory: DirectoryId,
    /// Unknown until the cluster is made.
    pub(crate) cluster: ClusterId,
    /// The log has come at least so far. `None`: the directory is being made, or was written by a release before format 4.
    pub(crate) reached: Option<Reached>,
    /// The data directory of this process's member of the federation group, if it has ever had one.
    pub(crate) seat: Option<DirectoryId>,
}

/// A data directory that this member must not use.
#[derive(Debug, Error)]
pub enum StampError {
    #[error("data directory: {0}")]
    Io(#[from] io::Error),
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
    #[error(
        "the data directory belongs to {actual}, its MEMBER file says, this is {expected}: give it the directory of its own"
    )]
    Member { actual: MemberId, expected: MemberId },
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
    #[serde(skip_serializing_if = "Option::is_none")]
    log_sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_batch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seat: Option<String>,
    /// The CRC-32C of the lines before it, in hexadecimal. Since format 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
}

/// The fields that every format has.
#[derive(Deserialize)]
struct AnyFormat {
    kind: String,
    format: u32,
}

fn checksum(text: &str) -> String {
    format!("{:08x}", crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, text.as_bytes()) as u32)
}

fn unreadable(what: impl ToString) -> StampError {
    StampError::Unreadable { what: what.to_string() }
}

impl Stamp {
    /// The stamp of a directory that is used for the first time.
    pub(crate) fn new(member: MemberId, rng: &Rng) -> Stamp {
        let directory = DirectoryId(rng.u128());
        Stamp { member, directory, cluster: ClusterId::UNKNOWN, reached: None, seat: None }
    }

    /// `None` if the directory has no stamp yet.
    pub(crate) async fn read(disk: &dyn LogDisk, member: MemberId) -> Result<Option<Stamp>, StampError> {
        let Some(bytes) = disk.read_whole(WholeFile::Stamp).await? else { return Ok(None) };
        let stamp = Stamp::parse(&bytes)?;
        if stamp.member != member {
            return Err(StampError::Member { actual: stamp.member, expected: member });
        }
        Ok(Some(stamp))
    }

    fn encode(&self) -> io::Result<String> {
        let file = File {
            kind: KIND.to_owned(),
            format: DIRECTORY_FORMAT,
            member: self.member.0,
            directory: self.directory.to_string(),
            cluster: self.cluster.is_known().then(|| self.cluster.to_string()),
            log_sequence: self.reached.map(|reached| reached.sequence),
            log_batch: self.reached.map(|reached| reached.batch),
            seat: self.seat.map(|seat| seat.to_string()),
            checksum: None,
        };
        let text = toml::to_string(&file).map_err(io::Error::other)?;
        let sum = checksum(&text);
        Ok(format!("{text}checksum = \"{sum}\"\n"))
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Stamp, StampError> {
        let text = std::str::from_utf8(bytes).map_err(unreadable)?;
        if text.trim().is_empty() {
            return Err(unreadable("it is empty"));
        }
        let first_line = |error: toml::de::Error| unreadable(error.message().replace('\n', " "));
        let any: AnyFormat = toml::from_str(text).map_err(first_line)?;
        if any.kind != KIND {
            return Err(StampError::Kind { actual: any.kind });
        }
        if any.format > DIRECTORY_FORMAT {
            return Err(StampError::Newer { actual: any.format });
        }
        if any.format < DIRECTORY_FORMAT_BEFORE {
            return Err(StampError::Older { actual: any.format });
        }
        let file: File = toml::from_str(text).map_err(first_line)?;
        if any.format >= 4 {
            let (before, _) = text
                .rsplit_once("checksum = ")
                .ok_or_else(|| unreadable("it was cut: it has no checksum"))?;
            if file.checksum != Some(checksum(before)) {
                return Err(unreadable("its checksum does not match"));
            }
        }
        let parse_id =
            |name: &str, id: Option<String>| match id.map(|id| id.parse::<DirectoryId>()).transpose() {
                Ok(id) => Ok(id),
                Err(error) => Err(unreadable(format!("{name}: {error}"))),
            };
        let directory = parse_id("directory", Some(file.directory))?.unwrap_or_default();
        let cluster = parse_id("cluster", file.cluster)?.map_or(ClusterId::UNKNOWN, |id| ClusterId(id.0));
        let seat = parse_id("seat", file.seat)?;
        let reached = file.log_sequence.zip(file.log_batch);
        let reached = reached.map(|(sequence, batch)| Reached { sequence, batch });
        Ok(Stamp { member: MemberId(file.member), directory, cluster, reached, seat })
    }
}

/// The data directory of the federation group's member, as the stamp in `data` says. `None` also if the stamp cannot be read; the
/// error is then reported when the directory is opened.
pub fn seat_in(data: &Path) -> Option<DirectoryId> {
    let bytes = std::fs::read(data.join(WholeFile::Stamp.name())).ok()?;
    Stamp::parse(&bytes).ok()?.seat
}

/// The stamp and its file.
pub(crate) struct StampFile {
    disk: Arc<dyn LogDisk>,
    /// Locked while the file is written, so that changes follow each other.
    stamp: tokio::sync::Mutex<Stamp>,
}

impl StampFile {
    pub(crate) fn new(disk: Arc<dyn LogDisk>, stamp: Stamp) -> StampFile {
        StampFile { disk, stamp: tokio::sync::Mutex::new(stamp) }
    }

    pub(crate) async fn get(&self) -> Stamp {
        *self.stamp.lock().await
    }

    /// When this returns `Ok`, the changed stamp is on the disk. After an error the old one still counts.
    pub(crate) async fn change(&self, change: impl FnOnce(&mut Stamp)) -> io::Result<()> {
        let mut held = self.stamp.lock().await;
        let mut changed = *held;
        change(&mut changed);
        self.disk.write_whole(WholeFile::Stamp, changed.encode()?.into_bytes()).await?;
        *held = changed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::raft::log::disk::SimulatedDisk;

    fn simulated() -> Arc<dyn LogDisk> {
        Arc::new(SimulatedDisk::new(Duration::ZERO))
    }

    #[tokio::test]
    async fn a_stamp_keeps_what_it_says() {
        let (disk, rng) = (simulated(), Rng::seeded(1));
        assert_eq!(Stamp::read(&*disk, MemberId(2)).await.unwrap(), None);
        let file = StampFile::new(disk.clone(), Stamp::new(MemberId(2), &rng));
        file.change(|stamp| stamp.cluster = ClusterId(77)).await.unwrap();
        file.change(|stamp| stamp.reached = Some(Reached { sequence: 3, batch: 400 })).await.unwrap();
        file.change(|stamp| stamp.seat = Some(DirectoryId(5))).await.unwrap();
        assert_eq!(Stamp::read(&*disk, MemberId(2)).await.unwrap(), Some(file.get().await));
    }

    #[tokio::test]
    async fn a_stamp_that_was_cut_or_changed_anywhere_is_refused() {
        let mut stamp = Stamp::new(MemberId(2), &Rng::seeded(1));
        stamp.reached = Some(Reached { sequence: 3, batch: 400 });
        let text = stamp.encode().unwrap();
        assert_eq!(Stamp::parse(text.as_bytes()).unwrap(), stamp);
        for len in 0..text.len() - 1 {
            assert!(Stamp::parse(&text.as_bytes()[..len]).is_err(), "cut at {len}");
        }
        for at in 0..text.len() - 1 {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            assert!(Stamp::parse(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_stamp_of_the_format_before_is_read() {
        let text =
            "kind = \"dfs-metaserver\"\nformat = 3\nmember = 2\ndirectory = \"0a\"\ncluster = \"0b\"\n";
        let stamp = Stamp::parse(text.as_bytes()).unwrap();
        assert_eq!((stamp.directory, stamp.cluster), (DirectoryId(10), ClusterId(11)));
        assert_eq!((stamp.reached, stamp.seat), (None, None));
    }

    #[tokio::test]
    async fn a_foreign_or_newer_or_older_or_broken_directory_is_refused_with_what_is_wrong() {
        let (disk, rng) = (simulated(), Rng::seeded(1));
        let file = StampFile::new(disk.clone(), Stamp::new(MemberId(2), &rng));
        file.change(|_| {}).await.unwrap();
        let error = Stamp::read(&*disk, MemberId(1)).await.unwrap_err().to_string();
        assert!(error.contains("metaserver 2") && error.contains("metaserver 1"), "{error}");
        for (stamp, expected) in [
            ("kind = \"dfs-metaserver\"\nformat = 9\nnew = true\n", "format 9, this release reads 7: update"),
            ("kind = \"dfs-chunkserver\"\nformat = 1\n", "dfs-chunkserver"),
            ("kind = \"dfs-metaserver\"\nformat = 1\n", "format 1, this release reads 7 and converts none"),
            ("\u{1}garbage", "cannot be read"),
            ("", "is empty"),
        ] {
            disk.write_whole(WholeFile::Stamp, stamp.as_bytes().to_vec()).await.unwrap();
            let error = Stamp::read(&*disk, MemberId(2)).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
