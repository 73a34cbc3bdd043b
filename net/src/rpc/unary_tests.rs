//! Unary calls through pipes, where time is turned: who is slow, who is silent, and who does not read.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;
use tonic::{Request, Response};

use super::*;
use crate::env::{Listener, Net};
use crate::rpc::admission::Admission;
use crate::rpc::connection::{UNREAD_LEN_MAX, read_frame};
use crate::rpc::leader::LeaderChannel;
use crate::rpc::{Role, greeting};
use crate::services::admin_client::AdminClient;
use crate::services::admin_server::{Admin, AdminServer};
use crate::services::hello_client::HelloClient;
use crate::services::hello_server::{Hello, HelloServer};
use dfs_proto::ids::ClusterId;
use dfs_proto::wire;
use dfs_proto::wire::{
    ExpireSessionReply, ExpireSessionRequest, FileShowReply, FileShowRequest, ListSessionsReply,
    ListSessionsRequest, StatusReply, StatusRequest,
};

/// Answers after a while.
struct Slow(Duration);

#[tonic::async_trait]
impl Admin for Slow {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        tokio::time::sleep(self.0).await;
        Ok(Response::new(StatusReply::default()))
    }

    async fn file_show(&self, _request: Request<FileShowRequest>) -> Result<Response<FileShowReply>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_sessions(
        &self,
        _request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsReply>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn expire_session(
        &self,
        _request: Request<ExpireSessionRequest>,
    ) -> Result<Response<ExpireSessionReply>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// Members at the other ends of pipes: `silent` says nothing after the handshake, the others answer after so many seconds as
/// their name says.
struct Pipes;

impl Net for Pipes {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (near, far) = tokio::io::duplex(1 << 16);
        let identity = SharedIdentity::new(Identity { role: Role::Metaserver, id: 1, cluster: ClusterId(5) });
        match address.parse() {
            Ok(seconds) => {
                let routes = Routes::new(AdminServer::new(Slow(Duration::from_secs(seconds))));
                let (stop, stopped) = watch::channel(false);
                tokio::spawn(async move {
                    let (stream, seat) = Admission::default().admit(Box::new(far), "pipe");
                    serve_connection((stream, seat), "pipe".into(), identity, routes, stopped).await;
                    drop(stop);
                });
            }
            Err(_) => {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(far);
                    connection::accept_greeting(&mut reader, &mut writer, &identity)
                        .await
                        .expect("a greeting");
                    tokio::io::copy(&mut reader, &mut tokio::io::sink()).await
                });
            }
        }
        Box::pin(async move { Ok(Box::new(near) as Box<dyn Stream>) })
    }

    fn bind(&self, _address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a call at those members was answered, and after how long.
async fn call(members: &[&str]) -> (bool, Duration) {
    let env = Env { net: Arc::new(Pipes), ..Env::real() };
    let members = members.iter().map(|member| (*member).to_owned()).collect();
    let leader = LeaderChannel::anonymous(env, Role::Client, members, Duration::from_secs(1));
    let started = Instant::now();
    let answer = leader.call(PATIENCE, |channel| async move {
        Ok(Ok(AdminClient::new(channel).status(StatusRequest {}).await?.into_inner()))
    });
    (answer.await.is_ok(), started.elapsed())
}

/// Slow for more than a second and a half was silent: the call was given up and sent again, for ever.
#[tokio::test(start_paused = true)]
async fn a_leader_that_works_on_a_call_for_most_of_its_deadline_answers_it() {
    let (is_answered, after) = call(&["50"]).await;
    assert!(is_answered && after.as_secs() == 50, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_silent_is_passed_over_after_a_second_and_a_half() {
    let (is_answered, after) = call(&["silent", "0"]).await;
    assert!(is_answered, "by the other");
    assert!(after >= connection::SILENCE_MAX && after < connection::SILENCE_MAX * 11 / 10, "{after:?}");
}

const ANSWER_LEN: usize = 1 << 20;

/// Answers a megabyte, at once or a little later, and counts.
struct Talkative {
    is_slow: bool,
    answered: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Hello for Talkative {
    async fn greet(
        &self,
        _request: Request<wire::Greeting>,
    ) -> Result<Response<wire::GreetingReply>, Status> {
        if self.is_slow {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.answered.fetch_add(1, Ordering::Relaxed);
        let refusal = "x".repeat(ANSWER_LEN);
        Ok(Response::new(wire::GreetingReply { refusal, ..Default::default() }))
    }
}

/// 1,024 answers of 1 MiB each could wait for a peer that did not read, for as long as TCP has patience: 1 GiB for one
/// connection.
#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_and_does_not_read_is_cut_off_before_it_holds_much() {
    for is_slow in [false, true] {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let (admission, answered) = (Admission::default(), Arc::new(AtomicUsize::new(0)));
        let (stream, seat) = admission.admit(Box::new(far), "pipe");
        let identity = Identity { role: Role::Metaserver, id: 1, cluster: ClusterId(5) };
        let routes = Routes::new(HelloServer::new(Talkative { is_slow, answered: answered.clone() }));
        let (_stop, stopped) = watch::channel(false);
        let shared = SharedIdentity::new(identity);
        let serving = tokio::spawn(serve_connection((stream, seat), "pipe".into(), shared, routes, stopped));
        let own = Identity { role: Role::Client, id: 0, cluster: ClusterId(5) };
        connection::send_message(&mut near, FrameKind::Greeting, &greeting(&own, &identity)).await.unwrap();
        assert_eq!(read_frame(&mut near).await.unwrap().header.kind, FrameKind::GreetingReply);
        let call = UnaryCall { path: "/dfs.v1.Hello/Greet".to_owned(), message: Bytes::from_static(&[0; 5]) };
        let (began, mut asked) = (Instant::now(), 0);
        while asked < 3000 && near.write_all(&frame::encode(FrameKind::Call, asked, &call, 0)).await.is_ok() {
            asked += 1;
        }
        assert!(asked < 3000, "{asked} calls were taken");
        timeout(Duration::from_secs(30), serving).await.expect("its connection ends").unwrap();
        let after = began.elapsed();
        assert!(
            after < Duration::from_secs(10),
            "{after:?}: not for its unread answers, but for a write that stalls"
        );
        // Of those that are answered at once, as many as may wait; of slow ones, all that a connection may have in flight.
        let most = if is_slow { CALLS_MAX } else { UNREAD_LEN_MAX / ANSWER_LEN + 2 };
        let answered = answered.load(Ordering::Relaxed);
        assert!(answered <= most, "{answered} answers were made");
        assert_eq!(admission.connections(), 0);
    }
}

/// The same answers, read: nothing is cut off.
#[tokio::test]
async fn a_peer_that_reads_gets_every_answer() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let admission = Admission::default();
    let (stream, seat) = admission.admit(Box::new(far), "pipe");
    let identity = Identity { role: Role::Metaserver, id: 1, cluster: ClusterId(5) };
    let routes = Routes::new(HelloServer::new(Talkative { is_slow: true, answered: Arc::default() }));
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(serve_connection(
        (stream, seat),
        "pipe".into(),
        SharedIdentity::new(identity),
        routes,
        stopped,
    ));
    let (mut reader, mut writer) = tokio::io::split(Box::new(near) as Box<dyn Stream>);
    let own = Identity { role: Role::Client, id: 0, cluster: ClusterId(5) };
    connection::send_message(&mut writer, FrameKind::Greeting, &greeting(&own, &identity)).await.unwrap();
    read_frame(&mut reader).await.unwrap();
    let channel = UnaryChannel::over(reader, writer, None);
    let calls = (0..40).map(|_| {
        let mut hello = HelloClient::new(channel.clone());
        async move { hello.greet(wire::Greeting::default()).await.unwrap().into_inner().refusal.len() }
    });
    let lens = futures::future::join_all(calls).await;
    assert!(lens.iter().all(|len| *len == ANSWER_LEN));
}
