//! Who may do what by the mode bits, as Linux decides it. Pure. The state decides by it, and a client where it knows the attributes.

use crate::attr::{AccessMask, Caller, FileKind};
use crate::error::MetaError;
use crate::meta::MetaResult;

const ANY_EXECUTE: u32 = 0o111;

/// What of an inode decides who may do what with it.
#[derive(Clone, Copy, Debug)]
pub struct Guarded {
    pub kind: FileKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// EACCES, unless the caller has all the rights in `mask`.
pub fn require(guarded: Guarded, caller: &Caller, mask: AccessMask) -> MetaResult<()> {
    let Guarded { kind, mode, uid, gid } = guarded;
    let is_granted = if caller.is_root() {
        let executes = mask.0 & AccessMask::EXECUTE.0 != 0;
        !executes || kind == FileKind::Directory || mode & ANY_EXECUTE != 0
    } else if caller.uid == uid {
        grants(mode >> 6, mask)
    } else {
        let (as_group, as_other) = (grants(mode >> 3, mask), grants(mode, mask));
        // The groups are asked for only when they decide (P5.6).
        if as_group == as_other {
            as_other
        } else if is_in_group(caller, gid)? {
            as_group
        } else {
            as_other
        }
    };
    if is_granted { Ok(()) } else { Err(MetaError::PermissionDenied) }
}

fn grants(bits: u32, mask: AccessMask) -> bool {
    let wanted = u32::from(mask.0) & 7;
    bits & wanted == wanted
}

/// `GroupsNeeded` when only the supplementary groups can tell and they were not sent.
pub fn is_in_group(caller: &Caller, gid: u32) -> MetaResult<bool> {
    if caller.gid == gid {
        return Ok(true);
    }
    match &caller.groups {
        Some(groups) => Ok(groups.contains(&gid)),
        None => Err(MetaError::GroupsNeeded),
    }
}
