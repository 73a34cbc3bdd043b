//! Read leases: whoever was shown something is asked before it changes (P3.2 to P3.8, P4.1 to P4.3).

mod opens;
mod writes;

use dfs_net::env::BoxFuture;
use dfs_net::rpc::push::{Push, PushHandler};
use dfs_net::rpc::unary::UnaryChannel;
use dfs_proto::meta::{
    Recall, Recalled, RecallsDone, Rename, RenameMode, SessionRenewed, SetAttr, Shown, WriteRecall,
};
use tokio::sync::mpsc;

use super::*;

const SLOW_SYNC: Duration = Duration::from_millis(500);
/// From the last heartbeat that counts on.
const LEASE: Duration = Duration::from_millis(2200);
/// More than anything takes that waits for nobody.
const SOON: Duration = Duration::from_millis(100);

struct Recalls {
    reads: mpsc::Sender<Recall>,
    writes: mpsc::Sender<WriteRecall>,
}

impl PushHandler for Recalls {
    fn handle(&self, push: Push) -> BoxFuture<'_, ()> {
        match convert::recall_from_push(&push).expect("it is sound") {
            Some(recall) => drop(self.reads.try_send(recall)),
            None => {
                let recall = convert::write_recall_from_push(&push).expect("it is sound");
                drop(self.writes.try_send(recall.expect("nothing else is pushed")));
            }
        }
        Box::pin(async {})
    }
}

/// A session that has attached and wants leases.
struct Holder {
    client: Client,
    recalls: mpsc::Receiver<Recall>,
    /// Recalls of Write.
    asked: mpsc::Receiver<WriteRecall>,
}

impl Holder {
    async fn of(mut client: Client) -> Holder {
        let (reads, recalls) = mpsc::channel(1000);
        let (writes, asked) = mpsc::channel(1000);
        client.control.handle_pushes(Arc::new(Recalls { reads, writes }));
        client.attach(Vec::new()).await;
        Holder { client, recalls, asked }
    }

    async fn new(cluster: &Cluster, nonce: u128) -> Holder {
        Holder::of(cluster.client(nonce).await).await
    }

    async fn shown(&mut self, read: Read) -> Shown {
        let Client { opened, attachment, .. } = &self.client;
        let request = ReadRequest {
            cluster: opened.cluster,
            session: opened.session,
            caller: Caller::ROOT,
            leases: Some(*attachment),
            read,
        };
        let message = convert::read_request_to_wire(&request);
        loop {
            let reply = self.client.meta.read(message.clone()).await.expect("an answer");
            match convert::shown_from_wire(reply.into_inner()) {
                Shown { answered: Err(MetaError::Undecided { .. }), .. } => {} // it waits for somebody else
                shown => return shown,
            }
        }
    }

    /// What it holds after it was shown the attributes of this.
    async fn leased(&mut self, inode: InodeId) -> Vec<InodeId> {
        self.shown(Read::GetAttr { inode }).await.leased
    }

    async fn lookup(&mut self, parent: InodeId, name: &str) -> Shown {
        self.shown(Read::Lookup { parent, name: name.into() }).await
    }

    /// What the answer to a create leases, and what was made.
    async fn create_wanting_leases(&mut self, create: Change) -> (Vec<InodeId>, InodeId) {
        let request = self.client.request(&Caller::ROOT, create);
        let (attachment, behind) = (self.client.attachment, Vec::new());
        let dropped = Dropped { attachment, behind, wants_write: None, wants_read: true, writes: Vec::new() };
        let message = convert::change_request_to_wire(&request, Some(&dropped));
        let reply = self.client.meta.change(message).await.expect("an answer").into_inner();
        let leased = reply.leased.iter().copied().map(InodeId).collect();
        (leased, attr_of(convert::changed_from_wire(reply)).inode)
    }

    async fn recalled(&mut self) -> Recall {
        self.recalls.recv().await.expect("the connection lives")
    }

    async fn answer(&mut self, number: u64) {
        self.answer_with_open(number, Vec::new()).await;
    }

    /// It has these of the recalled files open.
    async fn answer_with_open(&mut self, number: u64, open: Vec<InodeId>) {
        let Client { opened, attachment, control, .. } = &self.client;
        let (cluster, session, attachment) = (opened.cluster, opened.session, *attachment);
        let done = RecallsDone { cluster, session, attachment, number, open };
        let message = convert::recalls_done_to_wire(&done);
        let call = |channel: UnaryChannel| {
            let message = message.clone();
            async move {
                let reply = MetaClient::new(channel).recalled(message).await?;
                Ok(convert::refusal(reply.into_inner().error))
            }
        };
        control.call(DEADLINE, call).await.expect("it is heard");
    }

