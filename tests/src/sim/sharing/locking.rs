//! Locks of shared files: whole or in part, shared or exclusive, tried or waited for, given up, and of two files at once. Under
//! some of them records are appended, as a counter is raised.
//!
//! A request for a lock may be refused as unanswered: while leaders follow each other more quickly than a term, a client that has
//! died is not ended, and nobody gets a lock of what it may hold.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use dfs_client::ClientError;
use dfs_client::inode::{CreateOpen, File, GetAttr, LockWanted, Lookup, Open, OpenMode};
use dfs_proto::attr::Caller;
use dfs_proto::ids::LockOwner;
use dfs_proto::lock::{LockKind, LockRange};
use dfs_proto::meta::{Create, NewInode};
use dfs_proto::units::Offset;
use futures::future::{Either, select};

use super::history::LOCKED;
use super::lock_history::{HoldingId, Lock, Record};
use super::register::Moment;
use super::sharer::{Sharer, WAIT_MAX, is_of_lost_session, name_of, now};
use crate::sim::plan::OVER_INTERVAL;

const PAUSE_MAX: Duration = Duration::from_millis(800);
/// Whose session must not end holds a lock for a moment.
const HELD_MAX: Duration = Duration::from_millis(600);
/// The others hold one in so many for up to so long, over their own silence and over changes of the leader.
const HELD_LONG_ONE_IN: u64 = 4;
const HELD_LONG_MAX: Duration = Duration::from_secs(20);
const PROOF_INTERVAL: Duration = Duration::from_secs(1);
/// One wait in so many is given up, before so long.
const GIVEN_UP_ONE_IN: u64 = 4;
const GIVEN_UP_MAX: Duration = Duration::from_secs(4);
/// Bytes that are locked in part.
const BYTES: u64 = 40;
/// The bytes whose exclusive lock lets its holder append.
const TO_APPEND: LockRange = LockRange { start: 0, end: 9 };
const RECORD_LEN: u64 = 16;

pub(super) async fn live(sharer: Sharer) {
    let mut files = Vec::new();
    for number in 0..LOCKED {
        files.push(open(&sharer, number).await);
    }
    let mut locking = Locking { sharer, files, last_owner: 0, last_record: 0 };
    while !locking.sharer.is_over() {
        let kind = locking.step().await;
        let Sharer { number, shared, .. } = &locking.sharer;
        shared.note(2000 + number, kind);
        locking.sharer.pause(PAUSE_MAX).await;
    }
    for file in locking.files {
        drop(file.release().await); // what was not durable is not counted
    }
}

fn locked_name(number: usize) -> String {
    format!("locked{number}")
}

async fn open(sharer: &Sharer, number: usize) -> Arc<File> {
    let create = Create {
        parent: sharer.directory,
        name: name_of(&locked_name(number)),
        mode: 0o644,
        what: NewInode::File,
        or_existing: true,
        opens: false,
    };
    let mode = OpenMode { read: true, write: true, ..OpenMode::default() };
    loop {
        match sharer.locker.perform(&Caller::ROOT, CreateOpen { create: create.clone(), mode }).await {
            Ok((file, _)) => return file,
            Err(error) if is_of_lost_session(&error) => {}
            Err(error) => panic!("{}: open {}: {error}", sharer.name, locked_name(number)),
        }
    }
}

/// The records are those that the history knows.
pub(super) async fn check(sharer: &Sharer) {
    for number in 0..LOCKED {
        let before = sharer.shared.history().records[number].clone();
        let read = async {
            let lookup = Lookup { parent: sharer.directory, name: locked_name(number).into_bytes() };
            let inode = sharer.client.perform(&Caller::ROOT, lookup).await?.inode;
            let mode = OpenMode { read: true, ..OpenMode::default() };
            let file = sharer.client.perform(&Caller::ROOT, Open { inode, mode }).await?;
            let bytes = file.read_at(Offset(0), u64::MAX >> 1).await?;
            drop(file.release().await); // nothing was written
            Ok::<_, ClientError>(bytes)
        };
        let bytes = read.await.unwrap_or_else(|error| panic!("{}: {error}", locked_name(number)));
        let word = |bytes: &[u8]| bytes.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let record = |bytes: &[u8]| (word(&bytes[..bytes.len() / 2]), word(&bytes[bytes.len() / 2..]));
        let found: Vec<Record> = bytes.chunks(RECORD_LEN as usize).map(record).collect();
        let mut totals = sharer.shared.totals();
        let records = &sharer.shared.history().records[number];
        sharer.require(records.check(&before, &found));
        totals.records += records.durable() as u64;
    }
}

/// It is not held, or it cannot be said whether it is.
struct Lost;

