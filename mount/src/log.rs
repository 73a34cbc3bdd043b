//! Messages: plain lines with the time, on stderr, which may be a file (`daemon`).

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// The default filter. fuser warns of every request that an unmount interrupts; what matters of it is in the result
/// of the session.
const FILTER_DEFAULT: &str = "info";
const FILTER_ALWAYS: &str = "fuser=off";

/// Checks `--log-level`.
pub(crate) fn filter(level: Option<&str>) -> anyhow::Result<EnvFilter> {
    let level = level.filter(|level| !level.is_empty()).unwrap_or(FILTER_DEFAULT);
    EnvFilter::try_new(format!("{FILTER_ALWAYS},{level}")).with_context(|| format!("log level `{level}`"))
}

/// Shows messages from here on.
pub(crate) fn start(filter: EnvFilter) {
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_understood_and_garbage_is_refused() {
        assert!(filter(None).is_ok());
        assert!(filter(Some("info,dfs_client=debug")).is_ok());
        assert!(filter(Some("dfs_client=lots")).is_err());
    }
}
