//! The chunkservers, as this leader has heard them since its election. The view is rebuilt from heartbeats and never replicated.
//!
//! VW1  What was heard before this term does not count, nor what was heard before a while in which this leader had no quorum
//!      or did not run ([`Soft`]).
//! VW2  A server is away when it was silent for longer than `server_away`, counted from the election at the earliest.
//!      Away is not gone: the server gets no new chunks, and its open chunks are sealed (P1.7); nothing else happens.
//! VW3  Chunks with fewer than `copies` replicas may be placed once every registered server was heard in this term, or
//!      [`VIEW_COMPLETE_AFTER`] has passed since the election (P10.2).
//!
//! Pure except for the lock: the caller passes the time.

use std::collections::BTreeMap;
use std::time::Duration;

use dfs_proto::ids::{Instance, ServerId};
use dfs_proto::meta::StatFs;
use dfs_proto::units::ByteLen;
use tokio::time::Instant;

use crate::coherence::soft::{BeginsAnew, Soft};
use crate::placement::Candidate;
use dfs_state::value::server::ServerRecord;

/// VW3. After a failure chunkservers try all members quickly, so a server that was not heard within this time is away.
pub(crate) const VIEW_COMPLETE_AFTER: Duration = Duration::from_secs(10);

/// A chunkserver as the replicated state knows it.
pub(crate) type Registered = (ServerId, ServerRecord);

/// What a chunkserver says of itself, each second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) cpu_percent: u32,
    pub(crate) memory_total: ByteLen,
    pub(crate) memory_available: ByteLen,
    pub(crate) disk_total: ByteLen,
    pub(crate) disk_free: ByteLen,
    /// Equal for two servers on one filesystem.
    pub(crate) filesystem: Vec<u8>,
    pub(crate) requests_in_flight: u64,
    pub(crate) chunks: u64,
    pub(crate) full: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerState {
    Alive,
    Away,
    /// Alive, but takes no more appends.
    Full,
}

/// The last report of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) instance: Instance,
    pub(crate) load: Load,
    pub(crate) at: Instant,
    /// Chunks placed there since: the report does not know them yet.
    placed_since: u64,
    /// A client could not reach it since.
    suspected: bool,
}

/// One server for people: what [`View::describe`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) state: ServerState,
    /// Since the last report, or since the election.
    pub(crate) silence: Duration,
    pub(crate) heard: Option<Heard>,
}

pub(crate) struct View {
    server_away: Duration,
    heard: Soft<BTreeMap<ServerId, Heard>>,
}

impl View {
    pub(crate) fn new(server_away: Duration, now: Instant) -> View {
        View { server_away, heard: Soft::new(now) }
    }

    /// For the gate.
    pub(crate) fn soft(&self) -> &dyn BeginsAnew {
        &self.heard
    }

    pub(crate) fn heard(&self, server: ServerId, instance: Instance, load: Load, now: Instant) {
        let heard = Heard { instance, load, at: now, placed_since: 0, suspected: false };
        self.heard.lock().known.insert(server, heard);
    }

    /// A client could not reach this server. One that is alive proves it with its next heartbeat; until then its silence
    /// counts double.
    pub(crate) fn suspect(&self, server: ServerId) {
        if let Some(heard) = self.heard.lock().known.get_mut(&server) {
            heard.suspected = true;
        }
    }

    /// Counts a placement until the next report, so that a burst of them spreads.
    pub(crate) fn placed(&self, servers: &[ServerId]) {
        let mut soft = self.heard.lock();
        for server in servers {
            if let Some(heard) = soft.known.get_mut(server) {
                heard.placed_since += 1;
            }
        }
    }

    pub(crate) fn state(&self, server: ServerId, now: Instant) -> ServerState {
        self.describe(server, now).state
    }

    pub(crate) fn describe(&self, server: ServerId, now: Instant) -> Described {
        let soft = self.heard.lock();
        let heard = soft.known.get(&server).cloned();
        let silence = now.saturating_duration_since(heard.as_ref().map_or(soft.since, |h| h.at));
        let state = match &heard {
            Some(heard) => self.state_of(heard, now),
            None if silence > self.server_away => ServerState::Away, // keeps VW2
            None => ServerState::Alive,
        };
        Described { state, silence, heard }
    }

    fn state_of(&self, heard: &Heard, now: Instant) -> ServerState {
        let silence = now.saturating_duration_since(heard.at) * if heard.suspected { 2 } else { 1 };
        match silence > self.server_away {
            true => ServerState::Away,
            false if heard.load.full => ServerState::Full,
            false => ServerState::Alive,
        }
    }

