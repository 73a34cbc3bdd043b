//! Serves the requests of other members: checks that a request is meant for this member, then hands it to openraft.
//!
//! RS1  A request for another group, another member or another data directory is refused, so that a member whose disk was emptied
//!      neither votes nor acknowledges entries (P7.7). What a request claims is checked before openraft stores it (`sender`).
//! RS2  A member that has just started grants no vote for the length of one leader's lease (P7.5). Before it stopped, it may have
//!      promised a leader to elect no other for so long.
//! RS3  A heartbeat is answered as soon as Raft has accepted it, without waiting for the disk, so that a leader whose followers
//!      have slow disks keeps its quorum. The answer extends the leader's lease, a promise that is only in memory; RS2 keeps it
//!      over a restart. (openraft's own answer waits until everything that came before is synced.)
//! RS4  A member whose clock is wrong does not take over the lead (`clocks`, MC3).

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use dfs_net::services::raft_server::{Raft as RaftService, RaftServer};
use dfs_proto::ids::{DirectoryId, MemberId};
use dfs_proto::planted::{self, Bug};
use dfs_proto::wire;
use futures::Stream;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status, Streaming};

use super::group::Group;
use super::membership::recorded;
use super::network::{PART_DEADLINE, SnapshotBegin};
use super::sender::{self, Claims};
use crate::raft::machine::snapshot::{Part, PartWriter, SnapshotData};
use crate::raft::machine::state_machine::Raft;
use crate::raft::machine::store::StateStore;
use crate::raft::types::{FORMAT, TypeConfig};

/// Snapshots that are received at the same time. A leader that is refused tries again later.
const RECEIVING_MAX: usize = 1;

/// When this member last heard a leader that it accepts.
pub(crate) type Heard = watch::Sender<Option<Instant>>;

/// What the service needs of one member of this process.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) raft: Raft,
    pub(crate) group: Arc<Group>,
    pub(crate) store: Arc<StateStore>,
    pub(crate) votes_from: Instant,
    pub(crate) heard: Heard,
    pub(crate) receiving: Arc<Semaphore>,
}

/// The members of this process, at most one of each group.
struct Service(Vec<Served>);

/// The gRPC service of a process with these members.
pub(crate) fn service(members: Vec<Served>) -> RaftServer<impl RaftService> {
    let limit = dfs_net::rpc::grpc::MESSAGE_LEN_MAX;
    let service = Service(members);
    RaftServer::new(service).max_decoding_message_size(limit).max_encoding_message_size(limit)
}

/// The permits for receiving a snapshot.
pub(crate) fn receiving() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(RECEIVING_MAX))
}

fn encode<A: Serialize>(answer: &A) -> Result<Response<wire::RaftReply>, Status> {
    let body = postcard::to_allocvec(answer).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Response::new(wire::RaftReply { body: body.into() }))
}

fn malformed(error: postcard::Error) -> Status {
    Status::invalid_argument(format!("decode the request: {error}"))
}

/// Raft has stopped on this member, or its disk has failed.
fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

impl Service {
    fn of(&self, group: i32) -> Result<&Served, Status> {
        let served = self.0.iter().find(|served| i32::from(served.group.kind.to_wire()) == group);
        served.ok_or_else(|| Status::failed_precondition("this metaserver is no member of that group"))
    }

    fn open<Q: DeserializeOwned + Claims>(
        &self,
        request: Request<wire::RaftRequest>,
    ) -> Result<(&Served, Q), Status> {
        let request = request.into_inner();
        let served = self.of(request.header.as_ref().map_or(0, |header| header.group))?;
        let from = served.check(request.header.as_ref())?;
        let body: Q = postcard::from_bytes(&request.body).map_err(malformed)?;
        served.check_claims(from, &body)?;
        Ok((served, body))
    }
}

impl Served {
    /// Checks the header (RS1, SE1), and returns the sender.
    fn check(&self, header: Option<&wire::RaftHeader>) -> Result<MemberId, Status> {
        if self.group.has_failed() {
            return Err(Status::failed_precondition("this member is no part of the group any more"));
        }
        let header = self.group.check(header)?; // keeps RS1
        let from = (MemberId(header.from_member), DirectoryId::from_wire(&header.from_directory));
        sender::check_member(from, recorded(&self.raft), &self.group.configured)?;
        Ok(from.0)
    }

