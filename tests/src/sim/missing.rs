//! A file of a metaserver's directory that is missing when it starts: the start is refused and changes nothing. With the
//! file back it starts.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use dfs_metaserver::Storage;
use dfs_metaserver::config::Config;
use dfs_metaserver::raft::log::disk::WholeFile;
use dfs_net::env::Env;
use dfs_state::kv::KvHome as _;

use super::disks::GroupDisks;

/// What was taken away.
enum Missing {
    Stamp(Vec<u8>),
    /// The name of the current database.
    Current(String),
}

impl Missing {
    /// `None` when the member does not have it yet.
    fn take(disks: &GroupDisks, is_stamp: bool) -> Option<Missing> {
        match is_stamp {
            true => disks.log.swap_whole(WholeFile::Stamp, None).map(Missing::Stamp),
            false => disks.state.swap_current(None).map(Missing::Current),
        }
    }

    fn put_back(self, disks: &GroupDisks) {
        match self {
            Missing::Stamp(bytes) => drop(disks.log.swap_whole(WholeFile::Stamp, Some(bytes))),
            Missing::Current(name) => drop(disks.state.swap_current(Some(name))),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Missing::Stamp(_) => "MEMBER",
            Missing::Current(_) => "CURRENT",
        }
    }
}

fn fingerprint(disks: &GroupDisks) -> u64 {
    let mut hasher = DefaultHasher::new();
    disks.log.contents().hash(&mut hasher);
    disks.state.list().unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

/// Tries to start with a file missing; false when the member has not got that far yet.
pub(super) async fn is_refused(config: Config, env: Env, storage: Storage, disks: &GroupDisks) -> bool {
    let Some(missing) = Missing::take(disks, env.rng.below(2) == 0) else { return false };
    let (name, before) = (missing.name(), fingerprint(disks));
    match dfs_metaserver::start(config, env, storage).await {
        Ok(_) => panic!("a metaserver starts without {name}"),
        Err(error) => assert!(error.to_string().contains(name), "without {name}: {error}"),
    }
    assert_eq!(fingerprint(disks), before, "a start that was refused, without {name}, changed the directory");
    missing.put_back(disks);
    true
}
