//! The command line: what `dfs-mount` is asked to do. A flag wins over the environment, the environment over the file.

use std::path::PathBuf;

use clap::Parser;
use dfs_client::Durability;
use thiserror::Error;

/// Mounts a dfs federation.
///
/// Goes to the background once the mounted directory answers; `umount`, `fusermount3 -u`, SIGTERM and Ctrl-C end it,
/// after writing what is buffered.
#[derive(Debug, Parser)]
#[command(name = "dfs-mount", version)]
pub(crate) struct Cli {
    /// An empty directory: the federation's root appears there.
    pub(crate) mountpoint: PathBuf,

    /// gRPC addresses of some metaservers (one that answers tells the others) [default: `metaservers` of the
    /// configuration's section `federation`]
    #[arg(long, env = "DFS_FEDERATION", value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub(crate) federation: Vec<String>,

    /// Configuration file [default: the first that exists of $DFS_CONFIG, ~/.config/dfs/dfs.toml, /etc/dfs/dfs.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Stay in the foreground; messages go to stderr.
    #[arg(short = 'f', long)]
    pub(crate) foreground: bool,

    /// Mount options as in fstab: ro, rw, dev, nodev, suid, nosuid, exec, noexec, atime, noatime, durability=fsync (a file is
    /// committed at fsync, or a moment after it was written) or durability=operation (at each close, too) [default:
    /// rw,nodev,nosuid,exec,atime,durability=fsync]. Those that only matter to mount(8), such as _netdev or x-…, are accepted.
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',')]
    pub(crate) options: Vec<String>,

    /// Messages go to the end of this file [default: stderr; in the background only if that is a file or terminal]
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,

    /// Least serious messages shown: error, warn, info, debug, trace, or per module as in `info,dfs_client=debug`
    /// [default: info]
    #[arg(long, env = "RUST_LOG", value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,

    /// Milliseconds until a request to the metaservers is given up with an I/O error [default: 30000, min: 100]
    #[arg(long, value_name = "MS")]
    pub(crate) metadata_timeout_ms: Option<u64>,

    /// Milliseconds until reading or writing file contents is given up with an I/O error [default: 30000, min: 100]
    #[arg(long, value_name = "MS")]
    pub(crate) data_timeout_ms: Option<u64>,

    /// Milliseconds until a server that does not accept the connection counts as away [default: 2000, min: 100]
    #[arg(long, value_name = "MS")]
    pub(crate) connect_timeout_ms: Option<u64>,

    /// MiB of written but not yet committed bytes that are kept; writers wait beyond [default: 256, min: 16]
    #[arg(long, value_name = "MIB")]
    pub(crate) session_memory_mib: Option<u64>,

    /// Milliseconds after which what was written is committed, if nobody asks for it before [default: 1000, min: 10]
    #[arg(long, value_name = "MS")]
    pub(crate) commit_interval_ms: Option<u64>,

    /// Copies of what is written through this mount; 0 is the cluster's default [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) copies: Option<u32>,

    /// Threads that take requests from the kernel [default: one per CPU, at least 2, at most 8]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

/// What `-o` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MountFlags {
    /// `None`: as the configuration says.
    pub(crate) durability: Option<Durability>,
    pub(crate) read_only: bool,
    pub(crate) devices: bool,
    pub(crate) set_uid: bool,
    pub(crate) execute: bool,
    pub(crate) access_times: bool,
}

impl Default for MountFlags {
    fn default() -> MountFlags {
        MountFlags {
            durability: None,
            read_only: false,
            devices: false,
            set_uid: false,
            execute: true,
            access_times: true,
        }
    }
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("-o {option}: not an option of dfs-mount; `dfs-mount --help` lists them")]
pub(crate) struct UnknownOption {
    option: String,
}

impl MountFlags {
    /// Later options win over earlier ones, as with mount(8). Nothing unknown is ignored.
    pub(crate) fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Result<MountFlags, UnknownOption> {
        let mut flags = MountFlags::default();
        for option in options {
            match option {
                "ro" => flags.read_only = true,
                "rw" => flags.read_only = false,
                "dev" => flags.devices = true,
                "nodev" => flags.devices = false,
                "suid" => flags.set_uid = true,
                "nosuid" => flags.set_uid = false,
                "exec" => flags.execute = true,
                "noexec" => flags.execute = false,
                "atime" => flags.access_times = true,
                "noatime" => flags.access_times = false,
                "durability=fsync" => flags.durability = Some(Durability::Fsync),
                "durability=operation" => flags.durability = Some(Durability::Operation),
                // These two are always on, and the rest is read by mount(8) and systemd only.
                "allow_other" | "default_permissions" => {}
                "" | "defaults" | "_netdev" | "auto" | "noauto" | "nofail" | "user" | "nouser" => {}
                comment if comment.starts_with("x-") => {}
                unknown => return Err(UnknownOption { option: unknown.to_owned() }),
            }
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_fstab_are_understood_and_the_last_one_wins() {
        let options = "defaults,ro,suid,rw,_netdev,x-systemd.automount,durability=operation,noatime";
        let flags = MountFlags::parse(options.split(','));
        let durability = Some(Durability::Operation);
        let expected = MountFlags { durability, set_uid: true, access_times: false, ..MountFlags::default() };
        assert_eq!(flags, Ok(expected));
    }

    #[test]
    fn an_unknown_option_is_refused_by_name() {
        let error = MountFlags::parse(["ro", "kernel_cache"]).unwrap_err();
        assert!(error.to_string().contains("kernel_cache"), "{error}");
        assert!(MountFlags::parse(["durability=never"]).is_err());
    }
}
