//! Write leases: what one session writes is seen by every read and every change of others that begins later (P3.2 to P3.7, P4.1, P4.2).

use dfs_proto::ids::WriteGrant;
use dfs_proto::meta::{Acquire, Acquired, DirEntry, HeldWrite, ReturnWrites};

use super::*;

const TERM: Duration = Duration::from_secs(10);
const LEN: u64 = 8192;

fn write(inode: InodeId, grant: u64) -> HeldWrite {
    HeldWrite { inode, grant: WriteGrant(grant) }
}

/// Of a file that ends in a hole.
fn commit_of(inode: InodeId, number: u64, len: u64) -> Change {
    let file = FileCommit {
        inode,
        number,
        extents: Vec::new(),
        size_at_least: ByteLen(len),
        mtime: None,
        kill_privileges: false,
    };
    Change::CommitExtents(CommitExtents { chunks: Vec::new(), files: vec![file] })
}

fn size_of(shown: &Shown) -> u64 {
    match &shown.answered {
        Ok(ReadReply::Attr(attr) | ReadReply::Opened { attr, .. }) => attr.size.0,
        Ok(ReadReply::Extents(extents)) => extents.attr.size.0,
        Ok(ReadReply::Entries { entries, .. }) => entries[0].attr.as_ref().expect("attributes").size.0,
        other => panic!("nothing is shown: {other:?}"),
    }
}

fn entries_of(shown: &Shown) -> &[DirEntry] {
    match &shown.answered {
        Ok(ReadReply::Entries { entries, .. }) => entries,
        other => panic!("no page is shown: {other:?}"),
    }
}

impl Holder {
    fn create_of(&mut self, name: &str, or_existing: bool) -> ChangeRequest {
        let Change::Create(made) = create(name, 0o755, NewInode::File) else { panic!("a create") };
        self.client.request(&Caller::ROOT, Change::Create(Create { opens: true, or_existing, ..made }))
    }

    /// What was made or found, and whether the session holds Write of it.
    async fn send_create(&mut self, request: &ChangeRequest, grant: u64) -> (InodeAttr, bool) {
        let wants_write = Some(WriteGrant(grant));
        let (attachment, behind, writes) = (self.client.attachment, Vec::new(), Vec::new());
        let reply = self
            .send_with(request, Dropped { attachment, behind, wants_write, wants_read: false, writes })
            .await;
        let writes = reply.writes;
        (attr_of(convert::changed_from_wire(reply)), writes)
    }

    async fn send_with(&mut self, request: &ChangeRequest, dropped: Dropped) -> wire::ChangeReply {
        let message = convert::change_request_to_wire(request, Some(&dropped));
        loop {
            let reply = self.client.meta.change(message.clone()).await.expect("an answer").into_inner();
            match convert::changed_from_wire(reply.clone()) {
                Err(MetaError::Undecided { .. }) => {}
                _ => return reply,
            }
        }
    }

    /// A new file that the session holds Write of.
    async fn create(&mut self, name: &str, grant: u64) -> InodeId {
        let request = self.create_of(name, false);
        let (attr, writes) = self.send_create(&request, grant).await;
        assert!(writes, "nobody else knows it");
        attr.inode
    }

    async fn acquire(&mut self, inode: InodeId, grant: u64) -> MetaResult<Acquired> {
        let Client { opened, attachment, meta, .. } = &mut self.client;
        let (cluster, session, attachment) = (opened.cluster, opened.session, *attachment);
        let acquire = Acquire { cluster, session, attachment, write: write(inode, grant) };
        loop {
            let reply = meta.acquire(convert::acquire_to_wire(&acquire)).await.expect("an answer");
            match convert::acquired_from_wire(reply.into_inner()) {
                Err(MetaError::Undecided { .. }) => {} // it waits for somebody else
                acquired => return acquired,
            }
        }
    }

    /// The size that the file has when the session holds Write of it.
    async fn acquired(&mut self, inode: InodeId, grant: u64) -> u64 {
        match self.acquire(inode, grant).await {
            Ok(Acquired::Granted { attr, .. }) => attr.size.0,
            other => panic!("it is not granted: {other:?}"),
        }
    }

