//! Trees of files with made contents: made from a seed, compared with `diff -r` or by what `lstat` and the bytes say.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use crate::shell::sh;

/// `len` bytes that depend on nothing but `seed`.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Writes a file and makes it durable: what is only written and closed is lost with its mount.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes `len` bytes that depend on `seed`, in pieces, so that memory stays small.
pub fn write_made(path: &Path, seed: u64, len: u64) -> io::Result<()> {
    const PIECE: usize = 1 << 20;
    let mut file = File::create(path)?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut piece = vec![0; PIECE];
    let mut left = len;
    while left > 0 {
        let now = left.min(PIECE as u64) as usize;
        rng.fill_bytes(&mut piece[..now]);
        file.write_all(&piece[..now])?;
        left -= now as u64;
    }
    Ok(())
}

/// Makes `files` small files (0 to 20,000 bytes) in directories of about 50, with a symlink and a hard link in each.
pub fn make(root: &Path, seed: u64, files: usize) -> io::Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    fs::create_dir_all(root)?;
    let mut dir = root.to_owned();
    for number in 0..files {
        if number % 50 == 0 {
            let parent = if rng.random_bool(0.3) { dir } else { root.to_owned() };
            dir = parent.join(format!("d{number}"));
            fs::create_dir(&dir)?;
            std::os::unix::fs::symlink(format!("f{number}"), dir.join("first"))?;
        }
        let path = dir.join(format!("f{number}"));
        let len = if rng.random_bool(0.1) { 0 } else { rng.random_range(1..20_000) };
        fs::write(&path, bytes(rng.random(), len))?;
        if number % 50 == 7 {
            fs::hard_link(&path, dir.join("linked"))?;
        }
    }
    Ok(())
}

/// Panics with what differs: names, kinds, contents, targets of symlinks.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path) {
    sh(Path::new("/"), &format!("diff -r --no-dereference {} {}", left.display(), right.display()));
}

/// What a tree looks like from outside: path → a line about it. Times and inode numbers are left out.
pub fn describe(root: &Path) -> io::Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path)?;
        let kind = meta.file_type();
        let content = if kind.is_symlink() {
            format!("→ {}", fs::read_link(&path)?.display())
        } else if kind.is_file() {
            let bytes = fs::read(&path)?;
            assert_eq!(bytes.len() as u64, meta.len(), "{}: stat and read disagree", path.display());
            format!("{} bytes, sum {:016x}", bytes.len(), sum(&bytes))
        } else {
            String::new()
        };
        // How a directory counts its links is left to each filesystem.
        let links = if kind.is_dir() { 0 } else { meta.nlink() };
        let line =
            format!("mode {:o} links {links} owner {}:{} {content}", meta.mode(), meta.uid(), meta.gid());
        if kind.is_dir() {
            for entry in fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
        }
        found.insert(path.strip_prefix(root).unwrap_or(&path).to_owned(), line);
    }
    Ok(found)
}

/// FNV-1a: enough to tell two made contents apart.
pub fn sum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
