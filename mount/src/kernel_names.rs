//! Names that the kernel may be using without asking, because it was given a time-out for them.
//!
//! The kernel cannot be made to forget a name without a lock that a request of this very mount may hold (P5.4). So nobody tries: time-outs
//! are short, and whoever takes a name back waits until they have passed.
//!
//! KN1  An answer to LOOKUP has a time-out for the name only if the client's copy says under a lease where the name leads, or that it is
//!      not there; and only for as long as that lease lasts (KA3). The copy is asked after the name was noted here, with the time until
//!      which the kernel may use it: [`USED_FOR`] from then.
//! KN2  When the copy drops names, whoever dropped them is told until when those that were noted may be used. A recall is answered, and an
//!      attachment or the end of the session is sent, after that.
//! KN3  A time-out is at most [`TIMEOUT_MAX`]. It is given within [`ANSWERED_WITHIN`] of the note, or not at all, and counts from when the
//!      kernel looks at the answer, within [`LOOKED_AT_WITHIN`].
//! KN4  Only a name that said the same for [`STEADY_AFTER`] has one, in a directory in which no other client changed anything for
//!      [`QUIET_FOR`]. So others seldom wait.
//! KN5  An own change corrects the kernel's names, under the lock of its directory. But what is renamed takes a running time-out along. So the
//!      new name is noted with it before the rename is sent, and whoever changes that name waits for it, if this session was a holder of its
//!      directory from then until the rename was executed: then it is told. If it may not have been, the rename is answered when the
//!      time-out has passed.
//!
//! From KN1 and KN2: an answer was read from the copy before it dropped the name, and then the name was noted before that and is waited
//! for; or after, and then it has no time-out. If this process is stopped or dies, the time-out ends before the lease does.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_client::{ChangedBy, DroppedNames};
use dfs_proto::ids::InodeId;
use tokio::time::Instant;

/// A program that looks at the same path all the time asks once in so long for each of its names.
const TIMEOUT_MAX: Duration = Duration::from_millis(50);
/// What is known already is answered within microseconds.
const ANSWERED_WITHIN: Duration = Duration::from_millis(20);
/// A thread of the kernel that has its answer waits so long for a processor.
const LOOKED_AT_WITHIN: Duration = Duration::from_millis(50);
const USED_FOR: Duration = TIMEOUT_MAX.saturating_add(ANSWERED_WITHIN).saturating_add(LOOKED_AT_WITHIN);
const STEADY_AFTER: Duration = Duration::from_millis(20);
const QUIET_FOR: Duration = Duration::from_secs(1);
/// Some 5 MB. What does not fit is asked for each time.
const NOTED_MAX: usize = 32_768;
/// What was noted so long ago makes room.
const NOTED_FOR: Duration = Duration::from_secs(5);
/// To look for it takes a moment.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// Where a name leads. `None`: it is not there.
type LeadsTo = Option<InodeId>;

struct Name {
    /// `None`: that was dropped.
    leads_to: Option<LeadsTo>,
    /// It has said that since.
    since: Instant,
    /// It was noted last.
    noted: Instant,
    used_until: Instant,
}

#[derive(Default)]
struct Directory {
    names: HashMap<Box<[u8]>, Name>,
    /// When another client changed something in it last, as far as this is known.
    changed: Option<Instant>,
    /// The session is a holder of it, and is told what others change in it.
    is_held: bool,
}

#[derive(Default)]
struct Noted {
    directories: BTreeMap<InodeId, Directory>,
    count: usize,
    swept: Option<Instant>,
    /// How often directories were dropped whole because of others: each may be held no longer.
    losses: u64,
}

/// The lock is held for one look, and with no other.
#[derive(Default)]
pub(crate) struct KernelNames(Mutex<Noted>);

/// The time-out that may be given to a name, if the copy says the same of it now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameNote(Instant);

