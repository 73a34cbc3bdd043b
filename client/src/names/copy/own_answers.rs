//! What the answer to a change of this client shows under leases: the directories in which it has altered names, with these names, and
//! what it has made. (NFSv3 answers changes with attributes for the same reason, RFC 1813, 2.6: whoever makes a file looks at it and at
//! its directory next.)

use dfs_proto::attr::InodeAttr;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Change, Changed};
use dfs_proto::scope::NameIn;

use crate::names::copy::kept::LeadsTo;
use crate::session::calls::Answer;

#[derive(Debug, Default)]
pub(super) struct ShownByChange {
    pub(super) attrs: Vec<InodeAttr>,
    pub(super) names: Vec<(NameIn, LeadsTo)>,
}

impl ShownByChange {
    /// A request that was repeated is answered from the server's memory: what it has altered may have changed again since. Its directories
    /// are shown as they are.
    pub(super) fn of(change: &Change, answer: &Answer) -> ShownByChange {
        let Ok((changed, directories)) = &answer.answered else { return ShownByChange::default() };
        let is_leased = |inode: InodeId| answer.leased.contains(&inode);
        let directories = directories.iter().filter(|attr| is_leased(attr.inode)).cloned();
        let mut shown = ShownByChange { attrs: directories.collect(), names: Vec::new() };
        if !answer.is_first_try {
            return shown;
        }
        if let Changed::Inode { attr, existed: false, .. } = changed
            && is_leased(attr.inode)
        {
            shown.attrs.push(attr.clone());
        }
        let (directory, name, leads_to) = match (change, changed) {
            (Change::Create(create), Changed::Inode { attr, .. }) => {
                (create.parent, &create.name, LeadsTo::Inode(attr.inode))
            }
            (Change::Link { inode, parent, name }, _) => (*parent, name, LeadsTo::Inode(*inode)),
            (Change::Unlink { parent, name } | Change::Rmdir { parent, name }, _) => {
                (*parent, name, LeadsTo::Nothing)
            }
            _ => return shown,
        };
        if is_leased(directory) {
            shown.names.push(((directory, name.as_bytes().to_vec()), leads_to));
        }
        shown
    }
}
