//! Chunks and the servers that hold them: where chunks are placed, sealed, deleted and found damaged.

use dfs_state::command::SEAL_CHUNKS_MAX;

use super::*;

#[tokio::test(start_paused = true)]
async fn free_space_counts_each_filesystem_once_and_waits_for_the_first_reports() {
    let mut cluster = Cluster::one().await;
    let mut servers = Vec::new();
    for (directory, filesystem) in [(1, 1), (2, 1), (3, 2)] {
        let mut server = cluster.register(directory, "").await;
        server.report(load(filesystem)).await;
        servers.push(server);
    }
    let mut client = cluster.client(1).await;
    let read = Read::StatFs { inode: InodeId::ROOT };
    let Ok(ReadReply::StatFs(space)) = client.read(&USER, read.clone()).await else { panic!("no statfs") };
    assert_eq!((space.total, space.free, space.inodes), (ByteLen(100 * GIB), ByteLen(60 * GIB), 1));
    cluster.restart(1).await;
    client.meta = MetaClient::new(cluster.leader_channel().await);
    let early = client.read(&USER, read.clone()).await;
    assert!(matches!(early, Err(MetaError::Unavailable { .. })), "{early:?}");
    sleep(Duration::from_secs(4)).await;
    assert!(client.read(&USER, read).await.is_ok(), "by now they count as away");
}

