//! The binary; everything is in the library.

/// The allocator of this process. It also takes the place of malloc for the libraries that are not Rust.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    dfs_mount::main()
}
