//! When each session was last renewed, as this leader has heard it. Which sessions there are is part of the replicated state,
//! and only `ExpireSession` ends one (P3.1).
//!
//! SS1  What this leader has heard counts from its election at the earliest ([`Soft`]). The time without a leader is nobody's silence.
//! SS2  Before the end of a session is proposed, it is marked as *ending*, and looked at once more: from the mark on it is
//!      renewed no longer, and gets no locks. Otherwise a heartbeat could be answered just before the end is applied, and its
//!      client would go on for a term beside whoever waited for the end. The mark stays while the end may still be applied. An
//!      end that an administrator asks for (`service::admin::sessions`) is marked too; there is no silence to look at.
//! SS3  The end of a session that holds Write of files is not proposed before it was silent for a term, whoever asks for its end:
//!      what its last answered heartbeat has renewed has lapsed by then. *An end that is proposed at once would be all that the next
//!      leader knows, and it would show files beside who still writes them.*
//! SS4  A leader notes in the replicated state for how long sessions were silent (`worker::silence`), and the next one adds its own
//!      silence to the note. No heartbeat is answered while a note may stand that does not know of it: it is counted as heard first;
//!      then, if a note was proposed in this term or stands in the state, the note is taken back; and when that is applied, it
//!      is answered ([`Sessions::renewed`], `Metaserver::renew`). So whoever finds a note knows that no leader has answered
//!      a heartbeat which was sent later than the noted silence began (P3.1).

use std::collections::BTreeMap;
use std::time::Duration;

use dfs_proto::ids::SessionId;
use dfs_state::command::Silence;
use tokio::time::Instant;

use crate::coherence::soft::{BeginsAnew, Soft};

pub(crate) struct Sessions {
    expiry: Duration,
    heard: Soft<Heard>,
}

/// It has at most as many entries as there are sessions: whoever ends a session removes its entry.
#[derive(Default)]
struct Heard {
    renewed: BTreeMap<SessionId, Instant>,
    /// Silences under earlier leaders, of sessions that this one has not heard (SS4). `None`: the state was not asked yet.
    earlier: Option<BTreeMap<SessionId, Duration>>,
    /// Notes that this leader has proposed and not taken back.
    notes: BTreeMap<SessionId, Note>,
    notes_count: u64,
    /// SS2.
    ending: BTreeMap<SessionId, Ending>,
}

#[derive(Clone, Copy)]
struct Note {
    number: NoteNumber,
    silence: Duration,
}

/// Of one term. Each is larger than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoteNumber(u64);

/// What becomes of who is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewed {
    /// This leader has noted nothing of it.
    Unnoted,
    /// Its silence may be noted, for what this leader knows (SS4).
    Noted(NoteNumber),
    /// It is ending (SS2).
    Ending,
    /// Another term has begun.
    Outdated,
}

/// How often a leader notes silences, as parts of a session's term. More parts would lose less at a change of leader, and cost more
/// entries.
const STEPS: u32 = 4;

/// How certain the end of a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    /// It is looked at once more.
    Marked,
    /// It ends, as soon as what it was granted has lapsed.
    Certain,
    Proposed,
}

impl BeginsAnew for Sessions {
    fn enter_term(&self, term: u64, since: Instant) {
        self.heard.enter_term(term, since);
    }

    fn begin_anew(&self, now: Instant) {
        let mut soft = self.heard.lock();
        soft.since = now;
        soft.known.renewed.clear(); // and keeps SS2 and SS4
        soft.known.earlier = Some(BTreeMap::new()); // nobody could be heard
    }
}

impl Sessions {
    pub(crate) fn new(expiry: Duration, now: Instant) -> Sessions {
        Sessions { expiry, heard: Soft::new(now) }
    }

    /// For the gate.
    pub(crate) fn soft(&self) -> &dyn BeginsAnew {
        self
    }

    /// A heartbeat that was received in this term was confirmed. It is answered as this says, and as the state does (SS4).
    pub(crate) fn renewed(&self, term: u64, session: SessionId, now: Instant) -> Renewed {
        let mut soft = self.heard.lock();
        if soft.term() != term {
            return Renewed::Outdated; // of this term's notes nothing is known here any more
        }
        if soft.known.ending.contains_key(&session) {
            return Renewed::Ending;
        }
        soft.known.renewed.insert(session, now);
        if let Some(earlier) = &mut soft.known.earlier {
            earlier.remove(&session);
        }
        soft.known.notes.get(&session).map_or(Renewed::Unnoted, |note| Renewed::Noted(note.number))
    }

