//! States of every format that is on disks, and the log entries that led to them: today's code reads them
//! (`tests/formats/README.md`).

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use dfs_proto::attr::{Caller, FileKind};
use dfs_proto::extent::Extent;
use dfs_proto::federation::{ClusterEntry, RootCopy, VolumePhase};
use dfs_proto::ids::{
    ChunkId, ClusterId, DirectoryId, FederationId, InodeId, MemberId, RequestId, RequestLane, ServerId,
    SetVersion, VolumeId,
};
use dfs_proto::meta::{
    Change, Changed, ChunkCommit, CommitExtents, FileCommit, MetaResult, NewInode, OpenChunk, Read,
    ReadReply, ReadRequest, Rename, RenameMode, SetAttr, SetTime,
};
use dfs_proto::units::{ByteLen, ChunkOffset, Offset};

use super::{CLUSTER, Harness, create, init_command, name, user};
use crate::command::{
    Command, Entry, Member, Proposed, RegisterServer, Reply, RootAttr, ServerAddresses, Silence, VolumeRoot,
    VolumeStep,
};
use crate::kv::{Batch, Kv as _, Snapshot, scan_prefix};
use crate::record::{federation_log, log};
use crate::time::StateTime;
use crate::value::chunk::{ChunkRecord, ChunkState};
use crate::{federation, keys, read};
use dfs_proto::attr::Timestamp;

const ROOT: InodeId = InodeId::ROOT;

/// Kept in `tests/formats`. The last ones are of today's formats.
const CLUSTER_STATES: [&str; 5] = ["cluster.1", "cluster.2", "cluster.3", "cluster.4", "cluster.5"];
const FEDERATION_STATES: [&str; 1] = ["federation.1"];

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name)
}

/// Volume 5, made here, under a name.
fn volume(harness: &mut Harness, number: u32, text: &str) -> InodeId {
    let root = RootAttr { mode: 0o755, uid: 7, gid: 7 };
    let reply = harness.command(Command::MakeVolume { volume: VolumeId(number), root });
    let Reply::VolumeRoot(attr) = reply else { panic!("no root: {reply:?}") };
    let inode = attr.inode;
    let entered = harness.change_with(
        &Caller::ROOT,
        create(ROOT, text, 0o755, NewInode::Directory),
        vec![VolumeRoot { attr, step: VolumeStep::Made }],
    );
    assert!(matches!(entered, Some(Ok(Changed::Inode { .. }))), "{entered:?}");
    inode
}

fn names(harness: &mut Harness, at: InodeId) {
    let root = &Caller::ROOT;
    for (text, what) in [
        ("symlink", NewInode::Symlink { target: b"some/where".to_vec() }),
        ("fifo", NewInode::Fifo),
        ("socket", NewInode::Socket),
        ("char", NewInode::CharDevice { rdev: 0x103 }),
        ("block", NewInode::BlockDevice { rdev: 0x801 }),
    ] {
        harness.change(root, create(at, text, 0o640, what)).expect("made");
    }
    let (a, b) = (harness.directory(at, "a"), harness.directory(at, "b"));
    let linked = harness.file(a, "linked");
    harness.change(root, Change::Link { inode: linked, parent: b, name: name("hard") }).expect("linked");
    harness.file(a, "gone");
    harness.unlink(a, "gone").expect("there");
    harness.directory(a, "gone too");
    harness.change(root, Change::Rmdir { parent: a, name: name("gone too") }).expect("empty");
    harness.file(a, "moves");
    let rename = |mode| {
        let (name, new_name) = (name("moves"), name("moved"));
        Change::Rename(Rename { parent: a, name, new_parent: b, new_name, mode })
    };
    harness.change(root, rename(RenameMode::Replace)).expect("moved");
    harness.change(root, rename(RenameMode::NoReplace)).expect_err("it is not there any more");
    harness.change(root, rename(RenameMode::Exchange)).expect_err("nor now");
    let full = harness.directory(b, "full");
    harness.file(full, "in it");
    let exchange = Change::Rename(Rename {
        parent: a,
        name: name("linked"),
        new_parent: b,
        new_name: name("full"),
        mode: RenameMode::Exchange,
    });
    harness.change(root, exchange).expect("both are there");
    let set = SetAttr {
        inode: linked,
        mode: Some(0o4711),
        uid: Some(8),
        gid: Some(9),
        atime: Some(SetTime::At(Timestamp { seconds: -3, nanos: 999_999_999 })),
        mtime: Some(SetTime::Now),
        ..SetAttr::default()
    };
    harness.change(root, Change::SetAttr(set)).expect("root may");
    harness.change(&user(77), Change::Unlink { parent: a, name: name("linked") }).expect_err("not theirs");
    harness.change(&user(77), create(a, "linked", 0o600, NewInode::File)).expect_err("there");
}

