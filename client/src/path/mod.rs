//! The face for a gateway: operations on paths, for a caller whom the gateway has authenticated.
//!
//! | file | what |
//! |------|------|
//! | `walk` | from a path to an inode, or to the directory and the name that an operation changes |
//! | `paths` | [`Paths`]: one method for each operation |
//!
//! PA1  Each component is looked up with the rights of the caller, so a caller reaches what the same user reaches through a mount.
//! PA2  When an operation returns without an error, its effect is durable and seen by everybody who asks later.
//! PA3  An operation of several requests is not atomic: another client may move a directory between two look-ups, and a reader
//!      may see a file that is half written. To replace a content at once, write another file and rename it.
//! PA4  A change that was begun goes on when its caller gives up, and leaves nothing behind that happens later.
//!
//! A caller's groups have to be filled in. Symbolic links are not followed: a path that leads through one is refused as one that
//! leads through a file. `.` and `..` are refused, too.
//!
//! Uses `inode`, and no floor below it.

mod paths;
mod walk;

pub use paths::Paths;
