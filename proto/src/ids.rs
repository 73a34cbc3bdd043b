//! Identities. Each is its own type; the comment tells who makes it, how long it lives and whether it is reused
//! (it never is: counters live inside the replicated state, P7.1).

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id! {
    /// A volume: 24 bits. Made by the federation group's counter; 0 is the root directory's volume.
    VolumeId(u32), "volume "
}
id! {
    /// A chunk. Made by a counter inside `apply`, unique in its cluster for ever.
    ChunkId(u64), "chunk "
}
id! {
    /// A chunkserver: given at its first registration and stamped on its data directory. Addresses come and go, this stays.
    ServerId(u64), "chunkserver "
}
id! {
    /// A metaserver: chosen in the configuration's `bootstrap` list, equal on all members, never given to another.
    MemberId(u64), "metaserver "
}
id! {
    /// One client's identity at a cluster, from `OpenSession` until it is closed or expired.
    SessionId(u64), "session "
}
id! {
    /// Of a session to its leader, over one connection. Made by the client, each larger than the one before: what belongs to an
    /// earlier one is void. Never 0.
    Attachment(u64), "attachment "
}
id! {
    /// A grant of Write, or the wish for one. Made by the client, each larger than the one before in its session. Never 0.
    WriteGrant(u64), "grant "
}
id! {
    /// A lock that its client waits for. Made by the client, each larger than the one before in its session. Never 0.
    WaitId(u64), "wait "
}
id! {
    /// Whom a lock belongs to, within its session: chosen by the client. Locks of one owner do not exclude each other.
    LockOwner(u64), "owner "
}
id! {
    /// Numbers the requests of one session, from 1 in each of its lanes, made by the client. A retry carries the same one
    /// (P8.1).
    RequestId(u64), "request "
}
id! {
    /// A sequence of request ids with a window of its own: a request that stays without an answer holds back those of its
    /// lane only. Below [`REQUEST_LANES`](crate::units::REQUEST_LANES).
    RequestLane(u8), "lane "
}

impl RequestId {
    const NUMBER_BITS: u32 = 56;

    pub fn new(lane: RequestLane, number: u64) -> RequestId {
        RequestId(u64::from(lane.0) << Self::NUMBER_BITS | number & ((1 << Self::NUMBER_BITS) - 1))
    }

    pub fn lane(self) -> RequestLane {
        RequestLane((self.0 >> Self::NUMBER_BITS) as u8)
    }

    /// Within its lane.
    pub fn number(self) -> u64 {
        self.0 & ((1 << Self::NUMBER_BITS) - 1)
    }
}
id! {
    /// Raised with every change of a chunk's replica set (P10.1). Starts at 1.
    SetVersion(u64), "set version "
}
id! {
    /// Of a cluster: raised by a restore; part of every block checksum (P1.3). Starts at 1.
    Incarnation(u64), "incarnation "
}
id! {
    /// Of a chunkserver's data directory: raised at each registration (P11.1), so that an older process is refused.
    Instance(u64), "instance "
}
id! {
    /// Orders the commits and truncations of one inode: later numbers win. Made inside `apply`, one counter an inode.
    ContentSeq(u64), "content "
}

/// A file or directory: 24 bits of volume, 40 bits of number in it, so that an inode alone tells where to ask.
///
/// Made by a counter inside `apply`, never reused. FUSE's root, 1, is volume 0, number 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InodeId(pub u64);

impl InodeId {
    /// The root directory of the federation.
    pub const ROOT: InodeId = InodeId(1);
    const NUMBER_BITS: u32 = 40;
    /// The largest number within a volume.
    pub const NUMBER_MAX: u64 = (1 << Self::NUMBER_BITS) - 1;

    /// Joins a volume and a number in it; `None` when either is out of range.
    pub fn new(volume: VolumeId, number: u64) -> Option<InodeId> {
        (volume.0 < 1 << 24 && number <= Self::NUMBER_MAX)
            .then(|| InodeId(u64::from(volume.0) << Self::NUMBER_BITS | number))
    }

    /// The volume that this inode lives in.
    pub fn volume(self) -> VolumeId {
        VolumeId((self.0 >> Self::NUMBER_BITS) as u32)
    }

    /// Its number within the volume.
    pub fn number(self) -> u64 {
        self.0 & Self::NUMBER_MAX
    }
}

impl fmt::Display for InodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inode {}:{}", self.volume().0, self.number())
    }
}

macro_rules! uuid_like {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u128);

        impl $name {
            /// "Not known yet": what a fresh data directory or a new client says.
            pub const UNKNOWN: $name = $name(0);

            /// False for [`Self::UNKNOWN`].
            pub fn is_known(self) -> bool {
                self.0 != 0
            }

            /// Big-endian bytes, as they go on the wire; empty when unknown.
            pub fn to_wire(self) -> Vec<u8> {
                if self.is_known() { self.0.to_be_bytes().to_vec() } else { Vec::new() }
            }

            /// The reverse of [`Self::to_wire`]; `None` for any other length.
            pub fn from_wire(bytes: &[u8]) -> Option<$name> {
                if bytes.is_empty() {
                    return Some($name::UNKNOWN);
                }
                Some($name(u128::from_be_bytes(bytes.try_into().ok()?)))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                u128::from_str_radix(text, 16).map($name)
            }
        }
    };
}

uuid_like! {
    /// A cluster: random, made by the leader that first initialises it, then stamped on every data directory.
    ClusterId
}
uuid_like! {
    /// A federation: random, made with the first state of its map.
    FederationId
}
uuid_like! {
    /// One data directory: random, made when it is first used. An emptied directory is a new one (P7.7, P11.1).
    DirectoryId
}
uuid_like! {
    /// Made at random by a client before `OpenSession`, so that a retried opening finds the session it made.
    SessionNonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_tells_its_volume_and_number() {
        let inode = InodeId::new(VolumeId(7), 42).expect("in range");
        assert_eq!((inode.volume(), inode.number()), (VolumeId(7), 42));
        assert_eq!(InodeId::ROOT.volume(), VolumeId(0));
        assert_eq!(InodeId::ROOT.number(), 1);
    }

    #[test]
    fn a_volume_or_number_out_of_range_makes_no_inode() {
        assert_eq!(InodeId::new(VolumeId(1 << 24), 1), None);
        assert_eq!(InodeId::new(VolumeId(0), 1 << 40), None);
    }
}
