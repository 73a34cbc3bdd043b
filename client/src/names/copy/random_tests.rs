//! The copy against a model of a leader and of other clients: questions, answers, recalls, heartbeats and changes travel, arrive
//! in any order where they may, or are lost. Whatever the copy answers is what the leader has at that moment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use dfs_net::env::Rng;
use dfs_proto::attr::{Caller, FileKind, InodeAttr, Name};
use dfs_proto::error::MetaError;
use dfs_proto::ids::{Attachment, InodeId};
use dfs_proto::meta::{
    Change, Changed, Create, DirEntry, Dropped, MetaResult, NewInode, Read, ReadReply, Recall, Recalled,
    Rename, RenameMode, SetAttr, Shown,
};

use crate::names::copy::fixtures::{DIRECTORY, attr};
use crate::names::copy::lease::MARGIN;
use crate::names::copy::listings::Room;
use crate::names::copy::own_answers::ShownByChange;
use crate::names::copy::state::{OwnChange, Question, State};
use crate::session::calls::Answer;
use crate::session::leases::Taken;

const SEEDS: u64 = 1500;
const STEPS: usize = 600;
const TERM: Duration = Duration::from_secs(2);
const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];

/// One directory, and what its names lead to.
#[derive(Default)]
struct Files {
    attrs: BTreeMap<InodeId, InodeAttr>,
    names: BTreeMap<Vec<u8>, InodeId>,
    made: u64,
}

impl Files {
    fn behind(&self, change: &Change) -> BTreeSet<InodeId> {
        let names = change.scope().behind;
        names.keys().filter_map(|(_, name)| self.names.get(name).copied()).collect()
    }

    fn touch(&mut self, inode: InodeId) {
        if let Some(attr) = self.attrs.get_mut(&inode) {
            attr.content_version += 1;
        }
    }

    fn make(&mut self, name: &[u8]) -> InodeId {
        let kind = if self.made.is_multiple_of(3) { FileKind::Directory } else { FileKind::File };
        self.made += 1;
        let inode = InodeId(1000 + self.made);
        self.attrs.insert(inode, attr(inode, kind, 1));
        self.names.insert(name.to_vec(), inode);
        inode
    }

    fn remove(&mut self, name: &[u8], is_wanted: impl Fn(&InodeAttr) -> bool) -> Option<Changed> {
        let inode = self.names.get(name).copied().filter(|inode| is_wanted(&self.attrs[inode]))?;
        self.names.remove(name);
        self.touch(inode);
        self.touch(DIRECTORY);
        Some(Changed::Removed { orphan: None })
    }

    fn shown(&self, inode: InodeId, existed: bool) -> Option<Changed> {
        Some(Changed::Inode { attr: self.attrs[&inode].clone(), existed, next_commit: 1 })
    }

    /// `None`: it is refused.
    fn execute(&mut self, change: &Change) -> Option<Changed> {
        let is_directory = |attr: &InodeAttr| attr.kind == FileKind::Directory;
        match change {
            Change::SetAttr(set) => {
                self.touch(set.inode);
                self.shown(set.inode, true)
            }
            Change::Create(create) => match self.names.get(create.name.as_bytes()) {
                None => {
                    let inode = self.make(create.name.as_bytes());
                    self.touch(DIRECTORY);
                    self.shown(inode, false)
                }
                Some(inode) if create.or_existing => self.shown(*inode, true),
                Some(_) => None,
            },
            Change::Link { inode, name, .. } if !self.names.contains_key(name.as_bytes()) => {
                self.names.insert(name.as_bytes().to_vec(), *inode);
                self.touch(*inode);
                self.touch(DIRECTORY);
                self.shown(*inode, true)
            }
            Change::Unlink { name, .. } => self.remove(name.as_bytes(), |attr| !is_directory(attr)),
            Change::Rmdir { name, .. } => self.remove(name.as_bytes(), is_directory),
            Change::Rename(rename) => {
                let (from, to) = (rename.name.as_bytes(), rename.new_name.as_bytes());
                let moved = self.names.get(from).copied().filter(|_| from != to)?;
                if let Some(replaced) = self.names.insert(to.to_vec(), moved) {
                    self.touch(replaced);
                }
                self.names.remove(from);
                self.touch(moved);
                self.touch(DIRECTORY);
                Some(Changed::Done)
            }
            _ => None,
        }
    }

