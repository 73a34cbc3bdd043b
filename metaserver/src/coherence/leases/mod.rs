//! Who may cache what. Until there are leases nobody may: both functions below let everybody pass. But every change and every
//! read calls one of them already with what it touches (P4.4), because coherence cannot be added later at each place.
//!
//! With leases, [`Leases::freeze`] stops grants on what a change touches, recalls what other sessions hold in a conflicting
//! mode, and waits for them (P4.1). Freezing excludes no other change: two changes of one directory may be under way at the
//! same time, and `apply` orders them. [`Leases::register`] makes the reader a holder, unless what it reads is frozen (P4.2).

#[expect(dead_code, reason = "the gate does not use it yet")]
mod freezes;
#[expect(dead_code, reason = "the gate does not use it yet")]
mod table;

use dfs_proto::ids::SessionId;
use dfs_proto::scope::Scope;

/// While it lives, nothing is granted on what a change touches; dropping it thaws.
pub(super) struct Frozen(());

/// The leases of this leader's term.
#[derive(Default)]
pub(super) struct Leases(());

impl Leases {
    /// Returns when no session but `by` holds anything that conflicts with a change of this scope.
    pub(super) async fn freeze(&self, _scope: &Scope, _by: Option<SessionId>) -> Frozen {
        Frozen(())
    }

    /// Makes `by` a holder of what it is about to be shown. Called before the state is read (P4.3).
    pub(super) fn register(&self, _shown: &Scope, _by: Option<SessionId>) {}
}
