//! Knows the directory of a local federation, which has everything of it:
//!
//! ```text
//! federation.json   its shape and ports: written once, extended when clusters or chunkservers are added
//! processes.json    the processes that were started: pid, start time and boot of each
//! dfs.toml          the configuration of clients: the addresses of the metaservers
//! config/NAME.toml  one file per daemon
//! logs/NAME.log     stderr of each daemon, appended
//! meta1 … chunk1 …  the data directories
//! lock              held by `dfs up` and `dfs down`, so that two of them take turns
//! ```

pub mod config_files;
pub mod federation;
pub mod mounted;
pub mod ports;
pub mod process;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

/// The file that stamps the data directory of a metaserver, and that of a chunkserver.
const STAMPS: [&str; 2] = ["MEMBER", "dfs-chunkserver"];

/// The directory, with the paths of what is in it.
#[derive(Clone, Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// Makes the path absolute, so that what is written into files does not depend on where `dfs` was called.
    pub fn new(path: &Path) -> anyhow::Result<Dir> {
        let path = std::path::absolute(path).with_context(|| format!("use --dir {}", path.display()))?;
        Ok(Dir(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn federation(&self) -> PathBuf {
        self.0.join("federation.json")
    }

    pub fn processes(&self) -> PathBuf {
        self.0.join("processes.json")
    }

    pub fn client_config(&self) -> PathBuf {
        self.0.join("dfs.toml")
    }

    pub fn config(&self, name: &str) -> PathBuf {
        self.0.join("config").join(format!("{name}.toml"))
    }

    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The names of the folders that are data directories of servers, as their stamps show.
    pub fn stamped(&self) -> anyhow::Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("list {}", self.0.display()))?,
        };
        let mut stamped = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", self.0.display()))?;
            if STAMPS.iter().any(|stamp| entry.path().join(stamp).exists()) {
                stamped.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        stamped.sort();
        Ok(stamped)
    }

    /// Makes the directory and its folders.
    pub fn create(&self) -> anyhow::Result<()> {
        for path in [self.0.clone(), self.0.join("config"), self.logs()] {
            std::fs::create_dir_all(&path).with_context(|| format!("make directory {}", path.display()))?;
        }
        Ok(())
    }

    /// Locks the directory for this run of `dfs`; waits while another run has the lock. Dropping the file releases it.
    pub fn lock(&self) -> anyhow::Result<std::fs::File> {
        let path = self.0.join("lock");
        let file = std::fs::File::create(&path).with_context(|| format!("make {}", path.display()))?;
        file.lock().with_context(|| format!("lock {}", path.display()))?;
        Ok(file)
    }
}

/// Replaces a file by a rename, so that a reader sees either the old one or the new one, even after a power cut.
fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let next = path.with_extension("next");
    let write = || {
        let mut file = std::fs::File::create(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("write {}", next.display()))?;
    std::fs::rename(&next, path).with_context(|| format!("replace {}", path.display()))?;
    let folder = path.parent().filter(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("sync {}", folder.display()))
}

fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    write_whole(path, &text)
}

/// The text of the file; `None` if there is no such file.
fn read_if_exists(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever writes over a file leaves half of it when it ends in the middle. Another name of the old file shows which it was.
    #[test]
    fn a_file_is_replaced_and_never_written_over() {
        let temp = tempfile::tempdir().unwrap();
        let (path, before) = (temp.path().join("federation.json"), temp.path().join("before"));
        write_whole(&path, "one").unwrap();
        std::fs::hard_link(&path, &before).unwrap();
        write_whole(&path, "two").unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!((read(&before).as_str(), read(&path).as_str()), ("one", "two"));
    }
}
