//! When openraft looks at its timers. It does so at every tick, and there are five ticks for each heartbeat. Ticks are most of
//! the work of an idle member, and while somebody leads there is nothing to time. So the ticks pause:
//!
//! TI1  A leader does not tick. Its heartbeats are sent from here.
//! TI2  A follower does not tick for the length of a lease after it heard the leader. It could not stand for election before the
//!      lease and an election timeout have passed (P7.5), so the pause delays no election.

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::leadership::Leadership;
use super::machine::state_machine::Raft;
use super::options::Timing;

/// Until when the ticks pause; `None` when they do not.
fn pause_until(leads: bool, heard: Option<Instant>, now: Instant, timing: Timing) -> Option<Instant> {
    let until = if leads { now + timing.heartbeat } else { heard? + timing.election_max };
    (now < until).then_some(until)
}

/// Runs until Raft stops.
pub(crate) async fn pace(
    raft: Raft,
    timing: Timing,
    mut heard: watch::Receiver<Option<Instant>>,
    mut leadership: watch::Receiver<Leadership>,
) {
    loop {
        let leads = leadership.borrow_and_update().is_leader;
        let last_heard = *heard.borrow_and_update();
        let pause = pause_until(leads, last_heard, Instant::now(), timing);
        raft.runtime_config().tick(pause.is_none()); // keeps TI2
        if leads && raft.trigger().heartbeat().await.is_err() {
            return; // keeps TI1
        }
        // A heartbeat that comes during a pause can only make it longer, so it is enough to look when the pause is over.
        let over = async {
            match pause {
                Some(until) => {
                    sleep_until(until).await;
                    Ok(())
                }
                None => heard.changed().await,
            }
        };
        let went_on = tokio::select! {
            biased;
            changed = leadership.changed() => changed,
            over = over => over,
        };
        if went_on.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ticks_pause_while_somebody_leads_and_go_on_before_an_election_could_be_due() {
        let timing = Timing::default();
        let start = Instant::now();
        let after = |elapsed: Duration| start + elapsed;
        assert_eq!(pause_until(true, None, start, timing), Some(after(timing.heartbeat)));
        assert_eq!(pause_until(false, None, start, timing), None);
        assert_eq!(pause_until(false, Some(start), start, timing), Some(after(timing.election_max)));
        let lease_is_over = after(timing.election_max);
        assert_eq!(pause_until(false, Some(start), lease_is_over, timing), None);
    }
}
