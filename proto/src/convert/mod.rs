//! Generated messages ↔ domain types: the only place where what came from the wire is validated.
//!
//! `to_wire` never fails; `from_wire` refuses with `InvalidArgument` (metadata) or `Invalid` (chunks) and names the field.

mod chunk;
mod federation;
mod meta;

use crate::error::MetaError;
use crate::meta::MetaResult;

pub use chunk::{reply_from_wire, reply_to_wire, request_from_wire, request_to_wire};
pub use federation::*;
pub use meta::*;

fn invalid(what: &str) -> MetaError {
    MetaError::InvalidArgument { what: what.to_owned() }
}

fn required<T>(value: Option<T>, what: &str) -> MetaResult<T> {
    value.ok_or_else(|| invalid(&format!("{what} is missing")))
}
