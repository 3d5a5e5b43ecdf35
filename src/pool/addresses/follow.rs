//! A name is looked up again while it has connections, and connections follow its addresses.

#[cfg(all(test, not(tower_keep_alive_loom)))]
mod tests;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::AddressBook;
use super::lookups::Lookups;
use crate::agent::{FollowDns, LookupStatus, Spread};
use crate::error::connect::ConnectError;
use crate::sync::{Mutex, MutexGuard};
use crate::target::key::Key;
use crate::target::lookup::Lookup;
use crate::target::resolved_addrs::ResolvedAddrs;

/// The pool that has the connections.
pub(in crate::pool) trait FollowedPool: Send + Sync {
    /// So many connections to this address, or all that there are, take no further requests, and close when they are free.
    fn leave_address(&self, key: &Key, address: SocketAddr, count: usize);
    /// The name may have other addresses now, and fewer that are left out.
    fn addresses_updated(&self, key: &Key);
    /// A lookup has failed. If the last answer is used instead, this is its age.
    fn lookup_failed(&self, key: &Key, answer_age: Option<Duration>);
}

/// How the name of one key is followed.
pub(in crate::pool) struct Follow {
    config: FollowDns,
    key: Key,
    pool: Weak<dyn FollowedPool>,
    lookups: Mutex<Lookups>,
    /// Looks the name up again. A connect begins it, and begins another if it has ended: with its runtime, because the resolver
    /// panicked, or because the key had no connections.
    task: Mutex<Option<LookupTask>>,
}

/// The task that looks a name up again and again, until this is dropped.
pub(in crate::pool) struct LookupTask {
    handle: AbortHandle,
    /// Set before the task is aborted. The runtime drops the aborted task later, when another one may have begun.
    is_ended: Arc<AtomicBool>,
}

impl Drop for LookupTask {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::SeqCst);
        self.handle.abort();
    }
}

impl Follow {
    pub(in crate::pool) fn new(config: FollowDns, key: Key, pool: Weak<dyn FollowedPool>) -> Self {
        Self {
            config,
            key,
            pool,
            lookups: Mutex::default(),
            task: Mutex::default(),
        }
    }

    pub(super) fn status(&self) -> LookupStatus {
        self.lookups().status(Instant::now())
    }

    fn has_task(&self) -> bool {
        let task = self.task();
        task.as_ref().is_some_and(|task| !task.handle.is_finished())
    }

    /// The last answer, if it may be used in place of another one.
    fn last(&self, lookup: &Lookup) -> Option<Vec<SocketAddr>> {
        let lookups = self.lookups();
        let last = lookups.usable(lookup, self.config.max_stale, Instant::now());
        last.map(|(addresses, _)| addresses.to_vec())
    }

    /// Returns the time to the next lookup.
    fn record(&self, lookup: &Lookup, found: &Result<ResolvedAddrs, ConnectError>) -> Duration {
        let now = Instant::now();
        match found {
            Ok(found) => {
                self.lookups().succeeded(lookup, found.as_slice(), now);
                self.config.wait(found.ttl())
            }
            Err(error) => {
                let mut lookups = self.lookups();
                lookups.failed(error.to_string());
                let last = lookups.usable(lookup, self.config.max_stale, now);
                let age = last.map(|(_, age)| age);
                drop(lookups);
                if let Some(pool) = self.pool.upgrade() {
                    pool.lookup_failed(&self.key, age);
                }
                self.config.wait(None)
            }
        }
    }

