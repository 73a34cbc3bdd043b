//! The status of a federation as a program gets it that has no command line, such as a console.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use dfs_admin::status;
use dfs_admin::status::find::Metaservers;
use dfs_admin::status::judge::Health;
use dfs_admin::status::{MemberState, ServerState};
use dfs_net::env::Env;
use dfs_net::rpc::admission::Admission;
use dfs_net::rpc::grpc::SharedIdentity;
use dfs_net::rpc::{Identity, Role, grpc};
use dfs_net::services::admin_server::{Admin, AdminServer};
use dfs_proto::ids::ClusterId;
use dfs_proto::wire;
use tonic::{Request, Response, Status};

const CLUSTER: ClusterId = ClusterId(0xc1);

/// A leader that answers this to everybody.
struct FakeLeader(wire::StatusReply);

#[tonic::async_trait]
impl Admin for FakeLeader {
    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusReply>, Status> {
        Ok(Response::new(self.0.clone()))
    }

    async fn file_show(
        &self,
        _: Request<wire::FileShowRequest>,
    ) -> Result<Response<wire::FileShowReply>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn list_sessions(
        &self,
        _: Request<wire::ListSessionsRequest>,
    ) -> Result<Response<wire::ListSessionsReply>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn expire_session(
        &self,
        _: Request<wire::ExpireSessionRequest>,
    ) -> Result<Response<wire::ExpireSessionReply>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }
}

/// What the leader of a cluster of two metaservers and one chunkserver knows.
fn leaders_answer(leader: &str, other: &str) -> wire::StatusReply {
    let members = [leader, other].into_iter().zip(1..).map(|(address, member)| {
        let address = address.to_owned();
        wire::MemberStatus { member, address, ..Default::default() }
    });
    let chunkserver = wire::ServerStatus {
        server: 4,
        state: wire::ServerState::Alive as i32,
        heard: true,
        disk_free: 1 << 30,
        ..Default::default()
    };
    wire::StatusReply {
        cluster: CLUSTER.to_wire().into(),
        cluster_name: "alpha".to_owned(),
        answered_by: 1,
        is_leader: true,
        term: 3,
        members: members.collect(),
        chunkservers: vec![chunkserver],
        chunks_sealed: 9,
        held: Some(wire::HeldStatus { locks: 5, waited_for: vec![7], ..Default::default() }),
        copies: 1,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_program_gets_the_status_as_data_and_as_the_json_that_dfs_status_prints() {
    let env = Env::real();
    let listener = env.net.bind("127.0.0.1:0").await.unwrap();
    let leader = listener.local_address();
    let dead = env.net.bind("127.0.0.1:0").await.unwrap().local_address();
    let identity = SharedIdentity::new(Identity { role: Role::Metaserver, id: 1, cluster: CLUSTER });
    let admin = AdminServer::new(FakeLeader(leaders_answer(&leader, &dead)));
    let never = Box::pin(std::future::pending());
    let routes = tonic::service::Routes::new(admin);
    tokio::spawn(grpc::serve(listener, routes, identity, Admission::default(), never));

    let known = Metaservers { addresses: vec![leader.clone()], origin: "the console".to_owned() };
    let status = status::of(&env, &known).await;

    assert_eq!(status.health.health, Health::Degraded);
    assert!(status.health.reasons[0].contains(&dead), "{:?}", status.health.reasons);
    let [cluster] = status.federation.clusters.as_slice() else { panic!("one cluster: {status:?}") };
    let members: Vec<_> = cluster.members.iter().map(|m| (m.address.clone(), m.state)).collect();
    assert_eq!(members, [(leader, MemberState::Leader), (dead, MemberState::Unreachable)]);
    let report = cluster.leader.as_ref().unwrap();
    assert_eq!((report.term, report.chunks.sealed), (3, 9));
    assert_eq!(report.held.as_ref().map(|held| (held.locks, held.waited_for.clone())), Some((5, vec![7])));
    assert_eq!((report.chunkservers[0].id, report.chunkservers[0].state), (4, ServerState::Alive));

    let json = serde_json::to_value(&status).unwrap();
    assert_eq!((&json["verdict"]["health"], &json["found_by"]), (&"degraded".into(), &"the console".into()));
    assert_eq!(json["verdict"]["because"].as_array().map(Vec::len), Some(1));
    assert_eq!(json["clusters"][0]["leader"]["chunkservers"][0]["disk_free"], 1u64 << 30);
    assert_eq!(json["volumes"][0]["name"], "/");
}
