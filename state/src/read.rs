//! What may be asked of the state. Each function looks at a bounded part of one snapshot; none scans everything, but those that
//! say so.

use std::collections::BTreeSet;

use dfs_proto::attr::{AccessMask, Caller, FileKind, InodeAttr, Name};
use dfs_proto::error::MetaError;
use dfs_proto::extent::Extent;
use dfs_proto::ids::{ChunkId, InodeId, RequestId, ServerId, SessionId, VolumeId};
use dfs_proto::meta::{
    Change, ChangeRequest, Changed, Create, DirEntry, FileExtents, MetaResult, Read, ReadReply, ReadRequest,
    StatFs,
};
use dfs_proto::units::Offset;

mod near;

pub use super::ops::behind::Behind;
pub use super::ops::reap::has_work_for_reaper;
pub use super::ops::volume::NeededVolume;

use super::leasable::Leasable;
use super::time::StateTime;
use super::{ops, permission};
use crate::command::{Command, Member, Proposed, Reply, RootAttr, Silence, VolumeRoot};
use crate::keys::May;
use crate::kv::{Snapshot, Txn};
use crate::table::{chunk, cluster, dirent, extent, inode, orphan, server, session, space, volume};
use crate::value::chunk::ChunkRecord;
use crate::value::cluster::{ClusterRecord, Totals};
use crate::value::dirent::Dirent;
use crate::value::inode::InodeRecord;
use crate::value::server::ServerRecord;
use crate::value::session::SessionRecord;
use crate::value::volume::{VolumeEntry, VolumeState};

/// Entries that one answer holds, at most: with names of 255 bytes and attributes well below a message's limit.
pub const READDIR_ENTRIES_MAX: u32 = 1024;
/// Extents that one answer holds, at most.
pub const EXTENTS_MAX: u32 = 4096;
/// The first extents of a file that the answer to an open brings: a small file has no more.
const OPEN_EXTENTS_MAX: u32 = 8;
/// Extents behind a cut that one answer passes over, before it ends early.
const HIDDEN_MAX: usize = 4096;

/// Answers a client, with the rights of the caller that the request names; SEMANTICS.md has the table. What belongs to an open
/// file or directory is asked for by its client as root: there the right was checked at the open (P2.4).
///
/// Of `StatFs` only the number of inodes is known here; the space is for the view of the servers.
pub fn answer(view: &dyn Snapshot, request: &ReadRequest) -> MetaResult<ReadReply> {
    look(view, request, &mut Leasable::not_asked_for())
}

/// [`answer`], and the inodes that it shows and on which a lease may be held.
pub fn answer_leasable(view: &dyn Snapshot, request: &ReadRequest) -> (MetaResult<ReadReply>, Vec<InodeId>) {
    let mut leasable = Leasable::asked_for();
    let answered = look(view, request, &mut leasable);
    let leasable = leasable.shown_by(&answered);
    (answered, leasable)
}

