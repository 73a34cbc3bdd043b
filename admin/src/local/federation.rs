//! The shape of a local federation: which daemons, which ports. Pure but for reading and writing the file.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use super::ports::Ports;
use super::{Dir, read_if_exists, write_json};

/// Raised when the file's meaning changes; a newer file is refused.
const FORMAT_VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Federation {
    pub version: u32,
    pub cluster: String,
    pub copies: u32,
    /// Where it is mounted; `None`: nowhere.
    pub mount: Option<PathBuf>,
    pub metaservers: Vec<Metaserver>,
    pub chunkservers: Vec<Chunkserver>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metaserver {
    /// Its member id.
    pub id: u64,
    pub grpc: u16,
    pub http: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunkserver {
    /// Of its directory, `chunk1` and so on; the server id is given by the cluster at the first registration.
    pub number: u32,
    pub grpc: u16,
    pub frames: u16,
    pub http: u16,
    pub zone: String,
}

impl Metaserver {
    pub fn name(&self) -> String {
        format!("meta{}", self.id)
    }

    pub fn address(&self) -> String {
        loopback(self.grpc)
    }
}

impl Chunkserver {
    pub fn name(&self) -> String {
        format!("chunk{}", self.number)
    }
}

pub fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// What the command line asks for; `None`: as it was, or the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub metaservers: Option<u32>,
    pub chunkservers: Option<u32>,
    pub copies: Option<u32>,
    pub zones: Vec<String>,
}

const METASERVERS: u32 = 3;
const CHUNKSERVERS: u32 = 3;
const COPIES: u32 = 2;

impl Federation {
    /// `None` when the directory has none yet.
    pub fn load(dir: &Dir) -> anyhow::Result<Option<Federation>> {
        let path = dir.federation();
        let Some(text) = read_if_exists(&path)? else { return Ok(None) };
        let version = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|value| value.get("version")?.as_u64())
            .with_context(|| format!("{}: not a federation file", path.display()))?;
        ensure!(
            version <= u64::from(FORMAT_VERSION),
            "{}: format {version}, this build knows up to {FORMAT_VERSION}: use a newer dfs",
            path.display()
        );
        let federation = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        Ok(Some(federation))
    }

    pub fn save(&self, dir: &Dir) -> anyhow::Result<()> {
        write_json(&dir.federation(), self)
    }

    /// The federation that `shape` asks for, on top of what `existing` has.
    pub fn plan(existing: Option<Federation>, shape: &Shape, dir: &Dir) -> anyhow::Result<Federation> {
        let mut federation = match existing {
            Some(federation) => federation.check(shape, dir)?,
            None => Federation {
                version: FORMAT_VERSION,
                cluster: "local".to_owned(),
                copies: shape.copies.unwrap_or(COPIES),
                mount: None,
                metaservers: Vec::new(),
                chunkservers: Vec::new(),
            },
        };
        let wanted = shape.chunkservers.unwrap_or(match federation.chunkservers.len() as u32 {
            0 => CHUNKSERVERS.max(federation.copies),
            had => had,
        });
        ensure!(
            federation.copies <= wanted,
            "{} copies need as many chunkservers, there would be {wanted}: give --chunkservers {}",
            federation.copies,
            federation.copies
        );
        let mut ports = Ports::new(dir.path(), federation.ports());
        if federation.metaservers.is_empty() {
            for id in 1..=u64::from(shape.metaservers.unwrap_or(METASERVERS)) {
                federation.metaservers.push(Metaserver { id, grpc: ports.take()?, http: ports.take()? });
            }
        }
        for number in federation.chunkservers.len() as u32 + 1..=wanted {
            let zone = shape.zones.get((number as usize - 1) % shape.zones.len().max(1));
            federation.chunkservers.push(Chunkserver {
                number,
                grpc: ports.take()?,
                frames: ports.take()?,
                http: ports.take()?,
                zone: zone.cloned().unwrap_or_default(),
            });
        }
        Ok(federation)
    }

    /// Refuses what cannot be changed afterwards.
    fn check(self, shape: &Shape, dir: &Dir) -> anyhow::Result<Federation> {
        let fixed = |what: &str, had: u32, wanted: Option<u32>| match wanted {
            Some(wanted) if wanted != had => bail!(
                "{} was made with {had} {what}, which stays so: leave the flag out, or use another --dir",
                dir.path().display()
            ),
            Some(_) | None => Ok(()),
        };
        fixed("metaservers", self.metaservers.len() as u32, shape.metaservers)?;
        fixed("copies", self.copies, shape.copies)?;
        let had = self.chunkservers.len() as u32;
        if shape.chunkservers.is_some_and(|wanted| wanted < had) {
            bail!("{} has {had} chunkservers; they can be added, not yet removed", dir.path().display());
        }
        Ok(self)
    }

    fn ports(&self) -> BTreeSet<u16> {
        let meta = self.metaservers.iter().flat_map(|m| [m.grpc, m.http]);
        meta.chain(self.chunkservers.iter().flat_map(|c| [c.grpc, c.frames, c.http])).collect()
    }

    pub fn metaserver_addresses(&self) -> Vec<String> {
        self.metaservers.iter().map(Metaserver::address).collect()
    }
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
        assert_eq!((made.metaservers.len(), made.chunkservers.len(), made.copies), (3, 3, 2));
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
        assert_eq!(grown.chunkservers[..3], made.chunkservers[..]);
        assert_eq!(grown.chunkservers[3].zone, "b");
        assert_eq!(grown.chunkservers[4].zone, "a");
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
        ] {
            assert!(Federation::plan(Some(made.clone()), &shape, &dir).is_err(), "{shape:?}");
        }
        let same = Shape { metaservers: Some(3), copies: Some(2), chunkservers: Some(3), zones: Vec::new() };
        assert_eq!(Federation::plan(Some(made.clone()), &same, &dir).unwrap(), made);
    }

    #[test]
    fn more_copies_than_chunkservers_are_refused() {
        let (_temp, dir) = dir();
        let shape = Shape { copies: Some(3), chunkservers: Some(2), ..Shape::default() };
        let error = Federation::plan(None, &shape, &dir).unwrap_err().to_string();
        assert!(error.contains("--chunkservers 3"), "{error}");
    }

    #[test]
    fn a_file_of_a_newer_format_or_no_federation_file_is_refused_by_name() {
        let (_temp, dir) = dir();
        for text in ["{\"version\": 99}", "garbage"] {
            std::fs::write(dir.federation(), text).unwrap();
            let error = Federation::load(&dir).unwrap_err().to_string();
            assert!(error.contains("federation.json"), "{error}");
        }
    }
}
