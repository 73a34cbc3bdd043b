//! The binary; everything is in the library.

/// For this process and, in place of malloc, for the libraries in it that are not Rust.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    dfs_mount::main()
}
