//! The gRPC services: each handler converts, calls one method of [`Metaserver`], and converts back.
//!
//! A change:  `namespace::change` → `try_change` → `chunk::place` (for a new chunk) → `coherence::Gate::change` → `dfs_state::apply` on every member.
//! A read:    `namespace::read` → `coherence::Gate::read` → `state::read::answer`.
//!
//! A refusal is part of a reply. A gRPC status is an error only for a call that reached no handler.

mod admin;
mod chunk;
mod cluster;
mod federation;
mod lock;
mod namespace;
mod session;
#[cfg(test)]
mod tests;
mod under_way;

use std::sync::Arc;

use dfs_net::rpc::push::PushSender;
use dfs_net::services::admin_server::{Admin, AdminServer};
use dfs_net::services::cluster_server::{Cluster, ClusterServer};
use dfs_net::services::federation_server::{Federation as FederationCalls, FederationServer};
use dfs_net::services::meta_server::{Meta, MetaServer};
use dfs_proto::convert;
use dfs_proto::meta::Shown;
use dfs_proto::wire;
use tonic::{Request, Response, Status};

use crate::http::Pages;
use crate::metaserver::Metaserver;
use crate::view::ServerState;
use dfs_state::command::Answered;
use dfs_state::read;
use namespace::ChangeAnswer;
use under_way::UnderWay;

/// `Meta`, for the gRPC port.
pub(crate) fn meta(metaserver: Arc<Metaserver>) -> MetaServer<impl Meta> {
    MetaServer::new(MetaService::new(metaserver)).max_decoding_message_size(REQUEST_LEN_MAX)
}

/// `Cluster`, for the gRPC port.
pub(crate) fn cluster(metaserver: Arc<Metaserver>) -> ClusterServer<impl Cluster> {
    ClusterServer::new(ClusterService(metaserver)).max_decoding_message_size(REQUEST_LEN_MAX)
}

/// `Federation`, for the gRPC port.
pub(crate) fn federation(metaserver: Arc<Metaserver>) -> FederationServer<impl FederationCalls> {
    FederationServer::new(FederationService(metaserver)).max_decoding_message_size(REQUEST_LEN_MAX)
}

/// `Admin`, for the gRPC port.
pub(crate) fn admin(metaserver: Arc<Metaserver>) -> AdminServer<impl Admin> {
    AdminServer::new(AdminService(metaserver)).max_decoding_message_size(REQUEST_LEN_MAX)
}

/// A commit that fills a Raft entry, in its larger wire form.
const REQUEST_LEN_MAX: usize = 4 << 20;

type Answer<T> = Result<Response<T>, Status>;

struct MetaService(Arc<Metaserver>, UnderWay);

impl MetaService {
    fn new(metaserver: Arc<Metaserver>) -> MetaService {
        MetaService(metaserver, UnderWay::default())
    }
}

#[tonic::async_trait]
impl Meta for MetaService {
    async fn open_session(
        &self,
        request: Request<wire::OpenSessionRequest>,
    ) -> Answer<wire::OpenSessionReply> {
        let result = match convert::open_session_from_wire(request.into_inner()) {
            Ok(open) => self.0.open_session(open).await,
            Err(error) => Err(error),
        };
        Ok(Response::new(convert::session_opened_to_wire(result)))
    }

    async fn renew_session(
        &self,
        request: Request<wire::RenewSessionRequest>,
    ) -> Answer<wire::RenewSessionReply> {
        let pushes = PushSender::of(&request);
        let result = match convert::renew_from_wire(request.into_inner()) {
            Ok(renew) => self.0.renew_session(renew, pushes).await,
            Err(error) => Err(error),
        };
        Ok(Response::new(convert::renewed_to_wire(result)))
    }

    async fn attach(&self, request: Request<wire::AttachRequest>) -> Answer<wire::AttachReply> {
        let pushes = PushSender::of(&request);
        let result = match convert::attach_from_wire(request.into_inner()) {
            Ok(attach) => self.0.attach(attach, pushes).await,
            Err(error) => Err(error),
        };
        Ok(Response::new(convert::attached_to_wire(result)))
    }

    async fn lock(&self, request: Request<wire::LockRequest>) -> Answer<wire::LockReply> {
        let result = match convert::lock_request_from_wire(request.into_inner()) {
            Ok(request) => self.0.lock(request).await,
            Err(error) => Err(error),
        };
        Ok(Response::new(convert::lock_reply_to_wire(result)))
    }

