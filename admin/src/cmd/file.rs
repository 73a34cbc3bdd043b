//! `dfs file show PATH`: prints where the bytes of a file are.

use std::path::{Component, Path};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use dfs_proto::attr::InodeAttr;
use dfs_proto::convert::{attr_from_wire, refusal};
use dfs_proto::env::Env;
use dfs_proto::federation::FederationMap;
use dfs_proto::ids::VolumeId;
use dfs_proto::rpc::Role;
use dfs_proto::rpc::leader::LeaderChannel;
use dfs_proto::units::ByteLen;
use dfs_proto::wire;
use dfs_proto::wire::admin_client::AdminClient;
use serde::Serialize;

use super::metaservers;
use crate::cli::Source;
use crate::federation;
use crate::local::mounted::{self, Mount};
use crate::print::{self, Table, bytes};
use crate::status::ServerState;
use crate::status::find::Metaservers;

/// The time for one page of extents; an election fits into it.
const DEADLINE: Duration = Duration::from_secs(8);
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Shown {
    path: String,
    inode: u64,
    volume: u32,
    number: u64,
    cluster: String,
    kind: String,
    mode: String,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    allocated: u64,
    mtime_seconds: i64,
    content_version: u64,
    extents: Vec<Extent>,
}

#[derive(Serialize)]
struct Extent {
    offset: u64,
    len: u64,
    chunk: u64,
    chunk_offset: u64,
    chunk_state: String,
    set_version: u64,
    #[serde(rename = "copies")]
    replicas: Vec<Replica>,
}

#[derive(Serialize)]
struct Replica {
    server: u64,
    address: String,
    state: ServerState,
    damaged: bool,
}

pub async fn show(env: &Env, source: &Source, path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let Metaservers { addresses, .. } = metaservers(source)?;
    let absolute = std::path::absolute(path).with_context(|| format!("use {}", path.display()))?;
    let inside = inside_federation(&absolute, path, &mounted::all()?)?;
    let map = federation::newest_map(env, &addresses).await;
    let place = map.as_ref().map_or_else(
        || Place { metaservers: addresses.clone(), volume: VolumeId(0), path: inside.clone() },
        |map| place(map, &inside),
    );
    let leader = LeaderChannel::anonymous(env.clone(), Role::Admin, place.metaservers, CONNECT_DEADLINE);
    let shown =
        fetch(&leader, place.volume, &place.path, &inside).await.with_context(|| format!("show {inside}"))?;
    if json {
        print::json(&shown)?;
    } else {
        print!("{}", page(&shown));
    }
    Ok(ExitCode::SUCCESS)
}

/// The path from the federation's root: what of `absolute` is below a dfs mount or, if nothing is, `given` itself.
fn inside_federation(absolute: &Path, given: &Path, mounts: &[Mount]) -> anyhow::Result<String> {
    let below = mounts.iter().filter(|m| m.is_dfs()).filter_map(|m| absolute.strip_prefix(&m.point).ok());
    let path = match below.min_by_key(|rest| rest.components().count()) {
        Some(rest) => rest,
        None => {
            anyhow::ensure!(
                given.is_absolute(),
                "{}: not below a dfs mount; give a path from the federation's root, as /a/b",
                given.display()
            );
            given
        }
    };
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                names.push(name.to_str().with_context(|| format!("{}: not UTF-8", path.display()))?);
            }
            Component::ParentDir => {
                names.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(format!("/{}", names.join("/")))
}

/// Which metaservers to ask for a path, and what to ask them.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    metaservers: Vec<String>,
    volume: VolumeId,
    /// The path from the volume's root.
    path: String,
}

/// Finds the volume of a path by its first name. If that is no volume, the path is one in the root directory.
fn place(map: &FederationMap, path: &str) -> Place {
    let (first, rest) =
        path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    let (volume, path) = match map.named(first.as_bytes()) {
        Some(volume) => (volume, format!("/{rest}")),
        None => (VolumeId(0), path.to_owned()),
    };
    let cluster = map.volume(volume).and_then(|found| map.cluster(found.cluster));
    Place { metaservers: cluster.map(|entry| entry.metaservers.clone()).unwrap_or_default(), volume, path }
}

async fn fetch(
    leader: &LeaderChannel,
    volume: VolumeId,
    path: &str,
    whole_path: &str,
) -> anyhow::Result<Shown> {
    let mut shown: Option<Shown> = None;
    let mut after_offset = 0;
    loop {
        let reply = leader
            .call(DEADLINE, |channel| {
                let request = wire::FileShowRequest { path: path.to_owned(), after_offset, volume: volume.0 };
                async move {
                    let mut reply = AdminClient::new(channel).file_show(request).await?.into_inner();
                    Ok(refusal(reply.error.take()).map(|()| reply))
                }
            })
            .await?;
        let shown = match &mut shown {
            Some(shown) => shown,
            None => {
                let attr = attr_from_wire(reply.attr.context("the answer has no attributes")?)?;
                shown.insert(head(whole_path, reply.cluster_name, &attr))
            }
        };
        shown.extents.extend(reply.extents.into_iter().map(extent));
        let end = shown.extents.last().map_or(0, |e| e.offset + e.len);
        // A server that promises more extents and sends none would be asked for ever.
        if !reply.more || end <= after_offset {
            break;
        }
        after_offset = end;
    }
    shown.context("no answer")
}

