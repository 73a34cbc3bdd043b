//! The bytes of the Raft log on disk. Nothing here does I/O.
//!
//!     segment file | header 64 B | batch | batch | … | zeros, or what an earlier use of the file left |
//!     header       | magic 8 | format u32 | reserved u32 | sequence u64 | directory 16 | file length u64 | crc32c u32 | zeros |
//!     batch        | magic u32 | body length u32 | sequence u64 | number u64 | body crc32c u32 | head crc32c u32 | body |
//!     body         records: tag u8, then postcard
//!
//! All numbers are little-endian. Batches begin at multiples of 64. The header has the id of the data directory in which the
//! segment was written, and the length that its file had then. Format 1 had neither: its crc32c follows the sequence, then zeros.
//!
//! L1  A batch is written with one write, and synced before the next one is written. So a crash can tear only the last batch of the
//!     log; a damaged batch with a later one behind it had been synced, and is real damage. The first batch of a segment is written
//!     together with the header, which fits into one sector, so that the header is whole or not there.
//! L2  Each batch has the sequence of its segment, so that what an earlier use of the file left is not taken for part of the log.
//! L3  Batch numbers are consecutive over all segments, so that a lost segment is noticed.
//! L4  A segment begins with a `State`, so that all segments before it can be dropped when their entries are purged. The newest
//!     `State` has the sequence of the first segment that counts, and that segment must be there.
//! L5  When a segment is begun, the stamp is told how far the log has come, so that a lost end of the log is noticed.

use dfs_proto::ids::DirectoryId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::raft::types::{LogEntry, LogId, Vote};

pub(crate) const SEGMENT_HEADER_LEN: usize = 64;
/// Batches begin at multiples of this.
pub(crate) const BATCH_ALIGN: usize = 64;
const BATCH_HEAD_LEN: usize = 32;
const SEGMENT_MAGIC: &[u8; 8] = b"DFSRLOG\0";
const BATCH_MAGIC: u32 = 0x4c42_5f44;
const LOG_FORMAT: u32 = 2;
const DIRECTORY_AT: usize = 24;
const FILE_LEN_AT: usize = 40;
/// The offset of the checksum, which covers everything before it.
const HEADER_CRC_AT: usize = 48;
const HEADER_CRC_AT_IN_FORMAT_1: usize = 24;

const TAG_STATE: u8 = 1;
const TAG_TRUNCATED: u8 = 2;
const TAG_ENTRY: u8 = 3;

/// Everything that the log keeps besides entries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<LogId>,
    /// Segments with a lower sequence are no longer part of the log.
    pub(crate) first_sequence: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    State(State),
    /// Of the entries before this record, those after this one no longer count; `None`: none of them counts.
    Truncated {
        after: Option<LogId>,
    },
    Entry(LogEntry),
}

/// Why a log cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum DamageError {
    #[error("the segment header is damaged")]
    Header,
    #[error("it has {actual} bytes and was made with {expected}: it was cut")]
    Cut { expected: u64, actual: u64 },
    #[error("it was written in data directory {actual}, but MEMBER says that this is {expected}")]
    Directory { expected: DirectoryId, actual: DirectoryId },
    #[error("it holds segment {sequence}, and so does another file")]
    Twice { sequence: u64 },
    #[error("it counts on segment {sequence}, which is missing")]
    Missing { sequence: u64 },
    #[error("the log has format {actual}, this release reads {LOG_FORMAT}")]
    NewerFormat { actual: u32 },
    #[error("batch {number} at byte {offset} is damaged, and batches written later follow it")]
    Middle { number: u64, offset: usize },
    #[error("batch {actual} follows where batch {expected} is expected: what lies between is missing")]
    Gap { expected: u64, actual: u64 },
    #[error("batch {number} at byte {offset} cannot be decoded: {what}")]
    Records { number: u64, offset: usize, what: String },
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) sequence: u64,
    /// The data directory in which it was written; unknown in format 1.
    pub(crate) directory: DirectoryId,
    /// The length of its file when it was begun; 0 in format 1.
    pub(crate) file_len: u64,
}

