//! Checks a Raft message before openraft sees it and stores what it claims. There is no authentication yet. These checks keep a
//! single packet, of a stranger or of a member with a bug, from making the group unusable for ever.
//!
//! SE1  A message comes from a member of the group, and speaks for that member only: its header names a recorded member and data
//!      directory, and the vote in its body is of that member.
//! SE2  A term is at most [`TERM_JUMP_MAX`] above this member's own. With pre-votes, a term rises only when a quorum agrees to an
//!      election, which takes most of a second; so a member that was away finds the others ahead by the elections that it missed.
//!      A group that stored the highest possible term could never elect a leader again.
//! SE3  A request for votes names a candidate; every other request names a leader that was elected.
//! SE4  A log position leaves room for further entries, is not of a later term than the vote, and follows the one before it.
//!
//! The terms in answers are checked too, because openraft stores the vote of a member that refuses.

use dfs_proto::ids::{DirectoryId, MemberId};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tonic::Status;

use crate::raft::types::{LogId, SnapshotMeta, TypeConfig, Vote};

/// SE2: what half a year of elections every second comes to. Forged packets that raise the term by this much, one after another,
/// do not reach the end of 64 bits either.
pub(crate) const TERM_JUMP_MAX: u64 = 1 << 24;
/// SE4: no log gets there in a thousand years.
const INDEX_MAX: u64 = 1 << 60;

fn refuse(what: String) -> Status {
    Status::failed_precondition(what)
}

/// Whether the sender of a message must be a candidate or an elected leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Candidate,
    Leader,
}

/// A request of the protocol, whose claims can be checked.
pub(crate) trait Claims {
    /// Keeps SE2, SE3 and SE4. `term` is the receiver's term.
    fn check(&self, from: MemberId, term: u64) -> Result<(), Status>;
    /// The sender's term.
    fn term(&self) -> u64;
}

/// An answer, which may carry the vote of the member that answers.
pub(crate) trait Answers {
    fn vote(&self) -> Option<&Vote>;
}

impl Answers for AppendEntriesResponse<TypeConfig> {
    fn vote(&self) -> Option<&Vote> {
        match self {
            AppendEntriesResponse::HigherVote(vote) => Some(vote),
            _ => None,
        }
    }
}

impl Answers for VoteResponse<TypeConfig> {
    fn vote(&self) -> Option<&Vote> {
        Some(&self.vote)
    }
}

impl Answers for SnapshotResponse<TypeConfig> {
    fn vote(&self) -> Option<&Vote> {
        Some(&self.vote)
    }
}

impl Answers for TransferLeaderResponse<TypeConfig> {
    fn vote(&self) -> Option<&Vote> {
        match self {
            Err(TransferLeaderError::VoteChanged { actual, .. }) => Some(actual),
            Ok(()) | Err(TransferLeaderError::LogNotFlushed { .. }) => None,
        }
    }
}

/// Keeps SE2 for an answer to what this member sent in `term`.
pub(crate) fn check_answer(answer: &impl Answers, term: u64) -> Result<(), Status> {
    answer.vote().map_or(Ok(()), |vote| check_term(vote.leader_id.term, term))
}

/// Refuses a sender that is not recorded with this data directory. While nothing is recorded yet, every configured member is
/// accepted (SE1).
pub(crate) fn check_member(
    from: (MemberId, Option<DirectoryId>),
    recorded: impl IntoIterator<Item = (MemberId, DirectoryId)>,
    configured: &[MemberId],
) -> Result<(), Status> {
    let (member, directory) = from;
    let mut is_recorded = false;
    for (id, known) in recorded {
        is_recorded = true;
        if id == member {
            return match directory {
                Some(directory) if directory == known => Ok(()),
                _ => {
                    Err(refuse(format!("{member} speaks from another data directory than the recorded one")))
                }
            };
        }
    }
    if !is_recorded && configured.contains(&member) {
        return Ok(());
    }
    Err(refuse(format!("{member} is no member of this group")))
}

/// Keeps SE2.
pub(crate) fn check_term(theirs: u64, own: u64) -> Result<(), Status> {
    if theirs > own.saturating_add(TERM_JUMP_MAX) {
        return Err(refuse(format!("term {theirs} is too far above this member's term {own} to be one")));
    }
    Ok(())
}

fn check_vote(vote: &Vote, standing: Standing, from: MemberId, term: u64) -> Result<(), Status> {
    let leader = &vote.leader_id;
    if leader.voted_for != from.0 {
        return Err(refuse(format!("{from} speaks for {}", MemberId(leader.voted_for)))); // keeps SE1
    }
    if vote.committed != (standing == Standing::Leader) {
        return Err(refuse(format!("{from} says that it is another than a {standing:?}"))); // keeps SE3
    }
    check_term(leader.term, term)
}

/// Keeps SE4.
fn check_position(position: Option<&LogId>, vote: &Vote) -> Result<(), Status> {
    let Some(position) = position else { return Ok(()) };
    if position.index >= INDEX_MAX {
        return Err(refuse(format!("log position {} is too high to be one", position.index)));
    }
    if *position.leader_id > vote.leader_id.term {
        return Err(refuse("the log is of a later term than the vote".to_owned()));
    }
    Ok(())
}

