//! Sends a state from one member to another.
//!
//! What is sent is a flushed checkpoint: its pairs in the order of their keys, in parts with checksums, and at the end the number
//! of pairs. The receiver writes them into a new database, which becomes the current one only when it is complete and flushed.
//! The whole state is never in memory.

use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use openraft::RaftSnapshotBuilder;
use openraft::alias::SnapshotOf;

use super::store::{Named, StateStore, invalid, kv_error};
use crate::raft::types::TypeConfig;
use dfs_state::kv::{Batch, Kv, Pair};

/// When a part has this many bytes, it is sent.
const PART_LEN: usize = 512 << 10;
/// When a batch of received pairs has this many bytes, it is written.
const BATCH_LEN: usize = 1 << 20;

/// A snapshot in openraft's hands.
pub(crate) enum SnapshotData {
    /// One to be sent.
    Checkpoint(Arc<dyn Kv>),
    /// One to be installed.
    Received(Named),
}

pub(crate) struct SnapshotBuilder {
    store: Arc<StateStore>,
}

impl SnapshotBuilder {
    pub(crate) fn new(store: Arc<StateStore>) -> SnapshotBuilder {
        SnapshotBuilder { store }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        let made = self.store.make_checkpoint().await?;
        Ok(openraft::Snapshot { meta: made.meta, snapshot: SnapshotData::Checkpoint(made.kv) })
    }
}

/// A part on the wire. Each pair is key length and value length (u32, little-endian), key, value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) pairs: Bytes,
    pub(crate) crc32c: u32,
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Reads a checkpoint part by part.
pub(crate) struct PartReader {
    kv: Arc<dyn Kv>,
    /// The next part begins with this key, or the first one above it.
    from: Vec<u8>,
    is_at_end: bool,
    /// How many pairs were read so far.
    pub(crate) count: u64,
}

impl PartReader {
    pub(crate) fn new(kv: Arc<dyn Kv>) -> PartReader {
        PartReader { kv, from: Vec::new(), is_at_end: false, count: 0 }
    }

    /// `None` after the last part.
    pub(crate) fn next_part(&mut self) -> Option<Part> {
        if self.is_at_end {
            return None;
        }
        let mut bytes = BytesMut::with_capacity(PART_LEN + PART_LEN / 4);
        let view = self.kv.snapshot();
        self.is_at_end = true;
        for (key, value) in view.scan(&self.from, b"") {
            if bytes.len() >= PART_LEN {
                self.from = key;
                self.is_at_end = false;
                break;
            }
            bytes.put_u32_le(key.len() as u32);
            bytes.put_u32_le(value.len() as u32);
            bytes.put_slice(&key);
            bytes.put_slice(&value);
            self.count += 1;
        }
        let crc32c = crc32c(&bytes);
        (!bytes.is_empty()).then(|| Part { pairs: bytes.freeze(), crc32c })
    }
}

fn take_pair(bytes: &mut &[u8]) -> Option<Pair> {
    let key_len = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let value_len = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?) as usize;
    let end = 8usize.checked_add(key_len)?.checked_add(value_len)?;
    let pair = (bytes.get(8..8 + key_len)?.to_vec(), bytes.get(8 + key_len..end)?.to_vec());
    *bytes = &bytes[end..];
    Some(pair)
}

/// Writes received parts into a new database.
pub(crate) struct PartWriter {
    named: Named,
    batch: Batch,
    batch_len: usize,
    count: u64,
}

impl PartWriter {
    pub(crate) fn new(store: &StateStore) -> io::Result<PartWriter> {
        Ok(PartWriter {
            named: store.create_for_receiving()?,
            batch: Batch::default(),
            batch_len: 0,
            count: 0,
        })
    }

