//! A session that is alive, and its requests' windows, one for each lane (P8.1).

use dfs_proto::ids::{RequestLane, SessionNonce};

/// One that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    pub nonce: SessionNonce,
    /// For people: host name and mount point.
    pub client: String,
    /// By lane; those behind the last were never used.
    pub windows: Vec<Window>,
}

/// Of one lane, as numbers in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Requests below are refused: answered, given up, or too old (P8.1).
    pub oldest: u64,
    /// The highest request seen.
    pub highest: u64,
}

impl SessionRecord {
    pub fn window(&self, lane: RequestLane) -> Window {
        self.windows.get(usize::from(lane.0)).copied().unwrap_or_default()
    }

    pub(crate) fn window_mut(&mut self, lane: RequestLane) -> &mut Window {
        let lane = usize::from(lane.0);
        if self.windows.len() <= lane {
            self.windows.resize(lane + 1, Window::default());
        }
        &mut self.windows[lane]
    }
}
