//! From a path to an inode, component by component.

use dfs_proto::attr::{BadName, Caller, Name};
use dfs_proto::ids::InodeId;

use crate::error::{ClientError, Result};
use crate::inode::{Client, Resolve, Resolved};

/// Where a name stands.
pub(crate) struct Entry {
    pub(crate) parent: InodeId,
    pub(crate) name: Name,
}

/// The names that `path` is made of. Slashes at its beginning and end, and several in a row, mean nothing.
pub(crate) fn components(path: &[u8]) -> Result<Vec<Name>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    let name = |part: &[u8]| {
        Name::new(part).map_err(|bad| match bad {
            BadName::TooLong => ClientError::NameTooLong,
            BadName::Invalid => {
                ClientError::InvalidArgument { what: format!("`{}` is not a name", part.escape_ascii()) }
            }
        })
    };
    parts.map(name).collect()
}

/// The inode that `path` leads to.
pub(crate) async fn inode(client: &Client, caller: &Caller, path: &[u8]) -> Result<InodeId> {
    walk(client, caller, components(path)?).await
}

/// The directory and the name that `path` ends with. The name need not be there; the root directory has none.
pub(crate) async fn entry(client: &Client, caller: &Caller, path: &[u8]) -> Result<Entry> {
    let mut names = components(path)?;
    let Some(name) = names.pop() else {
        return Err(ClientError::InvalidArgument { what: "the root directory has no name".to_owned() });
    };
    Ok(Entry { parent: walk(client, caller, names).await?, name })
}

async fn walk(client: &Client, caller: &Caller, names: Vec<Name>) -> Result<InodeId> {
    let mut at = InodeId::ROOT;
    for name in names {
        let resolve = Resolve { parent: at, name: name.as_bytes().to_vec() };
        at = match client.perform(caller, resolve).await? {
            Resolved::Attr(attr) => attr.inode,
            Resolved::Unanswered(volume) => volume, // its cluster may answer the next question
        };
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> Result<Vec<String>> {
        Ok(components(path.as_bytes())?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_path_is_its_names_whatever_the_slashes_around_them() {
        for path in ["a/b", "/a/b", "//a///b/"] {
            assert_eq!(names(path), Ok(vec!["a".to_owned(), "b".to_owned()]), "{path}");
        }
        assert_eq!(names("/"), Ok(Vec::new()));
    }

    #[test]
    fn a_path_that_is_not_made_of_names_is_refused() {
        for path in ["a/..", "./a", "a\0b"] {
            assert!(matches!(names(path), Err(ClientError::InvalidArgument { .. })), "{path:?}");
        }
        assert_eq!(names(&"x".repeat(256)), Err(ClientError::NameTooLong));
    }
}
