//! One cluster for all tests of a file: it is started by the first and ended by `guard` when the process ends.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::cluster::{Cluster, Shape};

/// To be put in a `static`.
pub struct Shared {
    cluster: OnceLock<Option<Cluster>>,
    shape: fn() -> Shape,
    mounts: &'static [&'static str],
}

impl Shared {
    /// `mounts`: the names of the mounts to make at the start.
    pub const fn new(shape: fn() -> Shape, mounts: &'static [&'static str]) -> Shared {
        Shared { cluster: OnceLock::new(), shape, mounts }
    }

    /// The cluster, and a directory of its own for the test `name`, which must not be there yet.
    pub fn scenario(&'static self, name: &str) -> Scenario {
        let started = self.cluster.get_or_init(|| {
            // Not tried again for each test: it would fail each time after a minute.
            let started = catch_unwind(|| {
                let cluster = Cluster::start((self.shape)());
                for mount in self.mounts {
                    cluster.mount(mount);
                }
                cluster
            });
            started.ok()
        });
        let cluster = started.as_ref().expect("the shared cluster starts; its failure stands above");
        let scenario = Scenario { cluster, name: name.to_owned() };
        fs::create_dir(scenario.dir(self.mounts[0])).expect("make the test's directory on the mount");
        scenario
    }
}

/// One test's use of a shared cluster. At its end the logs are scanned.
pub struct Scenario {
    pub cluster: &'static Cluster,
    name: String,
}

impl Scenario {
    /// The test's directory, seen through a mount.
    pub fn dir(&self, mount: &str) -> PathBuf {
        self.cluster.mountpoint(mount).join(&self.name)
    }

    /// A path in [`Self::dir`] of the only or first mount, which is called `a`.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir("a").join(name)
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.cluster.print_logs();
            return;
        }
        let errors = self.cluster.unexpected_errors();
        assert!(errors.is_empty(), "log lines that nobody expected:\n{}", errors.join("\n"));
    }
}
