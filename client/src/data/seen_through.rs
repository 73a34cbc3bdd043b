//! Work that goes on when its caller gives up. Until then it runs in the caller's own task: to hand it to another thread and wait for
//! that costs more than most of such work.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// The caller awaits it. Dropped before its end, the work goes on in a task of its own, which `tasks` knows.
pub(crate) struct SeenThrough<W: Future<Output: Send> + Send + 'static> {
    /// `None`: it has ended, or panicked.
    work: Option<Pin<Box<W>>>,
    tasks: TaskTracker,
}

impl<W: Future<Output: Send> + Send + 'static> SeenThrough<W> {
    pub(crate) fn new(tasks: TaskTracker, work: W) -> SeenThrough<W> {
        SeenThrough { work: Some(Box::pin(work)), tasks }
    }
}

impl<W: Future<Output: Send> + Send + 'static> Future for SeenThrough<W> {
    type Output = W::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<W::Output> {
        let Some(mut work) = self.work.take() else { return Poll::Pending };
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<W: Future<Output: Send> + Send + 'static> Drop for SeenThrough<W> {
    fn drop(&mut self) {
        // Without a runtime the client has ended, and its session does so.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            self.tasks.spawn_on(work, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// Work that waits for a word and passes it on.
    fn passing_on() -> (oneshot::Sender<u32>, impl Future<Output = u32> + Send, oneshot::Receiver<u32>) {
        let ((say, said), (pass, passed)) = (oneshot::channel(), oneshot::channel());
        let work = async move {
            let word = said.await.unwrap();
            let _ = pass.send(word);
            word
        };
        (say, work, passed)
    }

    #[tokio::test]
    async fn what_its_caller_awaits_needs_no_task() {
        let tasks = TaskTracker::new();
        let (say, work, passed) = passing_on();
        say.send(7).unwrap();
        assert_eq!(SeenThrough::new(tasks.clone(), work).await, 7);
        assert_eq!(passed.await, Ok(7));
        assert!(tasks.is_empty());
    }

    #[tokio::test]
    async fn what_its_caller_gives_up_goes_on_in_a_task() {
        let tasks = TaskTracker::new();
        let (say, work, passed) = passing_on();
        let mut seen = Box::pin(SeenThrough::new(tasks.clone(), work));
        assert!(futures::poll!(&mut seen).is_pending());
        drop(seen);
        assert_eq!(tasks.len(), 1);
        say.send(7).unwrap();
        assert_eq!(passed.await, Ok(7));
        tasks.close();
        tasks.wait().await;
    }
}
