//! What the `dfs` command asks. Every member answers `Status` from what it knows; no client acts on it.

mod sessions;

use std::collections::BTreeSet;

use dfs_proto::attr::{Caller, FileKind};
use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::extent::Extent;
use dfs_proto::ids::{ChunkId, InodeId, ServerId, VolumeId};
use dfs_proto::meta::{MetaResult, Read, Replica};
use dfs_proto::scope::Scope;
use dfs_proto::units::Offset;
use dfs_proto::wire;
use tokio::time::Instant;

use crate::metaserver::Metaserver;
use crate::raft::GroupStatus;
use crate::view::{Registered, ServerState};
use dfs_state::kv::Snapshot;
use dfs_state::read;
use dfs_state::value::chunk::{ChunkRecord, ChunkState};
pub(super) use sessions::{expired_to_wire, sessions_to_wire};

/// Extents in one answer.
const SHOWN_EXTENTS_MAX: u32 = 1000;
/// Chunks of one server that is away, looked at for one answer: about 50 ms.
const COUNTED_CHUNKS_MAX: usize = 10_000;

impl Metaserver {
    /// Of this member: what the cluster looks like from here. Answers without a leader, too.
    pub(super) fn status(&self) -> wire::StatusReply {
        let raft = self.gate.consensus().status();
        let info = self.gate.local(read::cluster);
        let mut reply = wire::StatusReply {
            cluster: info.as_ref().map(|i| i.cluster.to_wire().into()).unwrap_or_default(),
            cluster_name: info.as_ref().map(|i| i.name.clone()).unwrap_or_default(),
            answered_by: self.id.0,
            is_leader: self.gate.enter_term().is_ok(), // keeps G3 of the gate
            leader: raft.leader.map_or(0, |leader| leader.0),
            term: raft.term,
            members: members(&raft),
            copies: info.as_ref().map_or(0, |i| i.copies),
            last_log: raft.last_log,
            last_applied: raft.last_applied,
            is_full: self.room.is_full(),
            ..Default::default()
        };
        if reply.is_leader {
            self.gate.local(|state| self.add_what_the_leader_knows(state, &mut reply));
        }
        reply
    }

    fn add_what_the_leader_knows(&self, state: &dyn Snapshot, reply: &mut wire::StatusReply) {
        let now = Instant::now();
        let registered = read::servers(state);
        let totals = read::totals(state);
        reply.chunkservers = registered.iter().map(|server| self.server_status(server, now)).collect();
        reply.chunks_open = totals.chunks_open;
        reply.chunks_sealed = totals.chunks_sealed;
        let away = self.gate.view.away(&registered, now);
        reply.chunks_degraded = totals.chunks_degraded + whole_but_away(state, &away);
        reply.chunks_damaged = totals.chunks_damaged;
        reply.chunks_dead = totals.chunks_dead + totals.chunks_deleting;
        reply.inodes = totals.inodes;
        reply.sessions = totals.sessions;
        reply.held = Some(self.held());
        let root = InodeId::ROOT.volume();
        reply.volumes = vec![wire::VolumeStatus {
            volume: root.0,
            name: "/".to_owned(),
            cluster: reply.cluster_name.clone(),
            inodes: totals.inodes,
        }];
    }

    fn server_status(&self, (server, record): &Registered, now: Instant) -> wire::ServerStatus {
        let described = self.gate.view.describe(*server, now);
        let load = described.heard.as_ref().map(|heard| heard.load.clone()).unwrap_or_default();
        wire::ServerStatus {
            server: server.0,
            grpc_address: record.addresses.grpc.clone(),
            frames_address: record.addresses.frames.clone(),
            http_address: record.addresses.http.clone(),
            zone: record.zone.clone(),
            state: state_to_wire(described.state) as i32,
            report_age_ms: described.silence.as_millis() as u64,
            cpu_percent: load.cpu_percent,
            memory_total: load.memory_total.0,
            memory_available: load.memory_available.0,
            disk_total: load.disk_total.0,
            disk_free: load.disk_free.0,
            requests_in_flight: load.requests_in_flight,
            chunks: load.chunks,
            heard: described.heard.is_some(),
        }
    }

