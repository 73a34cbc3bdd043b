//! Random operations, each done on the mount and in a directory of the local filesystem: the same must come out.
//!
//! The local filesystem is the model. Names come from a small set, so that operations meet. Left out of the comparison:
//! times, inode numbers, sizes and link counts of directories.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use dfs_tests::{sys, tree};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::scenario;

const OPERATIONS: usize = 4000;
/// Open files at once.
const HANDLES: usize = 6;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

#[derive(Clone, Debug)]
enum Op {
    Mkdir(String),
    Write(String, u64, usize),
    Read(String),
    Truncate(String, u64),
    Remove(String),
    Rmdir(String),
    Rename(String, String),
    RenameNoReplace(String, String),
    Exchange(String, String),
    Link(String, String),
    Symlink(String, String),
    Chmod(String, u32),
    Stat(String),
    List(String),
    Open { handle: usize, path: String, flags: i32 },
    WriteHandle { handle: usize, at: u64, seed: u64, len: usize },
    ReadHandle { handle: usize, at: u64, len: usize },
    CutHandle { handle: usize, at: u64 },
    StatHandle { handle: usize },
    Sync { handle: usize },
    Close { handle: usize },
}

fn path(rng: &mut SmallRng) -> String {
    let depth = rng.random_range(1..=3);
    let parts: Vec<&str> = (0..depth).map(|_| NAMES[rng.random_range(0..NAMES.len())]).collect();
    parts.join("/")
}

fn place(rng: &mut SmallRng) -> u64 {
    if rng.random_bool(0.05) { rng.random_range(0..2_000_000) } else { rng.random_range(0..20_000) }
}

fn flags(rng: &mut SmallRng) -> i32 {
    let access = [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR][rng.random_range(0..4)];
    let more = [0, libc::O_CREAT, libc::O_CREAT, libc::O_CREAT | libc::O_EXCL, libc::O_TRUNC, libc::O_APPEND];
    let truncates = libc::O_TRUNC * i32::from(rng.random_bool(0.1));
    match access {
        // O_RDONLY | O_TRUNC is not specified.
        libc::O_RDONLY => more[rng.random_range(0..4)],
        access => access | more[rng.random_range(0..6)] | truncates,
    }
}

fn draw(rng: &mut SmallRng) -> Op {
    let handle = rng.random_range(0..HANDLES);
    let len = if rng.random_bool(0.1) { rng.random_range(0..300_000) } else { rng.random_range(0..8000) };
    match rng.random_range(0..100) {
        0..8 => Op::Mkdir(path(rng)),
        8..18 => Op::Write(path(rng), rng.random(), len),
        18..24 => Op::Read(path(rng)),
        24..28 => Op::Truncate(path(rng), place(rng)),
        28..34 => Op::Remove(path(rng)),
        34..37 => Op::Rmdir(path(rng)),
        37..45 => Op::Rename(path(rng), path(rng)),
        45..47 => Op::RenameNoReplace(path(rng), path(rng)),
        47..50 => Op::Exchange(path(rng), path(rng)),
        50..53 => Op::Link(path(rng), path(rng)),
        53..56 => Op::Symlink(path(rng), path(rng)),
        56..58 => Op::Chmod(path(rng), rng.random_range(0..0o1000)),
        58..62 => Op::Stat(path(rng)),
        62..65 => Op::List(path(rng)),
        65..73 => Op::Open { handle, path: path(rng), flags: flags(rng) },
        73..82 => Op::WriteHandle { handle, at: place(rng), seed: rng.random(), len },
        82..90 => Op::ReadHandle { handle, at: place(rng), len },
        90..92 => Op::CutHandle { handle, at: place(rng) },
        92..95 => Op::StatHandle { handle },
        95..97 => Op::Sync { handle },
        _ => Op::Close { handle },
    }
}

/// One of the two sides.
struct Side {
    root: PathBuf,
    handles: Vec<Option<File>>,
}

impl Side {
    fn new(root: PathBuf) -> Side {
        Side { root, handles: (0..HANDLES).map(|_| None).collect() }
    }

    /// What an observer can tell of the outcome.
    fn run(&mut self, op: &Op) -> String {
        match self.try_run(op) {
            Ok(seen) => seen,
            Err(error) => {
                format!("error {}", error.raw_os_error().map_or(error.to_string(), |n| n.to_string()))
            }
        }
    }