fn head(path: &str, cluster: String, attr: &InodeAttr) -> Shown {
    let ByteLen(size) = attr.size;
    let ByteLen(allocated) = attr.allocated;
    Shown {
        path: path.to_owned(),
        inode: attr.inode.0,
        volume: attr.inode.volume().0,
        number: attr.inode.number(),
        cluster,
        kind: format!("{:?}", attr.kind).to_lowercase(),
        mode: format!("{:04o}", attr.mode),
        uid: attr.uid,
        gid: attr.gid,
        nlink: attr.nlink,
        size,
        allocated,
        mtime_seconds: attr.mtime.seconds,
        content_version: attr.content_version,
        extents: Vec::new(),
    }
}

fn extent(extent: wire::ShownExtent) -> Extent {
    let replicas = extent.copies.into_iter().map(|copy| Replica {
        server: copy.server,
        address: copy.address,
        state: ServerState::from_wire(copy.state),
        damaged: copy.damaged,
    });
    Extent {
        offset: extent.offset,
        len: extent.len,
        chunk: extent.chunk,
        chunk_offset: extent.chunk_offset,
        chunk_state: extent.chunk_state,
        set_version: extent.set_version,
        replicas: replicas.collect(),
    }
}

fn page(shown: &Shown) -> String {
    let mut text = format!(
        "{}: {} {} (volume {}, number {}) in cluster {}\nmode {}, owner {}:{}, {} links, {} ({} bytes), {} allocated, content {}\n",
        shown.path,
        shown.kind,
        shown.inode,
        shown.volume,
        shown.number,
        shown.cluster,
        shown.mode,
        shown.uid,
        shown.gid,
        shown.nlink,
        bytes(shown.size),
        shown.size,
        bytes(shown.allocated),
        shown.content_version
    );
    if shown.extents.is_empty() {
        return text;
    }
    let mut table = Table::new(["offset", "length", "chunk", "at", "state", "set", "copies"]);
    for extent in &shown.extents {
        let replicas: Vec<String> = extent.replicas.iter().map(replica_text).collect();
        table.row([
            extent.offset.to_string(),
            extent.len.to_string(),
            extent.chunk.to_string(),
            extent.chunk_offset.to_string(),
            extent.chunk_state.clone(),
            extent.set_version.to_string(),
            replicas.join(", "),
        ]);
    }
    text.push('\n');
    text += &table.render();
    text
}

fn replica_text(replica: &Replica) -> String {
    let state = match (replica.damaged, replica.state) {
        (true, _) => " damaged",
        (false, ServerState::Alive | ServerState::Full) => "",
        (false, ServerState::Away | ServerState::NotHeard) => " away",
    };
    format!("chunkserver {} at {}{state}", replica.server, replica.address)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use dfs_proto::attr::Name;
    use dfs_proto::federation::{ClusterEntry, MapVolume, VolumePhase};
    use dfs_proto::ids::ClusterId;

    use super::*;

    #[test]
    fn the_first_name_of_a_path_leads_to_the_volumes_cluster() {
        let cluster = |id: u128, name: &str| {
            let entry = ClusterEntry { name: name.to_owned(), metaservers: vec![format!("{name}:1")] };
            (ClusterId(id), entry)
        };
        let volume = |id: u32, cluster: u128, name: Option<&str>| {
            let name = name.map(|name| Name::new(name).unwrap());
            let phase = VolumePhase::Active;
            (VolumeId(id), MapVolume { cluster: ClusterId(cluster), name, version: 1, phase })
        };
        let map = FederationMap {
            clusters: vec![cluster(1, "alpha"), cluster(2, "beta")],
            volumes: vec![volume(0, 1, None), volume(5, 2, Some("logs"))],
            ..FederationMap::default()
        };
        let asked = |path: &str| {
            let Place { metaservers, volume, path } = place(&map, path);
            (metaservers.concat(), volume.0, path)
        };
        assert_eq!(asked("/logs/a/b"), ("beta:1".to_owned(), 5, "/a/b".to_owned()));
        assert_eq!(asked("/logs"), ("beta:1".to_owned(), 5, "/".to_owned()));
        assert_eq!(asked("/file"), ("alpha:1".to_owned(), 0, "/file".to_owned()));
        assert_eq!(asked("/"), ("alpha:1".to_owned(), 0, "/".to_owned()));
    }

    #[test]
    fn a_path_below_a_mount_becomes_one_from_the_root() {
        let mount = |point: &str, kind: &str| Mount {
            point: PathBuf::from(point),
            kind: kind.to_owned(),
            source: "dfs".to_owned(),
        };
        let mounts = [mount("/", "ext4"), mount("/mnt/dfs", "fuse.dfs")];
        let inside = |absolute: &str, given: &str| {
            inside_federation(Path::new(absolute), Path::new(given), &mounts).map_err(|e| e.to_string())
        };
        assert_eq!(inside("/mnt/dfs/a/b", "b").as_deref(), Ok("/a/b"));
        assert_eq!(inside("/mnt/dfs/a/../c", "/mnt/dfs/a/../c").as_deref(), Ok("/c"));
        assert_eq!(inside("/mnt/dfs", "/mnt/dfs").as_deref(), Ok("/"));
        assert_eq!(inside("/x/y", "/x/y").as_deref(), Ok("/x/y"));
        assert!(inside("/srv/y", "y").is_err_and(|e| e.contains("not below a dfs mount")));
    }

    #[test]
    fn damage_and_absence_of_a_replica_are_shown() {
        let replica =
            |state, damaged| replica_text(&Replica { server: 3, address: "h:1".into(), state, damaged });
        assert_eq!(replica(ServerState::Full, false), "chunkserver 3 at h:1");
        assert_eq!(replica(ServerState::Away, false), "chunkserver 3 at h:1 away");
        assert_eq!(replica(ServerState::Alive, true), "chunkserver 3 at h:1 damaged");
    }
}
