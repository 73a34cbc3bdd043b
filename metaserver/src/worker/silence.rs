//! Notes in the replicated state for how long sessions were silent, so that a change of leader does not count it anew (P3.1, SS4 of
//! `sessions`). Only sessions that may hold something are noted: others are in nobody's way.

use std::time::Duration;

use dfs_proto::meta::MetaResult;
use dfs_proto::scope::Unleased;
use tokio::time::{Instant, sleep};

use crate::coherence::READ_ENDS;
use crate::metaserver::Metaserver;
use dfs_state::command::{Command, NOTES_MAX};
use dfs_state::kv::Snapshot;
use dfs_state::read;

/// Short against a step of a session's term.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// Never ends.
pub(super) async fn keep_noting(metaserver: &Metaserver, term: u64) {
    loop {
        // After a failure the next round notes more.
        let _ = note(metaserver, term).await;
        sleep(NOTE_EVERY).await;
    }
}

async fn note(metaserver: &Metaserver, term: u64) -> MetaResult<()> {
    let gate = &metaserver.gate;
    gate.require_term(term)?;
    let look =
        |state: &dyn Snapshot| Ok((read::sessions_that_hold_something(state), read::noted_silences(state)));
    let (sessions, noted) = gate.read_unleased(Unleased::Sessions, look).await?;
    let lease_term = gate.attachments.lease_term.max(READ_ENDS);
    gate.sessions.count_earlier(term, lease_term, &noted);
    let _noting = gate.notes_silences.lock().await;
    let silences = gate.sessions.note(term, lease_term, sessions, Instant::now());
    for silences in silences.chunks(NOTES_MAX) {
        gate.change_in(term, Command::NoteSilences { silences: silences.to_vec() }).await?;
    }
    Ok(())
}
