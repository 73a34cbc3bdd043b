//! What is stored on the hosts, and outlives them: a power failure takes what was not synced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dfs_chunkserver::disk::MemoryDisk;
use dfs_metaserver::GroupStorage;
use dfs_metaserver::raft::log::disk::SimulatedDisk;
use dfs_net::env::Rng;
use dfs_state::kv::memory::MemoryHome;

use super::layout::Layout;

/// Of a log disk.
pub(super) const SYNC_TIME: Duration = Duration::from_millis(1);
/// One crash of a metaserver in so many leaves the first write of a segment torn.
const TORN_ONE_IN: u64 = 4;

/// What a member of a group keeps.
#[derive(Clone)]
pub(super) struct GroupDisks {
    pub(super) log: SimulatedDisk,
    pub(super) state: MemoryHome,
}

impl GroupDisks {
    fn new() -> GroupDisks {
        GroupDisks { log: SimulatedDisk::new(SYNC_TIME), state: MemoryHome::default() }
    }

    pub(super) fn storage(&self) -> GroupStorage {
        GroupStorage { log: Arc::new(self.log.clone()), state: Arc::new(self.state.clone()) }
    }

    fn crash(&self, rng: &Rng) {
        self.log.crash(rng);
        if rng.below(TORN_ONE_IN) == 0 {
            self.log.tear_next_segment();
        }
        self.state.crash();
    }
}

/// Of all hosts.
pub(crate) struct Disks {
    pub(super) layout: Layout,
    pub(super) clusters: Vec<GroupDisks>,
    /// Of the federation group's members.
    pub(super) seats: BTreeMap<usize, GroupDisks>,
    pub(super) chunks: Vec<MemoryDisk>,
}

impl Disks {
    pub(super) fn new(layout: Layout) -> Disks {
        Disks {
            layout,
            clusters: (0..layout.metaservers()).map(|_| GroupDisks::new()).collect(),
            seats: layout.seats().into_iter().map(|index| (index, GroupDisks::new())).collect(),
            chunks: (0..layout.all_chunkservers()).map(|_| MemoryDisk::new(8 << 30)).collect(),
        }
    }

    /// The members of a group and what they keep.
    pub(super) fn of_group(&self, group: usize) -> Vec<(usize, &GroupDisks)> {
        let part = |index| match group == self.layout.clusters {
            true => &self.seats[&index],
            false => &self.clusters[index],
        };
        self.layout.members(group).into_iter().map(|index| (index, part(index))).collect()
    }

    /// Of the log disks of all metaservers, from now on.
    pub(super) fn set_sync_time(&self, sync_time: Duration) {
        self.clusters.iter().chain(self.seats.values()).for_each(|disks| disks.log.set_sync_time(sync_time));
    }

    fn groups_of(&self, index: usize) -> impl Iterator<Item = &GroupDisks> {
        [Some(&self.clusters[index]), self.seats.get(&index)].into_iter().flatten()
    }

    pub(super) fn is_beginning_segment(&self, index: usize) -> bool {
        self.groups_of(index).any(|group| group.log.is_beginning_segment())
    }

    pub(super) fn recycled_segments(&self) -> u64 {
        self.clusters.iter().chain(self.seats.values()).map(|group| group.log.recycled()).sum()
    }

    pub(super) fn crash_metaserver(&self, index: usize, rng: &Rng) {
        self.groups_of(index).for_each(|group| group.crash(rng));
    }
}
