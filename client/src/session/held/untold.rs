//! Opens of which the leader is not told before it recalls the lease that covers them (P6.5).
//!
//! UO1  An untold open is in the table before the copy is asked whether the lease still lasts; a recall takes the attributes out of the
//!      copy before the table is asked what its answer names. So either the recall names the open, or the copy does not answer it.
//! UO2  It is made only while the session is attached, to a leader that knows of such opens: each attachment that begins later
//!      names it.
//! UO3  It is made only in volumes in which the state says that the session may hold something: where a leader has opened a file
//!      for this session before, after it had attached. So the next leader waits for its attachment, or takes it for an opener of everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::meta::Recall;
use dfs_proto::planted::{self, Bug};

use super::{Held, Opened, Phase};
use crate::session::leases::Handled;
use crate::session::opens::OPEN_FILES_MAX;

impl Held {
    /// A file is opened without a request, if a look at the copy afterwards shows its attributes (UO1). `None`: the leader has to be asked.
    pub(crate) fn opening_untold(self: &Arc<Held>, inode: InodeId) -> Option<Opened> {
        let mut state = self.state();
        let has_room = state.files.is_open(inode) || state.files.count() < OPEN_FILES_MAX;
        let is_attached = matches!(state.phase, Phase::Attached(_)) && state.covers_opens; // keeps UO2
        let is_recorded = state.may_hold_in.contains(&inode.volume()); // keeps UO3
        let is_open = has_room && is_attached && is_recorded && state.files.opened_untold(inode);
        is_open.then(|| Opened { held: self.clone(), inode })
    }

    /// Before a leader is asked to open a file: for this session it records that it may hold something in the file's volume. Of a session
    /// that has never attached no leader does.
    pub(crate) fn recorded_when_it_opens(&self) -> Option<SessionId> {
        let state = self.state();
        state.has_attached.then_some(state.session)
    }

    /// A leader has opened this file for the session, and so has recorded that it may hold something in its volume (UO3).
    pub(crate) fn was_opened(&self, session: SessionId, inode: InodeId) {
        let mut state = self.state();
        if state.session == session {
            state.may_hold_in.insert(inode.volume());
        }
    }

    /// What the answer to a recall names as open, which the copy has handled (UO1). `None`: it is not answered, because all that is open
    /// is told anew.
    pub(in crate::session) fn open_of(&self, recall: &Recall) -> Option<BTreeSet<InodeId>> {
        let open = {
            let mut state = self.state();
            if state.attachment != recall.attachment.0 {
                return None;
            }
            state.files.tell_recalled(&recall.what, recall.number)
        };
        if planted::has(Bug::RecalledOpenUnnamed) {
            return Some(BTreeSet::new());
        }
        if open.is_none() {
            self.doubt(recall.attachment);
        }
        open
    }

    /// The leader has this answer, and those before it.
    pub(in crate::session) fn recalls_were_answered(&self, handled: Handled) {
        let mut state = self.state();
        if state.attachment == handled.attachment.0 {
            state.files.recalls_were_answered(handled.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::clock::TokioClock;
    use crate::names::NoOuterCache;
    use crate::names::copy::LeasedCopy;

    const FILE: InodeId = InodeId(7);

    #[test]
    fn nothing_is_opened_untold_that_the_next_attachment_or_the_next_leader_may_not_know_of() {
        let copy = LeasedCopy::new(Arc::new(TokioClock::stopped()), Arc::new(NoOuterCache));
        let held = Held::new(SessionId(1), copy);
        assert!(held.recorded_when_it_opens().is_none(), "it has never attached");
        let refused = held.begin_attach().unwrap().bound;
        held.not_attached(refused, false);
        assert!(held.recorded_when_it_opens().is_none(), "nor now");
        let bound = held.begin_attach().unwrap().bound;
        held.attached(bound, &[], true);
        assert!(held.recorded_when_it_opens().is_some());
        let may_open = || held.opening_untold(InodeId(8)).is_some();
        assert!(!may_open(), "no leader has opened a file of the volume");
        held.was_opened(bound.session, FILE);
        let _opened = held.opening_untold(FILE).unwrap();
        held.doubt(bound.attachment);
        assert!(!may_open(), "its leases have ended");
        let told = held.begin_attach().unwrap();
        assert_eq!(told.open, [FILE]);
        assert!(!may_open(), "it is not named");
        held.attached(told.bound, &[], true);
        assert!(may_open());
        held.doubt(told.bound.attachment);
        held.attached(held.begin_attach().unwrap().bound, &[], false);
        assert!(!may_open(), "this leader is of an earlier release");
        held.session_replaced(SessionId(2));
        assert!(held.recorded_when_it_opens().is_none(), "this session has not attached yet");
        held.attached(held.begin_attach().unwrap().bound, &[], true);
        assert!(!may_open(), "nothing is recorded of another session");
    }
}
