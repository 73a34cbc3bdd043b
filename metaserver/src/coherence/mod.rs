//! How all clients see the same state: every change and every read of the leader passes the gate, which knows the leases.
//!
//! | file | what |
//! |---|---|
//! | `gate` | the door: changes and reads |
//! | `changes`, `executed` | how a change recalls first, and is proposed afterwards; what is answered |
//! | `attachments` | which sessions have attached, and the locks that they hold |
//! | `opens` | who has which file open |
//! | `awaited` | sessions that a new leader waits for before it takes or changes what they may hold |
//! | `last_names` | changes that take the last name of a file, and opens beside them |
//! | `landing` | what a change keeps until it is applied, also when its caller gives up |
//! | `leases` | who may cache what, and who may write what |
//! | `writes` | reads and changes beside those who write, and how a session acquires a file |
//! | `soft` | what a leader learns, and forgets with its term |

mod attachments;
mod awaited;
mod changes;
mod executed;
mod gate;
mod landing;
mod last_names;
mod leases;
pub(crate) mod opens;
pub(crate) mod soft;
mod writes;

pub(crate) use attachments::Attachments;
pub(crate) use executed::Executed;
pub(crate) use gate::Gate;
pub(crate) use leases::{Leases, READ_ENDS, READ_TERM, Reader, RecallCounts};
