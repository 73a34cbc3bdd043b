//! The federation map as a state machine: which clusters there are, and which volume lives where. The state of the federation
//! group, in a store of its own; no cluster's state holds any of it (P9).
//!
//! M1  A volume number is given once, and every volume that has one is in exactly one cluster.
//! M2  What volume 0 says decides. Here a volume's name is a copy, with the version of the entry that it was taken from;
//!     an older one never replaces a newer one.
//! M3  Each change that a reader of the map can see raises the map's version.

pub mod command;

use dfs_proto::attr::Name;
use dfs_proto::error::MetaError;
use dfs_proto::federation::{ClusterEntry, FederationMap, MapVolume, RootCopy, VolumePhase};
use dfs_proto::ids::{ClusterId, FederationId, VolumeId};

use super::keys;
use super::record::federation::{Federation, MapClusters, MapVolumes};
use super::record::{decode, encode};
use crate::kv::{Snapshot, Txn, scan_prefix};
use crate::value::federation::FederationRecord;
use command::{Command, Reply};

const VOLUME_MAX: u32 = (1 << 24) - 1;

/// Executes one command.
pub fn apply(command: &Command, txn: &mut Txn<'_>) -> Reply {
    if let Command::Init { federation } = command {
        if get(txn).is_none() {
            let (version, last_volume, root) = (1, VolumeId(0), RootCopy::default());
            put(txn, &FederationRecord { federation: *federation, version, last_volume, root });
        }
        return Reply::Done;
    }
    let Some(record) = get(txn) else {
        return Reply::Refused(MetaError::Unavailable { what: "the federation is not made yet".to_owned() });
    };
    let done = match command {
        Command::Init { .. } => Ok(Reply::Done),
        Command::JoinCluster { cluster, entry } => join(txn, *cluster, entry),
        Command::MoveCluster { cluster, entry } => move_cluster(txn, *cluster, entry),
        Command::LeaveCluster { cluster } => leave(txn, *cluster),
        Command::AddVolume { cluster, name } => add_volume(txn, record, *cluster, name),
        Command::SettleVolume { volume, name, version } => settle(txn, *volume, name, *version),
        Command::RetireVolume { volume } => retire(txn, *volume),
        Command::ForgetVolume { volume } => forget(txn, *volume),
        Command::CopyRoot { root } => copy_root(txn, record, root),
    };
    done.unwrap_or_else(Reply::Refused)
}

type Applied = Result<Reply, MetaError>;

/// A cluster joins, or says where its metaservers are now. The first one has volume 0.
fn join(txn: &mut Txn<'_>, id: ClusterId, entry: &ClusterEntry) -> Applied {
    if cluster(txn, id).as_ref() == Some(entry) {
        return Ok(Reply::Done);
    }
    let others: Vec<(ClusterId, ClusterEntry)> = clusters(txn).filter(|(other, _)| *other != id).collect();
    if others.iter().any(|(_, other)| other.name == entry.name) {
        let what = format!("the federation has a cluster named {} already", entry.name);
        return Err(MetaError::InvalidArgument { what });
    }
    if others.is_empty() && volume(txn, VolumeId(0)).is_none() {
        let root = MapVolume { cluster: id, name: None, version: 0, phase: VolumePhase::Active };
        put_volume(txn, VolumeId(0), &root);
    }
    txn.put(keys::map_cluster(id), encode::<MapClusters>(entry));
    changed(txn);
    Ok(Reply::Done)
}

/// It may have left since it said so: then it does not come back by this.
fn move_cluster(txn: &mut Txn<'_>, id: ClusterId, entry: &ClusterEntry) -> Applied {
    match cluster(txn, id) {
        Some(_) => join(txn, id, entry),
        None => Err(MetaError::InvalidArgument { what: format!("the federation has no cluster {id}") }),
    }
}

fn leave(txn: &mut Txn<'_>, id: ClusterId) -> Applied {
    if cluster(txn, id).is_none() {
        return Ok(Reply::Done);
    }
    if volumes(txn).any(|(_, volume)| volume.cluster == id) {
        return Err(MetaError::NotEmpty);
    }
    txn.delete(keys::map_cluster(id));
    changed(txn);
    Ok(Reply::Done)
}

