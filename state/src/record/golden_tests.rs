//! Bytes that stay (F1): `tests/formats/README.md`.

use std::fmt::Debug;
use std::fs;
use std::panic;
use std::path::PathBuf;

use dfs_proto::attr::{FileKind, InodeAttr, Name, Timestamp};
use dfs_proto::error::MetaError;
use dfs_proto::federation::{ClusterEntry, MapVolume, RootCopy, VolumePhase};
use dfs_proto::ids::{
    ChunkId, ClusterId, ContentSeq, DirectoryId, FederationId, Incarnation, InodeId, Instance, MemberId,
    ServerId, SessionId, SessionNonce, SetVersion, VolumeId,
};
use dfs_proto::meta::{Changed, OpenedChunk, Replica};
use dfs_proto::units::{ByteLen, ChunkOffset};
use serde::Serialize;

use super::stored::Stored;
use super::{Table, decode, encode};
use crate::command::{Member, ServerAddresses};
use crate::time::StateTime;
use crate::value::chunk::{ChunkRecord, ChunkState};
use crate::value::cluster::{ClusterRecord, Counters, Totals};
use crate::value::dirent::DirentRecord;
use crate::value::extent::{Birth, CutRecord, ExtentRecord};
use crate::value::federation::FederationRecord;
use crate::value::inode::{Attached, InodeFlags, InodeRecord};
use crate::value::server::ServerRecord;
use crate::value::session::{SessionRecord, Window};
use crate::value::space::SpaceRecord;
use crate::value::volume::{VolumeEntry, VolumeRecord, VolumeState};

/// The records of a golden file, each behind its length. `made` is what today's code makes of the same values: it is written
/// where there is no file yet and `DFS_NEW_FORMATS` is set.
fn golden(name: &str, version: u8, made: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/formats/{name}.{version}.bin"));
    if !file.exists() && std::env::var_os("DFS_NEW_FORMATS").is_some() {
        let bytes: Vec<u8> =
            made.iter().flat_map(|r| [&(r.len() as u32).to_le_bytes(), r.as_slice()].concat()).collect();
        fs::write(&file, bytes).expect("write a golden file");
    }
    let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let (mut rest, mut records) = (bytes.as_slice(), Vec::new());
    while let Some((len, behind)) = rest.split_first_chunk::<4>() {
        let (record, behind) = behind.split_at(u32::from_le_bytes(*len) as usize);
        records.push(record.to_vec());
        rest = behind;
    }
    records
}

/// Today's version of a table: read, written, and refused when the version byte is another one.
fn check<T: Table>(name: &str, values: &[T::Value])
where
    T::Value: PartialEq + Debug,
{
    let made: Vec<Vec<u8>> = values.iter().map(encode::<T>).collect();
    let golden = golden(name, T::VERSION, &made);
    let read: Vec<T::Value> = golden.iter().map(|record| decode::<T>(record)).collect();
    assert_eq!(read, values, "{name} is read as what was written");
    assert_eq!(made, golden, "{name} is written as before");
    for record in &golden {
        refuses_other_versions::<T>(record);
    }
}

/// A version that is only read.
fn check_old<T: Table, Record: Stored<T::Value> + Serialize>(name: &str, version: u8, values: &[T::Value])
where
    T::Value: PartialEq + Debug,
{
    let make = |value| postcard::to_extend(&Record::store(value), vec![version]).expect("plain data");
    let made: Vec<Vec<u8>> = values.iter().map(make).collect();
    let golden = golden(name, version, &made);
    let read: Vec<T::Value> = golden.iter().map(|record| decode::<T>(record)).collect();
    assert_eq!(read, values, "{name} of version {version} is read as what was written");
}

fn refuses_other_versions<T: Table>(record: &[u8]) {
    for found in [0, T::VERSION + 1, T::VERSION ^ 0x80] {
        let mut other = record.to_vec();
        other[0] = found;
        if T::OLD.iter().any(|old| old.version == found) {
            continue;
        }
        let refused = panic::catch_unwind(|| decode::<T>(&other)).err().expect("it is refused");
        let said = refused.downcast_ref::<String>().expect("a line");
        let (name, read) = (T::NAME, super::versions_read::<T>());
        let wanted =
            format!("the table of {name} has a record of version {found}; this version of dfs reads {read}");
        assert_eq!(*said, wanted);
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("valid")
}

fn time(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 999_999_999 }
}

const STATE_TIME: StateTime = StateTime { seconds: 5_000_000_000, nanos: 7 };