    async fn recalled(&self, request: Request<wire::RecalledRequest>) -> Answer<wire::EmptyReply> {
        let result = match convert::recalls_done_from_wire(request.into_inner()) {
            Ok(done) => self.0.recalled(done).await,
            Err(error) => Err(error),
        };
        Ok(Response::new(convert::empty_to_wire(result)))
    }

    async fn acquire(&self, request: Request<wire::AcquireRequest>) -> Answer<wire::AcquireReply> {
        let result = match convert::acquire_from_wire(request.into_inner()) {
            Ok(acquire) => self.0.acquire(acquire).await,
            Err(error) => Err(error),
        };
        Ok(Response::new(convert::acquired_to_wire(result)))
    }

    async fn return_writes(&self, request: Request<wire::ReturnWritesRequest>) -> Answer<wire::EmptyReply> {
        let result = match convert::return_writes_from_wire(request.into_inner()) {
            Ok(returned) => self.0.return_writes(returned),
            Err(error) => Err(error),
        };
        Ok(Response::new(convert::empty_to_wire(result)))
    }

    async fn close_session(&self, request: Request<wire::RenewSessionRequest>) -> Answer<wire::EmptyReply> {
        let result = match convert::renew_from_wire(request.into_inner()) {
            Ok(close) => self.0.close_session(close).await,
            Err(error) => Err(error),
        };
        Ok(Response::new(convert::empty_to_wire(result)))
    }

    async fn change(&self, request: Request<wire::ChangeRequest>) -> Answer<wire::ChangeReply> {
        let request = request.into_inner();
        let dropped = convert::dropped_from_wire(&request);
        let change = match convert::change_request_from_wire(request) {
            Ok(change) => change,
            Err(error) => return Ok(Response::new(convert::changed_to_wire(Err(error)))),
        };
        let key = (change.cluster, change.session, change.request);
        let metaserver = self.0.clone();
        let result =
            self.1.join(key, || Box::pin(async move { metaserver.change(change, dropped).await })).await;
        Ok(Response::new(match result {
            Ok(ChangeAnswer { answered: Answered { changed, directories }, writes, leased }) => {
                let directories = directories.iter().map(convert::attr_to_wire).collect();
                let leased = leased.iter().map(|inode| inode.0).collect();
                wire::ChangeReply { directories, writes, leased, ..convert::changed_to_wire(Ok(changed)) }
            }
            Err(error) => convert::changed_to_wire(Err(error)),
        }))
    }

    async fn read(&self, request: Request<wire::ReadRequest>) -> Answer<wire::ReadReply> {
        let shown = match convert::read_request_from_wire(request.into_inner()) {
            Ok(read) => self.0.read(read).await,
            Err(error) => Shown::without_leases(Err(error)),
        };
        Ok(Response::new(convert::shown_to_wire(shown)))
    }

    async fn report_replica(&self, request: Request<wire::ReportReplicaRequest>) -> Answer<wire::EmptyReply> {
        let result = match convert::report_from_wire(request.into_inner()) {
            Ok(report) => self.0.report_replica(report).await,
            Err(error) => Err(error),
        };
        Ok(Response::new(convert::empty_to_wire(result)))
    }
}

struct ClusterService(Arc<Metaserver>);

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn register(&self, request: Request<wire::RegisterRequest>) -> Answer<wire::RegisterReply> {
        let result = self.0.register(request.into_inner()).await;
        Ok(Response::new(cluster::registered_to_wire(result)))
    }

    async fn heartbeat(&self, request: Request<wire::HeartbeatRequest>) -> Answer<wire::HeartbeatReply> {
        let result = self.0.heartbeat(request.into_inner()).await;
        Ok(Response::new(cluster::heartbeat_to_wire(result)))
    }
}

struct FederationService(Arc<Metaserver>);

#[tonic::async_trait]
impl FederationCalls for FederationService {
    async fn get_map(&self, request: Request<wire::GetMapRequest>) -> Answer<wire::GetMapReply> {
        let result = self.0.newer_map(request.into_inner()).await;
        let result = result.as_ref().map(Option::as_deref).map_err(Clone::clone);
        let members = self.0.federation.as_ref().map_or(&[][..], |federation| federation.seats());
        Ok(Response::new(convert::map_to_wire(result, members)))
    }