    fn lookups(&self) -> MutexGuard<'_, Lookups> {
        self.lookups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn task(&self) -> MutexGuard<'_, Option<LookupTask>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AddressBook {
    /// The addresses for a connect, which `resolve` finds. If the name is followed, a failed lookup is replaced by the last
    /// answer, and `resolve` is called again from time to time while there are connections.
    ///
    /// While lookups fail, connects use the last answer at once: the task asks again for all of them. If there is a last answer,
    /// a connect waits for another one `patience` at the most.
    pub(super) async fn look_up<F>(
        self: &Arc<Self>,
        lookup: &Lookup,
        patience: Option<Duration>,
        resolve: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<Vec<SocketAddr>, ConnectError>
    where
        F: Future<Output = Result<ResolvedAddrs, ConnectError>> + Send + 'static,
    {
        let Some(follow) = &self.follow else {
            return Ok(resolve().await?.collect());
        };
        let last = follow.last(lookup);
        let mut limit = follow.config.lookup_timeout;
        if let Some(last) = last {
            if follow.lookups().is_failing() && follow.has_task() {
                return Ok(last);
            }
            limit = limit.min(patience.unwrap_or(limit));
        }
        let found = FollowDns::within(limit, lookup, resolve()).await;
        let wait = follow.record(lookup, &found);
        let addresses = match found {
            Ok(found) => found.collect(),
            Err(error) => follow.last(lookup).ok_or(error)?,
        };
        self.follow_on(lookup, wait, resolve);
        Ok(addresses)
    }

    /// Begins the task that looks the name up again, unless it is there.
    fn follow_on<F>(
        self: &Arc<Self>,
        lookup: &Lookup,
        wait: Duration,
        resolve: impl Fn() -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<ResolvedAddrs, ConnectError>> + Send + 'static,
    {
        let (Some(follow), Ok(runtime)) = (&self.follow, Handle::try_current()) else {
            return;
        };
        let mut task = follow.task();
        if task.as_ref().is_none_or(|task| task.handle.is_finished()) {
            let (book, limit) = (Arc::downgrade(self), follow.config.lookup_timeout);
            let is_ended = Arc::new(AtomicBool::new(false));
            let end = EndOfTask {
                book: book.clone(),
                is_ended: is_ended.clone(),
            };
            let again = look_up_again(book, lookup.clone(), limit, wait, resolve);
            let again = async move {
                let _end = end;
                again.await;
            };
            let handle = runtime.spawn(again).abort_handle();
            *task = Some(LookupTask { handle, is_ended });
        }
    }

    /// The key has neither connections nor callers, so its name need not be followed. The task is for the caller to drop, which
    /// may drop the resolver, without a lock.
    pub(in crate::pool) fn take_task(&self) -> Option<LookupTask> {
        self.follow.as_ref()?.task().take()
    }

    pub(in crate::pool) fn update(&self, found: &[SocketAddr]) {
        let Some(follow) = &self.follow else {
            return;
        };
        let shares = self.spread != Spread::AsResolved;
        let answers = follow.config.answers;
        let resolved = self
            .known()
            .resolved(found, answers, shares, Instant::now());
        self.listed(&resolved.readmitted);
        if let Some(pool) = follow.pool.upgrade() {
            pool.addresses_updated(&follow.key);
            for (address, count) in resolved.leave {
                pool.leave_address(&follow.key, address, count);
            }
        }
    }
}

/// Dropped with the task. If that has ended with its runtime, or by a panic of the resolver, the status of the key says so; not if
/// the task was ended because the key has no connections. Takes no lock but that of the lookups: a runtime that is shut down drops
/// a task as it is spawned.
struct EndOfTask {
    book: Weak<AddressBook>,
    is_ended: Arc<AtomicBool>,
}

impl Drop for EndOfTask {
    fn drop(&mut self) {
        if self.is_ended.load(Ordering::SeqCst) {
            return;
        }
        let book = self.book.upgrade();
        if let Some(follow) = book.as_ref().and_then(|it| it.follow.as_ref()) {
            let why =
                "the task that looks the name up has ended, and the next connect begins another";
            follow.lookups().failed(why.to_owned());
        }
    }
}

/// Has no hold on the book, and ends with it.
async fn look_up_again<F>(
    book: Weak<AddressBook>,
    lookup: Lookup,
    limit: Duration,
    mut wait: Duration,
    resolve: impl Fn() -> F,
) where
    F: Future<Output = Result<ResolvedAddrs, ConnectError>>,
{
    loop {
        sleep(wait).await;
        let found = FollowDns::within(limit, &lookup, resolve()).await;
        let book = book.upgrade();
        let Some((book, follow)) = book.as_ref().and_then(|it| Some((it, it.follow.as_ref()?)))
        else {
            return;
        };
        wait = follow.record(&lookup, &found);
        if let Ok(found) = &found {
            book.update(found.as_slice());
        }
    }
}
