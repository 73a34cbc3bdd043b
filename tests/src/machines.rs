//! Several machines on one: network namespaces on a switch, each with the configuration file that the README shows.
//!
//! Machine n has the address 10.77.0.n. Data and files of all lie in the scenario's directory; only the network is apart.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::daemon::{Daemon, tail};
use crate::guard::Guard;
use crate::shell::{Ran, sh, try_sh};
use crate::wait;

/// For clients of two clusters, on the first two machines.
const CLIENTS: &str = "[federation]\nmetaservers = [\"10.77.0.1:7000\", \"10.77.0.2:7000\"]\n";
const START_DEADLINE: Duration = Duration::from_secs(60);

/// See the module. Everything is gone when it is dropped, or when the process dies.
pub struct Machines {
    // Daemons end before their namespaces.
    daemons: Vec<Daemon>,
    guard: Arc<Guard>,
    prefix: String,
}

/// The n-th block of the README's section "Three machines" that is marked `toml`.
fn readme_file(number: usize) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(readme).expect("read README.md");
    let section = text.split("## Three machines").nth(1).expect("README.md has a section `Three machines`");
    let block = section.split("```toml\n").nth(number + 1).expect("the section has that many files");
    block.split("```").next().unwrap_or_default().to_owned()
}

/// What the README says of the other machines: the same file with their own address and id.
fn for_machine(file: &str, machine: usize) -> String {
    let own = ["listen", "frames_listen", "http"];
    let adapt = |line: &str| {
        let key = line.split('=').next().unwrap_or_default().trim();
        match key {
            "id" => format!("id = {machine}"),
            _ if own.contains(&key) => line.replace("10.77.0.1:", &format!("10.77.0.{machine}:")),
            _ => line.to_owned(),
        }
    };
    file.lines().map(adapt).collect::<Vec<_>>().join("\n")
}