    /// What the state notes of sessions, as it was read in this term. It counts once in a term, for those that were not heard, and
    /// with all but the last step before their end: a session that lives has that long to find its new leader.
    pub(crate) fn count_earlier(&self, term: u64, lease_term: Duration, noted: &[Silence]) {
        let mut soft = self.heard.lock();
        if soft.term() != term || soft.known.earlier.is_some() {
            return;
        }
        let counted = |silence: &Silence| Duration::from_millis(silence.silent_ms).min(noted_max(lease_term));
        let unheard = noted.iter().filter(|silence| !soft.known.renewed.contains_key(&silence.session));
        let earlier = unheard.map(|silence| (silence.session, counted(silence))).collect();
        soft.known.earlier = Some(earlier);
    }

    /// The silences to be noted now, of these sessions: those that have grown by a step. From here on they count as noted.
    pub(crate) fn note(
        &self,
        term: u64,
        lease_term: Duration,
        sessions: impl IntoIterator<Item = SessionId>,
        now: Instant,
    ) -> Vec<Silence> {
        let mut soft = self.heard.lock();
        if soft.term() != term || soft.known.earlier.is_none() {
            return Vec::new(); // else what the state notes is not known
        }
        let (since, known) = (soft.since, &mut soft.known);
        let mut silences = Vec::new();
        for session in sessions {
            let silence = known.silence(session, since, now).min(noted_max(lease_term));
            let noted = known.noted(session);
            if silence < noted + lease_term / STEPS {
                continue;
            }
            known.notes_count += 1;
            known.notes.insert(session, Note { number: NoteNumber(known.notes_count), silence });
            silences.push(Silence { session, silent_ms: silence.as_millis() as u64 });
        }
        silences
    }

    /// Notes up to this one no longer stand.
    pub(crate) fn note_is_taken_back(&self, term: u64, session: SessionId, number: NoteNumber) {
        let mut soft = self.heard.lock();
        let is_last = |note: &Note| note.number == number;
        if soft.term() == term && soft.known.notes.get(&session).is_some_and(is_last) {
            soft.known.notes.remove(&session);
        }
    }

    pub(crate) fn mark_ending(&self, session: SessionId) {
        self.ends(session, Ending::Marked);
    }

    /// It ends, however it is heard from now on: once it was silent for as long as what it holds counts (SS3).
    pub(crate) fn end_is_certain(&self, session: SessionId) {
        self.ends(session, Ending::Certain);
    }

    fn ends(&self, session: SessionId, ending: Ending) {
        let mut soft = self.heard.lock();
        let present = soft.known.ending.entry(session).or_insert(ending);
        *present = ending.max(*present);
    }

    /// Its end is proposed now: it may be applied, whatever becomes of the answer.
    pub(crate) fn end_is_proposed(&self, session: SessionId) {
        self.ends(session, Ending::Proposed);
    }

    /// It is not due any more. If its end was certain before, it stays marked.
    pub(crate) fn spare(&self, session: SessionId) {
        let mut soft = self.heard.lock();
        if soft.known.ending.get(&session) == Some(&Ending::Marked) {
            soft.known.ending.remove(&session);
        }
    }

    pub(crate) fn is_end_proposed(&self, session: SessionId) -> bool {
        self.heard.lock().known.ending.get(&session) == Some(&Ending::Proposed)
    }

    pub(crate) fn is_ending(&self, session: SessionId) -> bool {
        self.heard.lock().known.ending.contains_key(&session)
    }

    pub(crate) fn forget(&self, session: SessionId) {
        let mut soft = self.heard.lock();
        soft.known.renewed.remove(&session);
        soft.known.ending.remove(&session);
        soft.known.notes.remove(&session);
        if let Some(earlier) = &mut soft.known.earlier {
            earlier.remove(&session);
        }
    }

    /// How long ago this leader heard of it; `None`: not yet.
    pub(crate) fn last_heard(&self, session: SessionId, now: Instant) -> Option<Duration> {
        let soft = self.heard.lock();
        soft.known.renewed.get(&session).map(|renewed| now.saturating_duration_since(*renewed))
    }

    /// For so long that it is ended.
    pub(crate) fn is_silent(&self, session: SessionId, now: Instant) -> bool {
        self.is_silent_for(self.expiry, session, now)
    }