/// Files in chunks of every state: open, sealed, dead, being deleted, degraded, damaged.
fn bytes(harness: &mut Harness, at: InodeId) {
    let servers = harness.servers(3);
    harness.command(Command::RegisterServer(RegisterServer {
        server: Some(servers[2]),
        directory: DirectoryId(3),
        addresses: ServerAddresses {
            grpc: "host:1".to_owned(),
            frames: "host:2".to_owned(),
            http: "host:3".to_owned(),
        },
        zone: "attic".to_owned(),
    }));
    // Dead, and being deleted: one of two servers has confirmed it.
    for text in ["dead", "deleting"] {
        let chunk = harness.open_chunk_of(at.volume());
        let short = harness.file(at, text);
        harness.write(short, 0, 4000, chunk).expect("commits");
        harness.truncate(short, 0);
        harness.change(&Caller::ROOT, Change::SealChunk { chunk }).expect("its own");
        if text == "dead" {
            let before = StateTime { seconds: 1000, nanos: 0 };
            harness.command(Command::StartDeleting { before, limit: 10 });
            harness.command(Command::ConfirmDeleted { server: servers[0], chunks: vec![chunk] });
        }
    }
    let placed = |harness: &mut Harness, placement: &[ServerId]| {
        let (avoid, beside) = (vec![servers[0]], vec![servers[1], servers[1]]);
        let open = OpenChunk { avoid, copies: 3, beside, volume: Some(at.volume()) };
        match harness.change_placed(&Caller::ROOT, Change::OpenChunk(open), placement) {
            Ok(Changed::Chunk(opened)) => opened.chunk,
            other => panic!("no chunk: {other:?}"),
        }
    };
    let degraded = placed(harness, &servers[1..]);
    let damaged = placed(harness, &servers);
    let sparse = harness.file(at, "sparse");
    for index in 0..300 {
        harness.write(sparse, index * 8192, 100 + index, degraded).expect("commits");
    }
    let many = harness.file(at, "many");
    for index in 0..5 {
        harness.write(many, index * 1000, 2000, damaged).expect("commits");
    }
    harness.write(many, 3500, 100, degraded).expect("commits");
    harness.command(Command::ReportDamage { chunk: damaged, server: servers[2] });
    harness.command(Command::SealChunks { chunks: vec![damaged, ChunkId(999)] });
    harness.command(Command::SealChunksOf { server: ServerId(44), limit: 5 });
    let kept = harness.open_chunk_of(at.volume());
    let orphan = harness.file(at, "orphan");
    harness.write(orphan, 0, 5000, kept).expect("commits");
    harness.unlink(at, "orphan").expect("there");
    harness.truncate(many, 3550);
    // The cut that is left to the reaper.
    harness.truncate(sparse, 5000);
    harness.write(sparse, 6000, 50, degraded).expect("commits");
    harness.command(Command::Reap { limit: 3 });
    let released = harness.file(at, "released");
    harness.write(released, 0, 5000, kept).expect("commits");
    harness.unlink(at, "released").expect("there");
    harness.change(&Caller::ROOT, Change::ReleaseOrphans { inodes: vec![released] }).expect("held");
}

