//! What a filesystem acknowledged, kept outside of it: workers that change files and note each change that returned, and
//! the comparison after a fault.
//!
//! L1  A worker has a directory of its own and one change under way at a time. Every change before it has happened after
//!     the fault, byte for byte; this one has or has not, and of bytes written in order there may be the first part.
//! L2  Where the mount itself died, bytes that were only written and closed are there as far as they are in order; what fsync,
//!     a truncation or a rename returned for is there as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::daemon::binary;
use crate::{sys, tree, wait};

/// Files of one worker: with more it removes one.
const FILES_MAX: usize = 12;
const SMALL_LEN_MAX: usize = 30_000;
const LARGE_LEN_MAX: usize = 4 << 20;

type Files = BTreeMap<String, Vec<u8>>;

/// What a write ends with. Only the first one makes it durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum End {
    Fsync,
    Close,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Change {
    Create { name: String, bytes: Vec<u8>, end: End },
    Append { name: String, bytes: Vec<u8>, end: End },
    Overwrite { name: String, offset: usize, bytes: Vec<u8> },
    Truncate { name: String, len: usize },
    Rename { from: String, to: String },
    Unlink { name: String },
}

/// Of one worker. See the module.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    files: Files,
    /// So many bytes of each file outlive the mount (L2).
    durable: BTreeMap<String, usize>,
    under_way: Option<Change>,
    names_given: u64,
    /// Changes that returned.
    pub acknowledged: u64,
}

impl Ledger {
    fn choose(&mut self, rng: &mut SmallRng) -> Change {
        let end = if rng.random_bool(0.5) { End::Fsync } else { End::Close };
        if self.files.len() >= FILES_MAX {
            return Change::Unlink { name: self.any(rng) };
        }
        let kind = if self.files.len() < 3 { 0 } else { rng.random_range(0..12) };
        match kind {
            0..4 => Change::Create { name: self.new_name(), bytes: some_bytes(rng), end },
            4..7 => Change::Append { name: self.any(rng), bytes: some_bytes(rng), end },
            7 => {
                let name = self.any(rng);
                let offset = rng.random_range(0..=self.files[&name].len());
                let (seed, len) = (rng.random(), rng.random_range(1..SMALL_LEN_MAX));
                Change::Overwrite { name, offset, bytes: tree::bytes(seed, len) }
            }
            8 => {
                let name = self.any(rng);
                let len = rng.random_range(0..=self.files[&name].len());
                Change::Truncate { name, len }
            }
            9 => Change::Rename { from: self.any(rng), to: self.new_name() },
            10 => {
                let from = self.any(rng);
                let others: Vec<&String> = self.files.keys().filter(|name| **name != from).collect();
                let to = others[rng.random_range(0..others.len())].clone();
                Change::Rename { from, to }
            }
            _ => Change::Unlink { name: self.any(rng) },
        }
    }

    fn any(&self, rng: &mut SmallRng) -> String {
        let index = rng.random_range(0..self.files.len());
        self.files.keys().nth(index).expect("the index is below their number").clone()
    }

    fn new_name(&mut self) -> String {
        self.names_given += 1;
        format!("f{}", self.names_given)
    }

    /// Changes files below `dir`, which is there, until it is over or a change fails.
    fn work(
        &mut self,
        dir: &Path,
        seed: u64,
        is_over: impl Fn() -> bool,
        mut done: impl FnMut(),
    ) -> io::Result<()> {
        let mut rng = SmallRng::seed_from_u64(seed);
        while !is_over() {
            let change = self.choose(&mut rng);
            self.under_way = Some(change.clone());
            change.perform(dir)?;
            change.apply(&mut self.files);
            change.make_durable(&self.files, &mut self.durable);
            self.under_way = None;
            self.acknowledged += 1;
            done();
        }
        Ok(())
    }

