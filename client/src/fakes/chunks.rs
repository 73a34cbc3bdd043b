//! Chunkservers that hold their chunks in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dfs_net::env::BoxFuture;
use dfs_net::rpc::frames::{self, ChunkTransport, PendingReply};
use dfs_proto::chunk::{Append, Blocks, ChunkReply, ChunkRequest, ReadChunk, block_checksums};
use dfs_proto::error::ChunkError;
use dfs_proto::ids::{ChunkId, ServerId};
use dfs_proto::meta::Replica;
use dfs_proto::units::{BLOCK_LEN, ByteLen, ChunkOffset};
use tokio::time::{sleep, timeout};

/// Of every answer, so that requests overlap.
const DELAY: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Stored {
    data: Vec<u8>,
    /// Start and checksums of each append.
    frames: Vec<(u64, Vec<u32>)>,
}

#[derive(Default)]
struct Server {
    chunks: BTreeMap<ChunkId, Stored>,
    is_silent: bool,
    is_full: bool,
    /// Appends whose answer will be lost.
    lost_answers: u32,
    /// Chunks opened before it was restarted.
    not_open: BTreeSet<ChunkId>,
    appends: u64,
}

pub(crate) struct FakeChunks {
    servers: Mutex<BTreeMap<ServerId, Server>>,
    delay: Mutex<Duration>,
}

type Servers<'a> = MutexGuard<'a, BTreeMap<ServerId, Server>>;

enum Answer {
    Now(Result<ChunkReply, ChunkError>),
    /// When the silence of somebody has been noticed (`frames`, F4).
    Late(ChunkError),
}

impl FakeChunks {
    pub(crate) fn new(servers: &[ServerId]) -> Arc<FakeChunks> {
        let servers = servers.iter().map(|id| (*id, Server::default())).collect();
        Arc::new(FakeChunks { servers: Mutex::new(servers), delay: Mutex::new(DELAY) })
    }

    fn servers(&self) -> Servers<'_> {
        self.servers.lock().unwrap()
    }

    /// Every answer takes so long from now on.
    pub(crate) fn slow_down(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }

    fn at<T>(&self, server: ServerId, change: impl FnOnce(&mut Server) -> T) -> T {
        change(self.servers().get_mut(&server).unwrap())
    }

    /// As SIGSTOP does.
    pub(crate) fn silence(&self, server: ServerId, is_silent: bool) {
        self.at(server, |s| s.is_silent = is_silent);
    }

    pub(crate) fn fill(&self, is_full: bool) {
        self.servers().values_mut().for_each(|s| s.is_full = is_full);
    }

    pub(crate) fn lose_answers(&self, count: u32) {
        self.servers().values_mut().for_each(|s| s.lost_answers = count);
    }

    pub(crate) fn restart(&self, server: ServerId) {
        self.at(server, |s| s.not_open = s.chunks.keys().copied().collect());
    }

    pub(crate) fn appends(&self) -> u64 {
        self.servers().values().map(|s| s.appends).sum()
    }

    pub(crate) fn holders(&self, chunk: ChunkId) -> Vec<ServerId> {
        let servers = self.servers();
        servers.iter().filter(|(_, s)| s.chunks.contains_key(&chunk)).map(|(id, _)| *id).collect()
    }

    pub(crate) fn damage(&self, server: ServerId, chunk: ChunkId, at: u64) {
        self.at(server, |s| s.chunks.get_mut(&chunk).unwrap().data[at as usize] ^= 1);
    }

    pub(crate) fn remove(&self, server: ServerId, chunk: ChunkId) {
        self.at(server, |s| s.chunks.remove(&chunk));
    }

    fn answer(&self, to: ServerId, request: &ChunkRequest) -> Answer {
        let mut servers = self.servers();
        let own = servers.get_mut(&to).unwrap();
        if own.is_silent {
            return silence(to, to);
        }
        match request {
            ChunkRequest::Append(append) => answer_append(&mut servers, to, append),
            ChunkRequest::Sync(sync) => {
                let all = || sync.forward.iter().map(|r| r.server).chain([to]);
                if let Some(silent) = all().find(|id| servers[id].is_silent) {
                    return silence(to, silent);
                }
                let chunk = sync.key.chunk;
                if let Some(server) = all().find(|id| servers[id].not_open.contains(&chunk)) {
                    return Answer::Now(Err(named(to, server, ChunkError::NotOpen { chunk })));
                }
                let len = |id| servers[&id].chunks.get(&chunk).map_or(0, |s| s.data.len() as u64);
                Answer::Now(Ok(ChunkReply::Synced { len: ByteLen(all().map(len).min().unwrap_or(0)) }))
            }
            ChunkRequest::Read(read) => {
                let stored = own.chunks.get(&read.key.chunk);
                let gone = ChunkError::Gone { chunk: read.key.chunk };
                Answer::Now(stored.ok_or(gone).and_then(|s| blocks(s, read)).map(ChunkReply::Read))
            }
            ChunkRequest::Stat { key } => {
                let len = own.chunks.get(&key.chunk).map_or(0, |s| s.data.len() as u64);
                Answer::Now(Ok(ChunkReply::Stat { len: ByteLen(len), open: true }))
            }
        }
    }
}

