//! Keeps the newest map: a member of the group has it from its own state, any other process asks the members. What is newer is
//! kept on disk, so that it is served also by a process that was started while the group is away (P9.1).

use std::time::Duration;

use dfs_net::rpc::leader::LeaderChannel;
use dfs_net::services::federation_client::FederationClient;
use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::federation::FederationMap;
use dfs_proto::ids::{ClusterId, DirectoryId, VolumeId};
use dfs_proto::meta::MetaResult;
use dfs_proto::wire;
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout};

use super::{CONNECT_TIMEOUT, Federation};
use crate::raft::Consensus;
use crate::raft::log::disk::{LogDisk, WholeFile};

/// How long a member holds a question for a newer map.
const HELD: Duration = Duration::from_secs(10);
/// Short, because a question goes on at the member when nobody waits for its answer any more.
const HELD_IN_A_HURRY: Duration = Duration::from_secs(1);
/// Beside the time that a question is held.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(500);
/// Between two writes of the map: it changes often while many volumes are made.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// For a volume that was made a moment ago: the group may be electing a leader.
const NEWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs while the process does.
pub(crate) async fn follow(federation: &Federation, disk: &dyn LogDisk, directory: DirectoryId) {
    tokio::join!(
        async {
            match &federation.member {
                Some(member) => from_own_state(federation, member).await,
                None => from_members(federation).await,
            }
        },
        keep(federation, disk, directory)
    );
}

async fn from_own_state(federation: &Federation, member: &Consensus) {
    let mut applied = member.applied();
    loop {
        let view = member.stale_view();
        if dfs_state::federation::version(&*view.snapshot()) > federation.map().version
            && let Some(map) = dfs_state::federation::map(&*view.snapshot())
        {
            federation.learn(map);
        }
        applied = member.applied_beyond(applied).await;
    }
}

/// Each in turn, for as long as it has news: one that has none may be cut off from the others.
async fn from_members(federation: &Federation) {
    loop {
        for seat in &federation.seats {
            while learn_from(federation, seat, HELD).await {}
        }
    }
}

/// From all members at once, for as long as the caller waits: the one that [`from_members`] is asking may have fallen silent.
async fn hurry(federation: &Federation) {
    let ask = federation.seats.iter().map(|seat| async move {
        loop {
            learn_from(federation, seat, HELD_IN_A_HURRY).await;
        }
    });
    futures::future::join_all(ask).await;
}

impl Federation {
    /// Where the map, or within [`NEWER_TIMEOUT`] a newer one, says that it is.
    pub(super) async fn cluster_of(&self, volume: VolumeId) -> MetaResult<ClusterId> {
        let mut maps = self.map.subscribe();
        let found = maps.wait_for(|map| map.volume(volume).is_some());
        let search = async {
            tokio::select! {
                biased;
                map = found => map.ok().and_then(|map| map.volume(volume).map(|found| found.cluster)),
                () = hurry(self) => None,
            }
        };
        let cluster = timeout(NEWER_TIMEOUT, search).await.ok().flatten();
        let away = || MetaError::Away { what: format!("the federation map does not tell where {volume} is") };
        cluster.ok_or_else(away)
    }
}

/// Whether it had a newer map, within `held`.
async fn learn_from(federation: &Federation, seat: &str, held: Duration) -> bool {
    match ask(&federation.channel, seat, federation.map().version, held).await {
        Ok(Some(map)) => {
            if federation.learn(map) {
                return true;
            } // else another seat was faster, or it is of another federation
        }
        Ok(None) => return false,
        Err(_) => federation.channel.drop_channel(seat),
    }
    sleep(AGAIN).await;
    false
}

/// A newer map, when there is one within `held`.
async fn ask(
    channel: &LeaderChannel,
    seat: &str,
    known: u64,
    held: Duration,
) -> Result<Option<FederationMap>, String> {
    let connection = channel.channel(seat, Instant::now() + CONNECT_TIMEOUT).await?;
    let request = wire::GetMapRequest { known_version: known, wait_ms: held.as_millis() as u32 };
    let mut client =
        FederationClient::new(connection).max_decoding_message_size(dfs_net::rpc::grpc::MESSAGE_LEN_MAX);
    match timeout(held + ANSWER_TIMEOUT, client.get_map(request)).await {
        Ok(Ok(reply)) => convert::map_from_wire(reply.into_inner()).map_err(|error| error.to_string()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

async fn keep(federation: &Federation, disk: &dyn LogDisk, directory: DirectoryId) {
    let mut kept = federation.map().version;
    loop {
        let map = federation.newer_than(kept).await;
        match disk.write_whole(WholeFile::Map, encode(&map, directory)).await {
            Ok(()) => kept = map.version,
            Err(error) => tracing::warn!(%error, "keep the federation map"),
        }
        sleep(KEEP_EVERY).await;
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Of a file that says whose it is; the first format was the checksum and the map alone.
const MAGIC: &[u8; 8] = b"DFSMAP2\n";

/// `MAGIC | directory 16 | crc32c u32 of all behind it | map`; big-endian.
fn encode(map: &FederationMap, directory: DirectoryId) -> Vec<u8> {
    let body = convert::the_map_to_wire(map).encode_to_vec();
    let mut bytes = [&MAGIC[..], &directory.0.to_be_bytes(), &crc32c(&body).to_be_bytes()].concat();
    bytes.extend_from_slice(&body);
    bytes
}

/// What [`keep`] wrote in this directory; an empty map for anything else: it is a copy, and comes again.
pub(crate) async fn kept(disk: &dyn LogDisk, directory: DirectoryId) -> FederationMap {
    let bytes = match disk.read_whole(WholeFile::Map).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return FederationMap::default(),
        Err(error) => {
            tracing::warn!(%error, "read the federation map that was kept");
            return FederationMap::default();
        }
    };
    decode(&bytes, directory).unwrap_or_else(|| {
        tracing::warn!(
            "the federation map that was kept is damaged or of another directory; a new one is fetched"
        );
        FederationMap::default()
    })
}

fn decode(bytes: &[u8], directory: DirectoryId) -> Option<FederationMap> {
    let bytes = match bytes.strip_prefix(MAGIC) {
        Some(bytes) => {
            let (whose, bytes) = bytes.split_first_chunk()?;
            (u128::from_be_bytes(*whose) == directory.0).then_some(bytes)?
        }
        None => bytes,
    };
    let (sum, body) = bytes.split_first_chunk()?;
    if u32::from_be_bytes(*sum) != crc32c(body) {
        return None;
    }
    convert::the_map_from_wire(wire::FederationMap::decode(body).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::FederationId;

    use super::*;

    #[test]
    fn a_map_that_was_kept_comes_back_and_a_damaged_one_or_one_of_another_directory_does_not() {
        let map = FederationMap { federation: FederationId(7), version: 3, ..FederationMap::default() };
        let (own, other) = (DirectoryId(5), DirectoryId(6));
        let mut bytes = encode(&map, own);
        assert_eq!(decode(&bytes, own).as_ref(), Some(&map));
        assert_eq!(decode(&bytes, other), None);
        let former = bytes[MAGIC.len() + 16..].to_vec();
        assert_eq!(decode(&former, own), Some(map), "as the release before wrote it");
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len], own), None, "cut at {len}");
        }
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(decode(&bytes, own), None);
    }
}
