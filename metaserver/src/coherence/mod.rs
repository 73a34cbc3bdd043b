//! How all clients see the same state: every change and every read of the leader passes the gate, which knows the leases.

mod attachments;
mod gate;
mod holds;
mod leases;
pub(crate) mod soft;

pub(crate) use attachments::Attachments;
pub(crate) use gate::Gate;
pub(crate) use holds::{holding_sessions, record_holds};
