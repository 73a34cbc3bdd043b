//! Whether the copy may answer a caller: only where the mode bits clearly grant what the server would check. Where they do not, or
//! the caller's groups are needed to tell, the server is asked. The rule is the server's (`dfs_proto::permission`).

use dfs_proto::attr::{AccessMask, Caller, FileKind, InodeAttr};
use dfs_proto::permission::{self, Guarded};

/// The caller may look up names in this directory.
pub(super) fn clearly_may_search(directory: &InodeAttr, caller: &Caller) -> bool {
    directory.kind == FileKind::Directory && clearly_may(directory, caller, AccessMask::EXECUTE)
}

/// The caller has all the rights in `mask`.
pub(super) fn clearly_may(attr: &InodeAttr, caller: &Caller, mask: AccessMask) -> bool {
    let InodeAttr { kind, mode, uid, gid, .. } = *attr;
    permission::require(Guarded { kind, mode, uid, gid }, caller, mask).is_ok()
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

    #[test]
    fn each_right_counts_for_itself_and_root_executes_what_somebody_may_execute() {
        let mask = |bits| AccessMask(bits);
        let (owner, stranger) =
            (Caller { uid: 10, gid: 10, groups: None }, Caller { uid: 11, gid: 11, groups: None });
        let file = |mode| InodeAttr { mode, uid: 10, gid: 20, ..attr(DIRECTORY, FileKind::File, 1) };
        for wanted in 0..8 {
            let granted: Vec<bool> =
                (0..8).map(|mode| clearly_may(&file(mode << 6), &owner, mask(wanted))).collect();
            let asked = (0..8).map(|mode| mode & u32::from(wanted) == u32::from(wanted)).collect::<Vec<_>>();
            assert_eq!(granted, asked, "{wanted}");
            assert_eq!(clearly_may(&file(0o770), &stranger, mask(wanted)), wanted == 0);
            assert_eq!(clearly_may(&file(0o666), &Caller::ROOT, mask(wanted)), wanted & 1 == 0);
            assert!(clearly_may(&file(0o010), &Caller::ROOT, mask(wanted)));
        }
    }
}
