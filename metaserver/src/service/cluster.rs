//! What chunkservers ask and tell: registration through Raft, heartbeats into the view, orders back.

use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{ChunkId, DirectoryId, Instance, ServerId};
use dfs_proto::meta::MetaResult;
use dfs_proto::scope::Unleased;
use dfs_proto::units::ByteLen;
use dfs_proto::wire;
use tokio::time::Instant;

use super::namespace::unexpected;
use crate::metaserver::Metaserver;
use crate::view::Load;
use dfs_state::command::{Command, RegisterServer, Registered, Reply, SEAL_CHUNKS_MAX, ServerAddresses};
use dfs_state::kv::Snapshot;
use dfs_state::read;

/// Deletion orders in one answer; the next heartbeat brings the next.
pub(super) const ORDERS_MAX: usize = 1000;
/// Damage reports taken from one heartbeat: each is a command. The server repeats what is left.
pub(super) const DAMAGE_REPORTS_MAX: usize = 100;
pub(super) const ADDRESS_LEN_MAX: usize = 256;
/// Registrations are kept for ever: whoever makes them up fills no disk and no list.
pub(super) const SERVERS_MAX: usize = 4096;
/// What a server may say that its disk, its memory or its work are: sums of many of them stay numbers.
pub(super) const LOAD_MAX: u64 = 1 << 50;
pub(super) const ZONE_LEN_MAX: usize = 64;

