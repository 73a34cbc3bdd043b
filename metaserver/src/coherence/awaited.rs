//! Sessions that a new leader waits for: the state says that they may hold something in a volume, and they have not told this
//! leader what (P6.5; OP4 of `opens`, AT4 of `attachments`). An earlier leader may have granted them leases, too (P3.6).

use std::collections::BTreeSet;

use dfs_proto::ids::{SessionId, VolumeId};
use dfs_proto::meta::MetaResult;
use dfs_proto::planted::{self, Bug};
use dfs_proto::scope::Unleased;
use tokio::time::{Instant, timeout_at};

use super::gate::Gate;
use super::writes::WAIT_MAX;
use dfs_state::kv::Snapshot;
use dfs_state::read;

impl Gate {
    /// Keeps CH4: returns when every session that an earlier leader may have granted something has told this one what it holds, or has
    /// ended, or its lease has. Reads do not wait.
    pub(super) async fn earlier_leases_have_ended(&self, term: u64) -> MetaResult<()> {
        if self.leases.may_change(term) || planted::has(Bug::ChangesBeforeLeasesEnd) {
            return Ok(());
        }
        let end = self.leases.earlier_ones_end();
        self.awaited(VolumeId(0)).await?; // from here on it is known who is awaited
        self.end_awaited_that_have_ended();
        loop {
            let mut changes = std::pin::pin!(self.opens.changes());
            changes.as_mut().enable();
            // All that wait look each time somebody has attached, so the look is cheap.
            if self.have_earlier_leases_ended(term) {
                return Ok(());
            }
            let _ = timeout_at(end, changes).await;
            self.enter_term()?;
        }
    }

    /// What earlier leaders granted for Read has ended, as far as is known without waiting.
    pub(super) fn have_earlier_leases_ended(&self, term: u64) -> bool {
        if self.leases.may_change(term) {
            return true;
        }
        let have_ended =
            Instant::now() >= self.leases.earlier_ones_end() || self.opens.is_nobody_awaited(term);
        if have_ended {
            self.leases.earlier_ones_have_ended(term);
        }
        have_ended
    }

    /// Keeps WS1 of `writes`: returns when every session that may have written in these volumes, without this leader's knowing, has
    /// told it what it holds, or has ended.
    pub(super) async fn writers_have_told(&self, term: u64, volumes: &BTreeSet<VolumeId>) -> MetaResult<()> {
        if self.leases.have_writers_told(term) || planted::has(Bug::LapsedWriterComesBack) {
            return Ok(());
        }
        self.awaited(VolumeId(0)).await?; // from here on it is known who is awaited
        let end = Instant::now() + WAIT_MAX;
        loop {
            let mut changes = std::pin::pin!(self.opens.changes());
            changes.as_mut().enable();
            let awaited = self.opens.awaited_writers(term, volumes).unwrap_or_default();
            if self.opens.is_no_writer_awaited(term) {
                self.leases.writers_have_told(term);
            }
            if awaited.is_empty() {
                return self.require_term(term);
            }
            self.opens.wait_for(&awaited); // so that those who are silent are ended
            self.end_awaited_that_have_ended();
            self.ask_again_after(end, changes, "who may have written has yet to attach").await?;
            self.require_term(term)?;
        }
    }

    fn end_awaited_that_have_ended(&self) {
        let mut ended = self.opens.all_awaited();
        self.local(|state| ended.retain(|session| read::session(state, *session).is_none()));
        ended.into_iter().for_each(|session| self.session_ended(session));
    }

    /// Nobody is [awaited](Gate::awaited) in the volume. If somebody is, somebody waits for it from now on.
    pub(crate) async fn has_everybody_told(&self, volume: VolumeId) -> MetaResult<bool> {
        let awaited = self.awaited(volume).await?;
        self.opens.wait_for(&awaited);
        Ok(awaited.is_empty())
    }

    /// The sessions that may hold something in the volume, and have neither told this leader what nor ended. While there are
    /// any, nothing is taken there that one of them may hold.
    pub(crate) async fn awaited(&self, volume: VolumeId) -> MetaResult<Vec<SessionId>> {
        loop {
            let term = self.enter_term()?;
            if let Some(awaited) = self.opens.awaited(term, volume) {
                if awaited.is_empty() {
                    return Ok(awaited);
                }
                // Of those that have ended, the one who ended them may have been cut off before it could say so.
                let (awaited, ended): (Vec<_>, Vec<_>) = self.local(|state| {
                    awaited.into_iter().partition(|session| read::session(state, *session).is_some())
                });
                ended.into_iter().for_each(|session| self.session_ended(session));
                return Ok(awaited);
            }
            let _turn = self.looks_who_is_awaited.lock().await; // one reads all of it, and the others wait for that
            if self.opens.awaited(term, volume).is_some() {
                continue;
            }
            let all = |state: &dyn Snapshot| {
                Ok((read::all_holding_sessions(state), read::all_writing_sessions(state)))
            };
            let (may_hold, may_write) = self.read_unleased(Unleased::Sessions, all).await?;
            // What an earlier term read may lack what another leader has recorded since.
            if self.enter_term()? == term {
                self.opens.await_those(term, may_hold, may_write);
            }
        }
    }
}