pub(crate) fn segment_header(segment: &SegmentHeader) -> [u8; SEGMENT_HEADER_LEN] {
    let mut header = [0; SEGMENT_HEADER_LEN];
    header[..8].copy_from_slice(SEGMENT_MAGIC);
    header[8..12].copy_from_slice(&LOG_FORMAT.to_le_bytes());
    header[16..DIRECTORY_AT].copy_from_slice(&segment.sequence.to_le_bytes());
    header[DIRECTORY_AT..FILE_LEN_AT].copy_from_slice(&segment.directory.0.to_le_bytes());
    header[FILE_LEN_AT..HEADER_CRC_AT].copy_from_slice(&segment.file_len.to_le_bytes());
    let crc = crc32c(&header[..HEADER_CRC_AT]);
    header[HEADER_CRC_AT..HEADER_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The header of a segment; `None` if the file was made and never used.
pub(crate) fn read_segment_header(file: &[u8]) -> Result<Option<SegmentHeader>, DamageError> {
    let header = file.get(..SEGMENT_HEADER_LEN).unwrap_or(file);
    if header.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    if !header.starts_with(SEGMENT_MAGIC) {
        return Err(DamageError::Header);
    }
    let format = u32_at(header, 8);
    if let Some(actual) = format.filter(|format| *format > LOG_FORMAT) {
        return Err(DamageError::NewerFormat { actual });
    }
    let is_old = format == Some(1);
    let crc_at = if is_old { HEADER_CRC_AT_IN_FORMAT_1 } else { HEADER_CRC_AT };
    if header.len() < SEGMENT_HEADER_LEN || u32_at(header, crc_at) != Some(crc32c(&header[..crc_at])) {
        return Err(DamageError::Header);
    }
    let sequence = u64_at(header, 16).ok_or(DamageError::Header)?;
    if is_old {
        return Ok(Some(SegmentHeader { sequence, directory: DirectoryId::UNKNOWN, file_len: 0 }));
    }
    let (low, high) = (u64_at(header, DIRECTORY_AT), u64_at(header, DIRECTORY_AT + 8));
    let directory = low.zip(high).map(|(low, high)| DirectoryId(u128::from(high) << 64 | u128::from(low)));
    let directory = directory.ok_or(DamageError::Header)?;
    let file_len = u64_at(header, FILE_LEN_AT).ok_or(DamageError::Header)?;
    Ok(Some(SegmentHeader { sequence, directory, file_len }))
}

/// For tests of whole servers: the sequence and bytes of the segment after `newest` if a power failure fell into its first write,
/// and stored its header but nothing of its batch. `None` if `newest` is no segment.
pub fn torn_segment_after(newest: &[u8]) -> Option<(u64, Vec<u8>)> {
    let header = read_segment_header(newest).ok()??;
    let torn = SegmentHeader { sequence: header.sequence + 1, file_len: newest.len() as u64, ..header };
    let mut file = newest.to_vec();
    file[..SEGMENT_HEADER_LEN].copy_from_slice(&segment_header(&torn));
    Some((torn.sequence, file))
}

/// Appends a record to a batch's body.
pub(crate) fn put_state(body: &mut Vec<u8>, state: &State) -> Result<(), postcard::Error> {
    put(body, TAG_STATE, state)
}

pub(crate) fn put_truncated(body: &mut Vec<u8>, after: &Option<LogId>) -> Result<(), postcard::Error> {
    put(body, TAG_TRUNCATED, after)
}

pub(crate) fn put_entry(body: &mut Vec<u8>, entry: &LogEntry) -> Result<(), postcard::Error> {
    put(body, TAG_ENTRY, entry)
}

fn put<T: Serialize>(body: &mut Vec<u8>, tag: u8, value: &T) -> Result<(), postcard::Error> {
    body.push(tag);
    *body = postcard::to_extend(value, std::mem::take(body))?;
    Ok(())
}

/// Appends `body` to `out` as a batch, with padding up to where the next batch begins.
///
/// The end of `out` must be at a multiple of [`BATCH_ALIGN`] in the file.
pub(crate) fn put_batch(out: &mut Vec<u8>, sequence: u64, number: u64, body: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&BATCH_MAGIC.to_le_bytes());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&crc32c(body).to_le_bytes());
    let crc = crc32c(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(body);
    out.resize(start + batch_len(body.len()), 0);
}

/// How many bytes of the file a batch with a body of this length takes.
pub(crate) fn batch_len(body_len: usize) -> usize {
    (BATCH_HEAD_LEN + body_len).next_multiple_of(BATCH_ALIGN)
}

struct Head {
    body_len: usize,
    number: u64,
    body_crc: u32,
}

/// The head of a batch of this segment, if there is an undamaged one at `offset`.
fn read_head(file: &[u8], offset: usize, sequence: u64) -> Option<Head> {
    let head = file.get(offset..offset + BATCH_HEAD_LEN)?;
    let is_ours = u32_at(head, 0)? == BATCH_MAGIC
        && u64_at(head, 8)? == sequence
        && u32_at(head, BATCH_HEAD_LEN - 4)? == crc32c(&head[..BATCH_HEAD_LEN - 4]);
    is_ours.then_some(Head {
        body_len: u32_at(head, 4)? as usize,
        number: u64_at(head, 16)?,
        body_crc: u32_at(head, 24)?,
    })
}

fn read_body<'a>(file: &'a [u8], offset: usize, head: &Head) -> Option<&'a [u8]> {
    let body = file.get(offset + BATCH_HEAD_LEN..)?.get(..head.body_len)?;
    (crc32c(body) == head.body_crc).then_some(body)
}

