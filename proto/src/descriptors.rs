//! How many descriptors this process may have. What keeps many open (chunks, tables, connections) takes a share of that
//! number, so that nobody is left without one when it opens the next file: that would look like a failing disk.
//!
//! The daemons raise the soft limit to the hard one first, in their `main`.

use std::io;

/// More than any daemon uses: a hard limit of a billion means that nobody has thought about it.
pub const WANTED_MAX: u64 = 65_536;
/// With fewer there is no room for a working set of chunks and connections.
pub const FEW: u64 = 1024;

const LIMITS: &str = "/proc/self/limits";
/// ENOMEM, ENFILE, EMFILE, EAGAIN, EADDRNOTAVAIL and ENOBUFS, as Linux numbers them.
const LACKS: [i32; 6] = [12, 23, 24, 11, 99, 105];

/// How many this process may have now.
pub fn obtained() -> u64 {
    let text = std::fs::read_to_string(LIMITS).unwrap_or_default();
    soft_limit(&text).unwrap_or(FEW).min(WANTED_MAX)
}

fn soft_limit(text: &str) -> Option<u64> {
    let limits = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match limits.split_whitespace().next()? {
        "unlimited" => Some(WANTED_MAX),
        number => number.parse().ok(),
    }
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
    fn the_soft_limit_is_read_from_what_the_kernel_says() {
        let text = "Limit            Soft Limit  Hard Limit  Units\nMax open files   4096        20000       files\n";
        assert_eq!(soft_limit(text), Some(4096));
        assert_eq!(soft_limit("Max open files   unlimited   unlimited   files\n"), Some(WANTED_MAX));
        assert_eq!(soft_limit(""), None);
        assert!(obtained() > 0);
    }
}