    async fn beat(&mut self) -> SessionRenewed {
        let Client { opened, attachment, control, .. } = &self.client;
        let mut renew = RenewSession::of(opened.cluster, opened.session);
        renew.attachment = Some(*attachment);
        let message = convert::renew_to_wire(&renew);
        let call = |channel: UnaryChannel| {
            let message = message.clone();
            async move {
                let reply = MetaClient::new(channel).renew_session(message).await?;
                Ok(convert::renewed_from_wire(reply.into_inner()))
            }
        };
        control.call(DEADLINE, call).await.expect("it is renewed")
    }
}

fn of_inode(inode: InodeId) -> Recalled {
    Recalled::Inodes(vec![(inode, Vec::new())])
}

fn of_name(directory: InodeId, name: &str) -> Recalled {
    Recalled::Inodes(vec![(directory, vec![name.into()])])
}

impl Client {
    async fn chmod(&mut self, inode: InodeId, mode: u32) {
        let set = SetAttr { inode, mode: Some(mode), ..SetAttr::default() };
        self.change(&Caller::ROOT, Change::SetAttr(set)).await.expect("root may");
    }

    /// A change that is under way when this returns.
    fn chmod_later(mut self, inode: InodeId, mode: u32) -> JoinHandle<Client> {
        tokio::spawn(async move {
            self.chmod(inode, mode).await;
            self
        })
    }

    async fn make_in(&mut self, parent: InodeId, name: &str, what: NewInode) -> InodeId {
        let Change::Create(made) = create(name, 0o755, what) else { panic!("a create") };
        attr_of(self.change(&Caller::ROOT, Change::Create(Create { parent, ..made })).await).inode
    }

    async fn rename(&mut self, name: &str, new_name: &str) {
        let [name, new_name] = [name, new_name].map(|name| Name::new(name).expect("a name"));
        let (parent, new_parent) = (InodeId::ROOT, InodeId::ROOT);
        let rename = Rename { parent, name, new_parent, new_name, mode: RenameMode::Replace };
        self.change(&Caller::ROOT, Change::Rename(rename)).await.expect("root may");
    }
}

/// A cluster with a file; a session that changes it, and one that holds Read of it.
async fn held_file() -> (Cluster, Client, Holder, InodeId) {
    let cluster = Cluster::one().await;
    let mut writer = cluster.client(1).await;
    let file = writer.make_in(InodeId::ROOT, "f", NewInode::File).await;
    let mut holder = Holder::new(&cluster, 2).await;
    assert_eq!(holder.leased(file).await, [file]);
    (cluster, writer, holder, file)
}

#[tokio::test(start_paused = true)]
async fn a_change_waits_until_the_holder_has_answered_the_recall_and_no_longer() {
    let (_cluster, writer, mut holder, file) = held_file().await;
    let change = writer.chmod_later(file, 0o600);
    let recall = holder.recalled().await;
    assert_eq!(recall, Recall { attachment: Attachment(1), number: 1, what: of_inode(file) });
    sleep(SOON).await;
    let Shown { answered, leased } = holder.shown(Read::GetAttr { inode: file }).await;
    let Ok(ReadReply::Attr(attr)) = answered else { panic!("attributes are {answered:?}") };
    assert!(!change.is_finished() && attr.mode & 0o777 == 0o755, "nothing is changed yet");
    assert_eq!(leased, [], "a read does not wait, and is granted nothing");
    let began = Instant::now();
    holder.answer(1).await;
    let mut writer = change.await.expect("no panic");
    assert!(began.elapsed() < SOON);
    writer.chmod(file, 0o640).await;
    assert!(began.elapsed() < SOON, "it holds nothing any more");
    assert_eq!(holder.leased(file).await, [file], "it may be shown it anew");
}

