//! V8: a cluster that leaves a question unanswered for [`ANSWER_MAX`] is silent until it answers that question, or until the
//! question's own deadline has passed. Meanwhile, whatever can be answered without that cluster is.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::ids::ClusterId;
use tokio::time::timeout;

use crate::error::{ClientError, Result};

/// Longer than an answer takes on a busy machine.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// The clusters that are silent now.
#[derive(Default)]
pub(crate) struct SilentClusters(Mutex<BTreeSet<ClusterId>>);

impl SilentClusters {
    fn silent(&self) -> MutexGuard<'_, BTreeSet<ClusterId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a question that is put to `cluster`. `None` if the cluster is silent; a question that has begun then
    /// goes on as a task, and its answer ends the silence.
    pub(crate) async fn ask<T: Send + 'static>(
        self: &Arc<SilentClusters>,
        cluster: ClusterId,
        question: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<Option<T>> {
        if self.silent().contains(&cluster) {
            return Ok(None);
        }
        let mut asked = tokio::spawn(question);
        match timeout(ANSWER_MAX, &mut asked).await {
            Ok(Ok(answer)) => answer.map(Some),
            Ok(Err(ended)) => Err(ClientError::Internal { what: format!("a question has ended: {ended}") }),
            Err(_) => {
                self.silent().insert(cluster);
                let clusters = self.clone();
                tokio::spawn(async move {
                    drop(asked.await);
                    clusters.silent().remove(&cluster);
                });
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{Instant, sleep};

    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);

    #[tokio::test(start_paused = true)]
    async fn a_silent_cluster_is_not_asked_again_before_it_has_answered() {
        let clusters = Arc::new(SilentClusters::default());
        let late = async {
            sleep(2 * ANSWER_MAX).await;
            Ok(1)
        };
        assert_eq!(clusters.ask(CLUSTER, late).await, Ok(None));
        let before = Instant::now();
        assert_eq!(clusters.ask(CLUSTER, pending::<Result<u8>>()).await, Ok(None));
        assert_eq!(before.elapsed(), Duration::ZERO, "nobody waits for it");
        assert_eq!(clusters.ask(ClusterId(8), ready(Ok(2))).await, Ok(Some(2)));
        sleep(2 * ANSWER_MAX).await;
        assert_eq!(clusters.ask(CLUSTER, ready(Ok(3))).await, Ok(Some(3)));
    }
}
