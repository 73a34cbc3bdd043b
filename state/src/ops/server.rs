//! Chunkservers: registration, and what readers say of their copies.

use dfs_proto::error::MetaError;
use dfs_proto::ids::{ChunkId, Instance, ServerId};

use crate::command::{RegisterServer, Registered, Reply};
use crate::kv::Txn;
use crate::table::{chunk, cluster, server};
use crate::value::server::ServerRecord;

/// Finds a server by its directory, or gives it an id. Raises the instance each time, so that an older process on the
/// same directory is refused (P11.1).
pub(crate) fn register(txn: &mut Txn<'_>, register: &RegisterServer) -> Reply {
    let cluster = match cluster::require(txn) {
        Ok(cluster) => cluster,
        Err(refused) => return Reply::Refused(refused),
    };
    let known = server::by_directory(txn, register.directory);
    // A directory that says it is a server must be that one's: a foreign or copied one is refused (P11.1).
    if register.server.is_some() && register.server != known {
        let what = match known {
            Some(known) => format!("data directory {} belongs to {known}", register.directory),
            None => format!("data directory {} is not known to this cluster", register.directory),
        };
        return Reply::Refused(MetaError::InvalidArgument { what });
    }
    let id = known.unwrap_or_else(|| {
        cluster::count(txn, |c| {
            c.server.0 += 1;
            c.server
        })
    });
    let instance = Instance(server::get(txn, id).map_or(0, |record| record.instance.0) + 1);
    let record = ServerRecord {
        directory: register.directory,
        addresses: register.addresses.clone(),
        zone: register.zone.clone(),
        instance,
    };
    server::put(txn, id, &record);
    Reply::Registered(Registered {
        server: id,
        instance,
        incarnation: cluster.incarnation,
        cluster: cluster.cluster,
    })
}

/// Notes that this copy is bad. A server that has no copy of the chunk is passed over.
pub(crate) fn report_damage(txn: &mut Txn<'_>, id: ChunkId, server: ServerId) -> Reply {
    let is_news = chunk::get(txn, id)
        .is_some_and(|record| record.replicas.contains(&server) && !record.damaged.contains(&server));
    if is_news {
        chunk::update(txn, id, |record| record.damaged.push(server));
    }
    Reply::Done
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::DirectoryId;

    use super::*;
    use crate::command::{Command, ServerAddresses};
    use crate::read;
    use crate::tests::Harness;

    fn command(server: Option<ServerId>, directory: u128) -> Command {
        Command::RegisterServer(RegisterServer {
            server,
            directory: DirectoryId(directory),
            addresses: ServerAddresses::default(),
            zone: "a".to_owned(),
        })
    }

    fn registered(reply: Reply) -> (ServerId, Instance) {
        let Reply::Registered(registered) = reply else { panic!("a registration answered {reply:?}") };
        (registered.server, registered.instance)
    }

    #[test]
    fn a_directory_is_one_server_with_a_new_instance_each_time() {
        let mut harness = Harness::new();
        let (server, first) = registered(harness.command(command(None, 7)));
        assert_eq!(first, Instance(1));
        let again = registered(harness.command(command(None, 7)));
        assert_eq!(again, (server, Instance(2)), "its answer was lost");
        assert_eq!(registered(harness.command(command(Some(server), 7))), (server, Instance(3)));
        assert_ne!(registered(harness.command(command(None, 8))).0, server);
        harness.check();
    }

    #[test]
    fn a_foreign_directory_is_refused() {
        let mut harness = Harness::new();
        let (server, _) = registered(harness.command(command(None, 7)));
        for (claimed, directory) in [(server, 8), (ServerId(99), 7), (ServerId(99), 8)] {
            let reply = harness.command(command(Some(claimed), directory));
            assert!(matches!(reply, Reply::Refused(MetaError::InvalidArgument { .. })), "{reply:?}");
        }
        harness.check();
    }

    #[test]
    fn a_damaged_copy_is_counted_once() {
        let mut harness = Harness::new();
        let servers = harness.servers(2);
        let chunk = harness.open_chunk();
        for server in [servers[0], servers[0], ServerId(99)] {
            assert_eq!(harness.command(Command::ReportDamage { chunk, server }), Reply::Done);
        }
        assert_eq!(harness.view(read::totals).chunks_damaged, 1);
        let damaged = harness.view(|view| read::chunk(view, chunk)).map(|c| c.damaged);
        assert_eq!(damaged, Some(vec![servers[0]]));
        harness.check();
    }
}
