//! More than there may be is refused, and of a message that carries more than it may, the rest is not looked at.

use dfs_proto::ids::DirectoryId;
use dfs_state::command::{REAP_LIMIT_MAX, RegisterServer, SEAL_CHUNKS_MAX, ServerAddresses};

use super::super::cluster::{
    ADDRESS_LEN_MAX, DAMAGE_REPORTS_MAX, FILESYSTEM_LEN_MAX, LOAD_MAX, ORDERS_MAX, SERVERS_MAX, ZONE_LEN_MAX,
};
use super::super::session::SESSIONS_MAX;
use super::*;

impl Cluster {
    /// So many requests would take minutes.
    async fn execute(&mut self, commands: impl IntoIterator<Item = Command>) {
        let proposed = Proposed::At { wall: Timestamp::default(), state: StateTime::default() };
        self.execute_as(proposed, commands).await;
    }

    async fn try_register(&self, request: wire::RegisterRequest) -> MetaResult<ServerId> {
        let mut cluster = ClusterClient::new(self.leader_channel().await);
        let reply = cluster.register(request).await.expect("an answer").into_inner();
        reply.error.map_or(Ok(ServerId(reply.server)), |error| Err(convert::error_from_wire(error)))
    }

    async fn damaged(&self) -> u64 {
        self.status(1).await.expect("it answers").chunks_damaged
    }
}

/// Ids that no chunk has, and then this.
fn behind_strange_ones(chunk: ChunkId) -> Vec<u64> {
    let strange = (0..SEAL_CHUNKS_MAX as u64).map(|n| (1 << 40) + n);
    strange.chain([chunk.0]).collect()
}