    fn check_claims(&self, from: MemberId, body: &impl Claims) -> Result<(), Status> {
        let term = self.raft.metrics().borrow_watched().current_term;
        body.check(from, term).inspect_err(|status| {
            tracing::error!("refused what {from} sent: {}", status.message());
        })
    }

    fn check_may_vote(&self) -> Result<(), Status> {
        if Instant::now() < self.votes_from {
            return Err(Status::failed_precondition("this member has just started and does not vote yet")); // keeps RS2
        }
        Ok(())
    }

    /// Keeps RS3. Raft handles requests in order, so its state after the heartbeat tells whether it has accepted the leader. Only
    /// a refusal is answered by openraft itself, which is at once.
    async fn heartbeat(
        &self,
        heartbeat: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Status> {
        let vote = heartbeat.vote;
        let mut answer = std::pin::pin!(self.raft.append_entries(heartbeat));
        let is_accepted = self.raft.with_raft_state(move |state| *state.vote_ref() == vote);
        let is_accepted = tokio::select! {
            biased;
            answer = &mut answer => return answer.map_err(stopped),
            is_accepted = is_accepted => is_accepted.map_err(stopped)?,
        };
        match is_accepted {
            true => Ok(AppendEntriesResponse::Success),
            false => answer.await.map_err(stopped),
        }
    }

    async fn receive(
        &self,
        first: wire::SnapshotPart,
        mut parts: Parts,
    ) -> Result<Response<wire::RaftReply>, Status> {
        use wire::snapshot_part::Part as Body;
        let from = self.check(first.header.as_ref())?;
        let Some(Body::Begin(begin)) = first.part else {
            return Err(Status::invalid_argument("a snapshot begins with its metadata"));
        };
        let begin: SnapshotBegin = postcard::from_bytes(&begin).map_err(malformed)?;
        self.check_claims(from, &begin)?;
        let (vote, meta) = begin;
        let _permit = self
            .receiving
            .try_acquire()
            .map_err(|_| Status::resource_exhausted("another snapshot is being received"))?;
        tracing::info!("receiving a snapshot of the state at {:?}", meta.last_log_id);
        let mut writer = PartWriter::new(&self.store).map_err(refused)?;
        let count = loop {
            match parts.next().await?.part {
                Some(Body::Pairs(pairs)) => {
                    let part = Part { pairs: pairs.pairs, crc32c: pairs.crc32c };
                    writer.write(&part).map_err(refused)?;
                }
                Some(Body::End(end)) => break end.count,
                Some(Body::Begin(_)) | None => {
                    return Err(Status::invalid_argument("an unexpected part of a snapshot"));
                }
            }
        };
        let snapshot: SnapshotData = writer.finish(count).await.map_err(refused)?;
        let snapshot = openraft::Snapshot { meta, snapshot };
        encode(&self.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?)
    }
}

fn refused(error: io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::InvalidData => Status::data_loss(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

fn ids(members: &[MemberId]) -> String {
    let ids: Vec<String> = members.iter().map(|member| member.0.to_string()).collect();
    ids.join(", ")
}

/// The incoming parts of a snapshot. Each must come within [`PART_DEADLINE`].
struct Parts(Pin<Box<dyn Stream<Item = Result<wire::SnapshotPart, Status>> + Send>>);

impl Parts {
    async fn next(&mut self) -> Result<wire::SnapshotPart, Status> {
        let next = futures::StreamExt::next(&mut self.0);
        match timeout(PART_DEADLINE, next).await {
            Ok(Some(part)) => part,
            Ok(None) => Err(Status::aborted("the snapshot ended before its last part")),
            Err(_) => {
                Err(Status::deadline_exceeded(format!("no part of the snapshot within {PART_DEADLINE:?}")))
            }
        }
    }
}

#[tonic::async_trait]
impl RaftService for Service {
    async fn introduce(
        &self,
        request: Request<wire::MemberGreeting>,
    ) -> Result<Response<wire::MemberGreetingReply>, Status> {
        let greeting = request.into_inner();
        let served = self.of(greeting.group)?;
        if greeting.format != u32::from(FORMAT) {
            let what = format!("raft format {} there, {FORMAT} here: update the older one", greeting.format);
            return Err(Status::failed_precondition(what));
        }
        served.group.check_cluster(&greeting.cluster)?;
        if greeting.to_member != served.group.own.0 {
            let what = format!("this is {}, not {}", served.group.own, MemberId(greeting.to_member));
            return Err(Status::failed_precondition(what));
        }
        let directory = DirectoryId::from_wire(&greeting.directory)
            .filter(|directory| directory.is_known())
            .ok_or_else(|| Status::invalid_argument("the directory id is malformed"))?;
        let recorded = recorded(&served.raft);
        let listed: Vec<MemberId> = greeting.bootstrap.iter().copied().map(MemberId).collect();
        if recorded.is_empty() && listed != served.group.configured {
            return Err(Status::failed_precondition(format!(
                "the bootstrap lists differ: {} here, {} there",
                ids(&served.group.configured),
                ids(&listed)
            )));
        }
        let from = MemberId(greeting.member);
        let is_the_recorded_one = match recorded.get(&from) {
            Some(known) => *known == directory,
            None => recorded.is_empty() && served.group.configured.contains(&from),
        };
        if is_the_recorded_one {
            served.group.moved(from, &greeting.address);
        }
        let recorded = recorded.into_iter().map(|(member, directory)| wire::RecordedMember {
            member: member.0,
            directory: directory.to_wire().into(),
        });
        Ok(Response::new(wire::MemberGreetingReply {
            cluster: served.group.cluster().to_wire().into(),
            member: served.group.own.0,
            directory: served.group.directory.to_wire().into(),
            address: served.group.address.clone(),
            recorded: recorded.collect(),
            clock_nanos: i64::try_from(served.group.clocks.own_wall().as_nanos()).unwrap_or(i64::MAX),
        }))
    }

    async fn append_entries(
        &self,
        request: Request<wire::RaftRequest>,
    ) -> Result<Response<wire::RaftReply>, Status> {
        let is_heartbeat = request.get_ref().is_heartbeat;
        let (served, request): (_, AppendEntriesRequest<TypeConfig>) = self.open(request)?;
        let came_at = Instant::now();
        let answer = match is_heartbeat && request.entries.is_empty() {
            true if !planted::has(Bug::SlownessTakenForSilence) => served.heartbeat(request).await?,
            _ => served.raft.append_entries(request).await.map_err(stopped)?,
        };
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            served.heard.send_replace(Some(came_at));
        }
        encode(&answer)
    }

    async fn pre_vote(
        &self,
        request: Request<wire::RaftRequest>,
    ) -> Result<Response<wire::RaftReply>, Status> {
        let (served, request): (_, VoteRequest<TypeConfig>) = self.open(request)?;
        served.check_may_vote()?;
        encode(&served.raft.pre_vote(request).await.map_err(stopped)?)
    }

    async fn vote(&self, request: Request<wire::RaftRequest>) -> Result<Response<wire::RaftReply>, Status> {
        let (served, request): (_, VoteRequest<TypeConfig>) = self.open(request)?;
        served.check_may_vote()?;
        encode(&served.raft.vote(request).await.map_err(stopped)?)
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::RaftRequest>,
    ) -> Result<Response<wire::RaftReply>, Status> {
        let (served, request): (_, TransferLeaderRequest<TypeConfig>) = self.open(request)?;
        served.check_may_vote()?;
        let is_asked = request.to_node_id() == &served.group.own.0;
        if is_asked && !served.group.clocks.may_lead(served.group.own) {
            return Err(Status::failed_precondition("the clock of this member is wrong: it does not lead")); // keeps RS4
        }
        encode(&served.raft.handle_transfer_leader(request).await.map_err(stopped)?)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotPart>>,
    ) -> Result<Response<wire::RaftReply>, Status> {
        let mut parts = Parts(Box::pin(request.into_inner()));
        let first = parts.next().await?;
        let served = self.of(first.header.as_ref().map_or(0, |header| header.group))?;
        served.receive(first, parts).await
    }
}
