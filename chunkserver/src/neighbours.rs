//! The addresses of the other chunkservers of this cluster, as the metaserver names them.
//!
//! N1  A request names the servers that it is to be forwarded to, and their addresses. This server connects only to
//!     addresses that the metaserver has given it, so that no client can make it connect to an address of its choice.
//! N2  A server that is not known, or that the request names with another address, may have joined or moved just now. Then
//!     the metaserver is asked at once, and its answer counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::error::ChunkError;
use dfs_proto::ids::ServerId;
use dfs_proto::meta::Replica;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// How long to wait for the metaserver's answer about a server: long enough for a heartbeat.
const ASK_DEADLINE: Duration = Duration::from_secs(1);

/// The known addresses. A clone shares them.
#[derive(Clone, Default)]
pub struct Neighbours(Arc<Inner>);

#[derive(Default)]
struct Inner {
    known: Mutex<Known>,
    /// Counts the answers of the metaserver.
    updates: watch::Sender<u64>,
    refresh: Notify,
}

#[derive(Default)]
struct Known {
    /// The metaserver's number for this list; 0 if it has given none yet.
    version: u64,
    addresses: BTreeMap<ServerId, String>,
}

impl Neighbours {
    /// A list that no metaserver gave, for tests and benchmarks.
    pub fn fixed(replicas: &[Replica]) -> Neighbours {
        let neighbours = Neighbours::default();
        neighbours.update(1, replicas.iter().cloned());
        neighbours
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn version(&self) -> u64 {
        self.known().version
    }

    /// Takes over an answer of the metaserver. If the version is the one that is known already, `replicas` is empty and the
    /// list stays.
    pub(crate) fn update(&self, version: u64, replicas: impl IntoIterator<Item = Replica>) {
        let mut known = self.known();
        if known.version != version {
            let addresses = replicas.into_iter().map(|replica| (replica.server, replica.address));
            *known = Known { version, addresses: addresses.collect() };
        }
        drop(known);
        self.0.updates.send_modify(|answers| *answers += 1);
    }

    /// Returns when the metaserver is to be asked before the next heartbeat is due.
    pub(crate) async fn refresh_wanted(&self) {
        self.0.refresh.notified().await;
    }

    fn address_of(&self, server: ServerId) -> Option<String> {
        self.known().addresses.get(&server).cloned()
    }

    /// The server that a request means, with the address that the metaserver knows (N1).
    pub(crate) async fn find(&self, meant: &Replica) -> Result<Replica, ChunkError> {
        let server = meant.server;
        // Twice: the first answer may belong to a heartbeat that was sent before the request came.
        for _ in 0..2 {
            if self.address_of(server).as_ref() == Some(&meant.address) {
                return Ok(meant.clone());
            }
            let mut updates = self.0.updates.subscribe();
            self.0.refresh.notify_one(); // keeps N2
            // Without an answer, the last known address is the best there is.
            let _ = timeout(ASK_DEADLINE, updates.changed()).await;
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
                metaserver.refresh_wanted().await;
                metaserver.update(version, list);
            });
            assert_eq!(neighbours.find(&joined).await, Ok(joined));
            answering.await.unwrap();
        }
    }
}
