//! Unary calls through pipes, where time is turned: who is slow, and who is silent.

use tonic::{Request, Response};

use super::*;
use crate::env::{Listener, Net};
use crate::ids::ClusterId;
use crate::rpc::Role;
use crate::rpc::leader::LeaderChannel;
use crate::wire::admin_client::AdminClient;
use crate::wire::admin_server::{Admin, AdminServer};
use crate::wire::{FileShowReply, FileShowRequest, StatusReply, StatusRequest};

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
                    serve_connection(Box::new(far), "pipe".into(), identity, routes, stopped).await;
                    drop(stop);
                });
            }
            Err(_) => {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(far);
                    frames::accept_greeting(&mut reader, &mut writer, &identity).await.expect("a greeting");
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
    assert!(after >= frames::SILENCE_MAX && after < frames::SILENCE_MAX * 11 / 10, "{after:?}");
}
