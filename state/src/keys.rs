//! The key table: everything that the state store holds. Numbers in keys are big-endian, so that keys sort like them;
//! values begin with the version of their table (`record`). The types of the values are in `value`, `command` and `dfs_proto`.
//!
//! | prefix | key behind it | value | who scans it |
//! |---|---|---|---|
//! | 00 | anything | the Raft glue's own records: last applied, membership | nobody here |
//! | 01 | | `ClusterRecord` | |
//! | 02 | | `Counters`: last time, next ids, totals | |
//! | 03 | | key of the directory hash | |
//! | 04 | member | `Member` | status, membership check |
//! | 05 | volume | `VolumeRecord`: next inode number, whether it is being removed | start, drop |
//! | 06 | volume | `VolumeEntry`: its name in the root directory, or that it gets none | comparing with the map |
//! | 10 | inode | `InodeRecord` | |
//! | 11 | directory, cookie | `Dirent`: the name and where it leads | readdir |
//! | 12 | inode, end offset | `ExtentRecord` | read: the first one ending behind an offset; overlay; reaper |
//! | 13 | inode, content seq | `CutRecord`: a truncation that the reaper finishes | read, overlay, reaper |
//! | 14 | inode | number of sessions that hold this orphan | |
//! | 15 | session, inode | -: a session holds this orphan | end of a session |
//! | 16 | number in the queue | `InodeId`: released; only its extents are left | reaper, by number |
//! | 17 | directory | number of its names that do not stand at their hash; absent: none | |
//! | 18 | inode | `SpaceRecord`: bytes of its extents, number of its cuts; absent: none, or the inode's record is of version 1 | commit, truncation, reaper |
//! | 19 | inode, name | reserved: extended attributes | |
//! | 1a | inode, which | reserved: access control lists | |
//! | 20 | chunk | `ChunkRecord` | |
//! | 21 | session, chunk | -: open chunks by writer | end of a session; sealing of mixed chunks |
//! | 22 | server, chunk | -: open chunks by replica | sealing when a server is away |
//! | 23 | server, chunk | -: all chunks by replica | later: repair, drain |
//! | 24 | dead since, chunk | - | start of deletion |
//! | 25 | server, chunk | -: to be deleted there, not yet confirmed | heartbeat replies |
//! | 26 | chunk | -: degraded or damaged | later: repair |
//! | 30 | session | `SessionRecord` of one that is alive | expiry after an election |
//! | 31 | nonce | `SessionId` | |
//! | 32 | session, request | result of a change (P8.1) | pruning |
//! | 33 | session, inode | last commit number (P2.1) | end of a session |
//! | 34 | session | -: ended; what it left is being reaped | reaper |
//! | 35 | session, volume | -: it may hold locks and open files there (P6.5) | end of a session |
//! | 36 | volume, session | -: the same by volume | a new leader |
//! | 37 | session, volume | -: it may hold Write of files there (P3.6) | end of a session |
//! | 38 | volume, session | -: the same by volume | a new leader |
//! | 39 | session | how long it was silent, in ms; absent: nothing is noted (P3.1) | a new leader |
//! | 40 | server | `ServerRecord` | view, status |
//! | 41 | directory UUID | `ServerId` | |
//!
//! In the federation group's store, beside 00:
//!
//! | 50 | | `FederationRecord`: version, last number given, copy of the root's attributes | |
//! | 51 | cluster | `ClusterEntry` | the map |
//! | 52 | volume | `MapVolume` | the map |

use dfs_proto::ids::{
    ChunkId, ClusterId, ContentSeq, DirectoryId, InodeId, MemberId, RequestId, ServerId, SessionId,
    SessionNonce, VolumeId,
};

use super::time::StateTime;

/// Everything below this prefix belongs to the Raft glue.
pub const GLUE: u8 = 0x00;

