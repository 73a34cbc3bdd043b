//! Sessions.

use dfs_proto::ids::SessionId;
use serde::{Deserialize, Serialize};

use super::stored::{Broken, Stored, stored_struct};
use super::{Old, Table, read_as};
use crate::value::session;

/// The sessions that are alive. Version 2: each lane has a window of its own. Version 1: all requests were in one window.
pub(crate) struct Sessions;

impl Table for Sessions {
    const NAME: &'static str = "the sessions";
    const VERSION: u8 = 2;
    const OLD: &'static [Old<session::SessionRecord>] = &[Old { version: 1, read: read_as::<Session1, _> }];
    type Value = session::SessionRecord;
    type Record = Session;
}

stored_struct! {
    Session = session::SessionRecord { nonce: u128, client: String, windows: Vec<Window> }
}

stored_struct! {
    Window = session::Window { oldest: u64, highest: u64 }
}

/// Of version 1. Its window is that of lane 0.
#[derive(Serialize, Deserialize)]
pub(super) struct Session1 {
    nonce: u128,
    client: String,
    oldest: u64,
    highest: u64,
}

impl Stored<session::SessionRecord> for Session1 {
    fn store(live: &session::SessionRecord) -> Session1 {
        let session::Window { oldest, highest } = live.windows.first().copied().unwrap_or_default();
        Session1 { nonce: live.nonce.0, client: live.client.clone(), oldest, highest }
    }

    fn live(self) -> Result<session::SessionRecord, Broken> {
        let windows = vec![session::Window { oldest: self.oldest, highest: self.highest }];
        Ok(session::SessionRecord { nonce: self.nonce.live()?, client: self.client, windows })
    }
}

/// Sessions by nonce. Version 1 since the first release.
pub(crate) struct Nonces;

impl Table for Nonces {
    const NAME: &'static str = "the sessions' nonces";
    const VERSION: u8 = 1;
    type Value = SessionId;
    type Record = u64;
}

/// The last commit number of a session for an inode. Version 1 since the first release.
pub(crate) struct Commits;

impl Table for Commits {
    const NAME: &'static str = "the commit numbers";
    const VERSION: u8 = 1;
    type Value = u64;
    type Record = u64;
}

/// How long a session was silent, in milliseconds. Version 1: the first leaders that note it.
pub(crate) struct Silences;

impl Table for Silences {
    const NAME: &'static str = "the silences of sessions";
    const VERSION: u8 = 1;
    type Value = u64;
    type Record = u64;
}