impl Claims for VoteRequest<TypeConfig> {
    fn check(&self, from: MemberId, term: u64) -> Result<(), Status> {
        check_vote(&self.vote, Standing::Candidate, from, term)?;
        check_position(self.last_log_id.as_ref(), &self.vote)
    }

    fn term(&self) -> u64 {
        self.vote.leader_id.term
    }
}

impl Claims for AppendEntriesRequest<TypeConfig> {
    fn check(&self, from: MemberId, term: u64) -> Result<(), Status> {
        check_vote(&self.vote, Standing::Leader, from, term)?;
        check_position(self.prev_log_id.as_ref(), &self.vote)?;
        check_position(self.leader_commit.as_ref(), &self.vote)?;
        let first = self.prev_log_id.as_ref().map_or(0, |previous| previous.index.saturating_add(1));
        for (next, entry) in (first..).zip(&self.entries) {
            check_position(Some(&entry.log_id), &self.vote)?;
            if entry.log_id.index != next {
                let what = format!("entry {} where entry {next} belongs", entry.log_id.index);
                return Err(refuse(what));
            }
        }
        Ok(())
    }

    fn term(&self) -> u64 {
        self.vote.leader_id.term
    }
}

impl Claims for TransferLeaderRequest<TypeConfig> {
    fn check(&self, from: MemberId, term: u64) -> Result<(), Status> {
        check_vote(self.from_leader(), Standing::Leader, from, term)?;
        check_position(self.last_log_id(), self.from_leader())
    }

    fn term(&self) -> u64 {
        self.from_leader().leader_id.term
    }
}

impl Claims for (Vote, SnapshotMeta) {
    fn check(&self, from: MemberId, term: u64) -> Result<(), Status> {
        let (vote, meta) = self;
        check_vote(vote, Standing::Leader, from, term)?;
        check_position(meta.last_log_id.as_ref(), vote)
    }

    fn term(&self) -> u64 {
        self.0.leader_id.term
    }
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry as _;

    use super::*;
    use crate::raft::types::LogEntry;

    const OWN: MemberId = MemberId(1);
    const OTHER: MemberId = MemberId(2);

    fn position(term: u64, index: u64) -> LogId {
        LogId::new(term.into(), index)
    }

    fn asks(term: u64, member: MemberId) -> VoteRequest<TypeConfig> {
        VoteRequest::new(Vote::new(term, member.0), Some(position(term.min(9), 5)))
    }

    fn appends(term: u64, previous: u64) -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: Vote::new_committed(term, OTHER.0),
            prev_log_id: Some(position(1, previous)),
            entries: Vec::new(),
            leader_commit: None,
        }
    }

    /// A `Vote` of the last term was stored, and no later one exists: the cluster never elected a leader again.
    #[test]
    fn a_term_that_no_honest_member_can_have_reached_is_refused_and_one_after_a_long_absence_is_not() {
        assert!(asks(8, OTHER).check(OTHER, 7).is_ok());
        assert!(asks(7 + TERM_JUMP_MAX, OTHER).check(OTHER, 7).is_ok());
        for term in [8 + TERM_JUMP_MAX, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            assert!(asks(term, OTHER).check(OTHER, 7).is_err());
            assert!(appends(term, 5).check(OTHER, 7).is_err());
            assert!(check_term(term, 7).is_err());
        }
        assert!(asks(u64::MAX, OTHER).check(OTHER, u64::MAX - 1).is_ok(), "nothing overflows");
    }

    #[test]
    fn a_member_speaks_for_itself_and_as_what_it_is() {
        assert!(asks(8, OWN).check(OTHER, 7).is_err());
        let elected = VoteRequest::new(Vote::new_committed(8, OTHER.0), None);
        assert!(elected.check(OTHER, 7).is_err(), "who asks for votes was not elected");
        let unelected = AppendEntriesRequest { vote: Vote::new(8, OTHER.0), ..appends(8, 5) };
        assert!(unelected.check(OTHER, 7).is_err());
        assert!(appends(8, 5).check(OTHER, 7).is_ok());
    }

    #[test]
    fn log_positions_that_cannot_be_are_refused() {
        assert!(appends(8, u64::MAX).check(OTHER, 7).is_err());
        assert!(appends(8, INDEX_MAX).check(OTHER, 7).is_err());
        let ahead = AppendEntriesRequest { leader_commit: Some(position(9, 5)), ..appends(8, 5) };
        assert!(ahead.check(OTHER, 7).is_err());
        let gap = LogEntry::new_blank(position(8, 7));
        assert!(AppendEntriesRequest { entries: vec![gap], ..appends(8, 5) }.check(OTHER, 7).is_err());
    }

    #[test]
    fn who_is_not_recorded_or_has_another_directory_is_no_member() {
        let recorded = [(OWN, DirectoryId(10)), (OTHER, DirectoryId(20))];
        let check =
            |member, directory| check_member((member, Some(DirectoryId(directory))), recorded, &[OWN]);
        assert!(check(OTHER, 20).is_ok());
        assert!(check(OTHER, 10).is_err());
        assert!(check(MemberId(3), 20).is_err());
        assert!(check_member((OTHER, None), recorded, &[OWN]).is_err());
        let while_made = |member| check_member((member, Some(DirectoryId(5))), [], &[OWN, OTHER]);
        assert!(while_made(OTHER).is_ok() && while_made(MemberId(3)).is_err());
    }
}
