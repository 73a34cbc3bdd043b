//! Runs blocking work on a bounded number of threads or, in the simulation, on the caller's.
//!
//! Nothing else in this crate blocks. The queue of jobs has no bound of its own: each job belongs to a request, and
//! requests are bounded by the credit of their connections and by `REQUESTS_IN_FLIGHT_MAX`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads for blocking jobs. A clone is a handle to the same pool.
#[derive(Clone)]
pub struct Workers(Kind);

#[derive(Clone)]
enum Kind {
    /// The caller does a job itself before `submit` returns. This is for the simulation, which may not use threads.
    Inline,
    Threads(Arc<Threads>),
}

struct Threads {
    runtime: Handle,
    threads_max: usize,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
}

/// Counts its thread out when it is dropped while the flag is set, so that a thread that ends by a panic in a job does not
/// count as running.
struct Leaving<'a>(&'a Mutex<Queue>, bool);

impl Workers {
    pub fn inline() -> Workers {
        Workers(Kind::Inline)
    }

    /// Uses at most `threads_max` threads at a time, out of the blocking threads of the runtime that calls this.
    pub fn threads(threads_max: usize) -> Workers {
        Workers(Kind::Threads(Arc::new(Threads {
            runtime: Handle::current(),
            threads_max: threads_max.max(1),
            queue: Mutex::default(),
        })))
    }

    /// Does `job` later, or before it returns. The caller must not hold a lock that `job` takes.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) {
        match &self.0 {
            Kind::Inline => job(),
            Kind::Threads(threads) => threads.submit(Box::new(job)),
        }
    }

    /// Does `job` and returns its result, or `None` if it panicked.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        self.submit(move || {
            // The caller may have given up; then nobody wants the answer.
            let _ = done.send(job());
        });
        result.await.ok()
    }
}

impl Threads {
    fn submit(self: &Arc<Threads>, job: Job) {
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.jobs.push_back(job);
            if queue.threads >= self.threads_max {
                return;
            }
            queue.threads += 1;
        }
        let threads = Arc::clone(self);
        self.runtime.spawn_blocking(move || threads.work());
    }

    fn work(&self) {
        let mut leaving = Leaving(&self.queue, true);
        loop {
            let job = {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                match queue.jobs.pop_front() {
                    Some(job) => job,
                    None => {
                        queue.threads -= 1;
                        leaving.1 = false;
                        return;
                    }
                }
            };
            job();
        }
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if self.1 {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).threads -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn every_job_is_done_and_a_panic_costs_only_its_own() {
        let workers = Workers::threads(2);
        let done = Arc::new(AtomicUsize::new(0));
        let count = |done: &Arc<AtomicUsize>| {
            let done = Arc::clone(done);
            move || done.fetch_add(1, Ordering::SeqCst)
        };
        let panicked = workers.run(|| panic!("as the test wants it")).await;
        assert_eq!(panicked, None::<()>);
        let jobs = (0..100).map(|_| workers.run(count(&done)));
        assert!(futures::future::join_all(jobs).await.iter().all(Option::is_some));
        assert_eq!(done.load(Ordering::SeqCst), 100);
    }
}