/// What a segment holds.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Segment {
    pub(crate) records: Vec<Record>,
    /// The numbers of the first and the last batch; `None` if there is no whole batch.
    pub(crate) numbers: Option<(u64, u64)>,
    /// Where the last write begins: at the last whole batch, or at the header if that batch is the first one.
    pub(crate) last_write: usize,
    /// Where the next batch is to be written.
    pub(crate) end: usize,
}

/// Reads a segment up to its last whole batch (L1).
pub(crate) fn read_segment(file: &[u8], sequence: u64) -> Result<Segment, DamageError> {
    let mut segment = Segment { end: SEGMENT_HEADER_LEN, ..Segment::default() };
    while let Some(head) = read_head(file, segment.end, sequence) {
        let Some(body) = read_body(file, segment.end, &head) else { break };
        if let Some((_, last)) = segment.numbers
            && head.number != last + 1
        {
            return Err(DamageError::Gap { expected: last + 1, actual: head.number });
        }
        segment.last_write = if segment.numbers.is_some() { segment.end } else { 0 };
        segment.numbers = Some((segment.numbers.map_or(head.number, |(first, _)| first), head.number));
        read_records(body, &mut segment.records).map_err(|what| DamageError::Records {
            number: head.number,
            offset: segment.end,
            what,
        })?;
        segment.end += batch_len(head.body_len);
    }
    let next = segment.numbers.map(|(_, last)| last + 1);
    // The batch at `end` is torn or was never written. If that was a crash, there is no later batch behind it (L1).
    let behind = (segment.end + BATCH_ALIGN..file.len()).step_by(BATCH_ALIGN);
    let later = behind
        .filter_map(|offset| read_head(file, offset, sequence))
        .find(|head| next.is_none_or(|next| head.number > next));
    match later {
        Some(later) => {
            let number = next.unwrap_or(later.number.saturating_sub(1));
            Err(DamageError::Middle { number, offset: segment.end })
        }
        None => Ok(segment),
    }
}

