//! What `dfs`, monitoring and whoever starts a metaserver are shown.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_file_is_shown_by_path_with_its_copies() {
    let cluster = Cluster::one().await;
    let servers = cluster.chunkservers(2).await;
    let mut client = cluster.client(1).await;
    let (file, chunk) = written_file(&mut client).await;
    client.report(chunk.chunk, servers[0].id(), ReplicaProblem::Damaged).await;
    let mut admin = AdminClient::new(cluster.leader_channel().await);
    let show = |path: &str| wire::FileShowRequest { path: path.to_owned(), ..Default::default() };
    let shown = admin.file_show(show("/a")).await.expect("an answer").into_inner();
    assert_eq!(shown.attr, Some(convert::attr_to_wire(&file)));
    assert_eq!((shown.more, shown.cluster_name.as_str()), (false, "local"));
    let extent = &shown.extents[0];
    assert_eq!((extent.len, extent.chunk, extent.chunk_state.as_str()), (8192, chunk.chunk.0, "open"));
    for copy in &extent.copies {
        assert_eq!(copy.damaged, copy.server == servers[0].id().0);
        assert_eq!((copy.address.as_str(), copy.state), (format!("c{}:2", copy.server).as_str(), 1));
    }
    let missing = admin.file_show(show("/b/c")).await.expect("an answer").into_inner();
    assert_eq!(missing.error.map(convert::error_from_wire), Some(MetaError::NotFound));
}

#[tokio::test(start_paused = true)]
async fn every_member_tells_its_status_and_the_leader_tells_more() {
    let cluster =
        Cluster::start(3, Settings { cluster: Some("here".to_owned()), ..Settings::default() }).await;
    let leader = cluster.leader().await;
    let deadline = Instant::now() + PATIENCE;
    for id in 1..=3 {
        loop {
            let status = cluster.status(id).await.expect("it answers");
            if status.leader == leader && status.cluster_name == "here" && status.members.len() == 3 {
                assert_eq!((status.answered_by, status.is_leader), (id, id == leader));
                break;
            }
            assert!(Instant::now() < deadline, "{id} does not hear of the leader");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn get(cluster: &Cluster, path: &str) -> String {
    let mut stream = cluster.env.net.connect("m1:2").await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: m1\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    answer
}

#[tokio::test(start_paused = true)]
async fn metrics_and_health_are_served_over_http() {
    let cluster = Cluster::one().await;
    let mut client = cluster.client(1).await;
    attr_of(client.change(&Caller::ROOT, create("a", 0o640, NewInode::File)).await);
    let metrics = get(&cluster, "/metrics").await;
    for line in ["dfs_metaserver_changes_total 1", "dfs_metaserver_leading 1", "dfs_metaserver_inodes 2"] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
    let health = get(&cluster, "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200 OK") && health.contains(&MemberId(1).to_string()), "{health}");
}

#[tokio::test]
async fn a_used_port_and_an_address_that_says_nothing_are_one_line_each() {
    let tcp = Env::real();
    let taken = tcp.net.bind("127.0.0.1:0").await.expect("a free port").local_address();
    let holder = tcp.net.bind(&taken).await;
    let storage = || Storage { cluster: Disks::new().storage(), federation: None };
    let listening = tcp.net.bind("127.0.0.1:0").await.expect("a free port");
    let with = |listen: String| {
        let settings = Settings {
            id: Some(1),
            data: Some("/unused".into()),
            listen: Some(listen),
            http: Some(String::new()),
            ..Settings::default()
        };
        Config::validate(settings).expect("sound settings")
    };
    let error = run(with(listening.local_address()), tcp.clone(), storage(), Box::pin(async {})).await;
    let line = error.expect_err("the port is taken").to_string();
    assert!(
        line.starts_with(&format!("listen on {}", listening.local_address())) && !line.contains('\n'),
        "{line}"
    );
    let error = run(with("0.0.0.0:0".to_owned()), tcp, storage(), Box::pin(async {})).await;
    let line = error.expect_err("nobody could connect").to_string();
    assert!(line.contains("set `advertise`"), "{line}");
    drop(holder);
}
