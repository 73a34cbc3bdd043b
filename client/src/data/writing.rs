//! Writing to an open file: from write(2) into the buffer.
//!
//! A write first gets its room in the memory, then Write of the file (P4.5), and lays its bytes while it holds that. So nobody else
//! writes the file, everybody else who reads it is asked to wait until the bytes are committed, and the end of the file is known
//! (P6.3).

use dfs_proto::attr::Caller;
use dfs_proto::meta::{Change, SetAttr};
use dfs_proto::units::{FILE_LEN_MAX, Offset};

use crate::data::file::File;
use crate::data::memory::Reservation;
use crate::data::unfinished::Begun;
use crate::data::writes::Hold;
use crate::error::{ClientError, Result};
use crate::session::replies;
use crate::session::retry::Deadline;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;

/// What is written, and where: `None`: at the end.
struct Written<'d> {
    at: Option<Offset>,
    data: &'d [u8],
    /// It clears set-uid and set-gid.
    kills: bool,
    /// The rest of it may follow.
    goes_on: bool,
}

/// Where the bytes lie, and whether there is something that can be sent.
type Laid = (Offset, bool);

impl File {
    /// Buffers the bytes, and sends long runs meanwhile. It waits while the session's memory is full, and while others give the file
    /// back.
    pub async fn write_at(&self, caller: &Caller, offset: Offset, data: &[u8]) -> Result<()> {
        self.put(caller, Some(offset), data, false).await.map(drop)
    }

    /// O_APPEND: puts the bytes at the end of the file, and returns where that was. Appends never lie over each other, whichever
    /// clients they are of.
    pub async fn append(&self, caller: &Caller, data: &[u8]) -> Result<Offset> {
        self.put(caller, None, data, false).await
    }

    /// The same for a part of what is to be appended: the rest follows at once through the same open file, if there is one, and lies
    /// behind this (UF1 of `unfinished`).
    pub async fn append_part(&self, caller: &Caller, data: &[u8]) -> Result<Offset> {
        self.put(caller, None, data, true).await
    }

    async fn put(&self, caller: &Caller, at: Option<Offset>, data: &[u8], goes_on: bool) -> Result<Offset> {
        if !self.mode.write {
            return Err(ClientError::NotOpenFor { inode: self.inode(), wanted: "writing" });
        }
        self.report()?;
        let len = data.len() as u64;
        require_to_fit(at.map_or(0, |offset| offset.0), len)?;
        if len == 0 {
            return Ok(at.unwrap_or_else(|| Offset(self.size())));
        }
        self.kill_privileges(caller).await?;
        if !self.unfinished.is_kept() {
            self.core.bound_buffered(&self.node).await; // before there is a hold, which would be kept meanwhile (UF2 of `unfinished`)
        }
        let deadline = Deadline::after(self.core.config.data_timeout);
        let written = Written { at, data, kills: !caller.is_root(), goes_on };
        let (offset, has_full) = self.lay(&written, deadline).await?;
        match (has_full, goes_on) {
            (false, _) => {}
            // If this waited, the rest would come too late to lie behind it (UF1 of `unfinished`).
            (true, true) => self.core.send_later(&self.node),
            (true, false) => self.noting(self.core.send(&self.node).await)?,
        }
        Ok(offset)
    }

    /// Lays the bytes into the buffer under Write of the file.
    async fn lay(&self, written: &Written<'_>, deadline: Deadline) -> Result<Laid> {
        loop {
            let (room, begun) = self.room_and_hold(written.data.len() as u64, deadline).await?;
            // What was lost while this waited, a lock above all, is told before anything is written on top of it.
            self.report()?;
            let hold = begun.hold();
            if hold.write().is_none() && written.at.is_none() {
                self.ask_for_attr().await?;
            }
            let session = hold.session();
            let laid = self.lay_under(hold, written);
            match written.goes_on {
                true => self.unfinished.keep(begun),
                false => drop(begun),
            }
            drop(room); // what the buffer really took is counted now
            if let Some(laid) = laid {
                // Who was stopped in between may have lost the file: then nobody is told that it was written.
                self.core.writes.wait_until_valid(session, deadline).await?;
                return laid;
            }
        }
    }

    /// Room in the memory, and then the hold (P4.5). Who waits for room has made sure before that the file can be had, so that
    /// files which cannot be had do not fill the memory.
    async fn room_and_hold(&self, len: u64, deadline: Deadline) -> Result<(Reservation, Begun)> {
        let (memory, writes, meta) = (&self.core.memory, &self.core.writes, &self.core.meta);
        if let Some(begun) = self.unfinished.take()
            && let Some(room) = memory.reserve_now(len)
        {
            return Ok((room, begun)); // keeps UF1 of `unfinished`
        }
        loop {
            let hold = writes.hold(&self.node, meta, deadline).await?;
            if let Some(room) = memory.reserve_now(len) {
                return Ok((room, Begun::now(hold)));
            }
            drop(hold);
            let room = memory.reserve(len, deadline).await?;
            if let Some(hold) = writes.hold_now(self.inode(), meta) {
                return Ok((room, Begun::now(hold)));
            }
        }
    }

    /// `None`: the hold is of a session that has ended.
    fn lay_under(&self, hold: &Hold, written: &Written<'_>) -> Option<Result<Laid>> {
        let now = self.core.meta.cluster_now();
        let Written { at, data, kills, .. } = *written;
        self.look(|state| {
            if !state.is_of(hold.session()) {
                return None;
            }
            let offset = at.map_or_else(|| state.size(), |offset| offset.0);
            if let Err(too_large) = require_to_fit(offset, data.len() as u64) {
                return Some(Err(too_large));
            }
            state.lies_under(hold.write());
            Some(Ok((Offset(offset), state.write(offset, data, now, kills))))
        })
    }

    /// A write by a user other than root clears set-uid and set-gid, and `stat` shows it at once.
    async fn kill_privileges(&self, caller: &Caller) -> Result<()> {
        let is_set =
            |mode: u32| mode & SET_UID != 0 || mode & (SET_GID | GROUP_EXECUTE) == SET_GID | GROUP_EXECUTE;
        if caller.is_root() || !self.look(|state| state.base().is_some_and(|base| is_set(base.mode))) {
            return Ok(());
        }
        let set =
            SetAttr { inode: self.inode(), by_handle: true, kill_privileges: true, ..SetAttr::default() };
        let changed = self.core.names.change(&Caller::ROOT, Change::SetAttr(set)).await?;
        let done = replies::inode(changed)?;
        self.look(|state| state.observe(&done.attr));
        Ok(())
    }
}

fn require_to_fit(offset: u64, len: u64) -> Result<()> {
    let fits = offset.checked_add(len).is_some_and(|end| end <= FILE_LEN_MAX);
    if fits { Ok(()) } else { Err(ClientError::FileTooLarge) }
}
