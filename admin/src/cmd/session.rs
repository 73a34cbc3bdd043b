//! `dfs session`: `list` prints who has mounted the federation and what each holds, `expire` ends a session.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use dfs_net::env::Env;
use serde::Serialize;

use super::{EXIT_FAILED, dash, federation_status, is_confirmed};
use crate::cli::Source;
use crate::print::{self, Table, age, harmless};
use crate::sessions::{self, ClusterSessions, Expired, SessionStatus};
use crate::status::{ClusterStatus, FederationStatus};

pub async fn list(env: &Env, source: &Source, limit: u64, json: bool) -> anyhow::Result<ExitCode> {
    let federation = federation_status(env, source).await?;
    let clusters = sessions::of(env, &federation, limit).await;
    if json {
        print::json(&clusters)?;
    } else {
        print!("{}", page(&clusters));
    }
    let mut is_whole = true;
    for ClusterSessions { cluster, problem, .. } in &clusters {
        if let Some(problem) = problem {
            eprintln!("dfs: not all sessions of cluster {cluster} are shown: {problem}");
            is_whole = false;
        }
    }
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

fn page(clusters: &[ClusterSessions]) -> String {
    let mut table = Table::new([
        "session",
        "cluster",
        "client",
        "heard",
        "attached",
        "open files",
        "locks",
        "waits",
        "writes",
        "",
    ]);
    for of in clusters {
        for session in &of.sessions {
            table.row(row(&of.cluster, session));
        }
    }
    let is_empty = clusters.iter().all(|of| of.sessions.is_empty());
    let mut text = if is_empty { String::new() } else { table.render() };
    for ClusterSessions { cluster, total, sessions, problem } in clusters {
        let shown = sessions.len() as u64;
        match total {
            Some(0) if problem.is_none() => text += &format!("cluster {cluster} has no sessions\n"),
            Some(total) if shown < *total && problem.is_none() => {
                text += &format!(
                    "cluster {cluster}: the first {shown} of {total} sessions; --limit {total} shows all\n"
                );
            }
            _ => {}
        }
    }
    text
}

fn row(cluster: &str, session: &SessionStatus) -> [String; 10] {
    let heard = session.heard_ms.map_or_else(|| "not yet".to_owned(), age);
    let note = match (session.ending, session.waited_for) {
        (true, _) => "is being ended",
        (false, true) => "others wait for it",
        (false, false) => "",
    };
    [
        session.id.to_string(),
        cluster.to_owned(),
        dash(harmless(&session.client)),
        heard,
        if session.attached { "yes" } else { "no" }.to_owned(),
        session.open_files.to_string(),
        session.locks.to_string(),
        session.waits.to_string(),
        session.write_leases.to_string(),
        note.to_owned(),
    ]
}

/// What `--json` prints of a session that was ended.
#[derive(Serialize)]
struct Ended {
    cluster: String,
    /// As it was right before its end.
    session: SessionStatus,
}

/// `named`: the cluster, if one was named, and the session.
pub async fn expire(
    env: &Env,
    source: &Source,
    named: (Option<&str>, u64),
    yes: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let (cluster, id) = named;
    let federation = federation_status(env, source).await?;
    let status = choose(&federation, cluster)?;
    let name = status.name();
    let found = sessions::find(env, status, id).await.with_context(|| format!("cluster {name}"))?;
    let Some(found) = found else {
        bail!("cluster {name} has no session {id}: `dfs session list` shows those that it has");
    };
    if !yes && !is_confirmed(&question(name, &found))? {
        bail!("not confirmed: session {id} goes on");
    }
    let expired = sessions::expire(env, status, id).await.with_context(|| {
        format!("end session {id} of cluster {name} (it may end all the same: `dfs session list` shows it)")
    })?;
    let session = match expired {
        Expired::Now(session) => session,
        Expired::Before => found,
    };
    if json {
        print::json(&Ended { cluster: name.to_owned(), session })?;
    } else {
        println!("session {id} of cluster {name} ({}) has ended", client(&session));
        println!("it held: {}", holds(&session));
    }
    Ok(ExitCode::SUCCESS)
}

/// The cluster that is named, or the only one: each has sessions of its own, and their ids are the same numbers.
fn choose<'f>(federation: &'f FederationStatus, named: Option<&str>) -> anyhow::Result<&'f ClusterStatus> {
    let names = || federation.clusters.iter().map(ClusterStatus::name).collect::<Vec<_>>().join(", ");
    match (named, federation.clusters.as_slice()) {
        (Some(named), clusters) => clusters
            .iter()
            .find(|cluster| cluster.name() == named)
            .with_context(|| format!("there is no cluster {named}; there are: {}", names())),
        (None, [only]) => Ok(only),
        (None, _) => bail!("each cluster has sessions of its own: add --cluster, one of: {}", names()),
    }
}