fn look(view: &dyn Snapshot, request: &ReadRequest, leasable: &mut Leasable) -> MetaResult<ReadReply> {
    if cluster::require(view)?.cluster != request.cluster {
        return Err(MetaError::WrongCluster { map_version: 0 });
    }
    session::require(view, request.session)?;
    let caller = &request.caller;
    match &request.read {
        Read::Lookup { parent, name } => {
            let found = find(view, caller, *parent, name, leasable)?;
            match is_elsewhere(view, *parent, found) {
                true => Ok(ReadReply::Elsewhere(found)),
                false => attr_of(view, found, leasable).map(ReadReply::Attr),
            }
        }
        Read::GetAttr { inode } => attr_of(view, *inode, leasable).map(ReadReply::Attr),
        Read::Access { inode, mask } => {
            let record = inode::require(view, *inode)?;
            leasable.note(view, *inode, &record);
            permission::require(&record, caller, *mask)?;
            Ok(ReadReply::Granted)
        }
        Read::Open { inode, mask } => open(view, caller, request.session, (*inode, *mask), leasable),
        Read::ReadLink { inode } => {
            let record = inode::require(view, *inode)?;
            leasable.note(view, *inode, &record);
            target(record).map(ReadReply::Target)
        }
        Read::ReadDir { inode, cookie, limit, plus } => {
            let page = Page { after: *cookie, limit: *limit, plus: *plus };
            readdir(view, caller, *inode, page, leasable)
        }
        Read::ReadAhead { inode, cookie, limit } => {
            let page = Page { after: *cookie, limit: *limit, plus: true };
            readdir(view, caller, *inode, page, leasable)
        }
        Read::Extents { inode, offset, len, limit } => {
            permission::require(&inode::require(view, *inode)?, caller, AccessMask::READ)?;
            extents_noting(view, *inode, (*offset, *len, *limit), leasable).map(ReadReply::Extents)
        }
        Read::ExtentsNear { inode } => near::extents(view, *inode).map(ReadReply::FewExtents),
        Read::StatFs { inode } => {
            inode::require(view, *inode)?;
            Ok(ReadReply::StatFs(StatFs { inodes: totals(view).inodes, ..StatFs::default() }))
        }
    }
}

/// `name` may be `.` or `..`. Only within a volume, or to one that is here too.
pub fn lookup(view: &dyn Snapshot, caller: &Caller, parent: InodeId, name: &[u8]) -> MetaResult<InodeAttr> {
    getattr(view, find(view, caller, parent, name, &mut Leasable::not_asked_for())?)
}

/// The root of a volume that another cluster has; or of none any more, which whoever goes there is told.
fn is_elsewhere(view: &dyn Snapshot, directory: InodeId, inode: InodeId) -> bool {
    let state = volume::get(view, inode.volume()).map(|record| record.state);
    inode.volume() != directory.volume() && matches!(state, None | Some(VolumeState::Dropped))
}

fn find(
    view: &dyn Snapshot,
    caller: &Caller,
    parent: InodeId,
    name: &[u8],
    leasable: &mut Leasable,
) -> MetaResult<InodeId> {
    let directory = inode::require_directory(view, parent)?;
    leasable.note(view, parent, &directory);
    permission::require(&directory, caller, AccessMask::EXECUTE)?;
    let found = match name {
        b"." => parent,
        b".." if directory.nlink > 0 => directory.parent,
        b".." => return Err(MetaError::NotFound), // of a removed directory
        name => {
            let name = Name::new(name).map_err(|bad| match bad {
                dfs_proto::attr::BadName::TooLong => MetaError::NameTooLong,
                dfs_proto::attr::BadName::Invalid => {
                    MetaError::InvalidArgument { what: "not a name of a directory entry".to_owned() }
                }
            })?;
            dirent::find(view, parent, &name).ok_or(MetaError::NotFound)?.record.inode
        }
    };
    Ok(found)
}

/// What the leader has to learn before it proposes `change` (P9.2).
pub fn needed_volumes(view: &dyn Snapshot, change: &Change) -> Vec<NeededVolume> {
    ops::volume::needed(view, change)
}

/// The attributes that a new directory would get, if the caller may make it and the name is free.
pub fn plan_directory(view: &dyn Snapshot, caller: &Caller, create: &Create) -> MetaResult<RootAttr> {
    ops::plan_directory(view, caller, create)
}

/// What `apply` would answer to the request now.
pub fn would_answer(
    view: &dyn Snapshot,
    request: &ChangeRequest,
    volumes: &[VolumeRoot],
    now: Proposed,
) -> Reply {
    let (request, volumes) = (request.clone(), volumes.to_vec());
    // What is behind its names would only delay the answer.
    let command = Command::Change { request, placement: Vec::new(), volumes, named: None };
    super::apply(&command, now, &mut Txn::new(view))
}

