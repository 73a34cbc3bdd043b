//! Sizes and positions. Raw numbers on disk and wire are `u32`/`u64`, little-endian.

use std::fmt;

use serde::{Deserialize, Serialize};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// A chunk holds at most this many bytes of data.
pub const CHUNK_LEN: u64 = 64 * MIB;
/// Appends that one chunk takes, so that the index of its frames stays small; its writer goes on in another one.
pub const CHUNK_APPENDS_MAX: u64 = 65_536;
/// Bytes that one checksum covers: a small read moves no more than the blocks it touches (P1.3).
pub const BLOCK_LEN: u64 = 4 * KIB;
/// One append carries at most this much; it is also the largest FUSE request.
pub const APPEND_LEN_MAX: u64 = MIB;
/// One read request of a chunk returns at most this much.
pub const READ_LEN_MAX: u64 = 4 * MIB;
/// One message of a call, encoded.
pub const MESSAGE_LEN_MAX: usize = 16 << 20;
/// Extents that one commit may name for one file (P2.2).
pub const COMMIT_EXTENTS_MAX: usize = 512;
/// Files that one commit may name, so that a Raft entry stays below 1 MiB (P7.2).
pub const COMMIT_FILES_MAX: usize = 256;
/// Replicas of a chunk, at most.
pub const REPLICAS_MAX: usize = 8;
/// Between the oldest request of a lane without an answer and the newest: the window of remembered results (P8.1).
pub const REQUEST_WINDOW: u64 = 256;
/// Lanes of a session. Only those that are used cost something.
pub const REQUEST_LANES: u8 = 24;
/// A file's size, at most: what `off_t` holds.
pub const FILE_LEN_MAX: u64 = i64::MAX as u64;
/// Bytes in one name of a directory entry.
pub const NAME_LEN_MAX: usize = 255;
/// Bytes in the target of a symbolic link (PATH_MAX less its terminator).
pub const SYMLINK_LEN_MAX: usize = 4095;
/// Hard links to one inode, at most.
pub const LINKS_MAX: u32 = 65_000;

const _: () = assert!(CHUNK_LEN.is_multiple_of(APPEND_LEN_MAX) && APPEND_LEN_MAX.is_multiple_of(BLOCK_LEN));
const _: () = assert!(READ_LEN_MAX >= APPEND_LEN_MAX);

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

unit! {
    /// A position in a file, in bytes.
    Offset
}
unit! {
    /// A position in a chunk's data (frame headers on disk are not counted), in bytes.
    ChunkOffset
}
unit! {
    /// A number of bytes.
    ByteLen
}
