//! The directories of the root, one for each client that works in one.

use dfs_client::ClientError;
use dfs_client::inode::{Client, Lookup};
use dfs_proto::attr::{Caller, Name};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Create, NewInode};

use super::layout::Layout;
use super::plan::OVER_INTERVAL;

/// The directory of that name in the root; made if it is not there. In a federation that may take several tries (P9.4).
pub(super) async fn in_root(client: &Client, layout: Layout, name: &str) -> InodeId {
    let wanted = Name::new(name).unwrap_or_else(|bad| panic!("{name}: {bad:?}"));
    loop {
        let lookup = Lookup { parent: InodeId::ROOT, name: name.into() };
        let found = match client.perform(&Caller::ROOT, lookup).await {
            Err(ClientError::NotFound) => {
                let create = Create {
                    parent: InodeId::ROOT,
                    name: wanted.clone(),
                    mode: 0o755,
                    what: NewInode::Directory,
                    or_existing: false,
                    opens: false,
                };
                client.perform(&Caller::ROOT, create).await.map(|made| made.attr)
            }
            found => found,
        };
        match found {
            Ok(attr) => return attr.inode,
            Err(ClientError::Exists) => {} // made by an earlier try
            Err(ClientError::Unavailable { .. }) if layout.has_federation() => {
                tokio::time::sleep(OVER_INTERVAL).await;
            }
            Err(error) => panic!("make {name}: {error}"),
        }
    }
}
