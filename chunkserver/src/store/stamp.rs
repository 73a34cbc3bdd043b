//! Whose data directory this is (P11.1).
//!
//! `DATA/dfs-chunkserver` is a text file for people to read, made whole by one rename:
//!
//! ```text
//! dfs chunkserver directory
//! format = 1
//! directory = 0a…  (128 bits in hex: this directory, made when it was first used)
//! cluster = 5f…    (zeros until the first registration)
//! server = 3       (0 until the first registration)
//! checksum = 1a2b3c4d  (CRC-32C of the lines before it)
//! ```
//!
//! S1  A directory without a stamp is used only if it is empty.
//! S2  Cluster and server id are stamped once and never changed.
//! S3  Two processes never use one directory: `DATA/lock`.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use dfs_proto::env::Rng;
use dfs_proto::ids::{ClusterId, DirectoryId, ServerId};
use thiserror::Error;

use crate::disk::{Disk, DiskLock};

const FILE: &str = "dfs-chunkserver";
const LOCK: &str = "lock";
const FIRST_LINE: &str = "dfs chunkserver directory";
const FORMAT: u32 = 1;
/// Much more than a stamp has.
const STAMP_LEN_MAX: usize = 4096;

/// Who the directory belongs to. Unknown cluster and server 0: it was never registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub directory: DirectoryId,
    pub cluster: ClusterId,
    pub server: ServerId,
}

impl Stamp {
    pub fn is_registered(&self) -> bool {
        self.server.0 != 0 && self.cluster.is_known()
    }
}

/// Why a directory is not used. Each is one line for the person who started the server.
#[derive(Debug, Error)]
pub enum DirectoryError {
    #[error("data directory {}: {what}: {source}", path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
    #[error("data directory {} is in use by another process", path.display())]
    InUse { path: PathBuf },
    #[error("data directory {} is not empty and has no stamp of dfs-chunkserver (found {found:?})", path.display())]
    Foreign { path: PathBuf, found: String },
    #[error("data directory {}: its format is {found}, this program knows {FORMAT}: use a newer one", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error("data directory {}: its stamp {FILE} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("data directory {} belongs to {owners}", path.display())]
    OtherServer { path: PathBuf, owners: Box<Owners> },
}

/// Whom a directory belongs to, and who was said to be its owner.
#[derive(Debug)]
pub struct Owners {
    pub stamped: Stamp,
    pub given: Stamp,
}

impl fmt::Display for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Owners { stamped, given } = self;
        write!(f, "{} of cluster {}, ", stamped.server, stamped.cluster)?;
        write!(f, "but the metaserver says {} of cluster {}", given.server, given.cluster)
    }
}

/// A data directory that this process has claimed; others are locked out until it is dropped.
pub struct Directory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    stamp: Stamp,
    _lock: Box<dyn DiskLock>,
}