    /// What is below `dir` must be what was acknowledged (L1, L2); it is what the ledger goes on from.
    pub fn compare(&mut self, dir: &Path, mount: Mount) -> Result<(), String> {
        let found = read_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let under_way = self.under_way.take();
        let is_right = self.allows(&found, mount, None) || self.allows(&found, mount, under_way.as_ref());
        if !is_right {
            let under_way = under_way.map_or_else(|| "nothing".to_owned(), |change| change.described());
            let what = difference(&found, &self.files);
            return Err(format!("{}: {what}; under way was {under_way}", dir.display()));
        }
        self.durable = lens(&found);
        self.files = found;
        Ok(())
    }

    /// `found` may be there if this change has happened too.
    fn allows(&self, found: &Files, mount: Mount, change: Option<&Change>) -> bool {
        let mut files = self.files.clone();
        let mut at_least = match mount {
            Mount::Lived => lens(&files),
            Mount::Died => self.durable.clone(),
        };
        if let Some(change) = change {
            change.apply(&mut files);
            if !change.writes_in_order() {
                change.make_durable(&files, &mut at_least);
            }
        }
        let may_be = |(name, whole): (&String, &Vec<u8>)| {
            let at_least = at_least.get(name).copied().unwrap_or(0);
            found.get(name).is_some_and(|part| part.len() >= at_least && whole.starts_with(part))
        };
        found.len() == files.len() && files.iter().all(may_be)
    }
}

/// What has become of the mount through which the changes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mount {
    Lived,
    Died,
}

fn lens(files: &Files) -> BTreeMap<String, usize> {
    files.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect()
}

fn some_bytes(rng: &mut SmallRng) -> Vec<u8> {
    let len_max = if rng.random_bool(0.05) { LARGE_LEN_MAX } else { SMALL_LEN_MAX };
    let (seed, len) = (rng.random(), rng.random_range(0..len_max));
    tree::bytes(seed, len)
}

fn read_all(dir: &Path) -> io::Result<Files> {
    let mut found = Files::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        found.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
    }
    Ok(found)
}

fn difference(found: &Files, expected: &Files) -> String {
    let names: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let differing = names.into_iter().filter_map(|name| match (found.get(name), expected.get(name)) {
        (None, _) => Some(format!("{name} is missing")),
        (_, None) => Some(format!("{name} should not be there")),
        (Some(found), Some(expected)) if found != expected => {
            let same = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
            let (len, wanted) = (found.len(), expected.len());
            Some(format!("{name} differs from byte {same} on, and has {len} bytes instead of {wanted}"))
        }
        (Some(_), Some(_)) => None,
    });
    differing.collect::<Vec<_>>().join(", ")
}

impl Change {
    fn perform(&self, dir: &Path) -> io::Result<()> {
        match self {
            Change::Create { name, bytes, end } => {
                end.write(OpenOptions::new().write(true).create_new(true).open(dir.join(name))?, bytes)
            }
            Change::Append { name, bytes, end } => {
                end.write(OpenOptions::new().append(true).open(dir.join(name))?, bytes)
            }
            Change::Overwrite { name, offset, bytes } => {
                let file = OpenOptions::new().write(true).open(dir.join(name))?;
                file.write_all_at(bytes, *offset as u64)?;
                file.sync_data()
            }
            Change::Truncate { name, len } => {
                OpenOptions::new().write(true).open(dir.join(name))?.set_len(*len as u64)
            }
            Change::Rename { from, to } => fs::rename(dir.join(from), dir.join(to)),
            Change::Unlink { name } => fs::remove_file(dir.join(name)),
        }
    }

    fn apply(&self, files: &mut Files) {
        match self {
            Change::Create { name, bytes, .. } => {
                files.insert(name.clone(), bytes.clone());
            }
            Change::Append { name, bytes, .. } => {
                files.entry(name.clone()).or_default().extend_from_slice(bytes)
            }
            Change::Overwrite { name, offset, bytes } => {
                let file = files.entry(name.clone()).or_default();
                let end = offset + bytes.len();
                file.resize(file.len().max(end), 0);
                file[*offset..end].copy_from_slice(bytes);
            }
            Change::Truncate { name, len } => files.entry(name.clone()).or_default().truncate(*len),
            Change::Rename { from, to } => {
                let moved = files.remove(from).unwrap_or_default();
                files.insert(to.clone(), moved);
            }
            Change::Unlink { name } => {
                files.remove(name);
            }
        }
    }

