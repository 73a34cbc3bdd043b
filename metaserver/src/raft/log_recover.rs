//! Opening the log: which files belong to it, what they say, where writing goes on.

use std::io;

use super::log_disk::{FileId, LogDisk};
use super::log_format::{DamageError, Record, Segment, State, read_segment, read_segment_header};
use super::types::{LogEntry, next_index};

/// A segment that is part of the log.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) file: FileId,
    pub(crate) sequence: u64,
    pub(crate) len: u64,
    /// No entry in it has a higher index; `None`: it has no entries.
    pub(crate) last_index: Option<u64>,
}

/// The files of a log, as the writer needs them.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// Oldest first; the last one is written to.
    pub(crate) live: Vec<Live>,
    /// Prepared or not needed any more, with their lengths.
    pub(crate) spare: Vec<(FileId, u64)>,
    /// Where the next batch goes in the last live one.
    pub(crate) end: usize,
    pub(crate) next_number: u64,
    pub(crate) next_sequence: u64,
    pub(crate) next_file: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) entries: Vec<LogEntry>,
    pub(crate) files: Files,
}

fn damaged(file: FileId, error: DamageError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("log file {:08}: {error}", file.0))
}

struct Found {
    file: FileId,
    len: u64,
    sequence: u64,
}

/// Reads the whole log. Only its last batch may be torn (L1); any other damage is refused.
pub(crate) async fn recover(disk: &dyn LogDisk, segment_len: u64) -> io::Result<Recovered> {
    let mut recovered = Recovered::default();
    let files = &mut recovered.files;
    let mut found = Vec::new();
    for file in disk.list().await? {
        files.next_file = file.0 + 1;
        let bytes = disk.read(file).await?;
        let len = bytes.len() as u64;
        match read_segment_header(&bytes).map_err(|error| damaged(file, error))? {
            Some(sequence) => found.push(Found { file, len, sequence }),
            None if len < segment_len => disk.remove(file).await?, // a crash while it was prepared
            None => files.spare.push((file, len)),
        }
    }
    found.sort_by_key(|segment| segment.sequence);
    files.next_sequence = found.last().map_or(1, |newest| newest.sequence + 1);
    let mut newest = None;
    // Normally the last one. One whose first write was torn says nothing, and nothing was reported from it.
    while let Some(last) = found.pop() {
        let bytes = disk.read(last.file).await?;
        let segment = read_segment(&bytes, last.sequence).map_err(|error| damaged(last.file, error))?;
        if segment.numbers.is_some() {
            newest = Some((last, segment));
            break;
        }
        files.spare.push((last.file, last.len));
    }
    let Some((last, segment)) = newest else { return Ok(recovered) };
    let floor = first_sequence(&segment).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("log file {:08} begins without its state", last.file.0),
        )
    })?;
    let mut replay = Replay::default();
    for older in found {
        if older.sequence < floor {
            files.spare.push((older.file, older.len));
            continue;
        }
        let bytes = disk.read(older.file).await?;
        let segment = read_segment(&bytes, older.sequence).map_err(|error| damaged(older.file, error))?;
        replay.segment(older, segment, files)?;
    }
    files.end = segment.end;
    replay.segment(last, segment, files)?;
    files.next_number = replay.last_number.map_or(0, |number| number + 1);
    (recovered.state, recovered.entries) = replay.finish()?;
    Ok(recovered)
}

fn first_sequence(segment: &Segment) -> Option<u64> {
    let states = segment.records.iter().filter_map(|record| match record {
        Record::State(state) => Some(state.first_sequence),
        Record::Truncated { .. } | Record::Entry(_) => None,
    });
    states.max()
}

/// Records, in order, into what they mean.
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
        files.live.push(Live { file: found.file, sequence: found.sequence, len: found.len, last_index });
        Ok(())
    }

    /// A purge cuts the front; when a snapshot was installed, it may leave nothing, and the next entry comes after a gap.
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
            let what =
                format!("log file {:08}: entry {} where {expected} is expected", file.0, entry.log_id.index);
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
