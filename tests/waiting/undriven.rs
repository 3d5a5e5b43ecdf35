//! A runtime that is alive, and that nobody drives.

use std::future::Future;
use std::thread;

use tokio::runtime::{Builder, Runtime};

/// A runtime that is alive as long as this is kept.
pub(crate) struct Kept(Option<Runtime>);

impl Kept {
    pub(crate) fn drive<F: Future>(&self, future: F) -> F::Output {
        self.0.as_ref().expect("kept").block_on(future)
    }
}

/// A runtime must not be dropped in another one.
impl Drop for Kept {
    fn drop(&mut self) {
        let runtime = self.0.take();
        thread::spawn(move || drop(runtime))
            .join()
            .expect("no panic");
    }
}

/// A runtime that runs while `future` does, and then no more.
pub(crate) fn undriven<F>(future: F) -> (F::Output, Kept)
where
    F: Future<Output: Send> + Send,
{
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            (runtime.block_on(future), Kept(Some(runtime)))
        });
        run.join().expect("no panic")
    })
}