    /// VW3.
    pub(crate) fn is_complete(&self, registered: &[Registered], now: Instant) -> bool {
        let soft = self.heard.lock();
        now.saturating_duration_since(soft.since) >= VIEW_COMPLETE_AFTER
            || registered.iter().all(|(server, _)| soft.known.contains_key(server))
    }

    /// Every registered server was heard in this term or counts as away: nobody who could report has yet to.
    pub(crate) fn is_settled(&self, registered: &[Registered], now: Instant) -> bool {
        let has_reported = |server| {
            let described = self.describe(server, now);
            described.heard.is_some() || described.state == ServerState::Away
        };
        registered.iter().all(|(server, _)| has_reported(*server))
    }

    /// Registered servers that were heard and are not away, for `placement`.
    pub(crate) fn candidates(&self, registered: &[Registered], now: Instant) -> Vec<Candidate> {
        let soft = self.heard.lock();
        let candidate = |(server, record): &Registered| {
            let heard = soft.known.get(server)?;
            let state = self.state_of(heard, now);
            (state != ServerState::Away).then(|| Candidate {
                server: *server,
                zone: record.zone.clone(),
                disk_free: heard.load.disk_free.0,
                cpu_percent: heard.load.cpu_percent,
                memory_total: heard.load.memory_total.0,
                memory_available: heard.load.memory_available.0,
                requests_in_flight: heard.load.requests_in_flight + heard.placed_since,
                full: state == ServerState::Full,
            })
        };
        registered.iter().filter_map(candidate).collect()
    }

    /// The last reports of registered servers that are alive.
    pub(crate) fn loads(&self, registered: &[Registered], now: Instant) -> Vec<Load> {
        let soft = self.heard.lock();
        let load = |(server, _): &Registered| {
            let heard = soft.known.get(server)?;
            (self.state_of(heard, now) != ServerState::Away).then(|| heard.load.clone())
        };
        registered.iter().filter_map(load).collect()
    }

    /// Registered servers that are away (VW2).
    pub(crate) fn away(&self, registered: &[Registered], now: Instant) -> Vec<ServerId> {
        let ids = registered.iter().map(|(server, _)| *server);
        ids.filter(|server| self.state(*server, now) == ServerState::Away).collect()
    }

