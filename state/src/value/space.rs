//! What a file's extents take.

use dfs_proto::units::ByteLen;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpaceRecord {
    /// Bytes of the extent records, those behind a cut too.
    pub allocated: ByteLen,
    /// Truncations that the reaper has not finished.
    pub cuts: u32,
}
