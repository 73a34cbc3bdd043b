//! Clients that work on the same files and names at once, and what they may see of each other.
//!
//! Each takes locks of two files (`locking`), and makes, renames, removes and looks at names of one directory (`naming`). Pure
//! histories say what is wrong: `lock_history` for locks and what is done under them, `shown` over `register` for all that
//! is looked at. Every look is checked against everything that had returned before it began.
//!
//! A client that keeps its session leaves some of what it writes in its buffer: the others see it all the same.
//!
//! A client that may be silent for longer than a term, or dies, may lose its session, and says so; what it was doing then may have
//! happened or not. The others see no error, and none waits for a lock under one leader for longer than [`sharer::WAIT_MAX`].

mod history;
mod lock_history;
mod locking;
mod naming;
mod register;
mod sharer;
mod shown;
mod watching;

pub(super) use history::History;
pub(super) use sharer::Sharer;

/// The directory's name in the root.
pub(super) const DIRECTORY: &str = "shared";

/// Works until all walkers are done.
pub(super) async fn live(sharer: Sharer) {
    let naming = naming::live(sharer.clone());
    futures::future::join(naming, locking::live(sharer)).await;
}

/// The same, and looks more closely when it may be silent.
pub(super) async fn live_watched(sharer: Sharer) {
    futures::future::join(live(sharer.clone()), watching::live(sharer)).await;
}

/// Everything is as it was, as a fresh client sees it after the power failure.
pub(super) async fn check(sharer: Sharer) {
    naming::look_at_all(&sharer).await;
    locking::check(&sharer).await;
}