/// A lock that this client believes to hold.
struct Held {
    number: usize,
    wanted: LockWanted,
    id: HoldingId,
}

struct Locking {
    sharer: Sharer,
    files: Vec<Arc<File>>,
    last_owner: u64,
    last_record: u64,
}

impl Locking {
    async fn step(&mut self) -> u64 {
        let kind = self.sharer.rng.below(8);
        match kind {
            0..=3 => self.append().await,
            4..=6 => self.hold().await,
            _ => self.hold_two().await,
        }
        kind
    }

    fn some_file(&self) -> usize {
        self.sharer.rng.below(LOCKED as u64) as usize
    }

    fn wanted(&mut self, range: LockRange, kind: LockKind) -> LockWanted {
        self.last_owner += 1;
        LockWanted { owner: LockOwner(self.last_owner), range, kind, process: 1 }
    }

    fn some_lock(&mut self) -> LockWanted {
        let (a, b) = (self.sharer.rng.below(BYTES), self.sharer.rng.below(BYTES));
        let is_whole = self.sharer.rng.below(3) == 0;
        let range = if is_whole { LockRange::WHOLE } else { LockRange { start: a.min(b), end: a.max(b) } };
        let kind = if self.sharer.rng.below(2) == 0 { LockKind::Shared } else { LockKind::Exclusive };
        self.wanted(range, kind)
    }

    /// Waits for the lock or tries to get it; `None`: it is not held now.
    async fn take(&mut self, number: usize, wanted: LockWanted, holds_another: bool) -> Option<Held> {
        let rng = &self.sharer.rng;
        let waits = rng.below(3) > 0;
        let gives_up = waits && rng.below(GIVEN_UP_ONE_IN) == 0;
        let limit = gives_up.then(|| Duration::from_micros(rng.below(GIVEN_UP_MAX.as_micros() as u64)));
        let began = now();
        let asked = self.files[number].set_lock(wanted, waits);
        let asked = match select(pin!(asked), pin!(self.patience(began, limit))).await {
            Either::Left((asked, _)) => asked,
            Either::Right(_) => return None,
        };
        self.waited(now() - began);
        match asked {
            Ok(()) => {
                let owner = (self.sharer.number, wanted.owner.0);
                let lock = Lock { file: number, owner, range: wanted.range, kind: wanted.kind };
                let id = self.sharer.shared.history().locks.granted(lock, now());
                return Some(Held { number, wanted, id });
            }
            Err(ClientError::LockConflict) if !waits => {}
            Err(ClientError::LockDeadlock) if waits && holds_another => {}
            Err(ClientError::Unavailable { .. }) => {}
            Err(error) => self.lost(number, "take a lock", &error).await,
        }
        None
    }

    /// Ends when nobody wants the lock any more.
    async fn patience(&self, began: Moment, limit: Option<Duration>) {
        while !self.sharer.is_over() && limit.is_none_or(|limit| now() - began < limit) {
            tokio::time::sleep(OVER_INTERVAL).await;
            let calm = now().saturating_sub(began.max(self.sharer.shared.led_since()));
            assert!(calm < WAIT_MAX, "{}: nobody answers a wait for a lock for {calm:?}", self.sharer.name);
        }
    }

    fn waited(&self, time: Duration) {
        let mut totals = self.sharer.shared.totals();
        totals.longest_wait_ms = totals.longest_wait_ms.max(time.as_millis() as u64);
        if time > Duration::from_secs(20) {
            tracing::info!("{}: a lock took {time:?}", self.sharer.name);
        }
    }

    /// Panics unless that is what a lost session looks like. The open file begins anew.
    async fn lost(&mut self, number: usize, what: &str, error: &ClientError) {
        assert!(is_of_lost_session(error), "{}: {what}: {error}", self.sharer.name);
        self.sharer.shared.totals().locks_lost += 1;
        tracing::info!("{}: {what}: {error}", self.sharer.name);
        drop(self.files[number].release().await); // what was not durable is not counted
        self.files[number] = open(&self.sharer, number).await;
    }

    /// Asks the cluster, and is not told that the lock is lost.
    async fn prove(&mut self, held: &Held) -> Result<(), Lost> {
        let Held { number, wanted, id } = *held;
        let began = now();
        let conflict = match self.sharer.rng.below(2) {
            0 => {
                let inode = self.files[number].inode();
                self.sharer.locker.perform(&Caller::ROOT, GetAttr { inode }).await.map(|_| None)
            }
            _ => self.files[number].test_lock(wanted).await,
        };
        let conflict = match conflict {
            Ok(conflict) => conflict,
            Err(ClientError::Unavailable { .. }) => return Ok(()), // nothing is proven
            Err(error) => {
                self.lost(number, "ask about a lock", &error).await;
                return Err(Lost);
            }
        };
        self.still_believes(held, began).await?;
        assert_eq!(conflict, None, "{}: {wanted:?} of file {number} is held", self.sharer.name);
        self.sharer.require(self.sharer.shared.history().locks.proven(id, began));
        Ok(())
    }

