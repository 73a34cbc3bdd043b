//! Bugs made on purpose: the simulation has to find each of them, or it is too weak.
//!
//! They exist only with the cargo feature `planted`, which no crate turns on by itself; without it [`has`] is `false`
//! at compile time. Every program asserts in its `main.rs` that [`POSSIBLE`] is false, so that none can be built with
//! them, however features are unified. `DFS_SIM_PLANT` names the one that is there.

/// True in a build that can have them.
pub const POSSIBLE: bool = cfg!(feature = "planted");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Chunkservers answer every sync of a chunk but the first without making it.
    SkippedSync,
    /// Every second write to the Raft log is not synced.
    SkippedLogSync,
    /// The leader answers some changes that no quorum has yet.
    ReplyBeforeCommit,
    /// A request that was executed is executed again when it is sent again.
    RetryAppliedTwice,
}

impl Bug {
    pub const ALL: [Bug; 4] =
        [Bug::SkippedSync, Bug::SkippedLogSync, Bug::ReplyBeforeCommit, Bug::RetryAppliedTwice];

    /// As `DFS_SIM_PLANT` names it.
    pub fn name(self) -> &'static str {
        match self {
            Bug::SkippedSync => "skipped_sync",
            Bug::SkippedLogSync => "skipped_log_sync",
            Bug::ReplyBeforeCommit => "reply_before_commit",
            Bug::RetryAppliedTwice => "retry_applied_twice",
        }
    }
}

/// Is this bug planted in this process?
#[cfg(feature = "planted")]
pub fn has(bug: Bug) -> bool {
    static PLANTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    PLANTED.get_or_init(|| std::env::var("DFS_SIM_PLANT").unwrap_or_default()) == bug.name()
}

/// Is this bug planted in this process?
#[cfg(not(feature = "planted"))]
pub const fn has(_: Bug) -> bool {
    false
}