    /// It has returned: `files` are those after it.
    fn make_durable(&self, files: &Files, durable: &mut BTreeMap<String, usize>) {
        match self {
            Change::Create { end: End::Close, .. } | Change::Append { end: End::Close, .. } => {}
            Change::Create { name, .. }
            | Change::Append { name, .. }
            | Change::Overwrite { name, .. }
            | Change::Truncate { name, .. } => {
                durable.insert(name.clone(), files[name].len());
            }
            Change::Rename { from, to } => {
                durable.remove(from);
                durable.insert(to.clone(), files[to].len());
            }
            Change::Unlink { name } => {
                durable.remove(name);
            }
        }
    }

    /// From the old end of the file on.
    fn writes_in_order(&self) -> bool {
        matches!(self, Change::Create { .. } | Change::Append { .. })
    }

    fn described(&self) -> String {
        match self {
            Change::Create { name, bytes, end } => format!("create {name}, {} bytes, {end:?}", bytes.len()),
            Change::Append { name, bytes, end } => {
                format!("append to {name}, {} bytes, {end:?}", bytes.len())
            }
            Change::Overwrite { name, offset, bytes } => {
                format!("overwrite {name} at {offset}, {} bytes", bytes.len())
            }
            Change::Truncate { name, len } => format!("truncate {name} to {len}"),
            Change::Rename { from, to } => format!("rename {from} to {to}"),
            Change::Unlink { name } => format!("unlink {name}"),
        }
    }
}

impl End {
    fn write(self, mut file: File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)?;
        match self {
            End::Fsync => file.sync_all(),
            End::Close => sys::close(file),
        }
    }
}

/// Changes files until it is told to stop, or a change fails. A process of its own: what the test starts meanwhile must not
/// inherit the files that it has open, because closing those waits for servers that are down or cannot be reached.
pub struct Process {
    child: Child,
    /// Holds what it begins with, and in the end what it made of it.
    file: PathBuf,
    done: Arc<AtomicUsize>,
    counter: JoinHandle<()>,
}

/// What a [`Process`] leaves in its file.
#[derive(Serialize, Deserialize)]
struct Left {
    ledger: Ledger,
    /// The error of the change that failed.
    failed: Option<String>,
}

impl Process {
    /// `dir` is there; `file` is this process's, outside of what is tested.
    pub fn start(ledger: Ledger, dir: &Path, file: PathBuf, seed: u64) -> Process {
        leave(&file, &Left { ledger, failed: None });
        let mut child = Command::new(binary("examples/dfs-load"))
            .args([&file, dir])
            .arg(seed.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start dfs-load");
        let out = child.stdout.take().expect("stdout is a pipe");
        let done = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&done);
        let counter = std::thread::spawn(move || {
            for _ in io::BufReader::new(out).lines() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Process { child, file, done, counter }
    }

    /// Changes that returned since it was started.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// A change failed.
    pub fn has_ended(&self) -> bool {
        self.counter.is_finished()
    }

    /// Ends it after the change under way; what made it end before, if something did.
    pub fn finish(mut self, deadline: Duration) -> (Ledger, Result<(), String>) {
        drop(self.child.stdin.take());
        wait::until("dfs-load to end", deadline, || self.counter.is_finished().then_some(()));
        let status = self.child.wait().expect("wait for dfs-load");
        assert!(status.success(), "dfs-load ended with {status}");
        let Left { ledger, failed } = left(&self.file);
        (ledger, failed.map_or(Ok(()), Err))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Of a test that failed; else it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn left(file: &Path) -> Left {
    postcard::from_bytes(&fs::read(file).expect("read a ledger")).expect("a ledger")
}

fn leave(file: &Path, left: &Left) {
    fs::write(file, postcard::to_stdvec(left).expect("encode a ledger")).expect("write a ledger");
}

/// The program of a [`Process`]: works until its standard input ends, and prints a line for each change that returned.
pub fn load(file: &Path, dir: &Path, seed: u64) {
    let Left { mut ledger, .. } = left(file);
    let is_over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_over);
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink()); // however it ends
        told.store(true, Ordering::Relaxed);
    });
    let mut out = io::stdout();
    let ended = ledger.work(
        dir,
        seed,
        || is_over.load(Ordering::Relaxed),
        || {
            // Nobody reads any more: the test has failed.
            let _ = out.write_all(b"\n").and_then(|()| out.flush());
        },
    );
    leave(file, &Left { ledger, failed: ended.err().map(|error| error.to_string()) });
}

