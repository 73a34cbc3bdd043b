//! The errors of calls.

use dfs_client::ClientError;
use dfs_proto::units::NAME_LEN_MAX;
use thiserror::Error;

use crate::handles::Handle;

/// Why a call was refused. `errno::errno` has the number for each.
#[derive(Debug, Error)]
pub(crate) enum FsError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("handle {} is not open", .0.0)]
    BadHandle(Handle),
    /// Reading or writing an open file failed. It names the file, for the log.
    #[error("{file}: {source}")]
    File { file: String, source: ClientError },
    #[error("a name is at most {NAME_LEN_MAX} bytes long")]
    NameTooLong,
    #[error("not a name")]
    BadName,
    #[error("rename with flags {flags:#x}")]
    RenameFlags { flags: u32 },
    #[error("mknod with mode {mode:#o}")]
    NodeKind { mode: u32 },
    #[error("beyond the largest size of a file")]
    TooLarge,
    #[error("no answer in time")]
    TimedOut,
    /// The kernel asked for a lock that is none.
    #[error("no such lock")]
    BadLock,
    /// The process that waited for a lock has a signal to handle, or was killed.
    #[error("interrupted")]
    Interrupted,
    /// A lock was granted, but the kernel's pages may be older than it.
    #[error("the kernel's pages were not dropped")]
    PagesStay,
    #[error("the mount is closing")]
    Closing,
}

pub(crate) type FsResult<T> = Result<T, FsError>;
