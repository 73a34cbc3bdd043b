//! Pushes through pipes, and who does not read, handle or understand them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::*;
use crate::env::Stream;
use crate::rpc::SharedIdentity;
use crate::rpc::admission::Admission;
use crate::rpc::connection::{lock, read_frame, send_message};
use crate::rpc::unary::{UnaryChannel, serve_connection};
use crate::rpc::{Identity, Role, VERSION_PUSH, greeting};
use crate::services::hello_client::HelloClient;
use crate::services::hello_server::{Hello, HelloServer};
use dfs_proto::ids::ClusterId;
use dfs_proto::wire::{Greeting, GreetingReply, UnaryCall};

const SERVER: Identity = Identity { role: Role::Metaserver, id: 1, cluster: ClusterId(5) };
const CLIENT: Identity = Identity { role: Role::Client, id: 0, cluster: ClusterId(5) };

/// Keeps the sender of the connection over which it was called last, and sends `pushes` on it before it answers.
#[derive(Default)]
struct Pushing {
    pushes: u64,
    sent: AtomicUsize,
    sender: Mutex<Option<PushSender>>,
}

#[tonic::async_trait]
impl Hello for Arc<Pushing> {
    async fn greet(&self, request: Request<Greeting>) -> Result<Response<GreetingReply>, Status> {
        let sender = PushSender::of(&request);
        *lock(&self.sender) = sender.clone();
        for _ in 0..self.pushes {
            if let Some(sender) = &sender {
                let number = self.sent.fetch_add(1, Ordering::Relaxed);
                sender.send(&numbered(number)).map_err(|error| Status::aborted(error.to_string()))?;
            }
        }
        Ok(Response::new(GreetingReply::default()))
    }
}

fn numbered(number: usize) -> Push {
    Push { path: "/dfs.v1.Test/Number".to_owned(), message: (number as u64).to_le_bytes().to_vec().into() }
}

fn number_of(push: &Push) -> usize {
    u64::from_le_bytes(push.message[..].try_into().unwrap()) as usize
}

/// Serves the far end of a pipe; the near end has not shaken hands yet.
fn served(service: Arc<Pushing>) -> (Box<dyn Stream>, JoinHandle<()>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let admission = Admission::default();
    let (stream, seat) = admission.admit(Box::new(far), "pipe");
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(async move {
        let routes = Routes::new(HelloServer::new(service));
        serve_connection((stream, seat), "pipe".into(), SharedIdentity::new(SERVER), routes, stopped).await;
        drop((stop, admission));
    });
    (Box::new(near), serving)
}

async fn shake_hands(stream: &mut Box<dyn Stream>, version: u32) {
    let greeting = Greeting { version_max: version, ..greeting(&CLIENT, &SERVER) };
    send_message(stream, FrameKind::Greeting, &greeting).await.unwrap();
    assert_eq!(read_frame(stream).await.unwrap().header.kind, FrameKind::GreetingReply);
}

async fn connected(
    service: Arc<Pushing>,
    handler: Option<Arc<dyn PushHandler>>,
) -> (HelloClient<UnaryChannel>, UnaryChannel) {
    let (mut near, _) = served(service);
    shake_hands(&mut near, VERSION_PUSH).await;
    let (reader, writer) = tokio::io::split(near);
    let channel = UnaryChannel::over(reader, writer, handler);
    (HelloClient::new(channel.clone()), channel)
}

/// Records the numbers of pushes. While it is closed it handles none.
struct Recorder {
    numbers: Mutex<Vec<usize>>,
    handled: Notify,
    open: watch::Sender<bool>,
}

impl Recorder {
    fn new(is_open: bool) -> Arc<Recorder> {
        let (numbers, handled) = (Mutex::default(), Notify::new());
        Arc::new(Recorder { numbers, handled, open: watch::Sender::new(is_open) })
    }

    /// The numbers in the order in which they were handled, as soon as there are so many.
    async fn wait_for(&self, count: usize) -> Vec<usize> {
        let waiting = async {
            while lock(&self.numbers).len() < count {
                self.handled.notified().await;
            }
        };
        timeout(Duration::from_secs(20), waiting).await.expect("all pushes are handled");
        lock(&self.numbers).clone()
    }
}

impl PushHandler for Recorder {
    fn handle(&self, push: Push) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut open = self.open.subscribe();
            open.wait_for(|is_open| *is_open).await.expect("this recorder is here");
            lock(&self.numbers).push(number_of(&push));
            self.handled.notify_one();
        })
    }
}