    fn answer(&self, read: &Read) -> MetaResult<ReadReply> {
        let shown = |inode: InodeId| Ok(ReadReply::Attr(self.attrs[&inode].clone()));
        match read {
            Read::GetAttr { inode } => shown(*inode),
            Read::Lookup { name, .. } => {
                self.names.get(name).map_or(Err(MetaError::NotFound), |inode| shown(*inode))
            }
            Read::ReadDir { cookie, limit, plus, .. } => Ok(self.list(*cookie, *limit as usize, *plus)),
            other => panic!("{other:?} is not asked"),
        }
    }

    fn list(&self, cookie: u64, limit: usize, plus: bool) -> ReadReply {
        let in_order = self.names.iter().map(|(name, inode)| (cookie_of(name), (name, inode)));
        let behind = in_order.collect::<BTreeMap<_, _>>().split_off(&(cookie + 1));
        let entry = |(cookie, (name, inode)): (&u64, &(&Vec<u8>, &InodeId))| {
            let attr = &self.attrs[*inode];
            let (name, kind) = (Name::new(name.as_slice()).unwrap(), attr.kind);
            DirEntry { name, inode: **inode, kind, cookie: *cookie, attr: plus.then(|| attr.clone()) }
        };
        let entries = behind.iter().take(limit).map(entry).collect();
        ReadReply::Entries { entries, end: behind.len() <= limit, parent: DIRECTORY }
    }

    /// The copy may answer with a shorter page, as far as it knows.
    fn would_answer(&self, read: &Read, answer: &MetaResult<ReadReply>) -> bool {
        match (read, answer) {
            (
                Read::ReadDir { cookie, limit, plus, .. },
                Ok(ReadReply::Entries { entries, end: false, parent }),
            ) => {
                let len = entries.len();
                let ReadReply::Entries { entries: now, .. } = self.list(*cookie, len, *plus) else {
                    return false;
                };
                (1..=*limit as usize).contains(&len) && *entries == now && *parent == DIRECTORY
            }
            _ => self.answer(read) == *answer,
        }
    }
}

/// Not in the order of the names.
fn cookie_of(name: &[u8]) -> u64 {
    20 + (u64::from(name[0]) * 7) % 10
}

/// A change that is frozen and not yet executed.
struct Pending {
    change: Change,
    touched: BTreeSet<InodeId>,
    /// Of these no other change was ever frozen beside it.
    alone: BTreeSet<InodeId>,
    /// It is of the client under test: what it has dropped, and the number of its request.
    own: Option<(Option<Dropped>, u64)>,
    /// The recall that has to be handled, and the attachment that it is of.
    recall: Option<(Attachment, u64)>,
    lapses_at: Duration,
}

#[derive(Default)]
struct Leader {
    files: Files,
    attachment: Attachment,
    holds: BTreeSet<InodeId>,
    issued: u64,
    handled: u64,
    renewed_at: Duration,
    pending: Vec<Pending>,
    /// Requests of the client under test that were executed.
    executed: BTreeSet<u64>,
}

impl Leader {
    /// To a change that was executed just now: with leases on what it shows.
    fn answer(
        &mut self,
        changed: Changed,
        attachment: Option<Attachment>,
        change: &Change,
        alone: &BTreeSet<InodeId>,
    ) -> Answer {
        let directories = change.scope().directories();
        let mut leased: Vec<InodeId> =
            directories.iter().copied().filter(|inode| alone.contains(inode)).collect();
        if let Changed::Inode { attr, existed: false, .. } = &changed {
            leased.push(attr.inode);
        }
        leased.retain(|_| attachment == Some(self.attachment));
        self.holds.extend(&leased);
        let directories = directories.iter().map(|inode| self.files.attrs[inode].clone()).collect();
        Answer { answered: Ok((changed, directories)), is_first_try: true, writes: false, leased }
    }
}

/// A request of the client under test, as it knows it.
struct Waiting {
    own: OwnChange,
    change: Change,
    number: u64,
    attachment: Option<Attachment>,
}

enum Flying {
    Read(Question, Read),
    Shown(Question, Read, Shown),
    Heartbeat { attachment: Attachment, sent: Duration },
    Renewed { attachment: Attachment, sent: Duration, recalls: Option<u64> },
    Attach { attachment: Attachment, sent: Duration },
    Attached { attachment: Attachment, sent: Duration },
    Handled { attachment: Attachment, number: u64 },
    Change { number: u64, change: Change, dropped: Option<Dropped> },
    Changed { number: u64, answer: Answer },
}

