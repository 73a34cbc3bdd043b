//! Which database holds the state, and how far that is durable.
//!
//! T1  Only [`StateStore::install`] makes another database the current one, and only one that is complete and flushed (P7.3).
//! T2  `durable_next` never goes beyond what a finished flush or checkpoint of the current state covers, because the log is cut up
//!     to it.
//! T3  A database that nobody uses any more is deleted when the next one is made, or at the next start. A start deletes it only
//!     after the files of the directory were found to agree (`examine`), and CURRENT, which names another one, is on the disk.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};

use dfs_net::env::BoxFuture;
use dfs_proto::ids::ClusterId;

use crate::raft::log::store::PurgeGate;
use crate::raft::member::group::GroupKind;
use crate::raft::types::{APPLIED_VERSION, APPLIED_VERSION_BEFORE, Applied, SnapshotMeta};
use dfs_state::keys::GLUE;
use dfs_state::kv::{Batch, Kv, KvError, KvHome, Snapshot};

/// The key of [`Applied`], the only record that the Raft code has in the state.
pub(crate) const APPLIED_KEY: &[u8] = &[GLUE, b'a'];

pub(crate) fn kv_error(error: KvError) -> io::Error {
    io::Error::other(error)
}

pub(crate) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// What a state says that it has applied; the default for an empty state.
pub(crate) fn read_applied(view: &dyn Snapshot) -> io::Result<Applied> {
    let Some(stored) = view.get(APPLIED_KEY) else { return Ok(Applied::default()) };
    match stored.split_first() {
        Some((&(APPLIED_VERSION | APPLIED_VERSION_BEFORE), encoded)) => postcard::from_bytes(encoded)
            .map_err(|error| invalid(format!("decode what the state store has applied: {error}"))),
        Some((&actual, _)) => Err(invalid(format!(
            "what the state store has applied is of version {actual}; this version of dfs reads {APPLIED_VERSION_BEFORE} and \
             {APPLIED_VERSION}"
        ))),
        None => Err(invalid("the state store's record of what it has applied is empty")),
    }
}

/// How many log entries this state has applied. For tests that compare members.
pub fn applied_count(view: &dyn Snapshot) -> io::Result<u64> {
    Ok(read_applied(view)?.next_index())
}

pub(crate) fn encode_applied(applied: &Applied) -> io::Result<Vec<u8>> {
    postcard::to_extend(applied, vec![APPLIED_VERSION]).map_err(io::Error::other)
}

/// A state to read from.
///
/// The reader takes the snapshot itself, so that it is taken after the leader's lease was checked (P7.5).
pub struct ReadView {
    kv: Arc<dyn Kv>,
}

impl ReadView {
    pub(crate) fn new(kv: Arc<dyn Kv>) -> ReadView {
        ReadView { kv }
    }

    pub fn snapshot(&self) -> Box<dyn Snapshot + '_> {
        self.kv.snapshot()
    }
}

/// A database and its name in the home.
#[derive(Clone)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) kv: Arc<dyn Kv>,
}

/// The snapshot that is sent to followers.
#[derive(Clone)]
pub(crate) struct CheckpointState {
    pub(crate) meta: SnapshotMeta,
    pub(crate) kv: Arc<dyn Kv>,
}

pub(crate) struct StateStore {
    home: Arc<dyn KvHome>,
    /// Never locked together with another lock, nor across an await.
    current: RwLock<Named>,
    checkpoint: Mutex<Option<CheckpointState>>,
    /// The databases that are not current. Each is deleted when its last user is gone.
    others: Mutex<Vec<(String, Weak<dyn Kv>)>>,
    next_name: AtomicU64,
    /// One more than the index of the last entry whose effects are durable (T2).
    durable_next: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Which databases are in a home, and what the current one says of itself. Nothing was changed to find this out.
pub(crate) struct Looked {
    pub(crate) current: Option<String>,
    /// All others: what a crash has left.
    pub(crate) others: Vec<String>,
    next_name: u64,
    pub(crate) applied: Applied,
    /// The cluster's id, or the federation's; `None` if it is not made yet.
    pub(crate) made: Option<ClusterId>,
}

impl Looked {
    pub(crate) fn at(home: &dyn KvHome, kind: GroupKind) -> io::Result<Looked> {
        let current = home.current().map_err(kv_error)?;
        let mut others = home.list().map_err(kv_error)?;
        let number = |name: &String| name.split_once('-').and_then(|(_, number)| number.parse::<u64>().ok());
        let next_name = others.iter().filter_map(number).max().unwrap_or(0) + 1;
        others.retain(|name| current.as_ref() != Some(name));
        let (mut applied, mut made) = (Applied::default(), None);
        if let Some(name) = &current {
            if !name.starts_with("state-") {
                return Err(invalid(format!("state/CURRENT names {name}, which is no state")));
            }
            let kv = home.open_read_only(name).map_err(|error| match error {
                KvError::NoSuchDatabase { name } => {
                    invalid(format!("state/CURRENT names {name}, and state/{name} is missing"))
                }
                error => kv_error(error),
            })?;
            let view = kv.snapshot();
            (applied, made) = (read_applied(&*view)?, kind.made(&*view));
        }
        Ok(Looked { current, others, next_name, applied, made })
    }
}

impl StateStore {
    /// For tests of the store alone.
    #[cfg(test)]
    pub(crate) fn open(home: Arc<dyn KvHome>) -> io::Result<(Arc<StateStore>, Applied)> {
        let looked = Looked::at(&*home, GroupKind::Cluster)?;
        let others = looked.others.clone();
        let (store, applied) = StateStore::begin(home, looked)?;
        store.remove(&others)?;
        Ok((store, applied))
    }

