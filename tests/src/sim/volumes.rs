//! A client that makes, renames and removes volumes, and puts a file into some. It alone uses these names, so it knows what
//! must be there; a change that ended with an error is repeated until it is known to have happened (P9.4).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dfs_client::ClientError;
use dfs_client::inode::{Client, CreateOpen, Lookup, OpenMode, Rmdir, Unlink};
use dfs_client::path::Paths;
use dfs_net::env::{Env, Rng};
use dfs_net::rpc::Role;
use dfs_net::rpc::leader::LeaderChannel;
use dfs_net::services::admin_client::AdminClient;
use dfs_net::services::federation_client::FederationClient;
use dfs_proto::attr::{Caller, Name};
use dfs_proto::error::MetaError;
use dfs_proto::federation::{ClusterEntry, Federate};
use dfs_proto::ids::{ClusterId, InodeId};
use dfs_proto::meta::{Create, MetaResult, NewInode, Rename, RenameMode};
use dfs_proto::units::Offset;
use dfs_proto::{convert, wire};
use tokio::time::sleep;

use super::layout::{Layout, members_of, metaserver_addresses};
use super::plan::OVER_INTERVAL;

/// Few, so that changes meet each other.
const NAMES: u64 = 4;
const PREFIX: &str = "volume";
const FILE: &str = "file";
const PAUSE_MAX: Duration = Duration::from_millis(400);
const ROOT: InodeId = InodeId::ROOT;
const CALL: Duration = Duration::from_secs(20);

/// The volumes that are there; of each, what its file holds, if it has one.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    there: BTreeMap<String, Option<u64>>,
    pub(super) changes: u64,
}

/// As an administrator: every cluster but the first, which joins by itself, is let into the federation.
pub(super) async fn join(env: &Env, layout: Layout) {
    let anyone = |addresses| LeaderChannel::anonymous(env.clone(), Role::Admin, addresses, CALL);
    let group = anyone(metaserver_addresses(layout.seats()));
    for cluster in 1..layout.clusters {
        let metaservers = metaserver_addresses(members_of(cluster));
        loop {
            let id = cluster_id(&anyone(metaservers.clone())).await;
            let entry =
                ClusterEntry { name: format!("cluster{}", cluster + 1), metaservers: metaservers.clone() };
            let joined = match id {
                Ok(cluster) => federate(&group, &Federate::Join { cluster, entry }).await,
                Err(error) => Err(error),
            };
            if joined.is_ok() {
                break;
            }
            sleep(OVER_INTERVAL).await;
        }
    }
}

async fn cluster_id(metaservers: &LeaderChannel) -> MetaResult<ClusterId> {
    let status = metaservers.call(CALL, |channel| async move {
        let reply = AdminClient::new(channel).status(wire::StatusRequest {}).await?.into_inner();
        Ok(convert::refusal(reply.error.clone()).map(|()| reply))
    });
    let cluster = ClusterId::from_wire(&status.await?.cluster);
    cluster.filter(|id| id.is_known()).ok_or(MetaError::Unavailable { what: "it is not made yet".to_owned() })
}

async fn federate(group: &LeaderChannel, change: &Federate) -> MetaResult<()> {
    let request = convert::federate_to_wire(change);
    let answer = group.call(CALL, |channel| {
        let request = request.clone();
        async move {
            let reply = FederationClient::new(channel).federate(request).await?;
            Ok(convert::federated_from_wire(reply.into_inner()))
        }
    });
    answer.await.map(drop)
}

fn name_of(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|bad| panic!("{text}: {bad:?}"))
}

/// Until it has happened. `expected`: the error that it ends with, if it does not happen; `repeated`: the one that a second
/// try ends with when the first has happened.
async fn change(
    what: &str,
    attempt: impl AsyncFn() -> Result<(), ClientError>,
    expected: Option<ClientError>,
    repeated: ClientError,
) {
    let mut is_uncertain = false;
    loop {
        match (attempt().await, &expected) {
            (Ok(()), None) => return,
            (Err(ClientError::Unavailable { .. }), _) => is_uncertain = true,
            (Err(error), Some(wanted)) if error == *wanted => return,
            (Err(error), None) if is_uncertain && error == repeated => return,
            (answer, _) => panic!("{what}: {answer:?}, expected {expected:?}"),
        }
        sleep(OVER_INTERVAL).await;
    }
}

/// Changes volumes until it is over.
pub(super) async fn live(client: &Client, rng: &Rng, is_over: impl Fn() -> bool) -> Volumes {
    let mut volumes = Volumes::default();
    while !is_over() {
        let (name, other) = (some_name(rng), some_name(rng));
        match rng.below(5) {
            0..=1 => volumes.make(client, name).await,
            2 if name != other => volumes.rename(client, name, other).await,
            3 => volumes.remove(client, name).await,
            _ => volumes.fill_or_empty(client, rng, name).await,
        }
        sleep(Duration::from_micros(rng.below(PAUSE_MAX.as_micros() as u64))).await;
    }
    volumes
}

