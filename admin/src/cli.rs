//! The command tree. The doc comments are what `--help` prints.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::local::federation::CLUSTERS_MAX;

/// The directory of a local federation, unless `--dir` names another.
pub const DEFAULT_DIR: &str = "/var/lib/dfs/local";
/// The mountpoint of a local federation, unless `--mount` names another.
pub const DEFAULT_MOUNT: &str = "/mnt/dfs";

/// Start, look at and stop a dfs federation.
///
/// The federation is found by --federation, else by the configuration file: the first that exists of --config,
/// $DFS_CONFIG, ~/.config/dfs/dfs.toml and /etc/dfs/dfs.toml (section [federation], key metaservers).
#[derive(Debug, Parser)]
#[command(name = "dfs", version, arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub source: Source,

    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: Command,
}

/// How the federation is found.
#[derive(Debug, Default, Args)]
pub struct Source {
    /// Configuration file (TOML). Default: $DFS_CONFIG, ~/.config/dfs/dfs.toml, /etc/dfs/dfs.toml, the first that exists.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Metaservers to ask, host:port of their gRPC ports, separated by commas; before the configuration file. Default: none.
    #[arg(long, global = true, value_name = "HOST:PORT,…", value_delimiter = ',', env = "DFS_FEDERATION")]
    pub federation: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a federation on this machine, on loopback, and mount it; on a running one start what is dead.
    Up(Up),
    /// Unmount and stop a federation that `dfs up` started.
    Down(Down),
    /// Show leader, members, chunkservers, chunks, volumes and a verdict. Exit code: 0 healthy, 1 degraded, 2 unavailable.
    Status,
    /// Clusters of the federation.
    Cluster {
        #[command(subcommand)]
        verb: ClusterVerb,
    },
    /// Servers of the federation.
    Node {
        #[command(subcommand)]
        verb: NodeVerb,
    },
    /// Sessions: who has mounted the federation, and what each holds.
    Session {
        #[command(subcommand)]
        verb: SessionVerb,
    },
    /// Volumes of the federation.
    Volume {
        #[command(subcommand)]
        verb: VolumeVerb,
    },
    /// Files.
    File {
        #[command(subcommand)]
        verb: FileVerb,
    },
}