#[test]
fn cluster() {
    check::<super::cluster::Cluster>(
        "cluster",
        &[ClusterRecord {
            cluster: ClusterId(u128::MAX - 1),
            name: "a cluster".to_owned(),
            incarnation: Incarnation(300),
            copies: 2,
            copies_min: 1,
        }],
    );
    let totals = Totals {
        inodes: 1,
        sessions: 2,
        chunks_open: 3,
        chunks_sealed: 4,
        chunks_dead: 5,
        chunks_deleting: 6,
        chunks_degraded: 7,
        chunks_damaged: 8,
        bytes_live: 900,
        bytes_committed: 1000,
    };
    let (chunk, session, server) = (ChunkId(11), SessionId(12), ServerId(13));
    check::<super::cluster::Counters>(
        "counters",
        &[Counters { time: STATE_TIME, chunk, session, server, released: 14, reaped: 15, totals }],
    );
    check::<super::cluster::HashKey>("hash-key", &[1 << 100]);
    check::<super::cluster::Members>(
        "members",
        &[Member { id: MemberId(3), address: "host:7000".to_owned(), directory: DirectoryId(4 << 70) }],
    );
}

#[test]
fn volumes() {
    let record = |state| VolumeRecord { number: 1 << 39, state };
    check::<super::volume::Volumes>(
        "volumes",
        &[
            record(VolumeState::Active),
            record(VolumeState::Removing { version: 9 }),
            record(VolumeState::Dropped),
        ],
    );
    check::<super::volume::VolumeEntries>(
        "volume-entries",
        &[VolumeEntry::Named { name: name("v"), version: 200 }, VolumeEntry::Forbidden],
    );
}

fn inodes() -> Vec<InodeRecord> {
    let file = InodeRecord {
        kind: FileKind::File,
        mode: 0o4755,
        nlink: 2,
        uid: 1000,
        gid: u32::MAX,
        size: ByteLen(1 << 40),
        rdev: 0,
        atime: time(-1),
        mtime: time(0),
        ctime: time(1 << 40),
        content_version: 77,
        content_seq: ContentSeq(76),
        parent: InodeId(0),
        target: Vec::new(),
        born: Some(time(5)),
        flags: InodeFlags { immutable: true, append_only: false },
        has: Attached { attributes: true, lists: false, capabilities: true },
        space_within: None,
    };
    let kinds = [FileKind::Directory, FileKind::Symlink, FileKind::Fifo, FileKind::Socket]
        .into_iter()
        .chain([FileKind::CharDevice, FileKind::BlockDevice]);
    let other = |kind| InodeRecord {
        kind,
        rdev: 0x801,
        parent: InodeId(1 << 40 | 5),
        target: b"to".to_vec(),
        flags: InodeFlags { immutable: false, append_only: true },
        has: Attached { attributes: false, lists: true, capabilities: false },
        ..file.clone()
    };
    [file.clone()].into_iter().chain(kinds.map(other)).collect()
}

/// The same as version 1 has it.
fn inodes_1() -> Vec<InodeRecord> {
    let space = SpaceRecord { allocated: ByteLen(12345), cuts: 3 };
    let old = |inode| InodeRecord {
        born: None,
        flags: InodeFlags::default(),
        has: Attached::default(),
        space_within: Some(space),
        ..inode
    };
    inodes().into_iter().map(old).collect()
}

#[test]
fn names_and_inodes() {
    check::<super::inode::Inodes>("inodes", &inodes());
    check_old::<super::inode::Inodes, super::inode::Inode1>("inodes", 1, &inodes_1());
    check::<super::space::Spaces>("spaces", &[SpaceRecord { allocated: ByteLen(12345), cuts: 3 }]);
    let record = DirentRecord { inode: InodeId(1 << 40 | 6), kind: FileKind::Directory };
    check::<super::dirent::Dirents>("dirents", &[(name("\u{fc}ber"), record)]);
    check::<super::dirent::Displaced>("displaced", &[0, 300]);
    check::<super::orphan::Orphans>("orphans", &[1, 300]);
    let old: Vec<u32> =
        golden("orphans", 1, &[]).iter().map(|record| decode::<super::orphan::Orphans>(record)).collect();
    assert_eq!(old, [1], "one session held it");
    check::<super::orphan::Released>("released", &[InodeId(1 << 40 | 7)]);
}

#[test]
fn extents_and_cuts() {
    let (chunk, chunk_offset) = (ChunkId(70_000), ChunkOffset(1 << 25));
    let at_birth = ExtentRecord {
        len: 4096,
        chunk,
        chunk_offset,
        seq: ContentSeq(128),
        birth: Birth { chunk, offset: chunk_offset },
    };
    let moved = ExtentRecord { birth: Birth { chunk: ChunkId(300), offset: ChunkOffset(512) }, ..at_birth };
    check::<super::extent::Extents>("extents", &[at_birth, moved]);
    check_old::<super::extent::Extents, super::extent::Extent1>("extents", 1, &[at_birth]);
    check::<super::extent::Cuts>("cuts", &[CutRecord { from: 5000, reaped_to: 1 << 33 }]);
}

#[test]
fn chunks() {
    let record = |state| ChunkRecord {
        state,
        set_version: SetVersion(1),
        replicas: vec![ServerId(1), ServerId(200)],
        copies: 2,
        committed: ByteLen(1 << 26),
        live: ByteLen(5),
        damaged: vec![ServerId(200)],
        volume: None,
    };
    let mixed = [
        record(ChunkState::Open { session: SessionId(9) }),
        record(ChunkState::Sealed),
        record(ChunkState::Dead { since: STATE_TIME }),
        record(ChunkState::Deleting { unconfirmed: vec![ServerId(1)] }),
    ];
    check_old::<super::chunk::Chunks, super::chunk::Chunk1>("chunks", 1, &mixed);
    let of_volume = |record: ChunkRecord| ChunkRecord { volume: Some(VolumeId(5)), ..record };
    let all: Vec<_> = mixed.iter().cloned().chain(mixed.iter().cloned().map(of_volume)).collect();
    check::<super::chunk::Chunks>("chunks", &all);
}

