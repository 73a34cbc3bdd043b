//! A client that dies and comes back: what it synced is kept, what it had open is cleared away, its session expires.

use std::sync::Arc;
use std::time::Duration;

use dfs_client::{Client, File, OpenMode};
use dfs_proto::attr::{Caller, Name};
use dfs_proto::env::Rng;
use dfs_proto::ids::InodeId;
use dfs_proto::meta::{Create, NewInode};
use dfs_proto::units::Offset;

use super::Layout;

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
    super::directory(client, layout, DIRECTORY).await
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
        let create = Create {
            parent: directory,
            name: name.clone(),
            mode: 0o644,
            what: NewInode::File,
            or_existing: false,
        };
        let mode = OpenMode { read: true, write: true, ..OpenMode::default() };
        let made = client.create_open(&Caller::ROOT, create, mode).await;
        let (file, _) = made.unwrap_or_else(|error| panic!("mortal: create {name}: {error}"));
        let bytes = write(&file, &rng, 0).await;
        match rng.below(4) {
            0 => {
                let gone = client.unlink(&Caller::ROOT, directory, &name).await;
                gone.unwrap_or_else(|error| panic!("mortal: unlink {name}: {error}"));
            }
            1 => {}
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
            let attr = reader.lookup(&Caller::ROOT, directory, name.as_bytes()).await?;
            reader.open(&Caller::ROOT, attr.inode, mode).await
        };
        let file = file.await.unwrap_or_else(|error| panic!("mortal: open {name} at the end: {error}"));
        let read = file.read_at(Offset(0), bytes.len() as u64).await;
        let read = read.unwrap_or_else(|error| panic!("mortal: read {name} at the end: {error}"));
        assert!(read == *bytes, "mortal: {name} does not begin with what was synced");
        drop(file.release().await); // nothing was written
    }
}
