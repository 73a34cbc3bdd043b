//! Checks, before a data directory is used, that its files agree.
//!
//!     MEMBER            whose directory it is, and how far the log has come at least (`stamp`)
//!     *.raftlog         the votes and entries; each segment says whose it is (`log`)
//!     state/CURRENT     which database is the state (`machine::store`)
//!     state/state-N/    the state, which says up to which entry it is applied, and who the members are
//!     federation/       the same again for the federation group's member; MEMBER has the id of this directory
//!     FEDERATION        a copy of the federation map, which is fetched again if it is bad
//!     LOCK, *.new       these hold nothing
//!
//! X1  Nothing is changed before everything was looked at: [`Examined::of`] only reads. If a file is missing, empty, cut, of
//!     another member or of an earlier time, and another file contradicts it, the start is refused with one line.
//! X2  A directory is made in this order: a stamp that does not say how far the log has come; the state, and CURRENT, which names
//!     it; the log; the stamp that says how far the log has come. After a crash in between, the next start goes on: as long as the
//!     log is fresh, this member has voted for nobody and acknowledged nothing, and a missing state was never made.
//! X3  From then on state and log are there and agree, because every change is in an order that a crash cannot break: a new state
//!     is flushed before CURRENT names it; the log is cut after the state that covers the entries is flushed; the stamp is written
//!     after the log; and what is not needed any more is removed last.
//!
//! Two things cannot be noticed, because no file contradicts them: a whole directory that is a copy of an earlier time; and, after
//! a crash, a log that has lost entries written since MEMBER was (which is written at each start, each new segment and each
//! orderly shutdown). The state cannot contradict that log, because after a crash it may rightly be ahead of it: then the other
//! members were the quorum.

use std::sync::Arc;

use dfs_net::env::Rng;
use dfs_proto::ids::DirectoryId;
use openraft::EntryPayload;

use super::stamp::{Stamp, StampError, StampFile};
use crate::raft::error::{Contradiction, StartError};
use crate::raft::log::disk::LogDisk;
use crate::raft::log::recover::{Reached, Recovered, recover};
use crate::raft::log::store::{LogMonitor, LogStore};
use crate::raft::machine::store::{FlushGate, Looked, StateStore};
use crate::raft::options::ConsensusOptions;
use crate::raft::types::{Applied, MembershipConfig, next_index};
use dfs_state::kv::KvHome;

/// A data directory whose files agree.
pub struct Examined {
    stamp: Option<Stamp>,
    state: Looked,
    log: Recovered,
}

/// A data directory that is in use.
pub(crate) struct Opened {
    pub(crate) stamp: Arc<StampFile>,
    pub(crate) store: Arc<StateStore>,
    pub(crate) applied: Applied,
    pub(crate) log_store: LogStore,
    pub(crate) log: LogMonitor,
}

impl Examined {
    /// Checks the directory. `expected` is its id, if a file outside of it says so.
    pub async fn of(
        options: &ConsensusOptions,
        disk: &dyn LogDisk,
        home: &dyn KvHome,
        expected: Option<DirectoryId>,
    ) -> Result<Examined, StartError> {
        let stamp = Stamp::read(disk, options.member).await.map_err(|error| match error {
            StampError::Io(_) | StampError::Unreadable { .. } => Contradiction::Stamp(error).into(),
            of_another => StartError::Stamp(of_another),
        })?;
        if let Some(expected) =
            expected.filter(|expected| stamp.map(|stamp| stamp.directory) != Some(*expected))
        {
            let actual = stamp.map(|stamp| stamp.directory);
            return Err(Contradiction::OtherSeat { expected, actual }.into());
        }
        let state = Looked::at(home, options.purpose.kind()).map_err(Contradiction::State)?;
        if stamp.is_none() {
            nothing_but_a_stamp_is_missing(disk, &state).await?;
        }
        let directory = stamp.map_or(DirectoryId::UNKNOWN, |stamp| stamp.directory);
        let log = recover(disk, options.log.segment_len, directory).await.map_err(Contradiction::Log)?;
        let examined = Examined { stamp, state, log };
        if let Some(stamp) = stamp {
            examined.is_whole(&stamp)?;
            examined.is_of(&stamp)?;
            examined.log_fits_state()?;
        }
        Ok(examined)
    }

    /// The data directory of the federation group's member in the same process, if it has ever had one.
    pub fn seat(&self) -> Option<DirectoryId> {
        self.stamp?.seat
    }

