//! `dfs status`: prints the status of the federation on one page, how healthy it is on one line, and ends with an exit code
//! for scripts.

use std::process::ExitCode;

use dfs_net::env::Env;

use super::{dash, metaservers, number};
use crate::cli::Source;
use crate::print::{self, Table, age, bytes};
use crate::status::judge::Health;
use crate::status::{self, ClusterStatus, LeaderReport, VolumeStatus};

/// The volumes of one cluster whose names are printed, and the sessions whose ids are.
const NAMES_SHOWN_MAX: usize = 8;

pub async fn run(env: &Env, source: &Source, json: bool) -> anyhow::Result<ExitCode> {
    let status = status::of(env, &metaservers(source)?).await;
    if json {
        print::json(&status)?;
    } else {
        for cluster in &status.federation.clusters {
            print!("{}", page(cluster, &status.federation.volumes));
        }
        println!("{}", status.health);
    }
    Ok(exit_code(status.health.health))
}

/// The exit codes that the help of `dfs status` promises.
fn exit_code(health: Health) -> ExitCode {
    ExitCode::from(match health {
        Health::Healthy => 0,
        Health::Degraded => 1,
        Health::Unavailable => 2,
    })
}

/// The page about one cluster.
fn page(status: &ClusterStatus, volumes: &[VolumeStatus]) -> String {
    let mut text = String::new();
    if let Some(cluster) = &status.cluster {
        let led = status.leader.as_ref().map_or_else(
            || "no leader".to_owned(),
            |leader| format!("leader metaserver {}, term {}", leader.member, leader.term),
        );
        let copies = match cluster.copies {
            0 => String::new(),
            1 => ", 1 copy".to_owned(),
            copies => format!(", {copies} copies"),
        };
        text += &format!("cluster {} ({}): {led}{copies}\n\n", cluster.name, cluster.id);
    }
    text += &members(status);
    if let Some(leader) = &status.leader {
        text.push('\n');
        text += &chunkservers(leader);
        let chunks = leader.chunks;
        text += &format!(
            "\nchunks    {} sealed, {} open; {} degraded, {} damaged, {} dead\n",
            chunks.sealed, chunks.open, chunks.degraded, chunks.damaged, chunks.dead
        );
        let own = volumes.iter().filter(|volume| volume.cluster == status.name());
        let names: Vec<&str> = own.map(|volume| volume.name.as_str()).collect();
        text += &format!("volumes   {}\n", some_of(&names));
        text += &format!("inodes    {}\n", leader.inodes);
        text += &sessions(leader);
        text.push('\n');
    } else {
        text.push('\n');
    }
    text
}

/// Who has mounted the cluster, and what they hold.
fn sessions(leader: &LeaderReport) -> String {
    let Some(held) = &leader.held else { return format!("sessions  {}\n", leader.sessions) };
    let ids: Vec<String> = held.waited_for.iter().take(NAMES_SHOWN_MAX).map(u64::to_string).collect();
    let more = if (ids.len() as u64) < held.sessions_waited_for { ", …" } else { "" };
    let waited_for = match held.sessions_waited_for {
        0 => String::new(),
        count => format!("; others wait for {count} ({}{more})", ids.join(", ")),
    };
    format!(
        "sessions  {}, {} attached{waited_for}\nlocks     {} held, {} waited for\nwrites    {} files leased\n",
        leader.sessions, held.sessions_attached, held.locks, held.waits, held.write_leases
    )
}

/// How many names there are, and the first of them.
fn some_of(names: &[&str]) -> String {
    let shown = names.get(..NAMES_SHOWN_MAX).unwrap_or(names);
    let more = if shown.len() < names.len() { ", …" } else { "" };
    match names.len() {
        0 => "0".to_owned(),
        count => format!("{count} ({}{more})", shown.join(", ")),
    }
}

fn members(status: &ClusterStatus) -> String {
    let mut table = Table::new(["metaserver", "address", "state", "log", "lag", ""]);
    for member in &status.members {
        table.row([
            number(member.id),
            member.address.clone(),
            member.state.name().to_owned(),
            number(member.last_log),
            number(member.log_lag),
            member.problem.clone().or_else(|| member.clock_problem()).unwrap_or_default(),
        ]);
    }
    table.render()
}

fn chunkservers(leader: &LeaderReport) -> String {
    let mut table = Table::new([
        "chunkserver",
        "address",
        "zone",
        "state",
        "report",
        "free",
        "of",
        "chunks",
        "cpu",
        "memory free",
        "in flight",
    ]);
    for server in &leader.chunkservers {
        table.row([
            server.id.to_string(),
            server.frames_address.clone(),
            dash(server.zone.as_str()),
            server.state.name().to_owned(),
            age(server.report_age_ms),
            bytes(server.disk_free),
            bytes(server.disk_total),
            server.chunks.to_string(),
            format!("{} %", server.cpu_percent),
            bytes(server.memory_available),
            server.requests_in_flight.to_string(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{ChunkCounts, Held};

    fn said(held: Option<Held>) -> String {
        sessions(&LeaderReport {
            member: 1,
            term: 1,
            last_log: 1,
            last_applied: 1,
            chunkservers: Vec::new(),
            chunks: ChunkCounts::default(),
            inodes: 1,
            sessions: 30,
            held,
        })
    }

    #[test]
    fn those_that_others_wait_for_are_named_as_far_as_they_fit() {
        let held = |count: u64| Held {
            sessions_attached: 29,
            locks: 7,
            waits: 5,
            write_leases: 3,
            sessions_waited_for: count,
            waited_for: (1..=count.min(100)).collect(),
        };
        assert_eq!(
            said(Some(held(0))),
            "sessions  30, 29 attached\nlocks     7 held, 5 waited for\nwrites    3 files leased\n"
        );
        let [first, last] = [1, 8].map(|count| said(Some(held(count))));
        assert!(first.starts_with("sessions  30, 29 attached; others wait for 1 (1)\n"), "{first}");
        assert!(last.contains("others wait for 8 (1, 2, 3, 4, 5, 6, 7, 8)\n"), "{last}");
        assert!(said(Some(held(9))).contains("wait for 9 (1, 2, 3, 4, 5, 6, 7, 8, …)\n"));
        assert_eq!(said(None), "sessions  30\n", "an older leader does not tell");
    }
}
