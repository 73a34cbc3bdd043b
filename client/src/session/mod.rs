//! Calls to one cluster: sessions, request ids, deadlines and retries.
//!
//! A request of a caller goes `meta` (under which session, with which request id) → `calls` → `grpc` (at whichever member leads).
//! Messages of the server that nobody asked for will arrive here.
//!
//! Uses no floor. What an answer means for names and for open files is not known here.

pub(crate) mod calls;
mod clock;
pub(crate) mod grpc;
pub(crate) mod meta;
pub(crate) mod replies;
pub(crate) mod requests;
pub(crate) mod retry;