/// The inodes that `change` would alter now and knows only by a name: the command has to name them (P4.1, P6.5).
pub fn behind(view: &dyn Snapshot, change: &Change) -> Vec<Behind> {
    ops::behind::of(view, change)
}

/// The highest number that an inode of this volume has been given. The next one that is made has a higher one.
pub fn last_inode(view: &dyn Snapshot, volume: VolumeId) -> Option<InodeId> {
    volume::get(view, volume).and_then(|record| InodeId::new(volume, record.number))
}

/// It is recorded that the session may hold something in some volume.
pub fn may_hold_something(view: &dyn Snapshot, session: SessionId) -> bool {
    session::may_hold_somewhere(view, session)
}

/// It is recorded that the session may hold locks and open files in the volume.
pub fn has_holds(view: &dyn Snapshot, session: SessionId, volume: VolumeId) -> bool {
    session::may(view, May::Hold, session, volume)
}

/// The sessions that are alive and may hold locks and open files in the volume: what these are, each of them tells a new
/// leader (P6.5).
pub fn holding_sessions(view: &dyn Snapshot, volume: VolumeId) -> Vec<SessionId> {
    session::holding(view, volume).collect()
}

/// The same for every volume: as many as there are sessions, times the volumes that each uses. For a new leader, once.
pub fn all_holding_sessions(view: &dyn Snapshot) -> Vec<(VolumeId, SessionId)> {
    session::all_that_may(view, May::Hold).collect()
}

/// It is recorded that the session may hold Write of files in the volume.
pub fn may_write(view: &dyn Snapshot, session: SessionId, volume: VolumeId) -> bool {
    session::may(view, May::Write, session, volume)
}

/// The sessions that are alive and may hold Write of files, by volume. For a new leader, once (P3.6).
pub fn all_writing_sessions(view: &dyn Snapshot) -> Vec<(VolumeId, SessionId)> {
    session::all_that_may(view, May::Write).collect()
}

/// The sessions that are alive and may hold locks, open files or Write of files anywhere.
pub fn sessions_that_hold_something(view: &dyn Snapshot) -> BTreeSet<SessionId> {
    session::that_hold_something(view)
}

/// For how long sessions were silent under earlier leaders, and under this one as far as it has noted (P3.1). For a new leader, once.
pub fn noted_silences(view: &dyn Snapshot) -> Vec<Silence> {
    session::noted_silences(view).collect()
}

pub fn is_silence_noted(view: &dyn Snapshot, session: SessionId) -> bool {
    session::is_silence_noted(view, session)
}

/// The inode has no name, and this session holds it.
pub fn holds_orphan(view: &dyn Snapshot, session: SessionId, inode: InodeId) -> bool {
    orphan::holds(view, session, inode)
}

/// What has no name and is held by this session, but directories.
pub fn orphaned_files_of(view: &dyn Snapshot, session: SessionId) -> Vec<InodeId> {
    let is_file = |inode: &InodeId| inode::get(view, *inode).is_some_and(|record| !record.is_directory());
    orphan::held_by(view, session).filter(is_file).collect()
}

/// The change puts a name into the root of a volume: only then can [`is_undecided`] be so.
pub fn enters_volume_root(change: &Change) -> bool {
    ops::volume::root_entered(change).is_some()
}

/// The directory that would get a name is being removed, and this is not an earlier try's repetition: `apply` would answer
/// that it is not decided yet.
pub fn is_undecided(view: &dyn Snapshot, request: &ChangeRequest) -> bool {
    ops::volume::is_undecided(view, &request.change)
        && session::result(view, request.session, request.request).is_none()
}

/// What an earlier try of a request answered.
pub fn known_result(
    view: &dyn Snapshot,
    session: SessionId,
    request: RequestId,
) -> Option<MetaResult<Changed>> {
    session::result(view, session, request)
}

