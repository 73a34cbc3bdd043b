//! Ports for a local federation: chosen once, free at that moment, outside the range that the kernel gives to outgoing
//! connections (else one of those may sit on the port while its daemon is down).

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::ops::Range;
use std::path::Path;

use anyhow::Context as _;

/// Below Linux's default `ip_local_port_range` (32768 on), above the ports of common services.
const CANDIDATES: Range<u16> = 20_000..32_000;

/// Holds every port that it handed out until it is dropped, so that two daemons of one run never get the same.
pub struct Ports {
    next: u16,
    taken: BTreeSet<u16>,
    held: Vec<TcpListener>,
}

impl Ports {
    /// Starts at a place that depends on `dir`, so that two federations, one of them stopped, seldom meet.
    /// `taken` are ports that a federation file gives to daemons, running or not.
    pub fn new(dir: &Path, taken: BTreeSet<u16>) -> Ports {
        Ports { next: CANDIDATES.start + spread(dir), taken, held: Vec::new() }
    }

    /// The next free one on 127.0.0.1.
    pub fn take(&mut self) -> anyhow::Result<u16> {
        for _ in CANDIDATES {
            let port = self.next;
            self.next = if port + 1 < CANDIDATES.end { port + 1 } else { CANDIDATES.start };
            if self.taken.contains(&port) {
                continue;
            }
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                self.held.push(listener);
                self.taken.insert(port);
                return Ok(port);
            }
        }
        None.with_context(|| {
            format!("no free port on 127.0.0.1 between {} and {}", CANDIDATES.start, CANDIDATES.end)
        })
    }
}

/// FNV-1a of the path, folded into the range: the same on every run, unlike std's hasher promises.
fn spread(dir: &Path) -> u16 {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in dir.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    (hash % u32::from(CANDIDATES.end - CANDIDATES.start)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct_free_and_never_those_already_given_away() {
        let dir = Path::new("/some/dir");
        let first = Ports::new(dir, BTreeSet::new()).take().unwrap();
        let mut ports = Ports::new(dir, BTreeSet::from([first]));
        let taken: BTreeSet<u16> = (0..20).map(|_| ports.take().unwrap()).collect();
        assert_eq!(taken.len(), 20);
        assert!(!taken.contains(&first));
        assert!(taken.iter().all(|port| CANDIDATES.contains(port)));
    }

    #[test]
    fn a_port_in_use_is_passed_over() {
        let dir = Path::new("/another/dir");
        let mut first = Ports::new(dir, BTreeSet::new());
        let held = first.take().unwrap();
        assert_ne!(Ports::new(dir, BTreeSet::new()).take().unwrap(), held);
    }
}
