//! Removes a name of anything but a directory. The inode that loses its last name becomes an orphan of the session, which may
//! have it open, and of the others that have (P6.5).

use dfs_proto::attr::Name;
use dfs_proto::error::MetaError;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Changed, MetaResult};

use super::context::{
    Context, drop_name, ensure, entry_removed, is_volume_root, named, require_writable, searchable,
};
use crate::permission;
use crate::table::{dirent, inode};

pub(super) fn apply(context: &mut Context<'_, '_>, parent: InodeId, name: &Name) -> MetaResult<Changed> {
    let mut directory = searchable(context, parent)?;
    let entry = dirent::find(context.txn, parent, name).ok_or(MetaError::NotFound)?;
    require_writable(context, &directory)?;
    let inode = entry.record.inode;
    ensure(!is_volume_root(parent, inode), MetaError::IsDirectory)?;
    let record = named(context, inode);
    permission::require_unsticky(&directory, &record, context.caller)?;
    ensure(!record.is_directory(), MetaError::IsDirectory)?;
    dirent::remove(context.txn, parent, &entry);
    entry_removed(&mut directory, false, context.now);
    inode::put(context.txn, parent, &directory);
    Ok(Changed::Removed { orphan: drop_name(context, inode, record)? })
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::Caller;
    use dfs_proto::ids::SessionId;
    use dfs_proto::meta::{Change, NewInode};

    use super::*;
    use crate::command::{Command, NamedInode, Reply};
    use crate::read;
    use crate::tests::{Harness, create, name, user};

    #[test]
    fn an_unlinked_file_stays_until_its_holder_releases_it() {
        let mut harness = Harness::new();
        let file = harness.file(InodeId::ROOT, "f");
        assert_eq!(harness.unlink(InodeId::ROOT, "f"), Ok(Some(file)));
        assert_eq!(harness.attr(file).nlink, 0);
        harness.check();
        let released = harness.change(&Caller::ROOT, Change::ReleaseOrphans { inodes: vec![file] });
        assert_eq!(released, Ok(Changed::Done));
        assert_eq!(harness.try_attr(file), Err(MetaError::Stale));
        harness.check();
    }

    /// Sessions that have the file open, in the order of their numbers.
    fn opened_by(harness: &mut Harness, file: InodeId, count: u128) -> Vec<SessionId> {
        let openers: Vec<SessionId> = (0..count).map(|nonce| harness.open_session(100 + nonce)).collect();
        harness.openers.insert(file, openers.clone());
        openers
    }

    #[test]
    fn a_file_that_others_have_open_stays_until_the_last_of_them_has_released_it() {
        let mut harness = Harness::new();
        let file = harness.file(InodeId::ROOT, "f");
        let openers = opened_by(&mut harness, file, 2);
        assert_eq!(harness.unlink(InodeId::ROOT, "f"), Ok(Some(file)));
        let holders = [harness.session, openers[0], openers[1]];
        for (index, session) in holders.into_iter().enumerate() {
            harness.check();
            assert_eq!(harness.attr(file).nlink, 0, "{index} have released it");
            let release = Command::ReleaseFor { session, inodes: vec![file] };
            assert_eq!(harness.command(release.clone()), Reply::Done);
            assert_eq!(harness.command(release), Reply::Done, "a second time it has no effect");
        }
        assert_eq!(harness.try_attr(file), Err(MetaError::Stale));
        harness.check();
    }

    #[test]
    fn the_end_of_a_session_releases_its_own_holds_only() {
        let mut harness = Harness::new();
        let file = harness.file(InodeId::ROOT, "f");
        let openers = opened_by(&mut harness, file, 2);
        let ended_before = openers[1];
        harness.command(Command::ExpireSession { session: ended_before });
        harness.unlink(InodeId::ROOT, "f").expect("it is there");
        assert!(
            !harness.view(|view| read::holds_orphan(view, ended_before, file)),
            "it holds nothing any more"
        );
        harness.command(Command::CloseSession { session: harness.session });
        harness.reap();
        assert_eq!(harness.attr(file).nlink, 0, "{} has it open", openers[0]);
        harness.command(Command::ExpireSession { session: openers[0] });
        harness.reap();
        assert!(harness.try_attr(file).is_err());
        harness.check();
    }

    #[test]
    fn whoever_has_the_file_open_reads_and_writes_it_without_its_name() {
        let mut harness = Harness::new();
        harness.servers(2);
        let file = harness.file(InodeId::ROOT, "f");
        let openers = opened_by(&mut harness, file, 1);
        harness.unlink(InodeId::ROOT, "f").expect("it is there");
        harness.change(&Caller::ROOT, Change::ReleaseOrphans { inodes: vec![file] }).expect("held");
        harness.session = openers[0];
        let chunk = harness.open_chunk();
        harness.write(file, 0, 100, chunk).expect("it is there for the session");
        harness.truncate(file, 50);
        assert_eq!(harness.pieces(file), [(0, 50, chunk)]);
        harness.check();
        harness.change(&Caller::ROOT, Change::ReleaseOrphans { inodes: vec![file] }).expect("held");
        harness.reap();
        assert!(harness.try_attr(file).is_err());
        harness.check();
    }

    /// The leader resolved the name before another request changed what it leads to.
    #[test]
    fn a_last_name_is_taken_only_of_the_file_whose_openers_are_named() {
        let mut harness = Harness::new();
        let (file, other) = (harness.file(InodeId::ROOT, "f"), harness.file(InodeId::ROOT, "other"));
        let unlink = Change::Unlink { parent: InodeId::ROOT, name: name("f") };
        let request = harness.next_request(&Caller::ROOT, unlink);
        let with = |named| Command::Change {
            request: request.clone(),
            placement: Vec::new(),
            volumes: Vec::new(),
            named: Some(named),
        };
        let of = |inode, openers| vec![NamedInode { inode, openers }];
        for named in [vec![], of(other, Some(vec![harness.session])), of(file, None)] {
            let reply = harness.command(with(named));
            assert!(matches!(reply, Reply::Refused(MetaError::Undecided { .. })), "{reply:?}");
            assert_eq!(harness.lookup(InodeId::ROOT, "f"), Ok(file));
            harness.check();
        }
        let reply = harness.command(with(of(file, Some(Vec::new()))));
        let Reply::Changed(Ok(answered)) = reply else { panic!("nothing of it was remembered: {reply:?}") };
        assert_eq!(answered.changed, Changed::Removed { orphan: Some(file) });
        harness.check();
    }

    #[test]
    fn a_name_that_is_not_the_last_one_needs_no_openers() {
        let mut harness = Harness::new();
        let file = harness.file(InodeId::ROOT, "f");
        let link = Change::Link { inode: file, parent: InodeId::ROOT, name: name("g") };
        harness.change(&Caller::ROOT, link).expect("free name");
        let unlink = Change::Unlink { parent: InodeId::ROOT, name: name("f") };
        let request = harness.next_request(&Caller::ROOT, unlink);
        let with = |named| Command::Change {
            request: request.clone(),
            placement: Vec::new(),
            volumes: Vec::new(),
            named: Some(named),
        };
        let reply = harness.command(with(Vec::new()));
        assert!(matches!(reply, Reply::Refused(MetaError::Undecided { .. })), "it changes: {reply:?}");
        assert_eq!(harness.attr(file).nlink, 2);
        let reply = harness.command(with(vec![NamedInode { inode: file, openers: None }]));
        assert!(matches!(reply, Reply::Changed(Ok(_))), "{reply:?}");
        assert_eq!(harness.attr(file).nlink, 1);
    }

    /// Its leader did not know who has a file open; members that have applied it already hold the same.
    #[test]
    fn an_entry_of_an_earlier_release_names_nobody_and_its_session_alone_holds_the_file() {
        let mut harness = Harness::new();
        let file = harness.file(InodeId::ROOT, "f");
        let unlink = Change::Unlink { parent: InodeId::ROOT, name: name("f") };
        let request = harness.next_request(&Caller::ROOT, unlink);
        let (placement, volumes) = (Vec::new(), Vec::new());
        let reply = harness.command(Command::Change { request, placement, volumes, named: None });
        assert!(matches!(reply, Reply::Changed(Ok(_))), "{reply:?}");
        assert!(harness.view(|view| read::holds_orphan(view, harness.session, file)));
        harness.check();
    }

    #[test]
    fn in_a_sticky_directory_only_owners_remove_names() {
        let mut harness = Harness::new();
        let directory = harness.directory(InodeId::ROOT, "tmp");
        harness.chmod(&Caller::ROOT, directory, 0o1777).expect("root may");
        harness.change(&user(7), create(directory, "f", 0o666, NewInode::File)).expect("everyone may write");
        let unlink = || Change::Unlink { parent: directory, name: name("f") };
        assert_eq!(harness.change(&user(8), unlink()), Err(MetaError::NotPermitted));
        assert!(harness.change(&user(7), unlink()).is_ok());
        harness.check();
    }

    #[test]
    fn a_directory_is_not_unlinked() {
        let mut harness = Harness::new();
        harness.directory(InodeId::ROOT, "d");
        assert_eq!(harness.unlink(InodeId::ROOT, "d"), Err(MetaError::IsDirectory));
        assert_eq!(harness.unlink(InodeId::ROOT, "none"), Err(MetaError::NotFound));
    }
}
