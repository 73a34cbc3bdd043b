//! Strangers that come in numbers, say nothing, or do not read what they asked for. Over pipes, where time is turned.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

const SMALL: Limits = Limits { connections: 8, strangers: 3, bytes: 1000 };

/// A connection as its server and its peer have it.
struct Connected {
    here: Box<dyn Stream>,
    seat: Arc<Seat>,
    peer: DuplexStream,
}

fn connect(admission: &Admission, from: &str) -> Connected {
    let (near, peer) = tokio::io::duplex(64);
    let (here, seat) = admission.admit(Box::new(near), from);
    Connected { here, seat, peer }
}

async fn is_cut_off(connected: &mut Connected) -> bool {
    let read = timeout(Duration::from_millis(1), connected.here.read_u8()).await;
    matches!(read, Ok(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof)
}

async fn later() {
    sleep(Duration::from_millis(10)).await;
}

#[tokio::test(start_paused = true)]
async fn among_too_many_strangers_the_one_that_was_silent_longest_goes_and_no_friend_does() {
    let admission = Admission::new(SMALL);
    let mut friend = connect(&admission, "friend");
    friend.seat.greeted(false);
    let mut strangers = Vec::new();
    for number in 0..3 {
        later().await;
        strangers.push(connect(&admission, &format!("stranger {number}")));
    }
    later().await;
    strangers[0].peer.write_all(b"x").await.unwrap();
    assert_eq!(strangers[0].here.read_u8().await.unwrap(), b'x');
    let mut last = connect(&admission, "one more");
    assert!(is_cut_off(&mut strangers[1]).await, "it was silent longest");
    for kept in [&mut friend, &mut last] {
        assert!(!is_cut_off(kept).await);
    }
    assert!(!is_cut_off(&mut strangers[0]).await && !is_cut_off(&mut strangers[2]).await);
    assert_eq!(admission.connections(), 4);
    drop(strangers);
    assert_eq!(admission.connections(), 2, "a place is free when its connection has ended");
}

#[tokio::test(start_paused = true)]
async fn connections_of_all_kinds_are_bounded_and_a_new_one_is_always_taken_in() {
    let admission = Admission::new(SMALL);
    let mut all = Vec::new();
    for number in 0..100 {
        later().await;
        all.push(connect(&admission, &format!("friend {number}")));
        all.last().unwrap().seat.greeted(false);
        assert!(admission.connections() <= SMALL.connections);
    }
    assert!(is_cut_off(&mut all[0]).await && !is_cut_off(&mut all[99]).await);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_that_says_nothing_is_cut_off_after_a_minute_and_a_friend_never() {
    let admission = Admission::new(SMALL);
    let (mut stranger, mut friend) = (connect(&admission, "stranger"), connect(&admission, "friend"));
    friend.seat.greeted(false);
    let told = stranger.here.read_u8().await;
    assert_eq!(told.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(timeout(10 * STRANGER_IDLE_MAX, friend.here.read_u8()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_gets_nowhere_ends_its_connection_and_one_that_goes_on_slowly_does_not() {
    let admission = Admission::new(SMALL);
    let Connected { mut here, seat, mut peer } = connect(&admission, "slow");
    seat.greeted(false);
    let reading = tokio::spawn(async move {
        let mut byte = [0];
        for _ in 0..10 {
            sleep(WRITE_STALL_MAX / 2).await;
            peer.read_exact(&mut byte).await.unwrap();
        }
        peer
    });
    assert!(here.write_all(&[0; 74]).await.is_ok(), "it was taken byte by byte");
    let _peer = reading.await.unwrap();
    let begun = Instant::now();
    assert_eq!(here.write_all(&[0; 65]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(begun.elapsed() < WRITE_STALL_MAX * 2);
}

/// 1,024 unread answers of 1 MiB each, on each of many connections.
#[tokio::test(start_paused = true)]
async fn who_holds_memory_and_does_nothing_goes_when_others_need_it() {
    let admission = Admission::new(SMALL);
    let mut lazy = connect(&admission, "lazy");
    let mut busy = connect(&admission, "busy");
    for connected in [&lazy, &busy] {
        connected.seat.greeted(false);
    }
    let held = [lazy.seat.claim(600).await, busy.seat.claim(400).await];
    later().await;
    busy.peer.write_all(b"x").await.unwrap();
    let third = connect(&admission, "third");
    let waiting = tokio::spawn(async move { third.seat.claim(500).await.bytes });
    // It answers its peer all the time, the other one does not.
    for _ in 0..20 {
        sleep(Duration::from_millis(100)).await;
        busy.here.write_all(b"y").await.unwrap();
        busy.peer.read_u8().await.unwrap();
    }
    assert!(is_cut_off(&mut lazy).await && !is_cut_off(&mut busy).await);
    let [lazys, busys] = held;
    drop((lazys, lazy)); // as the tasks of a connection that has ended
    assert_eq!(waiting.await.unwrap(), 500);
    drop(busys);
    assert_eq!(admission.0.bytes.available_permits(), 1000);
}

#[tokio::test(start_paused = true)]
async fn more_than_there_is_at_all_is_claimed_as_all_of_it() {
    let admission = Admission::new(SMALL);
    let connected = connect(&admission, "large");
    let claim = connected.seat.claim(5000).await;
    assert_eq!(admission.0.bytes.available_permits(), 0);
    drop(claim);
    assert_eq!(admission.0.bytes.available_permits(), 1000);
}

#[test]
fn few_descriptors_are_few_connections_and_some_are_always_taken() {
    assert_eq!(Limits::of(100).connections, 25);
    assert!(Limits::of(10).strangers >= 1);
    assert_eq!(Limits::of(1_000_000).connections, 4096);
}

/// What clients hold while a server waits for another one never holds up what that other one asks here.
#[tokio::test(start_paused = true)]
async fn what_servers_ask_of_each_other_does_not_wait_for_clients() {
    let admission = Admission::new(SMALL);
    let (client, server) = (connect(&admission, "client"), connect(&admission, "server"));
    client.seat.greeted(false);
    server.seat.greeted(true);
    let held = client.seat.claim(SMALL.bytes).await;
    let forward = timeout(Duration::from_millis(1), server.seat.claim(SMALL.bytes)).await;
    assert!(forward.is_ok(), "a forward waits for a client");
    drop(held);
}
