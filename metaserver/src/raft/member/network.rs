//! Sends requests to the other members. Each member has one connection for log entries and one for heartbeats, so that a large
//! append does not delay a heartbeat. Each snapshot, which is a stream, has a gRPC connection of its own.
//!
//! N1  Every request names the data directory that is recorded for its receiver (P7.7).
//! N2  Every request has a deadline. After one that failed, or several in a row that timed out, the connection is closed. The next
//!     request makes a new one, to the member's present address.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dfs_net::rpc::grpc;
use dfs_net::rpc::unary::{self, UnaryChannel};
use dfs_net::services::raft_client::RaftClient;
use dfs_proto::ids::{DirectoryId, MemberId};
use dfs_proto::wire;
use futures::{Stream, StreamExt as _};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::group::Group;
use super::sender::{self, Answers, Claims};
use crate::raft::machine::snapshot::{PartReader, SnapshotData};
use crate::raft::types::{MemberNode, SnapshotMeta, TypeConfig, Vote};

type RpcError = RPCError<TypeConfig>;

const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// How long entries may take to reach a follower's disk. openraft would allow one heartbeat interval, but a slow sync is no reason
/// to send everything again. A follower that is silent is given up much earlier (`unary`, U4).
const APPEND_DEADLINE: Duration = Duration::from_secs(30);
/// How long the message that entries are committed may be held back.
const COMMIT_NEWS_DELAY: Duration = Duration::from_millis(5);
/// After so many requests in a row have timed out, the connection is closed. For heartbeats, that is before the leader's lease has
/// run out.
const LATE_MAX: u32 = 4;
/// Parts of a snapshot that are read ahead of the receiver.
const PARTS_MAX: usize = 4;
/// How long the receiver may take for one part of a snapshot, and for installing it after the last part.
pub(crate) const PART_DEADLINE: Duration = Duration::from_secs(10);
const INSTALL_DEADLINE: Duration = Duration::from_secs(120);

/// The first message of a snapshot: the leader's vote, and the snapshot's metadata.
pub(crate) type SnapshotBegin = (Vote, SnapshotMeta);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Traffic {
    Log,
    Heartbeat,
    Snapshot,
}

/// Gives openraft a [`Peer`] for each member and kind of traffic.
pub(crate) struct Network {
    group: Arc<Group>,
    lanes: Mutex<BTreeMap<(MemberId, Traffic), Arc<Lane>>>,
}

impl Network {
    pub(crate) fn new(group: Arc<Group>) -> Network {
        Network { group, lanes: Mutex::new(BTreeMap::new()) }
    }