    fn acquire_later(mut self, inode: InodeId, grant: u64) -> JoinHandle<(u64, Holder)> {
        tokio::spawn(async move { (self.acquired(inode, grant).await, self) })
    }

    async fn give_back(&mut self, inode: InodeId, grant: u64) {
        let Client { opened, meta, .. } = &mut self.client;
        let (cluster, session) = (opened.cluster, opened.session);
        let returned = ReturnWrites { cluster, session, writes: vec![write(inode, grant)] };
        let reply = meta.return_writes(convert::return_writes_to_wire(&returned)).await.expect("an answer");
        assert_eq!(convert::refusal(reply.into_inner().error), Ok(()));
    }

    async fn asked(&mut self) -> WriteRecall {
        self.asked.recv().await.expect("the connection lives")
    }

    /// From here on the file has this length.
    async fn commit(&mut self, inode: InodeId, number: u64, len: u64, grant: u64) {
        let committed = self.try_commit(inode, number, len, vec![write(inode, grant)]).await;
        assert!(matches!(committed, Ok(Changed::Committed { .. })), "{committed:?}");
    }

    async fn try_commit(
        &mut self,
        inode: InodeId,
        number: u64,
        len: u64,
        writes: Vec<HeldWrite>,
    ) -> MetaResult<Changed> {
        let request = self.client.request(&Caller::ROOT, commit_of(inode, number, len));
        let (attachment, behind) = (self.client.attachment, Vec::new());
        let dropped = Dropped { attachment, behind, wants_write: None, wants_read: false, writes };
        convert::changed_from_wire(self.send_with(&request, dropped).await)
    }

    fn shown_later(mut self, read: Read) -> JoinHandle<(Shown, Holder)> {
        tokio::spawn(async move { (self.shown(read).await, self) })
    }

    fn read_later(self, inode: InodeId) -> JoinHandle<(Shown, Holder)> {
        self.shown_later(Read::GetAttr { inode })
    }
}

/// A writer of a new file, and another session.
async fn written() -> (Cluster, Holder, Holder, InodeId) {
    let cluster = Cluster::one().await;
    let (mut writer, other) = (Holder::new(&cluster, 1).await, Holder::new(&cluster, 2).await);
    let file = writer.create("f", 1).await;
    (cluster, writer, other, file)
}

fn asks(attachment: u64, write: HeldWrite) -> WriteRecall {
    WriteRecall { attachment: Attachment(attachment), writes: vec![write] }
}