pub(super) const CLUSTER: u8 = 0x01;
pub(super) const COUNTERS: u8 = 0x02;
pub(super) const HASH_KEY: u8 = 0x03;
pub(super) const MEMBER: u8 = 0x04;
pub(super) const VOLUME: u8 = 0x05;
pub(super) const VOLUME_ENTRY: u8 = 0x06;
pub(super) const INODE: u8 = 0x10;
pub(super) const DIRENT: u8 = 0x11;
pub(super) const EXTENT: u8 = 0x12;
pub(super) const CUT: u8 = 0x13;
pub(super) const ORPHAN: u8 = 0x14;
pub(super) const ORPHAN_BY_SESSION: u8 = 0x15;
pub(super) const RELEASED: u8 = 0x16;
pub(super) const DISPLACED: u8 = 0x17;
pub(super) const SPACE: u8 = 0x18;
pub(super) const CHUNK: u8 = 0x20;
pub(super) const CHUNK_BY_SESSION: u8 = 0x21;
pub(super) const OPEN_BY_SERVER: u8 = 0x22;
pub(super) const CHUNK_BY_SERVER: u8 = 0x23;
pub(super) const DEAD: u8 = 0x24;
pub(super) const DELETING_BY_SERVER: u8 = 0x25;
pub(super) const ATTENTION: u8 = 0x26;
pub(super) const SESSION: u8 = 0x30;
pub(super) const SESSION_BY_NONCE: u8 = 0x31;
pub(super) const RESULT: u8 = 0x32;
pub(super) const COMMIT: u8 = 0x33;
pub(super) const ENDED: u8 = 0x34;
const HOLDS: u8 = 0x35;
const HOLDS_BY_VOLUME: u8 = 0x36;
const WRITES: u8 = 0x37;
const WRITES_BY_VOLUME: u8 = 0x38;
pub(super) const SILENCE: u8 = 0x39;
pub(super) const SERVER: u8 = 0x40;
pub(super) const SERVER_BY_DIRECTORY: u8 = 0x41;
const FEDERATION: u8 = 0x50;
pub(super) const MAP_CLUSTER: u8 = 0x51;
pub(super) const MAP_VOLUME: u8 = 0x52;

fn key(prefix: u8, numbers: &[u64]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + 8 * numbers.len());
    key.push(prefix);
    for number in numbers {
        key.extend_from_slice(&number.to_be_bytes());
    }
    key
}

/// The `index`th number behind the prefix of a key that [`key`] made.
///
/// # Panics
/// When the key is too short: the table is corrupt.
pub(super) fn number(key: &[u8], index: usize) -> u64 {
    let at = 1 + 8 * index;
    match key.get(at..at + 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()) {
        Some(bytes) => u64::from_be_bytes(bytes),
        None => panic!("the state store is corrupt: key {} is too short", key.escape_ascii()),
    }
}

pub(super) fn cluster() -> Vec<u8> {
    key(CLUSTER, &[])
}

pub(super) fn counters() -> Vec<u8> {
    key(COUNTERS, &[])
}

pub(super) fn hash_key() -> Vec<u8> {
    key(HASH_KEY, &[])
}

pub(super) fn member(member: MemberId) -> Vec<u8> {
    key(MEMBER, &[member.0])
}

pub(super) fn volume(volume: VolumeId) -> Vec<u8> {
    key(VOLUME, &[u64::from(volume.0)])
}

pub(super) fn volume_entry(volume: VolumeId) -> Vec<u8> {
    key(VOLUME_ENTRY, &[u64::from(volume.0)])
}

/// Every inode of a volume begins with this.
pub(super) fn inodes_of(volume: VolumeId) -> Vec<u8> {
    let mut key = vec![INODE];
    key.extend_from_slice(&volume.0.to_be_bytes()[1..]); // 24 bits
    key
}

pub(super) fn inode(inode: InodeId) -> Vec<u8> {
    key(INODE, &[inode.0])
}

/// Also where the entries of `directory` with at least this cookie begin.
pub(super) fn dirent(directory: InodeId, cookie: u64) -> Vec<u8> {
    key(DIRENT, &[directory.0, cookie])
}

pub(super) fn dirents_of(directory: InodeId) -> Vec<u8> {
    key(DIRENT, &[directory.0])
}

pub(super) fn displaced(directory: InodeId) -> Vec<u8> {
    key(DISPLACED, &[directory.0])
}