struct World {
    rng: Rng,
    now: Duration,
    copy: State,
    leader: Leader,
    flying: Vec<Flying>,
    /// In order.
    pushes: VecDeque<Recall>,
    are_pushes_slow: bool,
    waiting: Vec<Waiting>,
    last_request: u64,
    last_attachment: u64,
    answers: u64,
    /// Those among them that list the directory.
    lists: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut leader = Leader { attachment: Attachment(0), ..Leader::default() };
        leader.files.attrs.insert(DIRECTORY, attr(DIRECTORY, FileKind::Directory, 1));
        leader.files.make(b"a");
        leader.files.make(b"b");
        World {
            rng: Rng::seeded(seed),
            now: Duration::from_secs(100),
            copy: State::with_room(
                6 + 2 * (seed as usize % 20),
                Room { in_all: 10, of_one: 3 + seed as usize % 3 },
            ),
            leader,
            flying: Vec::new(),
            pushes: VecDeque::new(),
            are_pushes_slow: seed.is_multiple_of(2),
            waiting: Vec::new(),
            last_request: 0,
            last_attachment: 0,
            answers: 0,
            lists: 0,
        }
    }

    fn inode(&self) -> InodeId {
        let all: Vec<InodeId> = self.leader.files.attrs.keys().copied().collect();
        all[self.rng.below(all.len() as u64) as usize]
    }

    fn name(&self) -> Name {
        Name::new(NAMES[self.rng.below(4) as usize]).unwrap()
    }

    fn some_read(&self) -> Read {
        let cookies = [0, 0, cookie_of(self.name().as_bytes())];
        match self.rng.below(5) {
            0 => Read::GetAttr { inode: self.inode() },
            1 => Read::GetAttr { inode: DIRECTORY },
            2 | 3 => Read::ReadDir {
                inode: DIRECTORY,
                cookie: cookies[self.rng.below(3) as usize],
                limit: 1 + self.rng.below(5) as u32,
                plus: self.rng.below(2) == 0,
            },
            _ => Read::Lookup { parent: DIRECTORY, name: self.name().as_bytes().to_vec() },
        }
    }

    fn some_change(&self) -> Change {
        let (parent, name) = (DIRECTORY, self.name());
        match self.rng.below(6) {
            0 => Change::SetAttr(SetAttr { inode: self.inode(), ..SetAttr::default() }),
            1 => {
                let (or_existing, opens) = (self.rng.below(2) == 0, false);
                Change::Create(Create { parent, name, mode: 0, what: NewInode::File, or_existing, opens })
            }
            2 => match self.inode() {
                DIRECTORY => Change::Rmdir { parent, name },
                inode => Change::Link { inode, parent, name },
            },
            3 => Change::Unlink { parent, name },
            4 => Change::Rmdir { parent, name },
            _ => {
                let (new_parent, new_name, mode) = (parent, self.name(), RenameMode::Replace);
                Change::Rename(Rename { parent, name, new_parent, new_name, mode })
            }
        }
    }

    // --- the client ---

    fn asks(&mut self) {
        let read = self.some_read();
        if let Some(answer) = self.copy.answer(&Caller::ROOT, &read, self.now) {
            let files = &self.leader.files;
            assert!(files.would_answer(&read, &answer), "{read:?}: {answer:?} for {:?}", files.answer(&read));
            self.answers += 1;
            self.lists += u64::from(matches!(read, Read::ReadDir { .. }));
        } else if let Some(question) = self.copy.ask() {
            self.flying.push(Flying::Read(question, read));
        }
    }

    fn changes(&mut self) {
        let change = self.some_change();
        let (own, dropped) = self.copy.begin_change(change.scope(), self.now);
        self.last_request += 1;
        let number = self.last_request;
        let attachment = dropped.as_ref().map(|dropped| dropped.attachment);
        self.waiting.push(Waiting { own, change: change.clone(), number, attachment });
        self.flying.push(Flying::Change { number, change, dropped });
    }

    /// Right or wrong: what the copy notes of it is a guess anyway.
    fn some_outcome(&self) -> Changed {
        let attr = attr(self.inode(), FileKind::File, 1);
        Changed::Inode { attr, existed: false, next_commit: 1 }
    }

    fn gives_up(&mut self) {
        if !self.waiting.is_empty() {
            let given_up = self.waiting.swap_remove(self.rng.below(self.waiting.len() as u64) as usize);
            self.copy.end_change(given_up.own);
            if given_up.attachment == Some(Attachment(self.last_attachment)) {
                self.attaches();
            }
        }
    }

    fn attaches(&mut self) {
        self.last_attachment += 1;
        let (attachment, sent) = (Attachment(self.last_attachment), self.now);
        self.copy.attaching(attachment);
        self.flying.push(Flying::Attach { attachment, sent });
    }

    fn beats(&mut self) {
        let (attachment, sent) = (Attachment(self.last_attachment), self.now);
        self.flying.push(Flying::Heartbeat { attachment, sent });
    }

    // --- the leader ---

    /// Another client's change is frozen, and what it touches is recalled.
    fn other_begins(&mut self) {
        let change = self.some_change();
        self.freeze(change, None);
    }

    fn freeze(&mut self, change: Change, own: Option<(Option<Dropped>, u64)>) {
        let leader = &mut self.leader;
        let scope = change.scope();
        let behind = leader.files.behind(&change);
        let touched: BTreeSet<InodeId> = scope.inodes.union(&behind).copied().collect();
        let dropped = own.as_ref().and_then(|(dropped, _)| dropped.as_ref());
        let spared = match dropped.filter(|dropped| dropped.attachment == leader.attachment) {
            Some(dropped) => scope.inodes.iter().chain(&dropped.behind).copied().collect(),
            None => BTreeSet::new(),
        };
        let recalled: Vec<InodeId> =
            touched.intersection(&leader.holds).filter(|inode| !spared.contains(inode)).copied().collect();
        let mut recall = None;
        if !recalled.is_empty() {
            leader.issued += 1;
            recall = Some((leader.attachment, leader.issued));
            let names = |inode: InodeId| {
                let of_inode = scope.names.iter().filter(|(directory, _)| *directory == inode);
                of_inode.map(|(_, name)| name.clone()).collect()
            };
            let what = Recalled::Inodes(recalled.iter().map(|inode| (*inode, names(*inode))).collect());
            self.pushes.push_back(Recall { attachment: leader.attachment, number: leader.issued, what });
        }
        let lapses_at = leader.renewed_at + TERM + MARGIN;
        let mut alone = touched.clone();
        for other in &mut leader.pending {
            other.alone.retain(|inode| !touched.contains(inode));
            alone.retain(|inode| !other.touched.contains(inode));
        }
        leader.pending.push(Pending { change, touched, alone, own, recall, lapses_at });
    }

    fn frozen_goes_on(&mut self) {
        if self.leader.pending.is_empty() {
            return;
        }
        let at = self.rng.below(self.leader.pending.len() as u64) as usize;
        let (leader, now) = (&mut self.leader, self.now);
        let pending = &leader.pending[at];
        let is_open = pending.recall.is_some_and(|(attachment, number)| {
            attachment == leader.attachment && number > leader.handled && now < pending.lapses_at
        });
        if is_open {
            return;
        }
        let pending = leader.pending.swap_remove(at);
        if !leader.files.behind(&pending.change).is_subset(&pending.touched) {
            return self.freeze(pending.change, pending.own); // the name leads elsewhere by now
        }
        // Not before: another change of the same inode, which begins meanwhile, has to wait for the recall as well. Of a directory
        // of which only names change, the lease stays.
        let stays = |inode: &InodeId| pending.change.scope().directories().contains(inode);
        leader.holds.retain(|inode| stays(inode) || !pending.touched.contains(inode));
        let is_first = pending.own.as_ref().is_none_or(|(_, number)| leader.executed.insert(*number));
        let changed = if is_first { leader.files.execute(&pending.change) } else { None };
        let Some((dropped, number)) = pending.own else { return };
        let attachment = dropped.map(|dropped| dropped.attachment);
        let answer = match changed {
            Some(changed) => leader.answer(changed, attachment, &pending.change, &pending.alone),
            None => Answer::refused(MetaError::Exists, true),
        };
        self.flying.push(Flying::Changed { number, answer });
    }

    fn serve_read(&mut self, question: Question, read: Read) {
        let leader = &mut self.leader;
        let answered = leader.files.answer(&read);
        let mut leased: Vec<InodeId> = read.scope().inodes.into_iter().collect();
        match &answered {
            Ok(ReadReply::Attr(attr)) => leased.push(attr.inode),
            Ok(ReadReply::Entries { entries, .. }) => {
                leased.extend(entries.iter().filter_map(|entry| Some(entry.attr.as_ref()?.inode)));
            }
            _ => {}
        }
        let is_frozen =
            |inode: &InodeId| leader.pending.iter().any(|pending| pending.touched.contains(inode));
        leased.retain(|inode| question.attachment == leader.attachment && !is_frozen(inode));
        leader.holds.extend(&leased);
        self.flying.push(Flying::Shown(question, read, Shown { answered, leased }));
    }

    fn arrives(&mut self, flying: Flying) {
        match flying {
            Flying::Read(question, read) => self.serve_read(question, read),
            Flying::Shown(question, read, shown) => self.copy.answered(question, &read, &shown),
            Flying::Heartbeat { attachment, sent } => {
                let is_attached = attachment == self.leader.attachment;
                if is_attached {
                    self.leader.renewed_at = self.now;
                }
                let recalls = is_attached.then_some(self.leader.issued);
                self.flying.push(Flying::Renewed { attachment, sent, recalls });
            }
            Flying::Renewed { attachment, sent, recalls: Some(recalls) } => {
                self.copy.renewed(attachment, (sent, self.now), recalls);
            }
            Flying::Renewed { .. } => {}
            Flying::Attach { attachment, sent } if attachment > self.leader.attachment => {
                let leader = &mut self.leader;
                (leader.attachment, leader.renewed_at) = (attachment, self.now);
                (leader.issued, leader.handled) = (0, 0);
                leader.holds.clear();
                self.flying.push(Flying::Attached { attachment, sent });
            }
            Flying::Attach { .. } => {}
            Flying::Attached { attachment, sent } => self.copy.attached(attachment, sent, TERM),
            Flying::Handled { attachment, number } => {
                if attachment == self.leader.attachment {
                    self.leader.handled = self.leader.handled.max(number);
                }
            }
            Flying::Change { number, change, dropped } => self.freeze(change, Some((dropped, number))),
            Flying::Changed { number, answer } => {
                if let Some(at) = self.waiting.iter().position(|waiting| waiting.number == number) {
                    let Waiting { own, change, .. } = self.waiting.swap_remove(at);
                    self.copy.executed(&change, &self.some_outcome());
                    self.copy.change_answered(own, ShownByChange::of(&change, &answer));
                }
            }
        }
    }

    fn something_arrives(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        // Mostly in order.
        let at = match self.rng.below(3) {
            0 => self.rng.below(self.flying.len() as u64) as usize,
            _ => 0,
        };
        let flying = self.flying.remove(at);
        if self.rng.below(20) > 0 {
            return self.arrives(flying);
        }
        match flying {
            Flying::Read(question, _) | Flying::Shown(question, ..) => self.copy.given_up(question),
            // It comes late; one that is lost is as one that is never executed.
            Flying::Change { .. } => self.flying.push(flying),
            _ => {}
        }
    }

    fn push_arrives(&mut self) {
        if self.are_pushes_slow && self.rng.below(20) > 0 {
            return;
        }
        let Some(recall) = self.pushes.pop_front() else { return };
        if let Taken::Handled(handled) = self.copy.recalled(&recall, self.now) {
            let (attachment, number) = (handled.attachment, handled.number);
            self.flying.push(Flying::Handled { attachment, number });
        }
    }

    fn step(&mut self) {
        match self.rng.below(1000) {
            0..400 => self.asks(),
            400..420 => self.changes(),
            420..428 => self.gives_up(),
            428..431 => self.attaches(),
            431..460 => self.beats(),
            460..485 => self.other_begins(),
            485..545 => self.frozen_goes_on(),
            545..605 => self.push_arrives(),
            605..985 => self.something_arrives(),
            985..993 => self.now += Duration::from_millis(self.rng.below(2000)),
            _ => self.now += Duration::from_millis(self.rng.below(100)),
        }
    }
}

#[test]
fn whatever_the_copy_answers_is_what_the_leader_has_at_that_moment() {
    let (mut answers, mut lists) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        world.attaches();
        for step in 0..STEPS {
            let run = std::panic::AssertUnwindSafe(|| world.step());
            if let Err(panic) = std::panic::catch_unwind(run) {
                eprintln!("seed {seed}, step {step}");
                std::panic::resume_unwind(panic);
            }
        }
        answers += world.answers;
        lists += world.lists;
    }
    println!("{answers} answers, {lists} of them listings");
    assert!(answers > SEEDS * 5, "{answers} answers are too few to tell anything");
    assert!(lists > SEEDS, "{lists} listings are too few to tell anything");
}
