//! Chooses the ports of a local federation, once. They are free at that moment and outside the range from which the kernel
//! takes ports for outgoing connections: else such a connection could have the port of a daemon that is down.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::ops::Range;
use std::path::Path;

use anyhow::Context as _;

/// The ports to choose from: below Linux's default `ip_local_port_range` (from 32768 on), above the ports of common services.
const CANDIDATES: Range<u16> = 20_000..32_000;

/// Hands out ports. It listens on each of them until it is dropped, so that no port is handed out twice.
pub struct Ports {
    next: u16,
    taken: BTreeSet<u16>,
    held: Vec<TcpListener>,
}

impl Ports {
    /// Begins at a port that depends on `dir`, so that two federations seldom get the same ports while one of them is stopped.
    /// `taken` are the ports that the federation file already gives to daemons.
    pub fn new(dir: &Path, taken: BTreeSet<u16>) -> Ports {
        Ports { next: CANDIDATES.start + spread(dir), taken, held: Vec::new() }
    }

    /// Hands out the next free port on 127.0.0.1.
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

/// The FNV-1a hash of the path, folded into the range. It is the same on every run, which the hasher of std does not promise.
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
