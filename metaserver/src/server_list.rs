//! The list of all chunkservers with their addresses, which every chunkserver gets with its heartbeat.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dfs_proto::ids::ServerId;
use dfs_proto::meta::MetaResult;
use dfs_proto::scope::Unleased;
use dfs_proto::wire;

use crate::coherence::Gate;
use dfs_state::kv::Snapshot;
use dfs_state::read;
use dfs_state::value::server::ServerRecord;

/// Where all chunkservers are, for each of them: they connect nowhere else. Made anew when one has registered.
#[derive(Default)]
pub(crate) struct ServerList {
    changes: AtomicU64,
    made: Mutex<Option<(u64, u64, Arc<Addresses>)>>,
}

pub(crate) struct Addresses {
    /// Equal for equal lists, whoever leads.
    pub(crate) version: u64,
    pub(crate) servers: Vec<wire::ServerAddress>,
}

/// A registration that is under way.
pub(crate) struct Changing<'a>(&'a ServerList);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::SeqCst);
    }
}

impl ServerList {
    pub(crate) fn change(&self) -> Changing<'_> {
        Changing(self)
    }

    pub(crate) async fn list(&self, gate: &Gate) -> MetaResult<Arc<Addresses>> {
        // Looked at before the state: what changes meanwhile is made anew the next time.
        let (changes, term) = (self.changes.load(Ordering::SeqCst), gate.term());
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, _, list)) = made.filter(|(at, in_term, _)| (*at, *in_term) == (changes, term)) {
            return Ok(list);
        }
        let look = |state: &dyn Snapshot| Ok(read::servers(state));
        let servers = gate.read_unleased(Unleased::Servers, look).await?;
        let address = |(server, record): (ServerId, ServerRecord)| wire::ServerAddress {
            server: server.0,
            frames_address: record.addresses.frames,
        };
        let servers: Vec<_> = servers.into_iter().map(address).collect();
        let list = Arc::new(Addresses { version: version_of(&servers), servers });
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Some((changes, term, list.clone()));
        Ok(list)
    }
}

/// Never 0, which stands for no list.
fn version_of(servers: &[wire::ServerAddress]) -> u64 {
    let mut digest = DefaultHasher::new();
    servers.iter().for_each(|known| (known.server, &known.frames_address).hash(&mut digest));
    digest.finish().max(1)
}
