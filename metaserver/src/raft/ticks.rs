//! When openraft looks at its timers. It does so by ticks, five for each heartbeat, and a tick costs an idle member more
//! than everything else that it does; while somebody leads there is nothing to time. So the ticks pause then:
//!
//! TI1  A leader's heartbeats go out from here.
//! TI2  A follower ticks unless it heard a leader within the last lease. Before a lease and a time-out have passed it could
//!      not stand for election anyway (P7.5), so the pause delays nothing.

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::leadership::Leadership;
use super::machine::state_machine::Raft;
use super::options::Timing;

/// Until when the ticks pause, as of `now`; `None` when they do not.
fn pause_until(leads: bool, heard: Option<Instant>, now: Instant, timing: Timing) -> Option<Instant> {
    let until = if leads { now + timing.heartbeat } else { heard? + timing.election_max };
    (now < until).then_some(until)
}

/// Ends when Raft does.
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
        // What is heard during a pause only makes it longer: it is looked at in the end.
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
