//! Messages of `federation.proto`.

use super::meta::{attr_from_wire, attr_to_wire, cluster_from_wire, error_to_wire, name_from_wire, refusal};
use super::{invalid, required};
use crate::federation::{
    AddedVolume, ClusterEntry, ClusterLoad, Federate, FederationMap, MapVolume, RootCopy, VolumeAnswer,
    VolumeCall, VolumePhase, VolumeRequest,
};
use crate::ids::{ClusterId, FederationId, VolumeId};
use crate::meta::MetaResult;
use crate::wire;

/// Bytes of a cluster's name, addresses of its metaservers, and bytes of one, at most.
const CLUSTER_NAME_LEN_MAX: usize = 64;
const ADDRESSES_MAX: usize = 16;
const ADDRESS_LEN_MAX: usize = 256;

pub(super) fn volume_from_wire(volume: u32) -> MetaResult<VolumeId> {
    if volume < 1 << 24 { Ok(VolumeId(volume)) } else { Err(invalid("volume of more than 24 bits")) }
}

fn known_cluster(bytes: &[u8]) -> MetaResult<ClusterId> {
    let cluster = cluster_from_wire(bytes)?;
    if cluster.is_known() { Ok(cluster) } else { Err(invalid("cluster id is missing")) }
}

fn root_to_wire(root: RootCopy) -> wire::RootCopy {
    wire::RootCopy { mode: root.mode, uid: root.uid, gid: root.gid }
}

fn root_from_wire(root: &wire::RootCopy) -> RootCopy {
    RootCopy { mode: root.mode, uid: root.uid, gid: root.gid }
}

fn cluster_to_wire(id: ClusterId, entry: &ClusterEntry) -> wire::MapCluster {
    let metaservers = entry.metaservers.clone();
    wire::MapCluster { cluster: id.to_wire().into(), name: entry.name.clone(), metaservers }
}

fn entry_from_wire(cluster: wire::MapCluster) -> MetaResult<(ClusterId, ClusterEntry)> {
    let id = known_cluster(&cluster.cluster)?;
    if cluster.name.is_empty() || cluster.name.len() > CLUSTER_NAME_LEN_MAX {
        return Err(invalid("name of a cluster: 1 to 64 bytes"));
    }
    if cluster.metaservers.len() > ADDRESSES_MAX {
        return Err(invalid("more than 16 metaservers"));
    }
    if cluster.metaservers.iter().any(|address| address.len() > ADDRESS_LEN_MAX) {
        return Err(invalid("address longer than 256 bytes"));
    }
    Ok((id, ClusterEntry { name: cluster.name, metaservers: cluster.metaservers }))
}

fn phase_to_wire(phase: VolumePhase) -> wire::VolumePhase {
    match phase {
        VolumePhase::Creating => wire::VolumePhase::Creating,
        VolumePhase::Active => wire::VolumePhase::Active,
        VolumePhase::Removing => wire::VolumePhase::Removing,
    }
}

fn phase_from_wire(phase: i32) -> MetaResult<VolumePhase> {
    match wire::VolumePhase::try_from(phase) {
        Ok(wire::VolumePhase::Creating) => Ok(VolumePhase::Creating),
        Ok(wire::VolumePhase::Active) => Ok(VolumePhase::Active),
        Ok(wire::VolumePhase::Removing) => Ok(VolumePhase::Removing),
        Ok(wire::VolumePhase::Unspecified) | Err(_) => Err(invalid("phase of a volume")),
    }
}

// --- the map ---

/// `None`: the caller has the newest.
/// `members`: addresses of the group that keeps the map.
pub fn map_to_wire(result: MetaResult<Option<&FederationMap>>, members: &[String]) -> wire::GetMapReply {
    let members = members.to_vec();
    match result {
        Ok(map) => wire::GetMapReply { error: None, map: map.map(the_map_to_wire), members },
        Err(error) => wire::GetMapReply { error: Some(error_to_wire(&error)), map: None, members },
    }
}

/// As it is also kept on disk.
pub fn the_map_to_wire(map: &FederationMap) -> wire::FederationMap {
    let volume = |(id, volume): &(VolumeId, MapVolume)| wire::MapVolume {
        volume: id.0,
        cluster: volume.cluster.to_wire().into(),
        name: volume.name.as_ref().map(|name| name.as_bytes().to_vec()).unwrap_or_default().into(),
        version: volume.version,
        phase: phase_to_wire(volume.phase).into(),
    };
    wire::FederationMap {
        federation: map.federation.to_wire().into(),
        version: map.version,
        root: Some(root_to_wire(map.root)),
        last_volume: map.last_volume.0,
        clusters: map.clusters.iter().map(|(id, entry)| cluster_to_wire(*id, entry)).collect(),
        volumes: map.volumes.iter().map(volume).collect(),
    }
}