    fn try_run(&mut self, op: &Op) -> io::Result<String> {
        let root = self.root.clone();
        let at = |path: &String| root.join(path);
        match op {
            Op::Mkdir(path) => fs::create_dir(at(path))?,
            Op::Write(path, seed, len) => fs::write(at(path), tree::bytes(*seed, *len))?,
            Op::Read(path) => return Ok(content(&fs::read(at(path))?)),
            Op::Truncate(path, len) => OpenOptions::new().write(true).open(at(path))?.set_len(*len)?,
            Op::Remove(path) => fs::remove_file(at(path))?,
            Op::Rmdir(path) => fs::remove_dir(at(path))?,
            Op::Rename(from, to) => fs::rename(at(from), at(to))?,
            Op::RenameNoReplace(from, to) => sys::renameat2(&at(from), &at(to), libc::RENAME_NOREPLACE)?,
            Op::Exchange(from, to) => sys::renameat2(&at(from), &at(to), libc::RENAME_EXCHANGE)?,
            Op::Link(from, to) => fs::hard_link(at(from), at(to))?,
            Op::Symlink(target, path) => symlink(target, at(path))?,
            Op::Chmod(path, mode) => fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))?,
            Op::Stat(path) => return Ok(stat(&fs::symlink_metadata(at(path))?)),
            Op::List(path) => return list(&at(path)),
            Op::Open { handle, path, flags } => {
                let access = flags & libc::O_ACCMODE;
                let file = OpenOptions::new()
                    .read(access != libc::O_WRONLY)
                    .write(access != libc::O_RDONLY)
                    .custom_flags(flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC))
                    .create(flags & libc::O_CREAT != 0 && access != libc::O_RDONLY)
                    .create_new(flags & libc::O_EXCL != 0 && access != libc::O_RDONLY)
                    .truncate(flags & libc::O_TRUNC != 0)
                    .open(at(path))?;
                self.handles[*handle] = Some(file);
            }
            Op::Close { handle } => self.handles[*handle] = None,
            _ => return self.run_on_handle(op),
        }
        Ok("done".to_owned())
    }

    fn run_on_handle(&mut self, op: &Op) -> io::Result<String> {
        let (Op::WriteHandle { handle, .. }
        | Op::ReadHandle { handle, .. }
        | Op::CutHandle { handle, .. }
        | Op::StatHandle { handle }
        | Op::Sync { handle }) = op
        else {
            unreachable!("only operations on handles come here")
        };
        let Some(file) = &self.handles[*handle] else { return Ok("not open".to_owned()) };
        match op {
            Op::WriteHandle { at, seed, len, .. } => file.write_all_at(&tree::bytes(*seed, *len), *at)?,
            Op::ReadHandle { at, len, .. } => {
                let mut bytes = vec![0; *len];
                let read = file.read_at(&mut bytes, *at)?;
                return Ok(content(&bytes[..read]));
            }
            Op::CutHandle { at, .. } => file.set_len(*at)?,
            Op::StatHandle { .. } => return Ok(stat(&file.metadata()?)),
            Op::Sync { .. } => file.sync_all()?,
            _ => unreachable!("matched above"),
        }
        Ok("done".to_owned())
    }
}

fn content(bytes: &[u8]) -> String {
    format!("{} bytes, sum {:016x}", bytes.len(), tree::sum(bytes))
}

fn stat(meta: &fs::Metadata) -> String {
    let (size, links) = if meta.is_dir() { (0, 0) } else { (meta.len(), meta.nlink()) };
    format!("mode {:o}, {size} bytes, {links} links", meta.mode())
}

fn list(dir: &Path) -> io::Result<String> {
    let names: io::Result<Vec<_>> = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect();
    let mut names = names?;
    names.sort();
    Ok(format!("{names:?}"))
}

fn run(seed: u64, name: &str) {
    eprintln!("seed {seed} (DFS_SEED={seed} repeats it)");
    let fs = scenario(name);
    let local = tempfile::tempdir().unwrap();
    let mut ours = Side::new(fs.dir("a"));
    let mut model = Side::new(local.path().to_owned());
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut succeeded = 0;
    let mut history = Vec::new();
    for step in 0..OPERATIONS {
        let op = draw(&mut rng);
        let (found, expected) = (ours.run(&op), model.run(&op));
        history.push(format!("{step}: {op:?} → {expected}"));
        if found != expected {
            let last = history[history.len().saturating_sub(40)..].join("\n");
            panic!(
                "seed {seed}, step {step}: {op:?}\n  on the mount: {found}\n  locally:      {expected}\n{last}"
            );
        }
        succeeded += usize::from(!expected.starts_with("error") && expected != "not open");
        if step % 1000 == 999 {
            compare(&fs.dir("a"), local.path(), seed);
        }
    }
    ours.handles.clear();
    model.handles.clear();
    sys::drop_caches();
    compare(&fs.dir("a"), local.path(), seed);
    assert!(succeeded > OPERATIONS / 6, "only {succeeded} operations did something");
}

#[track_caller]
fn compare(ours: &Path, local: &Path, seed: u64) {
    let (ours, local) = (tree::describe(ours).unwrap(), tree::describe(local).unwrap());
    for (path, line) in &local {
        if path != Path::new("") {
            assert_eq!(ours.get(path), Some(line), "seed {seed}: {}", path.display());
        }
    }
    assert_eq!(ours.len(), local.len(), "seed {seed}: names that should not be there");
}

#[test]
fn random_operations_come_out_as_on_a_local_filesystem() {
    let seed = std::env::var("DFS_SEED").ok().and_then(|seed| seed.parse().ok());
    run(seed.unwrap_or_else(rand::random), "random_operations");
}

#[test]
fn the_same_operations_come_out_as_on_a_local_filesystem_every_time() {
    run(1, "random_operations_seed_1");
}
