//! The stamp of a data directory, which says which server it belongs to (P11.1).
//!
//! `DATA/dfs-chunkserver` is a text file that people can read, replaced whole by a rename. `DATA/chunks/owner` has the same
//! lines, so that chunks of another server, or a stamp of another day, are noticed.
//!
//! ```text
//! dfs chunkserver directory
//! format = 2       (1: there was no `chunks/owner`)
//! directory = 0a…  (128 bits in hex: this directory, made when it was first used)
//! cluster = 5f…    (zeros until the first registration)
//! server = 3       (0 until the first registration)
//! checksum = 1a2b3c4d  (CRC-32C of the lines before it)
//! ```
//!
//! S1  A directory without a stamp is used only if it is empty.
//! S2  Cluster and server id are stamped once and never changed.
//! S3  Two processes never use one directory: `DATA/lock`.
//! S4  A directory is made in this order: the stamp, the directories of the chunks, their owner. It is registered in this
//!     order: the stamp, then the owner. A directory of an earlier format gets the owner first, then a stamp of this format.
//!     So a registered stamp implies that all the others are there, and a registered owner implies that the stamp is
//!     registered. A directory that contradicts this, because something is missing, damaged or of another server, is refused
//!     before anything in it is changed. The files of the chunks are not looked at: their damage is found when they are read.
//! S5  Each start writes both files again, so that what an earlier process failed to sync is on the disk then.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use dfs_net::env::Rng;
use dfs_proto::ids::{ClusterId, DirectoryId, ServerId};
use thiserror::Error;

use crate::disk::{Disk, DiskLock};

const FILE: &str = "dfs-chunkserver";
const LOCK: &str = "lock";
const CHUNKS: &str = "chunks";
const OWNER: &str = "owner";
const FIRST_LINE: &str = "dfs chunkserver directory";
const FORMAT: u32 = 2;
/// The format before. A directory of it is accepted and becomes one of [`FORMAT`].
const FORMAT_BEFORE: u32 = 1;
/// Much more than the length of a stamp.
const STAMP_LEN_MAX: usize = 4096;

/// The server that a directory belongs to. The cluster is unknown and the server 0 until it is registered.
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

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "directory {}", self.directory)?;
        match self.is_registered() {
            true => write!(f, " of {} of cluster {}", self.server, self.cluster),
            false => write!(f, " of no server yet"),
        }
    }
}

/// Why a directory is refused. Each is one line for the person who started the server.
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
    #[error(
        "data directory {}: {what}; nothing in it was changed: the way out is to replace this server or to restore its \
         directory, and this version can do neither",
        path.display()
    )]
    Contradiction { path: PathBuf, what: String },
    #[error("data directory {} belongs to {owners}", path.display())]
    OtherServer { path: PathBuf, owners: Box<Owners> },
}

/// The owner that a directory is stamped with, and the one that the metaserver names.
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

/// A data directory that this process has claimed. Other processes cannot claim it until this is dropped.
pub struct Directory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    stamp: Stamp,
    _lock: Box<dyn DiskLock>,
}

