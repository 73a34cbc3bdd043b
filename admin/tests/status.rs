//! Runs the `dfs` program against federations that are dead, silent, or not configured.

use std::process::{Output, Stdio};
use std::time::Duration;

use dfs_net::env::Env;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

/// The time within which `dfs status` promises to answer when every server is dead.
const PROMISE: Duration = Duration::from_secs(3);

fn dfs(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dfs"));
    command
        .args(arguments)
        .env_remove("DFS_CONFIG")
        .env_remove("DFS_FEDERATION")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn within_promise(mut command: Command) -> Output {
    let began = Instant::now();
    let output = timeout(PROMISE, command.output()).await.expect("an answer within 3 s").expect("dfs runs");
    assert!(began.elapsed() < PROMISE);
    output
}

/// An address where nobody listens.
async fn dead_address() -> String {
    let listener = Env::real().net.bind("127.0.0.1:0").await.expect("a free port");
    listener.local_address()
}

#[tokio::test]
async fn with_every_server_dead_status_says_within_three_seconds_what_is_unreachable() {
    let addresses = [dead_address().await, dead_address().await, dead_address().await];
    let output = within_promise(dfs(&["status", "--federation", &addresses.join(",")])).await;
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stdout).unwrap();
    let verdict = text.lines().last().unwrap_or_default();
    assert!(verdict.starts_with("unavailable: no metaserver answers"), "{text}");
    for address in addresses {
        assert!(verdict.contains(&address), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_does_not_hold_status_up() {
    // Connections wait in the backlog, as they do at a server that SIGSTOP has stopped.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let output = within_promise(dfs(&["--json", "status", "--federation", &address])).await;
    assert_eq!(output.status.code(), Some(2));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["verdict"]["health"], "unavailable");
    assert_eq!(status["clusters"][0]["members"][0]["state"], "unreachable");
    assert_eq!(status["clusters"][0]["members"][0]["address"], address);
}

#[tokio::test]
async fn what_needs_a_leader_fails_with_one_line_that_names_the_unreachable() {
    let address = dead_address().await;
    for verb in ["cluster", "node", "session", "volume"] {
        let output = within_promise(dfs(&[verb, "list", "--federation", &address])).await;
        assert_eq!(output.status.code(), Some(3));
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with("dfs: unavailable") && text.contains(&address), "{text}");
    }
}

#[tokio::test]
async fn what_is_no_session_is_refused_before_anybody_is_asked() {
    for id in ["0", "seven", "-1", "18446744073709551616", ""] {
        let output = within_promise(dfs(&["session", "expire", "--yes", "--", id])).await;
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.starts_with("error: invalid value") && text.contains("<ID>"), "{text}");
    }
}

#[tokio::test]
async fn without_configuration_or_with_a_wrong_key_the_error_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let wrong = home.path().join("wrong.toml");
    std::fs::write(&wrong, "[federation]\nmetaserver = [\"a:1\"]\n").unwrap();
    let path = wrong.to_str().unwrap();
    let cases: [(&[&str], &str); 3] = [
        (&["status"], "start one with `dfs up`"),
        (
            &["status", "--config", path],
            "line 2: unknown key `metaserver`; the nearest known one is `metaservers`",
        ),
        (&["status", "--config", "/nonexistent/dfs.toml"], "read /nonexistent/dfs.toml"),
    ];
    for (arguments, expected) in cases {
        let mut command = dfs(arguments);
        command.env("HOME", home.path());
        let output = within_promise(command).await;
        // A machine may have a federation of its own configured.
        if arguments == ["status"] && std::path::Path::new("/etc/dfs/dfs.toml").exists() {
            continue;
        }
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn up_without_the_daemons_programs_fails_by_name_and_down_without_a_federation_is_content() {
    let temp = tempfile::tempdir().unwrap();
    // A copy in a folder of its own, so that no daemon is found beside it.
    let alone = temp.path().join("dfs");
    std::fs::copy(env!("CARGO_BIN_EXE_dfs"), &alone).unwrap();
    let dir = temp.path().join("federation");
    let run = |verb: &'static str, more: &'static [&'static str]| {
        let mut command = Command::new(&alone);
        command.arg(verb).arg("--dir").arg(&dir).args(more).env("PATH", "/usr/bin:/bin").kill_on_drop(true);
        command
    };
    let output = within_promise(run("down", &[])).await;
    assert!(output.status.success());
    let output = within_promise(run("up", &["--no-mount", "--no-config"])).await;
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("dfs-metaserver is neither beside"), "{text}");
    let output = within_promise(run("down", &["--purge", "--yes"])).await;
    assert!(output.status.success());
    assert!(!dir.exists());
}