fn client(session: &SessionStatus) -> String {
    dash(harmless(&session.client))
}

fn question(cluster: &str, session: &SessionStatus) -> String {
    let heard = match session.heard_ms {
        Some(ago) => format!("heard {} ago", age(ago)),
        None => "not heard since the leader's election".to_owned(),
    };
    let waited_for = if session.waited_for { "; others wait for it" } else { "" };
    format!(
        "session {} of cluster {cluster}: {}, {heard}{waited_for}\nit holds: {}\nThis ends it: its locks and what it has not \
         written yet are lost, its programs get EIO once, and its client goes on with a new session.",
        session.id,
        client(session),
        holds(session),
    )
}

fn holds(session: &SessionStatus) -> String {
    let count = |number: u64, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    let known = if session.attached { "" } else { ", as far as its leader knows" };
    format!(
        "{}, {}, {}{known}",
        count(session.open_files, "open file"),
        count(session.locks, "lock"),
        count(session.write_leases, "Write lease")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Cluster;

    fn session(id: u64) -> SessionStatus {
        SessionStatus {
            id,
            client: "host:/mnt".to_owned(),
            heard_ms: Some(300),
            attached: true,
            open_files: 2,
            locks: 1,
            waits: 0,
            write_leases: 4,
            waited_for: false,
            ending: false,
        }
    }

    fn of(cluster: &str, total: u64, sessions: Vec<SessionStatus>) -> ClusterSessions {
        ClusterSessions { cluster: cluster.to_owned(), total: Some(total), sessions, problem: None }
    }

    #[test]
    fn a_list_says_who_is_waited_for_and_where_it_is_cut() {
        let waited_for = SessionStatus { waited_for: true, heard_ms: None, ..session(12) };
        let steering = SessionStatus { client: "\u{1b}[2Jx".to_owned(), attached: false, ..session(3) };
        let text = page(&[of("alpha", 2, vec![session(7), waited_for]), of("beta", 9, vec![steering])]);
        let expected = "\
session  cluster  client         heard    attached  open files  locks  waits  writes
      7  alpha    host:/mnt      0.3 s    yes                2      1      0       4
     12  alpha    host:/mnt      not yet  yes                2      1      0       4  others wait for it
      3  beta     \\u{1b}[2Jx     0.3 s    no                 2      1      0       4
cluster beta: the first 1 of 9 sessions; --limit 9 shows all
";
        let squeezed = |text: &str| -> Vec<Vec<String>> {
            text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
        };
        assert_eq!(squeezed(&text), squeezed(expected), "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn a_cluster_that_nobody_has_mounted_is_said_to_have_no_sessions() {
        assert_eq!(page(&[of("alpha", 0, vec![])]), "cluster alpha has no sessions\n");
        let silent = ClusterSessions { problem: Some("no leader".to_owned()), ..ClusterSessions::default() };
        assert_eq!(page(&[silent]), "", "what is not known is not said to be none");
    }

    #[test]
    fn a_session_is_ended_only_in_a_cluster_that_is_certain() {
        let cluster = |name: &str| ClusterStatus {
            cluster: Some(Cluster { name: name.to_owned(), ..Cluster::default() }),
            ..ClusterStatus::default()
        };
        let of = |names: &[&str]| FederationStatus {
            found_by: String::new(),
            map_version: 0,
            clusters: names.iter().map(|name| cluster(name)).collect(),
            volumes: Vec::new(),
        };
        let chosen = |names: &[&str], named: Option<&str>| {
            choose(&of(names), named).map(|found| found.name().to_owned()).map_err(|error| error.to_string())
        };
        assert_eq!(chosen(&["local"], None), Ok("local".to_owned()));
        assert_eq!(chosen(&["alpha", "beta"], Some("beta")), Ok("beta".to_owned()));
        assert!(chosen(&["alpha", "beta"], None).is_err_and(|error| error.contains("alpha, beta")));
        assert!(chosen(&["local"], Some("beta")).is_err_and(|error| error.contains("there are: local")));
    }

    #[test]
    fn the_question_says_what_the_session_holds_and_what_is_lost() {
        let unknown = SessionStatus { attached: false, waited_for: true, heard_ms: None, ..session(7) };
        let text = question("alpha", &unknown);
        for part in [
            "session 7 of cluster alpha: host:/mnt, not heard since",
            "others wait for it",
            "2 open files, 1 lock, 4 Write leases, as far as its leader knows",
            "EIO once",
        ] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }
}