impl Machines {
    /// So many namespaces on one switch, which is one too.
    pub fn new(count: usize) -> Machines {
        let guard = Arc::new(Guard::new());
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("dfs{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let machines = Machines { daemons: Vec::new(), guard, prefix };
        let switch = machines.namespace(0);
        sh(Path::new("/"), &format!("ip -n {switch} link add sw type bridge; ip -n {switch} link set sw up"));
        for machine in 1..=count {
            let own = machines.namespace(machine);
            sh(
                Path::new("/"),
                &format!(
                    "ip -n {switch} link add p{machine} type veth peer name eth0 netns {own}
                     ip -n {switch} link set p{machine} master sw up
                     ip -n {own} address add 10.77.0.{machine}/24 dev eth0
                     ip -n {own} link set eth0 up; ip -n {own} link set lo up"
                ),
            );
        }
        machines
    }

    fn name(&self, machine: usize) -> String {
        format!("{}m{machine}", self.prefix)
    }

    fn namespace(&self, machine: usize) -> String {
        let name = self.name(machine);
        fs::write(self.guard.dir().join("netns").join(&name), "").expect("note a namespace for the guard");
        sh(Path::new("/"), &format!("ip netns add {name}"));
        name
    }

    /// Both directions of a machine's link, in MiB/s.
    pub fn limit(&self, machine: usize, mib_per_s: u64) {
        let bits = (mib_per_s * 8) << 20;
        let shape = format!("root tbf rate {bits}bit burst 1mb latency 200ms");
        let (own, switch) = (self.name(machine), self.name(0));
        sh(
            Path::new("/"),
            &format!(
                "tc -n {own} qdisc add dev eth0 {shape}; tc -n {switch} qdisc add dev p{machine} {shape}"
            ),
        );
    }

    fn config(&self, machine: usize, text: &str) -> PathBuf {
        let data = self.guard.dir().join("data").join(machine.to_string());
        fs::create_dir_all(&data).expect("make a machine's directory");
        let path = self.guard.dir().join("etc").join(format!("{machine}.toml"));
        let text = text.replace("/var/lib/dfs", &data.display().to_string());
        fs::write(&path, text).expect("write a machine's configuration");
        path
    }

    fn start(&mut self, machine: usize, program: &str, arguments: &[&str]) {
        let name = format!("{program}-{machine}");
        let mut daemon = Daemon::new(&self.guard, &name, program, arguments).inside(&self.name(machine));
        daemon.start();
        self.daemons.push(daemon);
    }

    /// A server's daemons, from the README's file; `more` is added to the section of metaservers.
    pub fn start_servers(&mut self, machine: usize, programs: &[&str], more: &str) {
        let file = for_machine(&readme_file(0), machine);
        let file = file.replace("[metaserver]", &format!("[metaserver]\n{more}"));
        let path = self.config(machine, &file).display().to_string();
        for program in programs {
            self.start(machine, program, &["--config", &path]);
        }
    }

    /// A cluster of its own on each of the first two machines, alpha with the root directory and beta, as one federation.
    pub fn start_two_clusters(&mut self) {
        for (machine, name) in [(1, "alpha"), (2, "beta")] {
            let own = format!("10.77.0.{machine}");
            let text = format!(
                "{CLIENTS}
                 [metaserver]
                 id = 1
                 cluster = \"{name}\"
                 data = \"/var/lib/dfs/meta\"
                 listen = \"{own}:7000\"
                 http = \"{own}:7001\"
                 bootstrap = [{{ id = 1, address = \"{own}:7000\" }}]
                 copies = 1
                 federation_members = [{{ id = 1, address = \"10.77.0.1:7000\" }}]
                 {seat}
                 [chunkserver]
                 data = \"/var/lib/dfs/chunks\"
                 listen = \"{own}:7100\"
                 frames_listen = \"{own}:7101\"
                 http = \"{own}:7102\"\n",
                seat = if machine == 1 { "federation_id = 1" } else { "" },
            );
            // Its chunkserver is of this cluster, and not of the first in the list.
            let text = text.replace("10.77.0.1:7000\", \"10.77.0.2:7000", &format!("{own}:7000"));
            let path = self.config(machine, &text).display().to_string();
            for program in ["dfs-metaserver", "dfs-chunkserver"] {
                self.start(machine, program, &["--config", &path]);
            }
        }
        wait::until("beta to join", START_DEADLINE, || {
            self.admin(1, "cluster join 10.77.0.2:7000").ok.then_some(())
        });
    }

    /// A mount of what [`Machines::start_two_clusters`] made.
    pub fn mount_two_clusters(&mut self, machine: usize, deadline: Duration) -> PathBuf {
        let ms = deadline.as_millis();
        let times = format!("{CLIENTS}[mount]\nmetadata_timeout_ms = {ms}\ndata_timeout_ms = {ms}\n");
        self.mount_with(machine, &times)
    }

    /// A mount on a machine, from the README's file for clients.
    pub fn mount(&mut self, machine: usize) -> PathBuf {
        self.mount_with(machine, &readme_file(1))
    }

    fn mount_with(&mut self, machine: usize, text: &str) -> PathBuf {
        let path = self.config(machine, text).display().to_string();
        let dir = self.guard.dir().join("mnt").join(machine.to_string());
        fs::create_dir_all(&dir).expect("make a mountpoint");
        let at = dir.display().to_string();
        self.start(machine, "dfs-mount", &["-f", "--config", &path, &at]);
        wait::until("the mount", START_DEADLINE, || {
            try_sh(Path::new("/"), &format!("mountpoint -q {at}")).ok.then_some(())
        });
        dir
    }

    /// Runs the admin tool on a machine until it says that all is well, with `chunkservers` of them: a federation is well
    /// before the last one has joined.
    pub fn wait_healthy(&self, machine: usize, chunkservers: usize) -> String {
        let all = format!(" {chunkservers} chunkservers");
        wait::until("a healthy federation", START_DEADLINE, || {
            let ran = self.admin(machine, "status");
            (ran.ok && ran.stdout.contains(&all)).then_some(ran.stdout)
        })
    }

    /// Waits until a machine sees all metaservers and chunkservers alive, whatever it says of chunks.
    pub fn wait_all_alive(&self, machine: usize) {
        wait::until("all servers to be alive", START_DEADLINE, || {
            let status: Value = serde_json::from_str(&self.admin(machine, "status --json").stdout).ok()?;
            let all = |list: &Value, is_fine: fn(&Value) -> bool| {
                list.as_array()?.iter().all(is_fine).then_some(())
            };
            all(&status["clusters"][0]["members"], |member| member["state"] != "unreachable")?;
            all(&status["clusters"][0]["leader"]["chunkservers"], |server| server["state"] == "alive")
        });
    }

    /// Which machine's metaserver leads, as another one sees it.
    pub fn leader(&self, machine: usize) -> usize {
        wait::until("a leader", START_DEADLINE, || {
            let status: Value = serde_json::from_str(&self.admin(machine, "status --json").stdout).ok()?;
            Some(status["clusters"][0]["leader"]["member"].as_u64()? as usize)
        })
    }

    /// `dfs` with that machine's configuration.
    pub fn admin(&self, machine: usize, command: &str) -> Ran {
        let config = self.guard.dir().join("etc").join(format!("{machine}.toml"));
        let (dfs, own) = (crate::daemon::binary("dfs"), self.name(machine));
        let script = format!(
            "nsenter --net=/run/netns/{own} env DFS_CONFIG={} {} {command}",
            config.display(),
            dfs.display()
        );
        try_sh(Path::new("/"), &script)
    }

    /// Plugs a machine's cable in, or pulls it: whoever talks to it gets no answer, and no reset either.
    pub fn set_link(&self, machine: usize, is_up: bool) {
        sh(Path::new("/"), &self.link_command(machine, is_up));
    }

    /// [`Self::set_link`] as a command of the shell.
    pub fn link_command(&self, machine: usize, is_up: bool) -> String {
        let state = if is_up { "up" } else { "down" };
        format!("ip -n {} link set p{machine} {state}", self.name(0))
    }

    pub fn is_link_up(&self, machine: usize) -> bool {
        let flags = sh(Path::new("/"), &format!("ip -n {} -brief link show p{machine}", self.name(0)));
        flags.contains(",UP") || flags.contains("<UP")
    }

    pub fn kill(&mut self, machine: usize, program: &str) {
        let name = format!("{program}-{machine}");
        let daemon = self.daemons.iter_mut().find(|daemon| daemon.name == name);
        daemon.expect("it was started").kill();
    }

    /// Ends the mount and everything else, in order.
    pub fn end(mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            if daemon.is_running() {
                daemon.signal(libc::SIGTERM);
                let log = tail(&daemon.log());
                let status = daemon.wait_exit(START_DEADLINE);
                assert!(status.success(), "{} ended with {status}: {log}", daemon.name);
            }
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for daemon in &self.daemons {
                eprintln!("---- {} ----\n{}", daemon.name, tail(&daemon.log()));
            }
        }
        self.daemons.clear();
    }
}
