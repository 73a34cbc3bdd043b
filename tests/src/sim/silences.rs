//! Clients that share, cut off from every server for up to two terms: both ways, or one way, or as a machine that is suspended
//! is: what is sent to it and by it arrives when it is back, and its CLOCK_BOOTTIME is further on than its CLOCK_MONOTONIC. Or they are
//! only slow to handle what they are sent unasked.
//!
//! Around its beginning they look at everything again and again (`sharing::watching`), and often a leader fails then: so they have leases
//! of one leader while others change things through the next.
//!
//! A suspended machine's programs go on here, alone: turmoil cannot stop a host. So they believe more than they could, except
//! that no timer of theirs stands still.

use std::time::Duration;

use dfs_net::env::Rng;

use super::layout::{SHARER_HOSTS, SHARERS, metaserver_name};
use super::plan::{LEASE_TERM, Plan};
use super::shared::{Failing, Shared};

const GAP_MIN: Duration = Duration::from_secs(1);
const GAP_MAX: Duration = Duration::from_secs(6);
const SILENCE_MIN: Duration = Duration::from_millis(500);
/// Of two in three.
const SHORT_MAX: Duration = Duration::from_secs(6);
/// What CLOCK_BOOTTIME jumps by after a suspension.
const JUMP_MAX: Duration = Duration::from_secs(40);

/// For so long before a silence its client looks at everything, and so long from its beginning on.
const WATCHED_BEFORE: Duration = Duration::from_millis(500);
const WATCHED_FOR: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
enum How {
    Cut,
    CutFromServers,
    CutToServers,
    Suspended,
    /// From all servers but one, which leads and is cut off from the other metaservers.
    CutWithLeader(usize),
    /// It is answered, and handles nothing that it is sent unasked.
    PushesLate,
}

pub(crate) struct Silences {
    rng: Rng,
    /// Then nobody has patience for this too.
    has_slow_logs: bool,
    servers: Vec<String>,
    clusters: u64,
    next: Duration,
    current: Option<(Duration, usize, How)>,
}

impl Silences {
    pub(crate) fn new(rng: Rng, plan: Plan) -> Silences {
        let Plan { layout, has_slow_logs, .. } = plan;
        let metaservers = (0..layout.metaservers()).map(metaserver_name);
        let servers = metaservers.chain((1..=layout.all_chunkservers()).map(|n| format!("c{n}"))).collect();
        let clusters = layout.clusters as u64;
        Silences { rng, has_slow_logs, servers, clusters, next: GAP_MAX, current: None }
    }

    fn between(&self, least: Duration, most: Duration) -> Duration {
        least + Duration::from_micros(self.rng.below((most - least).as_micros() as u64))
    }

    /// Ends a silence that is due, or begins one.
    pub(crate) fn tick(&mut self, sim: &turmoil::Sim<'_>, shared: &Shared) {
        let now = sim.elapsed();
        if self.current.is_some_and(|(until, ..)| until <= now) {
            self.end(sim, shared);
            self.next = now + self.between(GAP_MIN, GAP_MAX);
        }
        if self.has_slow_logs || self.current.is_some() {
            return;
        }
        if now + WATCHED_BEFORE >= self.next {
            shared.silence.watch_until(self.next + WATCHED_FOR);
        }
        if now >= self.next {
            self.begin(sim, shared);
        }
    }

    fn begin(&mut self, sim: &turmoil::Sim<'_>, shared: &Shared) {
        let now = sim.elapsed();
        let who = self.rng.below(SHARERS.len() as u64) as usize;
        let leader = shared.leader(self.rng.below(self.clusters) as usize);
        let how = match self.rng.below(8) {
            0 => How::Cut,
            1 => How::CutFromServers,
            2 => How::CutToServers,
            3 => How::Suspended,
            4..=5 => leader.map_or(How::Cut, How::CutWithLeader),
            _ => How::PushesLate,
        };
        let most = if self.rng.below(3) == 0 { LEASE_TERM * 2 } else { SHORT_MAX };
        let until = now + self.between(SILENCE_MIN, most);
        for server in self.cut(how) {
            let client = SHARERS[who];
            match how {
                How::Cut | How::CutWithLeader(_) => sim.partition(client, server),
                How::CutFromServers => sim.partition_oneway(server, client),
                How::CutToServers => sim.partition_oneway(client, server),
                How::Suspended => sim.hold(client, server),
                How::PushesLate => {}
            }
        }
        shared.silence.late_pushes.set(matches!(how, How::PushesLate));
        shared.silence.set_silent(true);
        match (how, leader) {
            (How::CutWithLeader(index), _) => shared.silence.fail(Failing::Isolation(index)),
            (_, Some(index)) if self.rng.below(3) == 0 => shared.silence.fail(Failing::Crash(index)),
            _ => {}
        }
        tracing::info!("{now:?}: until {until:?}: {} is silent: {how:?}", SHARERS[who]);
        shared.note_fault(sim, 11).silences += 1;
        self.current = Some((until, who, how));
    }

    /// The servers that it is cut off from.
    fn cut(&self, how: How) -> impl Iterator<Item = &str> {
        let spared = if let How::CutWithLeader(index) = how { Some(metaserver_name(index)) } else { None };
        self.servers.iter().filter(move |server| Some(*server) != spared.as_ref()).map(String::as_str)
    }

    pub(crate) fn end(&mut self, sim: &turmoil::Sim<'_>, shared: &Shared) {
        let Some((_, who, how)) = self.current.take() else { return };
        for server in self.cut(how) {
            let client = SHARERS[who];
            match how {
                How::Cut | How::CutWithLeader(_) => sim.repair(client, server),
                How::CutFromServers => sim.repair_oneway(server, client),
                How::CutToServers => sim.repair_oneway(client, server),
                How::Suspended => sim.release(client, server),
                How::PushesLate => {}
            }
        }
        shared.silence.late_pushes.set(false);
        shared.silence.set_silent(false);
        if matches!(how, How::Suspended) {
            shared.clocks.slept(SHARER_HOSTS + who as u64, self.between(Duration::ZERO, JUMP_MAX));
        }
        tracing::info!("{:?}: {} is silent no longer", sim.elapsed(), SHARERS[who]);
    }
}