    /// Where the bytes of one file are. Symbolic links are shown, not followed.
    pub(super) async fn show_file(&self, request: wire::FileShowRequest) -> MetaResult<wire::FileShowReply> {
        let from = Offset(request.after_offset);
        let inode = self.walk(VolumeId(request.volume), &request.path).await?;
        let look = |state: &dyn Snapshot| {
            let attr = read::getattr(state, inode)?;
            if attr.kind != FileKind::File {
                return Ok((attr, Vec::new(), false));
            }
            let found = read::extents(state, attr.inode, from, u64::MAX, SHOWN_EXTENTS_MAX)?;
            let is_cut = found.up_to.0 < from.0.saturating_add(u64::MAX);
            let placed = |extent: &Extent| {
                let location = read::chunk_location(state, extent.chunk);
                read::chunk(state, extent.chunk).zip(location).map(|(r, l)| (*extent, r, l.replicas))
            };
            Ok((found.attr, found.extents.iter().filter_map(placed).collect(), is_cut))
        };
        let (attr, extents, more) = self.gate.read(&Scope::of_inode(inode), look).await?;
        let shown = |(extent, record, replicas): (Extent, ChunkRecord, Vec<Replica>)| {
            self.shown_extent(extent, &record, &replicas)
        };
        Ok(wire::FileShowReply {
            error: None,
            attr: Some(convert::attr_to_wire(&attr)),
            extents: extents.into_iter().map(shown).collect(),
            more,
            cluster_name: self.gate.local(read::cluster).map(|info| info.name).unwrap_or_default(),
        })
    }

    /// From the root of the volume, with the rights of root.
    async fn walk(&self, volume: VolumeId, path: &str) -> MetaResult<InodeId> {
        let root = InodeId::new(volume, InodeId::ROOT.number()).ok_or(MetaError::NotFound)?;
        let mut inode = root;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let shown = Read::Lookup { parent: inode, name: name.as_bytes().to_vec() }.scope();
            let look = |state: &dyn Snapshot| read::lookup(state, &Caller::ROOT, inode, name.as_bytes());
            inode = self.gate.read(&shown, look).await?.inode;
        }
        Ok(inode)
    }

    fn shown_extent(&self, extent: Extent, record: &ChunkRecord, replicas: &[Replica]) -> wire::ShownExtent {
        let now = Instant::now();
        let state = |server: ServerId| state_to_wire(self.gate.view.state(server, now)) as i32;
        let copy = |replica: &Replica| wire::ShownCopy {
            server: replica.server.0,
            address: replica.address.clone(),
            state: state(replica.server),
            damaged: record.damaged.contains(&replica.server),
        };
        wire::ShownExtent {
            offset: extent.offset.0,
            len: extent.len,
            chunk: extent.chunk.0,
            chunk_offset: extent.chunk_offset.0,
            chunk_state: chunk_state(&record.state).to_owned(),
            set_version: record.set_version.0,
            copies: replicas.iter().map(copy).collect(),
        }
    }
}

/// Chunks in use that have all their copies, but one of them on a server that is away. Exact up to [`COUNTED_CHUNKS_MAX`]
/// chunks a server; it needs no more to be alarming.
fn whole_but_away(state: &dyn Snapshot, away: &[ServerId]) -> u64 {
    let on_away = away.iter().flat_map(|server| read::chunks_on(state, *server, COUNTED_CHUNKS_MAX));
    let chunks: BTreeSet<ChunkId> = on_away.collect();
    let counts = |chunk: &&ChunkId| {
        read::chunk(state, **chunk).is_some_and(|record| match record.state {
            ChunkState::Open { .. } | ChunkState::Sealed => !record.is_degraded(),
            ChunkState::Dead { .. } | ChunkState::Deleting { .. } => false,
        })
    };
    chunks.iter().filter(counts).count() as u64
}

fn chunk_state(state: &ChunkState) -> &'static str {
    match state {
        ChunkState::Open { .. } => "open",
        ChunkState::Sealed => "sealed",
        ChunkState::Dead { .. } => "dead",
        ChunkState::Deleting { .. } => "deleting",
    }
}

fn state_to_wire(state: ServerState) -> wire::ServerState {
    match state {
        ServerState::Alive => wire::ServerState::Alive,
        ServerState::Away => wire::ServerState::Away,
        ServerState::Full => wire::ServerState::Full,
    }
}

fn members(raft: &GroupStatus) -> Vec<wire::MemberStatus> {
    let member = |member: &crate::raft::MemberStatus| wire::MemberStatus {
        member: member.id.0,
        address: member.address.clone(),
        directory: member.directory.to_wire().into(),
        log_lag: member.log_lag,
        is_leader: member.is_leader,
        clock_off_ms: member.clock_off_ms,
    };
    raft.members.iter().map(member).collect()
}

pub(super) fn shown_to_wire(result: MetaResult<wire::FileShowReply>) -> wire::FileShowReply {
    result.unwrap_or_else(|error: MetaError| wire::FileShowReply {
        error: Some(convert::error_to_wire(&error)),
        ..Default::default()
    })
}
