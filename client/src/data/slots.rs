//! The slots of a session: where bytes of which volume go, and which of the open chunks are kept.
//!
//! OS1  A slot is of one volume, and so are its chunks (P1.8).
//! OS2  At most [`SLOTS_MAX`] slots are kept, whatever the number of volumes that are written to. For one more, the slot that
//!      has been idle longest is left. Whoever is just appending in it ends that; then its chunk is sealed (T4 of `stream`).
//! OS3  What stands here beside a slot is of the chunk that the slot has now.
//!
//! A session that writes to more volumes in turn than there are slots opens a chunk for nearly every append. That is slow and
//! right, and nothing is done about it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_proto::ids::{InodeId, ServerId, VolumeId};
use dfs_proto::units::MIB;

use crate::data::buffer::RUN_LEN_MAX;
use crate::data::stream::ChunkStream;

/// How many replica sets one big stream uses at once.
const STREAM_SLOTS: u64 = 4;
/// How many chunks of one volume are open at the same time.
pub(crate) const SLOTS_OF_VOLUME: usize = 1 + STREAM_SLOTS as usize;
/// How many chunks of all volumes are open at the same time (OS2): big streams in a dozen volumes, or small files in 64. A
/// chunkserver keeps 2,048 chunks of all sessions open.
pub(crate) const SLOTS_MAX: usize = 64;
/// A stream stays on one slot for this many bytes: more makes longer extents, fewer spreads sooner.
const STRIPE_LEN: u64 = 4 * MIB;

const _: () = assert!(SLOTS_MAX >= SLOTS_OF_VOLUME);

/// One slot of one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SlotKey {
    volume: VolumeId,
    /// 0: of small writes. The others: of streams.
    index: u64,
}

impl SlotKey {
    /// The slot for bytes of a file (W1 of `writer`).
    pub(crate) fn of(inode: InodeId, file_offset: u64, len: u64) -> SlotKey {
        let is_stream = len >= RUN_LEN_MAX && file_offset >= RUN_LEN_MAX;
        let turn = (inode.0.wrapping_add(file_offset / STRIPE_LEN)) % STREAM_SLOTS;
        SlotKey { volume: inode.volume(), index: if is_stream { 1 + turn } else { 0 } }
    }

    pub(crate) fn volume(self) -> VolumeId {
        self.volume
    }

    /// Both are slots of streams, of one volume.
    fn is_beside(self, other: SlotKey) -> bool {
        self.volume == other.volume && self.index > 0 && other.index > 0 && self.index != other.index
    }
}

/// What a slot has open.
#[derive(Default)]
pub(crate) struct OpenSlot {
    pub(crate) stream: Option<Arc<ChunkStream>>,
    pub(crate) len: u64,
}

/// The lock is held while a chunk is opened and while its queue is full.
pub(crate) type SharedSlot = Arc<tokio::sync::Mutex<OpenSlot>>;

struct Kept {
    slot: SharedSlot,
    /// Of its chunk.
    servers: Vec<ServerId>,
    /// The number of the last use.
    used: u64,
}

#[derive(Default)]
struct Table {
    kept: BTreeMap<SlotKey, Kept>,
    uses: u64,
}

/// The slots that are kept.
#[derive(Default)]
pub(crate) struct OpenSlots(Mutex<Table>);

