//! Results of changes, remembered for a retry (P8.1).

use dfs_proto::meta::{Changed, MetaResult};

use super::{Table, value};

/// The remembered results. Version 1 since the first release.
pub(crate) struct Results;

impl Table for Results {
    const NAME: &'static str = "the remembered results";
    const VERSION: u8 = 1;
    type Value = MetaResult<Changed>;
    type Record = Result<value::Changed, value::MetaError>;
}