    pub(crate) fn is_silent_for(&self, time: Duration, session: SessionId, now: Instant) -> bool {
        let soft = self.heard.lock();
        soft.known.silence(session, soft.since, now) >= time
    }
}

impl Heard {
    /// `since`: when this leader began to listen.
    fn silence(&self, session: SessionId, since: Instant, now: Instant) -> Duration {
        match self.renewed.get(&session) {
            Some(renewed) => now.saturating_duration_since(*renewed),
            None => self.earlier(session) + now.saturating_duration_since(since),
        }
    }

    fn earlier(&self, session: SessionId) -> Duration {
        self.earlier.as_ref().and_then(|earlier| earlier.get(&session)).copied().unwrap_or_default()
    }

    /// What the next leader would go on from, as far as this one knows.
    fn noted(&self, session: SessionId) -> Duration {
        self.notes.get(&session).map_or_else(|| self.earlier(session), |note| note.silence)
    }
}

/// A longer silence is not noted, and does not count.
fn noted_max(lease_term: Duration) -> Duration {
    lease_term / STEPS * (STEPS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRY: Duration = Duration::from_secs(300);
    const SESSION: SessionId = SessionId(4);
    const TERM: Duration = Duration::from_secs(12);
    const STEP: Duration = Duration::from_secs(3);
    /// Time in which nothing that is counted happens.
    const A_MOMENT: Duration = Duration::from_millis(1);

    /// Heard in the present term: it is answered.
    fn renewed(sessions: &Sessions, session: SessionId, now: Instant) -> bool {
        let term = sessions.heard.lock().term();
        matches!(sessions.renewed(term, session, now), Renewed::Unnoted | Renewed::Noted(_))
    }

    /// The next leader, which finds this in the state.
    fn elect(sessions: &Sessions, now: Instant, noted: &[Silence]) -> u64 {
        let term = sessions.heard.lock().term() + 1;
        sessions.soft().enter_term(term, now);
        sessions.count_earlier(term, TERM, noted);
        term
    }

    fn note(sessions: &Sessions, now: Instant) -> Vec<Silence> {
        let term = sessions.heard.lock().term();
        sessions.note(term, TERM, [SESSION], now)
    }

    fn silence(of: Duration) -> Vec<Silence> {
        vec![Silence { session: SESSION, silent_ms: of.as_millis() as u64 }]
    }

    fn is_over(sessions: &Sessions, now: Instant) -> bool {
        sessions.is_silent_for(TERM, SESSION, now)
    }

    #[test]
    fn the_silence_under_one_leader_after_another_adds_up_and_the_time_between_them_does_not() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        elect(&sessions, start, &[]);
        assert_eq!(note(&sessions, start + STEP - A_MOMENT), []);
        let noted = note(&sessions, start + STEP);
        assert_eq!(noted, silence(STEP));
        assert_eq!(note(&sessions, start + STEP * 2 - A_MOMENT), [], "it was noted, and grows by steps");
        let second = start + STEP * 20; // nobody led for long
        elect(&sessions, second, &noted);
        let noted = note(&sessions, second + STEP + A_MOMENT);
        assert_eq!(noted, silence(STEP * 2 + A_MOMENT));
        let third = second + STEP * 20;
        elect(&sessions, third, &noted);
        assert!(!is_over(&sessions, third + STEP * 2 - A_MOMENT * 2));
        assert!(is_over(&sessions, third + STEP * 2 - A_MOMENT));
    }

    #[test]
    fn each_leader_listens_for_the_last_step_itself() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        elect(&sessions, start, &[]);
        let noted = note(&sessions, start + EXPIRY / 2);
        assert_eq!(noted, silence(STEP * 3));
        assert_eq!(note(&sessions, start + EXPIRY), [], "no more than that is noted");
        let second = start + EXPIRY;
        elect(&sessions, second, &silence(EXPIRY)); // by a leader with a longer term
        assert!(!is_over(&sessions, second + STEP - A_MOMENT) && is_over(&sessions, second + STEP));
        assert_eq!(note(&sessions, second + STEP), [], "it is noted already");
    }

    #[test]
    fn whoever_is_heard_is_silent_from_then_on_only_whatever_was_noted_before() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        let term = elect(&sessions, start, &silence(STEP * 3));
        let heard = start + STEP - A_MOMENT;
        assert_eq!(sessions.renewed(term, SESSION, heard), Renewed::Unnoted, "the state has the note");
        assert!(!is_over(&sessions, heard + TERM - A_MOMENT) && is_over(&sessions, heard + TERM));
        assert_eq!(note(&sessions, heard + STEP - A_MOMENT), []);
        assert_eq!(note(&sessions, heard + STEP), silence(STEP), "from the heartbeat on");
    }

    #[test]
    fn whoever_was_heard_before_the_notes_were_read_is_not_silent_for_what_they_say() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        sessions.soft().enter_term(1, start);
        sessions.renewed(1, SESSION, start);
        assert_eq!(note(&sessions, start + TERM), [], "what earlier leaders noted is not known yet");
        sessions.count_earlier(1, TERM, &silence(STEP * 3));
        assert!(!is_over(&sessions, start + TERM - A_MOMENT));
        sessions.soft().enter_term(2, start);
        sessions.renewed(2, SESSION, start);
        sessions.soft().begin_anew(start + STEP); // and forgets who was heard
        sessions.count_earlier(2, TERM, &silence(STEP * 3));
        assert!(!is_over(&sessions, start + STEP + TERM - A_MOMENT));
    }

    #[test]
    fn a_note_stands_until_the_last_one_is_taken_back_and_in_its_term_only() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        let first = elect(&sessions, start, &[]);
        note(&sessions, start + STEP);
        let Renewed::Noted(old) = sessions.renewed(first, SESSION, start + STEP) else {
            panic!("it is noted")
        };
        assert_eq!(note(&sessions, start + STEP * 3), silence(STEP * 2), "while it is taken back");
        sessions.note_is_taken_back(first, SESSION, old);
        let Renewed::Noted(new) = sessions.renewed(first, SESSION, start + STEP * 3) else {
            panic!("there is a later note");
        };
        sessions.note_is_taken_back(first, SESSION, new);
        assert_eq!(sessions.renewed(first, SESSION, start + STEP * 3), Renewed::Unnoted);
        let second = elect(&sessions, start + STEP * 4, &[]);
        assert_eq!(sessions.renewed(first, SESSION, start + STEP * 4), Renewed::Outdated);
        assert_eq!(sessions.note(first, TERM, [SESSION], start + TERM * 2), []);
        assert_eq!(sessions.renewed(second, SESSION, start + STEP * 4), Renewed::Unnoted);
    }

    #[test]
    fn a_session_is_silent_five_minutes_after_its_last_renewal_or_the_election() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        sessions.soft().enter_term(1, start);
        assert!(!sessions.is_silent(SESSION, start + EXPIRY / 2));
        assert!(sessions.is_silent(SESSION, start + EXPIRY));
        renewed(&sessions, SESSION, start + EXPIRY / 2);
        assert!(!sessions.is_silent(SESSION, start + EXPIRY));
        sessions.soft().enter_term(2, start + EXPIRY);
        assert!(!sessions.is_silent(SESSION, start + EXPIRY + EXPIRY / 2));
    }

    #[test]
    fn a_session_that_is_ending_is_not_renewed_unless_it_is_spared_or_the_leader_changes() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        sessions.mark_ending(SESSION);
        sessions.soft().begin_anew(start);
        assert!(!renewed(&sessions, SESSION, start + EXPIRY / 2) && sessions.is_ending(SESSION));
        assert!(sessions.is_silent(SESSION, start + EXPIRY));
        sessions.spare(SESSION);
        assert!(renewed(&sessions, SESSION, start + EXPIRY));
        sessions.mark_ending(SESSION);
        sessions.soft().enter_term(1, start);
        assert!(renewed(&sessions, SESSION, start + EXPIRY), "a new leader knows nothing of it");
    }

    #[test]
    fn a_session_whose_end_is_certain_is_not_spared() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        sessions.end_is_certain(SESSION);
        sessions.mark_ending(SESSION);
        sessions.spare(SESSION);
        assert!(sessions.is_ending(SESSION) && !sessions.is_end_proposed(SESSION));
        assert!(!renewed(&sessions, SESSION, start));
        sessions.end_is_proposed(SESSION);
        sessions.end_is_certain(SESSION);
        assert!(sessions.is_end_proposed(SESSION));
    }

    #[test]
    fn a_while_in_which_nobody_could_be_heard_expires_nobody() {
        let start = Instant::now();
        let sessions = Sessions::new(EXPIRY, start);
        renewed(&sessions, SESSION, start);
        sessions.soft().begin_anew(start + EXPIRY);
        assert!(!sessions.is_silent(SESSION, start + EXPIRY));
        assert!(!sessions.is_silent(SessionId(5), start + EXPIRY));
    }
}
