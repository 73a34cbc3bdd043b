//! A session has no longer open what has no name. Those that it does not hold are passed over: a release may be repeated under
//! a new request id, and the leader releases for a session that has told of a close.

use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::meta::{Changed, MetaResult};

use super::context::{Context, ensure, invalid};
use crate::command::{RELEASE_MAX, Reply};
use crate::kv::Txn;
use crate::table::orphan;

pub(super) fn apply(context: &mut Context<'_, '_>, inodes: &[InodeId]) -> MetaResult<Changed> {
    release(context.txn, context.session, inodes)?;
    Ok(Changed::Done)
}

/// By the leader.
pub(crate) fn release_for(txn: &mut Txn<'_>, session: SessionId, inodes: &[InodeId]) -> Reply {
    match release(txn, session, inodes) {
        Ok(()) => Reply::Done,
        Err(refused) => Reply::Refused(refused),
    }
}

fn release(txn: &mut Txn<'_>, session: SessionId, inodes: &[InodeId]) -> MetaResult<()> {
    ensure(inodes.len() <= RELEASE_MAX, invalid(format!("more than {RELEASE_MAX} inodes released at once")))?;
    for &inode in inodes {
        orphan::release(txn, inode, session);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::Caller;
    use dfs_proto::meta::Change;

    use super::*;
    use crate::tests::Harness;

    #[test]
    fn only_the_holder_releases_an_orphan_and_a_file_with_a_name_is_none() {
        let mut harness = Harness::new();
        let (named, file) = (harness.file(InodeId::ROOT, "n"), harness.file(InodeId::ROOT, "f"));
        harness.unlink(InodeId::ROOT, "f").expect("it is there");
        let holder = harness.session;
        harness.session = harness.open_session(2);
        let release = || Change::ReleaseOrphans { inodes: vec![file, named, InodeId(77)] };
        assert_eq!(harness.change(&Caller::ROOT, release()), Ok(Changed::Done));
        assert_eq!(harness.attr(file).nlink, 0);
        harness.session = holder;
        assert_eq!(harness.change(&Caller::ROOT, release()), Ok(Changed::Done));
        assert!(harness.try_attr(file).is_err());
        assert_eq!(harness.attr(named).nlink, 1);
        harness.check();
    }
}
