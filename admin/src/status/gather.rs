//! Asks all known metaservers at once, then those that their answers name, and joins the answers of each cluster into one
//! picture.
//!
//! That takes at most [`ASK_DEADLINE`] twice, also when every server is dead: less than the 3 s that `dfs status` promises.

use std::collections::{BTreeMap, BTreeSet};

use dfs_net::env::Env;
use dfs_net::rpc::{Expected, Identity, Role, grpc};
use dfs_net::services::admin_client::AdminClient;
use dfs_proto::convert::refusal;
use dfs_proto::federation::{ClusterEntry, FederationMap, MapVolume};
use dfs_proto::ids::{ClusterId, VolumeId};
use dfs_proto::wire;
use futures::future::join_all;
use tokio::time::timeout;

use super::find::Metaservers;
use super::picture::{
    ChunkCounts, ChunkserverStatus, Cluster, ClusterStatus, FederationStatus, Held, LeaderReport,
    MemberState, MemberStatus, ServerState, VolumeState, VolumeStatus,
};
use crate::federation::{self, ASK_DEADLINE};

/// What each address answered, or why it did not.
type Answers = BTreeMap<String, Result<wire::StatusReply, String>>;

/// The federation that these metaservers are of: every cluster of its map or, if they know of no map, their own cluster.
pub async fn federation(env: &Env, metaservers: &Metaservers) -> FederationStatus {
    let Metaservers { addresses, origin } = metaservers;
    let first = addresses.iter().cloned().collect();
    let (map, mut answers) = tokio::join!(federation::newest_map(env, addresses), ask_all(env, first));
    let mapped = map.iter().flat_map(|map| &map.clusters).flat_map(|(_, entry)| entry.metaservers.clone());
    let next =
        mapped.chain(member_addresses(&answers)).filter(|address| !answers.contains_key(address)).collect();
    answers.extend(ask_all(env, next).await);
    let (mut clusters, volumes) = match &map {
        Some(map) => {
            let clusters = map.clusters.iter().map(|(id, entry)| cluster_in_map(*id, entry, &answers));
            (clusters.collect(), volumes(map))
        }
        None => {
            let only = join(&answers);
            let volumes = root_volume(&only);
            (vec![only], volumes)
        }
    };
    clusters.sort_by(|a, b| a.name().cmp(b.name()));
    let map_version = map.map_or(0, |map| map.version);
    FederationStatus { found_by: origin.clone(), map_version, clusters, volumes }
}

/// The cluster that these metaservers are of, whether or not it has joined a federation.
pub async fn cluster(env: &Env, addresses: &[String]) -> ClusterStatus {
    let mut answers = ask_all(env, addresses.iter().cloned().collect()).await;
    let next =
        member_addresses(&answers).into_iter().filter(|address| !answers.contains_key(address)).collect();
    answers.extend(ask_all(env, next).await);
    join(&answers)
}

async fn ask_all(env: &Env, addresses: BTreeSet<String>) -> Answers {
    let asked = addresses.into_iter().map(|address| async move {
        let answer = ask(env, &address).await;
        (address, answer)
    });
    join_all(asked).await.into_iter().collect()
}

/// The addresses of the members that the answers name.
fn member_addresses(answers: &Answers) -> Vec<String> {
    let members = answers.values().flatten().flat_map(|reply| &reply.members);
    members.map(|member| member.address.clone()).filter(|address| !address.is_empty()).collect()
}

/// One cluster of the federation's map, joined from those of the answers that are its metaservers'.
fn cluster_in_map(id: ClusterId, entry: &ClusterEntry, answers: &Answers) -> ClusterStatus {
    let is_own = |address: &String, answer: &Result<wire::StatusReply, String>| match answer {
        Ok(reply) => ClusterId::from_wire(&reply.cluster) == Some(id),
        Err(_) => entry.metaservers.contains(address),
    };
    let own = answers.iter().filter(|(address, answer)| is_own(address, answer));
    let mut status = join(&own.map(|(address, answer)| (address.clone(), answer.clone())).collect());
    status.cluster.get_or_insert_with(|| Cluster { id: id.to_string(), name: entry.name.clone(), copies: 0 });
    status
}