impl OpenSlots {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot, for one use of it.
    pub(crate) fn get(&self, key: SlotKey) -> SharedSlot {
        let mut table = self.table();
        table.uses += 1;
        let used = table.uses;
        if let Some(kept) = table.kept.get_mut(&key) {
            kept.used = used;
            return kept.slot.clone();
        }
        let is_full = table.kept.len() >= SLOTS_MAX;
        let idle_longest = table.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key);
        let left = idle_longest.filter(|_| is_full).and_then(|key| table.kept.remove(&key));
        let slot = SharedSlot::default();
        table.kept.insert(key, Kept { slot: slot.clone(), servers: Vec::new(), used });
        drop(table);
        drop(left); // keeps OS2; not under the lock, as the end of its stream does more
        slot
    }

    /// The chunk of this slot is on these servers. A slot that was left meanwhile has no place here (OS3).
    pub(crate) fn note_servers(&self, key: SlotKey, slot: &SharedSlot, servers: Vec<ServerId>) {
        let mut table = self.table();
        if let Some(kept) = table.kept.get_mut(&key).filter(|kept| Arc::ptr_eq(&kept.slot, slot)) {
            kept.servers = servers;
        }
    }

    /// The servers of the chunks of the volume's other slots of streams; none for the slot of small writes.
    pub(crate) fn servers_beside(&self, key: SlotKey) -> Vec<ServerId> {
        let table = self.table();
        let others = table.kept.iter().filter(|(other, _)| key.is_beside(**other));
        others.flat_map(|(_, kept)| kept.servers.iter().copied()).collect()
    }

    /// Leaves every slot. Returns them, so that the caller may wait for those that are in use.
    pub(crate) fn leave_all(&self) -> Vec<SharedSlot> {
        std::mem::take(&mut self.table().kept).into_values().map(|kept| kept.slot).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(volume: u32, number: u64) -> InodeId {
        InodeId::new(VolumeId(volume), number).expect("in range")
    }

    fn small(volume: u32) -> SlotKey {
        SlotKey::of(inode(volume, 7), 0, 10)
    }

    fn stream(volume: u32, stripe: u64) -> SlotKey {
        SlotKey::of(inode(volume, 8), RUN_LEN_MAX + stripe * STRIPE_LEN, RUN_LEN_MAX)
    }

    fn kept(slots: &OpenSlots) -> Vec<SlotKey> {
        slots.table().kept.keys().copied().collect()
    }

    #[test]
    fn two_volumes_share_no_slot_and_each_has_one_for_small_writes_and_four_for_streams() {
        let slots = OpenSlots::default();
        for volume in [0, 5] {
            for stripe in 0..20 {
                slots.get(small(volume));
                slots.get(stream(volume, stripe));
            }
        }
        let of = |volume| kept(&slots).into_iter().filter(|key| key.volume() == VolumeId(volume)).count();
        assert_eq!((of(0), of(5)), (SLOTS_OF_VOLUME, SLOTS_OF_VOLUME));
        assert!(!Arc::ptr_eq(&slots.get(small(0)), &slots.get(small(5))));
        assert!(Arc::ptr_eq(&slots.get(small(0)), &slots.get(small(0))));
    }

    #[test]
    fn for_one_slot_more_than_are_kept_the_one_that_was_idle_longest_is_left() {
        let slots = OpenSlots::default();
        let first = slots.get(small(0));
        for volume in 1..SLOTS_MAX as u32 {
            slots.get(small(volume));
        }
        assert!(Arc::ptr_eq(&first, &slots.get(small(0))), "it is used again");
        slots.get(small(1000));
        let left: Vec<SlotKey> = kept(&slots);
        assert_eq!(left.len(), SLOTS_MAX);
        assert!(left.contains(&small(0)) && !left.contains(&small(1)) && left.contains(&small(2)));
        assert_eq!(Arc::strong_count(&slots.get(small(1))), 2, "a new one");
        assert_eq!(slots.leave_all().len(), SLOTS_MAX);
        assert_eq!(kept(&slots), []);
    }

    #[test]
    fn servers_beside_a_slot_are_those_of_the_other_streams_of_its_volume_that_are_kept() {
        let slots = OpenSlots::default();
        let note = |key: SlotKey, server| slots.note_servers(key, &slots.get(key), vec![ServerId(server)]);
        note(small(0), 1);
        note(stream(0, 0), 2);
        note(stream(0, 1), 3);
        note(stream(5, 1), 4);
        assert_eq!(slots.servers_beside(stream(0, 0)), [ServerId(3)]);
        assert_eq!(slots.servers_beside(stream(0, 2)).len(), 2);
        assert_eq!(slots.servers_beside(small(0)), []);
        let left = slots.get(stream(0, 1));
        slots.leave_all();
        slots.get(stream(0, 1));
        slots.note_servers(stream(0, 1), &left, vec![ServerId(5)]);
        assert_eq!(slots.servers_beside(stream(0, 0)), [], "of a slot that was left, in use as it was");
    }
}
