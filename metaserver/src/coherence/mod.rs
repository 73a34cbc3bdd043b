//! How all clients see the same state: every change and every read of the leader passes the gate, which knows the leases.

mod attachments;
mod gate;
mod last_names;
mod leases;
pub(crate) mod opens;
pub(crate) mod soft;

pub(crate) use attachments::Attachments;
pub(crate) use gate::Gate;
