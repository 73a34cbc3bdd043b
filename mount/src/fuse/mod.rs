//! The kernel's edge: unpacks a request, calls `fs`, replies. Nothing is decided here but what the kernel is offered at the
//! start (P5.1). How long it may use an answer is in `dfs_client::interim` (V1, V2).
//!
//! E1  Every request is answered within its deadline, whatever the servers do: fuser answers interrupts with ENOSYS, so
//!     a process that waits cannot even be killed (promise 7).
//! E2  No event-loop thread waits for the network: what is not ready at once goes on as a task.
//! E3  What is not implemented says ENOTSUP, and ENOSYS only where the kernel then does the right thing (P5.5).
//!
//! How many requests are in flight is bounded by the kernel: one per thread of an application, and `BACKGROUND_MAX`.

mod calls;
mod edge;
mod replies;

pub(crate) use edge::{Deadlines, Edge, REQUEST_LEN_MAX};