#[derive(Debug, Subcommand)]
pub enum ClusterVerb {
    /// One line per cluster: name, leader, members, chunkservers, copies, volumes, inodes.
    List,
    /// Let a cluster into the federation. Effect: new directories of the root directory are placed there too.
    Join {
        /// Its metaservers, host:port of their gRPC ports, separated by commas; they run, with the federation's
        /// `federation_members` in their configuration.
        #[arg(required = true, value_name = "HOST:PORT,…", value_delimiter = ',')]
        metaservers: Vec<String>,
    },
    /// Take a cluster without volumes out of the federation. Its servers go on; stop them afterwards.
    Leave {
        /// As `dfs cluster list` shows it.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum NodeVerb {
    /// One line per metaserver and chunkserver: role, id, address, state.
    List,
}

#[derive(Debug, Subcommand)]
pub enum SessionVerb {
    /// One line per session: id, cluster, client, when it was heard last, open files, locks, whether others wait for it. A mount
    /// has one session in each cluster.
    List {
        /// Sessions of each cluster that are shown at most, those with the lowest ids; at least 1.
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
    /// End a session, after asking. Effect: its locks are free at once, its unwritten data is lost, and the programs that have
    /// either get EIO once; its client goes on with a new session.
    Expire {
        /// As `dfs session list` shows it; at least 1.
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
        /// The cluster that has the session, as `dfs session list` shows it. Default: the only one.
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
        /// Do not ask before ending it.
        #[arg(long, short = 'y')]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum VolumeVerb {
    /// One line per volume: number, name, cluster, state.
    List,
    /// Make a directory of the root directory, as a volume of the cluster that is named, or of the least busy one.
    Create {
        /// `/name`, not below a mountpoint.
        path: String,
        /// As `dfs cluster list` shows it. Default: the least busy one.
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
        /// Permission bits, octal.
        #[arg(long, value_name = "MODE", default_value = "0755", value_parser = parse_mode)]
        mode: u32,
    },
    /// Show one volume: number, cluster, state, and where its metaservers are.
    Show {
        /// `/name`; `/` for the root directory's.
        path: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum FileVerb {
    /// Show a file's inode, volume, cluster, extents, chunks, and where each copy is.
    Show {
        /// A path below a dfs mount of this machine, or else from the root of the federation (/a/b).
        path: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Up {
    /// Clusters: 1 to 8. Effect: each has servers of its own, and each directory made in the root directory is placed on
    /// one of them. More than before: the new ones join. Default: one on its own, which others cannot join.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(CLUSTERS_MAX)))]
    pub clusters: Option<u32>,

    /// Metaservers of each cluster: 1, 3 or 5. Effect: a majority of them must live. Fixed when DIR is made. Default: 3.
    #[arg(long, value_name = "N", value_parser = parse_metaservers)]
    pub metaservers: Option<u32>,

    /// Chunkservers of each cluster: 1 to 64. More than before adds new ones. Default: 3.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub chunkservers: Option<u32>,

    /// Copies of each chunk: 1 to 8, at most one per chunkserver. Fixed when DIR is made. Default: 2.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    pub copies: Option<u32>,

    /// Directory for data, logs, configuration and chosen ports.
    #[arg(long, value_name = "DIR", env = "DFS_DIR", default_value = DEFAULT_DIR)]
    pub dir: PathBuf,

    /// Where to mount; made if it does not exist. Default: where it was mounted last, at first /mnt/dfs.
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,

    /// Start the servers only.
    #[arg(long, conflicts_with = "mount")]
    pub no_mount: bool,

    /// Zone labels, given to the chunkservers in turn; copies of a chunk prefer different zones. Default: none.
    #[arg(long, value_name = "ZONE,…", value_delimiter = ',')]
    pub zones: Vec<String>,

    /// Do not write ~/.config/dfs/dfs.toml, which makes `dfs` find this federation without flags. It is also left
    /// alone when $DFS_CONFIG is set, when it was not written by `dfs up`, and while another federation that it
    /// names is running.
    #[arg(long)]
    pub no_config: bool,

    /// Seconds until everything must be healthy; at least 1.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
}

#[derive(Debug, Args)]
pub struct Down {
    /// Directory that was given to `dfs up`.
    #[arg(long, value_name = "DIR", env = "DFS_DIR", default_value = DEFAULT_DIR)]
    pub dir: PathBuf,

    /// Also delete the directory with all data, after asking.
    #[arg(long)]
    pub purge: bool,

    /// Take the mount away even while processes use it: they keep their open files until the servers stop.
    #[arg(long)]
    pub lazy: bool,

    /// Do not ask before deleting.
    #[arg(long, short = 'y')]
    pub yes: bool,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o7777) => Ok(mode),
        Ok(_) | Err(_) => Err("an octal number up to 7777".to_owned()),
    }
}

fn parse_metaservers(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5)) => Ok(count),
        Ok(_) | Err(_) => Err("1, 3 or 5 (a majority decides, so an even number only costs)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent_and_every_argument_has_its_help() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().filter(|c| c.get_name() != "help").for_each(check);
        }
        let command = Cli::command();
        command.clone().debug_assert();
        check(&command);
    }

    #[test]
    fn an_even_number_of_metaservers_is_refused() {
        assert!(Cli::try_parse_from(["dfs", "up", "--metaservers", "2"]).is_err());
        assert!(Cli::try_parse_from(["dfs", "up", "--metaservers", "5"]).is_ok());
    }

    #[test]
    fn a_list_of_no_sessions_and_session_0_are_refused() {
        assert!(Cli::try_parse_from(["dfs", "session", "list", "--limit", "0"]).is_err());
        assert!(Cli::try_parse_from(["dfs", "session", "expire", "0"]).is_err());
        assert!(Cli::try_parse_from(["dfs", "session", "expire", "-y", "7", "--cluster", "alpha"]).is_ok());
    }

    #[test]
    fn flags_that_find_the_federation_may_stand_behind_the_verb() {
        let cli = Cli::try_parse_from(["dfs", "status", "--json", "--federation", "a:1,b:2"]).unwrap();
        assert!(cli.json);
        assert_eq!(cli.source.federation, ["a:1", "b:2"]);
    }
}
