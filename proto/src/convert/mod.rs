//! Generated messages ↔ domain types: the only place where what came from the wire is validated.
//!
//! `to_wire` never fails; `from_wire` refuses with `InvalidArgument` (metadata) or `Invalid` (chunks) and names the field.

mod chunk;
mod meta;

pub use chunk::{reply_from_wire, reply_to_wire, request_from_wire, request_to_wire};
pub use meta::*;
