//! The session has no longer open what it unlinked. Those that it does not hold are passed over: a release may be
//! repeated under a new request id.

use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Changed, MetaResult};

use super::context::{Context, ensure, invalid};
use crate::table::orphan;

/// Inodes that one request may release: a few records each (P7.2).
const RELEASE_MAX: usize = 1000;

pub(super) fn apply(context: &mut Context<'_, '_>, inodes: &[InodeId]) -> MetaResult<Changed> {
    ensure(inodes.len() <= RELEASE_MAX, invalid(format!("more than {RELEASE_MAX} inodes released at once")))?;
    for &inode in inodes {
        orphan::release(context.txn, inode, context.session);
    }
    Ok(Changed::Done)
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