    /// Opens the current database, or makes the first one. The others are left for [`StateStore::remove`].
    pub(crate) fn begin(home: Arc<dyn KvHome>, looked: Looked) -> io::Result<(Arc<StateStore>, Applied)> {
        let mut next_name = looked.next_name;
        let current = match looked.current {
            Some(name) => {
                let kv = home.open(&name).map_err(kv_error)?;
                // keeps T3: the process that made it the current one may have been killed before that was on the disk
                home.make_current(&name).map_err(kv_error)?;
                Named { kv, name }
            }
            None => {
                let name = format!("state-{next_name}");
                next_name += 1;
                let kv = home.create(&name).map_err(kv_error)?;
                home.make_current(&name).map_err(kv_error)?;
                Named { name, kv }
            }
        };
        let applied = read_applied(&*current.kv.snapshot())?;
        let store = StateStore {
            home,
            current: RwLock::new(current),
            checkpoint: Mutex::new(None),
            others: Mutex::new(Vec::new()),
            next_name: AtomicU64::new(next_name),
            // The database has no log of its own, so all that a start finds in it was flushed.
            durable_next: AtomicU64::new(applied.next_index()),
        };
        Ok((Arc::new(store), applied))
    }

    /// Deletes what a crash has left (T3).
    pub(crate) fn remove(&self, others: &[String]) -> io::Result<()> {
        others.iter().try_for_each(|name| self.home.remove(name).map_err(kv_error))
    }

    fn current(&self) -> Named {
        self.current.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The current database.
    pub(crate) fn kv(&self) -> Arc<dyn Kv> {
        self.current().kv
    }

    pub(crate) fn checkpoint(&self) -> Option<CheckpointState> {
        lock(&self.checkpoint).clone()
    }

    fn fresh_name(&self, kind: &str) -> String {
        format!("{kind}-{}", self.next_name.fetch_add(1, Ordering::Relaxed))
    }

    fn remember(&self, named: &Named) {
        lock(&self.others).push((named.name.clone(), Arc::downgrade(&named.kv)));
    }

    /// Deletes the databases that nobody uses any more (T3).
    fn sweep(&self) {
        let mut unused = Vec::new();
        lock(&self.others).retain(|(name, kv)| {
            let is_used = kv.strong_count() > 0;
            if !is_used {
                unused.push(name.clone());
            }
            is_used
        });
        for name in unused {
            if let Err(error) = self.home.remove(&name) {
                tracing::warn!("delete the unused state {name}: {error}");
            }
        }
    }

    /// Makes an empty database to receive a state into.
    pub(crate) fn create_for_receiving(&self) -> io::Result<Named> {
        self.sweep();
        let name = self.fresh_name("state");
        let named = Named { kv: self.home.create(&name).map_err(kv_error)?, name };
        self.remember(&named);
        Ok(named)
    }

    /// Flushes the state and makes a checkpoint of it, which becomes the snapshot that is sent to followers.
    pub(crate) async fn make_checkpoint(&self) -> io::Result<CheckpointState> {
        self.sweep();
        let source = self.kv();
        let name = self.fresh_name("checkpoint");
        source.checkpoint(&name).await.map_err(kv_error)?;
        let named = Named { kv: self.home.open(&name).map_err(kv_error)?, name };
        self.remember(&named);
        // keeps P7.3: what the snapshot covers is read from the checkpoint, because the state may be ahead of it
        let applied = read_applied(&*named.kv.snapshot())?;
        self.durable_next.fetch_max(applied.next_index(), Ordering::SeqCst);
        let meta = SnapshotMeta { last_log_id: applied.last, last_membership: applied.membership };
        let made = CheckpointState { meta, kv: named.kv };
        {
            let mut held = lock(&self.checkpoint);
            // A checkpoint of an older state may be finished after a newer state was installed.
            if held.as_ref().is_none_or(|held| held.meta.last_log_id <= made.meta.last_log_id) {
                *held = Some(made.clone());
            }
        }
        self.sweep(); // the last checkpoint keeps files alive that the state does not need any more
        Ok(made)
    }

    /// Makes a received, complete and flushed database the current one.
    pub(crate) fn install(&self, received: Named) -> io::Result<Applied> {
        let applied = read_applied(&*received.kv.snapshot())?;
        self.home.make_current(&received.name).map_err(kv_error)?;
        lock(&self.others).retain(|(name, _)| *name != received.name);
        let former = {
            let mut current = self.current.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            std::mem::replace(&mut *current, received)
        };
        self.remember(&former);
        self.durable_next.fetch_max(applied.next_index(), Ordering::SeqCst);
        Ok(applied)
    }

    /// Writes a batch of effects to the current database.
    pub(crate) fn write(&self, batch: Batch) -> io::Result<()> {
        self.kv().write(batch).map_err(kv_error)
    }
}

/// Lets the log be cut up to what is durable in the state (T2).
pub(crate) struct FlushGate(pub(crate) Arc<StateStore>);

impl PurgeGate for FlushGate {
    fn durable_next(&self, wanted: u64) -> BoxFuture<'static, io::Result<u64>> {
        let store = self.0.clone();
        Box::pin(async move {
            if store.durable_next.load(Ordering::SeqCst) < wanted {
                let kv = store.kv();
                let applied = read_applied(&*kv.snapshot())?.next_index();
                kv.flush().await.map_err(kv_error)?;
                store.durable_next.fetch_max(applied, Ordering::SeqCst);
            }
            Ok(store.durable_next.load(Ordering::SeqCst))
        })
    }
}
