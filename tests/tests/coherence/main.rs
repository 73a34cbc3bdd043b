//! Two mounts agree: what an operation on one of them has done when it returns, the other one shows at once (promise 3 of
//! docs/SEMANTICS.md), closed or not.
//!
//! | file | what |
//! |---|---|
//! | `changes` | every operation that changes something, seen by a mount that has looked before |
//! | `turns` | two mounts take turns on one file, compared with a model |
//! | `appends` | processes of two mounts append to one file |
//! | `names` | paths that one mount looks at all the time, so that the kernel keeps them, and the other one changes |
//! | `stopped` | a mount that has a file open and is stopped, while the other one removes the file |
//! | `unlinked` | a file that one mount unlinks, and the other one has open |

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod appends;
mod changes;
mod names;
mod stopped;
mod turns;
mod unlinked;

use dfs_tests::cluster::Shape;
use dfs_tests::shared::{Scenario, Shared};

static SHARED: Shared = Shared::new(Shape::default, &["a", "b"]);

fn scenario(name: &str) -> Scenario {
    SHARED.scenario(name)
}

/// A number from the environment, which `make test-long` makes larger.
fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}
