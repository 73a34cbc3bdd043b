//! Files that lose their last name while sessions have them open (P6.5).

use dfs_net::rpc::unary::UnaryChannel;
use dfs_proto::meta::{Attach, HeldWrite, Rename, RenameMode};
use futures::FutureExt as _;

use super::*;

const SLOW_SYNC: Duration = Duration::from_millis(500);

impl Client {
    pub(super) fn of(&self, meta: MetaClient<Channel>) -> Client {
        let (control, opened) = (self.control.clone(), self.opened.clone());
        Client {
            meta,
            control,
            attachment: self.attachment,
            dropped: Vec::new(),
            opened,
            next: self.next + 1000,
        }
    }

    pub(super) async fn attach(&mut self, open: Vec<InodeId>) {
        self.attach_writing(open, Vec::new()).await;
    }

    pub(super) async fn attach_writing(&mut self, open: Vec<InodeId>, writes: Vec<HeldWrite>) {
        self.attachment.0 += 1;
        let attach = Attach {
            cluster: self.opened.cluster,
            session: self.opened.session,
            attachment: self.attachment,
            part: 0,
            more: false,
            locks: Vec::new(),
            open,
            writes,
        };
        let message = convert::attach_to_wire(&attach);
        let call = |channel: UnaryChannel| {
            let message = message.clone();
            async move {
                Ok(convert::attached_from_wire(MetaClient::new(channel).attach(message).await?.into_inner()))
            }
        };
        self.control.call(DEADLINE, call).await.expect("it is attached");
    }

    pub(super) async fn close(&mut self, inode: InodeId) {
        let mut renew = RenewSession::of(self.opened.cluster, self.opened.session);
        renew.attachment = Some(self.attachment);
        renew.closed = vec![inode];
        let message = convert::renew_to_wire(&renew);
        let call = |channel: UnaryChannel| {
            let message = message.clone();
            async move {
                Ok(convert::renewed_from_wire(
                    MetaClient::new(channel).renew_session(message).await?.into_inner(),
                ))
            }
        };
        assert!(self.control.call(DEADLINE, call).await.expect("it is renewed").is_attached);
    }

    async fn make(&mut self, name: &str) -> InodeId {
        attr_of(self.change(&Caller::ROOT, create(name, 0o644, NewInode::File)).await).inode
    }

    async fn make_and_open(&mut self, name: &str) -> InodeId {
        let Change::Create(made) = create(name, 0o644, NewInode::File) else { panic!("a create") };
        attr_of(self.change(&Caller::ROOT, Change::Create(Create { opens: true, ..made })).await).inode
    }

    pub(super) async fn open(&mut self, inode: InodeId) -> MetaResult<u32> {
        match self.read(&Caller::ROOT, Read::Open { inode, mask: AccessMask::READ }).await? {
            ReadReply::Opened { attr, .. } => Ok(attr.nlink),
            other => panic!("an open answered {other:?}"),
        }
    }

    pub(super) async fn unlink(&mut self, name: &str) -> MetaResult<Changed> {
        let name = Name::new(name).expect("a name");
        self.change(&Caller::ROOT, Change::Unlink { parent: InodeId::ROOT, name }).await
    }

    pub(super) async fn release(&mut self, inode: InodeId) {
        let release = Change::ReleaseOrphans { inodes: vec![inode] };
        assert_eq!(self.change(&Caller::ROOT, release).await, Ok(Changed::Done));
    }

    pub(super) async fn nlink(&mut self, inode: InodeId) -> MetaResult<u32> {
        match self.read(&Caller::ROOT, Read::GetAttr { inode }).await? {
            ReadReply::Attr(attr) => Ok(attr.nlink),
            other => panic!("attributes are {other:?}"),
        }
    }
}

pub(super) fn orphan(inode: InodeId) -> MetaResult<Changed> {
    Ok(Changed::Removed { orphan: Some(inode) })
}

/// Until what was closed is released.
pub(super) async fn settle() {
    sleep(Duration::from_secs(2)).await;
}