/// In a session of its own, which says of no answer that it has come.
fn results(harness: &mut Harness) {
    let own = harness.session;
    harness.session = harness.open_session(4);
    let root = &Caller::ROOT;
    harness.request(root, 1, 1, create(ROOT, "kept", 0o600, NewInode::File)).expect("made");
    let inode = harness.lookup(ROOT, "kept").expect("made");
    let placement = harness.servers[..2].to_vec();
    let open = Change::OpenChunk(OpenChunk { volume: Some(ROOT.volume()), ..OpenChunk::default() });
    let mut request = harness.next_request(root, open);
    (request.request, request.answered_below) = (RequestId(2), RequestId(1));
    harness.command(Command::of_request(request, placement, Vec::new()));
    let chunk = harness.view(read::chunks).last().expect("opened").0;
    let extent = Extent { offset: Offset(7), len: 100, chunk, chunk_offset: ChunkOffset(0) };
    let commit = CommitExtents {
        chunks: vec![ChunkCommit { chunk, set_version: SetVersion(1), up_to: ByteLen(100) }],
        files: vec![FileCommit {
            inode,
            number: 1,
            extents: vec![extent],
            size_at_least: ByteLen(200),
            mtime: None,
            kill_privileges: true,
        }],
    };
    harness.request(root, 3, 1, Change::CommitExtents(commit.clone())).expect("commits");
    harness.request(root, 4, 1, Change::CommitExtents(commit)).expect_err("again");
    harness.request(root, 5, 1, Change::SealChunk { chunk }).expect("its own");
    harness.request(root, 6, 1, Change::Unlink { parent: ROOT, name: name("kept") }).expect("there");
    harness.request(root, 7, 1, Change::ReleaseOrphans { inodes: vec![inode] }).expect("held");
    harness.request(root, 8, 1, Change::SealChunk { chunk: ChunkId(99) }).expect_err("not open");
    harness.request(root, 9, 1, Change::Rmdir { parent: ROOT, name: name("kept") }).expect_err("gone");
    harness.session = own;
}

fn sessions(harness: &mut Harness) {
    let own = harness.session;
    let (closed, expired) = (harness.open_session(2), harness.open_session(3));
    harness.session = closed;
    harness.file(ROOT, "by another session");
    harness.unlink(ROOT, "by another session").expect("there");
    harness.session = own;
    harness.command(Command::CloseSession { session: closed });
    harness.command(Command::ExpireSession { session: expired });
    let mut request = harness.next_request(&user(1000), create(ROOT, "lane", 0o600, NewInode::File));
    request.request = RequestId::new(RequestLane(3), 1);
    request.answered_below = RequestId::new(RequestLane(3), 1);
    harness.command(Command::of_request(request.clone(), Vec::new(), Vec::new()));
    request.request = RequestId::new(RequestLane(3), 2);
    let error = dfs_proto::error::MetaError::NoSpace { what: "the disk is full".to_owned() };
    harness.command(Command::Refuse { request, error });
    let member =
        |id: u64| Member { id: MemberId(id), address: format!("m:{id}"), directory: DirectoryId(id.into()) };
    harness.command(Command::RecordMembers { members: vec![member(1), member(2)] });
}

/// A session that has files open without a name: one that another session holds too, and one that it has closed.
fn holds(harness: &mut Harness) {
    let opener = harness.open_session(5);
    harness.command(Command::RecordHolds { session: opener, volume: VolumeId(0) });
    harness.command(Command::RecordWrites { session: opener, volume: VolumeId(0) });
    let [silent, heard] = [3000, 0].map(|silent_ms| Silence { session: opener, silent_ms });
    let silences = vec![silent, Silence { session: harness.session, ..silent }];
    harness.command(Command::NoteSilences { silences });
    harness.command(Command::NoteSilences { silences: vec![Silence { session: harness.session, ..heard }] });
    for text in ["held by two", "closed by one"] {
        let file = harness.file(ROOT, text);
        harness.openers.insert(file, vec![opener]);
        harness.unlink(ROOT, text).expect("there");
        if text == "closed by one" {
            harness.command(Command::ReleaseFor { session: opener, inodes: vec![file] });
        }
    }
}

