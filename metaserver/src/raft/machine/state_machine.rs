//! Applies committed entries to the state, in their order. Also over crashes, the effects of each entry are there exactly once.
//!
//! A1  The effects of an entry, the results that it remembers, and the index of the last applied entry are written in one batch
//!     (P7.3).
//! A2  An entry is applied only if its index is that of the last applied entry plus one.
//! A3  Replies are sent after the batch is written. It need not be durable, because the log is.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};

use super::clock::StateClock;
use super::replicated;
use super::snapshot::{SnapshotBuilder, SnapshotData, copy};
use super::store::{APPLIED_KEY, StateStore, encode_applied, invalid};
use crate::raft::member::group::GroupKind;
use crate::raft::types::{Applied, LogEntry, LogId, Membership, Proposal, Replies, SnapshotMeta, TypeConfig};
use dfs_state::kv::Txn;

/// Entries in one batch.
const ENTRIES_AT_ONCE: usize = 64;
/// A batch with this many writes gets no further entries.
const WRITES_AT_ONCE: usize = 20_000;

/// openraft's handle of one member that runs this state machine.
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

type Responder = ApplyResponder<TypeConfig>;

pub(crate) struct StateMachine {
    store: Arc<StateStore>,
    applied: Applied,
    time: Arc<StateClock>,
    kind: GroupKind,
}

impl StateMachine {
    pub(crate) fn new(
        kind: GroupKind,
        store: Arc<StateStore>,
        applied: Applied,
        time: Arc<StateClock>,
    ) -> StateMachine {
        StateMachine { store, applied, time, kind }
    }

    /// Applies the first entries of `waiting` as one batch, and sends their replies.
    fn apply_some(&mut self, waiting: &mut Vec<(LogEntry, Option<Responder>)>) -> io::Result<()> {
        let kv = self.store.kv();
        let mut replies = Vec::with_capacity(waiting.len());
        let (batch, time) = {
            let base = kv.snapshot();
            let mut txn = Txn::new(&*base);
            for (entry, _) in waiting.iter() {
                replies.push(self.apply_one(entry, &mut txn)?);
                if txn.write_count() >= WRITES_AT_ONCE {
                    break;
                }
            }
            txn.put(APPLIED_KEY, encode_applied(&self.applied)?); // keeps A1
            let time = dfs_state::read::last_time(&txn);
            (txn.into_batch(), time)
        };
        self.store.write(batch)?;
        self.time.applied(time);
        for ((_, responder), replies) in waiting.drain(..replies.len()).zip(replies) {
            if let Some(responder) = responder {
                responder.send(replies);
            }
        }
        Ok(())
    }

    fn apply_one(&mut self, entry: &LogEntry, txn: &mut Txn<'_>) -> io::Result<Replies> {
        let expected = self.applied.next_index();
        if entry.log_id.index != expected {
            // keeps A2
            let what = format!("asked to apply entry {} where {expected} is next", entry.log_id.index);
            return Err(invalid(what));
        }
        let replies = match &entry.payload {
            EntryPayload::Blank => Replies::default(),
            EntryPayload::Normal(proposal) => self.apply_proposal(proposal, txn)?,
            EntryPayload::Membership(membership) => {
                self.applied.membership = Membership::new(Some(entry.log_id), membership.clone());
                Replies::default()
            }
        };
        self.applied.last = Some(entry.log_id);
        Ok(replies)
    }

    fn apply_proposal(&mut self, proposal: &Proposal, txn: &mut Txn<'_>) -> io::Result<Replies> {
        replicated::apply(self.kind, proposal, txn).map_err(|error| invalid(error.to_string()))
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        Ok((self.applied.last, self.applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut waiting = Vec::new();
        while let Some(entry) = entries.next().await {
            waiting.push(entry?);
            if waiting.len() >= ENTRIES_AT_ONCE {
                self.apply_some(&mut waiting)?;
            }
        }
        while !waiting.is_empty() {
            self.apply_some(&mut waiting)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder::new(self.store.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        let received = match data {
            SnapshotData::Received(named) => named,
            SnapshotData::Checkpoint(kv) => copy(&self.store, &*kv).await?,
        };
        let holds = super::store::read_applied(&*received.kv.snapshot())?;
        if holds.last != meta.last_log_id {
            let what =
                format!("the snapshot holds the state at {:?}, not at {:?}", holds.last, meta.last_log_id);
            return Err(invalid(what));
        }
        self.applied = self.store.install(received)?;
        self.time.applied(dfs_state::read::last_time(&*self.store.kv().snapshot()));
        self.store.make_checkpoint().await?;
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::alias::SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        Ok(self
            .store
            .checkpoint()
            .map(|held| openraft::Snapshot { meta: held.meta, snapshot: SnapshotData::Checkpoint(held.kv) }))
    }
}
