//! The kernel's edge: unpacks a request, calls `fs`, replies. Nothing is decided here but what the kernel is offered
//! at the start (P5.1). How long it may use an answer is in `kernel_attrs` and `kernel_names`.
//!
//! | file | what |
//! |------|------|
//! | `calls` | one method for each request of the kernel |
//! | `edge` | from a request to its answer, within its deadline |
//! | `replies` | answers and flags in the kernel's words |
//!
//! E1  Every request is answered within its deadline, whatever the servers do: fuser answers interrupts with ENOSYS,
//!     so a process that waits cannot even be killed (promise 7). Only a request that waits for a lock has none: its
//!     process is looked at instead, and can be killed (`fs::locks`).
//! E2  No event-loop thread waits for the network: a request that is not ready at once goes on as a task
//!     (`deferred`).
//! E3  A request that is not implemented is answered with ENOTSUP, and with ENOSYS only where the kernel then does
//!     the right thing (P5.5).
//!
//! The kernel bounds how many requests are in flight: one for each thread of an application, and `BACKGROUND_MAX`.

mod calls;
mod edge;
mod replies;

pub(crate) use edge::{Deadlines, Edge, REQUEST_LEN_MAX};