pub(super) fn extent(inode: InodeId, end: u64) -> Vec<u8> {
    key(EXTENT, &[inode.0, end])
}

pub(super) fn extents_of(inode: InodeId) -> Vec<u8> {
    key(EXTENT, &[inode.0])
}

/// What the keys begin with of all inodes whose numbers share all but the last eight bits with this one's, of a key that begins with its
/// number.
pub(super) fn near(key_of_inode: &[u8]) -> Vec<u8> {
    key_of_inode.get(..8).unwrap_or(key_of_inode).to_vec()
}

pub(super) fn cut(inode: InodeId, seq: ContentSeq) -> Vec<u8> {
    key(CUT, &[inode.0, seq.0])
}

pub(super) fn cuts_of(inode: InodeId) -> Vec<u8> {
    key(CUT, &[inode.0])
}

pub(super) fn orphan(inode: InodeId) -> Vec<u8> {
    key(ORPHAN, &[inode.0])
}

pub(super) fn orphan_by_session(session: SessionId, inode: InodeId) -> Vec<u8> {
    key(ORPHAN_BY_SESSION, &[session.0, inode.0])
}

pub(super) fn orphans_of(session: SessionId) -> Vec<u8> {
    key(ORPHAN_BY_SESSION, &[session.0])
}

pub(super) fn released(number: u64) -> Vec<u8> {
    key(RELEASED, &[number])
}

pub(super) fn space(inode: InodeId) -> Vec<u8> {
    key(SPACE, &[inode.0])
}

pub(super) fn chunk(chunk: ChunkId) -> Vec<u8> {
    key(CHUNK, &[chunk.0])
}

pub(super) fn chunk_by_session(session: SessionId, chunk: ChunkId) -> Vec<u8> {
    key(CHUNK_BY_SESSION, &[session.0, chunk.0])
}

pub(super) fn chunks_of_session(session: SessionId) -> Vec<u8> {
    key(CHUNK_BY_SESSION, &[session.0])
}

pub(super) fn open_by_server(server: ServerId, chunk: ChunkId) -> Vec<u8> {
    key(OPEN_BY_SERVER, &[server.0, chunk.0])
}

pub(super) fn open_of_server(server: ServerId) -> Vec<u8> {
    key(OPEN_BY_SERVER, &[server.0])
}

pub(super) fn chunk_by_server(server: ServerId, chunk: ChunkId) -> Vec<u8> {
    key(CHUNK_BY_SERVER, &[server.0, chunk.0])
}

pub(super) fn chunks_of_server(server: ServerId) -> Vec<u8> {
    key(CHUNK_BY_SERVER, &[server.0])
}

/// Sorts by time. Below zero counts as zero: an earlier release's times were of a wall clock, and no chunk died before 1970.
pub(super) fn dead(since: StateTime, chunk: ChunkId) -> Vec<u8> {
    key(DEAD, &[since.seconds.max(0).cast_unsigned(), u64::from(since.nanos), chunk.0])
}

/// When and which, of a key that [`dead`] made.
pub(super) fn dead_parts(key: &[u8]) -> (StateTime, ChunkId) {
    let since = StateTime { seconds: number(key, 0).cast_signed(), nanos: number(key, 1) as u32 };
    (since, ChunkId(number(key, 2)))
}

pub(super) fn deleting_by_server(server: ServerId, chunk: ChunkId) -> Vec<u8> {
    key(DELETING_BY_SERVER, &[server.0, chunk.0])
}

pub(super) fn deleting_of_server(server: ServerId) -> Vec<u8> {
    key(DELETING_BY_SERVER, &[server.0])
}

pub(super) fn attention(chunk: ChunkId) -> Vec<u8> {
    key(ATTENTION, &[chunk.0])
}

pub(super) fn session(session: SessionId) -> Vec<u8> {
    key(SESSION, &[session.0])
}

pub(super) fn session_by_nonce(nonce: SessionNonce) -> Vec<u8> {
    let mut key = vec![SESSION_BY_NONCE];
    key.extend_from_slice(&nonce.0.to_be_bytes());
    key
}

