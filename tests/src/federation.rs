//! Two clusters of real processes under one root: `alpha` has the root directory, and two of the three members of the
//! federation group. Mounts are `alpha`'s daemons; they know the metaservers of both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::cluster::{Cluster, Seats, Shape};
use crate::daemon::binary;
use crate::shell::try_sh;
use crate::wait;

/// Until both are up, on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(60);

pub struct Federation {
    pub alpha: Cluster,
    pub beta: Cluster,
}

impl Federation {
    /// Of two clusters of this shape.
    pub fn start(shape: Shape) -> Federation {
        let mut alpha = Cluster::reserve(Shape { name: "alpha", ..shape.clone() });
        let mut beta = Cluster::reserve(Shape { name: "beta", ..shape });
        let rounds =
            (1..=alpha.shape.metaservers).flat_map(|id| [alpha.meta_address(id), beta.meta_address(id)]);
        let members: Vec<String> = rounds.take(if alpha.shape.metaservers == 1 { 1 } else { 3 }).collect();
        let metaservers = alpha.federation().into_iter().chain(beta.federation()).collect();
        let seats = Seats { members, metaservers };
        for cluster in [&mut alpha, &mut beta] {
            cluster.join(seats.clone());
            cluster.configure();
            cluster.server_names().iter().for_each(|name| cluster.start_daemon(name));
        }
        let federation = Federation { alpha, beta };
        federation.clusters().iter().for_each(|cluster| cluster.wait_whole());
        let join = format!("cluster join {}", federation.beta.federation().join(","));
        wait::until("beta to join", START_DEADLINE, || federation.dfs(&join).ok());
        federation
    }

    pub fn clusters(&self) -> [&Cluster; 2] {
        [&self.alpha, &self.beta]
    }

    /// What `dfs` says, which is asked at both clusters; `Err`: it failed.
    pub fn dfs(&self, arguments: &str) -> Result<String, String> {
        let [alpha, beta] = self.clusters().map(|cluster| cluster.federation().join(","));
        let command = format!("{} --federation {alpha},{beta} {arguments}", binary("dfs").display());
        let ran = try_sh(self.alpha.dir(), &command);
        if ran.ok { Ok(ran.stdout) } else { Err(format!("{}{}", ran.stdout, ran.stderr)) }
    }

    /// How long the federation map is as it is sent.
    pub fn map_len(&self) -> usize {
        let map = wait::until("a map", START_DEADLINE, || self.alpha.map_of(1));
        prost::Message::encoded_len(&map)
    }

    /// Makes a directory in the root directory, as a volume of that cluster.
    pub fn make_volume(&self, name: &str, cluster: &Cluster) {
        let made = self.dfs(&format!("volume create /{name} --cluster {}", cluster.shape.name));
        made.unwrap_or_else(|error| panic!("make volume {name}: {error}"));
    }
}

/// What [`rounds`] saw.
#[derive(Debug, Default)]
pub struct Rounds {
    pub killed: BTreeMap<String, usize>,
    /// Changes that ended with EIO at first, and were made again.
    pub failed: usize,
    pub longest: Duration,
}

