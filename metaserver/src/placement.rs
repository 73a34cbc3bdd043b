//! Which chunkservers get the copies of a new chunk. Pure: candidates and chance in, servers out.
//!
//! PL1  Never two copies on one server.
//! PL2  A full server gets no copy.
//! PL3  Copies go to different zones while there are zones without one, and to servers that the writer has just seen
//!      fail only when there are no others.
//! PL4  Chunks that one session fills side by side are spread: a copy goes where the session has fewest, among those that
//!      are not much busier than the best.
//!
//! Each copy goes to the better of two servers drawn at random. That is nearly as even as always choosing the best server, and
//! the placements between two reports do not all choose the same one.
//!
//! Not here: which servers are alive (`view`).

use std::collections::BTreeSet;

use dfs_net::env::Rng;
use dfs_proto::error::MetaError;
use dfs_proto::ids::ServerId;

/// A chunkserver that is alive, with its last report.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) server: ServerId,
    /// Empty: none given, and then equal to every other empty one.
    pub(crate) zone: String,
    pub(crate) disk_free: u64,
    pub(crate) cpu_percent: u32,
    pub(crate) memory_total: u64,
    pub(crate) memory_available: u64,
    /// Requests in flight when it reported, and chunks placed there since.
    pub(crate) requests_in_flight: u64,
    pub(crate) full: bool,
}

/// What `plan` needs to know of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) copies: u32,
    /// How few will do while servers are missing (P10.2).
    pub(crate) copies_min: u32,
    /// Every registered server was heard by this leader, or it had time enough to be.
    pub(crate) view_complete: bool,
}

/// What the writer tells of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Given<'a> {
    /// Servers that it has just seen fail.
    pub(crate) avoid: &'a [ServerId],
    /// Servers of the chunks that it fills at the same time, each once per copy.
    pub(crate) beside: &'a [ServerId],
}

/// A server with less than this share of the best score is no reason to leave others alone that have more of a session.
const SPREAD_SCORE_MIN: f64 = 0.5;
/// With as many requests in flight, a server counts half.
const IN_FLIGHT_HALF: f64 = 32.0;
/// No factor of the score falls below this: a busy server with much space still beats a busy one without.
const FACTOR_MIN: f64 = 0.05;
/// Scores that differ by less than this share are equal, and chance decides. Otherwise the last of three servers would
/// get nothing for a percent of load.
const SCORES_EQUAL_WITHIN: f64 = 0.1;

/// Checks that the copies wanted, or few enough of them, can be placed, and chooses.
///
/// Errors: `NoSpace` when servers are there but full, `Unavailable` when more may be heard soon (the client tries again
/// until its deadline).
pub(crate) fn plan(
    candidates: &[Candidate],
    wanted: Wanted,
    given: Given<'_>,
    rng: &Rng,
) -> Result<Vec<ServerId>, MetaError> {
    let usable = candidates.iter().filter(|c| !c.full).count();
    let copies = wanted.copies as usize;
    // keeps P10.2: a new leader's view is empty at first, it would place single copies
    if usable < copies && !wanted.view_complete {
        let what = format!("{usable} chunkservers heard since the election, {copies} wanted for a chunk");
        return Err(MetaError::Unavailable { what });
    }
    // Fewer copies are for missing servers, not for full ones: those are no reason to promise less.
    let least = wanted.copies_min.clamp(1, wanted.copies.max(1)) as usize;
    let needed = copies.min(candidates.len()).max(least);
    if usable < needed {
        let full = candidates.len() - usable;
        let what = format!("{usable} chunkservers take chunks ({full} are full), {needed} are needed");
        return Err(match candidates.len() >= needed {
            true => MetaError::NoSpace { what },
            false => MetaError::Unavailable { what },
        });
    }
    Ok(choose(candidates, copies, given, rng))
}

/// Up to `copies` servers, the primary first; fewer only when there are not as many with space.
pub(crate) fn choose(candidates: &[Candidate], copies: usize, given: Given<'_>, rng: &Rng) -> Vec<ServerId> {
    let free_max = candidates.iter().map(|c| c.disk_free).max().unwrap_or(0);
    let mut left: Vec<&Candidate> = candidates.iter().filter(|c| !c.full).collect(); // keeps PL2
    let mut zones_used = BTreeSet::new();
    let mut chosen = Vec::with_capacity(copies);
    while chosen.len() < copies && !left.is_empty() {
        let pool = preferred(&left, &zones_used, given, free_max);
        let best = better_of_two(&pool, free_max, rng);
        left.retain(|c| c.server != best.server); // keeps PL1
        zones_used.insert(best.zone.as_str());
        chosen.push(best.server);
    }
    chosen
}

