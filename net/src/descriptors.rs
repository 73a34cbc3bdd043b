//! How many descriptors this process may have. What keeps many open (chunks, tables, connections) takes a share of that
//! number, so that nobody is left without one when it opens the next file: that would look like a failing disk.
//!
//! The daemons raise the soft limit to the hard one first ([`raise`]), in their `main`.

use std::io;

/// More than any daemon uses: a hard limit of a billion means that nobody has thought about it.
const WANTED_MAX: u64 = 65_536;
/// With fewer there is no room for a working set of chunks and connections.
pub const FEW: u64 = 1024;

const LACKS: [i32; 6] =
    [libc::ENOMEM, libc::ENFILE, libc::EMFILE, libc::EAGAIN, libc::EADDRNOTAVAIL, libc::ENOBUFS];

fn limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable for the length of the call.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many this process may have now.
pub fn obtained() -> u64 {
    limit().map_or(FEW, |limit| limit.rlim_cur).min(WANTED_MAX)
}

/// Raises the soft limit as far as the hard one allows (the usual soft one of 1024 is too low); answers what was obtained.
pub fn raise() -> io::Result<u64> {
    let mut limit = limit()?;
    let wanted = limit.rlim_max.min(WANTED_MAX);
    if limit.rlim_cur < wanted {
        limit.rlim_cur = wanted;
        // SAFETY: `limit` is readable for the length of the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

/// Did a call fail because this process, or this machine, lacks descriptors, memory or ports? That says nothing about
/// whoever it was about.
pub fn is_lacking(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| LACKS.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_raised_is_what_is_obtained_and_raising_again_changes_nothing() {
        let raised = raise().unwrap();
        assert_eq!(obtained(), raised.min(WANTED_MAX));
        assert_eq!(raise().unwrap(), raised);
    }
}
