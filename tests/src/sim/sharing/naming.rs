//! Names of the shared directory, times of its files, and files whose content changes: changed by all, looked at by all.
//!
//! A file that somebody has open stays, whoever removes its name (P6.5).

use std::sync::Arc;
use std::time::Duration;

use dfs_client::ClientError;
use dfs_client::inode::{Client, CreateOpen, File, GetAttr, Lookup, Open, OpenMode, ReadDir, Unlink};
use dfs_proto::attr::{Caller, Timestamp};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Create, NewInode, Rename, RenameMode, SetAttr, SetTime};
use dfs_proto::units::Offset;

use super::register::{Moment, Span};
use super::sharer::{Sharer, is_of_lost_session, name_of, now, since};
use super::shown::{NAMES, PAPERS};
use crate::sim::plan::OVER_INTERVAL;

const PAUSE_MAX: Duration = Duration::from_millis(1400);
/// Inodes that a client remembers and looks at.
const REMEMBERED: usize = 4;
const OPEN_MAX: usize = 3;
/// Fewer than there are names: then a listing has several pages.
const SHORT_PAGE: u32 = 3;
const LONG_PAGE: u32 = 100;

pub(super) async fn live(sharer: Sharer) {
    let mut naming =
        Naming { sharer, remembered: Vec::new(), open: Vec::new(), papers: [const { None }; PAPERS] };
    while !naming.sharer.is_over() {
        if naming.sharer.watches() {
            naming.sharer.pause(OVER_INTERVAL).await;
            continue;
        }
        let kind = naming.step().await;
        let Sharer { number, shared, .. } = &naming.sharer;
        shared.note(1000 + number, kind);
        naming.sharer.pause(PAUSE_MAX).await;
    }
    while !naming.open.is_empty() {
        naming.close().await;
    }
    for file in naming.papers.into_iter().flatten() {
        file.release().await.unwrap_or_else(|error| panic!("close a paper: {error}"));
    }
}

struct Naming {
    sharer: Sharer,
    remembered: Vec<InodeId>,
    open: Vec<Arc<File>>,
    /// Those that were written without a sync, and may be in this client's buffer only.
    papers: [Option<Arc<File>>; PAPERS],
}

fn file_name(name: usize) -> String {
    format!("n{name}")
}

fn paper_name(paper: usize) -> String {
    format!("paper{paper}")
}

/// A value that nobody else writes.
fn value_of(number: u64, began: Moment) -> u64 {
    (began.as_millis() as u64) << 16 | number
}

fn written_by(value: u64) -> u64 {
    value & 0xffff
}

fn new_file(sharer: &Sharer, name: &str, or_existing: bool) -> Create {
    Create {
        parent: sharer.directory,
        name: name_of(name),
        mode: 0o644,
        what: NewInode::File,
        or_existing,
        opens: false,
    }
}

/// `None`: the name is absent.
pub(super) async fn look_up(sharer: &Sharer, client: &Client, name: usize) {
    let began = now();
    let lookup = Lookup { parent: sharer.directory, name: file_name(name).into_bytes() };
    let found = match client.perform(&Caller::ROOT, lookup).await {
        Ok(attr) => Some(attr),
        Err(ClientError::NotFound) => None,
        Err(error) => panic!("{}: look up name {name}: {error}", sharer.name),
    };
    let (span, mut history) = (since(began), sharer.shared.history());
    sharer.require(history.shown.saw_name(name, found.as_ref().map(|attr| attr.inode), span));
    if let Some(attr) = found {
        sharer.require(history.shown.saw_attr(&attr, span));
    }
}