#[tokio::test(start_paused = true)]
async fn whatever_shows_a_file_waits_for_the_return_and_shows_what_was_committed_meanwhile() {
    for number in 0..5 {
        let (_cluster, mut writer, reader, file) = written().await;
        let leased = if [1, 4].contains(&number) { vec![InodeId::ROOT, file] } else { vec![file] };
        let read = match number {
            0 => Read::GetAttr { inode: file },
            1 => Read::Lookup { parent: InodeId::ROOT, name: b"f".to_vec() },
            2 => Read::Open { inode: file, mask: AccessMask::READ },
            3 => Read::Extents { inode: file, offset: Offset(0), len: LEN, limit: 0 },
            _ => Read::ReadDir { inode: InodeId::ROOT, cookie: 0, limit: 0, plus: true },
        };
        let read = reader.shown_later(read);
        assert_eq!(writer.asked().await, asks(1, write(file, 1)));
        writer.commit(file, 1, LEN, 1).await;
        sleep(SOON).await;
        assert!(!read.is_finished(), "more may come");
        writer.give_back(file, 1).await;
        let (shown, _) = read.await.expect("no panic");
        assert_eq!((size_of(&shown), shown.leased), (LEN, leased), "read {number}");
        assert!(writer.asked.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_shows_no_attributes_of_the_file_and_what_the_writer_reads_itself_does_not_wait() {
    let (_cluster, mut writer, mut other, file) = written().await;
    let names = Read::ReadDir { inode: InodeId::ROOT, cookie: 0, limit: 0, plus: false };
    let access = Read::Access { inode: file, mask: AccessMask::READ };
    let root = vec![InodeId::ROOT];
    let of_root = Read::GetAttr { inode: InodeId::ROOT };
    for (read, leased) in [(names, root.clone()), (access, Vec::new()), (of_root, root)] {
        assert_eq!(other.shown(read).await.leased, leased);
    }
    assert_eq!(writer.leased(file).await, [file]);
    assert!(writer.asked.is_empty());
}

/// Nobody has asked for it yet.
#[tokio::test(start_paused = true)]
async fn a_page_that_is_read_ahead_disturbs_no_writer_and_shows_nothing_of_what_he_writes() {
    let (_cluster, mut writer, mut other, file) = written().await;
    let made = writer.client.change(&Caller::ROOT, create("idle", 0o644, NewInode::File)).await;
    let idle = attr_of(made).inode;
    let page = || Read::ReadAhead { inode: InodeId::ROOT, cookie: 0, limit: 0 };
    let shown = other.shown(page()).await;
    let entries = entries_of(&shown);
    assert_eq!(entries.iter().map(|entry| entry.attr.is_some()).collect::<Vec<_>>(), {
        entries.iter().map(|entry| entry.inode == idle).collect::<Vec<_>>()
    });
    assert_eq!((entries.len(), shown.leased), (2, vec![InodeId::ROOT, idle]));
    assert!(writer.asked.is_empty());
    writer.give_back(file, 1).await;
    let shown = other.shown(page()).await;
    assert!(entries_of(&shown).iter().all(|entry| entry.attr.is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_create_that_finds_the_file_there_shows_what_was_written_to_it() {
    let (_cluster, mut writer, mut other, file) = written().await;
    let request = other.create_of("f", true);
    let create = tokio::spawn(async move { other.send_create(&request, 1).await });
    assert_eq!(writer.asked().await, asks(1, write(file, 1)));
    writer.commit(file, 1, LEN, 1).await;
    writer.give_back(file, 1).await;
    let (attr, writes) = create.await.expect("no panic");
    assert_eq!((attr.inode, attr.size.0, writes), (file, LEN, false));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_file_waits_for_the_return_by_its_number_and_by_its_name() {
    let (_cluster, mut writer, other, file) = written().await;
    let change = other.client.chmod_later(file, 0o600);
    assert_eq!(writer.asked().await, asks(1, write(file, 1)));
    sleep(SOON).await;
    assert!(!change.is_finished());
    writer.commit(file, 1, LEN, 1).await; // passes the freeze
    writer.give_back(file, 1).await;
    let mut client = change.await.expect("no panic");
    writer.acquired(file, 2).await;
    let removal = tokio::spawn(async move { client.unlink("f").await });
    assert_eq!(writer.asked().await, asks(1, write(file, 2)));
    sleep(SOON).await;
    assert!(!removal.is_finished());
    writer.give_back(file, 2).await;
    assert_eq!(removal.await.expect("no panic"), Ok(Changed::Removed { orphan: Some(file) }));
    assert_eq!(writer.acquired(file, 3).await, LEN, "it has it open");
}

#[tokio::test(start_paused = true)]
async fn the_writer_changes_its_own_file_without_being_asked_and_writes_on() {
    let (_cluster, mut writer, other, file) = written().await;
    writer.client.chmod(file, 0o600).await;
    writer.client.rename("f", "g").await;
    assert!(writer.asked.is_empty());
    let read = other.read_later(file);
    assert_eq!(writer.asked().await, asks(1, write(file, 1)), "it still holds it");
    writer.give_back(file, 1).await;
    read.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn the_return_of_an_earlier_grant_does_nothing() {
    let (_cluster, mut writer, reader, file) = written().await;
    assert_eq!(writer.acquired(file, 2).await, 0);
    writer.give_back(file, 1).await;
    let read = reader.read_later(file);
    assert_eq!(writer.asked().await, asks(1, write(file, 2)));
    writer.give_back(file, 1).await;
    sleep(SOON).await;
    assert!(!read.is_finished());
    writer.give_back(file, 2).await;
    read.await.expect("no panic");
    for grant in [3, 2, 3] {
        assert_eq!(writer.acquired(file, grant).await, 0, "who holds it keeps it, also when it asks late");
    }
    writer.give_back(file, 2).await;
    assert_eq!(writer.try_commit(file, 1, LEN, vec![write(file, 3)]).await.map(|_| ()), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_comes_after_its_lease_was_returned_changes_nothing() {
    let (_cluster, mut writer, mut other, file) = written().await;
    let unnamed = writer.try_commit(file, 1, LEN, Vec::new()).await;
    assert!(matches!(unnamed, Err(MetaError::CommitRefused { .. })), "somebody writes it: {unnamed:?}");
    writer.give_back(file, 1).await;
    other.acquired(file, 1).await;
    for writes in [vec![write(file, 1)], Vec::new()] {
        let late = writer.try_commit(file, 1, LEN * 9, writes).await;
        assert!(matches!(late, Err(MetaError::CommitRefused { .. })), "{late:?}");
    }
    other.commit(file, 1, LEN, 1).await;
    other.give_back(file, 1).await;
    assert_eq!(writer.acquired(file, 2).await, LEN);
    let late = writer.try_commit(file, 1, LEN * 9, vec![write(file, 1)]).await;
    assert!(matches!(late, Err(MetaError::CommitRefused { .. })), "it holds the file by another: {late:?}");
    writer.commit(file, 1, LEN * 2, 2).await;
    assert!(other.asked.is_empty() && writer.asked.is_empty(), "a commit recalls nothing");
}

#[tokio::test(start_paused = true)]
async fn what_an_attachment_names_and_somebody_else_holds_is_asked_for_at_once() {
    let (_cluster, mut writer, mut other, file) = written().await;
    other.client.attach_writing(Vec::new(), vec![write(file, 7)]).await;
    assert_eq!(other.asked().await, asks(2, write(file, 7)));
    let read = other.read_later(file);
    assert_eq!(writer.asked().await, asks(1, write(file, 1)), "it is the first one's");
    writer.give_back(file, 1).await;
    read.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_attaches_anew_is_asked_again_for_what_it_names_and_has_given_back_the_rest() {
    let (_cluster, mut writer, reader, file) = written().await;
    let read = reader.read_later(file);
    assert_eq!(writer.asked().await, asks(1, write(file, 1)));
    writer.client.attach_writing(vec![file], vec![write(file, 1)]).await;
    assert_eq!(writer.asked().await, asks(2, write(file, 1)));
    sleep(SOON).await;
    assert!(!read.is_finished());
    writer.client.attach(vec![file]).await;
    read.await.expect("no panic");
    assert!(writer.asked.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_silent_holder_is_ended_after_a_term_when_somebody_waits_and_a_heard_one_after_a_minute() {
    let (_cluster, mut writer, reader, file) = written().await;
    let began = Instant::now();
    reader.read_later(file).await.expect("no panic");
    assert!(began.elapsed() >= TERM && began.elapsed() < TERM * 3 / 2, "{:?}", began.elapsed());
    let gone = writer.acquire(file, 2).await;
    assert!(matches!(gone, Err(MetaError::SessionExpired { .. })), "{gone:?}");

    let (_cluster, mut writer, reader, file) = written().await;
    let (began, read) = (Instant::now(), reader.read_later(file));
    while began.elapsed() < TERM * 59 / 10 {
        sleep(Duration::from_millis(500)).await;
        assert!(writer.beat().await.is_attached && !read.is_finished());
    }
    read.await.expect("no panic");
    assert!(began.elapsed() < TERM * 15 / 2, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_an_administrator_ends_ends_when_what_it_may_write_has_lapsed() {
    let (cluster, writer, reader, file) = written().await;
    let (began, opened) = (Instant::now(), &writer.client.opened);
    let request =
        wire::ExpireSessionRequest { cluster: opened.cluster.to_wire().into(), session: opened.session.0 };
    let mut admin = AdminClient::new(cluster.leader_channel().await);
    let end =
        tokio::spawn(async move { admin.expire_session(request).await.expect("an answer").into_inner() });
    reader.read_later(file).await.expect("no panic");
    assert!(began.elapsed() >= TERM - SOON && began.elapsed() < TERM + SOON * 30, "{:?}", began.elapsed());
    assert_eq!(convert::refusal(end.await.expect("no panic").error), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_has_closed_holds_up_nobody() {
    let (_cluster, mut writer, reader, file) = written().await;
    let close = RenewSession::of(writer.client.opened.cluster, writer.client.opened.session);
    writer.client.meta.close_session(convert::renew_to_wire(&close)).await.expect("an answer");
    let began = Instant::now();
    reader.read_later(file).await.expect("no panic");
    assert!(began.elapsed() < SOON);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_create_brings_no_write_and_neither_does_one_without_an_attachment_of_this_number() {
    let (_cluster, mut writer, mut other, _) = written().await;
    let request = other.create_of("g", false);
    let (attr, writes) = other.send_create(&request, 1).await;
    assert!(writes);
    assert_eq!(other.send_create(&request, 2).await, (attr, false), "it is remembered");
    writer.client.attachment = Attachment(7);
    let request = writer.create_of("h", false);
    assert!(!writer.send_create(&request, 3).await.1);
}

#[tokio::test(start_paused = true)]
async fn two_that_acquire_a_file_have_it_in_turn_and_each_sees_what_the_one_before_has_written() {
    let (cluster, mut writer, second, file) = written().await;
    let third = Holder::new(&cluster, 3).await;
    let second = second.acquire_later(file, 1);
    assert_eq!(writer.asked().await, asks(1, write(file, 1)));
    let third = third.acquire_later(file, 1);
    writer.commit(file, 1, LEN, 1).await;
    writer.give_back(file, 1).await;
    let (len, mut second) = second.await.expect("no panic");
    assert_eq!(len, LEN);
    assert_eq!(second.asked().await, asks(1, write(file, 1)));
    second.commit(file, 1, LEN * 2, 1).await;
    sleep(SOON).await;
    assert!(!third.is_finished());
    second.give_back(file, 1).await;
    assert_eq!(third.await.expect("no panic").0, LEN * 2);
}

#[tokio::test(start_paused = true)]
async fn an_acquire_waits_until_what_others_were_shown_is_back_and_they_are_granted_nothing_meanwhile() {
    let (cluster, mut writer, other, file) = written().await;
    let mut reader = Holder::new(&cluster, 3).await;
    writer.give_back(file, 1).await;
    assert_eq!(reader.leased(file).await, [file]);
    let acquire = other.acquire_later(file, 1);
    assert_eq!(reader.recalled().await.what, of_inode(file));
    let shown = writer.shown(Read::GetAttr { inode: file }).await;
    assert!(shown.answered.is_ok() && shown.leased.is_empty(), "a read does not wait for it");
    assert!(!acquire.is_finished());
    reader.answer(1).await;
    acquire.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn an_acquire_waits_for_a_change_that_is_under_way_and_sees_it() {
    let (cluster, mut writer, mut other, file) = written().await;
    writer.give_back(file, 1).await;
    other.acquired(file, 1).await; // it is recorded that it may
    other.give_back(file, 1).await;
    cluster.disks[&1].log.set_sync_time(SLOW_SYNC);
    let change = writer.client.chmod_later(file, 0o600);
    sleep(SLOW_SYNC / 5).await;
    let Ok(Acquired::Granted { attr, .. }) = other.acquire(file, 2).await else { panic!("it is granted") };
    assert_eq!(attr.mode & 0o777, 0o600);
    change.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn without_its_present_attachment_a_session_acquires_nothing_and_neither_does_anybody_a_directory() {
    let (_cluster, mut writer, mut other, file) = written().await;
    other.client.attachment = Attachment(7);
    assert_eq!(other.acquire(file, 1).await, Ok(Acquired::NotAttached));
    let directory = writer.acquire(InodeId::ROOT, 2).await;
    assert!(matches!(directory, Err(MetaError::InvalidArgument { .. })), "{directory:?}");
    let absent = writer.acquire(InodeId(999), 3).await;
    assert_eq!(absent, Err(MetaError::Stale));
    assert!(writer.asked.is_empty());
}

/// Two writers, whose leader has changed; a reader; and the file of the first writer, who has written what the new leader cannot know.
async fn led_anew() -> (Cluster, [Holder; 3], InodeId) {
    let (mut cluster, writer, reader, file) = written().await;
    let mut other = Holder::new(&cluster, 3).await;
    other.create("g", 1).await;
    cluster.restart(1).await;
    let meta = MetaClient::new(cluster.leader_channel().await);
    let anew = |holder: Holder| Holder { client: holder.client.of(meta.clone()), ..holder };
    let holders = [anew(writer), anew(other), anew(reader)];
    (cluster, holders, file)
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_shows_and_changes_nothing_of_a_volume_before_its_writers_have_told_what_they_hold() {
    let (cluster, [mut writer, mut other, reader], file) = led_anew().await;
    let (read, stranger) = (reader.read_later(file), cluster.client(9).await);
    let change = stranger.chmod_later(file, 0o600);
    writer.client.attach_writing(vec![file], vec![write(file, 1)]).await;
    let own = writer.shown_later(Read::GetAttr { inode: file });
    let (shown, mut writer) = own.await.expect("no panic");
    assert!(shown.answered.is_ok(), "what it writes itself waits for nobody");
    writer.commit(file, 1, LEN, 1).await;
    sleep(LEASE * 2).await;
    assert!(!read.is_finished() && !change.is_finished());
    other.client.attach(Vec::new()).await;
    assert_eq!(writer.asked().await, asks(2, write(file, 1)));
    writer.commit(file, 2, LEN * 2, 1).await;
    writer.give_back(file, 1).await;
    assert_eq!(size_of(&read.await.expect("no panic").0), LEN * 2);
    change.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_ends_writers_that_do_not_come_within_a_term_when_somebody_waits() {
    let (_cluster, [writer, other, reader], file) = led_anew().await;
    let elected_by = Instant::now();
    reader.read_later(file).await.expect("no panic");
    let waited = elected_by.elapsed();
    assert!(waited >= TERM - SOON * 10 && waited < TERM * 3 / 2, "{waited:?}");
    for mut gone in [writer, other] {
        let ended = gone.acquire(file, 2).await;
        assert!(matches!(ended, Err(MetaError::SessionExpired { .. })), "{ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_waits_until_its_session_has_told_the_new_leader_what_it_holds() {
    let (_cluster, [mut writer, _, _], file) = led_anew().await;
    let early = writer.client.request(&Caller::ROOT, commit_of(file, 1, LEN));
    let (attachment, writes) = (writer.client.attachment, vec![write(file, 1)]);
    let dropped = Dropped { attachment, behind: Vec::new(), wants_write: None, wants_read: false, writes };
    let message = convert::change_request_to_wire(&early, Some(&dropped));
    let reply = writer.client.meta.change(message.clone()).await.expect("an answer").into_inner();
    assert!(matches!(convert::changed_from_wire(reply), Err(MetaError::Undecided { .. })));
    writer.client.attach_writing(vec![file], vec![write(file, 1)]).await;
    let reply = writer.client.meta.change(message).await.expect("an answer").into_inner();
    assert!(matches!(convert::changed_from_wire(reply), Ok(Changed::Committed { .. })));
}

#[tokio::test(start_paused = true)]
async fn the_status_counts_write_leases_and_names_who_is_waited_for() {
    let (cluster, writer, reader, file) = written().await;
    let held = || async { cluster.status(1).await.expect("an answer").held.expect("a leader tells") };
    assert_eq!((held().await.write_leases, held().await.sessions_waited_for), (1, 0));
    let read = reader.read_later(file);
    sleep(SOON).await;
    assert_eq!(held().await.waited_for, [writer.client.opened.session.0]);
    read.abort();
}