pub(super) fn result(session: SessionId, request: RequestId) -> Vec<u8> {
    key(RESULT, &[session.0, request.0])
}

pub(super) fn results_of(session: SessionId) -> Vec<u8> {
    key(RESULT, &[session.0])
}

pub(super) fn commit(session: SessionId, inode: InodeId) -> Vec<u8> {
    key(COMMIT, &[session.0, inode.0])
}

pub(super) fn commits_of(session: SessionId) -> Vec<u8> {
    key(COMMIT, &[session.0])
}

pub(super) fn ended(session: SessionId) -> Vec<u8> {
    key(ENDED, &[session.0])
}

/// What a session may hold in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    /// Locks, and open files.
    Hold,
    /// Write of files.
    Write,
}

impl May {
    pub(super) const ALL: [May; 2] = [May::Hold, May::Write];

    pub(super) fn by_session(self) -> u8 {
        match self {
            May::Hold => HOLDS,
            May::Write => WRITES,
        }
    }

    pub(super) fn by_volume(self) -> u8 {
        match self {
            May::Hold => HOLDS_BY_VOLUME,
            May::Write => WRITES_BY_VOLUME,
        }
    }
}

pub(super) fn may(may: May, session: SessionId, volume: VolumeId) -> Vec<u8> {
    key(may.by_session(), &[session.0, u64::from(volume.0)])
}

pub(super) fn may_of(may: May, session: SessionId) -> Vec<u8> {
    key(may.by_session(), &[session.0])
}

pub(super) fn may_by_volume(may: May, volume: VolumeId, session: SessionId) -> Vec<u8> {
    key(may.by_volume(), &[u64::from(volume.0), session.0])
}

pub(super) fn may_in(may: May, volume: VolumeId) -> Vec<u8> {
    key(may.by_volume(), &[u64::from(volume.0)])
}

pub(super) fn silence(session: SessionId) -> Vec<u8> {
    key(SILENCE, &[session.0])
}

pub(super) fn server(server: ServerId) -> Vec<u8> {
    key(SERVER, &[server.0])
}

pub(super) fn server_by_directory(directory: DirectoryId) -> Vec<u8> {
    let mut key = vec![SERVER_BY_DIRECTORY];
    key.extend_from_slice(&directory.0.to_be_bytes());
    key
}

pub(super) fn federation() -> Vec<u8> {
    key(FEDERATION, &[])
}

pub(super) fn map_cluster(cluster: ClusterId) -> Vec<u8> {
    let mut key = vec![MAP_CLUSTER];
    key.extend_from_slice(&cluster.0.to_be_bytes());
    key
}

/// Which, of a key that [`map_cluster`] made.
pub(super) fn cluster_in(key: &[u8]) -> ClusterId {
    ClusterId(u128::from(number(key, 0)) << 64 | u128::from(number(key, 1)))
}

pub(super) fn map_volume(volume: VolumeId) -> Vec<u8> {
    key(MAP_VOLUME, &[u64::from(volume.0)])
}

/// Which volume, of a key that [`may`] made.
pub(super) fn volume_of_may(key: &[u8]) -> VolumeId {
    VolumeId(number(key, 1) as u32)
}

/// Which, of a key that [`volume`], [`volume_entry`], [`may_by_volume`] or [`map_volume`] made.
pub(super) fn volume_in(key: &[u8]) -> VolumeId {
    VolumeId(number(key, 0) as u32)
}

/// The whole table of one prefix.
pub(super) fn table(prefix: u8) -> Vec<u8> {
    vec![prefix]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_like_their_numbers() {
        assert!(extent(InodeId(1), 255) < extent(InodeId(1), 256));
        assert!(extent(InodeId(1), u64::MAX) < extent(InodeId(2), 0));
        let early = StateTime { seconds: 5, nanos: 999_999_999 };
        let late = StateTime { seconds: 6, nanos: 0 };
        assert!(dead(early, ChunkId(9)) < dead(late, ChunkId(1)));
        assert_eq!(dead_parts(&dead(early, ChunkId(9))), (early, ChunkId(9)));
    }
}
