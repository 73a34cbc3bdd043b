//! Judges from what was gathered how healthy a cluster or a federation is. Pure.

use std::fmt;

use serde::Serialize;

use super::picture::{ClusterStatus, FederationStatus, MemberState, ServerState};

/// A follower that is this many entries behind is catching up and does not keep up: under full load followers are a few
/// batches (hundreds of entries) behind.
const LOG_LAG_MAX: u64 = 5_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Healthy,
    /// Something is missing, or will soon be a problem, or not every cluster of a federation is available.
    Degraded,
    /// No metaserver leads, or no chunkserver answers.
    Unavailable,
}

/// How healthy a cluster or a federation is, and why. As text it is one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthReport {
    pub health: Health,
    /// What is wrong or, if nothing is, what was looked at.
    #[serde(rename = "because")]
    pub reasons: Vec<String>,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::Unavailable => "unavailable",
        })
    }
}

impl fmt::Display for HealthReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.health, self.reasons.join("; "))
    }
}

/// The health of all clusters together: the federation is unavailable when every cluster is.
pub fn federation(federation: &FederationStatus) -> HealthReport {
    let each: Vec<_> = federation.clusters.iter().map(|status| (status.name(), cluster(status))).collect();
    match each.as_slice() {
        [] => HealthReport {
            health: Health::Unavailable,
            reasons: vec!["the federation has no cluster yet".to_owned()],
        },
        [(_, only)] => only.clone(),
        several => join(several),
    }
}

fn join(clusters: &[(&str, HealthReport)]) -> HealthReport {
    let all = |wanted: Health| clusters.iter().all(|(_, report)| report.health == wanted);
    let health = match (all(Health::Healthy), all(Health::Unavailable)) {
        (true, _) => Health::Healthy,
        (_, true) => Health::Unavailable,
        (false, false) => Health::Degraded,
    };
    let unhealthy = clusters.iter().filter(|(_, report)| report.health != Health::Healthy);
    let mut reasons: Vec<String> =
        unhealthy.map(|(name, report)| format!("cluster {name} is {report}")).collect();
    if reasons.is_empty() {
        let each = clusters.iter().map(|(name, report)| format!("{name}: {}", report.reasons.join("; ")));
        reasons = each.collect();
    }
    HealthReport { health, reasons }
}

/// The health of one cluster.
pub fn cluster(status: &ClusterStatus) -> HealthReport {
    let unreachable: Vec<String> = status
        .members
        .iter()
        .filter_map(|m| Some(format!("metaserver {} unreachable ({})", m.address, m.problem.as_deref()?)))
        .collect();
    let unavailable = |first: String| {
        let reasons = std::iter::once(first).chain(unreachable.clone()).collect();
        HealthReport { health: Health::Unavailable, reasons }
    };
    if status.members.iter().all(|member| member.state == MemberState::Unreachable) {
        return unavailable("no metaserver answers".to_owned());
    }
    let Some(leader) = &status.leader else {
        return unavailable("no metaserver leads".to_owned());
    };
    let servers = &leader.chunkservers;
    let here = servers.iter().filter(|server| server.state.is_reachable()).count();
    if here == 0 {
        return unavailable(match servers.len() {
            0 => "no chunkserver has registered".to_owned(),
            all => format!("none of {} answers", count(all as u64, "chunkserver")),
        });
    }
    let mut problems = unreachable;
    problems.extend(server_problems(status));
    if !problems.is_empty() {
        return HealthReport { health: Health::Degraded, reasons: problems };
    }
    let all =
        [count(status.members.len() as u64, "metaserver"), count(here as u64, "chunkserver")].join(", ");
    HealthReport { health: Health::Healthy, reasons: vec![format!("{all}, every chunk has its copies")] }
}

fn server_problems(status: &ClusterStatus) -> Vec<String> {
    let mut problems = Vec::new();
    let behind = status.members.iter().filter(|m| m.state == MemberState::Follower);
    for member in behind.filter(|m| m.log_lag.is_some_and(|lag| lag > LOG_LAG_MAX)) {
        let lag = member.log_lag.unwrap_or_default();
        problems.push(format!("metaserver {} is {lag} entries behind", member.address));
    }
    for member in status.members.iter().filter(|m| m.is_full) {
        problems.push(format!("the disk of metaserver {} is full", member.address));
    }
    for (member, problem) in status.members.iter().filter_map(|m| Some((m, m.clock_problem()?))) {
        problems.push(format!("metaserver {}: {problem}", member.address));
    }
    let Some(leader) = &status.leader else { return problems };
    for server in &leader.chunkservers {
        match server.state {
            ServerState::Alive => {}
            ServerState::Full => problems.push(format!("chunkserver {} is full", server.id)),
            ServerState::Away | ServerState::NotHeard => {
                problems.push(format!("chunkserver {} is {}", server.id, server.state.name()));
            }
        }
    }
    let here = leader.chunkservers.iter().filter(|server| server.state.is_reachable()).count() as u32;
    if let Some(cluster) = status.cluster.as_ref().filter(|cluster| here < cluster.copies) {
        problems.push(format!(
            "{} copies wanted, {} there",
            cluster.copies,
            count(here.into(), "chunkserver")
        ));
    }
    for (number, what) in
        [(leader.chunks.degraded, "degraded chunk"), (leader.chunks.damaged, "damaged chunk")]
    {
        if number > 0 {
            problems.push(count(number, what));
        }
    }
    problems
}

