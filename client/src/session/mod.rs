//! Calls to one cluster: sessions, request ids, deadlines and retries.
//!
//! | file | what |
//! |------|------|
//! | `meta` | under which session a request goes, and what follows when the session ends |
//! | `requests` | request ids: lanes and windows |
//! | `calls`, `grpc` | how a request gets to whichever member leads |
//! | `replies` | which reply belongs to which request |
//! | `clock` | the cluster's clock |
//! | `retry` | deadlines and pauses between tries |
//!
//! A request of a caller goes `meta` → `requests` → `calls` → `grpc`. Messages that the server sends without being
//! asked will arrive here.
//!
//! Uses no floor. What an answer means for names and for open files is not known here.

pub(crate) mod calls;
mod clock;
pub(crate) mod grpc;
pub(crate) mod meta;
pub(crate) mod replies;
pub(crate) mod requests;
pub(crate) mod retry;
