//! Operations on paths.

use std::time::Duration;

use dfs_proto::units::{ByteLen, MIB, Offset};
use tokio::time::{sleep, timeout};

use crate::error::ClientError;
use crate::fakes::{Cluster, USER, pattern};
use crate::path::Paths;

async fn paths(cluster: &Cluster) -> Paths {
    Paths::new(cluster.client().await)
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_written_by_its_path_is_read_by_it_everywhere() {
    let cluster = Cluster::new();
    let (writer, reader) = (paths(&cluster).await, paths(&cluster).await);
    writer.make_directory(&USER, b"/docs", 0o755).await.unwrap();
    writer.make_directory(&USER, b"/docs/old", 0o755).await.unwrap();
    let data = pattern(1, 5 * MIB + 7);
    writer.write(&USER, b"/docs/old/file", 0o644, data.clone().into()).await.unwrap();
    assert!(reader.read(&USER, b"docs/old/file").await.unwrap() == data);
    let range = reader.read_range(&USER, b"docs/old/file", Offset(MIB - 1), 9).await.unwrap();
    assert_eq!(range, data[MIB as usize - 1..][..9]);
    assert_eq!(reader.stat(&USER, b"docs/old/file").await.unwrap().size, ByteLen(data.len() as u64));
    writer.write(&USER, b"/docs/old/file", 0o644, "shorter".into()).await.unwrap();
    assert_eq!(reader.read(&USER, b"docs/old/file").await.unwrap()[..], b"shorter"[..]);
}

#[tokio::test(start_paused = true)]
async fn names_are_listed_moved_and_removed_by_their_paths() {
    let cluster = Cluster::new();
    let paths = paths(&cluster).await;
    paths.make_directory(&USER, b"a", 0o755).await.unwrap();
    paths.write(&USER, b"a/one", 0o644, "1".into()).await.unwrap();
    paths.write(&USER, b"two", 0o644, "2".into()).await.unwrap();
    paths.rename(&USER, b"two", b"a/two").await.unwrap();
    let page = paths.list(&USER, b"a", 0, 1).await.unwrap();
    let rest = paths.list(&USER, b"a", page.entries[0].cookie, 9).await.unwrap();
    let listed = page.entries.iter().chain(&rest.entries);
    let mut names: Vec<String> = listed.map(|entry| entry.name.to_string()).collect();
    names.sort(); // a listing goes by the hash of the names
    assert_eq!((names, rest.end), (vec!["one".to_owned(), "two".to_owned()], true));
    assert_eq!(paths.remove(&USER, b"a").await, Err(ClientError::NotEmpty));
    for path in [&b"a/one"[..], b"a/two", b"a"] {
        paths.remove(&USER, path).await.unwrap();
        assert_eq!(paths.stat(&USER, path).await.map(drop), Err(ClientError::NotFound));
    }
}

#[tokio::test(start_paused = true)]
async fn a_path_that_leads_through_a_file_or_nowhere_is_refused() {
    let cluster = Cluster::new();
    let paths = paths(&cluster).await;
    paths.write(&USER, b"file", 0o644, "".into()).await.unwrap();
    assert_eq!(paths.read(&USER, b"file/below").await, Err(ClientError::NotDirectory));
    assert_eq!(paths.read(&USER, b"none/below").await, Err(ClientError::NotFound));
    assert!(matches!(paths.remove(&USER, b"/").await, Err(ClientError::InvalidArgument { .. })));
}

/// A gateway's caller hangs up in the middle. What was written until then stayed in the buffer, and was committed seconds later,
/// over what the caller's second try had written elsewhere.
#[tokio::test(start_paused = true)]
async fn regression_a_write_by_path_that_is_given_up_changes_nothing_after_a_later_one() {
    let cluster = Cluster::new();
    let (first, second) = (paths(&cluster).await, paths(&cluster).await);
    let (old, new) = (pattern(1, 3 * MIB), pattern(2, 2 * MIB));
    let mut given_up = 0;
    for patience_ms in 1..8 {
        let patience = Duration::from_millis(patience_ms);
        let write = first.write(&USER, b"file", 0o644, old.clone().into());
        given_up += u32::from(timeout(patience, write).await.is_err());
        sleep(Duration::from_secs(1)).await; // it goes on until its end
        second.write(&USER, b"file", 0o644, new.clone().into()).await.unwrap();
        sleep(Duration::from_secs(30)).await;
        assert!(second.read(&USER, b"file").await.unwrap() == new, "after {patience:?}");
    }
    assert!(given_up >= 3, "{given_up} writes were given up in the middle");
}
