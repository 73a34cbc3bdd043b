//! Ends what a test process leaves behind, however it dies.
//!
//! A small shell holds the read end of a pipe whose only writer is the test process. When that process ends, by `exit`
//! or by `kill -9`, the shell kills the processes named in `DIR/pids/`, deletes the network namespaces named in
//! `DIR/netns/`, detaches the mounts below `DIR/mnt/` and removes `DIR`. So even a cluster in a `static`, which is never dropped, leaves nothing.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// `$1` is the directory. Removing stays on its filesystem: a mount that could not be detached is not emptied.
const SCRIPT: &str = r#"
cat > /dev/null
[ -d "$1" ] || exit 0
for file in "$1"/pids/*; do
    [ -f "$file" ] && kill -9 "$(basename "$file")" 2> /dev/null
done
for namespace in "$1"/netns/*; do
    [ -f "$namespace" ] && ip netns delete "$(basename "$namespace")" 2> /dev/null
done
for mount in "$1"/mnt/*; do umount -l "$mount" 2> /dev/null; done
rm -rf --one-file-system "$1"
"#;

/// A directory for one scenario, with the shell that cleans up after it.
pub struct Guard {
    dir: PathBuf,
    number: u32,
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Default for Guard {
    fn default() -> Guard {
        Guard::new()
    }
}

impl Guard {
    /// Makes the directory below the system's temporary one.
    pub fn new() -> Guard {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("dfs-test-{}-{number}", std::process::id()));
        for part in ["pids", "mnt", "logs", "etc", "data", "netns"] {
            fs::create_dir_all(dir.join(part)).expect("make the scenario's directory");
        }
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "dfs-test-guard"])
            .arg(&dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C at the terminal ends the test process, not the one that cleans up after it.
            .process_group(0)
            .spawn()
            .expect("start the guard's shell");
        let pipe = shell.stdin.take();
        Guard { dir, number, shell, pipe }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// An address of its own below 127.0.0.0/8, so that no port is ever taken by another scenario.
    pub fn host(&self) -> String {
        let pid = std::process::id();
        format!("127.{}.{}.{}", 1 + (pid >> 8) % 250, pid % 250, 1 + self.number % 250)
    }

    pub fn watch(&self, pid: u32) {
        fs::write(self.dir.join("pids").join(pid.to_string()), "").expect("note a pid for the guard");
    }

    pub fn forget(&self, pid: u32) {
        // Not there: it was forgotten before.
        let _ = fs::remove_file(self.dir.join("pids").join(pid.to_string()));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.pipe = None;
        // The shell ends by itself; there is nothing to do about one that does not.
        let _ = self.shell.wait();
    }
}