    pub(crate) fn write(&mut self, part: &Part) -> io::Result<()> {
        if crc32c(&part.pairs) != part.crc32c {
            return Err(invalid("a part of the snapshot arrived damaged"));
        }
        let mut rest = &part.pairs[..];
        while !rest.is_empty() {
            let (key, value) =
                take_pair(&mut rest).ok_or_else(|| invalid("a part of the snapshot is cut"))?;
            self.batch_len += key.len() + value.len();
            self.batch.put(key, value);
            self.count += 1;
            if self.batch_len >= BATCH_LEN {
                self.write_batch()?;
            }
        }
        Ok(())
    }

    fn write_batch(&mut self) -> io::Result<()> {
        self.batch_len = 0;
        self.named.kv.write(std::mem::take(&mut self.batch)).map_err(kv_error)
    }

    /// Ends the snapshot, which must have `count` pairs. When this returns `Ok`, the database is complete and durable (P7.3).
    pub(crate) async fn finish(mut self, count: u64) -> io::Result<SnapshotData> {
        if self.count != count {
            return Err(invalid(format!("the snapshot has {count} pairs, {} arrived", self.count)));
        }
        self.write_batch()?;
        self.named.kv.flush().await.map_err(kv_error)?;
        Ok(SnapshotData::Received(self.named))
    }
}

/// Copies a database.
pub(crate) async fn copy(store: &StateStore, from: &dyn Kv) -> io::Result<Named> {
    let named = store.create_for_receiving()?;
    let mut batch = Batch::default();
    let mut len = 0;
    {
        let view = from.snapshot();
        for (key, value) in view.scan(b"", b"") {
            len += key.len() + value.len();
            batch.put(key, value);
            if len >= BATCH_LEN {
                named.kv.write(std::mem::take(&mut batch)).map_err(kv_error)?;
                len = 0;
            }
        }
    }
    named.kv.write(batch).map_err(kv_error)?;
    named.kv.flush().await.map_err(kv_error)?;
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_state::kv::KvHome as _;
    use dfs_state::kv::memory::MemoryHome;

    fn filled(pairs: u32) -> Arc<dyn Kv> {
        let kv = MemoryHome::default().create("source").unwrap();
        let mut batch = Batch::default();
        for n in 0..pairs {
            batch.put(n.to_be_bytes(), vec![n as u8; 1000]);
        }
        kv.write(batch).unwrap();
        kv
    }

    fn all(kv: &dyn Kv) -> Vec<Pair> {
        kv.snapshot().scan(b"", b"").collect()
    }

    #[tokio::test]
    async fn a_state_sent_in_parts_arrives_whole() {
        for pairs in [0, 1, 5000] {
            let source = filled(pairs);
            let (store, _) = StateStore::open(Arc::new(MemoryHome::default())).unwrap();
            let mut writer = PartWriter::new(&store).unwrap();
            let mut reader = PartReader::new(source.clone());
            while let Some(part) = reader.next_part() {
                writer.write(&part).unwrap();
            }
            let SnapshotData::Received(named) = writer.finish(reader.count).await.unwrap() else {
                panic!("a receiver makes a received snapshot");
            };
            assert_eq!(all(&*named.kv), all(&*source));
        }
    }

    #[tokio::test]
    async fn a_snapshot_with_a_missing_cut_or_damaged_part_is_refused() {
        let (store, _) = StateStore::open(Arc::new(MemoryHome::default())).unwrap();
        let mut reader = PartReader::new(filled(2000));
        let first = reader.next_part().unwrap();
        while reader.next_part().is_some() {}
        let mut writer = PartWriter::new(&store).unwrap();
        writer.write(&first).unwrap();
        assert!(writer.finish(reader.count).await.is_err());
        let mut writer = PartWriter::new(&store).unwrap();
        assert!(writer.write(&Part { crc32c: first.crc32c ^ 1, ..first.clone() }).is_err());
        let cut = first.pairs.slice(..first.pairs.len() - 1);
        let cut = Part { crc32c: crc32c(&cut), pairs: cut };
        assert!(writer.write(&cut).is_err());
    }
}
