//! Data directories whose files do not agree are refused, with a line that names why, and are not changed. Directories that a
//! death of the server left at any step are not refused.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use dfs_net::env::Rng;
use dfs_proto::ids::{ClusterId, ServerId};

use super::stamp::{Directory, checksum};
use crate::disk::{Disk, DiskFile, DiskLock, MemoryDisk, RealDisk, Space};

const CHUNK: &str = "chunks/2a/000000000000012a";

fn claim(path: &Path, seed: u64) -> Result<Directory, String> {
    Directory::claim(Arc::new(RealDisk), path, &Rng::seeded(seed)).map_err(|error| error.to_string())
}

/// Makes and registers a directory; copies it to `then` before it is registered.
fn used(path: &Path, then: &Path, server: u64, cluster: u128, seed: u64) {
    let mut directory = claim(path, seed).unwrap();
    copy_all(path, then);
    directory.register(ClusterId(cluster), ServerId(server)).unwrap();
    fs::write(path.join(CHUNK), [server as u8; 100]).unwrap();
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        match path.is_dir() {
            true => copy_all(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}

fn contents(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let bytes = (!path.is_dir()).then(|| fs::read(&path).unwrap());
            if bytes.is_none() {
                open.push(path.clone());
            }
            found.insert(path, bytes);
        }
    }
    found
}

#[test]
fn each_file_of_a_directory_that_is_not_what_it_was_is_refused_by_name_with_nothing_changed() {
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let at = |name: &str| root.path().join(name);
    used(&at("own"), &at("then"), 3, 5, 1);
    used(&at("other-server"), &at("x"), 4, 5, 2);
    used(&at("other-cluster"), &at("y"), 3, 6, 3);
    let faults = ["missing", "empty", "cut", "other-server", "other-cluster", "then"];
    for file in ["dfs-chunkserver", "chunks/owner", "chunks", "chunks/2a"] {
        for fault in faults {
            let (here, what) = (at("here"), format!("{file} {fault}"));
            copy_all(&at("own"), &here);
            let path = here.join(file);
            match fault {
                "missing" if path.is_dir() => fs::remove_dir_all(&path).unwrap(),
                "missing" => fs::remove_file(&path).unwrap(),
                "other-server" | "other-cluster" if file == "chunks" => {
                    fs::remove_dir_all(&path).unwrap();
                    copy_all(&at(fault).join(file), &path);
                }
                _ if path.is_dir() => {}
                "empty" => fs::write(&path, "").unwrap(),
                "cut" => {
                    let bytes = fs::read(&path).unwrap();
                    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
                }
                other => drop(fs::copy(at(other).join(file), &path).unwrap()),
            }
            let before = contents(&here);
            let moved =
                |(path, bytes): (PathBuf, _)| (here.join(path.strip_prefix(at("own")).unwrap()), bytes);
            let whole: BTreeMap<_, _> = contents(&at("own")).into_iter().map(moved).collect();
            let is_changed = before != whole;
            match claim(&here, 9) {
                Err(error) => {
                    assert!(
                        error.contains(file) && error.contains("nothing in it was changed"),
                        "{what}: {error}"
                    );
                    assert!(!error.contains('\n'), "{what}: {error}");
                    assert!(contents(&here) == before, "{what}: refused, and something was changed");
                }
                // An owner of before the registration says less, as after a death between the two.
                Ok(directory) => {
                    assert!(!is_changed || what == "chunks/owner then", "{what} is not noticed");
                    assert_eq!(
                        (directory.stamp().server, directory.stamp().cluster),
                        (ServerId(3), ClusterId(5))
                    );
                }
            }
            fs::remove_dir_all(&here).unwrap();
        }
    }
}

/// A disk that fails for good at the n-th operation that changes something.
struct MortalDisk {
    inner: MemoryDisk,
    left: Arc<AtomicI64>,
}

struct MortalFile {
    inner: Arc<dyn DiskFile>,
    left: Arc<AtomicI64>,
}

fn live_on(left: &AtomicI64) -> io::Result<()> {
    match left.fetch_sub(1, Ordering::SeqCst) > 0 {
        true => Ok(()),
        false => Err(io::Error::other("it is dead")),
    }
}

