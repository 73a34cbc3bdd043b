//! Who acquires Write of a file comes to it in the order of arrival.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::MetaResult;
use tokio::sync::OwnedMutexGuard;

/// Of all files together: as many as calls that wait.
const TURNS_MAX: usize = 100_000;

#[derive(Default)]
pub(super) struct Turns(Mutex<Queues>);

#[derive(Default)]
struct Queues {
    of: HashMap<InodeId, Queue>,
    count: usize,
}

#[derive(Default)]
struct Queue {
    /// Serves in the order of arrival.
    lock: Arc<tokio::sync::Mutex<()>>,
    waiting: usize,
}

/// It is this one's turn until this is dropped.
pub(crate) struct Turn {
    /// Dropped first: the next one goes on.
    _turn: OwnedMutexGuard<()>,
    _place: Place,
}

/// A place in the queue.
struct Place {
    turns: Arc<Turns>,
    inode: InodeId,
}

impl Turns {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn take(self: &Arc<Turns>, inode: InodeId) -> MetaResult<Turn> {
        let (place, lock) = self.wait(inode)?;
        Ok(Turn { _turn: lock.lock_owned().await, _place: place })
    }

    fn wait(self: &Arc<Turns>, inode: InodeId) -> MetaResult<(Place, Arc<tokio::sync::Mutex<()>>)> {
        let mut queues = self.queues();
        if queues.count >= TURNS_MAX {
            return Err(MetaError::Unavailable {
                what: format!("{TURNS_MAX} calls wait for Write of files"),
            });
        }
        queues.count += 1;
        let queue = queues.of.entry(inode).or_default();
        queue.waiting += 1;
        Ok((Place { turns: self.clone(), inode }, queue.lock.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.turns.queues();
        queues.count -= 1;
        let Some(queue) = queues.of.get_mut(&self.inode) else { return };
        queue.waiting -= 1;
        if queue.waiting == 0 {
            queues.of.remove(&self.inode);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    const X: InodeId = InodeId(10);

    #[tokio::test]
    async fn each_file_has_turns_of_its_own_in_the_order_of_arrival_and_none_is_left_over() {
        let turns = Arc::new(Turns::default());
        let first = turns.take(X).await.expect("nobody waits");
        drop(turns.take(InodeId(11)).await.expect("another file"));
        let mut waits: Vec<_> = (0..3).map(|_| Box::pin(turns.take(X))).collect();
        for wait in &mut waits {
            assert!(poll!(wait).is_pending());
        }
        drop(waits.remove(0)); // it has given up
        drop(first);
        assert!(poll!(&mut waits[1]).is_pending());
        let second = (&mut waits[0]).await.expect("it is its turn");
        assert!(poll!(&mut waits[1]).is_pending());
        drop(second);
        drop((&mut waits[1]).await.expect("it is its turn"));
        drop(waits);
        let queues = turns.queues();
        assert!(queues.of.is_empty() && queues.count == 0);
    }
}
