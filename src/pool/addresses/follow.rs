//! A name is looked up again while it has connections, and what its addresses have become is kept to.

use std::future::Future;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::AddressBook;
use crate::pool::config::{FollowDns, Spread};
use crate::target::key::Key;

/// Who has the connections.
pub(in crate::pool) trait LeavesAddress: Send + Sync {
    /// So many connections to this address, or all that there are, take no further requests, and close when they are free.
    fn leave_address(&self, key: &Key, address: SocketAddr, count: usize);
}

/// How the name of one key is followed.
pub(in crate::pool) struct Follow {
    pub(in crate::pool) config: FollowDns,
    pub(in crate::pool) key: Key,
    pub(in crate::pool) pool: Weak<dyn LeavesAddress>,
    has_task: AtomicBool,
}

impl Follow {
    pub(in crate::pool) fn new(config: FollowDns, key: Key, pool: Weak<dyn LeavesAddress>) -> Self {
        Self {
            config,
            key,
            pool,
            has_task: AtomicBool::new(false),
        }
    }
}

pub(super) fn begin<F>(book: &Arc<AddressBook>, resolve: impl Fn() -> F + Send + Sync + 'static)
where
    F: Future<Output = Option<Vec<SocketAddr>>> + Send + 'static,
{
    let (Some(follow), Ok(runtime)) = (&book.follow, Handle::try_current()) else {
        return;
    };
    if !follow.has_task.swap(true, Ordering::AcqRel) {
        let every = follow.config.every;
        let task = Task(Arc::downgrade(book));
        runtime.spawn(look_up(task, every, resolve));
    }
}

/// With the task that looks a name up. When it ends, also with its runtime, the next connect begins another.
struct Task(Weak<AddressBook>);

impl Drop for Task {
    fn drop(&mut self) {
        let book = self.0.upgrade();
        if let Some(follow) = book.as_ref().and_then(|book| book.follow.as_ref()) {
            follow.has_task.store(false, Ordering::Release);
        }
    }
}

/// Ends when no connection is left, and with the pool.
async fn look_up<F>(task: Task, every: Duration, resolve: impl Fn() -> F)
where
    F: Future<Output = Option<Vec<SocketAddr>>>,
{
    let random = RandomState::default();
    for round in 0_u64.. {
        // Never all at once: at random between three quarters and all of the time.
        let part = random.hash_one(round) as u32;
        let less = (every / 4).mul_f64(f64::from(part) / f64::from(u32::MAX));
        sleep(every - less).await;
        if !task.0.upgrade().is_some_and(|book| book.is_followed()) {
            return;
        }
        // One that fails, or answers with nothing, changes nothing.
        let Ok(Some(found)) = timeout(every, resolve()).await else {
            continue;
        };
        if let Some(book) = task.0.upgrade() {
            book.hear(&found);
        }
    }
}

impl AddressBook {
    /// Whether there is anything to follow it for.
    fn is_followed(&self) -> bool {
        let pool = self.follow.as_ref().map(|follow| &follow.pool);
        pool.is_some_and(|pool| pool.strong_count() > 0) && self.known().is_used()
    }

    fn hear(&self, found: &[SocketAddr]) {
        let Some(follow) = &self.follow else {
            return;
        };
        let shares = self.spread != Spread::AsResolved;
        let leave = self.known().heard(found, follow.config.answers, shares);
        if let Some(pool) = follow.pool.upgrade() {
            for (address, count) in leave {
                pool.leave_address(&follow.key, address, count);
            }
        }
    }
}