/// Formats a number of things as `1 chunk` or `2 chunks`.
fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{ChunkCounts, ChunkserverStatus, Cluster, LeaderReport, MemberStatus};

    fn server(id: u64, state: ServerState) -> ChunkserverStatus {
        ChunkserverStatus {
            id,
            grpc_address: String::new(),
            frames_address: String::new(),
            http_address: String::new(),
            zone: String::new(),
            state,
            report_age_ms: 0,
            cpu_percent: 0,
            memory_total: 0,
            memory_available: 0,
            disk_total: 0,
            disk_free: 0,
            requests_in_flight: 0,
            chunks: 0,
        }
    }

    fn member(id: u64, state: MemberState) -> MemberStatus {
        let problem = (state == MemberState::Unreachable).then(|| "refused".to_owned());
        let address = format!("h:{id}");
        MemberStatus {
            id: Some(id),
            address,
            state,
            last_log: None,
            log_lag: Some(0),
            is_full: false,
            clock_off_ms: Some(3),
            problem,
        }
    }

    fn healthy() -> ClusterStatus {
        ClusterStatus {
            cluster: Some(Cluster { id: "1".into(), name: "local".into(), copies: 2 }),
            members: vec![
                member(1, MemberState::Leader),
                member(2, MemberState::Follower),
                member(3, MemberState::Follower),
            ],
            leader: Some(LeaderReport {
                member: 1,
                term: 1,
                last_log: 1,
                last_applied: 1,
                chunkservers: [1, 2, 3].map(|id| server(id, ServerState::Alive)).into(),
                chunks: ChunkCounts { dead: 4, ..ChunkCounts::default() },
                inodes: 1,
                sessions: 0,
                held: None,
            }),
        }
    }

    fn judged(change: impl FnOnce(&mut ClusterStatus)) -> (Health, String) {
        let mut status = healthy();
        change(&mut status);
        let report = cluster(&status);
        (report.health, report.to_string())
    }

    #[test]
    fn all_there_is_healthy_and_dead_chunks_are_no_problem() {
        let (health, line) = judged(|_| {});
        assert_eq!(
            (health, line.as_str()),
            (Health::Healthy, "healthy: 3 metaservers, 3 chunkservers, every chunk has its copies")
        );
    }

    #[test]
    fn whatever_is_missing_is_named_and_degrades() {
        let leader = |change: fn(&mut LeaderReport)| judged(|o| change(o.leader.as_mut().unwrap()));
        let cases = [
            (judged(|o| o.members[2] = member(3, MemberState::Unreachable)), "h:3 unreachable (refused)"),
            (judged(|o| o.members[1].log_lag = Some(LOG_LAG_MAX + 1)), "h:2 is 5001 entries behind"),
            (judged(|o| o.members[1].is_full = true), "the disk of metaserver h:2 is full"),
            (
                judged(|o| o.members[1].clock_off_ms = Some(90_040)),
                "metaserver h:2: its clock is 90.0 s ahead of the others",
            ),
            (leader(|l| l.chunkservers[0].state = ServerState::Away), "chunkserver 1 is away"),
            (leader(|l| l.chunkservers[0].state = ServerState::Full), "chunkserver 1 is full"),
            (leader(|l| l.chunkservers.truncate(1)), "2 copies wanted, 1 chunkserver there"),
            (leader(|l| l.chunks.degraded = 1), "1 degraded chunk"),
            (leader(|l| l.chunks.damaged = 2), "2 damaged chunks"),
        ];
        for ((health, line), expected) in cases {
            assert_eq!(health, Health::Degraded, "{line}");
            assert!(line.contains(expected), "{line}");
        }
    }

    #[test]
    fn without_leader_members_or_chunkservers_it_is_unavailable() {
        let nobody = |o: &mut ClusterStatus| {
            *o = ClusterStatus {
                members: vec![member(1, MemberState::Unreachable)],
                ..ClusterStatus::default()
            };
        };
        let cases = [
            (judged(nobody), "no metaserver answers; metaserver h:1 unreachable"),
            (judged(|o| o.leader = None), "no metaserver leads"),
            (judged(|o| o.leader.as_mut().unwrap().chunkservers.clear()), "no chunkserver has registered"),
            (
                judged(|o| {
                    let servers = &mut o.leader.as_mut().unwrap().chunkservers;
                    servers.iter_mut().for_each(|s| s.state = ServerState::Away);
                }),
                "none of 3 chunkservers answers",
            ),
        ];
        for ((health, line), expected) in cases {
            assert_eq!(health, Health::Unavailable, "{line}");
            assert!(line.contains(expected), "{line}");
        }
    }

    #[test]
    fn of_several_clusters_each_that_is_not_healthy_is_named() {
        let report = |health, reason: &str| HealthReport { health, reasons: vec![reason.to_owned()] };
        let (well, ill) =
            (report(Health::Healthy, "fine"), report(Health::Unavailable, "no metaserver answers"));
        let both = join(&[("alpha", well.clone()), ("beta", ill.clone())]);
        assert_eq!(both.to_string(), "degraded: cluster beta is unavailable: no metaserver answers");
        assert_eq!(join(&[("alpha", ill.clone()), ("beta", ill)]).health, Health::Unavailable);
        assert_eq!(
            join(&[("alpha", well.clone()), ("beta", well)]).to_string(),
            "healthy: alpha: fine; beta: fine"
        );
    }
}
