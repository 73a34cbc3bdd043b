//! Several clients and one leader, whose messages overtake each other and are lost with connections: no two of them ever write one
//! file, and whoever is asked for a file gives it back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dfs_net::env::Rng;
use dfs_proto::ids::{Attachment, InodeId, SessionId, WriteGrant};
use dfs_proto::meta::{HeldWrite, WriteRecall};

use crate::data::writes::state::{Decision, State, Ticket};
use crate::session::leases::Bound;

const FILES: u64 = 2;
const CLIENTS: usize = 3;
const TERM: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
enum Message {
    Attach(Attachment, Vec<HeldWrite>),
    Attached(Attachment),
    Acquire(Attachment, HeldWrite),
    Granted(HeldWrite),
    Refused(HeldWrite),
    /// Of a file; the client does not know which before the answer.
    Create(Attachment, HeldWrite),
    Created(HeldWrite, bool),
    Recall(WriteRecall),
    Return(Vec<HeldWrite>),
}

#[derive(Default)]
struct Leader {
    attached: BTreeMap<usize, Attachment>,
    held: BTreeMap<InodeId, (usize, WriteGrant)>,
    waiting: Vec<(usize, Attachment, HeldWrite)>,
    pushed: BTreeSet<(Attachment, HeldWrite)>,
}

struct Client {
    state: State,
    attachment: u64,
    /// Writers that wait for a grant.
    waiting: Vec<HeldWrite>,
    holds: Vec<HeldWrite>,
    flushing: Vec<HeldWrite>,
}

