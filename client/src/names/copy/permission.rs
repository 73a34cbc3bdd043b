//! Whether the copy may answer a caller: only where the mode bits clearly grant what the server would check. Where they do not, or
//! the caller's groups are needed to tell, the server is asked (`dfs_state::permission` is the rule).

use dfs_proto::attr::{Caller, FileKind, InodeAttr};

const SEARCH: u32 = 0o1;

/// The caller may look up names in this directory.
pub(super) fn clearly_may_search(directory: &InodeAttr, caller: &Caller) -> bool {
    if directory.kind != FileKind::Directory {
        return false;
    }
    let [as_owner, as_group, as_other] = [6, 3, 0].map(|shift| directory.mode >> shift & SEARCH != 0);
    if caller.is_root() {
        true
    } else if caller.uid == directory.uid {
        as_owner
    } else if caller.gid == directory.gid {
        as_group
    } else {
        match &caller.groups {
            Some(groups) if groups.contains(&directory.gid) => as_group,
            Some(_) => as_other,
            None => as_group && as_other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::copy::fixtures::{DIRECTORY, attr};

    #[test]
    fn the_copy_answers_only_whom_the_mode_bits_clearly_let_search() {
        let with_mode =
            |mode| InodeAttr { mode, uid: 10, gid: 20, ..attr(DIRECTORY, FileKind::Directory, 1) };
        let caller = |uid, gid, groups| Caller { uid, gid, groups };
        let owner = caller(10, 21, None);
        let (member, also_member) = (caller(11, 20, None), caller(11, 21, Some(vec![20])));
        let (stranger, unknown) = (caller(11, 21, Some(vec![22])), caller(11, 21, None));
        for (mode, granted) in [
            (0o700, [true, false, false, false, false]),
            (0o010, [false, true, true, false, false]),
            (0o001, [false, false, false, true, false]),
            (0o011, [false, true, true, true, true]),
            (0o666, [false; 5]),
        ] {
            let directory = with_mode(mode);
            let callers = [&owner, &member, &also_member, &stranger, &unknown];
            assert_eq!(callers.map(|caller| clearly_may_search(&directory, caller)), granted, "{mode:o}");
            assert!(clearly_may_search(&directory, &Caller::ROOT));
        }
        let file = InodeAttr { kind: FileKind::File, ..with_mode(0o777) };
        assert!(!clearly_may_search(&file, &Caller::ROOT));
    }
}