    fn peer(&self, target: u64, node: &MemberNode, traffic: Traffic) -> Peer {
        let member = MemberId(target);
        let mut lanes = self.lanes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let lane = lanes.entry((member, traffic)).or_insert_with(|| Arc::new(Lane::new(member)));
        let (group, lane, directory) = (self.group.clone(), lane.clone(), node.directory);
        Peer { group, member, directory, lane, is_heartbeat: traffic == Traffic::Heartbeat }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &MemberNode) -> Peer {
        self.peer(target, node, Traffic::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &MemberNode) -> Peer {
        self.peer(target, node, Traffic::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &MemberNode) -> Peer {
        self.peer(target, node, Traffic::Snapshot)
    }
}

/// The connection to one member for one kind of traffic. It is made when it is needed.
struct Lane {
    member: MemberId,
    connection: watch::Sender<Connection>,
    late: AtomicU32,
}

#[derive(Clone)]
enum Connection {
    /// There was none yet, it was closed, or it could not be made for this reason.
    Closed(String),
    Connecting,
    Open(UnaryChannel),
}

impl Lane {
    fn new(member: MemberId) -> Lane {
        let connection = watch::Sender::new(Connection::Closed(String::new()));
        Lane { member, connection, late: AtomicU32::new(0) }
    }

    /// The connection, made if there is none. Connecting goes on when the caller times out, so that it can succeed even if every
    /// caller has a short deadline.
    async fn channel(self: &Arc<Lane>, group: &Arc<Group>) -> Result<UnaryChannel, String> {
        let mut changes = self.connection.subscribe();
        let is_mine = self.connection.send_if_modified(|connection| {
            let is_closed = matches!(connection, Connection::Closed(_));
            if is_closed {
                *connection = Connection::Connecting;
            }
            is_closed
        });
        if is_mine {
            let (lane, group) = (self.clone(), group.clone());
            tokio::spawn(async move {
                let made = lane.connect(&group).await;
                lane.late.store(0, Ordering::Relaxed);
                lane.connection.send_replace(made);
            });
        }
        let ready = changes.wait_for(|connection| !matches!(connection, Connection::Connecting)).await;
        match ready.map(|connection| connection.clone()) {
            Ok(Connection::Open(channel)) => Ok(channel),
            Ok(Connection::Closed(why)) => Err(why),
            Ok(Connection::Connecting) | Err(_) => Err("the connection was given up".to_owned()),
        }
    }

    async fn connect(&self, group: &Group) -> Connection {
        let Some(address) = group.address_of(self.member) else {
            return Connection::Closed(format!("no address of {} is known", self.member));
        };
        let expected = group.identity_of(self.member);
        match unary::connect(&group.env, &address, &group.identity(), &expected, CONNECT_DEADLINE).await {
            Ok(channel) => Connection::Open(channel),
            Err(what) => Connection::Closed(format!("connect to {} at {address}: {what}", self.member)),
        }
    }

    fn close(&self) {
        self.connection.send_if_modified(|connection| {
            let is_open = matches!(connection, Connection::Open(_));
            if is_open {
                *connection = Connection::Closed(String::new());
            }
            is_open
        });
    }

    fn answered(&self) {
        self.late.store(0, Ordering::Relaxed);
    }

    fn was_late(&self) {
        if self.late.fetch_add(1, Ordering::Relaxed) + 1 >= LATE_MAX {
            self.close();
        }
    }
}

/// Through this openraft calls one member.
pub(crate) struct Peer {
    group: Arc<Group>,
    member: MemberId,
    directory: DirectoryId,
    lane: Arc<Lane>,
    /// It sends heartbeats and nothing else.
    is_heartbeat: bool,
}

fn unreachable(what: impl ToString) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(what))
}

fn broken(what: impl ToString) -> RpcError {
    RPCError::Network(NetworkError::from_string(what))
}

impl Peer {
    async fn call<Q, A, Fut>(
        &self,
        action: RPCTypes,
        deadline: Duration,
        request: &Q,
        send: impl FnOnce(RaftClient<UnaryChannel>, wire::RaftRequest) -> Fut,
    ) -> Result<A, RpcError>
    where
        Q: Serialize + Claims,
        A: DeserializeOwned + Answers,
        Fut: Future<Output = Result<tonic::Response<wire::RaftReply>, Status>>,
    {
        let term = request.term();
        let body = postcard::to_allocvec(request).map_err(broken)?;
        let request = wire::RaftRequest {
            header: Some(self.group.header(self.member, self.directory)),
            body: body.into(),
            is_heartbeat: self.is_heartbeat,
        };
        let attempt = async {
            let channel = self.lane.channel(&self.group).await.map_err(unreachable)?;
            send(client(channel), request).await.map_err(|status| {
                if is_of_transport(&status) {
                    self.lane.close();
                }
                unreachable(format!("{}: {}", self.member, status.message()))
            })
        };
        let Ok(answer) = timeout(deadline, attempt).await else {
            self.lane.was_late();
            let (id, target) = (self.group.own.0, self.member.0);
            return Err(RPCError::Timeout(Timeout { action, id, target, timeout: deadline }));
        };
        self.lane.answered();
        self.decode(&answer?.into_inner(), term)
    }

    fn decode<A: DeserializeOwned + Answers>(
        &self,
        reply: &wire::RaftReply,
        term: u64,
    ) -> Result<A, RpcError> {
        let answer = postcard::from_bytes(&reply.body).map_err(broken)?;
        sender::check_answer(&answer, term).map_err(|status| {
            tracing::error!("refused what {} answered: {}", self.member, status.message());
            broken(status.message())
        })?;
        Ok(answer)
    }

