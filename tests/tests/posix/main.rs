//! What programs may rely on from one mount: system calls, and the programs that make them.
//!
//! All tests but those of `life` share one cluster and one mount; each has a directory of its own in it.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fmt::Debug;
use std::io;

use dfs_tests::cluster::Shape;
use dfs_tests::shared::{Scenario, Shared};

mod attributes;
mod data;
mod durable;
mod grow;
mod life;
mod locks;
mod names;
mod permissions;
mod programs;
mod random;

static SHARED: Shared = Shared::new(Shape::small, &["a"]);

/// A directory for the test of this name.
fn scenario(name: &str) -> Scenario {
    SHARED.scenario(name)
}

/// The error number of a call that must fail.
#[track_caller]
fn errno<T: Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}
