//! The only truth: bytes become part of files here (P2).
//!
//! A refusal refuses the whole commit: what was written for the files before it is rolled back by the caller (`once` in `lib.rs`).

use std::collections::BTreeMap;

use dfs_proto::attr::{FileKind, Timestamp};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{ChunkId, VolumeId};
use dfs_proto::meta::{Changed, CommitExtents, FileCommit, MetaResult};
use dfs_proto::units::{ByteLen, CHUNK_LEN, COMMIT_EXTENTS_MAX, COMMIT_FILES_MAX, FILE_LEN_MAX};

use super::context::{Context, ensure};
use crate::table::extent::{Edit, LiveBytes};
use crate::table::{chunk, inode, session};
use crate::value::inode::InodeRecord;

/// How far each named chunk may be referred to, and by files of which volume, if not of all.
type Lengths = BTreeMap<ChunkId, (ByteLen, Option<VolumeId>)>;

pub(super) fn apply(context: &mut Context<'_, '_>, commit: &CommitExtents) -> MetaResult<Changed> {
    let lengths = check_chunks(context, commit)?;
    ensure(commit.files.len() <= COMMIT_FILES_MAX, refused("too many files"))?;
    let mut live = LiveBytes::default();
    let mut attrs = Vec::with_capacity(commit.files.len());
    for file in &commit.files {
        check_extents(file, &lengths)?;
        let mut record = check_file(context, file)?;
        lay(context, file, &mut record, &mut live);
        session::record_commit(context.txn, context.session, file.inode, file.number);
        inode::put(context.txn, file.inode, &record);
        attrs.push(inode::attr(context.txn, file.inode, &record));
    }
    live.settle(context.txn, context.state_time);
    for (id, (length, _)) in lengths {
        chunk::update(context.txn, id, |record| record.committed = length);
    }
    Ok(Changed::Committed { attrs })
}

/// Keeps P2.1: the chunk is open, this session's, and of the set version named.
fn check_chunks(context: &Context<'_, '_>, commit: &CommitExtents) -> MetaResult<Lengths> {
    let mut lengths = Lengths::new();
    for named in &commit.chunks {
        let id = named.chunk;
        let record = chunk::require_open(context.txn, id, context.session)?;
        let wrong =
            MetaError::WrongSetVersion { chunk: id, actual: record.set_version, named: named.set_version };
        ensure(record.set_version == named.set_version, wrong)?;
        ensure(named.up_to.0 <= CHUNK_LEN, refused(format!("{id} ends at {CHUNK_LEN}")))?;
        let length = record.committed.max(named.up_to);
        ensure(
            lengths.insert(id, (length, record.volume)).is_none(),
            refused(format!("{id} is named twice")),
        )?;
    }
    Ok(lengths)
}

/// Keeps P2.1: within the chunks' lengths. Beyond P2.1: in order, disjoint, within what a file can hold.
fn check_extents(file: &FileCommit, lengths: &Lengths) -> MetaResult<()> {
    ensure(file.extents.len() <= COMMIT_EXTENTS_MAX, refused("too many extents of one file"))?;
    let mut end = 0;
    for extent in &file.extents {
        let is_in_order = extent.len > 0 && extent.offset.0 >= end;
        ensure(is_in_order, refused(format!("the extents of {} are not in order", file.inode)))?;
        end = extent.offset.0.saturating_add(extent.len);
        ensure(end <= FILE_LEN_MAX, MetaError::FileTooLarge)?;
        let id = extent.chunk;
        let (length, volume) = lengths.get(&id).ok_or_else(|| refused(format!("{id} is not named")))?;
        let is_of_volume = volume.is_none_or(|volume| volume == file.inode.volume());
        let of = || format!("{id} holds bytes of another volume than {}'s", file.inode);
        ensure(is_of_volume, refused(of()))?; // keeps P1.8
        let chunk_end = extent.chunk_offset.0.saturating_add(extent.len);
        let what = || format!("an extent ends at {chunk_end} of {id}, which is durable up to {length}");
        ensure(chunk_end <= length.0, refused(what()))?;
    }
    ensure(file.size_at_least.0 <= FILE_LEN_MAX, MetaError::FileTooLarge)
}

/// Keeps P2.1: the inode exists, and the commit is the next one. The mode is not asked again (P2.4).
fn check_file(context: &Context<'_, '_>, file: &FileCommit) -> MetaResult<InodeRecord> {
    let record = inode::require(context.txn, file.inode)?;
    ensure(record.kind == FileKind::File, refused(format!("{} is not a file", file.inode)))?;
    let next = session::next_commit(context.txn, context.session, file.inode);
    let what = || format!("commit {} of {}, the next one is {next}", file.number, file.inode);
    ensure(file.number == next, refused(what()))?;
    Ok(record)
}

