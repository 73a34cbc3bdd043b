//! Clients that share, cut off from every server for up to two terms: both ways, or one way, or as a machine that is suspended
//! is: what is sent to it and by it arrives when it is back, and its CLOCK_BOOTTIME is further on than its CLOCK_MONOTONIC.
//!
//! A suspended machine's programs go on here, alone: turmoil cannot stop a host. So they believe more than they could, except
//! that no timer of theirs stands still.

use std::time::Duration;

use dfs_net::env::Rng;

use super::layout::{SHARER_HOSTS, SHARERS, metaserver_name};
use super::plan::{LEASE_TERM, Plan};
use super::shared::Shared;

const GAP_MIN: Duration = Duration::from_secs(1);
const GAP_MAX: Duration = Duration::from_secs(12);
const SILENCE_MIN: Duration = Duration::from_millis(500);
/// What CLOCK_BOOTTIME jumps by after a suspension.
const JUMP_MAX: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug)]
enum How {
    Cut,
    CutFromServers,
    CutToServers,
    Suspended,
}

pub(crate) struct Silences {
    rng: Rng,
    /// Then nobody has patience for this too.
    has_slow_logs: bool,
    servers: Vec<String>,
    next: Duration,
    current: Option<(Duration, usize, How)>,
}

impl Silences {
    pub(crate) fn new(rng: Rng, plan: Plan) -> Silences {
        let Plan { layout, has_slow_logs, .. } = plan;
        let metaservers = (0..layout.metaservers()).map(metaserver_name);
        let servers = metaservers.chain((1..=layout.all_chunkservers()).map(|n| format!("c{n}"))).collect();
        Silences { rng, has_slow_logs, servers, next: GAP_MAX / 2, current: None }
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
        if self.has_slow_logs || self.current.is_some() || now < self.next {
            return;
        }
        let who = self.rng.below(SHARERS.len() as u64) as usize;
        let how = match self.rng.below(4) {
            0 => How::Cut,
            1 => How::CutFromServers,
            2 => How::CutToServers,
            _ => How::Suspended,
        };
        let until = now + self.between(SILENCE_MIN, LEASE_TERM * 2);
        for server in &self.servers {
            let (client, server) = (SHARERS[who], server.as_str());
            match how {
                How::Cut => sim.partition(client, server),
                How::CutFromServers => sim.partition_oneway(server, client),
                How::CutToServers => sim.partition_oneway(client, server),
                How::Suspended => sim.hold(client, server),
            }
        }
        tracing::info!("{now:?}: until {until:?}: {} is silent: {how:?}", SHARERS[who]);
        shared.note_fault(sim, 11).silences += 1;
        self.current = Some((until, who, how));
    }

    pub(crate) fn end(&mut self, sim: &turmoil::Sim<'_>, shared: &Shared) {
        let Some((_, who, how)) = self.current.take() else { return };
        for server in &self.servers {
            let (client, server) = (SHARERS[who], server.as_str());
            match how {
                How::Cut => sim.repair(client, server),
                How::CutFromServers => sim.repair_oneway(server, client),
                How::CutToServers => sim.repair_oneway(client, server),
                How::Suspended => sim.release(client, server),
            }
        }
        if matches!(how, How::Suspended) {
            shared.clocks.slept(SHARER_HOSTS + who as u64, self.between(Duration::ZERO, JUMP_MAX));
        }
        tracing::info!("{:?}: {} is silent no longer", sim.elapsed(), SHARERS[who]);
    }
}
