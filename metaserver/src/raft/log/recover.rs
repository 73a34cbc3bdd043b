//! Reads the log at a start: which files belong to it, what they hold, and where writing goes on. It changes nothing.
//!
//! The table shows what a power failure, or the kill of a process between a write and its sync, may leave of a file, and how the
//! file is used then. A sequence is "old" if it is below the first one that counts, which the newest whole `State` names (L4).
//!
//! | interrupted | header | sequence | batches | the file is |
//! |---|---|---|---|---|
//! | the making of a file | zeros; the file is shorter than a segment | | none | a leftover: removed once the log is open |
//! | nothing: it was made and not used yet | zeros | | none | spare |
//! | nothing: its entries were purged | whole | old | whole | spare: nobody reads it |
//! | the first write of a segment; nothing of it was stored | as before | as before | as before | spare |
//! | the first write; its first sector was not stored | as before | as before | old ones, or torn | spare |
//! | the first write; only its first sector was stored | whole | current | no whole one | spare, even if a later segment exists |
//! | a later write | whole | current | whole up to the torn one | live; the torn batch is overwritten |
//! | nothing: everything was synced | whole | current | whole | live |
//!
//! R1  A segment without a whole batch has lost nothing, because its first write was never acknowledged. If it had held more, the
//!     batch numbers around it (L3) would have a gap, which is refused.
//! R2  Only the last batch that is found may not be on the disk. If its sync has failed, the kernel still shows its pages but
//!     writes them no more, so that another sync does nothing. So the last write is made again before anything is acknowledged that
//!     builds on it. All batches before it were synced before the next one was written (L1, LS3).

use std::io;

use dfs_proto::ids::DirectoryId;
use dfs_proto::planted::{self, Bug};

use super::disk::{FileId, LogDisk};
use super::format::{DamageError, Record, Segment, SegmentHeader, State, read_segment, read_segment_header};
use crate::raft::types::{LogEntry, next_index};

/// A segment that is part of the log.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) file: FileId,
    pub(crate) sequence: u64,
    pub(crate) len: u64,
    /// The highest index of an entry in it; `None` if it has no entries.
    pub(crate) last_index: Option<u64>,
}

/// The files of a log, as the writer needs them.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// The segments, oldest first. The last one is written to.
    pub(crate) live: Vec<Live>,
    /// Files for later segments, with their lengths.
    pub(crate) spare: Vec<(FileId, u64)>,
    /// Where the next batch is to be written in the last segment.
    pub(crate) end: usize,
    pub(crate) next_number: u64,
    pub(crate) next_sequence: u64,
    pub(crate) next_file: u64,
}

/// The last write that was found whole (R2).
#[derive(Debug)]
pub(crate) struct LastWrite {
    pub(crate) file: FileId,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) entries: Vec<LogEntry>,
    pub(crate) files: Files,
    pub(crate) last_write: Option<LastWrite>,
    /// The last batch; `None` if there is none.
    pub(crate) reached: Option<Reached>,
    /// Files that are shorter than they should be and hold nothing that counts. They are removed once the log is open.
    pub(crate) leftovers: Vec<FileId>,
}

impl Recovered {
    /// Whether this is the log of a member that has never voted and has no entries.
    pub(crate) fn is_fresh(&self) -> bool {
        self.state.vote.is_none() && self.state.purged.is_none() && self.entries.is_empty()
    }

    /// A hint for error messages that something is missing.
    pub(crate) fn remark(&self) -> String {
        let names: Vec<String> = self.leftovers.iter().map(|file| file.name()).collect();
        match names.is_empty() {
            true => String::new(),
            false => format!(" (shorter than they were made: {})", names.join(", ")),
        }
    }
}

/// How far a log has come: up to this batch, in the segment with this sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub sequence: u64,
    pub batch: u64,
}

fn damaged(file: FileId, error: DamageError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("log file {}: {error}", file.name()))
}

struct Found {
    file: FileId,
    len: u64,
    header: SegmentHeader,
}

impl Found {
    /// Reads a segment that counts.
    fn read(&self, bytes: &[u8]) -> io::Result<Segment> {
        if self.is_cut() {
            let error = DamageError::Cut { expected: self.header.file_len, actual: self.len };
            return Err(damaged(self.file, error));
        }
        read_segment(bytes, self.header.sequence).map_err(|error| damaged(self.file, error))
    }

    fn is_cut(&self) -> bool {
        self.len < self.header.file_len
    }
}

/// Reads the log of a data directory. Its last batch may be torn (L1); any other damage is refused.
pub(crate) async fn recover(
    disk: &dyn LogDisk,
    segment_len: u64,
    directory: DirectoryId,
) -> io::Result<Recovered> {
    let mut recovered = Recovered::default();
    match read(disk, segment_len, directory, &mut recovered).await {
        Ok(()) => Ok(recovered),
        Err(error) => Err(io::Error::new(error.kind(), format!("{error}{}", recovered.remark()))),
    }
}

