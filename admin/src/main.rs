//! The binary; everything is in the library.

fn main() -> std::process::ExitCode {
    dfs_admin::main()
}