impl Directory {
    /// Claims the directory, making and stamping it if it is new. Blocking.
    pub fn claim(disk: Arc<dyn Disk>, path: &Path, rng: &Rng) -> Result<Directory, DirectoryError> {
        let failed = |what: &'static str| {
            move |source: io::Error| DirectoryError::Io { path: path.to_owned(), what, source }
        };
        disk.create_directory(path).map_err(failed("make it"))?;
        let names = disk.list(path).map_err(failed("list it"))?;
        let is_stamped = names.iter().any(|name| name == FILE);
        let ours = [LOCK, "lost+found", "dfs-chunkserver.new"];
        let foreign = names.iter().find(|name| !ours.iter().any(|known| name == known));
        if let (false, Some(found)) = (is_stamped, foreign) {
            let found = found.to_string_lossy().into_owned();
            return Err(DirectoryError::Foreign { path: path.to_owned(), found });
        }
        let lock = disk.lock(&path.join(LOCK)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => DirectoryError::InUse { path: path.to_owned() },
            _ => failed("lock it")(error),
        })?;
        let mut directory = Directory {
            disk,
            path: path.to_owned(),
            stamp: Stamp {
                directory: DirectoryId(rng.u128()),
                cluster: ClusterId::UNKNOWN,
                server: ServerId(0),
            },
            _lock: lock,
        };
        if is_stamped {
            directory.stamp = directory.read()?;
        } else {
            directory.write().map_err(failed("stamp it"))?;
        }
        Ok(directory)
    }

    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Writes down who the metaserver says that we are. The same again is fine. Blocking.
    pub fn register(&mut self, cluster: ClusterId, server: ServerId) -> Result<(), DirectoryError> {
        let given = Stamp { directory: self.stamp.directory, cluster, server };
        if given == self.stamp {
            return Ok(());
        }
        if self.stamp.is_registered() {
            // keeps S2
            let owners = Box::new(Owners { stamped: self.stamp, given });
            return Err(DirectoryError::OtherServer { path: self.path.clone(), owners });
        }
        let before = std::mem::replace(&mut self.stamp, given);
        self.write().map_err(|source| {
            self.stamp = before;
            DirectoryError::Io { path: self.path.clone(), what: "stamp it", source }
        })
    }

    fn write(&self) -> io::Result<()> {
        let new = self.path.join("dfs-chunkserver.new");
        match self.disk.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = self.disk.create(&new)?;
        file.write_at(&mut [IoSlice::new(encode(&self.stamp).as_bytes())], 0)?;
        file.sync()?;
        self.disk.rename(&new, &self.path.join(FILE))?;
        self.disk.sync_directory(&self.path)
    }

    fn read(&self) -> Result<Stamp, DirectoryError> {
        let failed = |source| DirectoryError::Io { path: self.path.clone(), what: "read its stamp", source };
        let file = self.disk.open(&self.path.join(FILE)).map_err(failed)?;
        let mut bytes = vec![0; STAMP_LEN_MAX];
        let len = file.read_at(&mut [IoSliceMut::new(&mut bytes)], 0).map_err(failed)?;
        bytes.truncate(len);
        decode(&bytes).map_err(|error| match error {
            BadStamp::Newer(found) => DirectoryError::Newer { path: self.path.clone(), found },
            BadStamp::Damaged(what) => {
                DirectoryError::Damaged { path: self.path.clone(), what: what.to_owned() }
            }
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum BadStamp {
    Newer(u32),
    Damaged(&'static str),
}

fn checksum(text: &str) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, text.as_bytes()) as u32
}

fn encode(stamp: &Stamp) -> String {
    let text = format!(
        "{FIRST_LINE}\nformat = {FORMAT}\ndirectory = {}\ncluster = {}\nserver = {}\n",
        stamp.directory, stamp.cluster, stamp.server.0
    );
    let sum = checksum(&text);
    format!("{text}checksum = {sum:08x}\n")
}

fn decode(bytes: &[u8]) -> Result<Stamp, BadStamp> {
    let text = std::str::from_utf8(bytes).map_err(|_| BadStamp::Damaged("not a text"))?;
    if text.lines().next() != Some(FIRST_LINE) {
        return Err(BadStamp::Damaged("not a stamp"));
    }
    let format: u32 = field(text, "format")?;
    if format != FORMAT {
        return Err(BadStamp::Newer(format));
    }
    let (before, _) = text.split_once("checksum = ").ok_or(BadStamp::Damaged("no checksum"))?;
    let sum: String = field(text, "checksum")?;
    if u32::from_str_radix(&sum, 16) != Ok(checksum(before)) {
        return Err(BadStamp::Damaged("checksum does not match"));
    }
    Ok(Stamp {
        directory: field(text, "directory")?,
        cluster: field(text, "cluster")?,
        server: ServerId(field(text, "server")?),
    })
}

fn field<T: FromStr>(text: &str, name: &str) -> Result<T, BadStamp> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    value.and_then(|value| value.parse().ok()).ok_or(BadStamp::Damaged("a field is missing or malformed"))
}

#[cfg(test)]
mod tests {
    use dfs_proto::env::Rng;
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::disk::{MemoryDisk, RealDisk};

    fn rng() -> Rng {
        Rng::seeded(1)
    }

    fn message(result: Result<Directory, DirectoryError>) -> String {
        result.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_directory_keeps_its_identity_over_restarts() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(1 << 20));
        let path = Path::new("/data");
        let mut directory = Directory::claim(Arc::clone(&disk), path, &rng()).unwrap();
        let first = directory.stamp();
        assert!(!first.is_registered());
        directory.register(ClusterId(5), ServerId(3)).unwrap();
        assert!(directory.register(ClusterId(5), ServerId(4)).is_err());
        drop(directory);
        let directory = Directory::claim(disk, path, &Rng::seeded(2)).unwrap();
        let expected = Stamp { directory: first.directory, cluster: ClusterId(5), server: ServerId(3) };
        assert_eq!(directory.stamp(), expected);
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(1 << 20));
        let _first = Directory::claim(Arc::clone(&disk), Path::new("/data"), &rng()).unwrap();
        let second = Directory::claim(disk, Path::new("/data"), &rng());
        assert_eq!(message(second), "data directory /data is in use by another process");
    }

    #[test]
    fn a_directory_with_other_files_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("thesis.txt"), "mine").unwrap();
        let claimed = Directory::claim(Arc::new(RealDisk), directory.path(), &rng());
        assert!(message(claimed).contains("not empty"), "says so");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_newer_format_and_a_damaged_stamp_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        drop(Directory::claim(Arc::new(RealDisk), directory.path(), &rng()).unwrap());
        let file = directory.path().join(FILE);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("format = 1", "format = 2")).unwrap();
        let newer = Directory::claim(Arc::new(RealDisk), directory.path(), &rng());
        assert!(message(newer).contains("its format is 2, this program knows 1"));
        std::fs::write(&file, text.replace("server = 0", "server = 1")).unwrap();
        let damaged = Directory::claim(Arc::new(RealDisk), directory.path(), &rng());
        assert!(message(damaged).contains("checksum does not match"));
    }

    proptest! {
        #[test]
        fn a_stamp_survives_a_round_trip(directory: u128, cluster: u128, server: u64) {
            let stamp = Stamp {
                directory: DirectoryId(directory), cluster: ClusterId(cluster), server: ServerId(server),
            };
            prop_assert_eq!(decode(encode(&stamp).as_bytes()), Ok(stamp));
        }

        #[test]
        fn arbitrary_bytes_are_no_stamp_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&bytes).is_err());
        }
    }
}
