//! Around the beginning of a silence, its client looks at all names again and again: what it has leases on it answers itself, also
//! when it is cut off, and nobody may have changed that. A look that is not answered soon is given up.

use std::time::Duration;

use dfs_client::inode::GetAttr;
use dfs_proto::attr::Caller;
use tokio::time::{sleep, timeout};

use super::naming::look_up;
use super::sharer::{Sharer, now};
use super::shown::NAMES;
use crate::sim::plan::OVER_INTERVAL;

const LOOK_INTERVAL: Duration = Duration::from_millis(25);
/// Of the answer of a leader that nothing is wrong with.
const PATIENCE: Duration = Duration::from_millis(20);

pub(super) async fn live(sharer: Sharer) {
    while !sharer.is_over() {
        match sharer.watches() {
            true => look_at_all(&sharer).await,
            false => sleep(OVER_INTERVAL).await,
        }
    }
}

async fn look_at_all(sharer: &Sharer) {
    // Without the directory's attributes nobody answers a look-up himself.
    let directory = sharer.client.perform(&Caller::ROOT, GetAttr { inode: sharer.directory });
    drop(timeout(PATIENCE, directory).await);
    for name in 0..NAMES {
        let began = now();
        let looked = timeout(PATIENCE, look_up(sharer, &sharer.client, name)).await;
        let answers_itself = looked.is_ok() && now() == began;
        let mut totals = sharer.shared.totals();
        totals.own_answers += u64::from(answers_itself && sharer.shared.silence.is_silent());
    }
    sleep(LOOK_INTERVAL).await;
}
