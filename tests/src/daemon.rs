//! One daemon as a process: started with a log file, watched by the guard, its memory capped.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::guard::Guard;
use crate::wait;

/// RLIMIT_DATA of every daemon: a leak ends a test, not the machine.
const DATA_LIMIT_BYTES: libc::rlim_t = 2 << 30;

/// For the system calls of a process that was sent SIGSTOP.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// A process whose thread waits uninterruptibly for something that only its own end brings never ends.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// The letter of each thread's state in /proc (`R`: it runs). Panics when there is no such process.
pub fn thread_states(pid: u32) -> Vec<char> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("list a process's threads").flatten();
    let state = |stat: String| stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    threads.filter_map(|thread| state(fs::read_to_string(thread.path().join("stat")).ok()?)).collect()
}

/// User and system time of a process, in hundredths of a second.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read a process's times");
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let times = after_name.split(' ').skip(11).take(2);
    times.map(|field| field.parse::<u64>().expect("a number of ticks")).sum()
}

/// Where `cargo build --release` put the binaries: beside `deps/`, which has the test executable.
pub fn binary(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("the test executable has a path");
    let target = exe.ancestors().nth(2).expect("the test executable lies in TARGET/PROFILE/deps");
    let path = target.join(name);
    assert!(
        path.exists(),
        "{} is not built: `scripts/build`, and `cargo test --release --workspace --no-run` for examples",
        path.display()
    );
    path
}

/// What is needed to start it, now or again.
pub struct Daemon {
    pub name: String,
    guard: Arc<Guard>,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    child: Option<Child>,
    /// Of the log: what was scanned, and what was there when it was started last.
    scanned: usize,
    before_start: usize,
}

impl Daemon {
    pub fn new(guard: &Arc<Guard>, name: &str, program: &str, arguments: &[&str]) -> Daemon {
        Daemon {
            name: name.to_owned(),
            guard: Arc::clone(guard),
            program: binary(program),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            environment: Vec::new(),
            child: None,
            scanned: 0,
            before_start: 0,
        }
    }

    /// The same, in a network namespace (`ip netns`) and nothing else of its own.
    pub fn inside(mut self, namespace: &str) -> Daemon {
        let program = std::mem::replace(&mut self.program, PathBuf::from("nsenter"));
        let entered =
            [format!("--net=/run/netns/{namespace}"), "--".to_owned(), program.display().to_string()];
        self.arguments.splice(0..0, entered);
        self
    }

    /// The same, with an environment variable.
    pub fn with_variable(mut self, name: &str, value: &str) -> Daemon {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn log_path(&self) -> PathBuf {
        self.guard.dir().join("logs").join(&self.name)
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// The part of the log that was not scanned yet.
    pub fn new_log(&mut self) -> String {
        let log = self.log();
        let new = log.get(self.scanned..).unwrap_or_default().to_owned();
        self.scanned = log.len();
        new
    }

    /// The part of the log since it was started last.
    pub fn log_since_start(&self) -> String {
        self.log().get(self.before_start..).unwrap_or_default().to_owned()
    }

    pub fn start(&mut self) {
        assert!(!self.is_running(), "{} runs already", self.name);
        self.before_start = self.log().len();
        let log = open_log(&self.log_path());
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .current_dir("/")
            .env_clear()
            .envs(std::env::vars_os().filter(|(key, _)| !key.to_string_lossy().starts_with("DFS_")))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate the log's descriptor"))
            .stderr(log)
            .process_group(0);
        cap_memory(&mut command);
        let child = command.spawn().unwrap_or_else(|e| panic!("start {}: {e}", self.program.display()));
        self.guard.watch(child.id());
        self.child = Some(child);
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// False when it was never started, was reaped, or has ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.exit_status().is_none() && self.child.is_some()
    }

    fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("ask for a child's state")
    }

    /// Panics when it is not running.
    pub fn signal(&mut self, signal: i32) {
        assert!(self.is_running(), "{} is not running; its log ends:\n{}", self.name, tail(&self.log()));
        let pid = self.pid().expect("it is running");
        // SAFETY: the pid is of our own child, which was not reaped.
        let done = unsafe { libc::kill(pid as i32, signal) };
        assert_eq!(done, 0, "signal {}: {}", self.name, std::io::Error::last_os_error());
    }

    /// Waits until none of its threads runs any more, after a SIGSTOP: a system call that was under way ends before.
    #[track_caller]
    pub fn wait_stopped(&mut self) {
        let pid = self.pid().expect("it is running");
        wait::until(&format!("{} to stop", self.name), STOP_DEADLINE, || {
            thread_states(pid).iter().all(|state| *state == 'T').then_some(())
        });
    }

    /// Waits for its end and reaps it.
    #[track_caller]
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let name = self.name.clone();
        let status = wait::until(&format!("the end of {name}"), deadline, || self.exit_status());
        self.reaped();
        status
    }

    /// `kill -9`, also of a stopped one; reaped when this returns. Nothing when it does not run.
    #[track_caller]
    pub fn kill(&mut self) {
        let Some(child) = self.child.as_mut() else { return };
        // An error means that it has ended already.
        let _ = child.kill();
        let killed_at = wait::now();
        while self.exit_status().is_none() && killed_at.elapsed() < KILL_DEADLINE {
            wait::pause(Duration::from_millis(1));
        }
        let has_ended = !self.is_running();
        self.reaped();
        assert!(has_ended || std::thread::panicking(), "{} was killed and does not end", self.name);
    }

    fn reaped(&mut self) {
        if let Some(child) = self.child.take() {
            self.guard.forget(child.id());
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

fn open_log(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).expect("open a daemon's log")
}

/// The last lines of a log, for a panic's message.
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Caps the memory of the process that `command` will start.
pub fn cap_memory(command: &mut Command) {
    let cap = || {
        let limit = libc::rlimit { rlim_cur: DATA_LIMIT_BYTES, rlim_max: DATA_LIMIT_BYTES };
        // SAFETY: setrlimit reads the struct that it is given and is async-signal-safe.
        match unsafe { libc::setrlimit(libc::RLIMIT_DATA, &limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one async-signal-safe call and allocates nothing.
    unsafe { command.pre_exec(cap) };
}