fn volumes(map: &FederationMap) -> Vec<VolumeStatus> {
    let volume = |(number, volume): &(VolumeId, MapVolume)| VolumeStatus {
        number: number.0,
        name: match &volume.name {
            Some(name) => format!("/{}", String::from_utf8_lossy(name.as_bytes())),
            None if *number == VolumeId(0) => "/".to_owned(),
            None => String::new(),
        },
        cluster: map.cluster(volume.cluster).map(|entry| entry.name.clone()).unwrap_or_default(),
        state: VolumeState::of(volume.phase),
    };
    map.volumes.iter().map(volume).collect()
}

/// The volumes of a cluster on its own: the root directory is the only one.
fn root_volume(status: &ClusterStatus) -> Vec<VolumeStatus> {
    let cluster = status.cluster.iter().map(|cluster| cluster.name.clone());
    cluster
        .map(|cluster| VolumeStatus { number: 0, name: "/".to_owned(), cluster, state: VolumeState::Active })
        .collect()
}

async fn ask(env: &Env, address: &str) -> Result<wire::StatusReply, String> {
    let own = Identity { role: Role::Admin, id: 0, cluster: ClusterId::UNKNOWN };
    let expected = Expected { role: Role::Metaserver, ..own };
    let asked = async {
        let channel = grpc::connect(env, address, &own, &expected, ASK_DEADLINE).await?;
        let mut admin = AdminClient::new(channel).max_decoding_message_size(grpc::MESSAGE_LEN_MAX);
        let mut reply =
            admin.status(wire::StatusRequest {}).await.map_err(|s| s.message().to_owned())?.into_inner();
        refusal(reply.error.take()).map_err(|error| error.to_string())?;
        Ok(reply)
    };
    timeout(ASK_DEADLINE, asked).await.unwrap_or_else(|_| Err(format!("no answer within {ASK_DEADLINE:?}")))
}

/// The picture that the answers of one cluster's metaservers give together. If several claim to lead, the one with the
/// highest term does.
fn join(answers: &Answers) -> ClusterStatus {
    let replies = || answers.values().flatten();
    let leader = replies().filter(|reply| reply.is_leader).max_by_key(|reply| reply.term);
    let known = leader.or_else(|| replies().max_by_key(|reply| reply.last_applied));
    let Some(known) = known else {
        let members = answers.iter().map(|(address, answer)| member(address, answer, None, None)).collect();
        return ClusterStatus { members, ..ClusterStatus::default() };
    };
    let cluster = Cluster {
        id: ClusterId::from_wire(&known.cluster).unwrap_or_default().to_string(),
        name: known.cluster_name.clone(),
        copies: known.copies,
    };
    ClusterStatus {
        cluster: Some(cluster),
        members: members(answers, known, leader),
        leader: leader.map(leader_report),
    }
}

fn members(
    answers: &Answers,
    known: &wire::StatusReply,
    leader: Option<&wire::StatusReply>,
) -> Vec<MemberStatus> {
    let ids: BTreeMap<&str, u64> = known.members.iter().map(|m| (m.address.as_str(), m.member)).collect();
    let unasked = Err("not asked".to_owned());
    let addresses: BTreeSet<&str> = answers.keys().map(String::as_str).chain(ids.keys().copied()).collect();
    let mut members: Vec<MemberStatus> = addresses
        .into_iter()
        .map(|address| {
            let answer = answers.get(address).unwrap_or(&unasked);
            let foreign = answer.as_ref().is_ok_and(|reply| reply.cluster != known.cluster);
            let stranger = Err(format!("belongs to another cluster than {}", known.cluster_name));
            member(address, if foreign { &stranger } else { answer }, ids.get(address).copied(), leader)
        })
        .collect();
    // A member that is reachable under two addresses is one entry, under the address that the others know.
    let answered: BTreeSet<u64> =
        members.iter().filter(|m| m.problem.is_none()).filter_map(|m| m.id).collect();
    members.retain(|m| m.id.is_none_or(|id| !answered.contains(&id) || m.problem.is_none()));
    members.sort_by_key(|m| (m.id.unwrap_or(u64::MAX), !ids.contains_key(m.address.as_str())));
    members.dedup_by(|a, b| a.id.is_some() && a.id == b.id);
    for member in &mut members {
        let told = known.members.iter().find(|told| Some(told.member) == member.id);
        member.clock_off_ms = told.and_then(|told| told.clock_off_ms);
    }
    members
}