#[tokio::test(start_paused = true)]
async fn a_chunk_gets_its_copies_on_different_servers_with_addresses() {
    let cluster = Cluster::one().await;
    let servers = cluster.chunkservers(3).await;
    let mut client = cluster.client(1).await;
    for copies in [0, 1, 3] {
        let chunk = client.open_chunk(vec![], copies).await.expect("three servers are there");
        let wanted = if copies == 0 { 2 } else { copies as usize };
        let distinct: std::collections::BTreeSet<_> = servers_of(&chunk).into_iter().collect();
        assert_eq!(distinct.len(), wanted);
        for replica in &chunk.replicas {
            assert_eq!(replica.address, format!("c{}:2", replica.server.0));
        }
    }
    for _ in 0..20 {
        let chunk = client.open_chunk(vec![servers[0].id()], 2).await.expect("two others are there");
        assert!(!servers_of(&chunk).contains(&servers[0].id()));
    }
    let refused = client.open_chunk(vec![], 9).await;
    assert!(matches!(refused, Err(MetaError::InvalidArgument { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn full_servers_get_no_chunks_and_when_all_are_there_is_no_space() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(3).await;
    let mut client = cluster.client(1).await;
    servers[1].report(wire::Load { full: true, ..load(2) }).await;
    for _ in 0..20 {
        let chunk = client.open_chunk(vec![], 2).await.expect("two have space");
        assert!(!servers_of(&chunk).contains(&servers[1].id()));
    }
    for server in &mut servers {
        server.report(wire::Load { full: true, ..load(1) }).await;
    }
    let refused = client.open_chunk(vec![], 1).await;
    assert!(matches!(refused, Err(MetaError::NoSpace { .. })), "{refused:?}");
    attr_of(client.change(&Caller::ROOT, create("a", 0o644, NewInode::File)).await);
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_own_disk_is_nearly_full_takes_nothing_new_and_stops_before_it_is_full() {
    let settings = Settings { disk_reserve_mib: Some(100), ..Settings::default() };
    let mut cluster = Cluster::start(1, settings).await;
    let mut client = cluster.client(1).await;
    let disk = cluster.disks[&1].log.clone();
    let before = client.request(&Caller::ROOT, create("before", 0o644, NewInode::File));
    let made = client.send(&before).await;
    assert!(made.is_ok(), "{made:?}");

    disk.set_free(ByteLen(99 * MIB));
    sleep(Duration::from_secs(2)).await;
    assert!(cluster.status(1).await.expect("it answers").is_full);
    let refused = client.change(&Caller::ROOT, create("more", 0o644, NewInode::File)).await;
    assert!(matches!(refused, Err(MetaError::NoSpace { .. })), "{refused:?}");
    assert_eq!(client.send(&before).await, made, "what was done before stays done");
    let unlink = Change::Unlink { parent: InodeId::ROOT, name: Name::new("before").expect("a name") };
    client.change(&Caller::ROOT, unlink).await.expect("deleting makes room");

    disk.set_free(ByteLen(100 * MIB));
    sleep(Duration::from_secs(2)).await;
    attr_of(client.change(&Caller::ROOT, create("more", 0o644, NewInode::File)).await);

    disk.set_free(ByteLen(49 * MIB));
    for _ in 0..2 {
        let member = cluster.members.remove(&1).expect("it was started");
        let ended = member.serving.await.expect("no panic").expect_err("it cannot go on");
        assert!(ended.to_string().contains("49 MiB free"), "{ended}");
        cluster.start_member(1); // refused for the same reason
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_places_fewer_copies_only_after_ten_seconds_or_when_all_were_heard() {
    let mut cluster = Cluster::one().await;
    cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    cluster.restart(1).await;
    client.meta = MetaClient::new(cluster.leader_channel().await);
    let mut only = cluster.register(1, "").await;
    only.report(load(1)).await;
    let early = client.open_chunk(vec![], 2).await;
    assert!(matches!(early, Err(MetaError::Unavailable { .. })), "{early:?}");
    cluster.pass(Duration::from_secs(10), std::slice::from_mut(&mut only)).await;
    let chunk = client.open_chunk(vec![], 2).await.expect("ten seconds have passed");
    assert_eq!(servers_of(&chunk), [only.id()]);
    let mut other = cluster.register(2, "").await;
    other.report(load(2)).await;
    let chunk = client.open_chunk(vec![], 2).await.expect("both are there");
    assert_eq!(chunk.replicas.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn below_the_least_number_of_copies_an_open_waits() {
    let cluster = Cluster::start(1, Settings { copies_min: Some(2), ..Settings::default() }).await;
    let mut servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    cluster.pass(Duration::from_secs(20), &mut servers[..1]).await;
    let refused = client.open_chunk(vec![], 2).await;
    assert!(matches!(refused, Err(MetaError::Unavailable { .. })), "{refused:?}");
    servers[1].report(load(2)).await;
    assert!(client.open_chunk(vec![], 2).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_open_chunks_of_a_server_that_is_away_are_sealed() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(3).await;
    let mut client = cluster.client(1).await;
    cluster.pass(Duration::from_secs(11), &mut servers).await;
    let kept = client.open_chunk(vec![servers[0].id()], 2).await.expect("three are there");
    let lost = client.open_chunk(vec![servers[1].id()], 2).await.expect("three are there");
    cluster.pass(Duration::from_secs(5), &mut servers[1..]).await;
    let status = cluster.status(1).await.expect("it answers");
    assert_eq!((status.chunks_open, status.chunks_sealed + status.chunks_dead), (1, 1));
    assert_eq!(status.chunks_degraded, 0, "a dead chunk needs no copies");
    let states: Vec<i32> = status.chunkservers.iter().map(|server| server.state).collect();
    let (alive, away) = (wire::ServerState::Alive as i32, wire::ServerState::Away as i32);
    assert_eq!(states, [away, alive, alive]);
    for _ in 0..20 {
        let chunk = client.open_chunk(vec![], 2).await.expect("two are left");
        assert!(!servers_of(&chunk).contains(&servers[0].id()));
    }
    assert!(client.seal(kept.chunk).await.is_ok());
    assert!(client.seal(lost.chunk).await.is_ok(), "sealing again is no error");
}

#[tokio::test(start_paused = true)]
async fn a_report_that_a_server_is_unreachable_only_shortens_the_patience_with_it() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    let chunk = client.open_chunk(vec![], 2).await.expect("two are there");
    client.report(chunk.chunk, servers[0].id(), ReplicaProblem::Unreachable).await;
    assert_eq!(client.open_chunk(vec![], 2).await.map(|chunk| chunk.replicas.len()), Ok(2));
    cluster.pass(Duration::from_secs(2), &mut servers[1..]).await;
    let kept = client.open_chunk(vec![servers[1].id()], 1).await.map(|chunk| servers_of(&chunk));
    assert_eq!(kept, Ok(vec![servers[1].id()]), "there is no other");
    let status = cluster.status(1).await.expect("it answers");
    assert_eq!(status.chunkservers[0].state, wire::ServerState::Away as i32);
    servers[0].report(load(1)).await;
    let status = cluster.status(1).await.expect("it answers");
    assert_eq!(status.chunkservers[0].state, wire::ServerState::Alive as i32);
}

#[tokio::test(start_paused = true)]
async fn a_dead_chunk_is_deleted_after_a_minute_where_it_was_and_forgotten_when_confirmed() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    let chunk = client.open_chunk(vec![], 2).await.expect("two are there").chunk;
    client.seal(chunk).await.expect("it is this session's");
    cluster.pass(Duration::from_secs(50), &mut servers).await;
    assert_eq!(servers[0].report(load(1)).await.delete, [] as [u64; 0]);
    cluster.pass(Duration::from_secs(15), &mut servers).await;
    for server in &mut servers {
        assert_eq!(server.report(load(1)).await.delete, [chunk.0]);
        let done =
            wire::HeartbeatRequest { deleted: vec![chunk.0], load: Some(load(1)), ..Default::default() };
        assert_eq!(server.send(done).await.delete, [] as [u64; 0]);
    }
    let status = cluster.status(1).await.expect("it answers");
    assert_eq!((status.chunks_open, status.chunks_sealed, status.chunks_dead), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_older_instance_is_told_to_register_again_and_a_foreign_directory_is_refused() {
    let cluster = Cluster::one().await;
    let mut older = cluster.register(1, "").await;
    let mut newer = cluster.register(1, "").await;
    assert_eq!((newer.id(), newer.registered.instance), (older.id(), older.registered.instance + 1));
    assert!(older.send(wire::HeartbeatRequest::default()).await.re_register);
    assert!(!newer.send(wire::HeartbeatRequest::default()).await.re_register);
    let foreign = wire::RegisterRequest { cluster: vec![9; 16].into(), ..registration(7, "") };
    let reply = newer.cluster.register(foreign).await.expect("an answer").into_inner();
    let refused = convert::error_from_wire(reply.error.expect("a refusal"));
    assert!(matches!(refused, MetaError::InvalidArgument { .. }), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn damage_is_counted_once_whoever_reports_it() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    let chunk = client.open_chunk(vec![], 2).await.expect("two are there").chunk;
    let found =
        || wire::HeartbeatRequest { damaged: vec![chunk.0, 999], load: Some(load(1)), ..Default::default() };
    assert_eq!(servers[0].send(found()).await.error, None);
    let id = servers[0].id();
    client.report(chunk, id, ReplicaProblem::Damaged).await;
    assert_eq!(servers[0].send(found()).await.error, None);
    assert_eq!(cluster.status(1).await.expect("it answers").chunks_damaged, 1);
}

#[tokio::test(start_paused = true)]
async fn a_readers_first_copy_is_one_that_can_be_reached_and_the_chunk_counts_as_degraded() {
    let cluster = Cluster::one().await;
    let mut servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    let (file, chunk) = written_file(&mut client).await;
    assert_eq!(cluster.status(1).await.map(|s| (s.chunks_open, s.chunks_degraded)), Ok((1, 0)));
    let away = chunk.replicas[0].server;
    servers.retain(|server| server.id() != away);
    cluster.pass(Duration::from_secs(5), &mut servers).await;
    assert_eq!(cluster.status(1).await.map(|s| (s.chunks_sealed, s.chunks_degraded)), Ok((1, 1)));
    let read = Read::Extents { inode: file.inode, offset: Offset(0), len: 1 << 20, limit: 0 };
    let answer = client.read(&Caller::ROOT, read).await;
    let Ok(ReadReply::Extents(extents)) = answer else { panic!("{answer:?}") };
    assert_eq!((extents.extents.len(), extents.attr.clone()), (1, file));
    assert_eq!(extents.chunks[0].replicas, [chunk.replicas[1].clone(), chunk.replicas[0].clone()]);
}

/// One of them has bytes of a file, and there are more than one command seals.
#[tokio::test(start_paused = true)]
async fn the_open_chunks_of_no_volume_of_an_earlier_release_are_sealed_and_stay_readable() {
    let mut cluster = Cluster::one().await;
    let servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    let file = attr_of(client.change(&Caller::ROOT, create("a", 0o644, NewInode::File)).await).inode;
    let placement: Vec<ServerId> = servers.iter().map(Chunkserver::id).collect();
    let mut command = |change| {
        let request = client.request(&Caller::ROOT, change);
        Command::of_request(request, placement.clone(), Vec::new())
    };
    let of = |volume| Change::OpenChunk(OpenChunk { volume, ..OpenChunk::default() });
    let mut commands: Vec<Command> = (0..=SEAL_CHUNKS_MAX).map(|_| command(of(None))).collect();
    let (mixed, of_volume) = (ChunkId(1), ChunkId(commands.len() as u64 + 1));
    commands.extend([command(of(Some(VolumeId(0)))), command(commit(file, 1, mixed))]);
    let proposed = Proposed::WithMixed { wall: Timestamp::default(), state: StateTime::default() };
    cluster.execute_as(proposed, commands).await;

    let mut servers = cluster.chunkservers(2).await;
    cluster.pass(Duration::from_secs(2), &mut servers).await;
    let status = cluster.status(1).await.expect("it answers");
    let counted = (status.chunks_open, status.chunks_sealed, status.chunks_dead);
    assert_eq!(counted, (1, 1, SEAL_CHUNKS_MAX as u64));
    client.meta = MetaClient::new(cluster.leader_channel().await);
    let refused = client.change(&USER, commit(file, 2, mixed)).await;
    assert_eq!(refused, Err(MetaError::ChunkNotOpen { chunk: mixed }), "its writer goes on elsewhere (W2)");
    let read = Read::Extents { inode: file, offset: Offset(0), len: 8192, limit: 10 };
    let Ok(ReadReply::Extents(found)) = client.read(&Caller::ROOT, read).await else { panic!("no extents") };
    assert_eq!((found.extents[0].chunk, found.chunks[0].sealed), (mixed, true));
    client.change(&USER, commit(file, 2, of_volume)).await.expect("a chunk of its volume was left open");
}