fn volumes(harness: &mut Harness) {
    for (number, text) in [(5, "five"), (6, "six"), (7, "seven")] {
        let root = volume(harness, number, text);
        let inode = harness.file(root, "in it");
        harness.chmod(&Caller::ROOT, inode, 0o600).expect("root may");
    }
    let seven = InodeId::new(VolumeId(7), 1).expect("in range");
    harness.unlink(seven, "in it").expect("there");
    harness.command(Command::StartRemoval { volume: VolumeId(7), version: 1 });
    harness.command(Command::UndoRemoval { volume: VolumeId(7), version: 1 });
    harness.command(Command::FenceVolume { volume: VolumeId(7) });
    harness.command(Command::StartRemoval { volume: VolumeId(7), version: 2 });
    harness.command(Command::ForbidVolume { volume: VolumeId(8) });
    harness.command(Command::DropVolume { volume: VolumeId(9) });
}

/// Every kind of record that a cluster's state has, but mixed chunks, which only entries of earlier releases make: the kept
/// states 1 to 3 have them.
fn cluster_story() -> Harness {
    let mut harness = Harness::uninitialised();
    harness.command(init_command());
    harness.session = harness.open_session(1);
    harness.at(20);
    volumes(&mut harness);
    let five = InodeId::new(VolumeId(5), 1).expect("in range");
    names(&mut harness, five);
    harness.at(30);
    bytes(&mut harness, five);
    harness.at(40);
    results(&mut harness);
    sessions(&mut harness);
    holds(&mut harness);
    harness.check();
    harness
}

/// Every kind of record of the federation group.
fn federation_story() -> Harness {
    let mut harness = Harness::uninitialised();
    let (a, b, c) = (ClusterId(0xa), ClusterId(0xb), ClusterId(0xc));
    let entry =
        |name: &str| ClusterEntry { name: name.to_owned(), metaservers: vec![format!("{name}:7000")] };
    let volume = |number| VolumeId(number);
    for command in [
        federation::command::Command::Init { federation: FederationId(0xfed) },
        federation::command::Command::JoinCluster { cluster: a, entry: entry("a") },
        federation::command::Command::JoinCluster { cluster: b, entry: entry("b") },
        federation::command::Command::JoinCluster { cluster: c, entry: entry("c") },
        federation::command::Command::MoveCluster {
            cluster: b,
            entry: ClusterEntry { metaservers: vec![], ..entry("b") },
        },
        federation::command::Command::LeaveCluster { cluster: c },
        federation::command::Command::AddVolume { cluster: a, name: name("one") },
        federation::command::Command::AddVolume { cluster: b, name: name("two") },
        federation::command::Command::AddVolume { cluster: b, name: name("three") },
        federation::command::Command::AddVolume { cluster: b, name: name("four") },
        federation::command::Command::SettleVolume { volume: volume(1), name: name("uno"), version: 3 },
        federation::command::Command::SettleVolume { volume: volume(2), name: name("two"), version: 1 },
        federation::command::Command::RetireVolume { volume: volume(2) },
        federation::command::Command::RetireVolume { volume: volume(3) },
        federation::command::Command::ForgetVolume { volume: volume(3) },
        federation::command::Command::CopyRoot { root: RootCopy { mode: 0o711, uid: 1, gid: 2 } },
    ] {
        harness.federation(command);
    }
    harness
}

