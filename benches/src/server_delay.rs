//! The time that the server takes over an answer.
//!
//! Not tokio's timer: it has ticks of a millisecond, so that all answers to what came within one leave together at a
//! later one. Fifty connections then move in step, in 6 ms or in 7 ms for a delay of 5 ms, and a proxy that is a little
//! faster or slower than another gains or loses a sixth of its requests. A thread that sleeps is exact to about a tenth of a
//! millisecond.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

/// The same for each answer; what is asked first is over first.
#[derive(Clone, Debug)]
pub(crate) struct Delay {
    time: Duration,
    /// How many answers are being made at a time, at the most.
    workers: Arc<Semaphore>,
    /// None without a delay.
    thread: Option<Sender<(Instant, oneshot::Sender<()>)>>,
}

impl Delay {
    pub(crate) fn of(time: Duration, workers: usize) -> Self {
        let thread = (!time.is_zero()).then(|| {
            let (asks, asked) = channel::<(Instant, oneshot::Sender<()>)>();
            thread::spawn(move || {
                for (end, over) in asked {
                    thread::sleep(end.saturating_duration_since(Instant::now()));
                    // Who waited may be gone.
                    let _ = over.send(());
                }
            });
            asks
        });
        Self {
            time,
            workers: Arc::new(Semaphore::new(workers)),
            thread,
        }
    }

    /// Waits for a worker, and then for so long.
    pub(crate) async fn pass(&self) {
        if let Some(thread) = &self.thread {
            let _worker = self.workers.acquire().await.expect("it is not closed");
            let (over, is_over) = oneshot::channel();
            let asked = thread.send((Instant::now() + self.time, over));
            asked.expect("it runs while somebody can ask");
            is_over.await.expect("it answers all");
        }
    }
}
