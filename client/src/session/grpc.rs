//! The metadata calls over gRPC, at whichever member leads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dfs_net::rpc::grpc::MESSAGE_LEN_MAX;
use dfs_net::rpc::leader::LeaderChannel;
use dfs_net::rpc::push::PushHandler;
use dfs_net::rpc::unary::UnaryChannel;
use dfs_net::services::meta_client::MetaClient;
use dfs_proto::attr::AccessMask;
use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{ClusterId, InodeId};
use dfs_proto::lock::{LockReply, LockRequest};
use dfs_proto::meta::{
    Acquire, Acquired, Attach, Attached, Change, ChangeRequest, Dropped, MetaResult, OpenSession, Read,
    ReadRequest, RecallsDone, RenewSession, ReplicaReport, ReturnWrites, SessionOpened, SessionRenewed,
    Shown,
};
use dfs_proto::wire;
use tonic::{Code, Status};

use crate::session::calls::{Answer, MetaCalls};

/// The metaservers of one cluster, over gRPC.
pub(crate) struct GrpcMeta {
    calls: LeaderChannel,
    /// For what no other call may hold up (P4.5): it has connections of its own.
    control: LeaderChannel,
    /// For what a flush needs (P4.5): no call over it waits for another client.
    data: LeaderChannel,
}

impl GrpcMeta {
    /// All find the same members; they share no connection.
    pub(crate) fn new([calls, control, data]: [LeaderChannel; 3]) -> GrpcMeta {
        GrpcMeta { calls, control, data }
    }

    fn for_change(&self, change: &Change) -> &LeaderChannel {
        match change {
            Change::CommitExtents(_)
            | Change::OpenChunk(_)
            | Change::SealChunk { .. }
            | Change::ReleaseOrphans { .. } => &self.data,
            _ => &self.calls,
        }
    }

    fn for_read(&self, read: &Read) -> &LeaderChannel {
        match read {
            // A flush asks for the number of its commit: applications ask for a right.
            Read::Open { mask, .. } if *mask == AccessMask::NONE => &self.data,
            _ => &self.calls,
        }
    }

    /// A call that is sent again only if a member has refused it because it does not lead. Else its outcome is unknown, and what
    /// was sent may still arrive later than anything else.
    async fn call_once<T, F>(&self, timeout: Duration, call: impl Fn(UnaryChannel) -> F) -> MetaResult<T>
    where
        F: Future<Output = Result<MetaResult<T>, Status>>,
    {
        let is_in_doubt = AtomicBool::new(false);
        let once = |channel| {
            let was_in_doubt = is_in_doubt.swap(true, Ordering::Relaxed);
            let sent = (!was_in_doubt).then(|| call(channel));
            let is_in_doubt = &is_in_doubt;
            async move {
                let Some(sent) = sent else { return Ok(Ok(None)) };
                let answer = sent.await?;
                if let Err(MetaError::NotLeader { .. }) = answer {
                    is_in_doubt.store(false, Ordering::Relaxed);
                }
                Ok(answer.map(Some))
            }
        };
        let answered = self.control.call(timeout, once).await?;
        answered.ok_or_else(|| MetaError::Unavailable { what: "the connection was lost".to_owned() })
    }
}

/// A metaserver of an earlier release does not know the call: that is an answer, and the connection is as good as before.
fn not_built<T>(status: Status) -> Result<MetaResult<T>, Status> {
    match status.code() {
        Code::Unimplemented => {
            let what = "this metaserver is of an earlier release and knows no locks: update it".to_owned();
            Ok(Err(MetaError::InvalidArgument { what }))
        }
        _ => Err(status),
    }
}

fn client(channel: UnaryChannel) -> MetaClient<UnaryChannel> {
    MetaClient::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX)
}

#[async_trait]
impl MetaCalls for GrpcMeta {
    async fn open_session(&self, open: OpenSession, timeout: Duration) -> MetaResult<SessionOpened> {
        let message = convert::open_session_to_wire(&open);
        let call = |channel| {
            let message = message.clone();
            async move {
                let reply = client(channel).open_session(message).await?;
                Ok(convert::session_opened_from_wire(reply.into_inner()))
            }
        };
        self.calls.call(timeout, call).await
    }

    async fn renew(&self, renew: RenewSession, timeout: Duration) -> MetaResult<SessionRenewed> {
        let message = convert::renew_to_wire(&renew);
        let call = |channel| {
            let message: wire::RenewSessionRequest = message.clone();
            async move {
                let reply = client(channel).renew_session(message).await?;
                Ok(convert::renewed_from_wire(reply.into_inner()))
            }
        };
        self.control.call(timeout, call).await
    }

    async fn attach(&self, attach: Attach, timeout: Duration) -> MetaResult<Attached> {
        let message = convert::attach_to_wire(&attach);
        let call = |channel| {
            let message = message.clone();
            async move {
                match client(channel).attach(message).await {
                    Ok(reply) => Ok(convert::attached_from_wire(reply.into_inner())),
                    Err(status) => not_built(status),
                }
            }
        };
        self.call_once(timeout, call).await
    }

