//! The reaper: deletes, a bounded number of records a command, what nothing needs any more (P7.2).

use dfs_proto::ids::{ChunkId, InodeId, SessionId};

use crate::command::{REAP_LIMIT_MAX, Reply};
use crate::kv::{Snapshot, Txn};
use crate::table::extent::{self, LiveBytes};
use crate::table::{chunk, inode, orphan, session, space};
use crate::time::StateTime;
use crate::value::extent::Cut;

/// Extents of released orphans, then what cuts hide, then the leftovers of sessions that ended.
pub(crate) fn apply(txn: &mut Txn<'_>, now: StateTime, limit: u32) -> Reply {
    let limit = limit.clamp(1, REAP_LIMIT_MAX) as usize;
    let mut left = limit;
    let mut live = LiveBytes::default();
    while left > 0 {
        let done = if let Some(inode) = orphan::first_released(txn) {
            reap_orphan(txn, inode, &mut live, left)
        } else if let Some(cut) = extent::first_cut(txn) {
            // Cuts of a released inode went with its extents, so this one is a file's.
            reap_cut(txn, cut, &mut live, left)
        } else if let Some(session) = session::first_ended(txn) {
            reap_session(txn, session, now, left)
        } else {
            break;
        };
        left = left.saturating_sub(done.max(1));
    }
    live.settle(txn, now);
    Reply::Worked { count: (limit - left) as u32, more: has_work_for_reaper(txn) }
}

/// Would `Reap` find anything?
pub fn has_work_for_reaper(view: &dyn Snapshot) -> bool {
    orphan::first_released(view).is_some()
        || extent::first_cut(view).is_some()
        || session::first_ended(view).is_some()
}

fn reap_orphan(txn: &mut Txn<'_>, inode: InodeId, live: &mut LiveBytes, limit: usize) -> usize {
    let done = extent::reap_all(txn, inode, live, limit);
    if done < limit {
        orphan::forget_first_released(txn);
    }
    done
}

fn reap_cut(txn: &mut Txn<'_>, cut: (InodeId, Cut), live: &mut LiveBytes, limit: usize) -> usize {
    let mut space = inode::space(txn, cut.0);
    assert!(space.cuts > 0, "broken invariant S5: {} has a cut and counts none", cut.0);
    let done = extent::reap_cut(txn, cut, &mut space, live, limit);
    space::put(txn, cut.0, &space);
    done
}

/// Keeps P1.7 and P3.1: its open chunks are sealed, its orphans released, its results forgotten.
fn reap_session(txn: &mut Txn<'_>, session: SessionId, now: StateTime, limit: usize) -> usize {
    let chunks: Vec<ChunkId> = chunk::open_of_session(txn, session).take(limit).collect();
    for &id in &chunks {
        chunk::seal(txn, id, now);
    }
    let left = limit - chunks.len();
    let orphans: Vec<InodeId> = orphan::held_by(txn, session).take(left).collect();
    for &inode in &orphans {
        orphan::release(txn, inode, session);
    }
    let left = left - orphans.len();
    let records = if left > 0 { session::reap(txn, session, left) } else { 0 };
    limit - left + records
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::Caller;
    use dfs_proto::meta::Change;

    use super::*;
    use crate::command::Command;
    use crate::read;
    use crate::tests::Harness;

    #[test]
    fn a_command_touches_no_more_records_than_its_limit() {
        let mut harness = Harness::new();
        harness.servers(2);
        let file = harness.file(InodeId::ROOT, "f");
        let chunks = [harness.open_chunk(), harness.open_chunk()];
        for index in 0..25 {
            harness.write(file, index * 10, 10, chunks[index as usize % 2]).expect("commits");
        }
        harness.unlink(InodeId::ROOT, "f").expect("it is there");
        harness.change(&Caller::ROOT, Change::ReleaseOrphans { inodes: vec![file] }).expect("held");
        assert_eq!(harness.command(Command::Reap { limit: 10 }), Reply::Worked { count: 10, more: true });
        harness.check();
        assert_eq!(harness.command(Command::Reap { limit: 10 }), Reply::Worked { count: 10, more: true });
        assert_eq!(harness.command(Command::Reap { limit: 10 }), Reply::Worked { count: 5, more: false });
        assert_eq!(harness.command(Command::Reap { limit: 10 }), Reply::Worked { count: 0, more: false });
        harness.check();
    }

    #[test]
    fn an_ended_session_is_cleared_in_steps() {
        let mut harness = Harness::new();
        harness.servers(2);
        for index in 0..5 {
            harness.open_chunk();
            harness.file(InodeId::ROOT, &format!("f{index}"));
            harness.unlink(InodeId::ROOT, &format!("f{index}")).expect("it is there");
        }
        let session = harness.session;
        harness.command(Command::CloseSession { session });
        let mut steps = 0;
        while harness.command(Command::Reap { limit: 3 }) != (Reply::Worked { count: 0, more: false }) {
            harness.check();
            steps += 1;
            assert!(steps < 100, "the reaper does not end");
        }
        let totals = harness.view(read::totals);
        assert_eq!((totals.inodes, totals.chunks_open, totals.sessions), (1, 0, 0));
        harness.check();
    }
}