fn answer_append(servers: &mut Servers<'_>, to: ServerId, append: &Append) -> Answer {
    let all: Vec<ServerId> = append.forward.iter().map(|r| r.server).chain([to]).collect();
    for id in &all {
        let server = servers.get_mut(id).unwrap();
        if server.is_silent {
            return silence(to, *id);
        }
        if let Err(error) = store(server, append) {
            return Answer::Now(Err(named(to, *id, error)));
        }
    }
    let own = servers.get_mut(&to).unwrap();
    own.appends += 1;
    if own.lost_answers > 0 {
        own.lost_answers -= 1;
        let what = "connection lost".to_owned();
        return Answer::Now(Err(ChunkError::Unreachable { server: to, what }));
    }
    let len = ByteLen(append.offset.0 + append.data.len() as u64);
    Answer::Now(Ok(ChunkReply::Appended { len }))
}

fn silence(asked: ServerId, silent: ServerId) -> Answer {
    let what = "no sign of life".to_owned();
    Answer::Late(named(asked, silent, ChunkError::Unreachable { server: silent, what }))
}

/// As the primary passes on what another said.
fn named(primary: ServerId, server: ServerId, error: ChunkError) -> ChunkError {
    if primary == server {
        return error;
    }
    ChunkError::ReplicaFailed { chunk: ChunkId(0), server, what: error.to_string() }
}

fn store(server: &mut Server, append: &Append) -> Result<(), ChunkError> {
    let chunk = append.key.chunk;
    assert_eq!(block_checksums(&append.key, append.offset, &append.data), append.block_checksums);
    if server.not_open.contains(&chunk) {
        return Err(ChunkError::NotOpen { chunk });
    }
    if server.is_full {
        return Err(ChunkError::NoSpace);
    }
    let stored = server.chunks.entry(chunk).or_default();
    let (at, held) = (append.offset.0, stored.data.len() as u64);
    if at == held {
        stored.data.extend_from_slice(&append.data);
        stored.frames.push((at, append.block_checksums.clone()));
        return Ok(());
    }
    let is_repeat = stored.frames.contains(&(at, append.block_checksums.clone()));
    let refused = ChunkError::AppendOutOfPlace { chunk, held, named: at };
    if is_repeat { Ok(()) } else { Err(refused) }
}

/// Whole blocks, counted from the start of each append.
fn blocks(stored: &Stored, read: &ReadChunk) -> Result<Blocks, ChunkError> {
    let (from, to) = (read.offset.0, read.offset.0 + read.len);
    let held = stored.data.len() as u64;
    if to > held {
        return Err(ChunkError::TooShort { chunk: read.key.chunk, held, wanted: to });
    }
    let (mut first, mut end, mut lens, mut checksums) = (None, 0, Vec::new(), Vec::new());
    for (index, (start, sums)) in stored.frames.iter().enumerate() {
        let frame_end = stored.frames.get(index + 1).map_or(held, |next| next.0);
        for (block, checksum) in sums.iter().enumerate() {
            let at = start + block as u64 * BLOCK_LEN;
            let block_end = (at + BLOCK_LEN).min(frame_end);
            if block_end > from && at < to {
                first.get_or_insert(at);
                end = block_end;
                lens.push((block_end - at) as u32);
                checksums.push(*checksum);
            }
        }
    }
    let first = first.unwrap();
    let data = stored.data[first as usize..end as usize].to_vec().into();
    Ok(Blocks { offset: ChunkOffset(first), lens, checksums, data })
}

impl ChunkTransport for FakeChunks {
    fn submit(
        &self,
        to: &Replica,
        request: ChunkRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<PendingReply, ChunkError>> {
        let server = to.server;
        let (answer, delay) = (self.answer(server, &request), *self.delay.lock().unwrap());
        Box::pin(async move {
            let reply: PendingReply = Box::pin(async move {
                let answered = async {
                    match answer {
                        Answer::Now(result) => {
                            sleep(delay).await;
                            result
                        }
                        Answer::Late(error) => {
                            sleep(frames::SILENCE_MAX).await;
                            Err(error)
                        }
                    }
                };
                let late = || ChunkError::Unreachable { server, what: "no answer in time".to_owned() };
                timeout(deadline, answered).await.unwrap_or_else(|_| Err(late()))
            });
            Ok(reply)
        })
    }
}