async fn list(sharer: &Sharer, client: &Client, limit: u32) {
    let (began, mut found, mut cookie) = (now(), [None; NAMES], 0);
    loop {
        let (began, plus) = (now(), sharer.rng.below(2) == 0);
        let read = ReadDir { inode: sharer.directory, cookie, limit, plus };
        let page = client.perform(&Caller::ROOT, read).await;
        let page = page.unwrap_or_else(|error| panic!("{}: list: {error}", sharer.name));
        let (span, mut history) = (since(began), sharer.shared.history());
        for entry in &page.entries {
            let is_it = |name: &usize| file_name(*name).as_bytes() == entry.name.as_bytes();
            let Some(name) = (0..NAMES).find(is_it) else { continue };
            found[name] = Some(entry.inode);
            if let Some(attr) = &entry.attr {
                sharer.require(history.shown.saw_attr(attr, span));
            }
        }
        match page.entries.last() {
            Some(last) if !page.end => cookie = last.cookie,
            Some(_) | None => break,
        }
    }
    let (span, mut history) = (since(began), sharer.shared.history());
    for (name, inode) in found.into_iter().enumerate() {
        sharer.require(history.shown.saw_name(name, inode, span));
    }
}

async fn read_paper(sharer: &Sharer, client: &Arc<Client>, paper: usize) {
    let began = now();
    let read = async {
        let lookup = Lookup { parent: sharer.directory, name: paper_name(paper).into_bytes() };
        let inode = client.perform(&Caller::ROOT, lookup).await?.inode;
        let mode = OpenMode { read: true, ..OpenMode::default() };
        let file = client.perform(&Caller::ROOT, Open { inode, mode }).await?;
        let bytes = file.read_at(Offset(0), 8).await;
        drop(file.release().await); // nothing was written
        bytes
    };
    let value = match read.await {
        Ok(bytes) => bytes.as_ref().try_into().map_or(0, u64::from_le_bytes),
        Err(ClientError::NotFound) => 0, // nobody has made it yet
        Err(error) if is_of_lost_session(&error) => return,
        Err(error) => panic!("{}: read paper {paper}: {error}", sharer.name),
    };
    let span = since(began);
    let mut history = sharer.shared.history();
    sharer.require(history.shown.saw_paper(paper, value, span));
    if !Arc::ptr_eq(client, &sharer.client) || written_by(value) != sharer.number {
        history.shown.fetched(paper, value);
    }
}

pub(super) async fn look_at_all(sharer: &Sharer) {
    list(sharer, &sharer.client, LONG_PAGE).await;
    for name in 0..NAMES {
        look_up(sharer, &sharer.client, name).await;
    }
    for paper in 0..PAPERS {
        read_paper(sharer, &sharer.client, paper).await;
    }
}

impl Naming {
    fn name(&self) -> usize {
        self.sharer.rng.below(NAMES as u64) as usize
    }

    fn paper(&self) -> usize {
        self.sharer.rng.below(PAPERS as u64) as usize
    }

    /// Either of this client's own two mounts.
    fn some_client(&self) -> &Arc<Client> {
        let Sharer { client, locker, rng, .. } = &self.sharer;
        if rng.below(2) == 0 { client } else { locker }
    }

    async fn step(&mut self) -> u64 {
        let kind = self.sharer.rng.below(30);
        match kind {
            0..=3 => self.create().await,
            4..=5 => self.unlink().await,
            6..=7 => self.rename(false).await,
            8 => self.rename(true).await,
            9..=10 => self.set_time().await,
            11 | 24..=25 => self.write_paper().await,
            12..=14 => look_up(&self.sharer, self.some_client(), self.name()).await,
            15..=17 => {
                let limit = if self.sharer.rng.below(2) == 0 { SHORT_PAGE } else { LONG_PAGE };
                list(&self.sharer, self.some_client(), limit).await;
            }
            18..=19 => self.stat().await,
            20 | 26..=29 => read_paper(&self.sharer, self.some_client(), self.paper()).await,
            21..=22 => self.open().await,
            _ => self.close().await,
        }
        kind
    }

    fn remember(&mut self, inode: InodeId) {
        if self.remembered.len() == REMEMBERED {
            self.remembered.remove(0);
        }
        self.remembered.push(inode);
    }

