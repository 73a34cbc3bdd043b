//! Listings that the client answers itself: `leases` is about attributes and single names.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::attr::{AccessMask, Caller, FileKind, Name};
use dfs_proto::ids::{InodeId, VolumeId};
use dfs_proto::meta::{Create, DirEntry, NewInode, Rename, RenameMode, SetAttr};
use tokio::time::sleep;

use crate::error::ClientError;
use crate::fakes::{Cluster, USER, new_file, wait_for};
use crate::inode::{Access, Client, GetAttr, Link, Lookup, ReadDir, Rmdir, Unlink};

/// A client, and a directory with files in it.
struct Mount {
    cluster: Cluster,
    client: Arc<Client>,
    directory: InodeId,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

async fn make(client: &Client, parent: InodeId, name: &str, what: NewInode, mode: u32) -> InodeId {
    let create = Create { parent, what, mode, ..new_file(name) };
    client.perform(&USER, create).await.unwrap().attr.inode
}

/// All entries, in pages of this length, as a mount asks for those of an open directory.
async fn list(client: &Client, inode: InodeId, limit: u32, plus: bool) -> Vec<DirEntry> {
    let (mut entries, mut cookie) = (Vec::<DirEntry>::new(), 0);
    loop {
        let read = ReadDir { inode, cookie, limit, plus };
        let page = client.perform(&Caller::ROOT, read).await.unwrap();
        assert!(page.entries.len() <= limit as usize && (page.end || !page.entries.is_empty()));
        cookie = page.entries.last().map_or(cookie, |entry| entry.cookie);
        entries.extend(page.entries);
        if page.end {
            return entries;
        }
    }
}

impl Mount {
    async fn with_files(count: usize) -> Mount {
        let cluster = Cluster::new();
        let client = cluster.client().await;
        wait_for("an attachment", || cluster.meta.state().leader.sessions().len() == 1).await;
        let root = cluster.meta.make_volume(VolumeId(5));
        let directory = make(&client, root, "d", NewInode::Directory, 0o755).await;
        for number in 0..count {
            make(&client, directory, &format!("file {number}"), NewInode::File, 0o644).await;
        }
        Mount { cluster, client, directory }
    }

    async fn list(&self) -> Vec<DirEntry> {
        list(&self.client, self.directory, 30, true).await
    }

