//! Plans a local federation: which daemons it has, on which ports. Pure, except for reading and writing `federation.json`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use super::ports::Ports;
use super::{Dir, read_if_exists, write_json};

/// The version of the file's format. A file of any other version is refused.
const FORMAT_VERSION: u32 = 2;

/// What `federation.json` has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Federation {
    pub version: u32,
    /// In the order in which they joined; the first one has the root directory.
    pub clusters: Vec<Cluster>,
    /// The names of the metaservers that form the federation group; empty for one cluster on its own, which no other can
    /// join.
    pub seats: Vec<String>,
    /// The mountpoint; `None` if it is not mounted.
    pub mount: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    pub name: String,
    pub copies: u32,
    pub metaservers: Vec<Metaserver>,
    pub chunkservers: Vec<Chunkserver>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metaserver {
    /// The name of its process and data directory: `meta1`, or `beta-meta1`.
    pub name: String,
    /// Its member id in its cluster.
    pub id: u64,
    pub grpc: u16,
    pub http: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunkserver {
    /// The name of its process and data directory: `chunk1`, or `beta-chunk1`. Its server id is another matter: the cluster
    /// gives it at the first registration.
    pub name: String,
    pub grpc: u16,
    pub frames: u16,
    pub http: u16,
    pub zone: String,
}

impl Metaserver {
    pub fn address(&self) -> String {
        loopback(self.grpc)
    }
}

pub fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// The shape that the command line asks for. Where it has `None`, the federation stays as it is, or gets the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The default is one cluster on its own.
    pub clusters: Option<u32>,
    /// Metaservers of each cluster.
    pub metaservers: Option<u32>,
    /// Chunkservers of each cluster.
    pub chunkservers: Option<u32>,
    pub copies: Option<u32>,
    pub zones: Vec<String>,
}

const METASERVERS: u32 = 3;
const CHUNKSERVERS: u32 = 3;
const COPIES: u32 = 2;
/// The most members of the federation group.
const SEATS_MAX: usize = 3;
/// The name of a cluster on its own, which no other can join. Its processes are named without it.
const ALONE: &str = "local";
const NAMES: [&str; 8] = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"];
/// The most clusters that `--clusters` takes.
pub const CLUSTERS_MAX: u32 = NAMES.len() as u32;

impl Cluster {
    fn new(name: &str, copies: u32) -> Cluster {
        Cluster { name: name.to_owned(), copies, metaservers: Vec::new(), chunkservers: Vec::new() }
    }

    /// The name of the cluster's `number`th process of a kind.
    fn process(&self, kind: &str, number: usize) -> String {
        match self.name.as_str() {
            ALONE => format!("{kind}{number}"),
            name => format!("{name}-{kind}{number}"),
        }
    }

    pub fn metaserver_addresses(&self) -> Vec<String> {
        self.metaservers.iter().map(Metaserver::address).collect()
    }

    fn ports(&self) -> impl Iterator<Item = u16> {
        let meta = self.metaservers.iter().flat_map(|m| [m.grpc, m.http]);
        meta.chain(self.chunkservers.iter().flat_map(|c| [c.grpc, c.frames, c.http]))
    }

    /// Adds the servers that `shape` asks for and the cluster does not have.
    fn grow(&mut self, shape: &Shape, ports: &mut Ports) -> anyhow::Result<()> {
        let wanted = shape.chunkservers.unwrap_or(match self.chunkservers.len() as u32 {
            0 => CHUNKSERVERS.max(self.copies),
            had => had,
        });
        ensure!(
            self.copies <= wanted,
            "{} copies need as many chunkservers, there would be {wanted}: give --chunkservers {}",
            self.copies,
            self.copies
        );
        if self.metaservers.is_empty() {
            for id in 1..=shape.metaservers.unwrap_or(METASERVERS) {
                let name = self.process("meta", id as usize);
                let id = u64::from(id);
                self.metaservers.push(Metaserver { name, id, grpc: ports.take()?, http: ports.take()? });
            }
        }
        for number in self.chunkservers.len() + 1..=wanted as usize {
            let zone = shape.zones.get((number - 1) % shape.zones.len().max(1));
            self.chunkservers.push(Chunkserver {
                name: self.process("chunk", number),
                grpc: ports.take()?,
                frames: ports.take()?,
                http: ports.take()?,
                zone: zone.cloned().unwrap_or_default(),
            });
        }
        Ok(())
    }
}

