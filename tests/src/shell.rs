//! Commands with a deadline, and what they said.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// More than any command of a test takes on a busy machine; less than a hung one may cost.
const DEADLINE: Duration = Duration::from_secs(150);

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub ok: bool,
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            ok: output.status.success(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a bash script in `dir` (`set -eu`, `pipefail`), killed with all it started after `deadline`.
pub fn try_sh_within(dir: &Path, script: &str, deadline: Duration) -> Ran {
    let output = Command::new("timeout")
        .args(["-k", "5", &deadline.as_secs().max(1).to_string(), "bash", "-euc"])
        .arg(format!("set -o pipefail\n{script}"))
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("run bash under timeout(1)");
    Ran::from(output)
}

/// Runs a bash script in `dir`, however it ends.
pub fn try_sh(dir: &Path, script: &str) -> Ran {
    try_sh_within(dir, script, DEADLINE)
}

/// Runs a bash script in `dir`, which must succeed, and gives its output without the last newline.
#[track_caller]
pub fn sh(dir: &Path, script: &str) -> String {
    let ran = try_sh(dir, script);
    assert!(ran.ok, "{script}\nended with {:?}\n{}{}", ran.code, ran.stdout, ran.stderr);
    ran.stdout.trim_end_matches('\n').to_owned()
}
