//! The binary; everything is in the library.

const _: () = assert!(!dfs_proto::planted::POSSIBLE, "no program is built with planted bugs");

fn main() -> std::process::ExitCode {
    dfs_mount::main()
}