impl Directory {
    /// Claims the directory; makes and stamps it if it is new. Blocks.
    pub fn claim(disk: Arc<dyn Disk>, path: &Path, rng: &Rng) -> Result<Directory, DirectoryError> {
        let failed = |what: &'static str| {
            move |source: io::Error| DirectoryError::Io { path: path.to_owned(), what, source }
        };
        let is_made = disk.list(path).is_ok();
        disk.create_directory(path).map_err(failed("make it"))?;
        let names = disk.list(path).map_err(failed("list it"))?;
        let is_stamped = names.iter().any(|name| name == FILE);
        let ours = [LOCK, "lost+found", "dfs-chunkserver.new"];
        let foreign = names.iter().find(|name| !ours.iter().any(|known| name == known));
        if let (false, Some(found)) = (is_stamped, foreign) {
            if names.iter().any(|name| name == CHUNKS) {
                let what =
                    format!("{FILE} is missing, but {CHUNKS} is there: whose chunks they are is not known");
                return Err(DirectoryError::Contradiction { path: path.to_owned(), what });
            }
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
            directory.stamp = directory.read_whole()?;
        }
        // A new directory gets the stamp first. One of an earlier format gets it last, because it implies the others (S4).
        if !is_stamped {
            directory.write(FILE).map_err(failed("stamp it"))?;
        }
        make_shards(directory.disk.as_ref(), path).map_err(failed("make the directories of the chunks"))?;
        directory.renew(&format!("{CHUNKS}/{OWNER}")).map_err(failed("say whose the chunks are"))?;
        if is_stamped {
            directory.renew(FILE).map_err(failed("stamp it"))?;
        }
        // Also if it was there: who made it may have been killed before that was on the disk. Of a registered one it is.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|_| !is_made || !directory.stamp.is_registered()) {
            match directory.disk.sync_directory(parent) {
                // Somebody else made it, where this user may not look.
                Err(error) if is_made && error.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced.map_err(failed("sync the directory it is in"))?,
            }
        }
        Ok(directory)
    }

    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Stamps the directory with the server that the metaserver says this is. Repeating that is fine. Blocks.
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
        self.write(FILE).and_then(|()| self.write_owner()).map_err(|source| {
            self.stamp = before;
            DirectoryError::Io { path: self.path.clone(), what: "stamp it", source }
        })
    }

    fn write_owner(&self) -> io::Result<()> {
        self.write(&format!("{CHUNKS}/{OWNER}"))
    }

    /// Writes a file again (keeps S5). On a disk that takes no writes the file stays as it is, so that chunks can still be
    /// read and deleted.
    fn renew(&self, name: &str) -> io::Result<()> {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let written = self.write(name);
        let takes_nothing =
            |error: &io::Error| matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem);
        match written {
            Err(error) if takes_nothing(&error) && self.says_so(name) => {
                tracing::warn!(path = %self.path.display(), %error, "{name} stays as it is");
                Ok(())
            }
            written => written,
        }
    }

    /// Whether the file has what would be written.
    fn says_so(&self, name: &str) -> bool {
        matches!(self.read(name), Ok(Some((stamp, FORMAT))) if stamp == self.stamp)
    }

    /// Writes the stamp to this file.
    fn write(&self, name: &str) -> io::Result<()> {
        let (new, whole) = (self.path.join(format!("{name}.new")), self.path.join(name));
        match self.disk.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = self.disk.create(&new)?;
        file.write_at(&mut [IoSlice::new(encode(&self.stamp).as_bytes())], 0)?;
        file.sync()?;
        self.disk.rename(&new, &whole)?;
        self.disk.sync_directory(whole.parent().unwrap_or(&self.path))
    }

    fn contradiction(&self, what: String) -> DirectoryError {
        DirectoryError::Contradiction { path: self.path.clone(), what }
    }

    /// Reads the stamp; an error if something in the directory contradicts it (S4).
    fn read_whole(&self) -> Result<Stamp, DirectoryError> {
        let owner_file = format!("{CHUNKS}/{OWNER}");
        let missing = |name: &str| {
            self.contradiction(format!("{name} is missing, but {FILE} says that this directory is in use"))
        };
        let (stamp, format) = self.read(FILE)?.ok_or_else(|| missing(FILE))?;
        let owner = self.read(&owner_file)?.map(|(owner, _)| owner);
        if let Some(owner) = owner
            && (owner.directory != stamp.directory || (owner.is_registered() && owner != stamp))
        {
            let what =
                format!("{FILE} says {stamp}, but {owner_file} says {owner}: one of the two was replaced");
            return Err(self.contradiction(what));
        }
        if stamp.is_registered() {
            if owner.is_none() && format > FORMAT_BEFORE {
                return Err(missing(&owner_file));
            }
            let shards = match self.disk.list(&self.path.join(CHUNKS)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let (path, what) = (self.path.clone(), "list the directories of its chunks");
                    return Err(DirectoryError::Io { path, what, source: error });
                }
                shards => shards.unwrap_or_default(),
            };
            let lost =
                (0..=u8::MAX).map(shard_name).find(|name| !shards.iter().any(|shard| shard == name.as_str()));
            if let Some(lost) = lost {
                let lost = if shards.is_empty() { CHUNKS.to_owned() } else { format!("{CHUNKS}/{lost}") };
                return Err(missing(&lost));
            }
        }
        Ok(stamp)
    }

    /// The stamp in a file, and its format; `None` if the file is missing.
    fn read(&self, name: &str) -> Result<Option<(Stamp, u32)>, DirectoryError> {
        let failed = |source| DirectoryError::Io { path: self.path.clone(), what: "read its stamp", source };
        let file = match self.disk.open(&self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let mut bytes = vec![0; STAMP_LEN_MAX];
        let len = file.read_at(&mut [IoSliceMut::new(&mut bytes)], 0).map_err(failed)?;
        bytes.truncate(len);
        decode(&bytes).map(Some).map_err(|error| match error {
            BadStamp::Newer(found) => DirectoryError::Newer { path: self.path.clone(), found },
            BadStamp::Damaged(what) => self.contradiction(format!("{name} is damaged: {what}")),
        })
    }
}

