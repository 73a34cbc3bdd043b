//! The calls to one cluster's metaservers as they travel: the seam that gRPC and the tests' metaserver fill.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dfs_net::rpc::push::PushHandler;
use dfs_proto::attr::InodeAttr;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{ClusterId, InodeId};
use dfs_proto::lock::{LockReply, LockRequest};
use dfs_proto::meta::{
    Acquire, Acquired, Attach, Attached, ChangeRequest, Changed, Dropped, MetaResult, OpenSession,
    ReadRequest, RecallsDone, RenewSession, ReplicaReport, ReturnWrites, SessionOpened, SessionRenewed,
    Shown,
};

/// The answer to a change.
pub(crate) struct Answer {
    /// With the directories that the change altered.
    pub(crate) answered: MetaResult<(Changed, Vec<InodeAttr>)>,
    /// The request was sent once only, so a refusal means that nothing happened.
    pub(crate) is_first_try: bool,
    /// The session holds Write of the file that the change made.
    pub(crate) writes: bool,
    /// It holds Read of these, which the answer shows.
    pub(crate) leased: Vec<InodeId>,
}

impl Answer {
    pub(crate) fn refused(error: MetaError, is_first_try: bool) -> Answer {
        Answer { answered: Err(error), is_first_try, writes: false, leased: Vec::new() }
    }
}

/// Each call is repeated until it is answered or `timeout` is over; only then its answer is `Unavailable`.
#[async_trait]
pub(crate) trait MetaCalls: Send + Sync + 'static {
    async fn open_session(&self, open: OpenSession, timeout: Duration) -> MetaResult<SessionOpened>;
    async fn renew(&self, renew: RenewSession, timeout: Duration) -> MetaResult<SessionRenewed>;
    /// Tells the leader what the session holds. This, `renew` and `lock` go over a connection of their own (P4.5), on which
    /// nothing waits for anything; what the leader sends unasked comes over it. This, `lock` and `recalled` are not repeated once a leader
    /// may have got them: an answer that is lost is `Unavailable` at once.
    async fn attach(&self, attach: Attach, timeout: Duration) -> MetaResult<Attached>;
    async fn lock(&self, request: LockRequest, timeout: Duration) -> MetaResult<LockReply>;
    /// Tells the leader that recalls were handled, and which of the recalled files are open; over the same connection. (A first try that
    /// arrives behind the second would open files whose closes were told since.)
    async fn recalled(&self, done: RecallsDone, timeout: Duration) -> MetaResult<()>;
    /// Asks for Write of a file. It waits until whoever else holds something of the file has given it back.
    async fn acquire(&self, acquire: Acquire, timeout: Duration) -> MetaResult<Acquired>;
    /// Gives Write leases back; over the same connection as `attach`.
    async fn return_writes(&self, returned: ReturnWrites, timeout: Duration) -> MetaResult<()>;
    /// What the leader sends unasked goes to this handler, on connections that are made from now on.
    fn handle_pushes(&self, handler: Arc<dyn PushHandler>);
    async fn close_session(&self, close: RenewSession, timeout: Duration) -> MetaResult<()>;
    /// `dropped`: what this client has dropped of its own copy before.
    async fn change(&self, request: ChangeRequest, dropped: Option<Dropped>, timeout: Duration) -> Answer;
    async fn read(&self, request: ReadRequest, timeout: Duration) -> Shown;
    async fn report(&self, report: ReplicaReport, timeout: Duration) -> MetaResult<()>;
    /// Takes over the addresses of the members that the cluster gave.
    fn learn(&self, cluster: ClusterId, metaservers: &[String]);
}