impl NameNote {
    /// `lease`: how long the copy may be used (KN1, KN3).
    pub(crate) fn timeout(self, lease: Duration) -> Duration {
        let is_late = self.0.elapsed() > ANSWERED_WITHIN;
        let at_most = if is_late { Duration::ZERO } else { TIMEOUT_MAX };
        at_most.min(lease.saturating_sub(LOOKED_AT_WITHIN))
    }
}

/// The losses before the copy was asked about a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Losses(u64);

/// A rename that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried<'n> {
    names: [(InodeId, &'n [u8]); 2],
    is_exchange: bool,
    /// The time-outs that it takes along end by then.
    until: Instant,
    /// The names that get them are noted with that, and their directories were held; before these losses.
    held_before: Option<u64>,
}

impl KernelNames {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer says that a name leads there. `Some`: it may have a time-out (KN4), and is noted for that (KN1).
    pub(crate) fn note(&self, (parent, name): (InodeId, &[u8]), leads_to: LeadsTo) -> Option<NameNote> {
        self.noted().note((parent, name), leads_to, Instant::now())
    }

    /// KN2: until when the kernel may use some of these.
    pub(crate) fn dropped(&self, dropped: &DroppedNames<'_>, by: ChangedBy) -> Option<Instant> {
        let now = Instant::now();
        self.noted().dropped(dropped, by, now).filter(|until| *until > now)
    }

    /// To be called before the copy is asked about names in a directory.
    pub(crate) fn losses(&self) -> Losses {
        Losses(self.noted().losses)
    }

    /// The copy knew something of the directory under a lease, after `before`.
    pub(crate) fn was_held(&self, directory: InodeId, before: Losses) {
        let mut noted = self.noted();
        if noted.losses != before.0 {
            return;
        }
        if let Some(directory) = noted.directory(directory, Instant::now()) {
            directory.is_held = true;
        }
    }

    /// An own rename is about to be sent: the first name becomes the second one, and in an exchange the second one the first (KN5).
    pub(crate) fn carry<'n>(&self, names: [(InodeId, &'n [u8]); 2], is_exchange: bool) -> Carried<'n> {
        let (mut noted, now) = (self.noted(), Instant::now());
        let until = noted.carried_until(names, is_exchange).unwrap_or(now);
        let mut carried = Carried { names, is_exchange, until, held_before: None };
        if until > now {
            let are_noted = names.map(|name| noted.use_until(name, until, now)) == [true, true];
            let is_held = |(parent, _): &(InodeId, &[u8])| {
                noted.directories.get(parent).is_some_and(|known| known.is_held)
            };
            carried.held_before = (are_noted && names.iter().all(is_held)).then_some(noted.losses);
        }
        carried
    }

    /// The rename was executed. `Some`: it may not be answered before. (A look-up that came in between may have prolonged the time-out.)
    pub(crate) fn carried(&self, carried: Carried<'_>) -> Option<Instant> {
        let noted = self.noted();
        let until = noted.carried_until(carried.names, carried.is_exchange).max(Some(carried.until));
        let is_noted = until == Some(carried.until) && carried.held_before == Some(noted.losses);
        until.filter(|until| !is_noted && *until > Instant::now())
    }
}

impl Noted {
    /// `None`: there is no room.
    fn directory(&mut self, inode: InodeId, now: Instant) -> Option<&mut Directory> {
        self.make_room(now);
        let has_room = self.directories.len() < NOTED_MAX || self.directories.contains_key(&inode);
        has_room.then(|| self.directories.entry(inode).or_default())
    }

    fn used_until(&self, (parent, name): (InodeId, &[u8])) -> Option<Instant> {
        Some(self.directories.get(&parent)?.names.get(name)?.used_until)
    }

    /// Until when the kernel may use what a rename takes along.
    fn carried_until(&self, [from, to]: [(InodeId, &[u8]); 2], is_exchange: bool) -> Option<Instant> {
        let of_target = if is_exchange { self.used_until(to) } else { None };
        self.used_until(from).max(of_target)
    }

