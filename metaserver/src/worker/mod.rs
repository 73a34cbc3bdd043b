//! Background work of the leader: each file a pure `plan()` and a thin loop. All loops stop when leadership is lost and
//! begin anew with the next term; what one of them has half done, the next leader's finds again in the state.

mod delete;
mod execute;
mod expire;
mod reap;
mod seal;

use std::sync::Arc;

use crate::federation;
use crate::service::Metaserver;
use delete::SeenTimes;
use dfs_state::command::{Command, Reply};

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
        let work = async {
            tokio::join!(
                expire::run(metaserver),
                seal::run(metaserver),
                reap::run(metaserver),
                delete::run(metaserver, times),
                federate(metaserver)
            )
        };
        tokio::select! {
            lost = leadership.wait_for(|l| !l.is_leader || l.term != term) => if lost.is_err() { return },
            _ = work => {}
        }
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
