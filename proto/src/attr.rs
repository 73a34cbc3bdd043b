//! What an inode is to everyone who looks at it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::InodeId;
use crate::units::{ByteLen, NAME_LEN_MAX};

/// Wall-clock time: seconds and nanoseconds since 1970, before it with negative seconds. `nanos` is below 1,000,000,000.
///
/// It has no order on purpose: clocks jump, and of two times the greater one need not be the later one (P7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanos: u32,
}

const NANOS: i128 = 1_000_000_000;

impl Timestamp {
    /// Nanoseconds since 1970: to tell how far two clocks are apart.
    pub fn as_nanos(self) -> i128 {
        i128::from(self.seconds) * NANOS + i128::from(self.nanos)
    }

    /// The inverse; ends where `seconds` do.
    pub fn from_nanos(nanos: i128) -> Timestamp {
        let seconds = nanos.div_euclid(NANOS).clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        Timestamp { seconds: seconds as i64, nanos: nanos.rem_euclid(NANOS) as u32 }
    }

    /// What a clock that showed this shows when so much has passed.
    pub fn after(self, passed: Duration) -> Timestamp {
        Timestamp::from_nanos(self.as_nanos() + passed.as_nanos() as i128)
    }

    /// The greater one. Only for two times that one clock has given to one inode.
    pub fn latest(self, other: Timestamp) -> Timestamp {
        if self.as_nanos() < other.as_nanos() { other } else { self }
    }

    /// From milliseconds since 1970.
    pub fn from_millis(millis: i64) -> Timestamp {
        Timestamp { seconds: millis.div_euclid(1000), nanos: (millis.rem_euclid(1000) * 1_000_000) as u32 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// What `stat` shows. `mode` has the twelve permission bits only (07777); the kind is `kind`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InodeAttr {
    pub inode: InodeId,
    pub kind: FileKind,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes of a file; of a symlink its target's length; of a directory its number of entries.
    pub size: ByteLen,
    /// Bytes of the file that extents cover: what `st_blocks` counts (a hole costs nothing).
    pub allocated: ByteLen,
    /// Of a device, as `makedev` packs it in 32 bits.
    pub rdev: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// Raised by every change of content (extents, size): equal versions mean equal bytes.
    pub content_version: u64,
}

/// One component of a path: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name(Vec<u8>);

/// Why bytes are not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    TooLong,
    Invalid,
}

impl Name {
    /// Checks the bytes; the only way to make one.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Name, BadName> {
        let bytes = bytes.into();
        if bytes.len() > NAME_LEN_MAX {
            return Err(BadName::TooLong);
        }
        let reserved = bytes.is_empty() || bytes == b"." || bytes == b"..";
        if reserved || bytes.iter().any(|&b| b == b'/' || b == 0) {
            return Err(BadName::Invalid);
        }
        Ok(Name(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// On whose behalf a request is made (P5.6): every request names its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// `None`: not looked up yet. The server answers `GroupsNeeded` when they would decide.
    pub groups: Option<Vec<u32>>,
}

impl Caller {
    pub const ROOT: Caller = Caller { uid: 0, gid: 0, groups: None };

    /// Root passes every permission check but execute on a file without any x bit.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }
}

/// Bits of `access(2)`: 4 read, 2 write, 1 execute or search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessMask(pub u8);

impl AccessMask {
    pub const NONE: AccessMask = AccessMask(0);
    pub const EXECUTE: AccessMask = AccessMask(1);
    pub const WRITE: AccessMask = AccessMask(2);
    pub const READ: AccessMask = AccessMask(4);

    pub fn union(self, other: AccessMask) -> AccessMask {
        AccessMask(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_path_component() {
        assert!(Name::new("file").is_ok());
        assert_eq!(Name::new(vec![b'x'; 256]), Err(BadName::TooLong));
        for bad in ["", ".", "..", "a/b", "a\0b"] {
            assert_eq!(Name::new(bad), Err(BadName::Invalid), "{bad:?}");
        }
    }

    #[test]
    fn times_before_1970_survive_a_round_trip_through_nanoseconds() {
        let time = Timestamp { seconds: -2, nanos: 500_000_000 };
        assert_eq!(time.as_nanos(), -1_500_000_000);
        assert_eq!(Timestamp::from_nanos(-1_500_000_000), time);
        assert_eq!(Timestamp::from_millis(-1500), time);
        assert_eq!(time.after(Duration::from_secs(2)), Timestamp { seconds: 0, nanos: 500_000_000 });
    }
}
