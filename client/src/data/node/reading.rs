//! What a reader sees of one inode, and how long it waits for it.

use std::time::Duration;

use bytes::Bytes;
use dfs_proto::meta::FileExtents;
use tokio::time::Instant;

use crate::data::extents::{ExtentCache, Located};
use crate::data::node::NodeState;

/// For this long after a read that waited in vain, reads have a short deadline (N6).
const IMPATIENT_FOR: Duration = Duration::from_secs(5);

/// What a reader sees of a range at one moment (N2).
pub(crate) struct View {
    /// The version of the committed content.
    pub(crate) version: u64,
    /// The size of the file.
    pub(crate) size: u64,
    pub(crate) overlay: Vec<(u64, Bytes)>,
    pub(crate) extents: Vec<Located>,
}

impl NodeState {
    /// The time-out of the next read: `whole`, or `short` soon after a read that waited in vain (N6).
    pub(crate) fn read_timeout(&self, whole: Duration, short: Duration) -> Duration {
        let has_just_failed = self.unreachable_since.is_some_and(|since| since.elapsed() < IMPATIENT_FOR);
        if has_just_failed { short.min(whole) } else { whole }
    }

    /// A read has ended, and may have waited for its whole deadline in vain.
    pub(crate) fn note_read(&mut self, was_in_vain: bool) {
        self.unreachable_since = was_in_vain.then(Instant::now);
    }

    /// The range `[from, to)` as it is now, or the first position whose extents have to be fetched. `fetched` is what
    /// the caller has fetched for this read: the cache may have dropped it, when it was full.
    pub(crate) fn view(&self, fetched: &ExtentCache, from: u64, to: u64) -> Result<View, u64> {
        let overlay = self.buffer.overlay(from, to);
        let mut extents = Vec::new();
        let mut at = from;
        for (offset, bytes) in &overlay {
            if at < *offset {
                extents.extend(self.extents(fetched, at, *offset)?);
            }
            at = offset + bytes.len() as u64;
        }
        if at < to {
            extents.extend(self.extents(fetched, at, to)?);
        }
        Ok(View { version: self.cache.version(), size: self.size(), overlay, extents })
    }

    /// The same of the committed content only.
    pub(crate) fn committed_view(&self, fetched: &ExtentCache, from: u64, to: u64) -> Result<View, u64> {
        let extents = self.extents(fetched, from, to)?;
        let size = self.base.as_ref().map_or(0, |base| base.size.0);
        Ok(View { version: self.cache.version(), size, overlay: Vec::new(), extents })
    }

    fn extents(&self, fetched: &ExtentCache, from: u64, to: u64) -> Result<Vec<Located>, u64> {
        self.cache.range(from, to).or_else(|unknown| {
            if fetched.version() != self.cache.version() {
                return Err(unknown);
            }
            fetched.range(from, to).map_err(|also_unknown| unknown.max(also_unknown))
        })
    }

    /// The version of the committed content, if nothing is buffered over `[from, to)`.
    pub(crate) fn clean_version(&self, from: u64, to: u64) -> Option<u64> {
        self.buffer.overlay_is_empty(from, to).then(|| self.cache.version())
    }

    pub(crate) fn install_extents(&mut self, from: u64, found: &FileExtents) {
        let known = self.base.as_ref().map_or(0, |base| base.content_version);
        if found.attr.content_version >= known {
            self.observe(&found.attr);
            self.cache.install(from, found);
        }
    }

    /// What was known of the file before it was opened, if that is its version (E2) and nothing else is known.
    pub(crate) fn install_known(&mut self, known: ExtentCache) {
        let version = self.base.as_ref().map(|base| base.content_version);
        if version == Some(known.version()) && self.cache.is_empty() {
            self.cache = known;
        }
    }

    /// Copies may have moved: the next reader asks again where they are.
    pub(crate) fn forget_extents(&mut self) {
        let version = self.cache.version();
        self.cache.reset(version);
    }
}
