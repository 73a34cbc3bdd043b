//! The sessions of a federation as a program gets them that has no command line, such as a console.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use dfs_admin::sessions::{self, Expired};
use dfs_admin::status::FederationStatus;
use dfs_admin::status::find::Metaservers;
use dfs_admin::status::gather;
use dfs_net::env::Env;
use dfs_net::rpc::admission::Admission;
use dfs_net::rpc::grpc::SharedIdentity;
use dfs_net::rpc::{Identity, Role, grpc};
use dfs_net::services::admin_server::{Admin, AdminServer};
use dfs_proto::convert;
use dfs_proto::error::MetaError;
use dfs_proto::ids::{ClusterId, SessionId};
use dfs_proto::wire;
use tonic::{Request, Response, Status};

const CLUSTER: ClusterId = ClusterId(0xc1);
/// Of a real leader.
const PAGE_MAX: usize = 1000;

/// A leader with these sessions.
#[derive(Clone)]
struct FakeLeader(Arc<Mutex<Vec<u64>>>);

#[tonic::async_trait]
impl Admin for FakeLeader {
    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusReply>, Status> {
        Ok(Response::new(wire::StatusReply {
            cluster: CLUSTER.to_wire().into(),
            cluster_name: "alpha".to_owned(),
            answered_by: 1,
            is_leader: true,
            ..Default::default()
        }))
    }

    async fn file_show(
        &self,
        _: Request<wire::FileShowRequest>,
    ) -> Result<Response<wire::FileShowReply>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn list_sessions(
        &self,
        request: Request<wire::ListSessionsRequest>,
    ) -> Result<Response<wire::ListSessionsReply>, Status> {
        let request = request.into_inner();
        assert_eq!(request.cluster, CLUSTER.to_wire().to_vec());
        let all = self.0.lock().unwrap();
        let from: Vec<u64> = all.iter().copied().filter(|id| *id >= request.from).collect();
        let shown = from.iter().take(PAGE_MAX.min(request.limit as usize));
        let sessions =
            shown.map(|session| wire::SessionStatus { session: *session, locks: 1, ..Default::default() });
        let sessions: Vec<_> = sessions.collect();
        let more = sessions.len() < from.len();
        let total = all.len() as u64;
        Ok(Response::new(wire::ListSessionsReply { error: None, sessions, more, total }))
    }

    async fn expire_session(
        &self,
        request: Request<wire::ExpireSessionRequest>,
    ) -> Result<Response<wire::ExpireSessionReply>, Status> {
        let session = request.into_inner().session;
        let mut all = self.0.lock().unwrap();
        let Some(at) = all.iter().position(|id| *id == session) else {
            let error = MetaError::SessionExpired { session: SessionId(session) };
            let error = Some(convert::error_to_wire(&error));
            return Ok(Response::new(wire::ExpireSessionReply { error, ended: None }));
        };
        all.remove(at);
        let ended = Some(wire::SessionStatus { session, locks: 1, ..Default::default() });
        Ok(Response::new(wire::ExpireSessionReply { error: None, ended }))
    }
}

/// A federation of one cluster with the sessions of odd ids.
async fn federation(env: &Env, count: u64) -> FederationStatus {
    let listener = env.net.bind("127.0.0.1:0").await.unwrap();
    let addresses = vec![listener.local_address()];
    let identity = SharedIdentity::new(Identity { role: Role::Metaserver, id: 1, cluster: CLUSTER });
    let leader = FakeLeader(Arc::new(Mutex::new((0..count).map(|number| number * 2 + 1).collect())));
    let routes = tonic::service::Routes::new(AdminServer::new(leader));
    let never = Box::pin(std::future::pending());
    tokio::spawn(grpc::serve(listener, routes, identity, Admission::default(), never));
    gather::federation(env, &Metaservers { addresses, origin: "a test".to_owned() }).await
}

#[tokio::test]
async fn sessions_are_gathered_page_by_page_up_to_the_limit() {
    let env = Env::real();
    let federation = federation(&env, 2500).await;
    for (limit, expected) in [(1, 1), (1000, 1000), (2200, 2200), (2500, 2500), (1_000_000, 2500)] {
        let all = sessions::of(&env, &federation, limit).await;
        let [alpha] = all.as_slice() else { panic!("one cluster: {all:?}") };
        assert_eq!((alpha.cluster.as_str(), alpha.total, &alpha.problem), ("alpha", Some(2500), &None));
        let ids: Vec<u64> = alpha.sessions.iter().map(|session| session.id).collect();
        let first: Vec<u64> = (0..expected).map(|number| number * 2 + 1).collect();
        assert_eq!(ids, first, "limit {limit}");
    }
}

#[tokio::test]
async fn a_session_is_found_and_ended_by_its_id_and_no_other_is() {
    let env = Env::real();
    let federation = federation(&env, 3).await;
    let alpha = &federation.clusters[0];
    let found = sessions::find(&env, alpha, 3).await.unwrap().unwrap();
    assert_eq!((found.id, found.locks), (3, 1));
    for unknown in [2, 4, 7] {
        assert_eq!(sessions::find(&env, alpha, unknown).await.unwrap(), None, "{unknown}");
    }
    assert_eq!(sessions::expire(&env, alpha, 3).await.unwrap(), Expired::Now(found));
    assert_eq!(sessions::expire(&env, alpha, 3).await.unwrap(), Expired::Before);
    let left = sessions::of(&env, &federation, 10).await;
    let ids: Vec<u64> = left[0].sessions.iter().map(|session| session.id).collect();
    assert_eq!(ids, [1, 5]);
}