impl Disk for MortalDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        live_on(&self.left)?;
        Ok(Arc::new(MortalFile { inner: self.inner.create(path)?, left: self.left.clone() }))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.open(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        live_on(&self.left)?;
        self.inner.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        live_on(&self.left)?;
        self.inner.rename(from, to)
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        // One that is there does not change anything; of 256 that are made, some are as good as all.
        if self.inner.list(path).is_err() && path.to_string_lossy().ends_with('0') {
            live_on(&self.left)?;
        }
        self.inner.create_directory(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.inner.list(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        live_on(&self.left)?;
        self.inner.sync_directory(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.inner.space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.inner.lock(path)
    }
}

impl DiskFile for MortalFile {
    fn file_len(&self) -> io::Result<u64> {
        self.inner.file_len()
    }
    fn write_at(&self, parts: &mut [io::IoSlice<'_>], position: u64) -> io::Result<()> {
        live_on(&self.left)?;
        self.inner.write_at(parts, position)
    }
    fn read_at(&self, parts: &mut [io::IoSliceMut<'_>], position: u64) -> io::Result<usize> {
        self.inner.read_at(parts, position)
    }
    fn start_writeback(&self, position: u64, len: u64) {
        self.inner.start_writeback(position, len);
    }
    fn sync(&self) -> io::Result<()> {
        live_on(&self.left)?;
        self.inner.sync()
    }
}

/// Makes and registers a directory as far as the disk lets it; true if it came to the end.
fn made(disk: MortalDisk, known: &mut bool) -> bool {
    let Ok(mut directory) = Directory::claim(Arc::new(disk), Path::new("/data"), &Rng::seeded(1)) else {
        return false;
    };
    *known = directory.register(ClusterId(5), ServerId(3)).is_ok();
    *known
}

/// At each step: what one leaves is a matter of chance.
const POWER_CUTS: u64 = 8;

#[test]
fn a_start_after_a_death_or_a_power_cut_at_any_step_of_the_making_and_the_registration_works() {
    for cut in [None].into_iter().chain((0..POWER_CUTS).map(Some)) {
        for step in 0.. {
            let disk = MemoryDisk::new(1 << 20);
            let mut known = false;
            let left = Arc::new(AtomicI64::new(step));
            let is_over = made(MortalDisk { inner: disk.clone(), left }, &mut known);
            if let Some(cut) = cut {
                disk.crash(&Rng::seeded(step as u64 * POWER_CUTS + cut));
            }
            let again = |when: &str| {
                let claimed = Directory::claim(Arc::new(disk.clone()), Path::new("/data"), &Rng::seeded(2));
                claimed.unwrap_or_else(|error| panic!("step {step}, power cut {cut:?}, {when}: {error}"))
            };
            let mut directory = again("then");
            assert!(!known || directory.stamp().is_registered(), "step {step}");
            directory.register(ClusterId(5), ServerId(3)).unwrap();
            drop(directory);
            disk.crash(&Rng::seeded(step as u64));
            assert!(again("registered").stamp().is_registered(), "step {step}, power cut {cut:?}");
            if is_over {
                assert!(step > 20, "{step} steps");
                break;
            }
        }
    }
}

/// Turns a directory into one of the earlier format, which has no `chunks/owner`.
fn of_the_format_before(disk: &MemoryDisk) {
    let (file, owner) = (Path::new("/data/dfs-chunkserver"), Path::new("/data/chunks/owner"));
    let mut bytes = vec![0; 4096];
    let len = disk.open(file).unwrap().read_at(&mut [io::IoSliceMut::new(&mut bytes)], 0).unwrap();
    let text = String::from_utf8(bytes[..len].to_vec()).unwrap().replace("format = 2", "format = 1");
    let (before, _) = text.split_once("checksum").unwrap();
    let text = format!("{before}checksum = {:08x}\n", checksum(before));
    disk.remove(file).unwrap();
    let written = disk.create(file).unwrap();
    written.write_at(&mut [io::IoSlice::new(text.as_bytes())], 0).unwrap();
    written.sync().unwrap();
    disk.remove(owner).unwrap();
    for directory in ["/data", "/data/chunks"] {
        disk.sync_directory(Path::new(directory)).unwrap();
    }
}

/// A crash in the first start after an upgrade left a stamp that promised an owner which was not there: a healthy server was
/// refused for good.
#[test]
fn regression_a_start_after_a_death_at_any_step_of_the_upgrade_works() {
    for cut in [None].into_iter().chain((0..POWER_CUTS).map(Some)) {
        for step in 0.. {
            let disk = MemoryDisk::new(1 << 20);
            let unlimited = Arc::new(AtomicI64::new(i64::MAX));
            assert!(made(MortalDisk { inner: disk.clone(), left: unlimited }, &mut false));
            of_the_format_before(&disk);
            let mortal = MortalDisk { inner: disk.clone(), left: Arc::new(AtomicI64::new(step)) };
            let is_over = Directory::claim(Arc::new(mortal), Path::new("/data"), &Rng::seeded(1)).is_ok();
            if let Some(cut) = cut {
                disk.crash(&Rng::seeded(step as u64 * POWER_CUTS + cut));
            }
            let claimed = Directory::claim(Arc::new(disk), Path::new("/data"), &Rng::seeded(2));
            let directory = claimed.unwrap_or_else(|error| panic!("step {step}, power cut {cut:?}: {error}"));
            assert_eq!(directory.stamp().server, ServerId(3), "step {step}");
            if is_over {
                assert!(step > 10, "{step} steps");
                break;
            }
        }
    }
}
