//! The request ids of one session.
//!
//! S1  At most [`REQUEST_WINDOW`] request ids of a lane lie between the oldest request without an answer and the
//!     newest, so that the server remembers the result of each request that may be sent again (P8.1).
//! S2  A request id is given up (counted as answered) only when nobody will send the request again.
//! S3  A session that has ended is never used again. Whatever belonged to it (unflushed bytes, open chunks, commit
//!     numbers) carries its number and is dropped when it is next used (P3.1).
//! S4  No slow request holds the others back. Each [`Kind`] has lanes of its own, and its own bound of requests
//!     without an answer; a request takes the first of its kind's lanes that has room. So a request that waits for
//!     another cluster stops no other change, and no commit waits for the change of a name. A lane is closed only by
//!     a request that stays without an answer while a whole window of others is answered; it takes [`LANES_EACH`]
//!     such requests to stop their kind.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_proto::ids::{RequestId, RequestLane, SessionId};
use dfs_proto::meta::{Change, SessionOpened};
use dfs_proto::units::{REQUEST_LANES, REQUEST_WINDOW};
use tokio::sync::Notify;

/// The numbers of one lane that are in use: the pure arithmetic of S1.
#[derive(Debug)]
struct Window {
    next: u64,
    unanswered: BTreeSet<u64>,
}

impl Window {
    fn new() -> Window {
        Window { next: 1, unanswered: BTreeSet::new() }
    }

    /// The next number. `None` while the oldest request without an answer is a whole window behind.
    fn begin(&mut self) -> Option<u64> {
        if self.next >= self.answered_below() + REQUEST_WINDOW {
            return None; // keeps S1
        }
        let number = self.next;
        self.next += 1;
        self.unanswered.insert(number);
        Some(number)
    }

    fn answered_below(&self) -> u64 {
        self.unanswered.first().copied().unwrap_or(self.next)
    }

    fn end(&mut self, number: u64) {
        self.unanswered.remove(&number);
    }
}

/// Kinds of requests, each of which may be slow for its own reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Changes of names and attributes. One waits while the volume whose root directory it enters is being removed.
    Names,
    /// Changes in the root directory. They wait for the clusters of volumes, and for the federation group.
    Root,
    /// The changes that a flush needs (P4.5). The opening of a chunk waits while there are too few chunkservers.
    Data,
}

const KINDS: usize = 3;
const LANES_EACH: usize = REQUEST_LANES as usize / KINDS;
const _: () = assert!(KINDS * LANES_EACH == REQUEST_LANES as usize);
/// Requests of one kind without an answer (S4). All of them together leave room in a connection's calls for reads.
const UNANSWERED_MAX: usize = 256;

impl Kind {
    fn of(change: &Change) -> Kind {
        match change {
            Change::OpenChunk(_)
            | Change::SealChunk { .. }
            | Change::CommitExtents(_)
            | Change::ReleaseOrphans { .. } => Kind::Data,
            _ if change.is_of_root() => Kind::Root,
            _ => Kind::Names,
        }
    }

    /// The lanes of the different kinds take turns, so that the server remembers few lanes for a client that has used
    /// one of each kind.
    fn lanes(self) -> impl Iterator<Item = usize> {
        (0..LANES_EACH).map(move |round| round * KINDS + self as usize)
    }
}

/// The windows of all lanes.
#[derive(Debug)]
struct Windows(Vec<Window>);

impl Windows {
    fn new() -> Windows {
        Windows((0..KINDS * LANES_EACH).map(|_| Window::new()).collect())
    }

    /// A request id in the first of the kind's lanes that has room. `None` while there is none (S4).
    fn begin(&mut self, kind: Kind) -> Option<RequestId> {
        let unanswered: usize = kind.lanes().map(|lane| self.0[lane].unanswered.len()).sum();
        if unanswered >= UNANSWERED_MAX {
            return None;
        }
        let number = |lane: usize| Some(RequestId::new(RequestLane(lane as u8), self.0[lane].begin()?));
        kind.lanes().find_map(number)
    }

