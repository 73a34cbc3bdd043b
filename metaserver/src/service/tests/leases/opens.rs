//! Opens that a lease covers: the leader hears of them when it recalls the lease (P6.5).

use super::super::opens::{orphan, settle};
use super::*;

impl Client {
    /// A removal that is under way when this returns.
    fn unlink_later(mut self, name: &'static str) -> JoinHandle<(MetaResult<Changed>, Client)> {
        tokio::spawn(async move { (self.unlink(name).await, self) })
    }
}

impl Holder {
    /// It was asked to open another file of the volume before: so it may hold something there.
    async fn opens_another(&mut self, writer: &mut Client) {
        let other = writer.make_in(InodeId::ROOT, "other", NewInode::File).await;
        assert_eq!(self.client.open(other).await, Ok(1));
        self.client.close(other).await;
    }
}

/// The last name is taken while the holder is silent, and the remover releases the file.
async fn removed_while_silent(mut writer: Client, holder: &mut Holder, file: InodeId) {
    writer.chmod(InodeId::ROOT, 0o777).await; // waits for nobody
    let removal = writer.unlink_later("f");
    holder.recalled().await;
    let began = Instant::now();
    let (removed, mut writer) = removal.await.expect("no panic");
    assert_eq!(removed, orphan(file));
    assert!(began.elapsed() <= LEASE, "it waits until the lease has run out, and no longer");
    writer.release(file).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_the_answer_to_the_recall_names_as_open_stays_until_it_is_closed() {
    let (cluster, writer, mut holder, file) = held_file().await;
    let removal = writer.unlink_later("f");
    holder.recalled().await;
    holder.answer_with_open(1, vec![file]).await;
    let (removed, mut writer) = removal.await.expect("no panic");
    assert_eq!(removed, orphan(file));
    writer.release(file).await;
    settle().await;
    assert_eq!(holder.client.nlink(file).await, Ok(0));
    holder.client.close(file).await;
    settle().await;
    assert_eq!(holder.client.nlink(file).await, Err(MetaError::Stale));
    assert_eq!(cluster.status(1).await.map(|status| status.inodes), Ok(1), "only the root is left");
}

#[tokio::test(start_paused = true)]
async fn what_an_answer_of_an_earlier_attachment_names_as_open_is_not_open() {
    let (_cluster, mut writer, mut holder, file) = held_file().await;
    let mut late = holder.client.of(holder.client.meta.clone());
    holder.client.attach(Vec::new()).await;
    std::mem::swap(&mut late, &mut holder.client); // it names the attachment before
    let Client { opened, attachment, control, .. } = &holder.client;
    let (cluster, session, attachment) = (opened.cluster, opened.session, *attachment);
    let done = RecallsDone { cluster, session, attachment, number: 1, open: vec![file] };
    let message = convert::recalls_done_to_wire(&done);
    let call = |channel: UnaryChannel| {
        let message = message.clone();
        async move { Ok(Ok::<_, MetaError>(MetaClient::new(channel).recalled(message).await?.into_inner())) }
    };
    let reply = control.call(DEADLINE, call).await.expect("an answer");
    assert!(reply.error.is_some(), "it is void");
    assert_eq!(writer.unlink("f").await, orphan(file));
    writer.release(file).await;
    settle().await;
    assert_eq!(late.nlink(file).await, Err(MetaError::Stale));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_was_silent_until_its_lease_had_run_out_keeps_the_file_until_it_attaches_without_it() {
    let (_cluster, mut writer, mut holder, file) = held_file().await;
    holder.opens_another(&mut writer).await;
    removed_while_silent(writer, &mut holder, file).await;
    assert_eq!(holder.client.nlink(file).await, Ok(0), "it may have it open");
    assert!(!holder.beat().await.is_attached);
    holder.client.attach(vec![file]).await;
    settle().await;
    assert_eq!(holder.client.nlink(file).await, Ok(0), "it has it open");
    holder.client.attach(Vec::new()).await;
    settle().await;
    assert_eq!(holder.client.nlink(file).await, Err(MetaError::Stale));
}

#[tokio::test(start_paused = true)]
async fn a_silent_holder_keeps_other_files_of_its_volumes_too_that_it_was_shown_before() {
    let (_cluster, mut writer, mut holder, file) = held_file().await;
    holder.opens_another(&mut writer).await;
    let second = writer.make_in(InodeId::ROOT, "second", NewInode::File).await;
    assert_eq!(holder.leased(second).await, [second]);
    let mut remover = writer.of(writer.meta.clone());
    removed_while_silent(writer, &mut holder, file).await;
    assert_eq!(remover.unlink("second").await, orphan(second));
    remover.release(second).await;
    settle().await;
    assert_eq!(holder.client.nlink(second).await, Ok(0));
    holder.client.attach(Vec::new()).await;
    settle().await;
    assert_eq!(holder.client.nlink(second).await, Err(MetaError::Stale));
}

#[tokio::test(start_paused = true)]
async fn a_silent_holder_keeps_no_file_that_was_made_after_it_was_found_silent() {
    let (_cluster, mut writer, mut holder, file) = held_file().await;
    holder.opens_another(&mut writer).await;
    let mut other = writer.of(writer.meta.clone());
    removed_while_silent(writer, &mut holder, file).await;
    let young = other.make_in(InodeId::ROOT, "young", NewInode::File).await;
    assert_eq!(other.unlink("young").await, orphan(young));
    other.release(young).await;
    settle().await;
    assert_eq!(holder.client.nlink(young).await, Err(MetaError::Stale));
    assert_eq!(holder.client.nlink(file).await, Ok(0), "which it may have open");
}

#[tokio::test(start_paused = true)]
async fn a_silent_holder_keeps_nothing_once_it_has_ended() {
    let (cluster, mut writer, mut holder, file) = held_file().await;
    holder.opens_another(&mut writer).await;
    removed_while_silent(writer, &mut holder, file).await;
    assert_eq!(
        cluster.status(1).await.map(|status| status.inodes),
        Ok(3),
        "the root, the other file and this"
    );
    let close = RenewSession::of(holder.client.opened.cluster, holder.client.opened.session);
    holder.client.meta.close_session(convert::renew_to_wire(&close)).await.expect("an answer");
    settle().await;
    assert_eq!(cluster.status(1).await.map(|status| status.inodes), Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_silent_holder_that_was_never_asked_to_open_a_file_in_the_volume_keeps_nothing() {
    let (_cluster, writer, mut holder, file) = held_file().await;
    removed_while_silent(writer, &mut holder, file).await;
    assert_eq!(holder.client.nlink(file).await, Err(MetaError::Stale));
}