    fn some_remembered(&self) -> Option<InodeId> {
        let index = self.sharer.rng.below(self.remembered.len() as u64) as usize;
        self.remembered.get(index).copied()
    }

    /// Panics unless the session may have been lost.
    fn require_lost(&self, what: &str, error: &ClientError) {
        let may_be = self.sharer.is_mortal && is_of_lost_session(error);
        assert!(may_be, "{}: {what}: {error}", self.sharer.name);
    }

    async fn create(&mut self) {
        let (name, began) = (self.name(), now());
        let id = self.sharer.shared.history().shown.begin_create(name, began);
        let create = new_file(&self.sharer, &file_name(name), false);
        let made = self.sharer.client.perform(&Caller::ROOT, create).await;
        if let Ok(made) = &made {
            self.remember(made.attr.inode);
        }
        let (span, shown) = (since(began), &mut self.sharer.shared.history().shown);
        match made {
            Ok(made) => self.sharer.require(shown.created(name, id, &made.attr, span)),
            Err(ClientError::Exists) => self.sharer.require(shown.refused_as_present(name, id, span)),
            Err(error) => self.require_lost("create", &error),
        }
    }

    async fn unlink(&mut self) {
        let (name, began) = (self.name(), now());
        let id = self.sharer.shared.history().shown.begin_unlink(name, began);
        let unlink = Unlink { parent: self.sharer.directory, name: name_of(&file_name(name)) };
        let removed = self.sharer.client.perform(&Caller::ROOT, unlink).await;
        let (span, shown) = (since(began), &mut self.sharer.shared.history().shown);
        match removed {
            Ok(()) => self.sharer.require(shown.unlinked(name, id, span)),
            Err(ClientError::NotFound) => self.sharer.require(shown.refused_as_absent(name, id, span)),
            Err(error) => self.require_lost("unlink", &error),
        }
    }

    async fn rename(&mut self, exchange: bool) {
        let from = self.name();
        let to = (from + 1 + self.sharer.rng.below(NAMES as u64 - 1) as usize) % NAMES;
        let began = now();
        let renaming = self.sharer.shared.history().shown.begin_rename((from, to), exchange, began);
        let rename = Rename {
            parent: self.sharer.directory,
            name: name_of(&file_name(from)),
            new_parent: self.sharer.directory,
            new_name: name_of(&file_name(to)),
            mode: if exchange { RenameMode::Exchange } else { RenameMode::Replace },
        };
        let renamed = self.sharer.client.perform(&Caller::ROOT, rename).await.map(drop);
        let (span, shown) = (since(began), &mut self.sharer.shared.history().shown);
        match renamed {
            Ok(()) => self.sharer.require(shown.renamed(renaming, exchange, span)),
            Err(ClientError::NotFound) => {
                self.sharer.require(shown.refused_rename(renaming, exchange, span));
            }
            Err(error) => self.require_lost("rename", &error),
        }
    }

    /// To a time that nobody else sets.
    async fn set_time(&mut self) {
        let Some(inode) = self.some_remembered() else { return };
        let (began, number) = (now(), self.sharer.number);
        let time = Timestamp { seconds: began.as_millis() as i64, nanos: number as u32 };
        let id = self.sharer.shared.history().shown.begin_set_time(inode, time, began);
        let set = SetAttr { inode, mtime: Some(SetTime::At(time)), ..SetAttr::default() };
        let done = self.sharer.client.perform(&Caller::ROOT, set).await.map(drop);
        let (ended, shown) = (now(), &mut self.sharer.shared.history().shown);
        match done {
            Ok(()) => shown.time_is_set(inode, id, Some(time), ended),
            Err(ClientError::Stale | ClientError::NotFound) => shown.time_is_set(inode, id, None, ended),
            Err(error) => self.require_lost("set a time", &error),
        }
    }

