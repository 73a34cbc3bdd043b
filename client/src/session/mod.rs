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
//! | `held` | what the session holds: locks, open files, waits for locks; `ranges` and `opens` are its parts |
//! | `control` | heartbeats, and how the leader is told what the session holds |
//! | `locks` | requests for locks of files |
//! | `pushes` | what the leader sends unasked |
//! | `leases` | what the floors above are told about their leases |
//! | `recalls` | what the leader is to be told of recalls |
//! | `writes` | requests for Write leases of files, and their return |
//!
//! A request of a caller goes `meta` → `requests` → `calls` → `grpc`. What the leader sends unasked goes
//! `grpc` → `pushes` → `held`, or to the floor above (`leases`).
//!
//! Uses no floor. What an answer means for names and for open files is not known here.

pub(crate) mod calls;
mod clock;
mod control;
pub(crate) mod grpc;
pub(crate) mod held;
pub(crate) mod leases;
mod locks;
pub(crate) mod meta;
mod opens;
mod pushes;
pub(crate) mod ranges;
mod recalls;
pub(crate) mod replies;
pub(crate) mod requests;
pub(crate) mod retry;
mod writes;
