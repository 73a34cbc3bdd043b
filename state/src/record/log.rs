//! What one entry of a cluster's Raft log carries: a version byte, the times, and the commands.
//!
//! Version 7: postcard of the leader's wall clock, the state's own time and the commands. Version 6: no session is recorded as one that
//! may hold Write, and no silence is noted. A change names the inodes behind its names and who has open what loses its last name, an `OpenChunk` must name
//! a volume, and a rename may exchange two names. Version 5: a change
//! names nobody, an `OpenChunk` may name a volume ([`VERSION_WITH_MIXED`]). Version 4: and no `OpenChunk` names one. Version 3: and
//! the inodes that are made have no birth time. Version 2: and there is one time for both clocks (P7.1).

use dfs_proto::attr;
use dfs_proto::meta;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::stored::{Broken, Stored, stored_enum, stored_struct};
use super::value::{InodeAttr, Member, MetaError, ServerAddresses, StateTime, Timestamp};
use crate::command::{self, Entry, Proposed};
use crate::time;

/// Of the entries that are written.
pub const VERSION: u8 = 7;
/// Of the time before Write leases and notes of silences. It is read.
pub const VERSION_BEFORE_WRITES: u8 = 6;
/// The last one in which a change does not name what is behind its names, no rename exchanges two names, and an `OpenChunk` may name no
/// volume (P1.8). Its entries, and older ones, are read, and applied as the releases that wrote them did.
pub const VERSION_WITH_MIXED: u8 = 5;
/// Of the time when no chunk had a volume. It is read.
pub const VERSION_BEFORE_VOLUMES: u8 = 4;
/// Of the time when inodes had no birth time. It is read.
pub const VERSION_BEFORE_BIRTH: u8 = 3;
/// Of the time when an entry had one time. It is read.
pub const VERSION_OF_ONE_CLOCK: u8 = 2;

/// An entry that cannot be read: written by another release, or damaged.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EntryError {
    #[error(
        "a log entry has version {actual}; this version of dfs reads {VERSION_OF_ONE_CLOCK} to {VERSION}"
    )]
    Version { actual: u8 },
    #[error("decode a log entry: {what}")]
    Damaged { what: String },
    #[error("a log entry is empty")]
    Empty,
}

/// Of versions 6 and 7: those of 6 lack the last two commands.
#[derive(Serialize, Deserialize)]
struct Entry6 {
    wall: Timestamp,
    state: StateTime,
    commands: Vec<commands_6::Command>,
}

#[derive(Serialize, Deserialize)]
struct Entry5 {
    wall: Timestamp,
    state: StateTime,
    commands: Vec<commands_5::Command>,
}

/// Of versions 3 and 4.
#[derive(Serialize, Deserialize)]
struct Entry3 {
    wall: Timestamp,
    state: StateTime,
    commands: Vec<commands_2::Command>,
}

#[derive(Serialize, Deserialize)]
struct Entry2 {
    now: Timestamp,
    commands: Vec<commands_2::Command>,
}

pub(super) fn postcard_of<T: Serialize>(record: &T, before: Vec<u8>) -> Vec<u8> {
    match postcard::to_extend(record, before) {
        Ok(bytes) => bytes,
        // Plain data: postcard refuses only sequences of unknown length.
        Err(error) => panic!("a command cannot be encoded: {error}"),
    }
}

/// One command, for [`join`].
pub fn encode_command(command: &command::Command) -> Vec<u8> {
    postcard_of(&commands_6::Command::store(command), Vec::new())
}

/// An entry of commands that were encoded one by one.
pub fn join(wall: attr::Timestamp, state: time::StateTime, commands: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = postcard_of(&Timestamp::store(&wall), vec![VERSION]);
    bytes = postcard_of(&StateTime::store(&state), bytes);
    bytes = postcard_of(&(commands.len() as u64), bytes);
    for command in commands {
        bytes.extend_from_slice(command);
    }
    bytes
}

pub(super) fn parse<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T, EntryError> {
    postcard::from_bytes(bytes).map_err(|error| EntryError::Damaged { what: error.to_string() })
}

