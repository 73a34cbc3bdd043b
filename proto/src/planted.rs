//! Bugs made on purpose: the simulation has to find each of them, or it is too weak.
//!
//! The code that could have them asks [`has`], in programs too; only the simulation's test plants one, in a process that
//! runs one seed and ends (`tests/tests/tidy/` holds everybody else to it). That the same build runs with and without saves
//! building everything twice.

use std::sync::OnceLock;

static PLANTED: OnceLock<Bug> = OnceLock::new();

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
    /// Who is slow counts as silent: calls of the metaservers' leader have a second and a half, what is sent again is
    /// proposed again, and heartbeats are answered when the disk has everything that came before them.
    SlownessTakenForSilence,
    /// Times of inodes, and what orders, are the greater of the leader's wall clock and the last one: a clock that was ahead
    /// once is believed for ever.
    WallClockOrders,
    /// What was written to a file is not committed before the file is renamed.
    UncommittedRename,
    /// A Raft log with a segment whose first write was torn by a power cut, and with a later segment, is not opened.
    TornSegmentRefused,
    /// A lease is given on an inode while a change of it is under way.
    GrantsWhileFrozen,
    /// A change is applied first, and then recalls what others hold.
    RecallsAfterApply,
    /// A new leader changes what others may still serve under leases of the leader before.
    ChangesBeforeLeasesEnd,
    /// A heartbeat renews leases that are being recalled.
    RenewsWhatIsRecalled,
    /// A client answers from its copy when its leases have ended.
    ServesAfterTheLease,
    /// A read does not wait for what another session has written and not committed.
    WritesUnseen,
    /// A new leader shows and changes files before those that may have written them have told it so.
    LapsedWriterComesBack,
    /// A client says that it holds Write of a file no longer before what it wrote is committed.
    ReturnsBeforeCommit,
    /// The answer to a recall does not name what was opened under the lease.
    RecalledOpenUnnamed,
    // No seed has found the next one yet, so it is not among `ALL`.
    /// A session that has ended may attach anew, and its heartbeats are answered.
    AttachesAfterTheEnd,
    /// A new leader grants locks before the sessions that may hold some have attached.
    LocksBeforeAttachments,
    /// A file that loses its last name is held by nobody but who removed the name.
    OrphanForgotten,
}

impl Bug {
    pub const ALL: [Bug; 19] = [
        Bug::SkippedSync,
        Bug::SkippedLogSync,
        Bug::ReplyBeforeCommit,
        Bug::RetryAppliedTwice,
        Bug::SlownessTakenForSilence,
        Bug::WallClockOrders,
        Bug::UncommittedRename,
        Bug::TornSegmentRefused,
        Bug::LocksBeforeAttachments,
        Bug::OrphanForgotten,
        Bug::GrantsWhileFrozen,
        Bug::RecallsAfterApply,
        Bug::ChangesBeforeLeasesEnd,
        Bug::RenewsWhatIsRecalled,
        Bug::ServesAfterTheLease,
        Bug::WritesUnseen,
        Bug::LapsedWriterComesBack,
        Bug::ReturnsBeforeCommit,
        Bug::RecalledOpenUnnamed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Bug::SkippedSync => "skipped_sync",
            Bug::SkippedLogSync => "skipped_log_sync",
            Bug::ReplyBeforeCommit => "reply_before_commit",
            Bug::RetryAppliedTwice => "retry_applied_twice",
            Bug::SlownessTakenForSilence => "slowness_taken_for_silence",
            Bug::WallClockOrders => "wall_clock_orders",
            Bug::UncommittedRename => "uncommitted_rename",
            Bug::TornSegmentRefused => "torn_segment_refused",
            Bug::GrantsWhileFrozen => "grants_while_frozen",
            Bug::RecallsAfterApply => "recalls_after_apply",
            Bug::ChangesBeforeLeasesEnd => "changes_before_leases_end",
            Bug::RenewsWhatIsRecalled => "renews_what_is_recalled",
            Bug::ServesAfterTheLease => "serves_after_the_lease",
            Bug::WritesUnseen => "writes_unseen",
            Bug::LapsedWriterComesBack => "lapsed_writer_comes_back",
            Bug::ReturnsBeforeCommit => "returns_before_commit",
            Bug::RecalledOpenUnnamed => "recalled_open_unnamed",
            Bug::AttachesAfterTheEnd => "attaches_after_the_end",
            Bug::LocksBeforeAttachments => "locks_before_attachments",
            Bug::OrphanForgotten => "orphan_forgotten",
        }
    }
}

/// Plants `bug` in this process for good.
///
/// # Panics
/// When one is planted already.
pub fn plant(bug: Bug) {
    assert!(PLANTED.set(bug).is_ok(), "a process has one planted bug");
}

/// Is this bug planted in this process?
pub fn has(bug: Bug) -> bool {
    PLANTED.get() == Some(&bug)
}
