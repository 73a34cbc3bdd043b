//! What there is once, and the members.

use super::Table;
use super::stored::stored_struct;
use super::value::{self, StateTime};
use crate::command;
use crate::value::cluster;

/// The cluster. Version 1 since the first release.
pub(crate) struct Cluster;

impl Table for Cluster {
    const NAME: &'static str = "the cluster";
    const VERSION: u8 = 1;
    type Value = cluster::ClusterRecord;
    type Record = ClusterRecord;
}

stored_struct! {
    ClusterRecord = cluster::ClusterRecord {
        cluster: u128,
        name: String,
        incarnation: u64,
        copies: u32,
        copies_min: u32,
    }
}

/// The counters. Version 1 since the first release.
pub(crate) struct Counters;

impl Table for Counters {
    const NAME: &'static str = "the counters";
    const VERSION: u8 = 1;
    type Value = cluster::Counters;
    type Record = CountersRecord;
}

stored_struct! {
    CountersRecord = cluster::Counters {
        time: StateTime,
        chunk: u64,
        session: u64,
        server: u64,
        released: u64,
        reaped: u64,
        totals: TotalsRecord,
    }
}

stored_struct! {
    TotalsRecord = cluster::Totals {
        inodes: u64,
        sessions: u64,
        chunks_open: u64,
        chunks_sealed: u64,
        chunks_dead: u64,
        chunks_deleting: u64,
        chunks_degraded: u64,
        chunks_damaged: u64,
        bytes_live: u64,
        bytes_committed: u64,
    }
}

/// The key of the directory hash. Version 1 since the first release.
pub(crate) struct HashKey;

impl Table for HashKey {
    const NAME: &'static str = "the hash key";
    const VERSION: u8 = 1;
    type Value = u128;
    type Record = u128;
}

/// The members. Version 1 since the first release.
pub(crate) struct Members;

impl Table for Members {
    const NAME: &'static str = "the members";
    const VERSION: u8 = 1;
    type Value = command::Member;
    type Record = value::Member;
}