/// P9.2, step 1.
fn add_volume(txn: &mut Txn<'_>, mut record: FederationRecord, id: ClusterId, name: &Name) -> Applied {
    if cluster(txn, id).is_none() {
        return Err(MetaError::InvalidArgument { what: format!("the federation has no cluster {id}") });
    }
    if record.last_volume.0 == VOLUME_MAX {
        return Err(MetaError::NoSpace { what: "all volume numbers were used".to_owned() });
    }
    record.last_volume.0 += 1;
    let number = record.last_volume;
    put(txn, &record);
    let name = Some(name.clone());
    put_volume(txn, number, &MapVolume { cluster: id, name, version: 0, phase: VolumePhase::Creating });
    changed(txn);
    Ok(Reply::VolumeAdded { volume: number })
}

/// Volume 0 has this name for it, since `version`. Keeps M2.
fn settle(txn: &mut Txn<'_>, id: VolumeId, name: &Name, version: u64) -> Applied {
    let mut entry = require(txn, id)?;
    if entry.version >= version || entry.phase == VolumePhase::Removing {
        return Ok(Reply::Done);
    }
    entry = MapVolume { name: Some(name.clone()), version, phase: VolumePhase::Active, ..entry };
    put_volume(txn, id, &entry);
    changed(txn);
    Ok(Reply::Done)
}

/// Volume 0 has no name for it, and will have none. It stays, nameless, while files of it are open.
fn retire(txn: &mut Txn<'_>, id: VolumeId) -> Applied {
    let Some(mut entry) = volume(txn, id) else { return Ok(Reply::Done) };
    if id == VolumeId(0) {
        return Err(MetaError::NotPermitted);
    }
    if entry.phase != VolumePhase::Removing {
        entry = MapVolume { name: None, phase: VolumePhase::Removing, ..entry };
        put_volume(txn, id, &entry);
        changed(txn);
    }
    Ok(Reply::Done)
}

/// Nothing is left of it in its cluster.
fn forget(txn: &mut Txn<'_>, id: VolumeId) -> Applied {
    match volume(txn, id).map(|entry| entry.phase) {
        None => {}
        Some(VolumePhase::Removing) => {
            txn.delete(keys::map_volume(id));
            changed(txn);
        }
        Some(VolumePhase::Creating | VolumePhase::Active) => return Err(MetaError::NotPermitted),
    }
    Ok(Reply::Done)
}

fn copy_root(txn: &mut Txn<'_>, mut record: FederationRecord, root: &RootCopy) -> Applied {
    if record.root != *root {
        record.root = *root;
        put(txn, &record);
        changed(txn);
    }
    Ok(Reply::Done)
}

/// Keeps M3.
fn changed(txn: &mut Txn<'_>) {
    if let Some(mut record) = get(txn) {
        record.version += 1;
        put(txn, &record);
    }
}

fn require(view: &dyn Snapshot, id: VolumeId) -> Result<MapVolume, MetaError> {
    volume(view, id).ok_or(MetaError::NotFound)
}

fn get(view: &dyn Snapshot) -> Option<FederationRecord> {
    view.get(&keys::federation()).map(|bytes| decode::<Federation>(&bytes))
}

fn put(txn: &mut Txn<'_>, record: &FederationRecord) {
    txn.put(keys::federation(), encode::<Federation>(record));
}

fn cluster(view: &dyn Snapshot, id: ClusterId) -> Option<ClusterEntry> {
    view.get(&keys::map_cluster(id)).map(|bytes| decode::<MapClusters>(&bytes))
}

fn clusters(view: &dyn Snapshot) -> impl Iterator<Item = (ClusterId, ClusterEntry)> + '_ {
    scan_prefix(view, &keys::table(keys::MAP_CLUSTER))
        .map(|(key, value)| (keys::cluster_in(&key), decode::<MapClusters>(&value)))
}

