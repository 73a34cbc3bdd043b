//! Writes the configuration files that the daemons and clients of a local federation read. Each `dfs up` writes them anew, so
//! edits are lost: a federation that is configured by hand is set up as in the README, "Three machines".

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use super::federation::{Chunkserver, Cluster, Federation, Metaserver, loopback};
use super::{Dir, read_if_exists, write_whole};

/// The first line of every file that is written here, so that no other file is ever replaced.
const MARK: &str = "# Written by `dfs up`; do not edit.";
/// The second line, with the directory of the federation.
const OF: &str = "# Federation: ";

#[derive(Serialize)]
struct FederationSection {
    metaservers: Vec<String>,
}

#[derive(Serialize)]
struct Member {
    id: u64,
    address: String,
}

#[derive(Serialize)]
struct MetaserverSection {
    id: u64,
    cluster: String,
    data: PathBuf,
    listen: String,
    http: String,
    copies: u32,
    bootstrap: Vec<Member>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    federation_members: Vec<Member>,
    #[serde(skip_serializing_if = "Option::is_none")]
    federation_id: Option<u64>,
}

#[derive(Serialize)]
struct ChunkserverSection {
    data: PathBuf,
    listen: String,
    frames_listen: String,
    http: String,
    zone: String,
}

#[derive(Serialize)]
struct File {
    federation: FederationSection,
    #[serde(skip_serializing_if = "Option::is_none")]
    metaserver: Option<MetaserverSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunkserver: Option<ChunkserverSection>,
}

/// Writes the configuration files of all daemons and of clients.
pub fn write(dir: &Dir, federation: &Federation) -> anyhow::Result<()> {
    write_whole(&dir.client_config(), &text(dir, &client(federation.metaserver_addresses()))?)?;
    for cluster in &federation.clusters {
        for server in &cluster.metaservers {
            let mut file = client(federation.metaserver_addresses());
            file.metaserver = Some(metaserver(dir, federation, cluster, server));
            write_whole(&dir.config(&server.name), &text(dir, &file)?)?;
        }
        for server in &cluster.chunkservers {
            // A chunkserver belongs to one cluster.
            let mut file = client(cluster.metaserver_addresses());
            file.chunkserver = Some(chunkserver(dir, server));
            write_whole(&dir.config(&server.name), &text(dir, &file)?)?;
        }
    }
    Ok(())
}

fn client(metaservers: Vec<String>) -> File {
    File { federation: FederationSection { metaservers }, metaserver: None, chunkserver: None }
}

fn metaserver(
    dir: &Dir,
    federation: &Federation,
    cluster: &Cluster,
    server: &Metaserver,
) -> MetaserverSection {
    let seated = federation.seated();
    let own_seat = seated.iter().find(|(_, seat)| seat.name == server.name).map(|(id, _)| *id);
    MetaserverSection {
        id: server.id,
        cluster: cluster.name.clone(),
        data: dir.data(&server.name),
        listen: loopback(server.grpc),
        http: loopback(server.http),
        copies: cluster.copies,
        bootstrap: cluster.metaservers.iter().map(|m| Member { id: m.id, address: m.address() }).collect(),
        federation_members: seated.iter().map(|(id, m)| Member { id: *id, address: m.address() }).collect(),
        federation_id: own_seat,
    }
}

fn chunkserver(dir: &Dir, server: &Chunkserver) -> ChunkserverSection {
    ChunkserverSection {
        data: dir.data(&server.name),
        listen: loopback(server.grpc),
        frames_listen: loopback(server.frames),
        http: loopback(server.http),
        zone: server.zone.clone(),
    }
}

fn text(dir: &Dir, file: &File) -> anyhow::Result<String> {
    let body = toml::to_string(file).context("write a configuration file")?;
    Ok(format!("{MARK}\n{OF}{}\n\n{body}", dir.path().display()))
}

/// Who wrote a configuration file.
#[derive(Debug, PartialEq, Eq)]
pub enum Owner {
    /// There is no such file.
    Nobody,
    /// `dfs up`, for the federation in this directory.
    Up(PathBuf),
    /// A person.
    User,
}

pub fn owner(path: &Path) -> anyhow::Result<Owner> {
    let Some(text) = read_if_exists(path)? else { return Ok(Owner::Nobody) };
    let mut lines = text.lines();
    let (mark, of) = (lines.next(), lines.next().and_then(|line| line.strip_prefix(OF)));
    Ok(match (mark, of) {
        (Some(MARK), Some(dir)) => Owner::Up(PathBuf::from(dir)),
        (_, _) => Owner::User,
    })
}

/// Writes the configuration of clients to the user's own file.
pub fn write_user_config(path: &Path, dir: &Dir, federation: &Federation) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make directory {}", folder.display()))?;
    }
    write_whole(path, &text(dir, &client(federation.metaserver_addresses()))?)
}

#[cfg(test)]
mod tests {
    use dfs_proto::config::{ConfigFile, parse};

    use super::super::federation::Shape;
    use super::*;

    #[test]
    fn the_files_parse_and_every_one_names_the_metaservers() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::new(temp.path()).unwrap();
        dir.create().unwrap();
        let federation = Federation::plan(None, &Shape::default(), &dir).unwrap();
        write(&dir, &federation).unwrap();
        let names = ["meta1", "meta3", "chunk1", "chunk3"].map(|name| dir.config(name));
        for path in names.into_iter().chain([dir.client_config()]) {
            let text = std::fs::read_to_string(&path).unwrap();
            let file: ConfigFile = parse(&path, &text).unwrap();
            assert_eq!(file.federation.metaservers, federation.metaserver_addresses());
            assert_eq!(owner(&path).unwrap(), Owner::Up(dir.path().to_owned()));
        }
        let table: toml::Table = std::fs::read_to_string(dir.config("meta2")).unwrap().parse().unwrap();
        assert_eq!(table["metaserver"]["id"].as_integer(), Some(2));
        assert_eq!(table["metaserver"]["bootstrap"].as_array().map(Vec::len), Some(3));
        assert!(table["metaserver"].get("federation_members").is_none());
    }

    #[test]
    fn of_two_clusters_each_chunkserver_knows_its_own_and_clients_know_both() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::new(temp.path()).unwrap();
        dir.create().unwrap();
        let shape = Shape { clusters: Some(2), ..Shape::default() };
        let federation = Federation::plan(None, &shape, &dir).unwrap();
        write(&dir, &federation).unwrap();
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap().parse::<toml::Table>().unwrap();
        let metaservers = |table: &toml::Table| table["federation"]["metaservers"].as_array().unwrap().len();
        assert_eq!(metaservers(&read(dir.client_config())), 6);
        assert_eq!(metaservers(&read(dir.config("beta-chunk2"))), 3);
        let (seated, not) = (read(dir.config("beta-meta1")), read(dir.config("beta-meta2")));
        assert_eq!(seated["metaserver"]["cluster"].as_str(), Some("beta"));
        assert_eq!(seated["metaserver"]["federation_id"].as_integer(), Some(2));
        assert_eq!(seated["metaserver"]["federation_members"], not["metaserver"]["federation_members"]);
        assert!(not["metaserver"].get("federation_id").is_none());
    }

    #[test]
    fn a_file_written_by_hand_is_the_users() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[federation]\nmetaservers = [\"a:1\"]\n").unwrap();
        assert_eq!(owner(file.path()).unwrap(), Owner::User);
        assert_eq!(owner(Path::new("/nonexistent/dfs.toml")).unwrap(), Owner::Nobody);
    }
}
