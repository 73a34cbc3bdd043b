//! Calls between processes: the handshake, gRPC, frames for the bytes of chunks and for frequent unary calls, messages that a
//! server sends unasked, and the channel that follows a cluster's leader. Every call has a deadline.

pub mod admission;
mod connection;
pub mod frames;
pub mod grpc;
pub mod leader;
pub mod push;
pub mod unary;

use std::sync::{Arc, Mutex};

use dfs_proto::ids::ClusterId;
use dfs_proto::wire;

/// Protocol versions that this build speaks. Two peers speak the highest one that both know.
///
/// * 1: everything but what follows.
/// * 2: the side that connects understands [`push`]es.
pub const VERSION_MIN: u32 = 1;
pub const VERSION_MAX: u32 = 2;
/// The first version whose clients understand a push.
pub const VERSION_PUSH: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Metaserver,
    Chunkserver,
    Admin,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Metaserver => "metaserver",
            Role::Chunkserver => "chunkserver",
            Role::Admin => "admin",
        }
    }
}

/// Who one side of a connection is: role, id within the role (0: none yet), cluster (unknown: none yet).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub role: Role,
    pub id: u64,
    pub cluster: ClusterId,
}

/// A daemon's identity, filled in as it becomes known (a fresh chunkserver has no id before it registered).
#[derive(Clone)]
pub struct SharedIdentity(Arc<Mutex<Identity>>);

impl SharedIdentity {
    pub fn new(identity: Identity) -> SharedIdentity {
        SharedIdentity(Arc::new(Mutex::new(identity)))
    }

    pub fn get(&self) -> Identity {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn set(&self, identity: Identity) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = identity;
    }
}

/// Whom one side expects at the other end. Id 0 and an unknown cluster accept any.
pub type Expected = Identity;

/// Payload that may be in flight to one side of a frame connection.
pub const CREDIT_BYTES: u64 = 32 << 20;

/// What the side that connects says first.
pub fn greeting(own: &Identity, expected: &Expected) -> wire::Greeting {
    wire::Greeting {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        cluster: own.cluster.to_wire().into(),
        role: own.role.name().to_owned(),
        own_id: own.id,
        expected_role: expected.role.name().to_owned(),
        expected_id: expected.id,
        credit_bytes: CREDIT_BYTES,
    }
}

/// The answer of the side that was connected to; a non-empty `refusal` says what does not fit.
pub fn answer_greeting(own: &Identity, theirs: &wire::Greeting) -> wire::GreetingReply {
    wire::GreetingReply {
        greeting: Some(wire::Greeting {
            expected_role: theirs.role.clone(),
            expected_id: theirs.own_id,
            ..greeting(own, own)
        }),
        refusal: mismatch(own, theirs).unwrap_or_default(),
    }
}

/// The side that connected reads the answer: a refusal of either side is an error.
pub fn check_answer(expected: &Expected, reply: &wire::GreetingReply) -> Result<(), String> {
    if !reply.refusal.is_empty() {
        return Err(reply.refusal.clone());
    }
    let theirs = reply.greeting.as_ref().ok_or("the handshake's answer is empty")?;
    if theirs.version_min > VERSION_MAX || theirs.version_max < VERSION_MIN {
        return Err(versions(theirs));
    }
    if theirs.role != expected.role.name() {
        return Err(format!("expected a {} there, found a {}", expected.role.name(), theirs.role));
    }
    if expected.id != 0 && theirs.own_id != 0 && expected.id != theirs.own_id {
        return Err(format!(
            "expected {} {} there, found {}",
            expected.role.name(),
            expected.id,
            theirs.own_id
        ));
    }
    cluster_mismatch(expected.cluster, &theirs.cluster).map_or(Ok(()), Err)
}

fn mismatch(own: &Identity, theirs: &wire::Greeting) -> Option<String> {
    if theirs.version_min > VERSION_MAX || theirs.version_max < VERSION_MIN {
        return Some(versions(theirs));
    }
    if !theirs.expected_role.is_empty() && theirs.expected_role != own.role.name() {
        return Some(format!("this is a {}, not a {}", own.role.name(), theirs.expected_role));
    }
    if theirs.expected_id != 0 && own.id != 0 && theirs.expected_id != own.id {
        return Some(format!("this is {} {}, not {}", own.role.name(), own.id, theirs.expected_id));
    }
    cluster_mismatch(own.cluster, &theirs.cluster)
}

fn versions(theirs: &wire::Greeting) -> String {
    format!(
        "protocol versions {}..{} there, {VERSION_MIN}..{VERSION_MAX} here: update the older side",
        theirs.version_min, theirs.version_max
    )
}

fn cluster_mismatch(own: ClusterId, theirs: &[u8]) -> Option<String> {
    let theirs = ClusterId::from_wire(theirs)?;
    (own.is_known() && theirs.is_known() && own != theirs)
        .then(|| format!("cluster {own} here, cluster {theirs} there"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(role: Role, id: u64, cluster: u128) -> Identity {
        Identity { role, id, cluster: ClusterId(cluster) }
    }

    #[test]
    fn a_handshake_with_the_wrong_role_id_or_cluster_is_refused_by_the_side_that_listens() {
        let own = identity(Role::Chunkserver, 3, 77);
        let client = identity(Role::Client, 0, 77);
        let refusal =
            |expected: Identity, from: Identity| answer_greeting(&own, &greeting(&from, &expected)).refusal;
        assert_eq!(refusal(identity(Role::Chunkserver, 3, 77), client), "");
        assert!(refusal(identity(Role::Chunkserver, 4, 77), client).contains("not 4"));
        assert!(refusal(identity(Role::Metaserver, 3, 77), client).contains("not a metaserver"));
        assert!(refusal(own, identity(Role::Client, 0, 78)).contains("cluster"));
    }

    #[test]
    fn the_side_that_connects_refuses_a_stranger_that_accepts_everything() {
        let expected = identity(Role::Chunkserver, 3, 77);
        let stranger = identity(Role::Chunkserver, 5, 77);
        let reply =
            wire::GreetingReply { greeting: Some(greeting(&stranger, &stranger)), refusal: String::new() };
        assert!(check_answer(&expected, &reply).is_err_and(|e| e.contains("found 5")));
    }
}