/// Makes, renames and removes a volume, so many times, with a metaserver killed at a random moment of each: the leader of the
/// root directory's cluster, of the other one, or a member of the federation group. In the end the root directory and the map
/// have the same volumes, those that are not removed, each once.
pub fn rounds(federation: &Federation, count: usize, seed: u64) -> Rounds {
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let dir = federation.alpha.mount("rounds");
    let (mut seen, mut kept) = (Rounds::default(), BTreeSet::new());
    for round in 0..count {
        let (made, moved) = (format!("made{round}"), format!("moved{round}"));
        let is_kept = round % 4 == 3;
        let changes = {
            let (made, moved) = (dir.join(&made), dir.join(&moved));
            std::thread::spawn(move || {
                let mut tries = Tries::default();
                tries.until_done("make", &moved, || fs::create_dir(&made), || made.is_dir());
                tries.until_done("rename", &moved, || fs::rename(&made, &moved), || moved.is_dir());
                if !is_kept {
                    tries.until_done("remove", &moved, || fs::remove_dir(&moved), || !moved.exists());
                }
                tries
            })
        };
        let (cluster, victim) = federation.victim(&mut random);
        wait::pause(Duration::from_millis(random.random_range(0..120))); // a random step
        cluster.kill(&victim);
        let tries = changes.join().expect("the changes of a round end");
        *seen.killed.entry(format!("{}-{victim}", cluster.shape.name)).or_default() += 1;
        seen.failed += tries.failed;
        seen.longest = seen.longest.max(tries.longest);
        if is_kept {
            kept.insert(moved);
        }
        cluster.start_daemon(&victim);
        cluster.wait_whole();
    }
    federation.agree(&dir, &kept);
    seen
}

#[derive(Default)]
struct Tries {
    failed: usize,
    longest: Duration,
}

impl Tries {
    /// A change that ended with EIO may have happened, or happen later (P9.4): whoever made it looks, and tries again.
    fn until_done(
        &mut self,
        what: &str,
        about: &Path,
        change: impl Fn() -> std::io::Result<()>,
        is_done: impl Fn() -> bool,
    ) {
        let (start, mut has_failed) = (wait::now(), false);
        wait::until(&format!("{what} {}", about.display()), START_DEADLINE, || match change() {
            Ok(()) => Some(()),
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                has_failed = true;
                None
            }
            // Only after one that failed: nobody else works on this name.
            Err(error) => {
                assert!(has_failed && is_done(), "{what} {}: {error}", about.display());
                Some(())
            }
        });
        self.failed += usize::from(has_failed);
        self.longest = self.longest.max(start.elapsed());
    }
}

impl Federation {
    /// A metaserver that is likely to lead something.
    fn victim(&self, random: &mut SmallRng) -> (&Cluster, String) {
        let choice = random.random_range(0..4);
        let [alpha, beta] = self.clusters();
        match choice {
            0 => (alpha, alpha.leader()),
            1 => (beta, beta.leader()),
            seat => {
                let (cluster, id) = [(alpha, 1), (beta, 1), (alpha, 2)][random.random_range(0..seat)];
                (cluster, format!("meta{id}"))
            }
        }
    }

    /// The volumes as `dfs volume list` shows them, without the root directory's.
    pub fn volumes(&self) -> Vec<serde_json::Value> {
        let listed = self.dfs("volume list --json").unwrap_or_else(|error| panic!("volume list: {error}"));
        let volumes: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("JSON");
        volumes.into_iter().filter(|volume| volume["number"] != 0).collect()
    }

    /// Waits until nothing is left in the middle: the map has these volumes, each once and active. A name in the map follows
    /// that in the root directory, after the death of a leader within seconds (P9.5). Then the root directory has them too.
    fn agree(&self, root: &Path, names: &BTreeSet<String>) {
        let name = |volume: &serde_json::Value| {
            volume["name"].as_str().unwrap_or_default().trim_start_matches('/').to_owned()
        };
        let settled = || {
            let volumes = self.volumes();
            let is_active = volumes.iter().all(|volume| volume["state"] == "active");
            let mapped: Vec<String> = volumes.iter().map(name).collect();
            let is_same =
                mapped.len() == names.len() && mapped.into_iter().collect::<BTreeSet<_>>() == *names;
            (is_active && is_same).then_some(())
        };
        wait::at_most(START_DEADLINE, settled)
            .unwrap_or_else(|| panic!("{names:?} are not what the map has: {:?}", self.volumes()));
        let listed = fs::read_dir(root)
            .expect("list the root")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("one of ours"));
        assert_eq!(listed.collect::<BTreeSet<_>>(), *names);
    }
}