    /// P12.1: each underlying filesystem counts once, divided by `copies`. A server that is away counts with its last
    /// report: its space is not gone, and `df` should not jump. A full one has nothing free.
    pub(crate) fn space(&self, copies: u32, inodes: u64) -> StatFs {
        let soft = self.heard.lock();
        // A server that does not say which filesystem it is on is on its own.
        let filesystem = |server: ServerId, load: &Load| match load.filesystem.is_empty() {
            true => (Some(server), Vec::new()),
            false => (None, load.filesystem.clone()),
        };
        let (mut total, mut free) = (BTreeMap::new(), BTreeMap::new());
        for (server, Heard { load, .. }) in &soft.known {
            let raise = |most: &mut u64, to: u64| *most = (*most).max(to);
            raise(total.entry(filesystem(*server, load)).or_default(), load.disk_total.0);
            let disk_free = if load.full { 0 } else { load.disk_free.0 };
            raise(free.entry(filesystem(*server, load)).or_default(), disk_free);
        }
        let copies = u64::from(copies.max(1));
        let sum =
            |parts: BTreeMap<_, u64>| ByteLen(parts.into_values().fold(0, u64::saturating_add) / copies);
        StatFs { total: sum(total), free: sum(free), inodes }
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::DirectoryId;
    use dfs_proto::units::GIB;

    use super::*;
    use dfs_state::command::ServerAddresses;

    const AWAY: Duration = Duration::from_secs(3);
    const SECOND: Duration = Duration::from_secs(1);

    fn registered(ids: &[u64]) -> Vec<Registered> {
        let record = |id: u64| ServerRecord {
            directory: DirectoryId(u128::from(id)),
            addresses: ServerAddresses::default(),
            zone: String::new(),
            instance: Instance(1),
        };
        ids.iter().map(|id| (ServerId(*id), record(*id))).collect()
    }

    fn on(filesystem: &[u8]) -> Load {
        Load {
            disk_total: ByteLen(100 * GIB),
            disk_free: ByteLen(40 * GIB),
            filesystem: filesystem.to_vec(),
            ..Load::default()
        }
    }

    fn elected() -> (View, Instant) {
        let now = Instant::now();
        let view = View::new(AWAY, now);
        view.soft().enter_term(7, now);
        (view, now)
    }

    #[test]
    fn a_server_is_away_after_three_seconds_of_silence_counted_from_the_election() {
        let (view, start) = elected();
        assert_eq!(view.state(ServerId(1), start + AWAY), ServerState::Alive);
        assert_eq!(view.state(ServerId(1), start + AWAY + SECOND / 10), ServerState::Away);
        view.heard(ServerId(1), Instance(1), on(b"a"), start + SECOND);
        assert_eq!(view.state(ServerId(1), start + SECOND + AWAY), ServerState::Alive);
        assert_eq!(view.away(&registered(&[1]), start + SECOND * 5), [ServerId(1)]);
        assert_eq!(view.candidates(&registered(&[1]), start + SECOND * 5), []);
    }

    #[test]
    fn a_suspected_server_is_away_sooner_unless_it_is_heard_again() {
        let (view, start) = elected();
        view.heard(ServerId(1), Instance(1), on(b"a"), start);
        view.suspect(ServerId(1));
        assert_eq!(view.state(ServerId(1), start + SECOND), ServerState::Alive);
        assert_eq!(view.state(ServerId(1), start + SECOND * 2), ServerState::Away);
        view.heard(ServerId(1), Instance(1), on(b"a"), start + SECOND);
        assert_eq!(view.state(ServerId(1), start + SECOND * 3), ServerState::Alive);
    }

    #[test]
    fn the_view_is_complete_when_all_were_heard_or_ten_seconds_have_passed() {
        let (view, start) = elected();
        let both = registered(&[1, 2]);
        view.heard(ServerId(1), Instance(1), on(b"a"), start);
        assert!(!view.is_complete(&both, start + SECOND * 9));
        assert!(view.is_complete(&both, start + SECOND * 10));
        view.heard(ServerId(2), Instance(1), on(b"b"), start + SECOND);
        assert!(view.is_complete(&both, start + SECOND));
    }

    #[test]
    fn what_was_heard_in_an_earlier_term_does_not_count() {
        let (view, start) = elected();
        view.heard(ServerId(1), Instance(1), on(b"a"), start);
        view.soft().enter_term(7, start + SECOND);
        assert!(view.is_complete(&registered(&[1]), start + SECOND));
        view.soft().enter_term(8, start + SECOND);
        assert!(!view.is_complete(&registered(&[1]), start + SECOND));
    }

    #[test]
    fn two_servers_on_one_filesystem_count_once_and_copies_divide() {
        let (view, start) = elected();
        view.heard(ServerId(1), Instance(1), on(b"a"), start);
        view.heard(ServerId(2), Instance(1), on(b"a"), start);
        view.heard(ServerId(3), Instance(1), on(b"b"), start);
        view.heard(ServerId(4), Instance(1), Load { full: true, ..on(b"c") }, start);
        let space = view.space(2, 5);
        assert_eq!(space, StatFs { total: ByteLen(150 * GIB), free: ByteLen(40 * GIB), inodes: 5 });
    }

    #[test]
    fn after_a_while_in_which_nobody_could_be_heard_nobody_is_away_and_nothing_is_placed_on_one_alone() {
        let (view, start) = elected();
        view.heard(ServerId(1), Instance(1), on(b"a"), start);
        view.heard(ServerId(2), Instance(1), on(b"b"), start);
        let now = start + SECOND * 60;
        view.soft().begin_anew(now);
        assert_eq!(view.state(ServerId(1), now + SECOND), ServerState::Alive);
        view.heard(ServerId(2), Instance(1), on(b"b"), now + SECOND);
        let registered = registered(&[1, 2]);
        assert_eq!(view.candidates(&registered, now + SECOND).len(), 1);
        assert!(!view.is_complete(&registered, now + SECOND), "one of two was heard: it is not all there is");
        view.heard(ServerId(1), Instance(1), on(b"a"), now + SECOND);
        assert!(view.is_complete(&registered, now + SECOND));
    }

    #[test]
    fn placements_since_the_last_report_count_as_requests_in_flight() {
        let (view, start) = elected();
        view.heard(ServerId(1), Instance(1), on(b"a"), start);
        view.placed(&[ServerId(1), ServerId(9)]);
        assert_eq!(view.candidates(&registered(&[1]), start)[0].requests_in_flight, 1);
        view.heard(ServerId(1), Instance(1), on(b"a"), start);
        assert_eq!(view.candidates(&registered(&[1]), start)[0].requests_in_flight, 0);
    }
}