    /// So many requests does a listing take.
    async fn cost(&self) -> u64 {
        let before = self.cluster.meta.state().reads;
        self.list().await;
        self.cluster.meta.state().reads - before
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_listing_costs_no_request_whoever_lists_and_in_whatever_pages() {
    let mount = Mount::with_files(3000).await;
    let before = mount.cluster.meta.state().reads;
    let first = mount.list().await;
    assert_eq!(
        (first.len(), mount.cluster.meta.state().reads - before),
        (3000, 9),
        "each page as long as those before it"
    );
    assert!(first.iter().all(|entry| entry.attr.is_some() && entry.kind == FileKind::File));
    assert_eq!(mount.cost().await, 0);
    let before = mount.cluster.meta.state().reads;
    for limit in [1000, 100, 7] {
        assert_eq!(list(&mount.client, mount.directory, limit, true).await, first, "{limit}");
    }
    let without = list(&mount.client, mount.directory, 100, false).await;
    assert!(without.iter().all(|entry| entry.attr.is_none()));
    assert!(without.iter().map(|entry| &entry.name).eq(first.iter().map(|entry| &entry.name)));
    assert_eq!(mount.cluster.meta.state().reads, before);
    sleep(Duration::from_secs(60)).await; // heartbeats renew the leases
    assert_eq!(mount.cost().await, 0);
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_several_names_of_a_directory_is_answered_by_the_client_from_then_on() {
    let mount = Mount::with_files(1500).await;
    let reader = mount.cluster.client().await;
    wait_for("an attachment", || mount.cluster.meta.state().leader.sessions().len() == 2).await;
    reader.perform(&USER, GetAttr { inode: mount.directory }).await.unwrap();
    let requests = || mount.cluster.meta.state().reads;
    let look_up = async |number: usize| {
        let name = format!("file {number}").into_bytes();
        reader.perform(&USER, Lookup { parent: mount.directory, name }).await.unwrap()
    };
    let before = requests();
    look_up(0).await;
    assert_eq!(requests(), before + 1);
    look_up(1).await;
    let mut asked = 2;
    for page in 1..=2 {
        wait_for("the page", || requests() == before + asked + page).await;
        sleep(Duration::from_millis(20)).await; // the page is in the copy
        // A name that this page does not have brings the next one.
        for number in 0..1500 {
            let earlier = requests();
            look_up(number).await;
            if requests() > earlier {
                asked += 1;
                break;
            }
        }
    }
    assert_eq!((requests(), asked), (before + 5, 3), "all are known");
    let absent = Lookup { parent: mount.directory, name: b"none".to_vec() };
    for _ in 0..5 {
        assert!(reader.perform(&USER, absent.clone()).await.is_err());
    }
    assert_eq!(requests(), before + 6, "what is not there is asked for once, and brings nothing");
}

#[tokio::test(start_paused = true)]
async fn what_any_client_changes_in_a_directory_is_in_the_next_listing() {
    let mount = Mount::with_files(3).await;
    let other = mount.cluster.client().await;
    let parent = mount.directory;
    let elsewhere = make(&other, parent, "elsewhere", NewInode::Directory, 0o755).await;
    let inode = make(&other, parent, "linked", NewInode::File, 0o644).await;
    for (round, client) in [&other, &mount.client].into_iter().cycle().take(20).enumerate() {
        let listed = |names: &'static [&'static str]| {
            let mount = &mount;
            async move {
                for again in [false, true] {
                    let before = mount.cluster.meta.state().reads;
                    let mut seen: Vec<_> = mount.list().await.into_iter().map(|entry| entry.name).collect();
                    seen.sort();
                    let all = ["elsewhere", "file 0", "file 1", "file 2", "linked"].iter().chain(names);
                    assert_eq!(seen, all.map(|text| name(text)).collect::<Vec<_>>(), "round {round}");
                    assert_eq!(mount.cluster.meta.state().reads > before, !again, "round {round}");
                }
            }
        };
        let rename = |(parent, name, new_parent, new_name)| {
            client.perform(&USER, Rename { parent, name, new_parent, new_name, mode: RenameMode::Replace })
        };
        make(client, parent, "new", NewInode::File, 0o644).await;
        listed(&["new"]).await;
        rename((parent, name("new"), parent, name("other"))).await.unwrap();
        listed(&["other"]).await;
        rename((parent, name("other"), elsewhere, name("x"))).await.unwrap();
        listed(&[]).await;
        rename((elsewhere, name("x"), parent, name("y"))).await.unwrap();
        listed(&["y"]).await;
        client.perform(&USER, Link { inode, parent, name: name("z") }).await.unwrap();
        listed(&["y", "z"]).await;
        client.perform(&USER, Unlink { parent, name: name("y") }).await.unwrap();
        client.perform(&USER, Unlink { parent, name: name("z") }).await.unwrap();
        listed(&[]).await;
        make(client, parent, "new", NewInode::Directory, 0o755).await;
        listed(&["new"]).await;
        client.perform(&USER, Rmdir { parent, name: name("new") }).await.unwrap();
        listed(&[]).await;
    }
}

/// The pages that were read before it do not have the new name, whose cookie may lie among theirs.
#[tokio::test(start_paused = true)]
async fn a_listing_during_which_the_client_itself_made_a_name_is_not_answered_again() {
    let mount = Mount::with_files(20).await;
    let inode = mount.directory;
    for number in 0..50 {
        let read = ReadDir { inode, cookie: 0, limit: 10, plus: true };
        let page = mount.client.perform(&Caller::ROOT, read).await.unwrap();
        make(&mount.client, inode, &format!("new {number}"), NewInode::File, 0o644).await;
        let cookie = page.entries.last().unwrap().cookie;
        let read = ReadDir { inode, cookie, limit: 1000, plus: true };
        mount.client.perform(&Caller::ROOT, read).await.unwrap();
        assert_eq!(mount.list().await.len(), 21 + number);
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_with_an_attribute_that_another_client_changed_is_one_request() {
    let mount = Mount::with_files(100).await;
    let other = mount.cluster.client().await;
    let files: Vec<InodeId> = mount.list().await.into_iter().map(|entry| entry.inode).collect();
    assert_eq!(mount.cost().await, 0);
    for inode in [files[0], files[50], files[99]] {
        let set = SetAttr { inode, mode: Some(0o600), ..SetAttr::default() };
        other.perform(&USER, set).await.unwrap();
    }
    let before = mount.cluster.meta.state().reads;
    let modes: Vec<u32> = mount.list().await.into_iter().map(|entry| entry.attr.unwrap().mode).collect();
    assert_eq!(modes.iter().filter(|mode| **mode == 0o600).count(), 3);
    assert_eq!(mount.cluster.meta.state().reads, before + 3, "the third of the four pages is known");
    assert_eq!(mount.cost().await, 0);
}

#[tokio::test(start_paused = true)]
async fn the_right_to_list_costs_no_request_where_the_mode_clearly_gives_it() {
    let mount = Mount::with_files(1).await;
    let inode = mount.directory;
    let may = |caller: Caller, mask| {
        let client = mount.client.clone();
        async move { client.perform(&caller, Access { inode, mask }).await }
    };
    mount.client.perform(&USER, GetAttr { inode }).await.unwrap();
    let before = mount.cluster.meta.state().reads;
    let stranger = || Caller { uid: 7, gid: 7, groups: None };
    for caller in [USER, stranger(), Caller::ROOT] {
        assert_eq!(may(caller, AccessMask::READ).await, Ok(()));
    }
    assert_eq!(mount.cluster.meta.state().reads, before);
    let refused = may(stranger(), AccessMask::WRITE).await;
    assert_eq!(refused, Err(ClientError::PermissionDenied), "that is the cluster's own answer");
    assert_eq!(mount.cluster.meta.state().reads, before + 1);
    let set = SetAttr { inode, mode: Some(0o700), ..SetAttr::default() };
    mount.cluster.client().await.perform(&USER, set).await.unwrap();
    assert_eq!(may(stranger(), AccessMask::READ).await, Err(ClientError::PermissionDenied));
}
