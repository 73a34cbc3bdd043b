//! Messages of `meta.proto` and `common.proto`.

mod attr;
mod change;
mod commit;
mod error;
mod lock;
mod read;
mod recall;
mod replica;
mod reply;
mod session;
mod write;

pub use attr::*;
pub use change::*;
pub use error::*;
pub use lock::*;
pub use read::*;
pub use recall::*;
pub use replica::*;
pub use reply::*;
pub use session::*;
pub use write::*;
