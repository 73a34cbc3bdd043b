//! Generates `wire`, the messages, from every file in `proto/`. The services on them are `dfs-net`'s.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir("proto")? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    files.sort();
    println!("cargo:rerun-if-changed=proto");
    prost_build::Config::new().bytes(["."]).compile_protos(&files, &["proto"])?;
    Ok(())
}
