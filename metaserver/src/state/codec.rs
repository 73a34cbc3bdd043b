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

/// # Panics
/// On bytes that [`encode`] did not make: the store is corrupt, and a server must not go on from a guess.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str) -> T {
    match bytes.split_first() {
        Some((&FORMAT, record)) => match postcard::from_bytes(record) {
            Ok(record) => record,
            Err(error) => panic!("the state store is corrupt: {what}: {error}"),
        },
        Some((format, _)) => panic!("{what} has format {format}; this version of dfs reads {FORMAT}"),
        None => panic!("the state store is corrupt: {what} is empty"),
    }
}