    async fn stat(&mut self) {
        let Some(inode) = self.some_remembered() else { return };
        let began = now();
        let seen = self.some_client().perform(&Caller::ROOT, GetAttr { inode }).await;
        match seen {
            Ok(attr) => {
                let span = since(began);
                self.sharer.require(self.sharer.shared.history().shown.saw_attr(&attr, span));
            }
            Err(ClientError::Stale | ClientError::NotFound) => {} // it is gone
            Err(error) => panic!("{}: stat {inode}: {error}", self.sharer.name),
        }
    }

    /// From the call until the return, others may see it or not. After that they do, also what is in this client's buffer only.
    async fn write_paper(&mut self) {
        let (paper, began) = (self.paper(), now());
        let value = value_of(self.sharer.number, began);
        // What is only written is lost with the session, also when it was closed.
        let syncs = self.sharer.is_mortal || self.sharer.rng.below(3) == 0;
        let id = self.sharer.shared.history().shown.begin_write(paper, value, began);
        match self.put_into_paper(paper, value, syncs).await {
            Ok(()) => {
                let (ended, shown) = (now(), &mut self.sharer.shared.history().shown);
                shown.written(paper, id, value, ended);
                if !syncs {
                    shown.is_unsynced(paper, value);
                }
            }
            Err(error) => self.require_lost("write a paper", &error),
        }
    }

    async fn put_into_paper(&mut self, paper: usize, value: u64, syncs: bool) -> Result<(), ClientError> {
        let file = match self.papers[paper].take() {
            Some(file) => file,
            None => {
                let create = new_file(&self.sharer, &paper_name(paper), true);
                let mode = OpenMode { read: true, write: true, ..OpenMode::default() };
                self.sharer.client.perform(&Caller::ROOT, CreateOpen { create, mode }).await?.0
            }
        };
        let written = file.write_at(&Caller::ROOT, Offset(0), &value.to_le_bytes()).await;
        if !syncs {
            self.papers[paper] = Some(file);
            return written;
        }
        let flushed = file.sync().await;
        drop(file.release().await); // it was flushed
        written.and(flushed)
    }

    async fn open(&mut self) {
        let Some(inode) = self.some_seen().await else { return };
        self.remember(inode);
        if self.open.len() == OPEN_MAX {
            self.close().await;
        }
        // Of an open that only reads, the leader need not be told at once.
        let write = self.sharer.rng.below(3) == 0;
        let mode = OpenMode { read: true, write, ..OpenMode::default() };
        match self.sharer.client.perform(&Caller::ROOT, Open { inode, mode }).await {
            Ok(file) => self.open.push(file),
            Err(ClientError::Stale | ClientError::NotFound) => {} // it is gone
            Err(error) => self.require_lost("open", &error),
        }
    }

    async fn some_seen(&self) -> Option<InodeId> {
        let lookup = Lookup { parent: self.sharer.directory, name: file_name(self.name()).into_bytes() };
        match self.sharer.client.perform(&Caller::ROOT, lookup).await {
            Ok(attr) => Some(attr.inode),
            Err(ClientError::NotFound) => None,
            Err(error) => panic!("{}: look up a name: {error}", self.sharer.name),
        }
    }

    /// What is open is there, and can be changed, whether or not it has a name (P6.5). A lost session has lost that.
    async fn close(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let file = self.open.remove(0);
        let (inode, began) = (file.inode(), now());
        match self.sharer.client.perform(&Caller::ROOT, GetAttr { inode }).await {
            Ok(attr) => self.saw(&attr, began),
            Err(ClientError::Stale | ClientError::NotFound) if self.sharer.is_mortal => {}
            Err(error) => panic!("{}: {inode} is open here: {error}", self.sharer.name),
        }
        drop(file.release().await); // nothing was written
    }

    fn saw(&self, attr: &dfs_proto::attr::InodeAttr, began: Moment) {
        let span = Span { began, ended: now() };
        self.sharer.require(self.sharer.shared.history().shown.saw_attr(attr, span));
    }
}