fn lay(context: &mut Context<'_, '_>, file: &FileCommit, record: &mut InodeRecord, live: &mut LiveBytes) {
    let old_size = record.size;
    let mut edit = Edit::begin(context.txn, file.inode, record, live);
    for extent in &file.extents {
        edit.overlay(*extent, old_size.0);
    }
    edit.finish();
    let end = file.extents.last().map_or(0, |extent| extent.end());
    record.size = old_size.max(file.size_at_least).max(ByteLen(end));
    // Times set explicitly since the write stay (P2.3), and were a change of their own.
    if let Some(written) = file.mtime {
        record.mtime = written;
        record.ctime = match context.is_of_one_clock {
            true => record.ctime.latest(written),
            false => changed_at(record.ctime, written, context.now),
        };
    }
    if file.kill_privileges {
        record.kill_privileges();
    }
}

/// When the inode was changed last: by the write, unless it was changed otherwise between that and now. A time that is still to
/// come is of a clock that was wrong (P7.1).
fn changed_at(before: Timestamp, written: Timestamp, now: Timestamp) -> Timestamp {
    let is_to_come = before.latest(now) != now;
    if is_to_come { written } else { before.latest(written) }
}

fn refused(what: impl Into<String>) -> MetaError {
    MetaError::CommitRefused { what: what.into() }
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr::{Caller, Timestamp};
    use dfs_proto::extent::Extent;
    use dfs_proto::ids::{InodeId, SetVersion};
    use dfs_proto::meta::{Change, ChunkCommit, SetAttr};
    use dfs_proto::units::{ChunkOffset, Offset};

    use super::*;
    use crate::command::{Command, RootAttr};
    use crate::read;
    use crate::tests::Harness;

    const ROOT: InodeId = InodeId::ROOT;

    struct Setting {
        harness: Harness,
        file: InodeId,
        chunk: ChunkId,
    }

    fn setting() -> Setting {
        let mut harness = Harness::new();
        harness.servers(2);
        let file = harness.file(ROOT, "f");
        let chunk = harness.open_chunk();
        Setting { harness, file, chunk }
    }

    impl Setting {
        /// One extent of 10 bytes at the start, durable up to 10, as commit 1.
        fn commit(&self) -> CommitExtents {
            let extent =
                Extent { offset: Offset(0), len: 10, chunk: self.chunk, chunk_offset: ChunkOffset(0) };
            CommitExtents {
                chunks: vec![ChunkCommit {
                    chunk: self.chunk,
                    set_version: SetVersion(1),
                    up_to: ByteLen(10),
                }],
                files: vec![FileCommit {
                    inode: self.file,
                    number: 1,
                    extents: vec![extent],
                    size_at_least: ByteLen(10),
                    mtime: Some(Timestamp { seconds: 70, nanos: 0 }),
                    kill_privileges: false,
                }],
            }
        }

        fn send(&mut self, commit: CommitExtents) -> MetaResult<Changed> {
            self.harness.change(&Caller::ROOT, Change::CommitExtents(commit))
        }

        /// Sends a commit that differs in one thing, which must be refused without any trace.
        fn refuse(&mut self, change: impl FnOnce(&mut CommitExtents)) -> MetaError {
            let before = self.harness.attr(self.file);
            let mut commit = self.commit();
            change(&mut commit);
            let error = self.send(commit).expect_err("must be refused");
            assert_eq!(self.harness.attr(self.file), before);
            self.harness.check();
            error
        }
    }

    #[test]
    fn a_chunk_of_one_volume_takes_bytes_of_no_other_and_a_mixed_one_of_all() {
        let mut setting = setting();
        let root = RootAttr { mode: 0o755, uid: 0, gid: 0 };
        setting.harness.command(Command::MakeVolume { volume: VolumeId(5), root });
        for (volume, is_taken) in [(Some(0), true), (Some(5), false), (None, true)] {
            let volume = volume.map(VolumeId);
            let chunk = match volume {
                Some(volume) => setting.harness.open_chunk_of(volume),
                None => setting.harness.open_mixed_chunk(),
            };
            let before = setting.harness.attr(setting.file);
            let written = setting.harness.write(setting.file, 0, 10, chunk);
            if is_taken {
                assert!(written.is_ok(), "{written:?}");
            } else {
                assert!(matches!(written, Err(MetaError::CommitRefused { .. })), "{written:?}");
                assert_eq!(setting.harness.attr(setting.file), before);
            }
            let recorded = setting.harness.view(|view| read::chunk(view, chunk)).expect("opened");
            assert_eq!(recorded.volume, volume);
        }
        setting.harness.check();
    }

    #[test]
    fn a_commit_makes_bytes_part_of_the_file() {
        let mut setting = setting();
        let Ok(Changed::Committed { attrs }) = setting.send(setting.commit()) else { panic!("commits") };
        assert_eq!((attrs[0].size, attrs[0].allocated), (ByteLen(10), ByteLen(10)));
        assert_eq!(attrs[0].mtime.seconds, 70);
        let chunk = setting.chunk;
        let record = setting.harness.view(|view| read::chunk(view, chunk)).expect("it is there");
        assert_eq!((record.committed, record.live), (ByteLen(10), ByteLen(10)));
        setting.harness.check();
    }

    #[test]
    fn a_commit_that_names_a_wrong_chunk_is_refused_whole() {
        let mut setting = setting();
        let chunk = setting.chunk;
        let unknown = setting.refuse(|c| c.chunks[0].chunk = ChunkId(99));
        assert_eq!(unknown, MetaError::ChunkNotOpen { chunk: ChunkId(99) });
        let version = setting.refuse(|c| c.chunks[0].set_version = SetVersion(2));
        assert!(matches!(version, MetaError::WrongSetVersion { .. }));
        let unnamed = setting.refuse(|c| c.chunks.clear());
        assert!(matches!(unnamed, MetaError::CommitRefused { .. }));
        let beyond = setting.refuse(|c| c.chunks[0].up_to = ByteLen(9));
        assert!(matches!(beyond, MetaError::CommitRefused { .. }));
        let wide = setting.refuse(|c| c.chunks[0].up_to = ByteLen(CHUNK_LEN + 1));
        assert!(matches!(wide, MetaError::CommitRefused { .. }));
        let twice = setting.refuse(|c| c.chunks = vec![c.chunks[0].clone(); 2]);
        assert!(matches!(twice, MetaError::CommitRefused { .. }));

        let owner = setting.harness.session;
        setting.harness.session = setting.harness.open_session(2);
        assert_eq!(setting.refuse(|_| {}), MetaError::ChunkNotOpen { chunk });
        setting.harness.session = owner;
        setting.harness.command(Command::SealChunks { chunks: vec![chunk] });
        assert_eq!(setting.refuse(|_| {}), MetaError::ChunkNotOpen { chunk });
    }

    #[test]
    fn a_commit_that_names_a_wrong_file_or_number_is_refused_whole() {
        let mut setting = setting();
        assert_eq!(setting.refuse(|c| c.files[0].inode = InodeId(99)), MetaError::Stale);
        assert!(matches!(setting.refuse(|c| c.files[0].inode = ROOT), MetaError::CommitRefused { .. }));
        for number in [0, 2] {
            let error = setting.refuse(|c| c.files[0].number = number);
            assert!(matches!(error, MetaError::CommitRefused { .. }));
        }
        let second = setting.refuse(|c| {
            c.files.push(FileCommit { inode: InodeId(99), ..c.files[0].clone() });
        });
        assert_eq!(second, MetaError::Stale, "the first file is refused with it");
        setting.send(setting.commit()).expect("the first");
        assert!(matches!(setting.refuse(|_| {}), MetaError::CommitRefused { .. }), "number 1 was used");
    }

    #[test]
    fn extents_out_of_order_empty_or_beyond_every_file_are_refused() {
        let mut setting = setting();
        let overlapping = setting.refuse(|c| c.files[0].extents = vec![c.files[0].extents[0]; 2]);
        assert!(matches!(overlapping, MetaError::CommitRefused { .. }));
        let empty = setting.refuse(|c| c.files[0].extents[0].len = 0);
        assert!(matches!(empty, MetaError::CommitRefused { .. }));
        let far = setting.refuse(|c| c.files[0].extents[0].offset = Offset(FILE_LEN_MAX - 9));
        assert_eq!(far, MetaError::FileTooLarge);
        let wrapping = setting.refuse(|c| c.files[0].extents[0].chunk_offset = ChunkOffset(u64::MAX));
        assert!(matches!(wrapping, MetaError::CommitRefused { .. }));
        let many = setting.refuse(|c| c.files[0].extents = vec![c.files[0].extents[0]; 513]);
        assert!(matches!(many, MetaError::CommitRefused { .. }));
    }

    #[test]
    fn an_overwrite_takes_the_bytes_from_the_older_extent_and_its_chunk() {
        let Setting { mut harness, file, chunk } = setting();
        harness.write(file, 0, 100, chunk).expect("commits");
        let second = harness.open_chunk();
        harness.write(file, 40, 20, second).expect("commits");
        assert_eq!(harness.pieces(file), [(0, 40, chunk), (40, 20, second), (60, 40, chunk)]);
        let live = |harness: &Harness, id| harness.view(|v| read::chunk(v, id)).map(|c| c.live.0);
        assert_eq!((live(&harness, chunk), live(&harness, second)), (Some(80), Some(20)));
        harness.write(file, 0, 200, second).expect("commits");
        assert_eq!(harness.pieces(file), [(0, 200, second)]);
        assert_eq!(live(&harness, chunk), Some(0));
        assert_eq!(harness.attr(file).allocated, ByteLen(200));
        harness.check();
    }

    #[test]
    fn appends_that_continue_each_other_stay_one_extent() {
        let Setting { mut harness, file, chunk } = setting();
        for index in 0..20 {
            harness.write(file, index * 5, 5, chunk).expect("commits");
        }
        assert_eq!(harness.pieces(file), [(0, 100, chunk)]);
        harness.check();
    }

    #[test]
    fn an_older_commit_does_not_bring_back_what_a_truncation_removed() {
        let Setting { mut harness, file, chunk } = setting();
        harness.write(file, 0, 100, chunk).expect("commits");
        harness.truncate(file, 30);
        harness.truncate(file, 100);
        assert_eq!(harness.pieces(file), [(0, 30, chunk)]);
        assert_eq!(harness.attr(file).size, ByteLen(100));
        harness.write(file, 200, 10, chunk).expect("commits");
        assert_eq!(harness.attr(file).size, ByteLen(210));
        harness.check();
    }

    #[test]
    fn a_large_truncation_is_seen_at_once_and_finished_by_the_reaper() {
        let Setting { mut harness, file, .. } = setting();
        let chunks = [harness.open_chunk(), harness.open_chunk()];
        // Alternating chunks keep the extents apart.
        for index in 0..700 {
            harness.write(file, index * 10, 10, chunks[index as usize % 2]).expect("commits");
        }
        harness.truncate(file, 1005);
        assert_eq!(harness.pieces(file).len(), 101);
        harness.check();
        harness.write(file, 3000, 10, chunks[0]).expect("commits");
        harness.truncate(file, 4000);
        assert_eq!(harness.pieces(file).len(), 102);
        assert!(harness.view(|view| read::has_work_for_reaper(view)));
        harness.check();
        harness.reap();
        assert_eq!(harness.pieces(file).len(), 102);
        assert_eq!(harness.attr(file).allocated, ByteLen(1015));
        harness.check();
    }

    #[test]
    fn times_set_explicitly_after_the_write_stay() {
        let mut setting = setting();
        let mut commit = setting.commit();
        commit.files[0].mtime = None;
        let before = setting.harness.attr(setting.file);
        setting.harness.at(500);
        setting.send(commit).expect("commits");
        let after = setting.harness.attr(setting.file);
        assert_eq!((after.mtime, after.ctime), (before.mtime, before.ctime));
        assert!(after.content_version > before.content_version);
    }

    #[test]
    fn a_write_by_others_takes_set_uid_away() {
        let mut setting = setting();
        let mode = Some(0o6755);
        let set = SetAttr { inode: setting.file, mode, ..SetAttr::default() };
        setting.harness.change(&Caller::ROOT, Change::SetAttr(set)).expect("root may");
        let mut commit = setting.commit();
        commit.files[0].kill_privileges = true;
        setting.send(commit).expect("commits");
        assert_eq!(setting.harness.attr(setting.file).mode, 0o755);
    }

    #[test]
    fn an_unlinked_file_still_takes_commits_of_its_holder() {
        let Setting { mut harness, file, chunk } = setting();
        harness.unlink(ROOT, "f").expect("it is there");
        harness.write(file, 0, 10, chunk).expect("commits");
        harness.check();
        harness.change(&Caller::ROOT, Change::ReleaseOrphans { inodes: vec![file] }).expect("held");
        harness.check();
        harness.reap();
        let left = harness.view(|view| read::chunk(view, chunk)).map(|c| c.live);
        assert_eq!(left, Some(ByteLen(0)));
        harness.check();
    }
}