pub fn decode(bytes: &[u8]) -> Result<Entry, EntryError> {
    let (proposed, commands) = match bytes.split_first() {
        None => return Err(EntryError::Empty),
        Some((&version @ (VERSION | VERSION_BEFORE_WRITES), encoded)) => {
            let Entry6 { wall, state, commands } = parse(encoded)?;
            (proposed(version, live(wall)?, live(state)?), live(commands)?)
        }
        Some((&version @ VERSION_WITH_MIXED, encoded)) => {
            let Entry5 { wall, state, commands } = parse(encoded)?;
            (proposed(version, live(wall)?, live(state)?), live(commands)?)
        }
        Some((&version @ (VERSION_BEFORE_VOLUMES | VERSION_BEFORE_BIRTH), encoded)) => {
            let Entry3 { wall, state, commands } = parse(encoded)?;
            (proposed(version, live(wall)?, live(state)?), live(commands)?)
        }
        Some((&VERSION_OF_ONE_CLOCK, encoded)) => {
            let Entry2 { now, commands } = parse(encoded)?;
            (Proposed::ByOneClock(live(now)?), live(commands)?)
        }
        Some((&actual, _)) => return Err(EntryError::Version { actual }),
    };
    Ok(Entry { proposed, commands })
}

/// By the rules of which release an entry with two times is applied.
fn proposed(version: u8, wall: attr::Timestamp, state: time::StateTime) -> Proposed {
    match version {
        ..=VERSION_BEFORE_BIRTH => Proposed::BeforeBirth { wall, state },
        VERSION_BEFORE_VOLUMES | VERSION_WITH_MIXED => Proposed::WithMixed { wall, state },
        _ => Proposed::At { wall, state },
    }
}

pub(super) fn live<T>(stored: impl Stored<T>) -> Result<T, EntryError> {
    stored.live().map_err(|broken| EntryError::Damaged { what: broken.to_string() })
}

/// The commands, with a `Change` and an `OpenChunk` of one of their layouts. The last variants came with versions 6 and 7: no entry
/// before them has them. (The commands of the federation group, in logs of their own, have the number 20 too: `federation_log`.)
macro_rules! commands {
    ({ $($change:tt)* }, $open_chunk:ty) => {
        stored_enum! {
            Command = command::Command {
                InitCluster(init: InitCluster),
                RecordMembers { members: Vec<Member> },
                OpenSession { nonce: u128, client: String },
                CloseSession { session: u64 },
                ExpireSession { session: u64 },
                Change { $($change)* },
                RegisterServer(register: RegisterServer),
                SealChunks { chunks: Vec<u64> },
                SealChunksOf { server: u64, limit: u32 },
                ReportDamage { chunk: u64, server: u64 },
                Reap { limit: u32 },
                StartDeleting { before: StateTime, limit: u32 },
                ConfirmDeleted { server: u64, chunks: Vec<u64> },
                Refuse { request: ChangeRequest, error: MetaError },
                MakeVolume { volume: u32, root: RootAttr },
                StartRemoval { volume: u32, version: u64 },
                UndoRemoval { volume: u32, version: u64 },
                DropVolume { volume: u32 },
                ForbidVolume { volume: u32 },
                FenceVolume { volume: u32 },
                ReleaseFor { session: u64, inodes: Vec<u64> },
                RecordHolds { session: u64, volume: u32 },
                RecordWrites { session: u64, volume: u32 },
                NoteSilences { silences: Vec<Silence> },
            }
        }

        stored_struct! {
            ChangeRequest = meta::ChangeRequest {
                cluster: u128,
                session: u64,
                request: u64,
                answered_below: u64,
                caller: Caller,
                change: Change,
            }
        }

        stored_enum! {
            Change = meta::Change {
                Create(create: Create),
                Link { inode: u64, parent: u64, name: Vec<u8> },
                Unlink { parent: u64, name: Vec<u8> },
                Rmdir { parent: u64, name: Vec<u8> },
                Rename(rename: Rename),
                SetAttr(set: SetAttr),
                OpenChunk(open: $open_chunk),
                SealChunk { chunk: u64 },
                CommitExtents(commit: CommitExtents),
                ReleaseOrphans { inodes: Vec<u64> },
            }
        }
    };
}

