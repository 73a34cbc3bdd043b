//! Power cuts: what `fsync`, `close` and changes of the namespace returned for is there afterwards, on real disks. That the
//! test notices a sync that is left out is shown by `make test-long`.

use dfs_tests::power::{ALL_CUTS, cuts, shape};

#[test]
fn twenty_power_cuts_lose_nothing_that_was_acknowledged() {
    let seed = std::env::var("DFS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11);
    let totals = cuts(shape(), &ALL_CUTS, 20, seed).unwrap_or_else(|lost| panic!("{lost}"));
    println!("seed {seed}: {totals:?}");
    assert!(totals.acknowledged >= 1000, "too little was under way: {totals:?}");
}