fn session(windows: Vec<Window>) -> SessionRecord {
    SessionRecord { nonce: SessionNonce(7 << 90), client: "host:/mnt".to_owned(), windows }
}

#[test]
fn sessions() {
    let first = Window { oldest: 300, highest: 420 };
    check::<super::session::Sessions>("sessions", &[session(vec![first, Window::default(), first])]);
    check_old::<super::session::Sessions, super::session::Session1>("sessions", 1, &[session(vec![first])]);
    check::<super::session::Nonces>("nonces", &[SessionId(9)]);
    check::<super::session::Commits>("commits", &[1 << 35]);
    check::<super::session::Silences>("silences", &[1, 9000]);
}

fn what() -> String {
    "why".to_owned()
}

fn errors() -> Vec<MetaError> {
    let (chunk, session) = (ChunkId(300), SessionId(400));
    vec![
        MetaError::NotFound,
        MetaError::Exists,
        MetaError::NotDirectory,
        MetaError::IsDirectory,
        MetaError::NotEmpty,
        MetaError::PermissionDenied,
        MetaError::NotPermitted,
        MetaError::GroupsNeeded,
        MetaError::NameTooLong,
        MetaError::TooManyLinks,
        MetaError::CrossVolume,
        MetaError::InvalidArgument { what: what() },
        MetaError::FileTooLarge,
        MetaError::NoSpace { what: what() },
        MetaError::Stale,
        MetaError::SessionExpired { session },
        MetaError::RequestTooOld,
        MetaError::NotLeader { leader: Some("host:1".to_owned()) },
        MetaError::WrongCluster { map_version: 500 },
        MetaError::Unavailable { what: what() },
        MetaError::Away { what: what() },
        MetaError::ChunkNotOpen { chunk },
        MetaError::WrongSetVersion { chunk, actual: SetVersion(2), named: SetVersion(1) },
        MetaError::CommitRefused { what: what() },
        MetaError::Unsupported { what: what() },
        MetaError::Internal { what: what() },
        MetaError::Undecided { what: what() },
    ]
}

#[test]
fn results() {
    let attr = InodeAttr {
        inode: InodeId(1 << 40 | 8),
        kind: FileKind::File,
        mode: 0o644,
        nlink: 1,
        uid: 2,
        gid: 3,
        size: ByteLen(400),
        allocated: ByteLen(500),
        rdev: 6,
        atime: time(7),
        mtime: time(8),
        ctime: time(9),
        content_version: 10,
    };
    let replicas = vec![Replica { server: ServerId(5), address: "host:7421".to_owned() }];
    let opened = OpenedChunk { chunk: ChunkId(300), set_version: SetVersion(1), replicas };
    let done = [
        Changed::Done,
        Changed::Inode { attr: attr.clone(), existed: true, next_commit: 300 },
        Changed::Removed { orphan: Some(attr.inode) },
        Changed::Removed { orphan: None },
        Changed::Chunk(opened),
        Changed::Sealed { committed: ByteLen(4096) },
        Changed::Committed { attrs: vec![attr] },
    ];
    let results: Vec<_> = done.into_iter().map(Ok).chain(errors().into_iter().map(Err)).collect();
    check::<super::result::Results>("results", &results);
}

#[test]
fn servers() {
    check::<super::server::Servers>(
        "servers",
        &[ServerRecord {
            directory: DirectoryId(6 << 80),
            addresses: ServerAddresses {
                grpc: "g:1".to_owned(),
                frames: "f:2".to_owned(),
                http: "h:3".to_owned(),
            },
            zone: "attic".to_owned(),
            instance: Instance(4),
        }],
    );
    check::<super::server::ServerDirectories>("server-directories", &[ServerId(5)]);
}

#[test]
fn federation() {
    check::<super::federation::Federation>(
        "federation",
        &[FederationRecord {
            federation: FederationId(1 << 99),
            version: 300,
            last_volume: VolumeId(4),
            root: RootCopy { mode: 0o711, uid: 1, gid: 2 },
        }],
    );
    check::<super::federation::MapClusters>(
        "map-clusters",
        &[ClusterEntry { name: "a".to_owned(), metaservers: vec!["m:1".to_owned(), "m:2".to_owned()] }],
    );
    let volume = |name, phase| MapVolume { cluster: ClusterId(1 << 98), name, version: 2, phase };
    check::<super::federation::MapVolumes>(
        "map-volumes",
        &[
            volume(None, VolumePhase::Creating),
            volume(Some(name("v")), VolumePhase::Active),
            volume(None, VolumePhase::Removing),
        ],
    );
}