/// What a reader sees of the whole state, in words that no change of a type changes.
fn listing(view: &dyn Snapshot) -> String {
    let mut text = String::new();
    let mut directories = vec![(String::new(), ROOT)];
    while let Some((path, directory)) = directories.pop() {
        for (name, inode, kind) in entries(view, directory) {
            let path = format!("{path}/{name}");
            writeln!(text, "{path}: {}", shown(view, inode)).expect("memory");
            if kind == FileKind::Directory {
                directories.push((path, inode));
            }
        }
    }
    for (id, record) in read::chunks(view) {
        writeln!(text, "{}", shown_chunk(id, &record)).expect("memory");
    }
    for (id, record) in read::sessions(view) {
        let windows: Vec<_> = record.windows.iter().map(|w| format!("{}-{}", w.oldest, w.highest)).collect();
        writeln!(text, "{id}: {} {} {}", record.nonce, record.client, windows.join(",")).expect("memory");
        for (lane, number) in (0..4).flat_map(|lane| (0..1000).map(move |number| (lane, number))) {
            let request = RequestId::new(RequestLane(lane), number);
            if let Some(result) = read::known_result(view, id, request) {
                writeln!(text, "{id}: {request}: {}", answered(result)).expect("memory");
            }
        }
    }
    for (id, server) in read::servers(view) {
        let ServerAddresses { grpc, frames, http } = server.addresses;
        let (directory, zone, instance) = (server.directory, server.zone, server.instance);
        writeln!(text, "{id}: {directory} {grpc} {frames} {http} {zone} {instance}").expect("memory");
    }
    for member in read::members(view) {
        writeln!(text, "{}: {} {}", member.id, member.address, member.directory).expect("memory");
    }
    writeln!(text, "volumes {:?}", read::volumes(view)).expect("memory");
    writeln!(text, "entries {:?}", read::volume_entries(view)).expect("memory");
    let cluster = read::cluster(view).expect("made");
    let (id, incarnation) = (cluster.cluster, cluster.incarnation);
    writeln!(text, "{id} {} {incarnation} {} {}", cluster.name, cluster.copies, cluster.copies_min)
        .expect("memory");
    let time = read::last_time(view);
    writeln!(text, "{} inodes, time {}.{}", read::totals(view).inodes, time.seconds, time.nanos)
        .expect("memory");
    text
}

fn shown_chunk(id: ChunkId, record: &ChunkRecord) -> String {
    let servers =
        |servers: &[ServerId]| servers.iter().map(|s| s.0.to_string()).collect::<Vec<_>>().join(",");
    let state = match &record.state {
        ChunkState::Open { session } => format!("open for {session}"),
        ChunkState::Sealed => "sealed".to_owned(),
        ChunkState::Dead { since } => format!("dead since {}.{}", since.seconds, since.nanos),
        ChunkState::Deleting { unconfirmed } => format!("deleting on {}", servers(unconfirmed)),
    };
    let (replicas, damaged) = (servers(&record.replicas), servers(&record.damaged));
    let (committed, live, copies) = (record.committed, record.live, record.copies);
    format!(
        "{id}: {state}, on {replicas} damaged on {damaged} copies {copies} committed {committed} live {live}"
    )
}

fn answered(result: MetaResult<Changed>) -> String {
    match result {
        Err(error) => format!("refused: {error}"),
        Ok(Changed::Done) => "done".to_owned(),
        Ok(Changed::Inode { attr, existed, next_commit }) => {
            format!("{} {:o} {} {existed} {next_commit}", attr.inode, attr.mode, attr.ctime.seconds)
        }
        Ok(Changed::Removed { orphan }) => format!("removed {orphan:?}"),
        Ok(Changed::Chunk(opened)) => {
            let first = &opened.replicas[0];
            format!("{} {} first on {} at {}", opened.chunk, opened.set_version, first.server, first.address)
        }
        Ok(Changed::Sealed { committed }) => format!("sealed at {committed}"),
        Ok(Changed::Committed { attrs }) => {
            attrs.iter().map(|attr| format!("{} of {} bytes", attr.inode, attr.size)).collect()
        }
    }
}

fn entries(view: &dyn Snapshot, directory: InodeId) -> Vec<(String, InodeId, FileKind)> {
    let session = dfs_proto::ids::SessionId(0);
    let read = Read::ReadDir { inode: directory, cookie: 0, limit: 1000, plus: false };
    let request = ReadRequest { cluster: CLUSTER, session, caller: Caller::ROOT, leases: None, read };
    let session = read::sessions(view).first().map_or(session, |(id, _)| *id);
    match read::answer(view, &ReadRequest { session, ..request }) {
        Ok(ReadReply::Entries { entries, .. }) => {
            entries.into_iter().map(|entry| (entry.name.to_string(), entry.inode, entry.kind)).collect()
        }
        other => panic!("no entries: {other:?}"),
    }
}