impl Federation {
    /// Reads the file; `None` if the directory has none yet.
    ///
    /// Fails if a data directory is there that the file does not name: then the file was lost, or is an old one. A federation
    /// planned anew would have other ports, and other servers in those directories.
    pub fn load(dir: &Dir) -> anyhow::Result<Option<Federation>> {
        let federation = Federation::read(dir)?;
        let is_known = |name: &str| federation.iter().any(|known| known.names().any(|server| server == name));
        if let Some(stray) = dir.stamped()?.into_iter().find(|name| !is_known(name)) {
            let (file, is) =
                (dir.federation(), if federation.is_some() { "does not name" } else { "is missing, unlike" });
            let data = dir.data(&stray);
            bail!("{} {is} {}, which holds data: bring the file back", file.display(), data.display());
        }
        Ok(federation)
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        self.metaservers().map(|m| &m.name).chain(self.chunkservers().map(|c| &c.name))
    }

    fn read(dir: &Dir) -> anyhow::Result<Option<Federation>> {
        let path = dir.federation();
        let Some(text) = read_if_exists(&path)? else { return Ok(None) };
        let version = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|value| value.get("version")?.as_u64())
            .with_context(|| format!("{}: not a federation file", path.display()))?;
        ensure!(
            version == u64::from(FORMAT_VERSION),
            "{}: format {version}, this build reads {FORMAT_VERSION}: use the dfs that made it",
            path.display()
        );
        let federation = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        Ok(Some(federation))
    }

    pub fn save(&self, dir: &Dir) -> anyhow::Result<()> {
        write_json(&dir.federation(), self)
    }

    /// Adds to `existing` what `shape` asks for.
    pub fn plan(existing: Option<Federation>, shape: &Shape, dir: &Dir) -> anyhow::Result<Federation> {
        let mut federation = match existing {
            Some(federation) => federation.check(shape, dir)?,
            None => {
                Federation { version: FORMAT_VERSION, clusters: Vec::new(), seats: Vec::new(), mount: None }
            }
        };
        let copies = federation.clusters.first().map_or(shape.copies.unwrap_or(COPIES), |first| first.copies);
        match shape.clusters {
            None if federation.clusters.is_empty() => federation.clusters.push(Cluster::new(ALONE, copies)),
            None => {}
            Some(wanted) => {
                let names = NAMES.iter().take(wanted as usize).skip(federation.clusters.len());
                federation.clusters.extend(names.map(|name| Cluster::new(name, copies)));
            }
        }
        let mut ports = Ports::new(dir.path(), federation.ports());
        for cluster in &mut federation.clusters {
            cluster.grow(shape, &mut ports)?;
        }
        if shape.clusters.is_some() && federation.seats.is_empty() {
            federation.seats = seats(&federation.clusters);
        }
        Ok(federation)
    }

    /// Fails if `shape` asks for something that cannot be changed any more.
    fn check(self, shape: &Shape, dir: &Dir) -> anyhow::Result<Federation> {
        let place = dir.path().display();
        let fixed = |what: &str, had: u32, wanted: Option<u32>| match wanted {
            Some(wanted) if wanted != had => {
                bail!(
                    "{place} was made with {had} {what}, which stays so: leave the flag out, or use another --dir"
                )
            }
            Some(_) | None => Ok(()),
        };
        if shape.clusters.is_some() && self.seats.is_empty() {
            bail!(
                "{place} was made as one cluster on its own, which others cannot join: leave --clusters out, or use \
                 another --dir"
            );
        }
        if shape.clusters.is_some_and(|wanted| (wanted as usize) < self.clusters.len()) {
            bail!(
                "{place} has {} clusters: an empty one leaves by `dfs cluster leave`, not by a lower --clusters",
                self.clusters.len()
            );
        }
        for cluster in &self.clusters {
            fixed("metaservers", cluster.metaservers.len() as u32, shape.metaservers)?;
            fixed("copies", cluster.copies, shape.copies)?;
            let had = cluster.chunkservers.len() as u32;
            if shape.chunkservers.is_some_and(|wanted| wanted < had) {
                bail!("{place} has {had} chunkservers; they can be added, not yet removed");
            }
        }
        Ok(self)
    }

    fn ports(&self) -> BTreeSet<u16> {
        self.clusters.iter().flat_map(Cluster::ports).collect()
    }

    pub fn metaservers(&self) -> impl Iterator<Item = &Metaserver> {
        self.clusters.iter().flat_map(|cluster| &cluster.metaservers)
    }

    pub fn chunkservers(&self) -> impl Iterator<Item = &Chunkserver> {
        self.clusters.iter().flat_map(|cluster| &cluster.chunkservers)
    }

    /// The addresses of the metaservers of all clusters.
    pub fn metaserver_addresses(&self) -> Vec<String> {
        self.metaservers().map(Metaserver::address).collect()
    }

    /// The members of the federation group, with their ids in it.
    pub fn seated(&self) -> Vec<(u64, &Metaserver)> {
        let find = |name: &String| self.metaservers().find(|server| server.name == *name);
        (1..).zip(self.seats.iter().filter_map(find)).collect()
    }
}