/// Since version 6.
mod commands_6 {
    use super::*;
    commands!(
        {
            request: ChangeRequest,
            placement: Vec<u64>,
            volumes: Vec<VolumeRoot>,
            named: Option<Vec<NamedInode>>
        },
        OpenChunk
    );
}

/// Of version 5.
mod commands_5 {
    use super::*;
    commands!({ request: ChangeRequest, placement: Vec<u64>, volumes: Vec<VolumeRoot>; named }, OpenChunk);
}

/// Of versions 2 to 4.
mod commands_2 {
    use super::*;
    commands!({ request: ChangeRequest, placement: Vec<u64>, volumes: Vec<VolumeRoot>; named }, OpenChunk2);
}

stored_struct! {
    NamedInode = command::NamedInode { inode: u64, openers: Option<Vec<u64>> }
}

stored_struct! {
    Silence = command::Silence { session: u64, silent_ms: u64 }
}

stored_struct! {
    InitCluster = command::InitCluster {
        cluster: u128,
        name: String,
        copies: u32,
        copies_min: u32,
        hash_key: u128,
        root: RootAttr,
    }
}

stored_struct! {
    RootAttr = command::RootAttr { mode: u32, uid: u32, gid: u32 }
}

stored_struct! {
    RegisterServer = command::RegisterServer {
        server: Option<u64>,
        directory: u128,
        addresses: ServerAddresses,
        zone: String,
    }
}

stored_struct! {
    VolumeRoot = command::VolumeRoot { attr: InodeAttr, step: VolumeStep }
}

stored_enum! {
    VolumeStep = command::VolumeStep { Made, Seen { version: u64 }, Removing { version: u64 } }
}

stored_struct! {
    Caller = attr::Caller { uid: u32, gid: u32, groups: Option<Vec<u32>> }
}

stored_struct! {
    /// Who has a file open is no part of the state before the file loses its name.
    Create = meta::Create { parent: u64, name: Vec<u8>, mode: u32, what: NewInode, or_existing: bool; opens }
}

stored_enum! {
    NewInode = meta::NewInode {
        File,
        Directory,
        Symlink { target: Vec<u8> },
        Fifo,
        Socket,
        CharDevice { rdev: u32 },
        BlockDevice { rdev: u32 },
        Volume { cluster: u128 },
    }
}

stored_struct! {
    Rename = meta::Rename {
        parent: u64,
        name: Vec<u8>,
        new_parent: u64,
        new_name: Vec<u8>,
        mode: RenameMode,
    }
}

stored_enum! {
    RenameMode = meta::RenameMode { Replace, NoReplace, Exchange }
}

stored_struct! {
    SetAttr = meta::SetAttr {
        inode: u64,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<SetTime>,
        mtime: Option<SetTime>,
        by_handle: bool,
        kill_privileges: bool,
    }
}

stored_enum! {
    SetTime = meta::SetTime { Now, At(time: Timestamp) }
}

stored_struct! {
    OpenChunk = meta::OpenChunk { avoid: Vec<u64>, copies: u32, beside: Vec<u64>, volume: Option<u32> }
}

/// Before a chunk had a volume.
#[derive(Serialize, Deserialize)]
pub(crate) struct OpenChunk2 {
    avoid: Vec<u64>,
    copies: u32,
    beside: Vec<u64>,
}

impl Stored<meta::OpenChunk> for OpenChunk2 {
    fn store(live: &meta::OpenChunk) -> OpenChunk2 {
        let OpenChunk { avoid, copies, beside, volume: _ } = OpenChunk::store(live);
        OpenChunk2 { avoid, copies, beside }
    }

    fn live(self) -> Result<meta::OpenChunk, Broken> {
        let OpenChunk2 { avoid, copies, beside } = self;
        OpenChunk { avoid, copies, beside, volume: None }.live()
    }
}

stored_struct! {
    CommitExtents = meta::CommitExtents { chunks: Vec<ChunkCommit>, files: Vec<FileCommit> }
}

stored_struct! {
    ChunkCommit = meta::ChunkCommit { chunk: u64, set_version: u64, up_to: u64 }
}

stored_struct! {
    FileCommit = meta::FileCommit {
        inode: u64,
        number: u64,
        extents: Vec<Extent>,
        size_at_least: u64,
        mtime: Option<Timestamp>,
        kill_privileges: bool,
    }
}