/// The volumes that this cluster has or had.
pub fn volumes(view: &dyn Snapshot) -> Vec<(VolumeId, VolumeState)> {
    volume::all(view).map(|(id, record)| (id, record.state)).collect()
}

/// In volume 0's cluster: every volume that has a name in the root directory, or gets none.
pub fn volume_entries(view: &dyn Snapshot) -> Vec<(VolumeId, VolumeEntry)> {
    volume::entries(view).collect()
}

pub fn getattr(view: &dyn Snapshot, inode: InodeId) -> MetaResult<InodeAttr> {
    attr_of(view, inode, &mut Leasable::not_asked_for())
}

fn attr_of(view: &dyn Snapshot, inode: InodeId, leasable: &mut Leasable) -> MetaResult<InodeAttr> {
    Ok(leasable.attr(view, inode, &inode::require(view, inode)?))
}

/// A file without a name is opened anew only by the sessions that hold it, because they have it open or took its last name:
/// whoever else comes with its number has it from a name that was believed for too long, and looks that up again.
fn open(
    view: &dyn Snapshot,
    caller: &Caller,
    session: SessionId,
    (inode, mask): (InodeId, AccessMask),
    leasable: &mut Leasable,
) -> MetaResult<ReadReply> {
    let record = inode::require(view, inode)?;
    let is_gone = || orphan::holders(view, inode).is_some() && !orphan::holds(view, session, inode);
    if record.nlink == 0 && mask != AccessMask::NONE && is_gone() {
        return Err(MetaError::Stale);
    }
    if record.is_directory() && mask.0 & AccessMask::WRITE.0 != 0 {
        return Err(MetaError::IsDirectory);
    }
    permission::require(&record, caller, mask)?;
    let next_commit = session::next_commit(view, session, inode);
    let attr = leasable.attr(view, inode, &record);
    let is_read = record.kind == FileKind::File && mask.0 & AccessMask::READ.0 != 0;
    let first = (Offset(0), u64::MAX, OPEN_EXTENTS_MAX);
    let extents = is_read.then(|| extents_noting(view, inode, first, leasable)).transpose()?;
    Ok(ReadReply::Opened { attr, next_commit, extents })
}

pub fn readlink(view: &dyn Snapshot, inode: InodeId) -> MetaResult<Vec<u8>> {
    target(inode::require(view, inode)?)
}

fn target(record: InodeRecord) -> MetaResult<Vec<u8>> {
    if record.kind != FileKind::Symlink {
        return Err(MetaError::InvalidArgument { what: "not a symbolic link".to_owned() });
    }
    Ok(record.target)
}

/// A part of a listing.
struct Page {
    /// The cookie of the last entry of the one before.
    after: u64,
    limit: u32,
    /// With attributes.
    plus: bool,
}

/// In cookie order (P7.6). Attributes are for whoever could look the names up.
fn readdir(
    view: &dyn Snapshot,
    caller: &Caller,
    inode: InodeId,
    page: Page,
    leasable: &mut Leasable,
) -> MetaResult<ReadReply> {
    let directory = inode::require_directory(view, inode)?;
    leasable.note(view, inode, &directory);
    permission::require(&directory, caller, AccessMask::READ)?;
    let plus = page.plus && may_search(&directory, caller)?;
    let limit = page.limit.clamp(1, READDIR_ENTRIES_MAX) as usize;
    let mut found: Vec<_> = dirent::list_after(view, inode, page.after).take(limit + 1).collect();
    let end = found.len() <= limit;
    found.truncate(limit);
    let entry = |entry: Dirent| {
        let is_shown = plus && !is_elsewhere(view, inode, entry.record.inode);
        let attr = if is_shown { Some(attr_of(view, entry.record.inode, leasable)?) } else { None };
        let (inode, kind) = (entry.record.inode, entry.record.kind);
        Ok(DirEntry { name: entry.name, inode, kind, cookie: entry.cookie, attr })
    };
    let entries = found.into_iter().map(entry).collect::<MetaResult<Vec<_>>>()?;
    Ok(ReadReply::Entries { entries, end, parent: directory.parent })
}