impl Metaserver {
    /// Gives a data directory its server id, and a new instance number (P11.1).
    pub(super) async fn register(&self, request: wire::RegisterRequest) -> MetaResult<Registered> {
        let cluster = convert::cluster_from_wire(&request.cluster)?;
        if cluster.is_known() {
            self.gate.check_cluster(cluster)?;
        }
        let is_fresh = request.server == 0;
        let command = Command::RegisterServer(registration(request)?);
        let look = |state: &dyn Snapshot| Ok(read::servers(state).len());
        if self.gate.read_unleased(Unleased::Servers, look).await? >= SERVERS_MAX && is_fresh {
            let what = format!("{SERVERS_MAX} chunkservers have registered; no more can");
            return Err(MetaError::Unavailable { what });
        }
        // Whether or not the answer is waited for: it may be applied.
        let _changed = self.servers.change();
        match self.gate.change(command).await? {
            Reply::Registered(registered) => {
                tracing::info!("{} has registered, {}", registered.server, registered.instance);
                Ok(registered)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Takes a report and gives orders. `re_register` when this instance is not the recorded one.
    pub(super) async fn heartbeat(
        &self,
        request: wire::HeartbeatRequest,
    ) -> MetaResult<wire::HeartbeatReply> {
        self.gate.check_cluster(convert::cluster_from_wire(&request.cluster)?)?;
        self.metrics.heartbeats.inc();
        let (server, instance) = (ServerId(request.server), Instance(request.instance));
        let look = |state: &dyn Snapshot| Ok(read::server(state, server));
        let registered = self.gate.read_unleased(Unleased::Servers, look).await?;
        if registered.is_none_or(|r| r.instance != instance) {
            return Ok(wire::HeartbeatReply { re_register: true, ..Default::default() });
        }
        let load = load_from_wire(request.load.unwrap_or_default());
        self.gate.view.heard(server, instance, load, Instant::now());
        self.confirm_deleted(server, &request.deleted).await?;
        self.take_damage(server, &request.damaged).await?;
        let look = |state: &dyn Snapshot| Ok(read::deleting(state, server, ORDERS_MAX));
        let orders = self.gate.read_unleased(Unleased::Chunks, look).await?;
        let delete = orders.iter().map(|chunk| chunk.0).collect();
        let list = self.servers.list(&self.gate).await?;
        let servers = if list.version == request.servers_version { Vec::new() } else { list.servers.clone() };
        Ok(wire::HeartbeatReply { delete, servers_version: list.version, servers, ..Default::default() })
    }

    async fn confirm_deleted(&self, server: ServerId, deleted: &[u64]) -> MetaResult<()> {
        if deleted.is_empty() {
            return Ok(());
        }
        let chunks = deleted.iter().take(SEAL_CHUNKS_MAX).map(|&chunk| ChunkId(chunk)).collect();
        let command = Command::ConfirmDeleted { server, chunks };
        self.gate.change(command).await.map(|_| ())
    }

    /// Proposes only what the state does not know yet: a server repeats itself.
    async fn take_damage(&self, server: ServerId, damaged: &[u64]) -> MetaResult<()> {
        if damaged.is_empty() {
            return Ok(());
        }
        let look = |state: &dyn Snapshot| {
            let is_news = |chunk: &ChunkId| {
                read::chunk(state, *chunk)
                    .is_some_and(|r| r.replicas.contains(&server) && !r.damaged.contains(&server))
            };
            let chunks = damaged.iter().map(|&chunk| ChunkId(chunk)).take(SEAL_CHUNKS_MAX);
            Ok(chunks.filter(is_news).take(DAMAGE_REPORTS_MAX).collect::<Vec<_>>())
        };
        for chunk in self.gate.read_unleased(Unleased::Chunks, look).await? {
            tracing::warn!("{chunk}: {server} reports its copy damaged");
            self.gate.change(Command::ReportDamage { chunk, server }).await?;
        }
        Ok(())
    }
}

fn invalid(what: &str) -> MetaError {
    MetaError::InvalidArgument { what: what.to_owned() }
}

fn registration(request: wire::RegisterRequest) -> MetaResult<RegisterServer> {
    let directory = DirectoryId::from_wire(&request.directory).filter(|d| d.is_known());
    let addresses = ServerAddresses {
        grpc: request.grpc_address,
        frames: request.frames_address,
        http: request.http_address,
    };
    if addresses.frames.is_empty() {
        return Err(invalid("frames_address is missing"));
    }
    let lens = [&addresses.grpc, &addresses.frames, &addresses.http].map(String::len);
    if lens.iter().any(|len| *len > ADDRESS_LEN_MAX) {
        return Err(invalid("address longer than 256 bytes"));
    }
    if request.zone.len() > ZONE_LEN_MAX {
        return Err(invalid("zone longer than 64 bytes"));
    }
    Ok(RegisterServer {
        server: (request.server != 0).then_some(ServerId(request.server)),
        directory: directory.ok_or_else(|| invalid("directory of 16 bytes is missing"))?,
        addresses,
        zone: request.zone,
    })
}

/// Bytes of a filesystem's name that are kept.
pub(super) const FILESYSTEM_LEN_MAX: usize = 64;

fn load_from_wire(load: wire::Load) -> Load {
    Load {
        cpu_percent: load.cpu_percent.min(100),
        memory_total: ByteLen(load.memory_total.min(LOAD_MAX)),
        memory_available: ByteLen(load.memory_available.min(load.memory_total).min(LOAD_MAX)),
        disk_total: ByteLen(load.disk_total.min(LOAD_MAX)),
        disk_free: ByteLen(load.disk_free.min(load.disk_total).min(LOAD_MAX)),
        filesystem: load.filesystem.iter().take(FILESYSTEM_LEN_MAX).copied().collect(),
        requests_in_flight: load.requests_in_flight.min(LOAD_MAX),
        chunks: load.chunks.min(LOAD_MAX),
        full: load.full,
    }
}

pub(super) fn registered_to_wire(result: MetaResult<Registered>) -> wire::RegisterReply {
    match result {
        Ok(registered) => wire::RegisterReply {
            error: None,
            cluster: registered.cluster.to_wire().into(),
            server: registered.server.0,
            incarnation: registered.incarnation.0,
            instance: registered.instance.0,
        },
        Err(error) => {
            wire::RegisterReply { error: Some(convert::error_to_wire(&error)), ..Default::default() }
        }
    }
}

pub(super) fn heartbeat_to_wire(result: MetaResult<wire::HeartbeatReply>) -> wire::HeartbeatReply {
    result.unwrap_or_else(|error| wire::HeartbeatReply {
        error: Some(convert::error_to_wire(&error)),
        ..Default::default()
    })
}
