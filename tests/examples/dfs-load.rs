//! `dfs-load FILE DIRECTORY SEED`: a load of the power cuts, as a process of its own (`dfs_tests::ledger::Process`). An
//! example and no program, so that whoever builds the programs does not build the tests' libraries.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, directory, seed] = arguments.as_slice() else {
        eprintln!("usage: dfs-load FILE DIRECTORY SEED");
        return ExitCode::FAILURE;
    };
    let Ok(seed) = seed.parse() else {
        eprintln!("dfs-load: the seed {seed} is not a number");
        return ExitCode::FAILURE;
    };
    dfs_tests::ledger::load(Path::new(file), Path::new(directory), seed);
    ExitCode::SUCCESS
}