async fn read(
    disk: &dyn LogDisk,
    segment_len: u64,
    directory: DirectoryId,
    recovered: &mut Recovered,
) -> io::Result<()> {
    let mut found = list(disk, segment_len, directory, recovered).await?;
    let files = &mut recovered.files;
    files.next_sequence = found.last().map_or(1, |newest| newest.header.sequence + 1);
    let mut newest = None;
    while let Some(last) = found.pop() {
        let bytes = disk.read(last.file).await?;
        let segment = last.read(&bytes)?;
        if segment.numbers.is_some() {
            newest = Some((last, segment, bytes));
            break;
        }
        files.spare.push(torn(last)); // keeps R1
    }
    let Some((last, segment, bytes)) = newest else { return Ok(()) };
    let floor = first_sequence(&segment).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("log file {} begins without its state", last.file.name()),
        )
    })?;
    let newest = last.file;
    let mut replay = Replay::default();
    for older in found {
        if older.header.sequence < floor {
            match older.is_cut() {
                true => recovered.leftovers.push(older.file),
                false => files.spare.push((older.file, older.len)),
            }
            continue;
        }
        let bytes = disk.read(older.file).await?;
        let segment = older.read(&bytes)?;
        if segment.numbers.is_none() && !planted::has(Bug::TornSegmentRefused) {
            files.spare.push(torn(older)); // keeps R1
            continue;
        }
        replay.segment(older, segment, files)?;
    }
    files.end = segment.end;
    let written = segment.last_write..segment.end.min(bytes.len());
    recovered.last_write =
        Some(LastWrite { file: last.file, offset: written.start as u64, bytes: bytes[written].to_vec() });
    let sequence = last.header.sequence;
    replay.segment(last, segment, files)?;
    // keeps L4: if the oldest segment is lost, its entries look like purged ones, and no other check notices it
    if files.live.first().is_some_and(|first| first.sequence > floor && floor > 0) {
        return Err(damaged(newest, DamageError::Missing { sequence: floor }));
    }
    recovered.reached = replay.last_number.map(|batch| Reached { sequence, batch });
    files.next_number = replay.last_number.map_or(0, |number| number + 1);
    (recovered.state, recovered.entries) = replay.finish()?;
    Ok(())
}

/// The files with a segment header, in the order of their sequences. The others become spare files or leftovers.
async fn list(
    disk: &dyn LogDisk,
    segment_len: u64,
    directory: DirectoryId,
    recovered: &mut Recovered,
) -> io::Result<Vec<Found>> {
    let mut found: Vec<Found> = Vec::new();
    for file in disk.list().await? {
        recovered.files.next_file = file.0 + 1;
        let bytes = disk.read(file).await?;
        let len = bytes.len() as u64;
        let header = match read_segment_header(&bytes).map_err(|error| damaged(file, error))? {
            Some(header) => header,
            None if len < segment_len => {
                recovered.leftovers.push(file);
                continue;
            }
            None => {
                recovered.files.spare.push((file, len));
                continue;
            }
        };
        if header.directory.is_known() && directory.is_known() && header.directory != directory {
            let error = DamageError::Directory { expected: directory, actual: header.directory };
            return Err(damaged(file, error));
        }
        if found.iter().any(|other| other.header.sequence == header.sequence) {
            return Err(damaged(file, DamageError::Twice { sequence: header.sequence }));
        }
        found.push(Found { file, len, header });
    }
    found.sort_by_key(|segment| segment.header.sequence);
    Ok(found)
}

/// Makes a spare file of a segment whose first write was torn.
fn torn(segment: Found) -> (FileId, u64) {
    let Found { file, len, header } = segment;
    let sequence = header.sequence;
    tracing::info!(
        "log file {}: the first write of segment {sequence} was torn, it holds nothing",
        file.name()
    );
    (file, len)
}

fn first_sequence(segment: &Segment) -> Option<u64> {
    let states = segment.records.iter().filter_map(|record| match record {
        Record::State(state) => Some(state.first_sequence),
        Record::Truncated { .. } | Record::Entry(_) => None,
    });
    states.max()
}

/// Turns the records, in their order, into the log's state and entries.
#[derive(Default)]
struct Replay {
    state: State,
    entries: Vec<LogEntry>,
    last_number: Option<u64>,
}

impl Replay {
    fn segment(&mut self, found: Found, segment: Segment, files: &mut Files) -> io::Result<()> {
        let (first, last) = segment.numbers.ok_or_else(|| damaged(found.file, DamageError::Header))?;
        if let Some(before) = self.last_number
            && first != before + 1
        {
            return Err(damaged(found.file, DamageError::Gap { expected: before + 1, actual: first }));
        }
        self.last_number = Some(last);
        let mut last_index = None;
        for record in segment.records {
            match record {
                Record::State(state) => self.state(state),
                Record::Truncated { after } => {
                    let next = next_index(after.as_ref());
                    self.entries.retain(|entry| entry.log_id.index < next);
                }
                Record::Entry(entry) => {
                    last_index = last_index.max(Some(entry.log_id.index));
                    self.entry(found.file, entry)?;
                }
            }
        }
        let (file, sequence, len) = (found.file, found.header.sequence, found.len);
        files.live.push(Live { file, sequence, len, last_index });
        Ok(())
    }

    /// A purge removes the first entries. After a snapshot was installed it removes all, and the next entry comes after a gap.
    fn state(&mut self, state: State) {
        if state.purged > self.state.purged {
            let purged_next = next_index(state.purged.as_ref());
            self.entries.retain(|kept| kept.log_id.index >= purged_next);
        }
        self.state = state;
    }

    fn entry(&mut self, file: FileId, entry: LogEntry) -> io::Result<()> {
        let expected = self.entries.last().map(|last| last.log_id.index + 1);
        if let Some(expected) = expected.filter(|expected| *expected != entry.log_id.index) {
            let what = format!(
                "log file {}: entry {} where {expected} is expected",
                file.name(),
                entry.log_id.index
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.entries.push(entry);
        Ok(())
    }

    fn finish(mut self) -> io::Result<(State, Vec<LogEntry>)> {
        let purged_next = next_index(self.state.purged.as_ref());
        self.entries.retain(|entry| entry.log_id.index >= purged_next);
        match self.entries.first() {
            Some(first) if first.log_id.index != purged_next => {
                let what = format!(
                    "the log begins with entry {}, but {purged_next} is the first not purged",
                    first.log_id.index
                );
                Err(io::Error::new(io::ErrorKind::InvalidData, what))
            }
            _ => Ok((self.state, self.entries)),
        }
    }
}