pub fn map_from_wire(reply: wire::GetMapReply) -> MetaResult<Option<FederationMap>> {
    refusal(reply.error)?;
    reply.map.map(the_map_from_wire).transpose()
}

pub fn the_map_from_wire(map: wire::FederationMap) -> MetaResult<FederationMap> {
    let federation = FederationId::from_wire(&map.federation).filter(|id| id.is_known());
    let volume = |volume: wire::MapVolume| {
        let name = (!volume.name.is_empty()).then(|| name_from_wire(volume.name)).transpose()?;
        let (cluster, phase) = (known_cluster(&volume.cluster)?, phase_from_wire(volume.phase)?);
        let entry = MapVolume { cluster, name, version: volume.version, phase };
        Ok((volume_from_wire(volume.volume)?, entry))
    };
    let mut clusters = map.clusters.into_iter().map(entry_from_wire).collect::<MetaResult<Vec<_>>>()?;
    let mut volumes = map.volumes.into_iter().map(volume).collect::<MetaResult<Vec<_>>>()?;
    // They are searched.
    clusters.sort_by_key(|(id, _)| *id);
    volumes.sort_by_key(|(id, _)| *id);
    Ok(FederationMap {
        federation: required(federation, "federation id of 16 bytes")?,
        version: map.version,
        root: map.root.as_ref().map(root_from_wire).unwrap_or_default(),
        last_volume: volume_from_wire(map.last_volume)?,
        clusters,
        volumes,
    })
}

// --- changes of the map ---

pub fn federate_to_wire(call: &Federate) -> wire::FederateRequest {
    use wire::federate_request::Change as Wire;
    let change = match call {
        Federate::Report { cluster, entry, load } => Wire::Report(wire::ReportCluster {
            cluster: Some(cluster_to_wire(*cluster, entry)),
            load: Some(wire::ClusterLoad {
                cpu_percent: load.cpu,
                memory_percent: load.memory,
                disk_percent: load.disk,
                chunkservers: load.chunkservers,
            }),
        }),
        Federate::AddVolume { name, cluster, except } => Wire::AddVolume(wire::AddVolume {
            name: name.as_bytes().to_vec().into(),
            cluster: cluster.to_wire().into(),
            except: except.iter().map(|cluster| cluster.to_wire().into()).collect(),
        }),
        Federate::SettleVolume { volume, name, version } => Wire::SettleVolume(wire::SettleVolume {
            volume: volume.0,
            name: name.as_bytes().to_vec().into(),
            version: *version,
        }),
        Federate::RetireVolume { volume } => Wire::RetireVolume(volume.0),
        Federate::ForgetVolume { volume } => Wire::ForgetVolume(volume.0),
        Federate::CopyRoot { root } => Wire::CopyRoot(root_to_wire(*root)),
        Federate::Join { cluster, entry } => Wire::Join(cluster_to_wire(*cluster, entry)),
        Federate::Leave { cluster } => Wire::Leave(cluster.to_wire().into()),
    };
    wire::FederateRequest { change: Some(change) }
}

pub fn federate_from_wire(request: wire::FederateRequest) -> MetaResult<Federate> {
    use wire::federate_request::Change as Wire;
    Ok(match required(request.change, "change")? {
        Wire::Report(report) => {
            let (cluster, entry) = entry_from_wire(required(report.cluster, "cluster")?)?;
            let load = report.load.unwrap_or_default();
            let load = ClusterLoad {
                cpu: load.cpu_percent.min(100),
                memory: load.memory_percent.min(100),
                disk: load.disk_percent.min(100),
                chunkservers: load.chunkservers,
            };
            Federate::Report { cluster, entry, load }
        }
        Wire::AddVolume(add) => Federate::AddVolume {
            name: name_from_wire(add.name)?,
            cluster: cluster_from_wire(&add.cluster)?,
            except: add.except.iter().map(|cluster| cluster_from_wire(cluster)).collect::<MetaResult<_>>()?,
        },
        Wire::SettleVolume(settle) => Federate::SettleVolume {
            volume: volume_from_wire(settle.volume)?,
            name: name_from_wire(settle.name)?,
            version: settle.version,
        },
        Wire::RetireVolume(volume) => Federate::RetireVolume { volume: volume_from_wire(volume)? },
        Wire::ForgetVolume(volume) => Federate::ForgetVolume { volume: volume_from_wire(volume)? },
        Wire::CopyRoot(root) => Federate::CopyRoot { root: root_from_wire(&root) },
        Wire::Join(cluster) => {
            let (cluster, entry) = entry_from_wire(cluster)?;
            Federate::Join { cluster, entry }
        }
        Wire::Leave(cluster) => Federate::Leave { cluster: known_cluster(&cluster)? },
    })
}