#[tokio::test(start_paused = true)]
async fn a_change_waits_for_nobody_who_asks_for_it_itself_or_was_shown_something_else() {
    let (_cluster, mut writer, mut holder, file) = held_file().await;
    let other = writer.make_in(InodeId::ROOT, "other", NewInode::File).await;
    let began = Instant::now();
    writer.chmod(other, 0o600).await;
    holder.client.chmod(file, 0o600).await;
    assert!(began.elapsed() < SOON && holder.recalls.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_goes_on_when_the_holder_attaches_anew() {
    let (_cluster, writer, mut holder, file) = held_file().await;
    let change = writer.chmod_later(file, 0o600);
    holder.recalled().await;
    let began = Instant::now();
    holder.client.attach(Vec::new()).await;
    change.await.expect("no panic");
    assert!(began.elapsed() < SOON);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_does_not_answer_holds_up_a_change_until_its_lease_ends_however_it_beats() {
    let (_cluster, writer, mut holder, file) = held_file().await;
    sleep(Duration::from_millis(300)).await;
    let counts = Instant::now();
    assert_eq!(holder.beat().await.recalls, 0);
    let change = writer.chmod_later(file, 0o600);
    holder.recalled().await;
    for _ in 0..4 {
        sleep(Duration::from_millis(500)).await;
        let renewed = holder.beat().await;
        assert!(renewed.is_attached && renewed.recalls == 1, "it names the recall");
    }
    assert!(!change.is_finished());
    let mut writer = change.await.expect("no panic");
    assert!(counts.elapsed() >= LEASE && counts.elapsed() < LEASE + SOON, "{:?}", counts.elapsed());
    assert!(!holder.beat().await.is_attached, "it has to attach anew");
    assert_eq!(holder.leased(file).await, []);
    let began = Instant::now();
    writer.chmod(file, 0o640).await;
    assert!(began.elapsed() < SOON);
    holder.client.attach(Vec::new()).await;
    assert!(holder.beat().await.is_attached);
    assert_eq!(holder.leased(file).await, [file]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_granted_while_a_change_is_on_its_way_to_the_disks_also_when_its_caller_has_gone() {
    for is_given_up in [false, true] {
        let (cluster, writer, mut holder, file) = held_file().await;
        holder.client.attach(Vec::new()).await;
        cluster.disks[&1].log.set_sync_time(SLOW_SYNC);
        let change = writer.chmod_later(file, 0o600);
        sleep(SLOW_SYNC / 5).await;
        assert_eq!(holder.leased(file).await, []);
        if is_given_up {
            change.abort();
            sleep(SLOW_SYNC / 5).await;
            assert_eq!(holder.leased(file).await, [], "it is still applied");
            sleep(SLOW_SYNC * 4).await;
        } else {
            change.await.expect("no panic");
        }
        let Shown { answered, leased } = holder.shown(Read::GetAttr { inode: file }).await;
        let Ok(ReadReply::Attr(attr)) = answered else { panic!("attributes are {answered:?}") };
        assert_eq!((attr.mode & 0o777, leased), (0o600, vec![file]));
    }
}

#[tokio::test(start_paused = true)]
async fn names_are_recalled_and_the_directory_stays_leased_with_the_names_that_are_absent() {
    let (cluster, mut writer, mut holder, _) = held_file().await;
    let directory = writer.make_in(InodeId::ROOT, "d", NewInode::Directory).await;
    let Shown { answered, leased } = holder.lookup(directory, "n").await;
    assert_eq!((answered, leased), (Err(MetaError::NotFound), vec![directory]));
    let mut change =
        tokio::spawn(async move { (writer.make_in(directory, "n", NewInode::File).await, writer) });
    assert_eq!(holder.recalled().await.what, of_name(directory, "n"));
    holder.answer(1).await;
    let (made, mut writer) = change.await.expect("no panic");
    change = tokio::spawn(async move { (writer.make_in(directory, "m", NewInode::File).await, writer) });
    assert_eq!(holder.recalled().await.what, of_name(directory, "m"), "it holds the directory still");
    holder.answer(2).await;
    change.await.expect("no panic");
    assert_eq!(holder.lookup(directory, "n").await.leased, [directory, made]);
    let list = Read::ReadDir { inode: directory, cookie: 0, limit: 0, plus: true };
    assert_eq!(holder.shown(list).await.leased.len(), 3, "the directory and its children");
    drop(cluster);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_may_be_moved_is_recalled_with_its_parent() {
    let (_cluster, mut writer, mut holder, _) = held_file().await;
    let directory = writer.make_in(InodeId::ROOT, "d", NewInode::Directory).await;
    assert_eq!(holder.lookup(directory, "..").await.leased, [InodeId::ROOT, directory]);
    let change = tokio::spawn(async move { writer.rename("d", "e").await });
    let of_both = vec![(InodeId::ROOT, vec![b"d".into(), b"e".into()]), (directory, vec![b"..".into()])];
    assert_eq!(holder.recalled().await.what, Recalled::Inodes(of_both));
    holder.answer(1).await;
    change.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn the_root_directory_is_leased_like_any_other_and_what_has_no_name_never() {
    let (_cluster, mut writer, mut holder, file) = held_file().await;
    assert_eq!(holder.leased(InodeId::ROOT).await, [InodeId::ROOT]);
    assert_eq!(holder.lookup(InodeId::ROOT, "absent").await.leased, [InodeId::ROOT]);
    assert_eq!(holder.lookup(InodeId::ROOT, "f").await.leased, [InodeId::ROOT, file]);
    holder.client.open(file).await.expect("it is there");
    let unlink = tokio::spawn(async move { (writer.unlink("f").await, writer) });
    let of_both = vec![(InodeId::ROOT, vec![b"f".into()]), (file, Vec::new())];
    assert_eq!(holder.recalled().await.what, Recalled::Inodes(of_both));
    holder.answer(1).await;
    let (removed, _) = unlink.await.expect("no panic");
    assert_eq!(removed, Ok(Changed::Removed { orphan: Some(file) }));
    let Shown { answered, leased } = holder.shown(Read::GetAttr { inode: file }).await;
    assert!(answered.is_ok() && leased.is_empty(), "it has it open: {answered:?}");
}

#[tokio::test(start_paused = true)]
async fn without_an_attachment_of_this_number_nothing_is_leased() {
    let (cluster, mut writer, mut holder, file) = held_file().await;
    holder.client.attachment = Attachment(7);
    assert_eq!(holder.leased(file).await, []);
    let read = Read::GetAttr { inode: file };
    assert!(cluster.client(3).await.read(&Caller::ROOT, read).await.is_ok());
    holder.client.attachment = Attachment(1);
    holder.client.attach(Vec::new()).await;
    let began = Instant::now();
    writer.chmod(file, 0o600).await;
    assert!(began.elapsed() < SOON, "its attachment has dropped what it held");
}

/// While the removal waits, a rename puts another file behind the name, whose holder nobody has recalled.
#[tokio::test(start_paused = true)]
async fn another_inode_behind_a_name_is_recalled_at_a_second_look_before_anything_is_changed() {
    let (cluster, mut writer, mut holder, first) = held_file().await;
    let second = writer.make_in(InodeId::ROOT, "second", NewInode::File).await;
    let unlink = tokio::spawn(async move { writer.unlink("f").await });
    assert_eq!(holder.recalled().await.what, of_inode(first));
    holder.client.dropped = vec![first];
    holder.client.rename("f", "first").await;
    holder.client.rename("second", "f").await;
    let mut late = Holder::new(&cluster, 3).await;
    assert_eq!(late.leased(second).await, [second]);
    holder.answer(1).await;
    assert_eq!(late.recalled().await.what, of_inode(second));
    sleep(SOON).await;
    assert!(!unlink.is_finished());
    assert_eq!(late.lookup(InodeId::ROOT, "f").await.leased, [], "it is there still, and frozen");
    late.answer(1).await;
    assert_eq!(unlink.await.expect("no panic"), Ok(Changed::Removed { orphan: Some(second) }));
    assert_eq!(late.lookup(InodeId::ROOT, "first").await.leased, [InodeId::ROOT, first]);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_changes_nothing_before_all_have_attached_or_their_leases_have_ended() {
    for attaches in [false, true] {
        let (mut cluster, writer, holder, file) = held_file().await;
        cluster.restart(1).await;
        let channel = cluster.leader_channel().await;
        let elected_by = Instant::now();
        let client = |client: &Client| Client {
            meta: MetaClient::new(channel.clone()),
            control: client.control.clone(),
            attachment: client.attachment,
            dropped: Vec::new(),
            opened: client.opened.clone(),
            next: client.next + 1000,
        };
        let (mut writer, holder) = (client(&writer), client(&holder.client));
        assert!(writer.read(&Caller::ROOT, Read::GetAttr { inode: file }).await.is_ok(), "reads go on");
        assert!(elected_by.elapsed() < SOON);
        let change = writer.chmod_later(file, 0o600);
        sleep(SOON).await;
        assert!(!change.is_finished());
        if attaches {
            Holder::of(holder).await;
            change.await.expect("no panic");
            assert!(elected_by.elapsed() < SOON * 3);
        } else {
            change.await.expect("no panic");
            assert!(elected_by.elapsed() <= LEASE && elected_by.elapsed() > LEASE - SOON * 5);
        }
    }
}

/// While another change of the directory is under way, nobody knows which of them is applied last.
#[tokio::test(start_paused = true)]
async fn a_change_is_answered_with_leases_on_what_it_shows_if_no_other_change_of_it_was_under_way() {
    let (_cluster, mut writer, mut holder, file) = held_file().await;
    let directory = writer.make_in(InodeId::ROOT, "d", NewInode::Directory).await;
    let create_in = |name| {
        let Change::Create(made) = create(name, 0o755, NewInode::File) else { panic!("a create") };
        Change::Create(Create { parent: directory, ..made })
    };
    let (leased, made) = holder.create_wanting_leases(create_in("a")).await;
    assert_eq!(leased, [directory, made]);
    // The other change waits for the holder of the file, and has frozen the directory by then.
    let link = Change::Link { inode: file, parent: directory, name: Name::new("link").expect("a name") };
    let linking = tokio::spawn(async move { writer.change(&Caller::ROOT, link).await });
    let of_both = vec![(file, Vec::new()), (directory, vec![b"link".into()])];
    assert_eq!(holder.recalled().await.what, Recalled::Inodes(of_both));
    let (leased, made) = holder.create_wanting_leases(create_in("b")).await;
    assert_eq!(leased, [made]);
    holder.answer(1).await;
    linking.await.expect("no panic").expect("it is made");
}