fn some_name(rng: &Rng) -> String {
    format!("{PREFIX}{}", rng.below(NAMES))
}

async fn fill(client: &Client, volume: InodeId, made: u64) -> Result<(), ClientError> {
    let name = name_of(FILE);
    let create =
        Create { parent: volume, name, mode: 0o644, what: NewInode::File, or_existing: false, opens: false };
    let mode = OpenMode { read: true, write: true, ..OpenMode::default() };
    let (file, _) = client.perform(&Caller::ROOT, CreateOpen { create, mode }).await?;
    file.write_at(&Caller::ROOT, Offset(0), &made.to_le_bytes()).await?;
    file.release().await
}

impl Volumes {
    async fn make(&mut self, client: &Client, name: String) {
        let create = Create {
            parent: ROOT,
            name: name_of(&name),
            mode: 0o755,
            what: NewInode::Directory,
            or_existing: false,
            opens: false,
        };
        let attempt = async || client.perform(&Caller::ROOT, create.clone()).await.map(drop);
        let expected = self.there.contains_key(&name).then_some(ClientError::Exists);
        let is_done = expected.is_none();
        change(&format!("make {name}"), attempt, expected, ClientError::Exists).await;
        if is_done {
            self.there.insert(name, None);
            self.changes += 1;
        }
    }

    async fn rename(&mut self, client: &Client, from: String, to: String) {
        let rename = Rename {
            parent: ROOT,
            name: name_of(&from),
            new_parent: ROOT,
            new_name: name_of(&to),
            mode: RenameMode::Replace,
        };
        let attempt = async || client.perform(&Caller::ROOT, rename.clone()).await.map(drop);
        let expected = match (self.there.get(&from), self.there.get(&to)) {
            (None, _) => Some(ClientError::NotFound),
            (Some(_), Some(Some(_))) => Some(ClientError::NotEmpty),
            (Some(_), Some(None) | None) => None,
        };
        let is_done = expected.is_none();
        change(&format!("rename {from} to {to}"), attempt, expected, ClientError::NotFound).await;
        if is_done && let Some(content) = self.there.remove(&from) {
            self.there.insert(to, content);
            self.changes += 1;
        }
    }

    async fn remove(&mut self, client: &Client, name: String) {
        let rmdir = Rmdir { parent: ROOT, name: name_of(&name) };
        let attempt = async || client.perform(&Caller::ROOT, rmdir.clone()).await.map(drop);
        let expected = match self.there.get(&name) {
            None => Some(ClientError::NotFound),
            Some(Some(_)) => Some(ClientError::NotEmpty),
            Some(None) => None,
        };
        let is_done = expected.is_none();
        change(&format!("remove {name}"), attempt, expected, ClientError::NotFound).await;
        if is_done {
            self.there.remove(&name);
            self.changes += 1;
        }
    }

    /// What is inside of a volume is its cluster's alone: there nothing may fail.
    async fn fill_or_empty(&mut self, client: &Client, rng: &Rng, name: String) {
        let Some(content) = self.there.get_mut(&name) else { return };
        let made = content.is_none().then(|| rng.u64());
        let done = async {
            let volume = {
                let lookup = Lookup { parent: ROOT, name: name.clone().into_bytes() };
                client.perform(&Caller::ROOT, lookup).await?.inode
            };
            match made {
                Some(made) => fill(client, volume, made).await,
                None => {
                    let unlink = Unlink { parent: volume, name: name_of(FILE) };
                    client.perform(&Caller::ROOT, unlink).await
                }
            }
        };
        done.await.unwrap_or_else(|error| panic!("{name}/{FILE}: {error}"));
        *content = made;
    }

    /// Another client finds these volumes, and no others of these names, with what is in them.
    pub(super) async fn check(&self, reader: Arc<Client>) {
        let paths = Paths::new(reader);
        // Names come from the map while the root directory's cluster does not answer, and the map may be behind. No map
        // has this one.
        let nothing = paths.stat(&Caller::ROOT, b"nothing").await;
        assert_eq!(nothing.map(drop), Err(ClientError::NotFound));
        for number in 0..NAMES {
            let name = format!("{PREFIX}{number}");
            let found = paths.stat(&Caller::ROOT, name.as_bytes()).await.map(drop);
            let content = self.there.get(&name);
            let expected = content.map(drop).ok_or(ClientError::NotFound);
            assert_eq!(found, expected, "{name}");
            if let Some(made) = content {
                let read = paths.read(&Caller::ROOT, format!("{name}/{FILE}").as_bytes()).await;
                let bytes = made.map(|made| made.to_le_bytes().to_vec().into());
                assert_eq!(read, bytes.ok_or(ClientError::NotFound), "{name}/{FILE}");
            }
        }
    }
}