#[tokio::test]
async fn pushes_sent_while_calls_are_under_way_and_between_calls_arrive_in_order() {
    let service = Arc::new(Pushing { pushes: 3, ..Default::default() });
    let recorder = Recorder::new(true);
    let (hello, _channel) = connected(service.clone(), Some(recorder.clone())).await;
    let calls = (0..50).map(|_| {
        let mut hello = hello.clone();
        async move { hello.greet(Greeting::default()).await.expect("an answer") }
    });
    futures::future::join_all(calls).await;
    let sender = lock(&service.sender).clone().expect("this client understands pushes");
    for number in 150..160 {
        sender.send(&numbered(number)).unwrap();
    }
    assert_eq!(recorder.wait_for(160).await, (0..160).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_slow_handler_holds_no_answer_back_and_gets_every_push_in_the_end() {
    let service = Arc::new(Pushing { pushes: 10, ..Default::default() });
    let recorder = Recorder::new(false);
    let (mut hello, _channel) = connected(service, Some(recorder.clone())).await;
    for _ in 0..100 {
        hello.greet(Greeting::default()).await.expect("an answer, although no push is handled");
    }
    assert!(lock(&recorder.numbers).is_empty());
    recorder.open.send_replace(true);
    assert_eq!(recorder.wait_for(1000).await.len(), 1000);
}

#[tokio::test]
async fn a_handler_that_falls_too_far_behind_loses_its_connection_and_no_push_before_that() {
    let service = Arc::new(Pushing { pushes: 1000, ..Default::default() });
    let recorder = Recorder::new(false);
    let (mut hello, channel) = connected(service, Some(recorder.clone())).await;
    while hello.greet(Greeting::default()).await.is_ok() {}
    assert!(!channel.is_alive());
    recorder.open.send_replace(true);
    let numbers = recorder.wait_for(PUSHES_WAITING_MAX).await;
    assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>());
    assert!(numbers.len() <= PUSHES_WAITING_MAX + 1, "{} pushes were kept", numbers.len());
}

#[tokio::test]
async fn a_client_without_a_handler_stays_connected() {
    let service = Arc::new(Pushing { pushes: 1000, ..Default::default() });
    let (mut hello, channel) = connected(service.clone(), None).await;
    for _ in 0..10 {
        hello.greet(Greeting::default()).await.expect("an answer");
    }
    assert_eq!(service.sent.load(Ordering::Relaxed), 10_000);
    assert!(channel.is_alive());
}

async fn call_raw(stream: &mut Box<dyn Stream>) -> FrameKind {
    let call = UnaryCall { path: "/dfs.v1.Hello/Greet".to_owned(), message: Bytes::from_static(&[0; 5]) };
    stream.write_all(&frame::encode(FrameKind::Call, 1, &call, 0)).await.unwrap();
    read_frame(stream).await.unwrap().header.kind
}

#[tokio::test]
async fn a_peer_of_an_older_version_is_sent_no_push() {
    let service = Arc::new(Pushing { pushes: 1, ..Default::default() });
    for (version, first) in [(VERSION_PUSH - 1, FrameKind::Answer), (VERSION_PUSH, FrameKind::Push)] {
        let (mut peer, _) = served(service.clone());
        shake_hands(&mut peer, version).await;
        assert_eq!(call_raw(&mut peer).await, first);
        assert_eq!(lock(&service.sender).is_some(), version >= VERSION_PUSH);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_pushes_is_cut_off_before_they_take_much() {
    let service = Arc::new(Pushing::default());
    let (mut peer, serving) = served(service.clone());
    shake_hands(&mut peer, VERSION_PUSH).await;
    assert_eq!(call_raw(&mut peer).await, FrameKind::Answer);
    let sender = lock(&service.sender).clone().unwrap();
    let push = Push { path: String::new(), message: vec![0; 1000].into() };
    let sent = (0..10_000).take_while(|_| sender.send(&push) == Ok(())).count();
    assert!(sent < (UNWRITTEN_LEN_MAX + (1 << 17)) / 1000, "{sent} pushes were queued");
    assert_eq!(sender.send(&push), Err(PushError::Ended));
    assert!(sender.is_ended());
    timeout(Duration::from_secs(10), serving).await.expect("its connection ends").unwrap();
}

#[tokio::test]
async fn a_push_that_is_too_long_or_comes_too_late_is_refused() {
    let service = Arc::new(Pushing::default());
    let (mut hello, channel) = connected(service.clone(), None).await;
    hello.greet(Greeting::default()).await.unwrap();
    let sender = lock(&service.sender).clone().unwrap();
    let long = Push { path: String::new(), message: vec![0; PUSH_LEN_MAX].into() };
    assert_eq!(sender.send(&long), Err(PushError::TooLong { len: long.encoded_len() }));
    drop((hello, channel));
    let ending = async {
        while sender.send(&numbered(0)).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), ending).await.expect("the sender notices the end");
    assert_eq!(sender.send(&numbered(0)), Err(PushError::Ended));
}

#[tokio::test]
async fn a_sender_knows_its_connection_and_when_it_has_ended() {
    let service = Arc::new(Pushing::default());
    let (mut hello, channel) = connected(service.clone(), None).await;
    let mut sender_of_a_call = async || {
        hello.greet(Greeting::default()).await.unwrap();
        lock(&service.sender).clone().unwrap()
    };
    let (first, again) = (sender_of_a_call().await, sender_of_a_call().await);
    assert!(first.is_same(&again) && !first.is_ended());
    let (mut other, _channel) = connected(service.clone(), None).await;
    other.greet(Greeting::default()).await.unwrap();
    let of_other = lock(&service.sender).clone().unwrap();
    assert!(!first.is_same(&of_other));
    drop((hello, channel));
    let ending = async {
        while !first.is_ended() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), ending).await.expect("the sender notices the end");
    assert!(!of_other.is_ended());
}
