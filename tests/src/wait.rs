//! Waiting for real processes. Their clock is the machine's, so this is the one place of the whole-system tests that
//! looks at it and pauses between two looks.

use std::time::{Duration, Instant};

/// Between two looks at a condition: short against every stall that is measured.
const PAUSE: Duration = Duration::from_millis(20);

#[allow(clippy::disallowed_methods, reason = "real processes run on the machine's clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// A pause between two looks at something that nobody announces. Not for "long enough by then".
#[allow(clippy::disallowed_methods, reason = "real processes run on the machine's clock")]
pub fn pause(length: Duration) {
    std::thread::sleep(length);
}

/// What `probe` gives as soon as it gives something; `None` after `deadline`.
pub fn at_most<T>(deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = now() + deadline;
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if now() >= end {
            return None;
        }
        pause(PAUSE);
    }
}

/// Like [`at_most`]; panics with `what` after `deadline`.
#[track_caller]
pub fn until<T>(what: &str, deadline: Duration, probe: impl FnMut() -> Option<T>) -> T {
    match at_most(deadline, probe) {
        Some(value) => value,
        None => panic!("waited {deadline:?} for {what}"),
    }
}