stored_struct! {
    Extent = dfs_proto::extent::Extent { offset: u64, len: u64, chunk: u64, chunk_offset: u64 }
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::{ClusterId, InodeId, RequestId, SessionId};

    use super::*;

    #[test]
    fn commands_encoded_one_by_one_are_read_in_their_order() {
        let commands: Vec<_> =
            (0..300).map(|n| command::Command::CloseSession { session: SessionId(n * 1000) }).collect();
        let (wall, state) =
            (attr::Timestamp { seconds: -5, nanos: 7 }, time::StateTime { seconds: 3, nanos: 1 });
        let encoded: Vec<Vec<u8>> = commands.iter().map(encode_command).collect();
        let proposed = proposed(VERSION, wall, state);
        assert_eq!(decode(&join(wall, state, &encoded)), Ok(Entry { proposed, commands }));
    }

    #[test]
    fn entries_of_the_releases_with_mixed_chunks_say_so_up_to_version_5() {
        let (wall, state) =
            (attr::Timestamp { seconds: 10, nanos: 7 }, time::StateTime { seconds: 3, nanos: 1 });
        assert_eq!(proposed(VERSION_BEFORE_BIRTH, wall, state), Proposed::BeforeBirth { wall, state });
        for version in [VERSION_BEFORE_VOLUMES, VERSION_WITH_MIXED] {
            assert_eq!(proposed(version, wall, state), Proposed::WithMixed { wall, state });
        }
        assert_eq!(proposed(VERSION_WITH_MIXED + 1, wall, state), Proposed::At { wall, state });
    }

    /// Byte for byte: seconds, nanoseconds, one `CloseSession` of session 9.
    #[test]
    fn an_entry_of_version_2_is_read_with_its_one_time() {
        let now = attr::Timestamp { seconds: 10, nanos: 7 };
        let commands = vec![command::Command::CloseSession { session: SessionId(9) }];
        assert_eq!(decode(&[2, 20, 7, 1, 3, 9]), Ok(Entry { proposed: Proposed::ByOneClock(now), commands }));
    }

    fn unlink(named: Option<Vec<command::NamedInode>>) -> command::Command {
        let change = meta::Change::Unlink { parent: InodeId(1), name: attr::Name::new("a").expect("valid") };
        let request = meta::ChangeRequest {
            cluster: ClusterId(7),
            session: SessionId(4),
            request: RequestId(300),
            answered_below: RequestId(1),
            caller: attr::Caller::ROOT,
            change,
        };
        command::Command::Change { request, placement: Vec::new(), volumes: Vec::new(), named }
    }

    #[test]
    fn an_entry_says_what_is_behind_its_names_and_who_has_it_open_and_one_of_version_5_does_not() {
        let sessions = vec![SessionId(1), SessionId(4)];
        let command = unlink(Some(vec![
            command::NamedInode { inode: InodeId(900), openers: Some(sessions) },
            command::NamedInode { inode: InodeId(901), openers: None },
        ]));
        let (wall, state) =
            (attr::Timestamp { seconds: 5, nanos: 7 }, time::StateTime { seconds: 3, nanos: 1 });
        let proposed = Proposed::At { wall, state };
        let entry = |command| Ok(Entry { proposed, commands: vec![command] });
        assert_eq!(decode(&join(wall, state, &[encode_command(&command)])), entry(command.clone()));
        let old = Entry5 {
            wall: Timestamp::store(&wall),
            state: StateTime::store(&state),
            commands: vec![commands_5::Command::store(&command)],
        };
        let old = postcard_of(&old, vec![VERSION_WITH_MIXED]);
        let proposed = Proposed::WithMixed { wall, state };
        assert_eq!(decode(&old), Ok(Entry { proposed, commands: vec![unlink(None)] }));
    }

    #[test]
    fn an_entry_of_an_unknown_version_is_refused_with_the_versions() {
        for actual in [0, 1, VERSION + 1, VERSION ^ 0x80] {
            let refused = decode(&[actual, 0, 0, 0, 0, 0]).unwrap_err();
            assert_eq!(refused, EntryError::Version { actual });
            let line = format!("a log entry has version {actual}; this version of dfs reads 2 to 7");
            assert_eq!(refused.to_string(), line);
        }
    }
}
