//! A gate that a test opens for so many at a time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::Semaphore;

/// Closed at first. Connectors and scripts wait at it; clones are the same gate.
#[derive(Clone)]
pub struct Gate(Arc<Post>);

struct Post {
    passes: Semaphore,
    waiting: AtomicUsize,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self(Arc::new(Post {
            passes: Semaphore::new(0),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// Lets `n` through: first those that wait, in their order, then those that come.
    pub fn open(&self, n: usize) {
        self.0.passes.add_permits(n);
    }

    /// Lets all through, from now on.
    pub fn open_for_all(&self) {
        self.0.passes.close();
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::SeqCst)
    }

    /// Waits to be let through.
    pub async fn pass(&self) {
        let _waiting = Waiting::new(&self.0.waiting);
        if let Ok(pass) = self.0.passes.acquire().await {
            pass.forget();
        }
    }
}

/// Counted as waiting until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::SeqCst);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