fn read_records(mut body: &[u8], records: &mut Vec<Record>) -> Result<(), String> {
    fn take<'a, T: Deserialize<'a>>(body: &mut &'a [u8]) -> Result<T, String> {
        let (value, rest) = postcard::take_from_bytes(body).map_err(|e| e.to_string())?;
        *body = rest;
        Ok(value)
    }
    while let Some((tag, rest)) = body.split_first() {
        body = rest;
        records.push(match *tag {
            TAG_STATE => Record::State(take(&mut body)?),
            TAG_TRUNCATED => Record::Truncated { after: take(&mut body)? },
            TAG_ENTRY => Record::Entry(take(&mut body)?),
            other => return Err(format!("unknown record {other}")),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry as _;

    use super::*;

    const SEQUENCE: u64 = 9;

    fn header(sequence: u64) -> [u8; SEGMENT_HEADER_LEN] {
        segment_header(&SegmentHeader { sequence, directory: DirectoryId(77 << 70), file_len: 4096 })
    }

    fn entry(index: u64) -> LogEntry {
        LogEntry::new_blank(openraft::testing::log_id::<crate::raft::types::TypeConfig>(1, 0, index))
    }

    /// A segment of 4 KiB with batches of one entry each, and where each batch begins.
    fn segment(count: u64) -> (Vec<u8>, Vec<usize>) {
        let mut file = header(SEQUENCE).to_vec();
        let mut starts = Vec::new();
        for index in 0..count {
            starts.push(file.len());
            let mut body = Vec::new();
            put_entry(&mut body, &entry(index)).unwrap();
            put_batch(&mut file, SEQUENCE, 100 + index, &body);
        }
        file.resize(4096, 0);
        (file, starts)
    }

    #[test]
    fn a_segment_reads_back_what_was_written() {
        let (file, _) = segment(5);
        let expected = SegmentHeader { sequence: SEQUENCE, directory: DirectoryId(77 << 70), file_len: 4096 };
        assert_eq!(read_segment_header(&file), Ok(Some(expected)));
        let read = read_segment(&file, SEQUENCE).unwrap();
        assert_eq!(read.records, (0..5).map(|i| Record::Entry(entry(i))).collect::<Vec<_>>());
        assert_eq!(read.numbers, Some((100, 104)));
    }

    #[test]
    fn a_torn_last_batch_is_cut_wherever_it_is_torn() {
        let (file, starts) = segment(3);
        for byte in starts[2]..starts[2] + BATCH_HEAD_LEN + 1 {
            let mut torn = file.clone();
            torn[byte] ^= 0x55;
            let read = read_segment(&torn, SEQUENCE).unwrap();
            assert_eq!((read.records.len(), read.end), (2, starts[2]), "byte {byte}");
        }
    }

    #[test]
    fn a_damaged_batch_with_a_later_one_behind_it_is_refused() {
        let (file, starts) = segment(3);
        for byte in starts[1]..starts[1] + BATCH_HEAD_LEN + 1 {
            let mut damaged = file.clone();
            damaged[byte] ^= 0x55;
            let expected = DamageError::Middle { number: 101, offset: starts[1] };
            assert_eq!(read_segment(&damaged, SEQUENCE), Err(expected), "byte {byte}");
        }
    }

    #[test]
    fn what_a_former_use_of_the_file_left_is_not_part_of_the_log() {
        let (mut file, starts) = segment(3);
        let mut again = header(SEQUENCE + 1).to_vec();
        let mut body = Vec::new();
        put_entry(&mut body, &entry(7)).unwrap();
        put_batch(&mut again, SEQUENCE + 1, 200, &body);
        file[..again.len()].copy_from_slice(&again);
        let read = read_segment(&file, SEQUENCE + 1).unwrap();
        assert_eq!((read.records.len(), read.end), (1, starts[1]));
    }

    #[test]
    fn a_header_that_is_neither_ours_nor_empty_is_refused() {
        assert_eq!(read_segment_header(&[0; 4096]), Ok(None));
        let (mut file, _) = segment(1);
        file[17] ^= 1;
        assert_eq!(read_segment_header(&file), Err(DamageError::Header));
        file[8] = 3;
        assert_eq!(read_segment_header(&file), Err(DamageError::NewerFormat { actual: 3 }));
        assert_eq!(read_segment_header(b"garbage"), Err(DamageError::Header));
    }

    #[test]
    fn a_header_of_format_1_is_read() {
        let mut old = [0; SEGMENT_HEADER_LEN];
        old[..8].copy_from_slice(SEGMENT_MAGIC);
        old[8] = 1;
        old[16..24].copy_from_slice(&SEQUENCE.to_le_bytes());
        let crc = crc32c(&old[..24]);
        old[24..28].copy_from_slice(&crc.to_le_bytes());
        let expected = SegmentHeader { sequence: SEQUENCE, directory: DirectoryId::UNKNOWN, file_len: 0 };
        assert_eq!(read_segment_header(&old), Ok(Some(expected)));
    }
}
