//! Generates `services`, gRPC's clients and servers, from every file in `../proto/proto`. Their messages are `dfs_proto::wire`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    const CONTRACT: &str = "../proto/proto";
    let mut files = Vec::new();
    for entry in std::fs::read_dir(CONTRACT)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    files.sort();
    println!("cargo:rerun-if-changed={CONTRACT}");
    let services = tonic_prost_build::configure().extern_path(".dfs.v1", "::dfs_proto::wire");
    services.compile_protos(&files, &[CONTRACT.into()])?;
    Ok(())
}
