//! Gathers commands that wait at the same time into one log entry, so that they share one sync and one round trip.
//!
//! An entry has at most [`ENTRY_LEN_MAX`] bytes and [`COMMANDS_MAX`] commands (P7.2). It takes the commands that have arrived and
//! does not wait for more. Up to [`ENTRIES_IN_FLIGHT_MAX`] entries are replicated at the same time.
//!
//! Q1  A slow quorum is not a lost one. While the disks are slow, the callers wait, for as long as any client would. When this
//!     leader does not hear a quorum any more, or has been replaced, all callers are told at once and ask another member. Their
//!     commands may still be applied.
//! Q2  A command that was made for one term is proposed in that term or refused: what its leader found out for it, such as that nobody
//!     holds a lease on what it alters, is of that term. Raft compares the term when it takes the entry in.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::error::MetaError;
use dfs_proto::ids::MemberId;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, ForwardToLeader};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::{Instant as _, ServerState};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::log::store::LogMonitor;
use super::machine::clock::StateClock;
use super::machine::replicated::ReplicatedCommand;
use super::machine::state_machine::Raft;
use super::member::group::Group;
use super::types::{AnyReply, Proposal, TypeConfig};

const ENTRY_LEN_MAX: usize = 1 << 20;
const COMMANDS_MAX: usize = 256;
/// More would make the entries smaller and nothing faster: the log writes all of them in one batch anyway.
const ENTRIES_IN_FLIGHT_MAX: usize = 8;
/// How often the other tasks run before an entry is closed, so that commands that have reached the sockets by then are part of
/// it. On an idle server this costs about a microsecond each time. With 4, eight writers have 5 to 6 commands in an entry instead
/// of 2.7; 8 gave no more.
const GATHER_TURNS: usize = 4;
/// Commands in the queue. When it is full, `propose` waits.
const WAITING_MAX: usize = 1024;
/// How long a caller waits (Q1): longer than a client waits for an answer, which is 30 s by default.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a caller that waits checks that there still is a quorum.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A quorum that has answered none of this many heartbeats counts as lost (Q1). They take one and a half leases, so by then there
/// may be another leader.
const UNHEARD_MAX: u32 = 4;

type Answer = oneshot::Sender<Result<AnyReply, MetaError>>;

struct Waiting {
    command: Vec<u8>,
    /// It is proposed in this term or not at all (Q2).
    term: Option<u64>,
    answer: Answer,
}

/// What becomes one entry.
struct Gathered {
    /// Of those of its commands that were made for one.
    term: Option<u64>,
    commands: Vec<Vec<u8>>,
    answers: Vec<Answer>,
}

/// Takes commands in. Clones share one queue.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Waiting>,
    raft: Raft,
    group: Arc<Group>,
    heartbeat: Duration,
}

/// Takes commands from the queue and proposes them.
pub(crate) struct ProposerTask {
    pub(crate) raft: Raft,
    pub(crate) log: LogMonitor,
    pub(crate) group: Arc<Group>,
    pub(crate) time: Arc<StateClock>,
    waiting: mpsc::Receiver<Waiting>,
    /// The command that did not fit into the last entry; it begins the next one.
    held: Option<Waiting>,
}

fn unavailable(what: impl Into<String>) -> MetaError {
    MetaError::Unavailable { what: what.into() }
}

impl Proposer {
    pub(crate) fn new(
        raft: Raft,
        log: LogMonitor,
        group: Arc<Group>,
        time: Arc<StateClock>,
        heartbeat: Duration,
    ) -> (Proposer, ProposerTask) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let proposer = Proposer { queue, raft: raft.clone(), group: group.clone(), heartbeat };
        (proposer, ProposerTask { raft, log, group, time, waiting, held: None })
    }

    /// After an error, the command may have been applied, or may still be. `term`: Q2.
    pub(crate) async fn propose<C: ReplicatedCommand>(
        &self,
        command: &C,
        term: Option<u64>,
    ) -> Result<C::Reply, MetaError> {
        let foreign = || MetaError::Internal { what: "a command of another state machine".to_owned() };
        if C::GROUP != self.group.kind {
            return Err(foreign());
        }
        C::reply(self.propose_encoded(command.encode(), term).await?).ok_or_else(foreign)
    }

    async fn propose_encoded(&self, command: Vec<u8>, term: Option<u64>) -> Result<AnyReply, MetaError> {
        if command.len() > ENTRY_LEN_MAX {
            return Err(MetaError::InvalidArgument {
                what: format!("a command of {} bytes, at most {ENTRY_LEN_MAX} are possible", command.len()),
            });
        }
        let (answer, answered) = oneshot::channel();
        let propose = async {
            let stopped = || unavailable("this metaserver is shutting down");
            self.queue.send(Waiting { command, term, answer }).await.map_err(|_| stopped())?;
            answered.await.map_err(|_| stopped())?
        };
        let (mut propose, began) = (std::pin::pin!(propose), Instant::now());
        loop {
            match timeout(LOOK_EVERY, &mut propose).await {
                Ok(answer) => return answer,
                Err(_) if began.elapsed() >= PATIENCE => {
                    return Err(unavailable(format!("no quorum has it on its disks after {PATIENCE:?}")));
                }
                Err(_) => self.check_leads()?,
            }
        }
    }

    /// Keeps Q1.
    fn check_leads(&self) -> Result<(), MetaError> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            let leader = metrics.current_leader.map(MemberId).filter(|leader| *leader != self.group.own);
            return Err(MetaError::NotLeader {
                leader: leader.and_then(|leader| self.group.address_of(leader)),
            });
        }
        let is_alone = metrics.membership_config.membership().voter_ids().count() <= 1;
        let unheard = metrics.last_quorum_acked.map(|heard| heard.into_inner().elapsed());
        let bound = self.heartbeat * UNHEARD_MAX;
        match is_alone || unheard.is_some_and(|unheard| unheard <= bound) {
            true => Ok(()),
            false => Err(unavailable(format!("no quorum was heard within {bound:?}"))),
        }
    }
}

