//! What every loop does with what it has planned.

use crate::leases::Touched;
use crate::service::Metaserver;
use dfs_state::command::{Command, Reply};

/// Executes commands until one fails; a failure only means that the next round plans it again. Tells if there is more to
/// do at once.
pub(super) async fn execute(metaserver: &Metaserver, commands: Vec<Command>) -> bool {
    let mut more_work = false;
    for command in commands {
        match metaserver.gate.change(&Touched::nothing(), None, command.clone()).await {
            Ok(Reply::Worked { more, .. }) => more_work |= more,
            Ok(_) => {}
            Err(error) => {
                metaserver.metrics.background_failures.inc();
                tracing::debug!("{command:?}: {error}");
                return false;
            }
        }
    }
    more_work
}
