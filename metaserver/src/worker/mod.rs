//! Background work of the leader. Each kind has a pure `plan` in a file of its own, which looks at the state and at what this
//! leader has learned, and returns commands. One loop executes them all ([`keep_doing`]), and `budget` says how often and how
//! much at a time. What an earlier release has left is worked off once in a term ([`work_off`]).
//!
//! All loops stop when the lead is lost and begin anew with the next term. What one of them has half done, the next leader's
//! finds in the state.

mod budget;
mod delete;
mod expire;
mod reap;
mod seal;
mod seal_mixed;
mod silence;
mod work;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::federation;
use crate::metaserver::Metaserver;
use delete::{Delete, SeenTimes};
use dfs_state::command::Reply;
use dfs_state::kv::Snapshot;
use expire::Expire;
use reap::Reap;
use seal::Seal;
use seal_mixed::SealMixed;
use work::{Learned, Work};

/// Between two looks for sessions that ended without this leader's knowing, and for grants that nobody has told. Both are rare.
const FORGET_EVERY: Duration = Duration::from_millis(500);

/// Runs while the process does.
pub(crate) async fn run(metaserver: Arc<Metaserver>) {
    let times = SeenTimes::default();
    tokio::select! {
        () = lead(&metaserver, &times) => {}
        () = delete::watch(&metaserver, &times) => {}
    }
}

async fn lead(metaserver: &Metaserver, times: &SeenTimes) {
    let mut leadership = metaserver.gate.consensus().leadership();
    loop {
        let Ok(term) = leadership.wait_for(|l| l.is_leader).await.map(|l| l.term) else { return };
        let delete = Delete { times };
        let work = async {
            tokio::join!(
                keep_doing(metaserver, &Expire),
                keep_doing(metaserver, &Seal),
                keep_doing(metaserver, &Reap),
                keep_doing(metaserver, &delete),
                keep_forgetting(metaserver),
                silence::keep_noting(metaserver, term),
                metaserver.gate.release_closed(),
                work_off(metaserver, &SealMixed),
                federate(metaserver)
            )
        };
        tokio::select! {
            lost = leadership.wait_for(|l| !l.is_leader || l.term != term) => if lost.is_err() { return },
            _ = work => {}
        }
    }
}

/// What a leader knows of sessions that have ended. Never ends.
async fn keep_forgetting(metaserver: &Metaserver) {
    loop {
        // After a failure the next round does it.
        let _ = metaserver.forget_ended().await;
        sleep(FORGET_EVERY).await;
    }
}

/// A leader's part in the federation.
async fn federate(metaserver: &Metaserver) {
    if let Some(federation) = &metaserver.federation {
        tokio::join!(
            federation::settle(metaserver, federation),
            federation::undo(metaserver, federation),
            federation::report(metaserver, federation)
        );
    }
}

/// Plans and executes, and goes on at once while something is left. Never ends.
async fn keep_doing(metaserver: &Metaserver, work: &dyn Work) {
    loop {
        if do_once(metaserver, work).await != Round::More {
            sleep(work.budget().every).await;
        }
    }
}

/// Plans and executes until nothing is left to do.
async fn work_off(metaserver: &Metaserver, work: &dyn Work) {
    while do_once(metaserver, work).await != Round::Idle {
        sleep(work.budget().every).await;
    }
}

/// What a round of work came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Nothing was to be done.
    Idle,
    /// What was planned is executed, or something failed: the next round plans it again.
    Done,
    /// The same, and there is more to do at once.
    More,
}

/// Executes what is planned, until something fails.
async fn do_once(metaserver: &Metaserver, work: &dyn Work) -> Round {
    // What is decided by what was learned in a term is proposed in that term: another leader may have heard more.
    let Ok(term) = metaserver.gate.enter_term() else { return Round::Done };
    let look = |state: &dyn Snapshot| Ok(work.plan(state, &Learned::now(metaserver)));
    let Ok(planned) = metaserver.gate.read_unleased(work.records(), look).await else { return Round::Done };
    if planned.is_empty() {
        return Round::Idle;
    }
    let commands_max = work.budget().commands_max;
    let mut more_work = planned.len() > commands_max;
    for command in planned.into_iter().take(commands_max) {
        work.begin(&command, metaserver);
        if !work.is_still_due(&command, &Learned::now(metaserver)) {
            work.spare(&command, metaserver);
            continue;
        }
        work.sent(&command, metaserver);
        match metaserver.gate.change_in(term, command.clone()).await {
            Ok(reply) => {
                more_work |= matches!(reply, Reply::Worked { more: true, .. });
                work.done(&command, metaserver);
            }
            Err(error) => {
                metaserver.metrics.background_failures.inc();
                tracing::debug!("{command:?}: {error}");
                return Round::Done;
            }
        }
    }
    if more_work { Round::More } else { Round::Done }
}