impl ProposerTask {
    pub(crate) async fn run(mut self) {
        let places = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT_MAX));
        while let Some(first) = self.next().await {
            // While this task waits here, more commands arrive.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            self.log.has_room().await;
            for _ in 0..GATHER_TURNS {
                tokio::task::yield_now().await;
            }
            if first.answer.is_closed() {
                continue; // as in `gather`: by now another term may have begun, for which it was not made
            }
            let gathered = self.gather(first);
            self.propose(gathered, place).await;
        }
    }

    async fn next(&mut self) -> Option<Waiting> {
        match self.held.take() {
            Some(held) => Some(held),
            None => self.waiting.recv().await,
        }
    }

    fn gather(&mut self, first: Waiting) -> Gathered {
        let mut len = first.command.len();
        let mut gathered =
            Gathered { term: first.term, commands: vec![first.command], answers: vec![first.answer] };
        while gathered.commands.len() < COMMANDS_MAX {
            let Ok(next) = self.waiting.try_recv() else { break };
            if next.answer.is_closed() {
                continue; // its caller has given up, and it was never proposed: it leaves no trace
            }
            len += next.command.len();
            let is_of_another_term = next.term.is_some_and(|term| gathered.term.is_some_and(|of| of != term));
            if len > ENTRY_LEN_MAX || is_of_another_term {
                self.held = Some(next);
                break;
            }
            gathered.term = gathered.term.or(next.term);
            gathered.commands.push(next.command);
            gathered.answers.push(next.answer);
        }
        gathered
    }

    async fn propose(&self, gathered: Gathered, place: OwnedSemaphorePermit) {
        let Gathered { term, commands, answers } = gathered;
        let proposal = Proposal::join(self.group.clocks.wall(), self.time.now(), &commands);
        let (responder, done) = ProgressResponder::complete_only();
        let mut write = self.raft.write(proposal).responder(responder);
        if let Some(term) = term {
            write = write.with_leader(term); // keeps Q2
        }
        if let Err(stopped) = write.await {
            return refuse(answers, &unavailable(stopped.to_string()));
        }
        let group = self.group.clone();
        tokio::spawn(async move {
            match done.await {
                Ok(result) => distribute(&group, answers, result),
                Err(_) => refuse(answers, &unavailable("this metaserver has stopped")),
            }
            drop(place);
        });
    }
}

fn distribute(group: &Group, answers: Vec<Answer>, result: ClientWriteResult<TypeConfig>) {
    let replies = match result {
        Ok(written) => written.data.0,
        Err(error) => return refuse(answers, &write_error(group, error)),
    };
    debug_assert_eq!(replies.len(), answers.len(), "apply answers every command of an entry");
    for (answer, reply) in answers.into_iter().zip(replies) {
        drop(answer.send(Ok(reply))); // fails if the caller has given up
    }
}

fn refuse(answers: Vec<Answer>, error: &MetaError) {
    for answer in answers {
        drop(answer.send(Err(error.clone())));
    }
}

fn write_error(group: &Group, error: ClientWriteError<TypeConfig>) -> MetaError {
    match error {
        ClientWriteError::ForwardToLeader(forward) | ClientWriteError::LogEntryDiscarded(forward) => {
            not_leader(group, &forward)
        }
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            MetaError::Internal { what: error.to_string() }
        }
    }
}

pub(crate) fn not_leader(group: &Group, forward: &ForwardToLeader<TypeConfig>) -> MetaError {
    let known = forward.leader_id.map(MemberId).and_then(|leader| group.address_of(leader));
    let leader = known.or_else(|| forward.leader_node.as_ref().map(|node| node.address.clone()));
    // A leader whose lease has run out would name itself, which helps no caller.
    let leader = leader.filter(|address| *address != group.address);
    MetaError::NotLeader { leader }
}