/// The candidates of the best class that has any (PL3), and of these the ones that the session uses least (PL4).
fn preferred<'a>(
    left: &[&'a Candidate],
    zones_used: &BTreeSet<&str>,
    given: Given<'_>,
    free_max: u64,
) -> Vec<&'a Candidate> {
    let class = |c: &Candidate| (given.avoid.contains(&c.server), zones_used.contains(c.zone.as_str()));
    let best = left.iter().map(|c| class(c)).min();
    let mut pool: Vec<&Candidate> = left.iter().filter(|c| Some(class(c)) == best).copied().collect();
    let uses = |c: &Candidate| given.beside.iter().filter(|server| **server == c.server).count();
    let best_score = pool.iter().map(|c| score(c, free_max)).fold(0.0, f64::max);
    let able = pool.iter().filter(|c| score(c, free_max) >= best_score * SPREAD_SCORE_MIN);
    if let Some(least) = able.map(|c| uses(c)).min() {
        pool.retain(|c| uses(c) <= least);
    }
    pool
}

/// `pool` is not empty.
fn better_of_two<'a>(pool: &[&'a Candidate], free_max: u64, rng: &Rng) -> &'a Candidate {
    let first = rng.below(pool.len() as u64) as usize;
    if pool.len() == 1 {
        return pool[first];
    }
    let other = rng.below(pool.len() as u64 - 1) as usize;
    let second = if other < first { other } else { other + 1 };
    let (a, b) = (score(pool[first], free_max), score(pool[second], free_max));
    let worst_equal = a * (1.0 - SCORES_EQUAL_WITHIN);
    if b * (1.0 - SCORES_EQUAL_WITHIN) > a || (b >= worst_equal && rng.below(2) == 1) {
        pool[second]
    } else {
        pool[first]
    }
}