    async fn federate(&self, request: Request<wire::FederateRequest>) -> Answer<wire::FederateReply> {
        let result = match convert::federate_from_wire(request.into_inner()) {
            Ok(call) => self.0.federate(call).await,
            Err(error) => Err(error),
        };
        Ok(Response::new(convert::federated_to_wire(result)))
    }

    async fn volume(&self, request: Request<wire::VolumeRequest>) -> Answer<wire::VolumeReply> {
        let result = match convert::volume_request_from_wire(request.into_inner()) {
            Ok(request) => self.0.volume(request).await,
            Err(error) => Err(error),
        };
        Ok(Response::new(convert::volume_answer_to_wire(result)))
    }
}

struct AdminService(Arc<Metaserver>);

#[tonic::async_trait]
impl Admin for AdminService {
    async fn status(&self, _request: Request<wire::StatusRequest>) -> Answer<wire::StatusReply> {
        Ok(Response::new(self.0.status()))
    }

    async fn file_show(&self, request: Request<wire::FileShowRequest>) -> Answer<wire::FileShowReply> {
        let result = self.0.show_file(request.into_inner()).await;
        Ok(Response::new(admin::shown_to_wire(result)))
    }

    async fn list_sessions(
        &self,
        request: Request<wire::ListSessionsRequest>,
    ) -> Answer<wire::ListSessionsReply> {
        let result = self.0.list_sessions(request.into_inner()).await;
        Ok(Response::new(admin::sessions_to_wire(result)))
    }

    async fn expire_session(
        &self,
        request: Request<wire::ExpireSessionRequest>,
    ) -> Answer<wire::ExpireSessionReply> {
        let result = self.0.expire_session(request.into_inner()).await;
        Ok(Response::new(admin::expired_to_wire(result)))
    }
}

impl Pages for Metaserver {
    fn metrics(&self) -> String {
        self.refresh_gauges();
        self.metrics.encode()
    }

    fn health(&self) -> Result<String, String> {
        let status = self.gate.consensus().status();
        match status.leader {
            Some(leader) => Ok(format!("ok: {} follows {leader}, term {}", self.id, status.term)),
            None => Err(format!("{} knows no leader, term {}", self.id, status.term)),
        }
    }
}

impl Metaserver {
    fn refresh_gauges(&self) {
        let (metrics, status) = (&self.metrics, self.gate.consensus().status());
        let is_leading = self.gate.is_leading();
        metrics.leading.set(u64::from(is_leading));
        metrics.term.set(status.term);
        metrics.log_last.set(status.last_log);
        metrics.log_applied.set(status.last_applied);
        metrics.disk_free_bytes.set(self.room.free().0);
        let (registered, totals) = match is_leading {
            true => self.gate.local(|state| (read::servers(state), read::totals(state))),
            false => Default::default(),
        };
        let now = tokio::time::Instant::now();
        let in_state = |wanted: ServerState| {
            let is_wanted = |server: &_| self.gate.view.state(*server, now) == wanted;
            registered.iter().filter(|(server, _)| is_wanted(server)).count() as u64
        };
        metrics.chunkservers.set(registered.len() as u64);
        metrics.chunkservers_away.set(in_state(ServerState::Away));
        metrics.chunkservers_full.set(in_state(ServerState::Full));
        metrics.inodes.set(totals.inodes);
        metrics.sessions.set(totals.sessions);
        // Keeps G3: what an earlier term has left is not shown.
        let is_entered = self.gate.enter_term().is_ok();
        let (attached, locks, waits) = if is_entered { self.gate.attachments.counts() } else { (0, 0, 0) };
        metrics.sessions_attached.set(attached as u64);
        metrics.locks.set(locks as u64);
        metrics.locks_waited_for.set(waits as u64);
        metrics.leases.set(if is_leading { self.gate.leases.count() } else { 0 } as u64);
        metrics.write_leases.set(if is_entered { self.gate.leases.write_count() } else { 0 } as u64);
        metrics.chunks_open.set(totals.chunks_open);
        metrics.chunks_sealed.set(totals.chunks_sealed);
        metrics.chunks_dead.set(totals.chunks_dead);
        metrics.chunks_deleting.set(totals.chunks_deleting);
        metrics.chunks_degraded.set(totals.chunks_degraded);
        metrics.chunks_damaged.set(totals.chunks_damaged);
    }
}
