//! The client's copy: attributes, names and listings that it was shown under leases (P3.2), and answers from without a request.
//!
//! CY1  The copy is used only while the leases of the present attachment last by this client's CLOCK_BOOTTIME (`lease`).
//! CY2  An answer enters only if it was leased under the present attachment, and if neither a recall nor a change of this client
//!      has touched what it shows since the question began (`drops`).
//! CY3  A recall is handled where it arrives, and waits for nothing.
//! CY4  What was dropped for a change of this client enters only from answers to questions that began after the change was
//!      answered (`own_changes`), and from its own answer, which is one to a question that began with the drop (`own_answers`). Of that the leader recalls nothing from this session. A change whose outcome is unknown ends the
//!      attachment that it names, since it may be executed late; under a later one it is recalled from as anybody is.
//! CY5  When an attachment begins or ends, or the session is replaced, the copy is empty.
//! CY6  An answer from the copy is what the server would answer now. It passes what the caller's rights clearly allow, and no more
//!      (`permission`).
//! CY7  The copy is bounded (`kept`, `listings`). What is forgotten for that is asked for again; the leader may go on recalling it.
//! CY8  Outer caches may use attributes from the copy for as long as the lease lasts (`leased_attr`). Whatever the copy drops, they
//!      are told, and have dropped it, before a recall counts as handled, before a change of this client is sent, and before an
//!      attachment is sent. They are told after the copy has dropped it, so what they ask for meanwhile is not what was dropped.
//!
//! | file | what |
//! |------|------|
//! | `lease` | until when the copy may be used, and which recalls were handled |
//! | `kept` | attributes and names, in two generations |
//! | `listings` | which entries directories have, in the order of a listing |
//! | `drops` | what was dropped while questions were under way |
//! | `own_changes` | what was dropped for changes of this client |
//! | `own_answers` | what the answers to these show |
//! | `hints` | where changes of this client have led names: what they probably alter later |
//! | `permission` | whom the copy may answer |
//! | `state` | all of that together; pure |
//! | `shared` | [`LeasedCopy`]: the same behind a lock, with a clock |
//!
//! Not here: that a name which a whole listing does not have is absent (it is looked up once), extents, and which attributes an outer
//! cache keeps.

mod drops;
mod hints;
mod kept;
mod lease;
mod listings;
mod own_answers;
mod own_changes;
mod permission;
mod shared;
mod state;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod listing_tests;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;

pub(crate) use shared::LeasedCopy;