/// Makes the directories of the chunks, as far as they do not exist. They are synced each time, because the process that made
/// them may have been killed before it did.
pub(super) fn make_shards(disk: &dyn Disk, data: &Path) -> io::Result<()> {
    let chunks = data.join(CHUNKS);
    for shard in 0..=u8::MAX {
        disk.create_directory(&chunks.join(shard_name(shard)))?;
    }
    disk.sync_directory(&chunks)?;
    disk.sync_directory(data)
}

pub(super) fn shard_name(shard: u8) -> String {
    format!("{shard:02x}")
}

#[derive(Debug, PartialEq, Eq)]
enum BadStamp {
    Newer(u32),
    Damaged(&'static str),
}

pub(super) fn checksum(text: &str) -> u32 {
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

/// Decodes a stamp; returns its format too.
fn decode(bytes: &[u8]) -> Result<(Stamp, u32), BadStamp> {
    if bytes.is_empty() {
        return Err(BadStamp::Damaged("it is empty"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| BadStamp::Damaged("not a text"))?;
    if text.lines().next() != Some(FIRST_LINE) {
        return Err(BadStamp::Damaged("not a stamp"));
    }
    let format: u32 = field(text, "format")?;
    if !(FORMAT_BEFORE..=FORMAT).contains(&format) {
        return Err(BadStamp::Newer(format));
    }
    let (before, _) = text.split_once("checksum = ").ok_or(BadStamp::Damaged("no checksum"))?;
    let sum: String = field(text, "checksum")?;
    if u32::from_str_radix(&sum, 16) != Ok(checksum(before)) {
        return Err(BadStamp::Damaged("checksum does not match"));
    }
    let stamp = Stamp {
        directory: field(text, "directory")?,
        cluster: field(text, "cluster")?,
        server: ServerId(field(text, "server")?),
    };
    Ok((stamp, format))
}

fn field<T: FromStr>(text: &str, name: &str) -> Result<T, BadStamp> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    value.and_then(|value| value.parse().ok()).ok_or(BadStamp::Damaged("a field is missing or malformed"))
}

#[cfg(test)]
mod tests {
    use dfs_net::env::Rng;
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
        std::fs::write(&file, text.replace("format = 2", "format = 3")).unwrap();
        let newer = Directory::claim(Arc::new(RealDisk), directory.path(), &rng());
        assert!(message(newer).contains("its format is 3, this program knows 2"));
        std::fs::write(&file, text.replace("server = 0", "server = 1")).unwrap();
        let damaged = Directory::claim(Arc::new(RealDisk), directory.path(), &rng());
        assert!(message(damaged).contains("checksum does not match"));
    }

    #[test]
    fn a_directory_of_the_format_before_is_read_and_gets_an_owner_of_its_chunks() {
        let directory = tempfile::tempdir().unwrap();
        let mut claimed = Directory::claim(Arc::new(RealDisk), directory.path(), &rng()).unwrap();
        claimed.register(ClusterId(5), ServerId(3)).unwrap();
        let stamp = claimed.stamp();
        drop(claimed);
        let (file, owner) = (directory.path().join(FILE), directory.path().join("chunks/owner"));
        let text = encode(&stamp).replace("format = 2", "format = 1");
        let (before, _) = text.split_once("checksum").unwrap();
        std::fs::write(&file, format!("{before}checksum = {:08x}\n", checksum(before))).unwrap();
        std::fs::remove_file(&owner).unwrap();
        assert_eq!(Directory::claim(Arc::new(RealDisk), directory.path(), &rng()).unwrap().stamp(), stamp);
        assert_eq!(decode(&std::fs::read(owner).unwrap()), Ok((stamp, FORMAT)));
    }

    proptest! {
        #[test]
        fn a_stamp_survives_a_round_trip(directory: u128, cluster: u128, server: u64) {
            let stamp = Stamp {
                directory: DirectoryId(directory), cluster: ClusterId(cluster), server: ServerId(server),
            };
            prop_assert_eq!(decode(encode(&stamp).as_bytes()), Ok((stamp, FORMAT)));
        }

        #[test]
        fn arbitrary_bytes_are_no_stamp_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&bytes).is_err());
        }
    }
}
