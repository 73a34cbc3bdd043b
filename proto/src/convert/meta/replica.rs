//! Where the copies of a chunk are, and reports about copies that failed.

use super::attr::cluster_from_wire;
use crate::convert::invalid;
use crate::ids::{ChunkId, ServerId, SetVersion};
use crate::meta::{ChunkLocation, MetaResult, Replica, ReplicaProblem, ReplicaReport};
use crate::units::ByteLen;
use crate::wire;

pub fn report_to_wire(report: &ReplicaReport) -> wire::ReportReplicaRequest {
    wire::ReportReplicaRequest {
        cluster: report.cluster.to_wire().into(),
        chunk: report.chunk.0,
        server: report.server.0,
        problem: match report.problem {
            ReplicaProblem::Unreachable => wire::ReplicaProblem::Unreachable,
            ReplicaProblem::Damaged => wire::ReplicaProblem::Damaged,
        } as i32,
    }
}

pub fn report_from_wire(report: wire::ReportReplicaRequest) -> MetaResult<ReplicaReport> {
    Ok(ReplicaReport {
        cluster: cluster_from_wire(&report.cluster)?,
        chunk: ChunkId(report.chunk),
        server: ServerId(report.server),
        problem: match wire::ReplicaProblem::try_from(report.problem) {
            Ok(wire::ReplicaProblem::Unreachable) => ReplicaProblem::Unreachable,
            Ok(wire::ReplicaProblem::Damaged) => ReplicaProblem::Damaged,
            Ok(wire::ReplicaProblem::Unspecified) | Err(_) => return Err(invalid("problem")),
        },
    })
}

pub(super) fn replicas_to_wire(replicas: &[Replica]) -> Vec<wire::Replica> {
    replicas.iter().map(|r| wire::Replica { server: r.server.0, address: r.address.clone() }).collect()
}

pub(super) fn replicas_from_wire(replicas: Vec<wire::Replica>) -> Vec<Replica> {
    replicas.into_iter().map(|r| Replica { server: ServerId(r.server), address: r.address }).collect()
}

pub(super) fn location_to_wire(location: &ChunkLocation) -> wire::ChunkLocation {
    wire::ChunkLocation {
        chunk: location.chunk.0,
        set_version: location.set_version.0,
        committed: location.committed.0,
        sealed: location.sealed,
        replicas: replicas_to_wire(&location.replicas),
    }
}

pub(super) fn location_from_wire(location: wire::ChunkLocation) -> ChunkLocation {
    ChunkLocation {
        chunk: ChunkId(location.chunk),
        set_version: SetVersion(location.set_version),
        committed: ByteLen(location.committed),
        sealed: location.sealed,
        replicas: replicas_from_wire(location.replicas),
    }
}
