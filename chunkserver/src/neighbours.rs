//! The other chunkservers of this cluster, as the metaserver names them.
//!
//! N1  A request says which servers it is to be passed on to. Where those are is not for its sender to say: this server
//!     connects only to addresses that the metaserver has given it, so that nobody can send it wherever he likes.
//! N2  Who is not known, or is said to be elsewhere, may have joined or moved just now: the metaserver is asked at once, and
//!     what it says then counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::error::ChunkError;
use dfs_proto::ids::ServerId;
use dfs_proto::meta::Replica;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// How long one that is not known is asked for: a heartbeat, also while another member becomes leader.
const ASK_DEADLINE: Duration = Duration::from_secs(1);

/// Cloning gives another handle to the same.
#[derive(Clone, Default)]
pub struct Neighbours(Arc<Inner>);

#[derive(Default)]
struct Inner {
    known: Mutex<Known>,
    /// Counts answers of the metaserver.
    told: watch::Sender<u64>,
    asked: Notify,
}

#[derive(Default)]
struct Known {
    /// What the metaserver calls this list; 0: it has given none.
    version: u64,
    addresses: BTreeMap<ServerId, String>,
}

impl Neighbours {
    /// Without a metaserver, for tests and measurements.
    pub fn fixed(replicas: &[Replica]) -> Neighbours {
        let neighbours = Neighbours::default();
        neighbours.told(1, replicas.iter().cloned());
        neighbours
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn version(&self) -> u64 {
        self.known().version
    }

    /// The metaserver says so; a list of the version that is known already it does not repeat.
    pub(crate) fn told(&self, version: u64, replicas: impl IntoIterator<Item = Replica>) {
        let mut known = self.known();
        if known.version != version {
            let addresses = replicas.into_iter().map(|replica| (replica.server, replica.address));
            *known = Known { version, addresses: addresses.collect() };
        }
        drop(known);
        self.0.told.send_modify(|answers| *answers += 1);
    }

    /// Ready when the metaserver is to be asked before the next heartbeat is due.
    pub(crate) async fn asked(&self) {
        self.0.asked.notified().await;
    }

    fn address_of(&self, server: ServerId) -> Option<String> {
        self.known().addresses.get(&server).cloned()
    }

    /// The server that is meant, at the address that the metaserver knows (N1).
    pub(crate) async fn find(&self, meant: &Replica) -> Result<Replica, ChunkError> {
        let server = meant.server;
        // The second answer is to a question that was asked after this one came.
        for _ in 0..2 {
            if self.address_of(server).as_ref() == Some(&meant.address) {
                return Ok(meant.clone());
            }
            let mut told = self.0.told.subscribe();
            self.0.asked.notify_one(); // keeps N2
            // Without an answer, where it was is still the best that is known.
            let _ = timeout(ASK_DEADLINE, told.changed()).await;
        }
        match self.address_of(server) {
            Some(address) => Ok(Replica { server, address }),
            None => {
                let what = "the metaserver knows no chunkserver of this number".to_owned();
                Err(ChunkError::Unreachable { server, what })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(server: u64, address: &str) -> Replica {
        Replica { server: ServerId(server), address: address.to_owned() }
    }

    /// A client named any address, and the server connected there.
    #[tokio::test(start_paused = true)]
    async fn an_address_that_the_metaserver_did_not_give_is_never_used() {
        let neighbours = Neighbours::fixed(&[at(2, "two:1")]);
        assert_eq!(neighbours.find(&at(2, "two:1")).await, Ok(at(2, "two:1")));
        assert_eq!(neighbours.find(&at(2, "10.0.0.1:22")).await, Ok(at(2, "two:1")));
        assert!(matches!(neighbours.find(&at(3, "10.0.0.1:22")).await, Err(ChunkError::Unreachable { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_just_joined_or_moved_is_asked_for_and_found() {
        let neighbours = Neighbours::fixed(&[at(2, "two:1")]);
        for (version, joined) in [(2, at(3, "three:1")), (3, at(3, "three:2"))] {
            let metaserver = neighbours.clone();
            let list = [at(2, "two:1"), joined.clone()];
            let answering = tokio::spawn(async move {
                metaserver.asked().await;
                metaserver.told(version, list);
            });
            assert_eq!(neighbours.find(&joined).await, Ok(joined));
            answering.await.unwrap();
        }
    }
}
