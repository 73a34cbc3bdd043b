//! Values in the store: one byte of format version, then postcard. A new version of a record gets a new byte, and
//! `decode` of its table reads the old one too.

use serde::Serialize;
use serde::de::DeserializeOwned;

const FORMAT: u8 = 1;
/// Of an index entry: its key says everything.
pub(super) const PRESENT: [u8; 1] = [FORMAT];

pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    match postcard::to_extend(record, vec![FORMAT]) {
        Ok(bytes) => bytes,
        // Our records are plain data: postcard refuses only sequences of unknown length.
        Err(error) => panic!("a record cannot be encoded: {error}"),
    }
}

/// The same for a table whose records are of another format by now.
pub(super) fn encode_as<T: Serialize>(format: u8, record: &T) -> Vec<u8> {
    let mut bytes = encode(record);
    bytes[0] = format;
    bytes
}

/// A record as it was before `format`, if it is that old.
///
/// # Panics
/// As [`decode`].
pub(super) fn decode_or_old<T: DeserializeOwned, Old: DeserializeOwned>(
    format: u8,
    bytes: &[u8],
    what: &str,
) -> Result<T, Old> {
    match bytes.split_first() {
        Some((&found, record)) if found == format => Ok(decode_record(record, what)),
        _ => Err(decode(bytes, what)),
    }
}

fn decode_record<T: DeserializeOwned>(record: &[u8], what: &str) -> T {
    match postcard::from_bytes(record) {
        Ok(record) => record,
        Err(error) => panic!("the state store is corrupt: {what}: {error}"),
    }
}

/// # Panics
/// On bytes that [`encode`] did not make: the store is corrupt, and a server must not go on from a guess.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str) -> T {
    match bytes.split_first() {
        Some((&FORMAT, record)) => decode_record(record, what),
        Some((format, _)) => panic!("{what} has format {format}; this version of dfs reads {FORMAT}"),
        None => panic!("the state store is corrupt: {what} is empty"),
    }
}
