//! Requests for Write leases of files, and their return.

use dfs_proto::error::MetaError;
use dfs_proto::ids::SessionId;
use dfs_proto::meta::{Acquire, Acquired, HeldWrite, MetaResult, ReturnWrites};
use tokio::time::timeout;

use crate::session::leases::Bound;
use crate::session::meta::MetaClient;

impl MetaClient {
    /// Asks for Write of a file. If the session has ended, the next one is opened first.
    pub(crate) async fn acquire(&self, write: HeldWrite, bound: Bound) -> MetaResult<Acquired> {
        self.require_answering()?;
        let cluster = self.session().opened.cluster;
        let Bound { session, attachment } = bound;
        let acquire = Acquire { cluster, session, attachment, write };
        let acquired = self.calls.acquire(acquire, self.timeout).await;
        match acquired {
            Ok(Acquired::NotAttached) => self.held.doubt(attachment),
            Err(MetaError::SessionExpired { session }) => drop(self.replace(session).await?),
            _ => {}
        }
        acquired
    }

    /// The present attachment of this session, as soon as there is one.
    pub(crate) async fn bound_of(&self, session: SessionId) -> MetaResult<Bound> {
        let bound = timeout(self.timeout, self.held.bound()).await;
        let late = |_| MetaError::Unavailable { what: "the cluster does not take the session".to_owned() };
        match bound.map_err(late)? {
            bound if bound.session == session => Ok(bound),
            _ => Err(MetaError::SessionExpired { session }),
        }
    }

    /// Gives these back, which are held no longer.
    pub(crate) async fn return_writes(&self, writes: Vec<HeldWrite>) -> MetaResult<()> {
        let session = self.session();
        let returned = ReturnWrites { cluster: session.opened.cluster, session: session.id(), writes };
        self.calls.return_writes(returned, self.control_timeout()).await
    }
}