/// Two sessions of one cluster; the second one has attached.
async fn two(cluster: &Cluster) -> (Client, Client) {
    let (remover, mut opener) = (cluster.client(1).await, cluster.client(2).await);
    opener.attach(Vec::new()).await;
    (remover, opener)
}

#[tokio::test(start_paused = true)]
async fn a_file_that_another_session_has_open_stays_for_it_until_it_tells_that_it_closed_it() {
    let cluster = Cluster::one().await;
    let (mut remover, mut opener) = two(&cluster).await;
    let file = remover.make("f").await;
    assert_eq!(opener.open(file).await, Ok(1));
    assert_eq!(remover.unlink("f").await, orphan(file));
    remover.release(file).await;
    assert_eq!(opener.nlink(file).await, Ok(0));
    assert_eq!(opener.open(file).await, Ok(0), "it may be opened again through /proc");
    assert_eq!(remover.open(file).await, Err(MetaError::Stale), "who has released it cannot");
    opener.close(file).await;
    settle().await;
    assert_eq!(opener.nlink(file).await, Err(MetaError::Stale));
    assert_eq!(cluster.status(1).await.map(|status| status.inodes), Ok(1), "only the root is left");
}

#[tokio::test(start_paused = true)]
async fn what_a_session_made_and_opened_in_one_request_stays_too() {
    let cluster = Cluster::one().await;
    let (mut remover, mut opener) = two(&cluster).await;
    let (opened, only_made) = (opener.make_and_open("opened").await, opener.make("made").await);
    for (name, inode) in [("opened", opened), ("made", only_made)] {
        assert_eq!(remover.unlink(name).await, orphan(inode));
        remover.release(inode).await;
    }
    assert_eq!(opener.nlink(opened).await, Ok(0));
    assert_eq!(opener.nlink(only_made).await, Err(MetaError::Stale), "mknod(2) opens nothing");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_renamed_over_stays_for_those_who_have_it_open() {
    let cluster = Cluster::one().await;
    let (mut remover, mut opener) = two(&cluster).await;
    let (old, _) = (opener.make_and_open("old").await, remover.make("new").await);
    let names = ["new", "old"].map(|name| Name::new(name).expect("a name"));
    let [name, new_name] = names;
    let (parent, new_parent) = (InodeId::ROOT, InodeId::ROOT);
    let rename = Rename { parent, name, new_parent, new_name, mode: RenameMode::Replace };
    assert_eq!(remover.change(&Caller::ROOT, Change::Rename(rename)).await, orphan(old));
    remover.release(old).await;
    assert_eq!(opener.nlink(old).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn of_two_holders_each_releases_for_itself_and_the_end_of_a_session_does_too() {
    let cluster = Cluster::one().await;
    let (mut remover, mut first) = two(&cluster).await;
    let mut second = cluster.client(3).await;
    second.attach(Vec::new()).await;
    let file = remover.make("f").await;
    for opener in [&mut first, &mut second] {
        assert_eq!(opener.open(file).await, Ok(1));
    }
    assert_eq!(remover.unlink("f").await, orphan(file));
    remover.release(file).await;
    first.close(file).await;
    settle().await;
    assert_eq!(second.nlink(file).await, Ok(0), "the other one has it open");
    let close = RenewSession::of(second.opened.cluster, second.opened.session);
    second.meta.close_session(convert::renew_to_wire(&close)).await.expect("an answer");
    settle().await;
    assert_eq!(first.nlink(file).await, Err(MetaError::Stale));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_never_attaches_keeps_nothing_of_others_as_before() {
    let cluster = Cluster::one().await;
    let (mut remover, mut opener) = (cluster.client(1).await, cluster.client(2).await);
    let file = opener.make("f").await;
    assert_eq!(opener.open(file).await, Ok(1));
    assert_eq!(remover.unlink("f").await, orphan(file));
    assert_eq!(opener.open(file).await, Err(MetaError::Stale));
    remover.release(file).await;
    assert_eq!(opener.nlink(file).await, Err(MetaError::Stale));
}

/// The open comes between the removal's look at the openers and its apply.
#[tokio::test(start_paused = true)]
async fn an_open_of_a_file_whose_last_name_is_being_taken_waits_and_finds_it_gone() {
    let cluster = Cluster::one().await;
    let (mut remover, mut opener) = two(&cluster).await;
    let (file, other) = (remover.make("f").await, opener.make_and_open("other").await);
    cluster.disks[&1].log.set_sync_time(SLOW_SYNC);
    let removal = tokio::spawn(async move { (remover.unlink("f").await, remover) });
    sleep(SLOW_SYNC / 5).await;
    assert!(opener.open(other).await.is_ok(), "another file is opened meanwhile");
    let began = Instant::now();
    assert_eq!(opener.open(file).await, Err(MetaError::Stale));
    assert!(began.elapsed() >= SLOW_SYNC / 5, "it waited");
    let (removed, mut remover) = removal.await.expect("no panic");
    assert_eq!(removed, orphan(file));
    cluster.disks[&1].log.set_sync_time(Duration::ZERO);
    remover.release(file).await;
    settle().await;
    assert_eq!(cluster.status(1).await.map(|status| status.inodes), Ok(2), "the root and the other file");
}

/// It is among the openers that the removal has named, and told of its close before the file was an orphan.
#[tokio::test(start_paused = true)]
async fn who_closes_the_file_while_its_last_name_is_being_taken_does_not_hold_it() {
    let cluster = Cluster::one().await;
    let (mut remover, mut opener) = two(&cluster).await;
    let file = opener.make_and_open("f").await;
    cluster.disks[&1].log.set_sync_time(SLOW_SYNC);
    let removal = tokio::spawn(async move { (remover.unlink("f").await, remover) });
    sleep(SLOW_SYNC / 5).await;
    opener.close(file).await;
    assert!(!removal.is_finished());
    let (removed, mut remover) = removal.await.expect("no panic");
    assert_eq!(removed, orphan(file));
    cluster.disks[&1].log.set_sync_time(Duration::ZERO);
    remover.release(file).await;
    settle().await;
    assert_eq!(cluster.status(1).await.map(|status| status.inodes), Ok(1));
}

/// A client whose connection breaks gives the call up while its command is on its way.
#[tokio::test(start_paused = true)]
async fn a_removal_that_its_caller_has_given_up_still_holds_up_opens_until_it_is_applied() {
    let cluster = Cluster::one().await;
    let (mut remover, mut opener) = two(&cluster).await;
    let file = remover.make("f").await;
    cluster.disks[&1].log.set_sync_time(SLOW_SYNC);
    let removal = tokio::spawn(async move { remover.unlink("f").await });
    sleep(SLOW_SYNC / 5).await;
    removal.abort();
    assert_eq!(opener.open(file).await, Err(MetaError::Stale));
}

/// It is among the openers that the removal has named, and nobody waits for the removal's answer any more.
#[tokio::test(start_paused = true)]
async fn who_closes_the_file_while_a_removal_that_was_given_up_is_under_way_does_not_hold_it() {
    let cluster = Cluster::one().await;
    let (mut remover, mut opener) = two(&cluster).await;
    let mut releaser = remover.of(remover.meta.clone());
    let (file, kept) = (opener.make_and_open("f").await, opener.make_and_open("kept").await);
    cluster.disks[&1].log.set_sync_time(SLOW_SYNC);
    let removal = tokio::spawn(async move { remover.unlink("f").await });
    sleep(SLOW_SYNC / 5).await;
    removal.abort();
    sleep(SLOW_SYNC / 5).await;
    opener.close(file).await;
    cluster.disks[&1].log.set_sync_time(Duration::ZERO);
    settle().await;
    releaser.release(file).await;
    settle().await;
    assert_eq!(cluster.status(1).await.map(|status| status.inodes), Ok(2), "the root and the other file");
    assert_eq!(releaser.unlink("kept").await, orphan(kept));
    releaser.release(kept).await;
    settle().await;
    assert_eq!(opener.nlink(kept).await, Ok(0), "it has it open");
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_keeps_what_loses_its_last_name_for_those_who_have_not_told_what_they_have_open() {
    let mut cluster = Cluster::one().await;
    let (remover, mut opener) = two(&cluster).await;
    let files = [opener.make_and_open("a").await, opener.make_and_open("b").await];
    let mut late = cluster.client(3).await;
    late.attach(Vec::new()).await;
    late.make_and_open("c").await;
    cluster.restart(1).await;
    let channel = cluster.leader_channel().await;
    let [mut remover, mut opener, mut late] =
        [&remover, &opener, &late].map(|client| client.of(MetaClient::new(channel.clone())));
    assert_eq!(remover.unlink("a").await, orphan(files[0]), "it waits for nobody");
    remover.release(files[0]).await;
    assert_eq!(opener.nlink(files[0]).await, Ok(0), "somebody may have it open");
    opener.attach(files.to_vec()).await;
    late.attach(Vec::new()).await;
    settle().await;
    assert_eq!(opener.nlink(files[0]).await, Ok(0), "one has it open");
    opener.attach(vec![files[1]]).await;
    settle().await;
    assert_eq!(opener.nlink(files[0]).await, Err(MetaError::Stale), "it no longer has it open");
    assert_eq!(opener.nlink(files[1]).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_was_lost_opens_what_its_first_try_made_if_it_is_there_still() {
    let mut cluster = Cluster::one().await;
    let (mut remover, mut opener) = two(&cluster).await;
    let request = |client: &mut Client, name: &str| {
        let Change::Create(made) = create(name, 0o644, NewInode::File) else { panic!("a create") };
        client.request(&Caller::ROOT, Change::Create(Create { opens: true, ..made }))
    };
    let (kept, gone) = (request(&mut opener, "kept"), request(&mut opener, "gone"));
    let kept_file = attr_of(opener.send(&kept).await).inode;
    attr_of(opener.send(&gone).await);
    cluster.restart(1).await;
    let channel = cluster.leader_channel().await;
    remover = remover.of(MetaClient::new(channel.clone()));
    opener = opener.of(MetaClient::new(channel));
    opener.attach(Vec::new()).await;
    assert!(remover.unlink("gone").await.is_ok());
    assert_eq!(opener.send(&gone).await, Err(MetaError::Stale));
    assert_eq!(attr_of(opener.send(&kept).await).inode, kept_file);
    assert_eq!(remover.unlink("kept").await, orphan(kept_file));
    remover.release(kept_file).await;
    assert_eq!(opener.nlink(kept_file).await, Ok(0));
}

/// As many at once as a build has.
#[tokio::test(start_paused = true)]
async fn creates_that_open_and_removals_at_the_same_time_lose_no_file_of_those_that_have_it_open() {
    let cluster = Cluster::one().await;
    let channel = cluster.leader_channel().await;
    let (remover, opener) = two(&cluster).await;
    cluster.disks[&1].log.set_sync_time(Duration::from_millis(2));
    let work = (0..60).map(|number| {
        let (mut opener, mut remover) =
            (opener.of(MetaClient::new(channel.clone())), remover.of(MetaClient::new(channel.clone())));
        opener.next += number;
        remover.next += 2 * number;
        async move {
            let name = format!("f{number}");
            let removal = async {
                let lookup = Read::Lookup { parent: InodeId::ROOT, name: name.clone().into_bytes() };
                while remover.read(&Caller::ROOT, lookup.clone()).await == Err(MetaError::NotFound) {
                    sleep(Duration::from_millis(1)).await; // the clock stands still while somebody is busy
                }
                remover.unlink(&name).await
            };
            let (file, removed) = tokio::join!(opener.make_and_open(&name), removal);
            assert_eq!(removed, orphan(file));
            remover.release(file).await;
            assert_eq!(opener.nlink(file).await, Ok(0), "{name}");
            opener.close(file).await;
        }
        .boxed()
    });
    for some in work.collect::<Vec<_>>().chunks_mut(20) {
        futures::future::join_all(some.iter_mut()).await;
    }
    cluster.disks[&1].log.set_sync_time(Duration::ZERO);
    settle().await;
    assert_eq!(cluster.status(1).await.map(|status| status.inodes), Ok(1));
}