fn volume(view: &dyn Snapshot, id: VolumeId) -> Option<MapVolume> {
    view.get(&keys::map_volume(id)).map(|bytes| decode::<MapVolumes>(&bytes))
}

fn put_volume(txn: &mut Txn<'_>, id: VolumeId, volume: &MapVolume) {
    txn.put(keys::map_volume(id), encode::<MapVolumes>(volume));
}

fn volumes(view: &dyn Snapshot) -> impl Iterator<Item = (VolumeId, MapVolume)> + '_ {
    scan_prefix(view, &keys::table(keys::MAP_VOLUME))
        .map(|(key, value)| (keys::volume_in(&key), decode::<MapVolumes>(&value)))
}

/// The whole map; `None` before `Init`.
pub fn map(view: &dyn Snapshot) -> Option<FederationMap> {
    let record = get(view)?;
    Some(FederationMap {
        federation: record.federation,
        version: record.version,
        root: record.root,
        last_volume: record.last_volume,
        clusters: clusters(view).collect(),
        volumes: volumes(view).collect(),
    })
}

/// `None` before `Init`.
pub fn id(view: &dyn Snapshot) -> Option<FederationId> {
    get(view).map(|record| record.federation)
}

/// The map's version; 0 before `Init`.
pub fn version(view: &dyn Snapshot) -> u64 {
    get(view).map_or(0, |record| record.version)
}

