//! V1 and V2: how long the kernel's caches may use answers about the federation's root directory, which is never leased (P3.2).

use std::time::Duration;

use dfs_proto::attr::FileKind;

/// V1. The kernel asks for the name of a file in the root directory at each use (P5.2). So a program that opens or cuts a path gets the
/// file that has that name now, also when it has just been listed: if the kernel kept the name, `> log` right after
/// another mount's `mv log log.1` would empty `log.1`.
const FILE_NAME_TIMEOUT: Duration = Duration::ZERO;

/// V1. Each path begins with the name of a volume. It is harmless because the operation names the directory's inode: in a directory that
/// is gone it is refused, in one that was renamed it happens where the directory is now.
const VOLUME_NAME_TIMEOUT: Duration = Duration::from_millis(50);

/// V2. The kernel asks for the root directory's attributes up to three times per path that begins there.
pub const ROOT_ATTR_TIMEOUT: Duration = Duration::from_millis(50);

/// How long the kernel may keep the name of an inode of this kind in the root directory (V1).
pub fn volume_name_timeout(kind: FileKind) -> Duration {
    if kind == FileKind::Directory { VOLUME_NAME_TIMEOUT } else { FILE_NAME_TIMEOUT }
}
