//! V1 and V2: how long the kernel's caches, and what goes past them, may use an answer.

use std::time::Duration;

use dfs_proto::attr::FileKind;

/// V1. The kernel asks for the name of a file at each use (P5.2). So a program that opens or cuts a path gets the
/// file that has that name now, also when it has just been listed: if the kernel kept the name, `> log` right after
/// another mount's `mv log log.1` would empty `log.1`.
pub const FILE_NAME_TIMEOUT: Duration = Duration::ZERO;

/// V1. With this, a path of four components costs one look-up instead of four. It is harmless because the operation names
/// the directory's inode: in a directory that is gone it is refused, in one that has moved it happens where the directory is now.
const DIRECTORY_NAME_TIMEOUT: Duration = Duration::from_millis(50);

/// V2. The kernel asks for the attributes of a directory up to three times per component and call. Only what needs no
/// look-up can be outdated by this: `fstat`, and cached reads of a file that was open before (see
/// docs/measurements.md and SEMANTICS.md).
pub const ATTR_TIMEOUT: Duration = Duration::from_millis(50);

/// V1 and V2 for a volume whose cluster does not answer. The kernel gets a placeholder, which it must not keep.
pub const UNKNOWN_TIMEOUT: Duration = Duration::ZERO;

/// How long the kernel may keep the name of an inode of this kind (V1).
pub fn name_timeout(kind: FileKind) -> Duration {
    if kind == FileKind::Directory { DIRECTORY_NAME_TIMEOUT } else { FILE_NAME_TIMEOUT }
}