/// Higher is better, at most 1: the product of what is left of space, CPU, memory, and of patience with its queue.
fn score(candidate: &Candidate, free_max: u64) -> f64 {
    let share = |part: u64, whole: u64| if whole == 0 { 1.0 } else { part as f64 / whole as f64 };
    let factors = [
        // Against the one with most, not of its own disk: so free bytes even out between small and large disks.
        share(candidate.disk_free, free_max),
        1.0 - f64::from(candidate.cpu_percent.min(100)) / 100.0,
        share(candidate.memory_available, candidate.memory_total),
        IN_FLIGHT_HALF / (IN_FLIGHT_HALF + candidate.requests_in_flight as f64),
    ];
    factors.iter().map(|factor| factor.clamp(FACTOR_MIN, 1.0)).product()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dfs_proto::units::GIB;

    use super::*;

    const PLACEMENTS: usize = 10_000;

    fn server(id: u64) -> Candidate {
        Candidate {
            server: ServerId(id),
            zone: String::new(),
            disk_free: 100 * GIB,
            cpu_percent: 10,
            memory_total: 8 * GIB,
            memory_available: 6 * GIB,
            requests_in_flight: 2,
            full: false,
        }
    }

    fn ten() -> Vec<Candidate> {
        (1..=10).map(server).collect()
    }

    fn counts(candidates: &[Candidate], copies: usize, seed: u64) -> BTreeMap<ServerId, usize> {
        let rng = Rng::seeded(seed);
        let mut counts: BTreeMap<ServerId, usize> = candidates.iter().map(|c| (c.server, 0)).collect();
        for _ in 0..PLACEMENTS {
            let chosen = choose(candidates, copies, Given::default(), &rng);
            assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), copies, "PL1, seed {seed}");
            for server in chosen {
                *counts.get_mut(&server).unwrap() += 1;
            }
        }
        counts
    }

    #[test]
    fn of_ten_thousand_placements_a_full_server_gets_none() {
        let mut candidates = ten();
        candidates[3].full = true;
        for copies in 1..=3 {
            assert_eq!(counts(&candidates, copies, 1)[&ServerId(4)], 0);
        }
    }

    #[test]
    fn of_ten_thousand_placements_the_busiest_of_ten_gets_under_half_the_mean() {
        let busy: [fn(&mut Candidate); 4] = [
            |c| c.cpu_percent = 95,
            |c| c.requests_in_flight = 200,
            |c| c.memory_available = GIB / 2,
            |c| c.disk_free = 10 * GIB,
        ];
        for (seed, make_busy) in busy.into_iter().enumerate() {
            let mut candidates = ten();
            make_busy(&mut candidates[6]);
            for copies in 1..=3 {
                let mean = PLACEMENTS * copies / 10;
                let got = counts(&candidates, copies, seed as u64)[&ServerId(7)];
                assert!(got * 2 < mean, "seed {seed}: {got} of a mean of {mean}, {copies} copies");
            }
        }
    }

    #[test]
    fn equal_servers_get_equal_shares_also_when_there_are_only_three() {
        let mut three: Vec<Candidate> = (1..=3).map(server).collect();
        three[1].cpu_percent = 13;
        for (candidates, copies) in [(ten(), 2), (three, 2)] {
            let mean = PLACEMENTS * copies / candidates.len();
            for (server, got) in counts(&candidates, copies, 3) {
                assert!(got * 10 > mean * 8 && got * 10 < mean * 12, "{server}: {got} of a mean of {mean}");
            }
        }
    }

    #[test]
    fn copies_go_to_different_zones_while_there_are_several() {
        let mut candidates = ten();
        for candidate in &mut candidates {
            candidate.zone = if candidate.server.0 <= 8 { "a" } else { "b" }.to_owned();
        }
        let rng = Rng::seeded(4);
        for _ in 0..PLACEMENTS {
            let chosen = choose(&candidates, 3, Given::default(), &rng);
            let in_b = chosen.iter().filter(|s| s.0 > 8).count();
            assert!((1..=2).contains(&in_b), "{chosen:?}");
            assert!((chosen[0].0 > 8) != (chosen[1].0 > 8), "the first two are in one zone: {chosen:?}");
        }
    }

    #[test]
    fn a_server_to_avoid_is_taken_only_when_there_is_no_other() {
        let candidates: Vec<Candidate> = (1..=3).map(server).collect();
        let rng = Rng::seeded(5);
        let given = Given { avoid: &[ServerId(2)], beside: &[] };
        for _ in 0..1000 {
            assert!(!choose(&candidates, 2, given, &rng).contains(&ServerId(2)));
            assert!(choose(&candidates, 3, given, &rng).contains(&ServerId(2)));
        }
    }

    /// Places `chunks` one after the other, each with those before beside it, and counts the copies on each server.
    fn spread(
        candidates: &[Candidate],
        chunks: usize,
        copies: usize,
        rng: &Rng,
    ) -> BTreeMap<ServerId, usize> {
        let mut beside = Vec::new();
        for _ in 0..chunks {
            beside.extend(choose(candidates, copies, Given { avoid: &[], beside: &beside }, rng));
        }
        let count = |c: &Candidate| beside.iter().filter(|server| **server == c.server).count();
        candidates.iter().map(|c| (c.server, count(c))).collect()
    }

    #[test]
    fn the_chunks_of_one_stream_are_spread_over_the_servers_but_not_over_one_that_is_much_busier() {
        let mut four: Vec<Candidate> = (1..=4).map(server).collect();
        let rng = Rng::seeded(9);
        for _ in 0..100 {
            assert!(spread(&four, 4, 1, &rng).values().all(|copies| *copies == 1));
            assert!(spread(&four, 4, 2, &rng).values().all(|copies| *copies == 2));
        }
        four[0].requests_in_flight = 200;
        for _ in 0..100 {
            assert_eq!(spread(&four, 3, 1, &rng)[&ServerId(1)], 0, "the best three have none yet");
        }
    }

    fn wanted(copies: u32, copies_min: u32, view_complete: bool) -> Wanted {
        Wanted { copies, copies_min, view_complete }
    }

    #[test]
    fn fewer_copies_than_wanted_are_placed_only_once_the_view_is_complete() {
        let rng = Rng::seeded(6);
        let one = [server(1)];
        let early = plan(&one, wanted(2, 1, false), Given::default(), &rng);
        assert!(matches!(early, Err(MetaError::Unavailable { .. })), "{early:?}");
        assert_eq!(plan(&one, wanted(2, 1, true), Given::default(), &rng), Ok(vec![ServerId(1)]));
    }

    #[test]
    fn below_the_least_number_of_copies_nothing_is_placed() {
        let rng = Rng::seeded(7);
        let one = [server(1)];
        let few = plan(&one, wanted(3, 2, true), Given::default(), &rng);
        assert!(matches!(few, Err(MetaError::Unavailable { .. })), "{few:?}");
        let none = plan(&[], wanted(2, 1, true), Given::default(), &rng);
        assert!(matches!(none, Err(MetaError::Unavailable { .. })), "{none:?}");
    }

    #[test]
    fn full_servers_are_no_space_and_no_reason_for_fewer_copies() {
        let rng = Rng::seeded(8);
        let full: Vec<Candidate> = (1..=3).map(|id| Candidate { full: true, ..server(id) }).collect();
        let refused = plan(&full, wanted(2, 1, true), Given::default(), &rng);
        assert!(matches!(refused, Err(MetaError::NoSpace { .. })), "{refused:?}");
        let mut all_but_one = full;
        all_but_one[0].full = false;
        let refused = plan(&all_but_one, wanted(2, 1, true), Given::default(), &rng);
        assert!(matches!(refused, Err(MetaError::NoSpace { .. })), "{refused:?}");
    }
}