/// Every invariant that does not hold, as a sentence; empty: all is well.
pub fn check(view: &dyn Snapshot) -> Vec<String> {
    let Some(record) = get(view) else { return Vec::new() };
    let mut faults = Vec::new();
    for (id, volume) in volumes(view) {
        if id > record.last_volume {
            faults.push(format!("M1: {id} is above the last number given, {}", record.last_volume));
        }
        if cluster(view, volume.cluster).is_none() {
            faults.push(format!("M1: {id} is in cluster {}, which is not there", volume.cluster));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::InodeId;

    use super::*;
    use crate::tests::{Harness, name};

    const ALPHA: ClusterId = ClusterId(0xa1fa);
    const BETA: ClusterId = ClusterId(0xbe7a);

    fn entry(name: &str) -> ClusterEntry {
        ClusterEntry { name: name.to_owned(), metaservers: vec![format!("{name}:7000")] }
    }

    /// A federation of alpha and beta.
    fn federation() -> Harness {
        let mut harness = Harness::uninitialised();
        let federation = FederationId(0xfed);
        for command in [
            Command::Init { federation },
            Command::JoinCluster { cluster: ALPHA, entry: entry("alpha") },
            Command::JoinCluster { cluster: BETA, entry: entry("beta") },
        ] {
            assert_eq!(done(&mut harness, command), Reply::Done);
        }
        harness
    }

    fn done(harness: &mut Harness, command: Command) -> Reply {
        let before = harness.view(version);
        let dump = harness.dump();
        let reply = harness.federation(command);
        let has_changed = harness.dump() != dump;
        assert_eq!(harness.view(version) > before, has_changed, "M3");
        assert_eq!(harness.view(check), Vec::<String>::new());
        reply
    }

    fn add(harness: &mut Harness, cluster: ClusterId, text: &str) -> VolumeId {
        let reply = done(harness, Command::AddVolume { cluster, name: name(text) });
        let Reply::VolumeAdded { volume } = reply else { panic!("no volume: {reply:?}") };
        volume
    }

    fn settle(harness: &mut Harness, volume: VolumeId, text: &str, version: u64) {
        let settle = Command::SettleVolume { volume, name: name(text), version };
        assert_eq!(done(harness, settle), Reply::Done);
    }

    fn the_map(harness: &Harness) -> FederationMap {
        harness.view(map).expect("it is made")
    }

    #[test]
    fn the_first_cluster_has_the_root() {
        let map = the_map(&federation());
        assert_eq!(map.cluster_of(InodeId::ROOT), Some(ALPHA));
        assert_eq!(map.cluster(BETA), Some(&entry("beta")));
    }

    #[test]
    fn a_volume_is_found_by_name_once_volume_0_has_one_for_it() {
        let mut harness = federation();
        let volume = add(&mut harness, BETA, "v");
        assert_eq!(the_map(&harness).named(b"v"), None);
        settle(&mut harness, volume, "v", 1);
        let map = the_map(&harness);
        assert_eq!((map.named(b"v"), map.volume(volume).map(|v| v.cluster)), (Some(volume), Some(BETA)));
    }

    #[test]
    fn an_older_name_never_replaces_a_newer_one() {
        let mut harness = federation();
        let volume = add(&mut harness, BETA, "a");
        settle(&mut harness, volume, "c", 3);
        settle(&mut harness, volume, "b", 2);
        assert_eq!(the_map(&harness).named(b"c"), Some(volume));
        done(&mut harness, Command::RetireVolume { volume });
        settle(&mut harness, volume, "d", 4);
        assert_eq!(the_map(&harness).named(b"d"), None, "a removed one gets none");
    }

    #[test]
    fn numbers_are_given_once_and_a_volume_is_forgotten_only_when_retired() {
        let mut harness = federation();
        let first = add(&mut harness, ALPHA, "a");
        let forget = Command::ForgetVolume { volume: first };
        assert_eq!(done(&mut harness, forget.clone()), Reply::Refused(MetaError::NotPermitted));
        done(&mut harness, Command::RetireVolume { volume: first });
        assert_eq!(done(&mut harness, forget.clone()), Reply::Done);
        assert_eq!(done(&mut harness, forget), Reply::Done);
        assert_eq!(add(&mut harness, ALPHA, "a"), VolumeId(first.0 + 1));
        let root = Command::RetireVolume { volume: VolumeId(0) };
        assert_eq!(done(&mut harness, root), Reply::Refused(MetaError::NotPermitted));
    }

    #[test]
    fn only_an_empty_cluster_leaves_and_names_of_clusters_are_taken_once() {
        let mut harness = federation();
        let gamma = ClusterId(0x9a);
        let again = Command::JoinCluster { cluster: gamma, entry: entry("beta") };
        assert!(matches!(done(&mut harness, again), Reply::Refused(MetaError::InvalidArgument { .. })));
        let volume = add(&mut harness, BETA, "v");
        let leave = Command::LeaveCluster { cluster: BETA };
        assert_eq!(done(&mut harness, leave.clone()), Reply::Refused(MetaError::NotEmpty));
        done(&mut harness, Command::RetireVolume { volume });
        done(&mut harness, Command::ForgetVolume { volume });
        assert_eq!(done(&mut harness, leave), Reply::Done);
        let late = Command::AddVolume { cluster: BETA, name: name("w") };
        assert!(matches!(done(&mut harness, late), Reply::Refused(MetaError::InvalidArgument { .. })));
        let alpha = Command::LeaveCluster { cluster: ALPHA };
        assert_eq!(done(&mut harness, alpha), Reply::Refused(MetaError::NotEmpty), "it has the root");
    }

    #[test]
    fn a_cluster_whose_metaservers_moved_is_found_at_the_new_addresses() {
        let mut harness = federation();
        let moved = ClusterEntry { name: "beta".to_owned(), metaservers: vec!["elsewhere:1".to_owned()] };
        let says_so = Command::MoveCluster { cluster: BETA, entry: moved.clone() };
        assert_eq!(done(&mut harness, says_so.clone()), Reply::Done);
        assert_eq!(the_map(&harness).cluster(BETA), Some(&moved));
        done(&mut harness, Command::LeaveCluster { cluster: BETA });
        assert!(matches!(done(&mut harness, says_so), Reply::Refused(MetaError::InvalidArgument { .. })));
        assert_eq!(the_map(&harness).cluster(BETA), None, "it has left");
    }

    #[test]
    fn nothing_is_possible_before_it_is_made() {
        let mut harness = Harness::uninitialised();
        let join = Command::JoinCluster { cluster: ALPHA, entry: entry("alpha") };
        let refused = harness.federation(join);
        assert!(matches!(refused, Reply::Refused(MetaError::Unavailable { .. })));
        assert_eq!(harness.view(map), None);
    }
}