    fn of(&mut self, id: RequestId) -> &mut Window {
        &mut self.0[usize::from(id.lane().0)] // ids are made in `begin`
    }
}

/// One session, as the cluster opened it, and the request ids in use under it.
pub(crate) struct Session {
    pub(crate) opened: SessionOpened,
    windows: Mutex<Windows>,
    moved: Notify,
}

/// A request id in use, until it is dropped: with the answer, or when the request is given up (S2).
pub(crate) struct Ticket {
    session: Arc<Session>,
    pub(crate) id: RequestId,
}

impl Session {
    pub(crate) fn new(opened: SessionOpened) -> Arc<Session> {
        Arc::new(Session { opened, windows: Mutex::new(Windows::new()), moved: Notify::new() })
    }

    pub(crate) fn id(&self) -> SessionId {
        self.opened.session
    }

    fn windows(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request id for this change, and waits while there is none (S4).
    pub(crate) async fn begin(self: &Arc<Session>, change: &Change) -> Ticket {
        let kind = Kind::of(change);
        loop {
            let moved = self.moved.notified();
            if let Some(id) = self.windows().begin(kind) {
                return Ticket { session: self.clone(), id };
            }
            moved.await;
        }
    }
}

impl Ticket {
    /// Every request of this lane below this id was answered.
    pub(crate) fn answered_below(&self) -> RequestId {
        let below = self.session.windows().of(self.id).answered_below();
        RequestId::new(self.id.lane(), below)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.session.windows().of(self.id).end(self.id.number());
        self.session.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_without_an_answer_holds_the_window_back() {
        let mut window = Window::new();
        let first = window.begin().unwrap();
        for _ in 1..REQUEST_WINDOW {
            let id = window.begin().unwrap();
            window.end(id);
        }
        assert_eq!(window.begin(), None);
        assert_eq!(window.answered_below(), first);
        window.end(first);
        assert_eq!(window.begin(), Some(REQUEST_WINDOW + 1));
    }

    #[test]
    fn whatever_waits_of_one_kind_stops_no_other_kind() {
        let mut windows = Windows::new();
        while windows.begin(Kind::Root).is_some() {}
        for kind in [Kind::Names, Kind::Data] {
            for _ in 0..10_000 {
                let id = windows.begin(kind).unwrap();
                windows.of(id).end(id.number());
            }
        }
    }

    proptest! {
        #[test]
        fn ids_are_never_reused_and_never_leave_the_window(
            steps in prop::collection::vec((any::<bool>(), 0usize..300), 1..2000)
        ) {
            let mut window = Window::new();
            let mut open: Vec<u64> = Vec::new();
            let mut highest = 0;
            for (begins, index) in steps {
                if begins {
                    if let Some(id) = window.begin() {
                        prop_assert!(id > highest);
                        highest = id;
                        open.push(id);
                    }
                } else if !open.is_empty() {
                    let id = open.swap_remove(index % open.len());
                    window.end(id);
                }
                let oldest = open.iter().copied().min().unwrap_or(highest + 1);
                prop_assert_eq!(window.answered_below(), oldest);
                prop_assert!(highest < oldest + REQUEST_WINDOW);
            }
        }

        /// Seven of a kind may stay without an answer for as long as they like, whenever they came.
        #[test]
        fn no_slow_request_holds_the_others_back(
            slow in prop::collection::btree_set(0usize..6000, 0..LANES_EACH),
            in_flight in 1usize..100,
        ) {
            let mut windows = Windows::new();
            let mut fast: std::collections::VecDeque<RequestId> = Default::default();
            for turn in 0..6000 {
                let id = windows.begin(Kind::Names);
                prop_assert!(id.is_some(), "request {} has to wait", turn);
                if !slow.contains(&turn) {
                    fast.extend(id);
                }
                if fast.len() > in_flight && let Some(answered) = fast.pop_front() {
                    windows.of(answered).end(answered.number());
                }
            }
        }
    }
}