fn may_search(directory: &InodeRecord, caller: &Caller) -> MetaResult<bool> {
    match permission::require(directory, caller, AccessMask::EXECUTE) {
        Ok(()) => Ok(true),
        Err(MetaError::PermissionDenied) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The extents that touch `[offset, offset + len)`, and where their chunks are.
pub fn extents(
    view: &dyn Snapshot,
    inode: InodeId,
    offset: Offset,
    len: u64,
    limit: u32,
) -> MetaResult<FileExtents> {
    extents_noting(view, inode, (offset, len, limit), &mut Leasable::not_asked_for())
}

fn extents_noting(
    view: &dyn Snapshot,
    inode: InodeId,
    (offset, len, limit): (Offset, u64, u32),
    leasable: &mut Leasable,
) -> MetaResult<FileExtents> {
    let record = inode::require(view, inode)?;
    let limit = limit.clamp(1, EXTENTS_MAX) as usize;
    let to = offset.0.saturating_add(len);
    let space = space::of(view, inode, &record);
    leasable.note_with(inode, &record, &space);
    let cuts = extent::cuts(view, inode, space.cuts);
    let mut found: Vec<Extent> = Vec::new();
    let mut up_to = to;
    let touching = extent::ending_after(view, inode, offset.0).take_while(|laid| laid.extent.offset.0 < to);
    for (seen, laid) in touching.enumerate() {
        if found.len() == limit || seen == limit + HIDDEN_MAX {
            up_to = laid.extent.offset.0; // the next answer begins with this one
            break;
        }
        if !laid.is_hidden_by(&cuts) {
            found.push(laid.extent);
        }
    }
    let mut ids: Vec<ChunkId> = found.iter().map(|extent| extent.chunk).collect();
    ids.sort_unstable();
    ids.dedup();
    let chunks = ids.into_iter().map(|id| match chunk::get(view, id) {
        Some(record) => Ok(chunk::location(view, id, &record)),
        None => Err(MetaError::Internal { what: format!("{inode} names {id}, which is not recorded") }),
    });
    let chunks = chunks.collect::<MetaResult<Vec<_>>>()?;
    let attr = record.attr_with(inode, space.allocated);
    Ok(FileExtents { attr, extents: found, up_to: Offset(up_to), chunks })
}

/// `None` before `InitCluster`.
pub fn cluster(view: &dyn Snapshot) -> Option<ClusterRecord> {
    cluster::get(view)
}

pub fn totals(view: &dyn Snapshot) -> Totals {
    cluster::counters(view).totals
}

/// The state's own time, as of the last command (P7.1).
pub fn last_time(view: &dyn Snapshot) -> StateTime {
    cluster::counters(view).time
}

pub fn members(view: &dyn Snapshot) -> Vec<Member> {
    cluster::members(view)
}

/// Every registered chunkserver, alive or not.
pub fn servers(view: &dyn Snapshot) -> Vec<(ServerId, ServerRecord)> {
    server::all(view).collect()
}

pub fn server(view: &dyn Snapshot, server: ServerId) -> Option<ServerRecord> {
    server::get(view, server)
}

/// Every session that is alive.
pub fn sessions(view: &dyn Snapshot) -> Vec<(SessionId, SessionRecord)> {
    session::all(view).collect()
}

/// Those with this id or a larger one, by id, at most `limit`.
pub fn sessions_from(view: &dyn Snapshot, first: SessionId, limit: usize) -> Vec<(SessionId, SessionRecord)> {
    session::from(view, first).take(limit).collect()
}

pub fn session(view: &dyn Snapshot, session: SessionId) -> Option<SessionRecord> {
    session::get(view, session)
}

pub fn chunk(view: &dyn Snapshot, chunk: ChunkId) -> Option<ChunkRecord> {
    chunk::get(view, chunk)
}

/// Every chunk that has a record: as many as the cluster has, so for tests only.
pub fn chunks(view: &dyn Snapshot) -> Vec<(ChunkId, ChunkRecord)> {
    chunk::all(view).collect()
}

/// Where a chunk is, with addresses.
pub fn chunk_location(view: &dyn Snapshot, id: ChunkId) -> Option<dfs_proto::meta::ChunkLocation> {
    chunk::get(view, id).map(|record| chunk::location(view, id, &record))
}

/// Is there an open chunk with a replica on this server?
pub fn has_open_chunks(view: &dyn Snapshot, server: ServerId) -> bool {
    chunk::open_of_server(view, server).next().is_some()
}

/// Up to `limit` of the open chunks that are of no volume (P1.8). Looks at every open chunk.
pub fn open_mixed_chunks(view: &dyn Snapshot, limit: usize) -> Vec<ChunkId> {
    let is_mixed = |id: &ChunkId| chunk::get(view, *id).is_some_and(|record| record.volume.is_none());
    chunk::open(view).filter(is_mixed).take(limit).collect()
}

/// Chunks with a replica on this server, those that are dead or being deleted too; up to `limit` of them.
pub fn chunks_on(view: &dyn Snapshot, server: ServerId, limit: usize) -> Vec<ChunkId> {
    chunk::of_server(view, server).take(limit).collect()
}

/// Chunks that this server is to delete and has not confirmed, up to `limit` of them.
pub fn deleting(view: &dyn Snapshot, server: ServerId, limit: usize) -> Vec<ChunkId> {
    chunk::deleting_of_server(view, server).take(limit).collect()
}

/// Since when the chunk is dead that died first; `None`: none is.
pub fn first_dead_since(view: &dyn Snapshot) -> Option<StateTime> {
    chunk::dead(view).next().map(|(since, _)| since)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dfs_proto::meta::NewInode;

    use super::*;
    use crate::command::Command;
    use crate::tests::{CLUSTER, Harness, attr_of, create, name, user};

    const ROOT: InodeId = InodeId::ROOT;

    fn ask(harness: &Harness, caller: &Caller, read: Read) -> MetaResult<ReadReply> {
        let request = ReadRequest {
            cluster: CLUSTER,
            session: harness.session,
            caller: caller.clone(),
            leases: None,
            read,
        };
        harness.view(|view| answer(view, &request))
    }

    fn list(harness: &Harness, cookie: u64, limit: u32) -> (Vec<DirEntry>, bool) {
        let read = Read::ReadDir { inode: ROOT, cookie, limit, plus: false };
        match ask(harness, &Caller::ROOT, read) {
            Ok(ReadReply::Entries { entries, end, .. }) => (entries, end),
            other => panic!("a listing answered {other:?}"),
        }
    }

    #[test]
    fn a_listing_by_cookie_is_stable_while_the_directory_changes() {
        let mut harness = Harness::new();
        for index in 0..100 {
            harness.file(ROOT, &format!("f{index}"));
        }
        let (first, end) = list(&harness, 0, 40);
        assert!(!end && first.len() == 40 && first.iter().all(|entry| entry.cookie != 0));
        let seen: BTreeSet<Name> = first.iter().map(|entry| entry.name.clone()).collect();
        let gone = first[39].name.clone();
        let text = String::from_utf8(gone.as_bytes().to_vec()).expect("ascii");
        harness.unlink(ROOT, &text).expect("it is there");
        for index in 0..50 {
            harness.file(ROOT, &format!("new{index}"));
        }
        let mut all = seen;
        let mut cookie = first[39].cookie;
        loop {
            let (entries, end) = list(&harness, cookie, 7);
            for entry in &entries {
                assert!(all.insert(entry.name.clone()), "{} came twice", entry.name);
                cookie = entry.cookie;
            }
            if end {
                break;
            }
        }
        for index in 0..100 {
            assert!(all.contains(&name(&format!("f{index}"))));
        }
    }

    #[test]
    fn dot_names_lead_where_they_should() {
        let mut harness = Harness::new();
        let a = harness.directory(ROOT, "a");
        let b = harness.directory(a, "b");
        assert_eq!(harness.lookup(b, "."), Ok(b));
        assert_eq!(harness.lookup(b, ".."), Ok(a));
        assert_eq!(harness.lookup(ROOT, ".."), Ok(ROOT));
        let slash = ask(&harness, &Caller::ROOT, Read::Lookup { parent: a, name: b"x/y".to_vec() });
        assert!(matches!(slash, Err(MetaError::InvalidArgument { .. })));
        let long = ask(&harness, &Caller::ROOT, Read::Lookup { parent: a, name: vec![b'x'; 256] });
        assert_eq!(long, Err(MetaError::NameTooLong));
    }

    #[test]
    fn above_a_volumes_root_is_the_root_directory_also_where_another_cluster_has_that() {
        let mut harness = Harness::new();
        let (volume, root) = (VolumeId(5), RootAttr { mode: 0o755, uid: 0, gid: 0 });
        harness.command(Command::MakeVolume { volume, root });
        let root = volume::root_of(volume).expect("in range");
        let above = Read::Lookup { parent: root, name: b"..".to_vec() };
        assert!(
            matches!(ask(&harness, &Caller::ROOT, above.clone()), Ok(ReadReply::Attr(attr)) if attr.inode == ROOT)
        );
        harness.command(Command::DropVolume { volume: VolumeId(0) });
        assert_eq!(ask(&harness, &Caller::ROOT, above), Ok(ReadReply::Elsewhere(ROOT)));
    }

    #[test]
    fn a_file_without_a_name_is_opened_by_its_holder_only() {
        let mut harness = Harness::new();
        let file = harness.file(ROOT, "f");
        let holder = harness.session;
        harness.unlink(ROOT, "f").expect("it is there");
        let open = |mask| Read::Open { inode: file, mask };
        assert!(matches!(ask(&harness, &Caller::ROOT, open(AccessMask::READ)), Ok(ReadReply::Opened { .. })));
        harness.session = harness.open_session(2);
        assert_eq!(ask(&harness, &Caller::ROOT, open(AccessMask::READ)), Err(MetaError::Stale));
        let commits = ask(&harness, &Caller::ROOT, open(AccessMask::NONE));
        assert!(matches!(commits, Ok(ReadReply::Opened { .. })), "who had it open before still commits");
        harness.session = holder;
    }

    #[test]
    fn rights_are_checked_where_they_are_asked_for() {
        let mut harness = Harness::new();
        let directory = harness.directory(ROOT, "d");
        let file = harness.file(directory, "f");
        harness.chmod(&Caller::ROOT, directory, 0o700).expect("root may");
        harness.chmod(&Caller::ROOT, file, 0o604).expect("root may");
        let lookup = Read::Lookup { parent: directory, name: b"f".to_vec() };
        assert_eq!(ask(&harness, &user(7), lookup), Err(MetaError::PermissionDenied));
        let open = |mask| Read::Open { inode: file, mask };
        assert!(matches!(ask(&harness, &user(7), open(AccessMask::READ)), Ok(ReadReply::Opened { .. })));
        assert_eq!(ask(&harness, &user(7), open(AccessMask::WRITE)), Err(MetaError::PermissionDenied));
        let access = Read::Access { inode: file, mask: AccessMask::EXECUTE };
        assert_eq!(ask(&harness, &Caller::ROOT, access), Err(MetaError::PermissionDenied));
        let write = Read::Open { inode: directory, mask: AccessMask::WRITE };
        assert_eq!(ask(&harness, &Caller::ROOT, write), Err(MetaError::IsDirectory));
    }

    #[test]
    fn an_answer_with_extents_ends_where_the_next_one_begins() {
        let mut harness = Harness::new();
        harness.servers(2);
        let file = harness.file(ROOT, "f");
        let chunks = [harness.open_chunk(), harness.open_chunk()];
        for index in 0..10 {
            harness.write(file, index * 20, 10, chunks[index as usize % 2]).expect("commits");
        }
        let part = harness.view(|view| extents(view, file, Offset(25), 1000, 3)).expect("it is there");
        let starts: Vec<u64> = part.extents.iter().map(|extent| extent.offset.0).collect();
        assert_eq!((starts, part.up_to), (vec![20, 40, 60], Offset(80)));
        assert_eq!(part.chunks.len(), 2);
        assert_eq!(part.chunks[0].replicas.len(), 2);
        let rest = harness.view(|view| extents(view, file, part.up_to, 40, 10)).expect("it is there");
        assert_eq!((rest.extents.len(), rest.up_to), (2, Offset(120)));
    }

    #[test]
    fn an_open_tells_the_number_of_the_next_commit() {
        let mut harness = Harness::new();
        harness.servers(2);
        let file = harness.file(ROOT, "f");
        let chunk = harness.open_chunk();
        harness.write(file, 0, 10, chunk).expect("commits");
        let open = || Read::Open { inode: file, mask: AccessMask::READ };
        let opened = ask(&harness, &Caller::ROOT, open());
        assert!(matches!(opened, Ok(ReadReply::Opened { next_commit: 2, .. })));
        harness.session = harness.open_session(2);
        let opened = ask(&harness, &Caller::ROOT, open());
        assert!(matches!(opened, Ok(ReadReply::Opened { next_commit: 1, .. })));
    }

    #[test]
    fn an_open_for_reading_tells_the_first_extents_and_another_one_none() {
        let mut harness = Harness::new();
        harness.servers(2);
        let file = harness.file(ROOT, "f");
        let chunk = harness.open_chunk();
        for part in 0..10 {
            harness.write(file, part * 20, 10, chunk).expect("commits");
        }
        let opened = |mask| match ask(&harness, &Caller::ROOT, Read::Open { inode: file, mask }) {
            Ok(ReadReply::Opened { extents, attr, .. }) => {
                extents.inspect(|extents| assert_eq!(extents.attr, attr))
            }
            other => panic!("an open is answered {other:?}"),
        };
        let extents = opened(AccessMask::READ).expect("it may be read");
        assert_eq!((extents.extents.len(), extents.up_to, extents.chunks.len()), (8, Offset(160), 1));
        assert_eq!(opened(AccessMask::WRITE), None);
        let directory = ask(&harness, &Caller::ROOT, Read::Open { inode: ROOT, mask: AccessMask::READ });
        assert!(matches!(directory, Ok(ReadReply::Opened { extents: None, .. })));
    }

    #[test]
    fn a_link_is_read_and_what_is_none_is_refused() {
        let mut harness = Harness::new();
        let what = NewInode::Symlink { target: b"../x".to_vec() };
        let link = attr_of(harness.change(&Caller::ROOT, create(ROOT, "l", 0o777, what))).inode;
        harness.view(|view| assert_eq!(readlink(view, link), Ok(b"../x".to_vec())));
        harness.view(|view| assert!(matches!(readlink(view, ROOT), Err(MetaError::InvalidArgument { .. }))));
    }

    #[test]
    fn an_ended_session_reads_nothing() {
        let mut harness = Harness::new();
        let session = harness.session;
        harness.command(Command::ExpireSession { session });
        let refused = ask(&harness, &Caller::ROOT, Read::GetAttr { inode: ROOT });
        assert_eq!(refused, Err(MetaError::SessionExpired { session }));
        let removed = Change::Rmdir { parent: ROOT, name: name("x") };
        assert!(harness.change(&Caller::ROOT, removed).is_err());
    }
}
