//! `dfs volume`: `list` and `show` print volumes, `create` makes one.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use dfs_net::env::Env;
use dfs_net::rpc::Role;
use dfs_net::rpc::leader::LeaderChannel;
use dfs_net::services::meta_client::MetaClient;
use dfs_proto::attr::{Caller, Name};
use dfs_proto::convert;
use dfs_proto::federation::FederationMap;
use dfs_proto::ids::{ClusterId, InodeId, RequestId, SessionNonce, VolumeId};
use dfs_proto::meta::{Change, ChangeRequest, Changed, Create, NewInode, OpenSession, RenewSession};
use serde::Serialize;

use super::{dash, federation_map, federation_status};
use crate::cli::Source;
use crate::print::{self, Table};
use crate::status::VolumeState;

/// The time for one call; an election fits into it.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

pub async fn list(env: &Env, source: &Source, json: bool) -> anyhow::Result<ExitCode> {
    let federation = federation_status(env, source).await?;
    if json {
        print::json(&federation.volumes)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["volume", "name", "cluster", "state"]);
    for volume in federation.volumes {
        let state = volume.state.name().to_owned();
        table.row([volume.number.to_string(), dash(volume.name), volume.cluster, state]);
    }
    print!("{}", table.render());
    Ok(ExitCode::SUCCESS)
}

pub async fn create(
    env: &Env,
    source: &Source,
    path: &str,
    cluster: Option<&str>,
    mode: u32,
) -> anyhow::Result<ExitCode> {
    let name = name_of(path)?;
    let (_, map) = federation_map(env, source).await?;
    let what = match cluster {
        Some(wanted) => NewInode::Volume { cluster: cluster_named(&map, wanted)? },
        None => NewInode::Directory,
    };
    let create = Create { parent: InodeId::ROOT, name, mode, what, or_existing: false, opens: false };
    let made =
        change_root(env, &map, Change::Create(create)).await.with_context(|| format!("make {path}"))?;
    let Changed::Inode { attr, .. } = made else { bail!("make {path}: unexpected answer {made:?}") };
    println!("{path} is volume {}", attr.inode.volume().0);
    Ok(ExitCode::SUCCESS)
}

fn name_of(path: &str) -> anyhow::Result<Name> {
    let name = path.strip_prefix('/').with_context(|| format!("{path}: begin with /, as /name"))?;
    Name::new(name)
        .map_err(|_| anyhow::anyhow!("{path}: a volume is a directory of the root directory, as /name"))
}

fn cluster_named(map: &FederationMap, name: &str) -> anyhow::Result<ClusterId> {
    let named = map.clusters.iter().find(|(_, entry)| entry.name == name);
    let names = || map.clusters.iter().map(|(_, entry)| entry.name.as_str()).collect::<Vec<_>>().join(", ");
    named.map(|(id, _)| *id).with_context(|| format!("there is no cluster {name}; there are: {}", names()))
}

/// Makes one change in the root directory, in a session of its own, so that a change that is sent again after an election is
/// executed once.
async fn change_root(env: &Env, map: &FederationMap, change: Change) -> anyhow::Result<Changed> {
    let root = map.cluster_of(InodeId::ROOT).and_then(|cluster| map.cluster(cluster));
    let metaservers = root.context("the map does not tell who has the root directory")?.metaservers.clone();
    let channel = LeaderChannel::anonymous(env.clone(), Role::Client, metaservers, CONNECT_DEADLINE);
    let nonce = SessionNonce(env.rng.u128());
    let open = OpenSession { cluster: ClusterId::UNKNOWN, nonce, client: "dfs volume create".to_owned() };
    let opening = channel.call(CALL_DEADLINE, |channel| {
        let open = convert::open_session_to_wire(&open);
        async move {
            let reply = MetaClient::new(channel).open_session(open).await?;
            Ok(convert::session_opened_from_wire(reply.into_inner()))
        }
    });
    let opened = opening.await.context("open a session")?;
    let request = ChangeRequest {
        cluster: opened.cluster,
        session: opened.session,
        request: RequestId(1),
        answered_below: RequestId(0),
        caller: Caller::ROOT,
        change,
    };
    let wire = convert::change_request_to_wire(&request, None);
    let changing = channel.call(CALL_DEADLINE, |channel| {
        let wire = wire.clone();
        async move {
            let reply = MetaClient::new(channel).change(wire).await?;
            Ok(convert::changed_from_wire(reply.into_inner()))
        }
    });
    let changed = changing.await;
    let close = convert::renew_to_wire(&RenewSession::of(opened.cluster, opened.session));
    let closing = channel.call(CALL_DEADLINE, |channel| {
        let close = close.clone();
        async move {
            let reply = MetaClient::new(channel).close_session(close).await?;
            Ok(convert::refusal(reply.into_inner().error))
        }
    });
    if let Err(error) = closing.await {
        eprintln!("close the session: {error}; it expires by itself");
    }
    Ok(changed?)
}

#[derive(Serialize)]
struct Shown {
    number: u32,
    path: String,
    cluster: String,
    state: &'static str,
    metaservers: Vec<String>,
}

pub async fn show(env: &Env, source: &Source, path: &str, json: bool) -> anyhow::Result<ExitCode> {
    let (_, map) = federation_map(env, source).await?;
    let number = match path {
        "/" => VolumeId(0),
        path => map.named(name_of(path)?.as_bytes()).with_context(|| format!("there is no volume {path}"))?,
    };
    let volume = map.volume(number).with_context(|| format!("there is no volume {path}"))?;
    let entry = map.cluster(volume.cluster);
    let shown = Shown {
        number: number.0,
        path: path.to_owned(),
        cluster: entry.map(|entry| entry.name.clone()).unwrap_or_default(),
        state: VolumeState::of(volume.phase).name(),
        metaservers: entry.map(|entry| entry.metaservers.clone()).unwrap_or_default(),
    };
    if json {
        print::json(&shown)?;
    } else {
        println!("{}: volume {}, {}, in cluster {}", shown.path, shown.number, shown.state, shown.cluster);
        println!("metaservers {}", shown.metaservers.join(" "));
    }
    Ok(ExitCode::SUCCESS)
}
