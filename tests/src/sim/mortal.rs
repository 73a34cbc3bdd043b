//! A client that dies and comes back: what it synced, or renamed over a file, is kept; what it had open is cleared away, its
//! session expires.

use std::sync::Arc;
use std::time::Duration;

use dfs_client::inode::{Client, CreateOpen, File, Lookup, Open, OpenMode, Unlink};
use dfs_net::env::Rng;
use dfs_proto::attr::{Caller, Name};
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Create, NewInode, Rename, RenameMode};
use dfs_proto::units::Offset;

use super::directory;
use super::layout::Layout;

const DIRECTORY: &str = "mortal";
const FILES_OPEN_MAX: usize = 4;
const WRITE_LEN_MAX: u64 = 30_000;
const PAUSE_MAX: Duration = Duration::from_millis(600);

/// A file, and bytes that it must begin with.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    name: Name,
    bytes: Vec<u8>,
}

fn name_of(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|bad| panic!("{text}: {bad:?}"))
}

/// Of all its lives.
pub(super) async fn directory(client: &Client, layout: Layout) -> InodeId {
    directory::in_root(client, layout, DIRECTORY).await
}

/// Makes files until `is_over`; each life has its own number. Tells what it promises before it goes on.
pub(super) async fn live(
    client: Arc<Client>,
    directory: InodeId,
    rng: Rng,
    life: usize,
    is_over: impl Fn() -> bool,
    promise: impl Fn(Promise),
) {
    // Dropped from the front without a close: such a file is for the background to commit.
    let mut open: Vec<Arc<File>> = Vec::new();
    let mut count = 0;
    while !is_over() {
        count += 1;
        let name = name_of(&format!("{life}-{count}"));
        let file = make(&client, directory, name.clone()).await;
        let bytes = write(&file, &rng, 0).await;
        match rng.below(5) {
            0 => {
                let unlink = Unlink { parent: directory, name: name.clone() };
                let gone = client.perform(&Caller::ROOT, unlink).await;
                gone.unwrap_or_else(|error| panic!("mortal: unlink {name}: {error}"));
            }
            1 => {}
            2 => {
                file.sync().await.unwrap_or_else(|error| panic!("mortal: fsync {name}: {error}"));
                let (saved, bytes) = save(&client, directory, &name, &rng).await;
                promise(Promise { name, bytes });
                open.push(saved);
            }
            _ => {
                file.sync().await.unwrap_or_else(|error| panic!("mortal: fsync {name}: {error}"));
                let end = bytes.len() as u64;
                promise(Promise { name, bytes });
                write(&file, &rng, end).await;
            }
        }
        open.push(file);
        if open.len() > FILES_OPEN_MAX {
            open.remove(0);
        }
        tokio::time::sleep(Duration::from_micros(rng.below(PAUSE_MAX.as_micros() as u64))).await;
    }
}

async fn make(client: &Arc<Client>, parent: InodeId, name: Name) -> Arc<File> {
    let create = Create {
        parent,
        name: name.clone(),
        mode: 0o644,
        what: NewInode::File,
        or_existing: false,
        opens: false,
    };
    let mode = OpenMode { read: true, write: true, ..OpenMode::default() };
    let made = client.perform(&Caller::ROOT, CreateOpen { create, mode }).await;
    made.unwrap_or_else(|error| panic!("mortal: create {name}: {error}")).0
}

/// As many programs save, without fsync: a new file is renamed over the old one, and has all its bytes then (P2.5).
async fn save(client: &Arc<Client>, parent: InodeId, over: &Name, rng: &Rng) -> (Arc<File>, Vec<u8>) {
    let name = name_of(&format!("{over}.new"));
    let file = make(client, parent, name.clone()).await;
    let bytes = write(&file, rng, 0).await;
    let rename =
        Rename { parent, name, new_parent: parent, new_name: over.clone(), mode: RenameMode::Replace };
    let renamed = client.perform(&Caller::ROOT, rename).await;
    renamed.unwrap_or_else(|error| panic!("mortal: rename over {over}: {error}"));
    (file, bytes)
}

async fn write(file: &File, rng: &Rng, offset: u64) -> Vec<u8> {
    let fill = rng.u64().to_le_bytes();
    let len = 1 + rng.below(WRITE_LEN_MAX) as usize;
    let bytes: Vec<u8> = fill.iter().copied().cycle().take(len).collect();
    let written = file.write_at(&Caller::ROOT, Offset(offset), &bytes).await;
    written.unwrap_or_else(|error| panic!("mortal: write to {}: {error}", file.attr().inode));
    bytes
}

/// Everything that any life promised is there.
pub(super) async fn check(reader: &Client, layout: Layout, promises: &[Promise]) {
    if promises.is_empty() {
        return;
    }
    let directory = directory(reader, layout).await;
    for Promise { name, bytes } in promises {
        let mode = OpenMode { read: true, ..OpenMode::default() };
        let file = async {
            let lookup = Lookup { parent: directory, name: name.as_bytes().to_vec() };
            let inode = reader.perform(&Caller::ROOT, lookup).await?.inode;
            reader.perform(&Caller::ROOT, Open { inode, mode }).await
        };
        let file = file.await.unwrap_or_else(|error| panic!("mortal: open {name} at the end: {error}"));
        let read = file.read_at(Offset(0), bytes.len() as u64).await;
        let read = read.unwrap_or_else(|error| panic!("mortal: read {name} at the end: {error}"));
        assert!(read == *bytes, "mortal: {name} does not begin with what was synced");
        drop(file.release().await); // nothing was written
    }
}