    /// The kernel may use this name until then. False: there is no room to note it.
    fn use_until(&mut self, (parent, name): (InodeId, &[u8]), until: Instant, now: Instant) -> bool {
        self.make_room(now);
        let has_room = self.count < NOTED_MAX;
        let Some(directory) = self.directory(parent, now) else { return false };
        if let Some(known) = directory.names.get_mut(name) {
            (known.noted, known.used_until) = (now, known.used_until.max(until));
            return true;
        }
        if has_room {
            directory
                .names
                .insert(name.into(), Name { leads_to: None, since: now, noted: now, used_until: until });
            self.count += 1;
        }
        has_room
    }

    fn note(
        &mut self,
        (parent, name): (InodeId, &[u8]),
        leads_to: LeadsTo,
        now: Instant,
    ) -> Option<NameNote> {
        self.make_room(now);
        let has_room = self.count < NOTED_MAX;
        let directory = self.directory(parent, now)?;
        let is_quiet =
            directory.changed.is_none_or(|changed| now.saturating_duration_since(changed) >= QUIET_FOR);
        let Some(known) = directory.names.get_mut(name) else {
            if has_room {
                let new = Name { leads_to: Some(leads_to), since: now, noted: now, used_until: now };
                directory.names.insert(name.into(), new);
                self.count += 1;
            }
            return None;
        };
        known.noted = now;
        if known.leads_to != Some(leads_to) {
            (known.leads_to, known.since) = (Some(leads_to), now);
            return None;
        }
        let is_steady = now.saturating_duration_since(known.since) >= STEADY_AFTER;
        if !is_quiet || !is_steady {
            return None;
        }
        known.used_until = now + USED_FOR;
        Some(NameNote(now))
    }

    fn dropped(&mut self, dropped: &DroppedNames<'_>, by: ChangedBy, now: Instant) -> Option<Instant> {
        let mut until = None;
        let mut take = |name: &mut Name| {
            name.leads_to = None;
            until = until.max(Some(name.used_until));
        };
        let is_lost = by == ChangedBy::Others;
        let is_whole = match dropped {
            DroppedNames::Everything => true,
            DroppedNames::Of { directories, .. } => !directories.is_empty(),
        };
        self.losses += u64::from(is_lost && is_whole);
        let changed = is_lost.then_some(now);
        match dropped {
            DroppedNames::Everything => {
                for directory in self.directories.values_mut() {
                    directory.is_held &= !is_lost;
                    directory.names.values_mut().for_each(&mut take);
                }
            }
            DroppedNames::Of { names, directories } => {
                for (parent, name) in *names {
                    let Some(directory) = self.directories.get_mut(parent) else { continue };
                    directory.changed = changed.or(directory.changed);
                    directory.names.get_mut(name.as_slice()).map(&mut take);
                }
                for parent in *directories {
                    let Some(directory) = self.directories.get_mut(parent) else { continue };
                    directory.changed = changed.or(directory.changed);
                    directory.is_held &= !is_lost;
                    directory.names.values_mut().for_each(&mut take);
                }
            }
        }
        until
    }

    fn make_room(&mut self, now: Instant) {
        let was_swept = self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP_INTERVAL);
        let has_room = self.count < NOTED_MAX && self.directories.len() < NOTED_MAX;
        if has_room || was_swept {
            return;
        }
        self.swept = Some(now);
        for directory in self.directories.values_mut() {
            directory.names.retain(|_, name| now.saturating_duration_since(name.noted) < NOTED_FOR);
        }
        self.directories.retain(|_, directory| !directory.names.is_empty());
        self.count = self.directories.values().map(|directory| directory.names.len()).sum();
    }
}

const _: () = assert!(USED_FOR.as_millis() < NOTED_FOR.as_millis());

#[cfg(test)]
mod tests {
    use super::*;

    const D: InodeId = InodeId(5);
    const E: InodeId = InodeId(6);
    const FILE: LeadsTo = Some(InodeId(7));
    const LONG: Duration = Duration::from_secs(2);