    async fn still_believes(&mut self, held: &Held, began: Duration) -> Result<(), Lost> {
        match self.files[held.number].read_at(Offset(0), 0).await {
            Ok(_) => {
                self.sharer.require(self.sharer.shared.history().locks.proven(held.id, began));
                Ok(())
            }
            Err(error) => {
                self.lost(held.number, "hold a lock", &error).await;
                Err(Lost)
            }
        }
    }

    /// For a while, with proofs.
    async fn keep(&mut self, held: &Held) -> Result<(), Lost> {
        let rng = &self.sharer.rng;
        let is_long = self.sharer.is_mortal && rng.below(HELD_LONG_ONE_IN) == 0;
        let most = if is_long { HELD_LONG_MAX } else { HELD_MAX };
        let until = now() + Duration::from_micros(rng.below(most.as_micros() as u64));
        while now() < until && !self.sharer.is_over() {
            tokio::time::sleep((until - now()).min(PROOF_INTERVAL).max(Duration::from_millis(1))).await;
            self.prove(held).await?;
        }
        Ok(())
    }

    async fn unlock(&mut self, held: Held) {
        let Held { number, wanted, .. } = held;
        self.sharer.shared.totals().locks += 1;
        match self.files[number].unlock(wanted.owner, LockRange::WHOLE).await {
            Ok(()) | Err(ClientError::Unavailable { .. }) => {}
            Err(error) => self.lost(number, "unlock", &error).await,
        }
    }

    async fn hold(&mut self) {
        let (number, wanted) = (self.some_file(), self.some_lock());
        let Some(held) = self.take(number, wanted, false).await else { return };
        if self.keep(&held).await.is_ok() {
            self.unlock(held).await;
        }
    }

    /// In either order: who would wait for ever is told.
    async fn hold_two(&mut self) {
        let first = self.some_file();
        let second = (first + 1) % LOCKED;
        let wanted = self.some_lock();
        let Some(held) = self.take(first, wanted, false).await else { return };
        // The same owner, else the leader sees no circle.
        let other = LockWanted { owner: wanted.owner, ..self.some_lock() };
        if let Some(other) = self.take(second, other, true).await
            && self.keep(&other).await.is_ok()
        {
            self.unlock(other).await;
        }
        if self.prove(&held).await.is_ok() {
            self.unlock(held).await;
        }
    }

    /// Raises the counter, which is the number of records.
    async fn append(&mut self) {
        let number = self.some_file();
        let wanted = self.wanted(TO_APPEND, LockKind::Exclusive);
        let Some(held) = self.take(number, wanted, false).await else { return };
        if self.append_under(&held).await.is_ok() {
            self.unlock(held).await;
        }
    }

    async fn append_under(&mut self, held: &Held) -> Result<(), Lost> {
        let (number, began) = (held.number, now());
        let file = self.files[number].clone();
        // As the mount does: what others have written is seen under the lock.
        let seen = self.sharer.locker.perform(&Caller::ROOT, GetAttr { inode: file.inode() }).await;
        let len = match seen {
            Ok(attr) => attr.size.0,
            Err(error) => {
                self.lost(number, "stat under a lock", &error).await;
                return Err(Lost);
            }
        };
        self.still_believes(held, began).await?;
        let index = (len / RECORD_LEN) as usize;
        self.last_record += 1;
        let record = (self.sharer.number, self.last_record);
        {
            let records = &mut self.sharer.shared.history().records[number];
            self.sharer.require(records.seen(index));
            records.try_to_append(record);
        }
        let bytes = [record.0.to_le_bytes(), record.1.to_le_bytes()].concat();
        match file.write_at(&Caller::ROOT, Offset(len), &bytes).await {
            Ok(()) => {}
            Err(ClientError::Unavailable { .. }) => return Ok(()), // the file could not be had: it may be there, or not
            Err(error) => {
                self.lost(number, "write under a lock", &error).await;
                return Err(Lost);
            }
        }
        self.keep(held).await?;
        // Before the lock ends.
        if let Err(error) = file.sync().await {
            self.lost(number, "fsync under a lock", &error).await;
            return Err(Lost);
        }
        self.sharer.require(self.sharer.shared.history().records[number].is_durable(record, index));
        Ok(())
    }
}
