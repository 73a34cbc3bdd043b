//! The sessions of a federation as data, and the end of one: asked at the leader of each cluster, because only leaders know
//! what sessions hold. Nothing here prints.

use std::time::Duration;

use anyhow::Context as _;
use dfs_net::env::Env;
use dfs_net::rpc::Role;
use dfs_net::rpc::leader::LeaderChannel;
use dfs_net::services::admin_client::AdminClient;
use dfs_proto::convert::refusal;
use dfs_proto::error::MetaError;
use dfs_proto::ids::ClusterId;
use dfs_proto::wire;
use futures::future::join_all;
use serde::Serialize;

use crate::status::{ClusterStatus, FederationStatus, judge};

/// The time for one call; an election fits into it.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// What a session may write counts for a term of the leases (10 s, if nobody has set another) before it ends.
const END_DEADLINE: Duration = Duration::from_secs(30);
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Sessions that are asked for in one call, and as many as a leader gives.
const PAGE: u32 = 1000;

/// One client's identity at one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionStatus {
    /// Known in its cluster only.
    pub id: u64,
    /// As the client said: of a mount, its host and mount point.
    pub client: String,
    /// How long ago the leader heard of it; `None`: not since its election.
    pub heard_ms: Option<u64>,
    /// It has told the leader what it holds. If it has not, the five below are not complete.
    pub attached: bool,
    /// Those that the leader was told of: what is opened under a lease it hears of when it recalls that.
    pub open_files: u64,
    pub locks: u64,
    /// Its requests that wait for locks of others.
    pub waits: u64,
    /// Files that it may write without asking.
    pub write_leases: u64,
    /// Others wait for what it holds, or for it to tell what it holds.
    pub waited_for: bool,
    /// It is being ended.
    pub ending: bool,
}

/// The sessions of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterSessions {
    pub cluster: String,
    /// How many there are; `None` if the cluster did not say.
    pub total: Option<u64>,
    /// By id; the first of them, if there are more than were asked for.
    pub sessions: Vec<SessionStatus>,
    /// Why they are not, or not all, here; `None` if they are.
    pub problem: Option<String>,
}

/// Up to `limit` sessions of each cluster.
pub async fn of(env: &Env, federation: &FederationStatus, limit: u64) -> Vec<ClusterSessions> {
    join_all(federation.clusters.iter().map(|cluster| of_cluster(env, cluster, limit))).await
}

async fn of_cluster(env: &Env, status: &ClusterStatus, limit: u64) -> ClusterSessions {
    let mut listed = ClusterSessions { cluster: status.name().to_owned(), ..ClusterSessions::default() };
    let asked = async {
        let leader = Leader::of(env, status)?;
        let mut from = 0;
        loop {
            let left = limit.saturating_sub(listed.sessions.len() as u64).min(PAGE.into()) as u32;
            let reply = leader.list(from, left).await?;
            listed.total = Some(reply.total);
            listed.sessions.extend(reply.sessions.into_iter().map(session));
            let last = listed.sessions.last().map_or(0, |session| session.id);
            // A server that promises more and sends none would be asked for ever.
            if !reply.more || last < from || listed.sessions.len() as u64 >= limit {
                return anyhow::Ok(());
            }
            from = last + 1;
        }
    };
    listed.problem = asked.await.err().map(|error| format!("{error:#}"));
    listed
}

/// The session with this id; `None` if the cluster has none.
pub async fn find(env: &Env, status: &ClusterStatus, id: u64) -> anyhow::Result<Option<SessionStatus>> {
    let reply = Leader::of(env, status)?.list(id, 1).await.context("ask for the session")?;
    Ok(reply.sessions.into_iter().map(session).find(|session| session.id == id))
}

/// What became of a session that was to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expired {
    /// It has ended; this is what it held.
    Now(SessionStatus),
    /// There is none, so it has ended before: perhaps by an earlier try of this call.
    Before,
}

/// Ends a session. After an error it may end all the same.
pub async fn expire(env: &Env, status: &ClusterStatus, id: u64) -> anyhow::Result<Expired> {
    match Leader::of(env, status)?.expire(id).await {
        Ok(ended) => Ok(Expired::Now(session(ended))),
        Err(MetaError::SessionExpired { .. }) => Ok(Expired::Before),
        Err(error) => Err(error.into()),
    }
}

/// A cluster that has one, and who to ask for it.
struct Leader {
    channel: LeaderChannel,
    cluster: ClusterId,
}

impl Leader {
    fn of(env: &Env, status: &ClusterStatus) -> anyhow::Result<Leader> {
        let (Some(cluster), Some(_)) = (&status.cluster, &status.leader) else {
            anyhow::bail!("{}", judge::cluster(status));
        };
        let members = status.members.iter().map(|member| member.address.clone()).collect();
        let id = cluster.id.parse().with_context(|| format!("read the cluster id {}", cluster.id))?;
        let channel = LeaderChannel::anonymous(env.clone(), Role::Admin, members, CONNECT_DEADLINE);
        Ok(Leader { channel, cluster: id })
    }

    async fn list(&self, from: u64, limit: u32) -> Result<wire::ListSessionsReply, MetaError> {
        let calling = self.channel.call(CALL_DEADLINE, |channel| {
            let request = wire::ListSessionsRequest { cluster: self.cluster.to_wire().into(), from, limit };
            async move {
                let mut reply = AdminClient::new(channel).list_sessions(request).await?.into_inner();
                Ok(refusal(reply.error.take()).map(|()| reply))
            }
        });
        calling.await
    }

    async fn expire(&self, session: u64) -> Result<wire::SessionStatus, MetaError> {
        let calling = self.channel.call(END_DEADLINE, |channel| {
            let request = wire::ExpireSessionRequest { cluster: self.cluster.to_wire().into(), session };
            async move {
                let mut reply = AdminClient::new(channel).expire_session(request).await?.into_inner();
                Ok(refusal(reply.error.take()).map(|()| reply.ended.unwrap_or_default()))
            }
        });
        calling.await
    }
}

fn session(session: wire::SessionStatus) -> SessionStatus {
    SessionStatus {
        id: session.session,
        client: session.client,
        heard_ms: session.heard_ms,
        attached: session.is_attached,
        open_files: session.open_files,
        locks: session.locks,
        waits: session.waits,
        write_leases: session.write_leases,
        waited_for: session.is_waited_for,
        ending: session.is_ending,
    }
}