fn member(
    address: &str,
    answer: &Result<wire::StatusReply, String>,
    id: Option<u64>,
    leader: Option<&wire::StatusReply>,
) -> MemberStatus {
    let told_lag = |id: u64| leader?.members.iter().find(|m| m.member == id)?.log_lag;
    match answer {
        Ok(reply) => {
            let leads = leader.is_some_and(|leader| leader.answered_by == reply.answered_by);
            let lag = leader.map(|leader| leader.last_log.saturating_sub(reply.last_log));
            MemberStatus {
                id: Some(reply.answered_by),
                address: address.to_owned(),
                state: if leads { MemberState::Leader } else { MemberState::Follower },
                last_log: Some(reply.last_log),
                log_lag: if leads { Some(0) } else { told_lag(reply.answered_by).or(lag) },
                is_full: reply.is_full,
                clock_off_ms: None,
                problem: None,
            }
        }
        Err(problem) => MemberStatus {
            id,
            address: address.to_owned(),
            state: MemberState::Unreachable,
            last_log: None,
            log_lag: id.and_then(told_lag),
            is_full: false,
            clock_off_ms: None,
            problem: Some(problem.clone()),
        },
    }
}

fn leader_report(reply: &wire::StatusReply) -> LeaderReport {
    let mut chunkservers: Vec<ChunkserverStatus> = reply.chunkservers.iter().map(chunkserver).collect();
    chunkservers.sort_by_key(|server| server.id);
    LeaderReport {
        member: reply.answered_by,
        term: reply.term,
        last_log: reply.last_log,
        last_applied: reply.last_applied,
        chunkservers,
        chunks: ChunkCounts {
            open: reply.chunks_open,
            sealed: reply.chunks_sealed,
            degraded: reply.chunks_degraded,
            damaged: reply.chunks_damaged,
            dead: reply.chunks_dead,
        },
        inodes: reply.inodes,
        sessions: reply.sessions,
        held: reply.held.as_ref().map(held),
    }
}

fn held(held: &wire::HeldStatus) -> Held {
    Held {
        sessions_attached: held.sessions_attached,
        locks: held.locks,
        waits: held.waits,
        write_leases: held.write_leases,
        sessions_waited_for: held.sessions_waited_for,
        waited_for: held.waited_for.clone(),
    }
}