/// Chooses the federation group: an odd number of metaservers, spread over the clusters. The first metaserver of each cluster
/// comes before the second of any.
fn seats(clusters: &[Cluster]) -> Vec<String> {
    let deepest = clusters.iter().map(|cluster| cluster.metaservers.len()).max().unwrap_or(0);
    let rounds = (0..deepest).flat_map(|n| clusters.iter().filter_map(move |c| c.metaservers.get(n)));
    let mut seats: Vec<String> = rounds.map(|server| server.name.clone()).take(SEATS_MAX).collect();
    if seats.len().is_multiple_of(2) {
        seats.pop();
    }
    seats
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::new(temp.path()).unwrap();
        (temp, dir)
    }

    #[test]
    fn ports_are_chosen_once_and_read_back() {
        let (_temp, dir) = dir();
        let made = Federation::plan(None, &Shape::default(), &dir).unwrap();
        let cluster = &made.clusters[0];
        assert_eq!((cluster.metaservers.len(), cluster.chunkservers.len(), cluster.copies), (3, 3, 2));
        assert_eq!((cluster.name.as_str(), cluster.metaservers[0].name.as_str()), ("local", "meta1"));
        assert_eq!(made.seats, Vec::<String>::new());
        assert_eq!(made.ports().len(), 3 * 2 + 3 * 3);
        made.save(&dir).unwrap();
        let again = Federation::plan(Federation::load(&dir).unwrap(), &Shape::default(), &dir).unwrap();
        assert_eq!(made, again);
    }

    #[test]
    fn chunkservers_can_be_added_and_keep_the_ports_of_the_others() {
        let (_temp, dir) = dir();
        let made = Federation::plan(None, &Shape::default(), &dir).unwrap();
        let shape = Shape { chunkservers: Some(5), zones: vec!["a".into(), "b".into()], ..Shape::default() };
        let grown = Federation::plan(Some(made.clone()), &shape, &dir).unwrap();
        let (had, has) = (&made.clusters[0].chunkservers, &grown.clusters[0].chunkservers);
        assert_eq!(has[..3], had[..]);
        assert_eq!((has[3].zone.as_str(), has[4].zone.as_str()), ("b", "a"));
        assert_eq!(grown.ports().len(), 3 * 2 + 5 * 3);
    }

    #[test]
    fn what_is_fixed_at_the_start_is_refused_later_with_both_values() {
        let (_temp, dir) = dir();
        let made = Federation::plan(None, &Shape::default(), &dir).unwrap();
        for shape in [
            Shape { metaservers: Some(1), ..Shape::default() },
            Shape { copies: Some(3), ..Shape::default() },
            Shape { chunkservers: Some(2), ..Shape::default() },
            Shape { clusters: Some(2), ..Shape::default() },
        ] {
            assert!(Federation::plan(Some(made.clone()), &shape, &dir).is_err(), "{shape:?}");
        }
        let same = Shape { metaservers: Some(3), copies: Some(2), chunkservers: Some(3), ..Shape::default() };
        assert_eq!(Federation::plan(Some(made.clone()), &same, &dir).unwrap(), made);
    }

    #[test]
    fn two_clusters_share_the_seats_of_the_federation_group_and_a_third_joins_without_one() {
        let (_temp, dir) = dir();
        let two = Shape { clusters: Some(2), ..Shape::default() };
        let made = Federation::plan(None, &two, &dir).unwrap();
        let names: Vec<&str> = made.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        assert_eq!(names, ["alpha", "beta"]);
        assert_eq!(made.seats, ["alpha-meta1", "beta-meta1", "alpha-meta2"]);
        assert_eq!(made.seated().len(), 3);
        assert_eq!(made.ports().len(), 2 * (3 * 2 + 3 * 3));
        let three = Shape { clusters: Some(3), ..Shape::default() };
        let grown = Federation::plan(Some(made.clone()), &three, &dir).unwrap();
        assert_eq!((&grown.clusters[..2], &grown.seats), (&made.clusters[..], &made.seats));
        assert_eq!(grown.clusters[2].chunkservers[0].name, "gamma-chunk1");
        assert!(Federation::plan(Some(grown), &two, &dir).is_err(), "clusters do not go by a lower number");
    }

    #[test]
    fn the_federation_group_has_an_odd_number_of_members() {
        let (_temp, dir) = dir();
        let shape = Shape { clusters: Some(2), metaservers: Some(1), ..Shape::default() };
        assert_eq!(Federation::plan(None, &shape, &dir).unwrap().seats, ["alpha-meta1"]);
    }

    #[test]
    fn more_copies_than_chunkservers_are_refused() {
        let (_temp, dir) = dir();
        let shape = Shape { copies: Some(3), chunkservers: Some(2), ..Shape::default() };
        let error = Federation::plan(None, &shape, &dir).unwrap_err().to_string();
        assert!(error.contains("--chunkservers 3"), "{error}");
    }

    #[test]
    fn a_lost_or_older_file_beside_servers_data_is_refused_and_never_planned_anew() {
        let (_temp, dir) = dir();
        let made = Federation::plan(None, &Shape::default(), &dir).unwrap();
        let shape = Shape { chunkservers: Some(4), ..Shape::default() };
        let grown = Federation::plan(Some(made.clone()), &shape, &dir).unwrap();
        for (name, stamp) in [("meta1", "MEMBER"), ("chunk4", "dfs-chunkserver")] {
            std::fs::create_dir(dir.data(name)).unwrap();
            std::fs::write(dir.data(name).join(stamp), "stamped").unwrap();
        }
        grown.save(&dir).unwrap();
        assert_eq!(Federation::load(&dir).unwrap(), Some(grown));
        made.save(&dir).unwrap();
        let error = Federation::load(&dir).unwrap_err().to_string();
        assert!(error.contains("federation.json does not name") && error.contains("chunk4"), "{error}");
        std::fs::remove_file(dir.federation()).unwrap();
        let error = Federation::load(&dir).unwrap_err().to_string();
        assert!(error.contains("federation.json is missing"), "{error}");
    }

    #[test]
    fn a_file_of_a_newer_format_or_no_federation_file_is_refused_by_name() {
        let (_temp, dir) = dir();
        for text in ["{\"version\": 99}", "garbage", "", "\n", "{}"] {
            std::fs::write(dir.federation(), text).unwrap();
            let error = Federation::load(&dir).unwrap_err().to_string();
            assert!(error.contains("federation.json"), "{error}");
        }
        let newer = Federation { version: 99, ..Federation::plan(None, &Shape::default(), &dir).unwrap() };
        newer.save(&dir).unwrap();
        let error = Federation::load(&dir).unwrap_err().to_string();
        assert!(error.contains("federation.json: format 99, this build reads 2"), "{error}");
    }
}