/// `None` for all but `AddVolume`.
pub fn federated_to_wire(result: MetaResult<Option<AddedVolume>>) -> wire::FederateReply {
    match result {
        Ok(None) => wire::FederateReply::default(),
        Ok(Some(added)) => wire::FederateReply {
            error: None,
            volume: added.volume.0,
            cluster: added.cluster.to_wire().into(),
        },
        Err(error) => wire::FederateReply { error: Some(error_to_wire(&error)), ..Default::default() },
    }
}

pub fn federated_from_wire(reply: wire::FederateReply) -> MetaResult<Option<AddedVolume>> {
    refusal(reply.error)?;
    if reply.volume == 0 {
        return Ok(None);
    }
    let (volume, cluster) = (volume_from_wire(reply.volume)?, known_cluster(&reply.cluster)?);
    Ok(Some(AddedVolume { volume, cluster }))
}

// --- steps of one volume ---

pub fn volume_request_to_wire(request: &VolumeRequest) -> wire::VolumeRequest {
    use wire::volume_request::Step as Wire;
    let step = match request.step {
        VolumeCall::Make { root } => Wire::Make(root_to_wire(root)),
        VolumeCall::Show => Wire::Show(wire::Done {}),
        VolumeCall::StartRemoval { version } => Wire::StartRemoval(version),
        VolumeCall::UndoRemoval { version } => Wire::UndoRemoval(version),
        VolumeCall::Drop => Wire::Drop(wire::Done {}),
        VolumeCall::Fence => Wire::Fence(wire::Done {}),
    };
    let cluster = request.cluster.to_wire().into();
    wire::VolumeRequest { cluster, volume: request.volume.0, step: Some(step) }
}

pub fn volume_request_from_wire(request: wire::VolumeRequest) -> MetaResult<VolumeRequest> {
    use wire::volume_request::Step as Wire;
    let step = match required(request.step, "step")? {
        Wire::Make(root) => VolumeCall::Make { root: root_from_wire(&root) },
        Wire::Show(wire::Done {}) => VolumeCall::Show,
        Wire::StartRemoval(version) => VolumeCall::StartRemoval { version },
        Wire::UndoRemoval(version) => VolumeCall::UndoRemoval { version },
        Wire::Drop(wire::Done {}) => VolumeCall::Drop,
        Wire::Fence(wire::Done {}) => VolumeCall::Fence,
    };
    let (cluster, volume) = (known_cluster(&request.cluster)?, volume_from_wire(request.volume)?);
    if volume == VolumeId(0) {
        return Err(invalid("volume 0 is not made or removed"));
    }
    Ok(VolumeRequest { cluster, volume, step })
}

pub fn volume_answer_to_wire(result: MetaResult<VolumeAnswer>) -> wire::VolumeReply {
    let plain = wire::VolumeReply::default;
    match result {
        Ok(VolumeAnswer::Root(attr)) => wire::VolumeReply { root: Some(attr_to_wire(&attr)), ..plain() },
        Ok(VolumeAnswer::Done) => plain(),
        Ok(VolumeAnswer::Dropped { more }) => wire::VolumeReply { more, ..plain() },
        Ok(VolumeAnswer::Fenced { removed_at }) => wire::VolumeReply { removed_at, ..plain() },
        Err(error) => wire::VolumeReply { error: Some(error_to_wire(&error)), ..plain() },
    }
}

