//! The one table from errors to error numbers. It is total, without a wildcard, so that a new variant must choose
//! here.

use dfs_client::ClientError;

use crate::fs::FsError;

/// An error number of Linux, above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

#[deny(clippy::wildcard_enum_match_arm)]
pub(crate) fn errno(error: &FsError) -> Errno {
    Errno(match error {
        FsError::Client(error) | FsError::File { source: error, .. } => return client_errno(error),
        FsError::BadHandle(_) => libc::EBADF,
        FsError::NameTooLong => libc::ENAMETOOLONG,
        FsError::BadName | FsError::RenameFlags { .. } | FsError::NodeKind { .. } | FsError::BadLock => {
            libc::EINVAL
        }
        FsError::TooLarge => libc::EFBIG,
        FsError::TimedOut => libc::EIO, // promise 7: an error, not a process that waits for ever
        FsError::Interrupted => libc::EINTR, // the kernel calls again after a handler that says so
        FsError::PagesStay => libc::EIO, // reading the file would show what was before the lock
        FsError::Closing => libc::EIO, // the daemon was told to end; what it accepted before is being written
    })
}

#[deny(clippy::wildcard_enum_match_arm)]
fn client_errno(error: &ClientError) -> Errno {
    Errno(match error {
        ClientError::NotFound => libc::ENOENT,
        ClientError::Exists => libc::EEXIST,
        ClientError::NotDirectory => libc::ENOTDIR,
        ClientError::IsDirectory => libc::EISDIR,
        ClientError::NotEmpty => libc::ENOTEMPTY,
        ClientError::PermissionDenied => libc::EACCES,
        ClientError::NotPermitted => libc::EPERM,
        ClientError::GroupsNeeded => libc::EACCES, // the groups were sent and did not help
        ClientError::NameTooLong => libc::ENAMETOOLONG,
        ClientError::TooManyLinks => libc::EMLINK,
        ClientError::CrossVolume => libc::EXDEV,
        ClientError::InvalidArgument { .. } => libc::EINVAL,
        ClientError::FileTooLarge => libc::EFBIG,
        ClientError::NoSpace { .. } => libc::ENOSPC,
        ClientError::Stale => libc::ESTALE, // the kernel looks the path up again by itself, once
        ClientError::NotOpenFor { .. } => libc::EBADF,
        ClientError::Unsupported { .. } => libc::ENOTSUP,
        ClientError::SessionLost => libc::EIO, // what was not committed is lost; the next call works again (P3.1)
        ClientError::LockConflict => libc::EAGAIN,
        ClientError::LockDeadlock => libc::EDEADLK,
        ClientError::TooManyLocks => libc::ENOLCK,
        ClientError::TooManyOpenFiles => libc::ENFILE,
        ClientError::LockLost => libc::EIO, // once: what the lock protected may have changed (P5.7)
        ClientError::Unavailable { .. } => libc::EIO, // the deadline has passed; the log says what did not answer
        ClientError::DataLost { .. } => libc::EIO,    // promptly, never zeros (promise 4)
        ClientError::Internal { .. } => libc::EIO,
    })
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::InodeId;
    use dfs_proto::units::Offset;

    use super::*;

    fn seen(error: ClientError) -> i32 {
        errno(&FsError::Client(error)).0
    }

    #[test]
    fn refusals_of_the_namespace_are_what_posix_calls_them() {
        assert_eq!(seen(ClientError::NotFound), libc::ENOENT);
        assert_eq!(seen(ClientError::NotEmpty), libc::ENOTEMPTY);
        assert_eq!(seen(ClientError::PermissionDenied), libc::EACCES);
        assert_eq!(seen(ClientError::NotPermitted), libc::EPERM);
        assert_eq!(seen(ClientError::CrossVolume), libc::EXDEV);
        assert_eq!(errno(&FsError::NameTooLong).0, libc::ENAMETOOLONG);
        assert_eq!(errno(&FsError::RenameFlags { flags: libc::RENAME_WHITEOUT }).0, libc::EINVAL);
    }

    #[test]
    fn whatever_lost_bytes_or_got_no_answer_is_an_io_error() {
        let what = String::new;
        let lost = ClientError::DataLost { inode: InodeId(5), offset: Offset(0), what: what() };
        for error in [ClientError::SessionLost, ClientError::Unavailable { what: what() }, lost] {
            assert_eq!(seen(error), libc::EIO);
        }
        assert_eq!(errno(&FsError::TimedOut).0, libc::EIO);
    }

    #[test]
    fn a_lock_that_is_not_granted_says_why_as_fcntl_does() {
        assert_eq!(seen(ClientError::LockConflict), libc::EAGAIN);
        assert_eq!(seen(ClientError::LockDeadlock), libc::EDEADLK);
        assert_eq!(seen(ClientError::TooManyLocks), libc::ENOLCK);
        assert_eq!(seen(ClientError::LockLost), libc::EIO);
        assert_eq!(errno(&FsError::Interrupted).0, libc::EINTR);
        assert_eq!(errno(&FsError::BadLock).0, libc::EINVAL);
    }

    #[test]
    fn a_full_federation_is_enospc() {
        assert_eq!(seen(ClientError::NoSpace { what: "every chunkserver is full".to_owned() }), libc::ENOSPC);
    }
}