    async fn lock(&self, request: LockRequest, timeout: Duration) -> MetaResult<LockReply> {
        let message = convert::lock_request_to_wire(&request);
        let call = |channel| {
            let message: wire::LockRequest = message.clone();
            async move {
                match client(channel).lock(message).await {
                    Ok(reply) => Ok(convert::lock_reply_from_wire(reply.into_inner())),
                    Err(status) => not_built(status),
                }
            }
        };
        self.call_once(timeout, call).await
    }

    fn handle_pushes(&self, handler: Arc<dyn PushHandler>) {
        self.control.handle_pushes(handler);
    }

    async fn recalled(&self, done: RecallsDone, timeout: Duration) -> MetaResult<()> {
        let message = convert::recalls_done_to_wire(&done);
        let call = |channel| {
            let message = message.clone();
            async move {
                let reply = client(channel).recalled(message).await?;
                Ok(convert::refusal(reply.into_inner().error))
            }
        };
        self.call_once(timeout, call).await
    }

    async fn acquire(&self, acquire: Acquire, timeout: Duration) -> MetaResult<Acquired> {
        let message = convert::acquire_to_wire(&acquire);
        let call = |channel| {
            let message = message.clone();
            async move {
                let reply = client(channel).acquire(message).await?;
                Ok(convert::acquired_from_wire(reply.into_inner()))
            }
        };
        self.calls.call(timeout, call).await
    }

    async fn return_writes(&self, returned: ReturnWrites, timeout: Duration) -> MetaResult<()> {
        let message = convert::return_writes_to_wire(&returned);
        let call = |channel| {
            let message = message.clone();
            async move {
                let reply = client(channel).return_writes(message).await?;
                Ok(convert::refusal(reply.into_inner().error))
            }
        };
        self.control.call(timeout, call).await
    }

    async fn close_session(&self, close: RenewSession, timeout: Duration) -> MetaResult<()> {
        let message = convert::renew_to_wire(&close);
        let call = |channel| {
            let message: wire::RenewSessionRequest = message.clone();
            async move {
                let reply = client(channel).close_session(message).await?;
                Ok(convert::refusal(reply.into_inner().error))
            }
        };
        self.calls.call(timeout, call).await
    }

    async fn change(&self, request: ChangeRequest, dropped: Option<Dropped>, timeout: Duration) -> Answer {
        let message = convert::change_request_to_wire(&request, dropped.as_ref());
        let tries = AtomicU32::new(0);
        let call = |channel| {
            tries.fetch_add(1, Ordering::Relaxed);
            let message = message.clone();
            async move {
                let mut reply = client(channel).change(message).await?.into_inner();
                let (directories, writes) = (convert::directories_from_wire(&mut reply), reply.writes);
                let leased = std::mem::take(&mut reply.leased).into_iter().map(InodeId).collect();
                Ok(convert::changed_from_wire(reply).map(|changed| ((changed, directories), writes, leased)))
            }
        };
        let answered = self.for_change(&request.change).call(timeout, call).await;
        let is_first_try = tries.load(Ordering::Relaxed) <= 1;
        match answered {
            Ok((answered, writes, leased)) => Answer { answered: Ok(answered), is_first_try, writes, leased },
            Err(error) => Answer::refused(error, is_first_try),
        }
    }

    async fn read(&self, request: ReadRequest, timeout: Duration) -> Shown {
        let message = convert::read_request_to_wire(&request);
        let call = |channel| {
            let message = message.clone();
            async move {
                let reply = client(channel).read(message).await?;
                let shown = convert::shown_from_wire(reply.into_inner());
                let leased = shown.leased;
                // A refusal goes on its own: whoever repeats calls looks for one that says who leads.
                Ok(match shown.answered {
                    Err(MetaError::NotFound) => Ok(Shown { answered: Err(MetaError::NotFound), leased }),
                    answered => answered.map(|reply| Shown { answered: Ok(reply), leased }),
                })
            }
        };
        let channel = self.for_read(&request.read);
        channel.call(timeout, call).await.unwrap_or_else(|error| Shown::without_leases(Err(error)))
    }

    async fn report(&self, report: ReplicaReport, timeout: Duration) -> MetaResult<()> {
        let message = convert::report_to_wire(&report);
        let call = |channel| {
            let message: wire::ReportReplicaRequest = message.clone();
            async move {
                let reply = client(channel).report_replica(message).await?;
                Ok(convert::refusal(reply.into_inner().error))
            }
        };
        self.calls.call(timeout, call).await
    }

    fn learn(&self, cluster: ClusterId, metaservers: &[String]) {
        for channel in [&self.calls, &self.control, &self.data] {
            channel.bind_cluster(cluster);
            channel.learn(metaservers);
        }
    }
}
