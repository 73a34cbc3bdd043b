//! Which cluster gets a new volume. Pure.

use dfs_proto::federation::ClusterLoad;
use dfs_proto::ids::ClusterId;

/// Percent points that a volume placed since the last report counts as: a burst of new directories spreads.
const PLACED_POINTS: u32 = 10;
/// Scores that differ by less say nothing.
const STEP_POINTS: u32 = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) cluster: ClusterId,
    pub(super) name: String,
    pub(super) load: ClusterLoad,
    pub(super) volumes: usize,
    /// Since `load` was reported.
    pub(super) placed_since: u32,
}

impl Candidate {
    /// The mean of CPU, memory and disk use, with what was placed since, in steps.
    fn score(&self) -> u32 {
        let ClusterLoad { cpu, memory, disk, .. } = self.load;
        ((cpu + memory + disk) / 3 + self.placed_since * PLACED_POINTS) / STEP_POINTS
    }
}

/// The one with the lowest load; of equals the one with fewer volumes, then by name. One without a living chunkserver
/// gets nothing.
pub(super) fn choose(candidates: &[Candidate]) -> Option<ClusterId> {
    let usable = candidates.iter().filter(|candidate| candidate.load.chunkservers > 0);
    let best = usable.min_by_key(|candidate| (candidate.score(), candidate.volumes, &candidate.name));
    best.map(|candidate| candidate.cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(number: u128, busy: u32, volumes: usize) -> Candidate {
        let load = ClusterLoad { cpu: busy, memory: busy, disk: busy, chunkservers: 3 };
        let name = format!("cluster{number}");
        Candidate { cluster: ClusterId(number), name, load, volumes, placed_since: 0 }
    }

    #[test]
    fn the_least_busy_one_gets_it_and_of_equals_the_one_with_fewer_volumes_then_by_name() {
        let choice = |candidates: &[Candidate]| choose(candidates).map(|cluster| cluster.0);
        assert_eq!(choice(&[candidate(1, 60, 0), candidate(2, 20, 9)]), Some(2));
        assert_eq!(choice(&[candidate(1, 20, 5), candidate(2, 20, 4)]), Some(2));
        assert_eq!(choice(&[candidate(2, 20, 4), candidate(1, 20, 4)]), Some(1));
        assert_eq!(choice(&[]), None);
    }

    #[test]
    fn one_without_chunkservers_gets_nothing() {
        let mut idle = candidate(1, 0, 0);
        idle.load.chunkservers = 0;
        assert_eq!(choose(&[idle, candidate(2, 90, 9)]), Some(ClusterId(2)));
    }

    #[test]
    fn a_burst_goes_to_both_and_fewer_to_the_busier_one() {
        let mut candidates = [candidate(1, 50, 0), candidate(2, 20, 0)];
        let mut counts = [0, 0];
        for _ in 0..8 {
            let chosen = choose(&candidates).expect("there are two");
            let index = candidates.iter().position(|c| c.cluster == chosen).expect("one of them");
            candidates[index].placed_since += 1;
            candidates[index].volumes += 1;
            counts[index] += 1;
        }
        assert!(counts[0] >= 1 && counts[0] < counts[1], "{counts:?}");
    }
}