struct World {
    rng: Rng,
    leader: Leader,
    clients: Vec<Client>,
    /// To the leader, and to the client.
    up: Vec<(usize, Message)>,
    down: Vec<(usize, Message)>,
    writes: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let client = |_| Client {
            state: State::new(),
            attachment: 0,
            waiting: Vec::new(),
            holds: Vec::new(),
            flushing: Vec::new(),
        };
        let clients = (0..CLIENTS).map(client).collect();
        let (rng, leader) = (Rng::seeded(seed), Leader::default());
        let mut world = World { rng, leader, clients, up: Vec::new(), down: Vec::new(), writes: 0 };
        (0..CLIENTS).for_each(|who| world.attach(who));
        world
    }

    fn attach(&mut self, who: usize) {
        let client = &mut self.clients[who];
        client.attachment += 1;
        let attachment = Attachment(client.attachment);
        let session = SessionId(who as u64 + 1);
        let told = client.state.attaching(Bound { session, attachment });
        self.up.push((who, Message::Attach(attachment, told)));
    }

    fn write(&mut self, who: usize) {
        let inode = InodeId(1 + self.rng.below(FILES));
        let client = &mut self.clients[who];
        match client.state.hold(inode, Duration::ZERO, None) {
            Decision::Hold(write, _) => client.holds.push(write),
            Decision::Ask(Ticket { write, .. }) => {
                client.waiting.push(write);
                self.up.push((who, Message::Acquire(Attachment(client.attachment), write)));
            }
            Decision::WaitWith(ticket) => client.waiting.push(ticket.write),
            Decision::Wait | Decision::Free => {}
        }
    }

    fn create(&mut self, who: usize) {
        let inode = InodeId(1 + self.rng.below(FILES));
        let client = &mut self.clients[who];
        if let Some(grant) = client.state.wish_to_create() {
            let write = HeldWrite { inode, grant };
            self.up.push((who, Message::Create(Attachment(client.attachment), write)));
        }
    }

    fn work(&mut self, who: usize) {
        let client = &mut self.clients[who];
        if let Some(write) = client.holds.pop() {
            self.writes += 1;
            client.state.end_hold(write);
        }
        if let Some(write) = client.waiting.pop() {
            match client.state.hold(write.inode, Duration::ZERO, Some(write.grant)) {
                Decision::Hold(held, _) => client.holds.push(held),
                Decision::Ask(Ticket { write, .. }) => {
                    client.waiting.push(write);
                    self.up.push((who, Message::Acquire(Attachment(client.attachment), write)));
                }
                Decision::WaitWith(ticket) => client.waiting.push(ticket.write),
                Decision::Wait if self.rng.below(8) == 0 => client.state.leave(write),
                Decision::Wait => client.waiting.insert(0, write),
                Decision::Free => {}
            }
        }
        client.flushing.extend(client.state.take_to_flush());
        if let Some(write) = client.flushing.pop() {
            client.state.flushed(write);
        }
        let returned = client.state.take_returned();
        if !returned.is_empty() {
            self.up.push((who, Message::Return(returned)));
        }
    }

    fn deliver_up(&mut self) {
        if self.up.is_empty() {
            return;
        }
        let (who, message) = self.up.swap_remove(self.rng.below(self.up.len() as u64) as usize);
        let leader = &mut self.leader;
        match message {
            Message::Attach(attachment, held) => {
                if leader.attached.get(&who).is_some_and(|last| *last >= attachment) {
                    return;
                }
                leader.attached.insert(who, attachment);
                leader.held.retain(|_, (holder, _)| *holder != who);
                for write in held {
                    let other = leader.held.insert(write.inode, (who, write.grant));
                    assert_eq!(other, None, "two hold {}", write.inode);
                }
                self.down.push((who, Message::Attached(attachment)));
            }
            Message::Acquire(attachment, write) => leader.waiting.push((who, attachment, write)),
            Message::Create(attachment, write) => {
                let is_free = leader.attached.get(&who) == Some(&attachment)
                    && !leader.held.contains_key(&write.inode)
                    && !leader.waiting.iter().any(|(_, _, waiting)| waiting.inode == write.inode);
                if is_free {
                    leader.held.insert(write.inode, (who, write.grant));
                }
                self.down.push((who, Message::Created(write, is_free)));
            }
            Message::Return(writes) => {
                for write in writes {
                    let held = leader.held.get(&write.inode);
                    if held.is_some_and(|(holder, grant)| *holder == who && *grant <= write.grant) {
                        leader.held.remove(&write.inode);
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }

    /// The first in line for each file is granted it, or the holder is asked for it.
    fn serve(&mut self) {
        let leader = &mut self.leader;
        let mut served = BTreeSet::new();
        for (who, attachment, write) in std::mem::take(&mut leader.waiting) {
            if leader.attached.get(&who) != Some(&attachment) {
                self.down.push((who, Message::Refused(write)));
            } else if !served.insert(write.inode) {
                leader.waiting.push((who, attachment, write));
            } else if let Some((holder, grant)) =
                leader.held.get(&write.inode).copied().filter(|(holder, _)| *holder != who)
            {
                leader.waiting.push((who, attachment, write));
                let recalled = HeldWrite { inode: write.inode, grant };
                let attachment = leader.attached[&holder];
                if leader.pushed.insert((attachment, recalled)) {
                    let recall = WriteRecall { attachment, writes: vec![recalled] };
                    self.down.push((holder, Message::Recall(recall)));
                }
            } else {
                let known = leader.held.get(&write.inode).map_or(write.grant, |(_, grant)| *grant);
                leader.held.insert(write.inode, (who, write.grant.max(known)));
                self.down.push((who, Message::Granted(write)));
            }
        }
    }

    fn deliver_down(&mut self) {
        if self.down.is_empty() {
            return;
        }
        let (who, message) = self.down.swap_remove(self.rng.below(self.down.len() as u64) as usize);
        let client = &mut self.clients[who];
        match message {
            Message::Attached(attachment) => {
                client.state.attached(attachment, Duration::ZERO, Some(TERM));
            }
            Message::Granted(write) => {
                client.state.acquired(write, Duration::ZERO);
            }
            Message::Refused(write) => client.state.given_up(write),
            Message::Created(write, is_held) => {
                let made = is_held.then_some(write.inode);
                client.state.created(write.grant, made, Duration::ZERO);
            }
            Message::Recall(recall) => client.state.recalled(&recall),
            other => panic!("{other:?}"),
        }
    }

    fn check(&self, seed: u64) {
        for inode in (1..=FILES).map(InodeId) {
            let holders: Vec<usize> =
                (0..CLIENTS).filter(|who| self.clients[*who].state.is_held(inode)).collect();
            assert!(holders.len() <= 1, "seed {seed}: {inode} is written by {holders:?}");
        }
    }

    fn step(&mut self, may_lose: bool) {
        let who = self.rng.below(CLIENTS as u64) as usize;
        match self.rng.below(16) {
            0..=2 => self.write(who),
            3 => self.create(who),
            4..=6 => self.work(who),
            7..=10 => self.deliver_up(),
            11..=14 => self.deliver_down(),
            _ if may_lose && self.rng.below(4) == 0 => self.attach(who),
            _ => {}
        }
        self.serve();
    }
}

#[test]
fn no_two_clients_write_one_file_whatever_overtakes_what() {
    for seed in 0..400 {
        let mut world = World::new(seed);
        for _ in 0..600 {
            world.step(true);
            world.check(seed);
        }
        // Everybody who waits gets it in the end.
        let before = world.writes;
        for _ in 0..4000 {
            world.step(false);
            world.check(seed);
        }
        assert!(world.writes > before + 100, "seed {seed}: {} writes", world.writes - before);
    }
}