/// `step` is what was asked: it tells what the answer is.
pub fn volume_answer_from_wire(step: VolumeCall, reply: wire::VolumeReply) -> MetaResult<VolumeAnswer> {
    refusal(reply.error)?;
    Ok(match step {
        VolumeCall::Make { .. } | VolumeCall::Show | VolumeCall::StartRemoval { .. } => {
            VolumeAnswer::Root(attr_from_wire(required(reply.root, "attributes of the root")?)?)
        }
        VolumeCall::UndoRemoval { .. } => VolumeAnswer::Done,
        VolumeCall::Drop => VolumeAnswer::Dropped { more: reply.more },
        VolumeCall::Fence => VolumeAnswer::Fenced { removed_at: reply.removed_at },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::Name;
    use crate::error::MetaError;

    #[test]
    fn a_map_and_every_call_come_back_as_they_were() {
        let cluster = ClusterId(7);
        let name = Name::new("v").unwrap();
        let entry = ClusterEntry { name: "alpha".to_owned(), metaservers: vec!["a:1".to_owned()] };
        let volume = MapVolume { cluster, name: Some(name.clone()), version: 3, phase: VolumePhase::Active };
        let root = RootCopy { mode: 0o700, uid: 1, gid: 2 };
        let map = FederationMap {
            federation: FederationId(9),
            version: 4,
            root,
            last_volume: VolumeId(6),
            clusters: vec![(cluster, entry.clone())],
            volumes: vec![(VolumeId(5), volume)],
        };
        assert_eq!(map_from_wire(map_to_wire(Ok(Some(&map)), &[])), Ok(Some(map)));
        let load = ClusterLoad { cpu: 1, memory: 2, disk: 3, chunkservers: 4 };
        let volume = VolumeId(5);
        for call in [
            Federate::Report { cluster, entry: entry.clone(), load },
            Federate::Join { cluster, entry },
            Federate::AddVolume { name: name.clone(), cluster: ClusterId::UNKNOWN, except: vec![cluster] },
            Federate::SettleVolume { volume, name, version: 8 },
            Federate::RetireVolume { volume },
            Federate::ForgetVolume { volume },
            Federate::CopyRoot { root },
            Federate::Leave { cluster },
        ] {
            assert_eq!(federate_from_wire(federate_to_wire(&call)), Ok(call));
        }
        for step in [
            VolumeCall::Make { root },
            VolumeCall::Show,
            VolumeCall::StartRemoval { version: 1 },
            VolumeCall::UndoRemoval { version: 1 },
            VolumeCall::Drop,
            VolumeCall::Fence,
        ] {
            let request = VolumeRequest { cluster, volume, step };
            assert_eq!(volume_request_from_wire(volume_request_to_wire(&request)), Ok(request));
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        let step = wire::volume_request::Step::Show(wire::Done {});
        let cluster = ClusterId(7).to_wire().into();
        let refused =
            volume_request_from_wire(wire::VolumeRequest { cluster, volume: 1 << 24, step: Some(step) });
        assert!(matches!(refused, Err(MetaError::InvalidArgument { what }) if what.contains("24 bits")));
        let refused = federate_from_wire(wire::FederateRequest { change: None });
        assert!(matches!(refused, Err(MetaError::InvalidArgument { what }) if what.contains("change")));
    }

    #[test]
    fn a_cluster_with_a_longer_name_or_more_or_longer_addresses_than_any_is_refused() {
        let join = |name: usize, count: usize, len: usize| {
            let entry = ClusterEntry { name: "n".repeat(name), metaservers: vec!["a".repeat(len); count] };
            let (cluster, load) = (ClusterId(7), ClusterLoad::default());
            let report = Federate::Report { cluster, entry: entry.clone(), load };
            let calls = [report, Federate::Join { cluster, entry }];
            calls.map(|call| federate_from_wire(federate_to_wire(&call)).is_ok())
        };
        assert_eq!(join(CLUSTER_NAME_LEN_MAX, ADDRESSES_MAX, ADDRESS_LEN_MAX), [true, true]);
        for (name, count, len) in [(0, 1, 1), (65, 1, 1), (1, 17, 1), (1, 1, 257)] {
            assert_eq!(join(name, count, len), [false, false], "{name} {count} {len}");
        }
    }

    #[test]
    fn a_report_of_a_cluster_says_no_more_than_all_of_anything() {
        let load = ClusterLoad { cpu: u32::MAX, memory: 101, disk: 100, chunkservers: 3 };
        let entry = ClusterEntry { name: "a".to_owned(), metaservers: Vec::new() };
        let report = Federate::Report { cluster: ClusterId(7), entry, load };
        let Ok(Federate::Report { load, .. }) = federate_from_wire(federate_to_wire(&report)) else {
            panic!("it is a report")
        };
        assert_eq!((load.cpu, load.memory, load.disk), (100, 100, 100));
    }
}