    /// Nothing is missing that X2 says must be there.
    fn is_whole(&self, stamp: &Stamp) -> Result<(), Contradiction> {
        let (applied, remark) = (self.state.applied.next_index(), self.log.remark());
        let behind = |reached: &Reached| {
            self.log
                .reached
                .is_none_or(|found| found.sequence < reached.sequence || found.batch < reached.batch)
        };
        if let Some(reached) = stamp.reached.filter(behind) {
            return Err(Contradiction::LogBehind { reached, found: self.log.reached, remark });
        }
        let used = match stamp.reached {
            Some(_) => Some("MEMBER says that this directory was in use"),
            None => (!self.log.is_fresh()).then_some("the Raft log beside it was in use"),
        };
        if let (None, Some(used)) = (&self.state.current, used) {
            let others = self.state.others.iter().map(|name| format!("state/{name}")).collect::<Vec<_>>();
            let found =
                if others.is_empty() { String::new() } else { format!(" (there: {})", others.join(", ")) };
            return Err(Contradiction::NoState { used, remark: found });
        }
        if self.log.is_fresh() && applied > 0 {
            return Err(Contradiction::LogMissing { applied }); // keeps P7.7
        }
        Ok(())
    }

    /// State and log belong to the member and data directory that the stamp names.
    fn is_of(&self, stamp: &Stamp) -> Result<(), Contradiction> {
        if let Some(found) =
            self.state.made.filter(|found| stamp.cluster.is_known() && *found != stamp.cluster)
        {
            return Err(Contradiction::OtherCluster { stamped: stamp.cluster, found });
        }
        is_recorded("the state (state/CURRENT)", self.state.applied.membership.membership(), stamp)?;
        for entry in &self.log.entries {
            if let EntryPayload::Membership(membership) = &entry.payload {
                is_recorded("the Raft log (*.raftlog)", membership, stamp)?;
            }
        }
        Ok(())
    }

    fn log_fits_state(&self) -> Result<(), Contradiction> {
        let applied = self.state.applied.next_index();
        let first = next_index(self.log.state.purged.as_ref());
        if first > applied {
            return Err(Contradiction::Hole { applied, first }); // keeps P7.3
        }
        let Some(last) = self.state.applied.last else { return Ok(()) };
        let at = |index: u64| {
            let first = self.log.entries.first()?.log_id.index;
            self.log.entries.get(index.checked_sub(first)? as usize).map(|entry| entry.log_id)
        };
        let purged = self.log.state.purged.filter(|purged| purged.index == last.index);
        if at(last.index).or(purged).is_some_and(|here| here != last) {
            return Err(Contradiction::Diverged { index: last.index });
        }
        Ok(())
    }

    /// Begins to use the directory, and makes what is not there yet (X2).
    pub(crate) async fn open(
        self,
        options: &ConsensusOptions,
        disk: Arc<dyn LogDisk>,
        home: Arc<dyn KvHome>,
        rng: &Rng,
    ) -> Result<Opened, StartError> {
        let Examined { stamp, state, log } = self;
        let is_new = stamp.is_none();
        let stamp = stamp.unwrap_or_else(|| Stamp::new(options.member, rng));
        let stamp = Arc::new(StampFile::new(disk.clone(), stamp));
        if is_new {
            stamp.change(|_| {}).await.map_err(StampError::Io)?;
        }
        let others = state.others.clone();
        let (store, applied) = StateStore::begin(home, state).map_err(StartError::State)?;
        let gate = Arc::new(FlushGate(store.clone()));
        let begun = LogStore::begin(disk, options.log, gate, log, Some(stamp.clone())).await;
        let (log_store, log) = begun.map_err(StartError::Log)?;
        store.remove(&others).map_err(StartError::State)?;
        Ok(Opened { stamp, store, applied, log_store, log })
    }
}

async fn nothing_but_a_stamp_is_missing(disk: &dyn LogDisk, state: &Looked) -> Result<(), StartError> {
    let segment = disk.list().await.map_err(StampError::Io)?.first().map(|file| file.name());
    let current = state.current.is_some().then(|| "state/CURRENT".to_owned());
    let other = state.others.first().map(|name| format!("state/{name}"));
    match segment.or(current).or(other) {
        Some(found) => Err(Contradiction::NoStamp { found }.into()),
        None => Ok(()),
    }
}

/// A membership, if there is one, must have this member with this data directory.
fn is_recorded(
    what: &'static str,
    membership: &MembershipConfig,
    stamp: &Stamp,
) -> Result<(), Contradiction> {
    if membership.nodes().next().is_none() {
        return Ok(());
    }
    match membership.get_node(&stamp.member.0).map(|node| node.directory) {
        None => Err(Contradiction::Stranger { what, member: stamp.member }),
        Some(recorded) if recorded != stamp.directory => {
            Err(Contradiction::Foreign { what, recorded, actual: stamp.directory })
        }
        Some(_) => Ok(()),
    }
}