fn chunkserver(server: &wire::ServerStatus) -> ChunkserverStatus {
    ChunkserverStatus {
        id: server.server,
        grpc_address: server.grpc_address.clone(),
        frames_address: server.frames_address.clone(),
        http_address: server.http_address.clone(),
        zone: server.zone.clone(),
        state: if server.heard { ServerState::from_wire(server.state) } else { ServerState::NotHeard },
        report_age_ms: server.report_age_ms,
        cpu_percent: server.cpu_percent,
        memory_total: server.memory_total,
        memory_available: server.memory_available,
        disk_total: server.disk_total,
        disk_free: server.disk_free,
        requests_in_flight: server.requests_in_flight,
        chunks: server.chunks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(member: u64, term: u64, is_leader: bool, last_log: u64) -> wire::StatusReply {
        let members = (1..=3)
            .map(|id| wire::MemberStatus { member: id, address: format!("h:{id}"), ..Default::default() })
            .collect();
        wire::StatusReply {
            cluster: vec![7; 16].into(),
            cluster_name: "local".to_owned(),
            answered_by: member,
            is_leader,
            term,
            last_log,
            members,
            ..Default::default()
        }
    }

    fn answers(list: impl IntoIterator<Item = (u64, Result<wire::StatusReply, String>)>) -> Answers {
        list.into_iter().map(|(id, answer)| (format!("h:{id}"), answer)).collect()
    }

    #[test]
    fn of_two_that_claim_to_lead_the_higher_term_does() {
        let status = join(&answers([(1, Ok(reply(1, 4, true, 90))), (2, Ok(reply(2, 5, true, 100)))]));
        let leader = status.leader.unwrap();
        assert_eq!((leader.member, leader.term), (2, 5));
        let states: Vec<_> = status.members.iter().map(|m| (m.id, m.state, m.log_lag)).collect();
        use MemberState::{Follower, Leader, Unreachable};
        assert_eq!(
            states,
            [(Some(1), Follower, Some(10)), (Some(2), Leader, Some(0)), (Some(3), Unreachable, None)]
        );
    }

    #[test]
    fn each_cluster_of_the_map_is_shown_also_one_that_does_not_answer() {
        let mut other = reply(1, 2, true, 50);
        other.cluster = vec![8; 16].into();
        other.members.clear();
        let mut list = answers([(1, Ok(reply(1, 4, true, 90))), (2, Ok(reply(2, 4, false, 90)))]);
        list.extend([("b:1".to_owned(), Ok(other)), ("c:1".to_owned(), Err("refused".to_owned()))]);
        let entry = |name: &str, address: &str| ClusterEntry {
            name: name.to_owned(),
            metaservers: vec![address.to_owned()],
        };
        let id = |byte: u8| ClusterId::from_wire(&[byte; 16]).unwrap();
        let local = cluster_in_map(id(7), &entry("local", "h:1"), &list);
        assert_eq!((local.name(), local.members.len()), ("local", 3));
        let beta = cluster_in_map(id(8), &entry("beta", "b:1"), &list);
        assert_eq!(beta.leader.as_ref().map(|leader| leader.term), Some(2));
        let gone = cluster_in_map(id(9), &entry("gamma", "c:1"), &list);
        assert_eq!((gone.name(), gone.members[0].problem.as_deref()), ("gamma", Some("refused")));
    }

    #[test]
    fn without_any_answer_every_address_is_listed_with_its_problem() {
        let status = join(&answers([(1, Err("refused".to_owned())), (2, Err("no answer".to_owned()))]));
        assert_eq!((status.cluster, status.leader), (None, None));
        let problems: Vec<_> = status.members.iter().map(|m| m.problem.as_deref()).collect();
        assert_eq!(problems, [Some("refused"), Some("no answer")]);
    }

    #[test]
    fn whose_clock_is_off_by_more_than_a_second_as_the_leader_knows_is_named() {
        let mut led = reply(1, 4, true, 90);
        for (told, off) in led.members.iter_mut().zip([Some(0), Some(-90_000), Some(900)]) {
            told.clock_off_ms = off;
        }
        let mut follower = reply(2, 4, false, 90);
        follower.members[2].clock_off_ms = Some(5000);
        let status = join(&answers([(1, Ok(led)), (2, Ok(follower))]));
        let problems: Vec<_> = status.members.iter().map(MemberStatus::clock_problem).collect();
        assert_eq!(problems, [None, Some("its clock is 90.0 s behind the others".to_owned()), None]);
    }

    #[test]
    fn followers_alone_name_the_cluster_and_nobody_leads() {
        let status = join(&answers([(1, Ok(reply(1, 4, false, 90)))]));
        assert_eq!(status.cluster.map(|c| c.name).as_deref(), Some("local"));
        assert_eq!(status.leader, None);
        assert_eq!(status.members.len(), 3);
    }

    #[test]
    fn a_member_that_moved_is_shown_once_and_a_stranger_is_named() {
        let mut stranger = reply(9, 1, true, 1);
        stranger.cluster = vec![8; 16].into();
        let list = [
            ("h:1", Ok(reply(1, 4, true, 90))),
            ("moved:2", Ok(reply(2, 4, false, 90))),
            ("other:9", Ok(stranger)),
        ];
        let status = join(&list.map(|(a, r)| (a.to_owned(), r)).into_iter().collect());
        let rows: Vec<_> = status.members.iter().map(|m| (m.address.as_str(), m.state)).collect();
        use MemberState::{Follower, Leader, Unreachable};
        assert_eq!(rows[..3], [("h:1", Leader), ("moved:2", Follower), ("h:3", Unreachable)]);
        assert!(status.members[3].problem.as_deref().is_some_and(|p| p.contains("another cluster")));
    }
}
