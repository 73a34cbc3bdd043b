//! The federation as applications see it: one tree.

use std::sync::Arc;
use std::time::Duration;

use dfs_net::env::Env;
use dfs_proto::attr::Caller;
use futures::future::join_all;

use crate::config::ClientConfig;
use crate::error::Result;
use crate::inode::operation::Operation;
use crate::names::{NoOuterCache, OuterCache};
use crate::route::federation::Federation;
use crate::route::routes::Routes;

/// A client of one federation. If it is dropped without [`Client::shutdown`], its sessions expire.
pub struct Client {
    routes: Arc<Routes>,
}

impl Client {
    /// Finds the federation. Sessions are opened where they are needed.
    pub async fn connect(config: ClientConfig, env: Env) -> Result<Arc<Client>> {
        Client::connect_with(config, env, Arc::new(NoOuterCache)).await
    }

    /// The same with a cache in front of it.
    pub async fn connect_with(
        config: ClientConfig,
        env: Env,
        outer: Arc<dyn OuterCache>,
    ) -> Result<Arc<Client>> {
        Ok(Client::over(Federation::connect(config, env, outer).await?))
    }

    pub(crate) fn over(federation: Arc<Federation>) -> Arc<Client> {
        Arc::new(Client { routes: Routes::new(federation) })
    }

    /// Performs one operation for `caller`.
    pub async fn perform<O: Operation>(&self, caller: &Caller, operation: O) -> Result<O::Reply> {
        operation.perform(&self.routes, caller).await
    }

    /// There may be several clusters.
    pub fn is_of_federation(&self) -> bool {
        self.routes.is_of_federation()
    }

    /// Commits everything, ends the sessions and the background tasks. The answer names what could not be written, and why.
    ///
    /// This takes at most `stalled_max`, or as long as the commits get further within that.
    pub async fn shutdown(&self, stalled_max: Duration) -> Vec<String> {
        self.routes.federation.end();
        let sessions = self.routes.federation.open_sessions();
        let ending = sessions.iter().map(|session| session.shutdown(stalled_max));
        join_all(ending).await.into_iter().flatten().collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.routes.federation.end();
    }
}