    async fn snapshot_channel(&self) -> Result<Channel, String> {
        let address = self.group.address_of(self.member).ok_or("its address is not known")?;
        let expected = self.group.identity_of(self.member);
        grpc::connect(&self.group.env, &address, &self.group.identity(), &expected, CONNECT_DEADLINE).await
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
    ) -> Result<SnapshotResponse<TypeConfig>, RpcError> {
        let SnapshotData::Checkpoint(kv) = snapshot.snapshot else {
            return Err(unreachable("a snapshot that was received and not installed cannot be sent"));
        };
        let begin: SnapshotBegin = (vote, snapshot.meta);
        let term = begin.term();
        let begin = postcard::to_allocvec(&begin).map_err(broken)?;
        let channel = self.snapshot_channel().await.map_err(unreachable)?;
        let (parts, mut waiting) = mpsc::channel(PARTS_MAX);
        let outgoing = futures::stream::poll_fn(move |cx| waiting.poll_recv(cx));
        let header = self.group.header(self.member, self.directory);
        let feed = feed(parts, header, begin, PartReader::new(kv));
        let mut client = RaftClient::new(channel);
        let mut call = std::pin::pin!(client.install_snapshot(Request::new(outgoing)));
        let answer = tokio::select! {
            biased;
            // An answer before everything was sent is a refusal.
            answer = &mut call => answer.map_err(|status| status.message().to_owned()),
            fed = feed => match fed {
                Err(what) => Err(what),
                Ok(()) => match timeout(INSTALL_DEADLINE, &mut call).await {
                    Ok(answer) => answer.map_err(|status| status.message().to_owned()),
                    Err(_) => Err(format!("it was not installed within {INSTALL_DEADLINE:?}")),
                },
            },
        };
        let answer =
            answer.map_err(|what| unreachable(format!("send a snapshot to {}: {what}", self.member)))?;
        self.decode(&answer.into_inner(), term)
    }
}

/// Sends a snapshot's parts as fast as the receiver takes them.
async fn feed(
    parts: mpsc::Sender<wire::SnapshotPart>,
    header: wire::RaftHeader,
    begin: Vec<u8>,
    mut reader: PartReader,
) -> Result<(), String> {
    use wire::snapshot_part::Part as Body;
    let send = |part: wire::SnapshotPart| {
        let parts = parts.clone();
        async move {
            match timeout(PART_DEADLINE, parts.send(part)).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err("the receiver gave up".to_owned()),
                Err(_) => Err(format!("a part was not taken within {PART_DEADLINE:?}")),
            }
        }
    };
    send(wire::SnapshotPart { header: Some(header), part: Some(Body::Begin(begin.into())) }).await?;
    while let Some(part) = reader.next_part() {
        let pairs = wire::SnapshotPairs { pairs: part.pairs, crc32c: part.crc32c };
        send(wire::SnapshotPart { header: None, part: Some(Body::Pairs(pairs)) }).await?;
    }
    let end = wire::SnapshotEnd { count: reader.count };
    send(wire::SnapshotPart { header: None, part: Some(Body::End(end)) }).await
}

fn client(channel: UnaryChannel) -> RaftClient<UnaryChannel> {
    RaftClient::new(channel)
        .max_decoding_message_size(grpc::MESSAGE_LEN_MAX)
        .max_encoding_message_size(grpc::MESSAGE_LEN_MAX)
}

/// Drops requests that only say that entries are committed, if the next request follows at once, because that one says it too.
/// openraft sends such a request after every commit.
fn without_bare_commits<S>(input: S) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    futures::stream::unfold(input.fuse(), |mut input| async move {
        let mut request = input.next().await?;
        if request.entries.is_empty()
            && let Ok(Some(next)) = timeout(COMMIT_NEWS_DELAY, input.next()).await
        {
            request = next;
        }
        Some((request, input))
    })
}

/// Whether the error is the connection's and not an answer of the other member.
fn is_of_transport(status: &Status) -> bool {
    !matches!(status.code(), tonic::Code::FailedPrecondition | tonic::Code::ResourceExhausted)
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let deadline = if self.is_heartbeat { option.soft_ttl() } else { APPEND_DEADLINE };
        self.call(RPCTypes::AppendEntries, deadline, &rpc, |mut client, request| async move {
            client.append_entries(request).await
        })
        .await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        openraft::network::stream_append_sequential(self, Box::pin(without_bare_commits(input)), option)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(RPCTypes::Vote, option.soft_ttl(), &rpc, |mut client, request| async move {
            client.vote(request).await
        })
        .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(RPCTypes::Vote, option.soft_ttl(), &rpc, |mut client, request| async move {
            client.pre_vote(request).await
        })
        .await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            sent = self.send_snapshot(vote, snapshot) => Ok(sent?),
            closed = cancel => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        self.call(RPCTypes::TransferLeader, option.soft_ttl(), &rpc, |mut client, request| async move {
            client.transfer_leader(request).await
        })
        .await
    }
}
