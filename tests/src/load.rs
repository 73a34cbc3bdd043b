//! Work that goes on while servers fail: a copy whose progress is counted, and a loop of namespace operations.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{tree, wait};

/// Until the first files of a load are there.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A running `cp -a`, which names each file when it starts with it.
pub struct Copy {
    child: Child,
    started: Arc<AtomicUsize>,
    counter: Option<JoinHandle<()>>,
    stderr: Option<JoinHandle<String>>,
}

impl Copy {
    pub fn start(from: &Path, to: &Path) -> Copy {
        let mut child = Command::new("cp")
            .args(["-av", "--"])
            .args([from, to])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start cp");
        let started = Arc::new(AtomicUsize::new(0));
        let out = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut err = child.stderr.take().expect("stderr is a pipe");
        let count = Arc::clone(&started);
        let counter = std::thread::spawn(move || {
            for _ in out.lines() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            // What is not UTF-8 ends the text; it is for people only.
            let _ = err.read_to_string(&mut text);
            text
        });
        Copy { child, started, counter: Some(counter), stderr: Some(stderr) }
    }

    /// Files and directories that it has started with.
    pub fn started(&self) -> usize {
        self.started.load(Ordering::Relaxed)
    }

    /// Waits until it has started with `count` files.
    #[track_caller]
    pub fn wait_started(&self, count: usize, deadline: Duration) {
        wait::until(&format!("the copy to reach {count} files"), deadline, || {
            (self.started() >= count).then_some(())
        });
    }

    /// Waits for its end, which must be a success.
    #[track_caller]
    pub fn finish(mut self, deadline: Duration) -> usize {
        let status =
            wait::until("the copy to end", deadline, || self.child.try_wait().expect("ask for cp's state"));
        let error = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if let Some(counter) = self.counter.take() {
            counter.join().expect("count the copied files");
        }
        assert!(status.success() && error.is_empty(), "cp ended with {status}: {error}");
        self.started()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a loop of namespace operations saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rounds {
    pub rounds: usize,
    pub longest_stall: Duration,
}

/// A loop of mkdir, create, rename, link, unlink and rmdir in a directory of its own. None may fail: an EEXIST or ENOENT
/// would be a retry that was executed twice.
pub struct NamespaceLoop {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Result<Rounds, String>>>,
}

impl NamespaceLoop {
    /// `dir` is made.
    pub fn start(dir: PathBuf) -> NamespaceLoop {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            fs::create_dir(&dir).map_err(|error| format!("make {}: {error}", dir.display()))?;
            let mut seen = Rounds::default();
            while !stopped.load(Ordering::Relaxed) {
                let stall = namespace_round(&dir, seen.rounds)?;
                seen.longest_stall = seen.longest_stall.max(stall);
                seen.rounds += 1;
                count.store(seen.rounds, Ordering::Relaxed);
            }
            Ok(seen)
        });
        NamespaceLoop { stop, rounds, thread: Some(thread) }
    }

    pub fn rounds(&self) -> usize {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Ends it; panics with the first operation that failed.
    #[track_caller]
    pub fn finish(mut self) -> Rounds {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("finish is called once");
        match thread.join().expect("the loop's thread does not panic") {
            Ok(seen) => seen,
            Err(failed) => panic!("the namespace loop saw an error: {failed}"),
        }
    }
}

impl Drop for NamespaceLoop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One of each operation, on names used once; gives the longest that one took.
fn namespace_round(dir: &Path, round: usize) -> Result<Duration, String> {
    let name = |what: &str| dir.join(format!("{what}{round}"));
    let mut longest = Duration::ZERO;
    let mut step = |what: &str, act: &dyn Fn() -> std::io::Result<()>| {
        let before = wait::now();
        let done = act();
        longest = longest.max(before.elapsed());
        done.map_err(|error| format!("round {round}: {what}: {error}"))
    };
    step("mkdir", &|| fs::create_dir(name("d")))?;
    step("create", &|| fs::File::create_new(name("f")).map(drop))?;
    step("rename of the file", &|| fs::rename(name("f"), name("d").join("g")))?;
    step("link", &|| fs::hard_link(name("d").join("g"), name("l")))?;
    step("symlink", &|| std::os::unix::fs::symlink("x", name("s")))?;
    step("rename of the directory", &|| fs::rename(name("d"), name("e")))?;
    step("unlink", &|| fs::remove_file(name("e").join("g")))?;
    step("unlink of the link", &|| fs::remove_file(name("l")))?;
    step("unlink of the symlink", &|| fs::remove_file(name("s")))?;
    step("rmdir", &|| fs::remove_dir(name("e")))?;
    Ok(longest)
}

/// Of each file of [`Copying`].
pub const COPIED_LEN: usize = 200_000;

/// Writes `f0`, `f1`, … one file after the other until it is told to end.
pub struct Copying {
    done: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Copying {
    pub fn start(dir: &Path) -> Copying {
        let (done, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (dir, counted, told) = (dir.to_owned(), done.clone(), is_over.clone());
        let thread = std::thread::spawn(move || {
            let mut worst = Duration::ZERO;
            while !told.load(Ordering::Relaxed) {
                let number = counted.load(Ordering::Relaxed);
                let before = wait::now();
                fs::write(dir.join(format!("f{number}")), tree::bytes(number as u64, COPIED_LEN))
                    .expect("write a file");
                worst = worst.max(before.elapsed());
                counted.store(number + 1, Ordering::Relaxed);
            }
            worst
        });
        Copying { done, is_over, thread }
    }

    #[track_caller]
    pub fn wait_for(&self, files: usize) {
        let is_there = || (self.done.load(Ordering::Relaxed) >= files).then_some(());
        wait::until("files to be copied", START_DEADLINE, is_there);
    }

    /// How many files, and what the slowest one took.
    #[track_caller]
    pub fn finish(self) -> (usize, Duration) {
        self.is_over.store(true, Ordering::Relaxed);
        let worst = self.thread.join().expect("every file was written");
        (self.done.load(Ordering::Relaxed), worst)
    }
}
