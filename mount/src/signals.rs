//! Has a thread that waits been signalled? fuser does not pass the kernel's interrupts on, so `/proc/TID/status` is looked at
//! (P5.6).
//!
//! A thread whose wait is answered with EINTR must have a signal that the kernel makes it see: the kernel restarts the call by a
//! number that only the handling of signals takes away, and a program that has none to handle would see that number as its error.
//! So a signal that came to the whole process counts for its first thread only, which the kernel wakes for it unless that thread
//! blocks it. (A signal that kills comes to every thread.)

use std::io;

/// `stop`, and what an application that does not handle it does not notice.
const STOPS: u64 = bit(libc::SIGSTOP) | bit(libc::SIGTSTP) | bit(libc::SIGTTIN) | bit(libc::SIGTTOU);
const IGNORED_BY_DEFAULT: u64 =
    bit(libc::SIGCHLD) | bit(libc::SIGCONT) | bit(libc::SIGURG) | bit(libc::SIGWINCH);

const fn bit(signal: libc::c_int) -> u64 {
    1 << (signal - 1)
}

/// What the status of a thread says of its signals: a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PendingSignals {
    is_first_thread: bool,
    of_thread: u64,
    of_process: u64,
    blocked: u64,
    ignored: u64,
    caught: u64,
}

impl PendingSignals {
    /// A signal waits that ends a wait. Stops do not: the thread stops when its wait ends.
    fn end_wait(self) -> bool {
        let pending = self.of_thread | if self.is_first_thread { self.of_process } else { 0 };
        let without_effect = (STOPS | IGNORED_BY_DEFAULT) & !self.caught;
        pending & !self.blocked & !self.ignored & !without_effect != 0
    }
}

/// What a look at a thread has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Waits,
    /// It is to see a signal, or to end.
    Signalled,
    /// It has ended, or this process cannot see it (another pid namespace).
    NotThere,
}

/// Looks at a thread, by its number in this process's pid namespace.
pub(crate) fn look_at(thread: u32) -> io::Result<Look> {
    if thread == 0 {
        return Ok(Look::NotThere);
    }
    let status = match std::fs::read(format!("/proc/{thread}/status")) {
        Ok(status) => status,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::NotThere),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(Look::NotThere),
        Err(error) => return Err(error),
    };
    match parse(&status) {
        Some(signals) if signals.end_wait() => Ok(Look::Signalled),
        Some(_) => Ok(Look::Waits),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the status of a thread names no signals")),
    }
}

/// The file's first line is the process's own name, which cannot contain a newline there.
fn parse(status: &[u8]) -> Option<PendingSignals> {
    let status = String::from_utf8_lossy(status);
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let set = |key| u64::from_str_radix(value(key)?, 16).ok();
    Some(PendingSignals {
        is_first_thread: value("Tgid:")? == value("Pid:")?,
        of_thread: set("SigPnd:")?,
        of_process: set("ShdPnd:")?,
        blocked: set("SigBlk:")?,
        ignored: set("SigIgn:")?,
        caught: set("SigCgt:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signals(first: bool, [thread, process, blocked, ignored, caught]: [u64; 5]) -> PendingSignals {
        let text = format!(
            "Name:\tSigPnd:\nTgid:\t70\nNgid:\t0\nPid:\t{}\nThreads:\t2\nSigQ:\t1/9\nSigPnd:\t{thread:016x}\nShdPnd:\t{process:016x}\n\
             SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n",
            if first { 70 } else { 71 },
        );
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_signal_ends_a_wait_unless_it_is_blocked_or_ignored() {
        let alarm = bit(libc::SIGALRM);
        assert!(signals(true, [0, alarm, 0, 0, alarm]).end_wait());
        assert!(signals(true, [alarm, 0, 0, 0, alarm]).end_wait());
        assert!(!signals(true, [0, alarm, alarm, 0, alarm]).end_wait());
        assert!(!signals(true, [0, alarm, 0, alarm, 0]).end_wait());
        assert!(!signals(true, [0; 5]).end_wait());
        let real_time = bit(64);
        assert!(signals(true, [0, real_time, alarm, 0, 0]).end_wait());
    }

    #[test]
    fn stops_and_what_nobody_notices_count_only_with_a_handler() {
        for signal in [libc::SIGSTOP, libc::SIGTSTP, libc::SIGCONT, libc::SIGCHLD, libc::SIGWINCH] {
            let signal = bit(signal);
            assert!(!signals(true, [signal, signal, 0, 0, 0]).end_wait());
            assert!(signals(true, [signal, 0, 0, 0, signal]).end_wait());
        }
    }

    #[test]
    fn a_signal_of_the_process_counts_for_its_first_thread_and_a_kill_for_all() {
        let (alarm, kill) = (bit(libc::SIGALRM), bit(libc::SIGKILL));
        assert!(!signals(false, [0, alarm, 0, 0, alarm]).end_wait());
        assert!(signals(false, [alarm, 0, 0, 0, alarm]).end_wait());
        assert!(signals(false, [kill, 0, 0, 0, 0]).end_wait());
    }

    #[test]
    fn a_status_that_lacks_a_line_or_has_garbage_says_nothing() {
        assert_eq!(parse(b"Name:\tx\nTgid:\t1\nPid:\t1\nSigPnd:\t0\n"), None);
        assert_eq!(
            parse(b"Tgid:\t1\nPid:\t1\nSigPnd:\tx\nShdPnd:\t0\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t0\n"),
            None
        );
    }

    #[test]
    fn the_own_thread_waits_and_one_that_is_gone_is_not_there() {
        assert_eq!(look_at(std::process::id()).unwrap(), Look::Waits);
        assert_eq!(look_at(0).unwrap(), Look::NotThere);
        assert_eq!(look_at(u32::MAX).unwrap(), Look::NotThere);
    }
}
