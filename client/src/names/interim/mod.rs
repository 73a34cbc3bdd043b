//! The interim rules: every answer about a name or an attribute that is used more than once, for how long, and why.
//!
//! Without a lease, an answer may be outdated when it arrives. Each rule here says who uses an older answer nevertheless, and
//! what keeps that harmless. (What was shown under a lease is in `names/copy` and needs no rule.) SEMANTICS.md ("Between mounts") tells applications what follows from them.
//!
//! | rule | what is used again | for how long | file |
//! |------|--------------------|--------------|------|
//! | V5 | the content's version of an inode that was closed | as long as there is room | `closed` |
//! | V6 | the kernel's pages of a file | while they show the version of the content that is known | `kept_pages` |
//! | V7 | names of volumes, from the federation map, while the root directory's cluster is silent | until this client changes the name | `changed_names` |
//! | V8 | that a cluster is silent | until it answers | `silent` |
//! | V9 | the root directory's attributes and the space, while no metaserver answers | until one answers | `last_known` |
//!
//! The mount applies V6 and V9, the other floors of this library apply the rest. To delete a rule, delete its file: the compiler then names its users.
//!
//! Uses the clock and the error type, and no floor.

pub(crate) mod changed_names;
pub(crate) mod closed;
pub(crate) mod silent;

mod kept_pages;
mod last_known;

pub use kept_pages::KeptPages;
pub use last_known::LastKnown;