/// Each has completed `by` changes more than `done` says, or has ended.
pub fn all_went_on(workers: &[Process], done: &[usize], by: usize) -> Option<()> {
    let mut workers = workers.iter().zip(done);
    workers.all(|(worker, before)| worker.done() >= before + by || worker.has_ended()).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(files: &[(&str, &str)], under_way: Option<Change>) -> Ledger {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
        Ledger { files, under_way, ..Ledger::default() }
    }

    fn compared(ledger: &mut Ledger, there: &[(&str, &str)], mount: Mount) -> bool {
        let dir = tempfile::tempdir().expect("make a directory");
        for (name, text) in there {
            fs::write(dir.path().join(name), text).expect("write a file");
        }
        ledger.compare(dir.path(), mount).is_ok()
    }

    #[test]
    fn what_was_acknowledged_must_be_there_and_nothing_else() {
        assert!(compared(&mut ledger(&[("a", "1")], None), &[("a", "1")], Mount::Lived));
        for there in [&[][..], &[("a", "2")], &[("a", "")], &[("a", "1"), ("b", "")]] {
            assert!(!compared(&mut ledger(&[("a", "1")], None), there, Mount::Lived), "{there:?}");
        }
    }

    #[test]
    fn the_change_under_way_may_have_happened_and_bytes_in_order_in_part() {
        let append = || Some(Change::Append { name: "a".into(), bytes: b"23".to_vec(), end: End::Fsync });
        for there in ["1", "12", "123"] {
            assert!(compared(&mut ledger(&[("a", "1")], append()), &[("a", there)], Mount::Lived), "{there}");
        }
        for there in ["", "13", "1234"] {
            assert!(
                !compared(&mut ledger(&[("a", "1")], append()), &[("a", there)], Mount::Lived),
                "{there}"
            );
        }
        let rename = || Some(Change::Rename { from: "a".into(), to: "b".into() });
        for (there, is_right) in [(&[("a", "1")][..], true), (&[("b", "1")], true), (&[], false)] {
            let mut ledger = ledger(&[("a", "1")], rename());
            assert_eq!(compared(&mut ledger, there, Mount::Lived), is_right, "{there:?}");
        }
    }

    /// "12" of it is durable.
    fn closed(under_way: Option<Change>) -> Ledger {
        let mut ledger = ledger(&[("a", "1234")], under_way);
        ledger.durable.insert("a".to_owned(), 2);
        ledger
    }

    #[test]
    fn what_was_only_closed_may_have_died_with_its_mount_from_some_byte_on() {
        for (there, is_right) in [("12", true), ("123", true), ("1234", true), ("1", false), ("13", false)] {
            assert_eq!(compared(&mut closed(None), &[("a", there)], Mount::Died), is_right, "{there}");
            let is_all = there == "1234";
            assert_eq!(compared(&mut closed(None), &[("a", there)], Mount::Lived), is_all, "{there}");
        }
        let rename = || Some(Change::Rename { from: "a".into(), to: "b".into() });
        for (there, is_right) in [(("a", "12"), true), (("b", "1234"), true), (("b", "12"), false)] {
            assert_eq!(compared(&mut closed(rename()), &[there], Mount::Died), is_right, "{there:?}");
        }
    }
}