fn shown(view: &dyn Snapshot, inode: InodeId) -> String {
    let Ok(attr) = read::getattr(view, inode) else { return format!("{inode} is elsewhere") };
    let time = |time: Timestamp| format!("{}.{:09}", time.seconds, time.nanos);
    let mut text = format!(
        "{inode} {:?} {:o} nlink {} owner {}:{} size {} allocated {} rdev {} times {} {} {} content {}",
        attr.kind,
        attr.mode,
        attr.nlink,
        attr.uid,
        attr.gid,
        attr.size,
        attr.allocated,
        attr.rdev,
        time(attr.atime),
        time(attr.mtime),
        time(attr.ctime),
        attr.content_version
    );
    if let Ok(target) = read::readlink(view, inode) {
        write!(text, " -> {}", target.escape_ascii()).expect("memory");
    }
    let extents = read::extents(view, inode, Offset(0), u64::MAX, u32::MAX).expect("it is there");
    for extent in extents.extents {
        let (offset, len, chunk, at) = (extent.offset, extent.len, extent.chunk, extent.chunk_offset);
        write!(text, "; {len} at {offset} are {chunk} at {at}").expect("memory");
    }
    text
}

/// The parts of a file, each behind its length.
fn parts(name: &str) -> Vec<Vec<u8>> {
    let bytes = fs::read(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (mut rest, mut parts) = (bytes.as_slice(), Vec::new());
    while let Some((len, behind)) = rest.split_first_chunk::<4>() {
        let (part, behind) = behind.split_at(u32::from_le_bytes(*len) as usize);
        parts.push(part.to_vec());
        rest = behind;
    }
    parts
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend((part.len() as u32).to_le_bytes());
    bytes.extend(part);
}

/// Keeps a state, what led to it, and what its reader sees; not over one that is kept.
fn keep(harness: &Harness, name: &str, listing: &str) {
    if file(&format!("{name}.txt")).exists() || std::env::var_os("DFS_NEW_FORMATS").is_none() {
        return;
    }
    let (mut state, mut entries) = (Vec::new(), Vec::new());
    harness.view(|view| {
        for (key, value) in view.scan(b"", b"") {
            put(&mut state, &key);
            put(&mut state, &value);
        }
    });
    for Entry { proposed, commands } in &harness.log {
        let Proposed::At { wall, state } = *proposed else { panic!("not of today: {proposed:?}") };
        let commands: Vec<Vec<u8>> = commands.iter().map(log::encode_command).collect();
        put(&mut entries, &log::join(wall, state, &commands));
    }
    harness.federation_log.iter().for_each(|entry| put(&mut entries, entry));
    fs::write(file(&format!("{name}.state.bin")), state).expect("write");
    fs::write(file(&format!("{name}.log.bin")), entries).expect("write");
    fs::write(file(&format!("{name}.txt")), listing).expect("write");
}

fn listed(name: &str) -> String {
    fs::read_to_string(file(&format!("{name}.txt"))).expect("it is kept")
}

/// The state as that release has written it.
fn stored(name: &str) -> Harness {
    let harness = Harness::uninitialised();
    let mut batch = Batch::default();
    for pair in parts(&format!("{name}.state.bin")).chunks(2) {
        batch.put(pair[0].clone(), pair[1].clone());
    }
    harness.kv.write(batch).expect("memory");
    harness
}

/// What today's code makes of the log entries that led to it.
fn replayed(name: &str) -> Harness {
    let mut harness = Harness::uninitialised();
    for bytes in parts(&format!("{name}.log.bin")) {
        let entry = log::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        for command in entry.commands {
            harness.command_at(entry.proposed, command);
        }
    }
    harness
}

/// The same of the federation group.
fn replayed_federation(name: &str) -> Harness {
    let mut harness = Harness::uninitialised();
    for bytes in parts(&format!("{name}.log.bin")) {
        let commands = federation_log::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        commands.into_iter().for_each(|command| drop(harness.federation(command)));
    }
    harness
}

fn listed_map(view: &dyn Snapshot) -> String {
    let map = federation::map(view).expect("it is made");
    let RootCopy { mode, uid, gid } = map.root;
    let mut text = format!("{} version {} last {}\n", map.federation, map.version, map.last_volume);
    writeln!(text, "root {mode:o} {uid}:{gid}").expect("memory");
    for (id, cluster) in map.clusters {
        writeln!(text, "{id} {} at {}", cluster.name, cluster.metaservers.join(",")).expect("memory");
    }
    for (id, volume) in map.volumes {
        let phase = match volume.phase {
            VolumePhase::Creating => "creating",
            VolumePhase::Active => "active",
            VolumePhase::Removing => "removing",
        };
        let name = volume.name.map_or("-".to_owned(), |name| name.to_string());
        writeln!(text, "{id} of {} {name} {phase} {}", volume.cluster, volume.version).expect("memory");
    }
    text
}

#[test]
fn kept_states_of_clusters_and_the_log_entries_before_them_are_read() {
    let harness = cluster_story();
    keep(&harness, CLUSTER_STATES[CLUSTER_STATES.len() - 1], &harness.view(listing));
    for state in CLUSTER_STATES {
        for mut harness in [stored(state), replayed(state)] {
            assert_eq!(harness.view(listing), listed(state), "{state}");
            harness.check();
            harness.reap();
            harness.check();
        }
    }
}

#[test]
fn kept_states_of_the_federation_and_the_log_entries_before_them_are_read() {
    let harness = federation_story();
    keep(&harness, FEDERATION_STATES[FEDERATION_STATES.len() - 1], &harness.view(listed_map));
    for state in FEDERATION_STATES {
        for harness in [stored(state), replayed_federation(state)] {
            assert_eq!(harness.view(listed_map), listed(state), "{state}");
            assert_eq!(harness.view(federation::check), Vec::<String>::new());
        }
    }
}

/// What is done to a file of which the release before the space table has left the record.
fn change_old(harness: &mut Harness, path: (InodeId, &str), step: usize) {
    let (at, text) = path;
    let inode = harness.lookup(at, text).expect("kept");
    // Open still, of the session that the harness goes on with.
    let chunk = ChunkId(5);
    match step {
        0 => drop(harness.write(inode, 3000, 700, chunk).expect("commits")),
        1 => harness.truncate(inode, 20),
        2 => drop(harness.command(Command::Reap { limit: 100 })),
        3 => drop(harness.chmod(&Caller::ROOT, inode, 0o600).expect("root may")),
        _ => harness.truncate(inode, 100_000),
    }
}

/// Every order of a commit, truncations, the reaper and a change of the mode, beginning with a record of version 1: the recount in
/// `check` finds what the space record says, at every step.
#[test]
fn the_space_of_an_old_inode_is_counted_right_whatever_comes_first() {
    let five = InodeId::new(VolumeId(5), 1).expect("in range");
    for text in ["sparse", "many", "dead"] {
        for order in 0..5_usize.pow(3) {
            let mut harness = stored("cluster.1");
            harness.session = dfs_proto::ids::SessionId(1);
            harness.at(50);
            let before = harness.view(read::last_time);
            for digit in 0..3 {
                change_old(&mut harness, (five, text), order / 5_usize.pow(digit) % 5);
                harness.check();
            }
            assert!(harness.view(read::last_time) > before);
            harness.unlink(five, text).expect("there");
            harness.command(Command::CloseSession { session: harness.session });
            harness.reap();
            harness.check();
        }
    }
}

/// Orphans of an earlier version have one holder, and go with it.
#[test]
fn the_sessions_of_every_kept_state_end_and_leave_no_orphan() {
    for name in CLUSTER_STATES {
        let mut harness = stored(name);
        let sessions: Vec<_> = harness.view(read::sessions).into_iter().map(|(id, _)| id).collect();
        assert!(!sessions.is_empty(), "{name}");
        for session in sessions {
            harness.command(Command::ExpireSession { session });
        }
        while harness.view(read::has_work_for_reaper) {
            harness.command(Command::Reap { limit: 1000 });
        }
        harness.check();
        let orphans = harness.view(|view| scan_prefix(view, &keys::table(keys::ORPHAN)).count());
        assert_eq!(orphans, 0, "{name}");
    }
}