#[tokio::test(start_paused = true)]
async fn with_as_many_sessions_as_there_may_be_another_one_waits_until_one_ends() {
    let mut cluster = Cluster::one().await;
    let open = |nonce: u64| Command::OpenSession { nonce: SessionNonce(nonce.into()), client: String::new() };
    cluster.execute((1..SESSIONS_MAX).map(open)).await;
    let mut last = cluster.client(1 << 100).await;
    let channel = cluster.leader_channel().await;
    let refused = open_session(&channel, ClusterId::UNKNOWN, 2 << 100).await;
    assert!(matches!(refused, Err(MetaError::Unavailable { .. })), "{refused:?}");
    let close = RenewSession::of(last.opened.cluster, last.opened.session);
    let closed = last.meta.close_session(convert::renew_to_wire(&close)).await.expect("an answer");
    assert_eq!(closed.into_inner().error, None);
    assert!(open_session(&channel, ClusterId::UNKNOWN, 2 << 100).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn with_as_many_servers_as_there_may_be_none_is_new_and_those_that_are_known_come_back() {
    let mut cluster = Cluster::one().await;
    let register = |number: usize| {
        let (directory, addresses) = (DirectoryId(number as u128), ServerAddresses::default());
        Command::RegisterServer(RegisterServer { server: None, directory, addresses, zone: String::new() })
    };
    cluster.execute((1..SERVERS_MAX).map(register)).await;
    let last = cluster.try_register(registration(1 << 100, "")).await.expect("there is room for one");
    let refused = cluster.try_register(registration(2 << 100, "")).await;
    assert!(matches!(refused, Err(MetaError::Unavailable { .. })), "{refused:?}");
    let known = wire::RegisterRequest { server: last.0, ..registration(1 << 100, "") };
    assert_eq!(cluster.try_register(known).await, Ok(last));
}

#[tokio::test(start_paused = true)]
async fn a_registration_with_a_longer_address_or_zone_than_any_is_refused() {
    let cluster = Cluster::one().await;
    let of = |len: usize| "a".repeat(len);
    let longest = wire::RegisterRequest {
        grpc_address: of(ADDRESS_LEN_MAX),
        frames_address: of(ADDRESS_LEN_MAX),
        http_address: of(ADDRESS_LEN_MAX),
        ..registration(1, &of(ZONE_LEN_MAX))
    };
    assert!(cluster.try_register(longest.clone()).await.is_ok());
    let too_long = of(ADDRESS_LEN_MAX + 1);
    for request in [
        wire::RegisterRequest { grpc_address: too_long.clone(), ..longest.clone() },
        wire::RegisterRequest { frames_address: too_long.clone(), ..longest.clone() },
        wire::RegisterRequest { http_address: too_long.clone(), ..longest.clone() },
        wire::RegisterRequest { zone: of(ZONE_LEN_MAX + 1), ..longest.clone() },
    ] {
        let refused = cluster.try_register(request).await;
        assert!(matches!(refused, Err(MetaError::InvalidArgument { .. })), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_reports_no_more_damage_than_fits_and_the_next_one_the_rest() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    let mut chunks = Vec::new();
    for _ in 0..DAMAGE_REPORTS_MAX + 20 {
        chunks.push(client.open_chunk(vec![], 2).await.expect("two are there").chunk.0);
    }
    let found = |damaged: &[u64]| wire::HeartbeatRequest { damaged: damaged.to_vec(), ..Default::default() };
    let hidden = behind_strange_ones(ChunkId(chunks[0]));
    assert_eq!(servers[0].send(found(&hidden)).await.error, None);
    assert_eq!(cluster.damaged().await, 0);
    assert_eq!(servers[0].send(found(&chunks)).await.error, None);
    assert_eq!(cluster.damaged().await, DAMAGE_REPORTS_MAX as u64);
    assert_eq!(servers[0].send(found(&chunks)).await.error, None);
    assert_eq!(cluster.damaged().await, chunks.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_orders_and_confirms_no_more_deletions_than_fit() {
    let mut cluster = Cluster::one().await;
    let servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    let placement: Vec<ServerId> = servers.iter().map(Chunkserver::id).collect();
    let count = ORDERS_MAX + 20;
    let mut open = |_| {
        let open = OpenChunk { copies: 2, volume: Some(VolumeId(0)), ..OpenChunk::default() };
        let request = client.request(&USER, Change::OpenChunk(open));
        Command::of_request(request, placement.clone(), Vec::new())
    };
    let mut commands: Vec<Command> = (0..count).map(&mut open).collect();
    let chunks: Vec<ChunkId> = (1..=count as u64).map(ChunkId).collect();
    commands
        .extend(chunks.chunks(SEAL_CHUNKS_MAX).map(|chunks| Command::SealChunks { chunks: chunks.to_vec() }));
    let long_ago = StateTime { seconds: i64::MAX, nanos: 0 };
    let delete = Command::StartDeleting { before: long_ago, limit: REAP_LIMIT_MAX };
    commands.extend([delete.clone(), delete]);
    cluster.execute(commands).await;
    let mut servers = cluster.chunkservers(2).await;
    let ordered = servers[0].report(load(1)).await.delete;
    assert_eq!(ordered.len(), ORDERS_MAX);
    let confirm =
        |deleted: Vec<u64>| wire::HeartbeatRequest { deleted, load: Some(load(1)), ..Default::default() };
    let first = ordered[0];
    let hidden = behind_strange_ones(ChunkId(first));
    assert!(servers[0].send(confirm(hidden)).await.delete.contains(&first), "it was not looked at");
    let left = servers[0].send(confirm(ordered)).await.delete;
    assert_eq!(left.len(), count - ORDERS_MAX);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_says_of_its_disk_stays_a_number_that_many_can_be_added_to() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(2).await;
    let name = |last: u8| [vec![7; FILESYSTEM_LEN_MAX], vec![last]].concat();
    let mut client = cluster.client(1).await;
    let read = Read::StatFs { inode: InodeId::ROOT };
    // Two copies of everything: half of it is room.
    for (filesystems, total) in [([vec![1], vec![2]], LOAD_MAX), ([name(1), name(2)], LOAD_MAX / 2)] {
        for (server, filesystem) in servers.iter_mut().zip(filesystems) {
            let (disk_total, disk_free) = (u64::MAX, u64::MAX);
            let filesystem = filesystem.into();
            let load = wire::Load { disk_total, disk_free, filesystem, cpu_percent: u32::MAX, ..load(1) };
            server.report(load).await;
        }
        let Ok(ReadReply::StatFs(space)) = client.read(&USER, read.clone()).await else {
            panic!("no statfs")
        };
        assert_eq!((space.total, space.free), (ByteLen(total), ByteLen(total)));
    }
}