    fn names(dropped: &[(InodeId, &str)]) -> Vec<(InodeId, Vec<u8>)> {
        dropped.iter().map(|(parent, name)| (*parent, name.as_bytes().to_vec())).collect()
    }

    /// How long the kernel may use names that are dropped, as whoever drops them is told.
    fn used_for(kernel: &KernelNames, dropped: &[(InodeId, &str)], by: ChangedBy) -> Duration {
        let (names, directories) = (names(dropped), &[][..]);
        let until = kernel.dropped(&DroppedNames::Of { names: &names, directories }, by);
        until.map_or(Duration::ZERO, |until| until - Instant::now())
    }

    /// A name that said the same for long enough.
    async fn steady(kernel: &KernelNames, name: (InodeId, &[u8])) {
        assert!(kernel.note(name, FILE).is_none());
        tokio::time::advance(STEADY_AFTER).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_says_the_same_for_a_while_has_a_time_out_and_whoever_drops_it_waits_for_that() {
        let kernel = KernelNames::default();
        steady(&kernel, (D, b"f")).await;
        assert_eq!(used_for(&kernel, &[(D, "f")], ChangedBy::Own), Duration::ZERO, "it never had one");
        steady(&kernel, (D, b"f")).await;
        let note = kernel.note((D, b"f"), FILE).unwrap();
        assert_eq!(note.timeout(LONG), TIMEOUT_MAX);
        tokio::time::advance(TIMEOUT_MAX).await;
        assert_eq!(used_for(&kernel, &[(D, "g"), (E, "f")], ChangedBy::Own), Duration::ZERO);
        assert_eq!(used_for(&kernel, &[(D, "f")], ChangedBy::Own), USED_FOR - TIMEOUT_MAX);
        assert_eq!(
            used_for(&kernel, &[(D, "f")], ChangedBy::Own),
            USED_FOR - TIMEOUT_MAX,
            "who comes next waits too"
        );
        assert!(kernel.note((D, b"f"), FILE).is_none(), "it begins anew");
        tokio::time::advance(USED_FOR).await;
        assert_eq!(used_for(&kernel, &[(D, "f")], ChangedBy::Own), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_says_something_else_or_is_of_a_directory_that_others_change_has_no_time_out() {
        let kernel = KernelNames::default();
        steady(&kernel, (D, b"f")).await;
        assert!(kernel.note((D, b"f"), None).is_none(), "it is gone");
        tokio::time::advance(STEADY_AFTER).await;
        assert!(kernel.note((D, b"f"), None).is_some(), "that it is gone is known as well");
        used_for(&kernel, &[(D, "other")], ChangedBy::Others);
        assert!(kernel.note((D, b"f"), None).is_none());
        tokio::time::advance(QUIET_FOR).await;
        assert!(kernel.note((D, b"f"), None).is_some());
        used_for(&kernel, &[(D, "other")], ChangedBy::Own);
        assert!(kernel.note((D, b"f"), None).is_some(), "own work disturbs nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_and_everything_are_dropped_with_all_names() {
        for dropped in [DroppedNames::Everything, DroppedNames::Of { names: &[], directories: &[D] }] {
            let kernel = KernelNames::default();
            steady(&kernel, (D, b"f")).await;
            assert!(kernel.note((D, b"f"), FILE).is_some());
            assert_eq!(kernel.dropped(&dropped, ChangedBy::Others), Some(Instant::now() + USED_FOR));
        }
    }

    /// Whether a rename of `f` in D to `g` in E has to wait, and for how long others who change `g` have to, if `meanwhile` happens.
    async fn renamed(are_held: bool, meanwhile: impl FnOnce(&KernelNames)) -> (Option<Duration>, Duration) {
        let kernel = KernelNames::default();
        if are_held {
            [D, E].into_iter().for_each(|directory| kernel.was_held(directory, kernel.losses()));
        }
        steady(&kernel, (D, b"f")).await;
        assert!(kernel.note((D, b"f"), FILE).is_some());
        let carried = kernel.carry([(D, b"f"), (E, b"g")], false);
        meanwhile(&kernel);
        let waits = kernel.carried(carried).map(|until| until - Instant::now());
        (waits, used_for(&kernel, &[(E, "g")], ChangedBy::Others))
    }

    #[tokio::test(start_paused = true)]
    async fn a_rename_takes_the_time_out_along_and_waits_for_it_where_nobody_would_tell_of_changes() {
        assert_eq!(renamed(true, |_| {}).await, (None, USED_FOR));
        assert_eq!(renamed(false, |_| {}).await, (Some(USED_FOR), USED_FOR));
        let drop_whole = |by| {
            move |kernel: &KernelNames| {
                kernel.dropped(&DroppedNames::Of { names: &[], directories: &[E] }, by);
            }
        };
        assert_eq!(renamed(true, drop_whole(ChangedBy::Others)).await.0, Some(USED_FOR));
        assert_eq!(renamed(true, drop_whole(ChangedBy::Own)).await.0, None);
        let name_only = |kernel: &KernelNames| {
            used_for(kernel, &[(E, "other")], ChangedBy::Others);
        };
        assert_eq!(renamed(true, name_only).await.0, None, "it stays a holder");
        let everything = |kernel: &KernelNames| {
            kernel.dropped(&DroppedNames::Everything, ChangedBy::Others);
        };
        assert_eq!(renamed(true, everything).await.0, Some(USED_FOR));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rename_waits_for_a_time_out_that_was_given_after_it_had_begun() {
        let moment = Duration::from_millis(1);
        tokio::time::advance(moment).await;
        let look_again = |kernel: &KernelNames| {
            let mut noted = kernel.noted();
            assert!(noted.note((D, b"f"), FILE, Instant::now() + moment).is_some());
        };
        assert_eq!(renamed(true, look_again).await.0, Some(USED_FOR + moment));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_dropped_after_the_copy_was_asked_is_not_held() {
        let kernel = KernelNames::default();
        let before = kernel.losses();
        kernel.dropped(&DroppedNames::Everything, ChangedBy::Others);
        kernel.was_held(D, before);
        assert!(!kernel.noted().directories.contains_key(&D));
        kernel.was_held(D, kernel.losses());
        assert!(kernel.noted().directories[&D].is_held);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rename_of_what_has_no_time_out_waits_for_nothing() {
        let kernel = KernelNames::default();
        steady(&kernel, (D, b"f")).await;
        let carried = kernel.carry([(D, b"f"), (E, b"g")], false);
        assert_eq!(kernel.carried(carried), None);
        steady(&kernel, (E, b"g")).await;
        assert!(kernel.note((E, b"g"), FILE).is_some());
        let carried = kernel.carry([(D, b"f"), (E, b"g")], false);
        assert_eq!(kernel.carried(carried), None, "what is replaced is gone");
        let carried = kernel.carry([(D, b"f"), (E, b"g")], true);
        assert!(kernel.carried(carried).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_out_is_given_at_once_or_not_at_all_and_ends_before_the_lease() {
        let kernel = KernelNames::default();
        steady(&kernel, (D, b"f")).await;
        let note = kernel.note((D, b"f"), FILE).unwrap();
        assert_eq!(note.timeout(LOOKED_AT_WITHIN + TIMEOUT_MAX / 2), TIMEOUT_MAX / 2);
        assert_eq!(note.timeout(LOOKED_AT_WITHIN / 2), Duration::ZERO);
        tokio::time::advance(ANSWERED_WITHIN + Duration::from_millis(1)).await;
        assert_eq!(note.timeout(LONG), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn few_names_are_noted_and_old_ones_make_room() {
        let mut noted = Noted::default();
        let start = Instant::now();
        for number in 0..2 * NOTED_MAX as u64 {
            noted.note((InodeId(number % 100), &number.to_le_bytes()), FILE, start);
        }
        assert_eq!(noted.count, NOTED_MAX);
        noted.note((D, b"f"), FILE, start + NOTED_FOR);
        assert_eq!((noted.count, noted.directories.len()), (1, 1));
    }
}
