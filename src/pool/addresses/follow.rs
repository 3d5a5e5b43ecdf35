//! A name is looked up again while it has connections, and connections follow its addresses.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::AddressBook;
use super::lookups::Lookups;
use crate::agent::LookupStatus;
use crate::error::connect::ConnectError;
use crate::pool::config::Spread;
use crate::pool::follow_dns::FollowDns;
use crate::sync::{Mutex, MutexGuard};
use crate::target::key::Key;
use crate::target::lookup::Lookup;
use crate::target::resolved_addrs::ResolvedAddrs;

/// The pool that has the connections.
pub(in crate::pool) trait FollowedPool: Send + Sync {
    /// So many connections to this address, or all that there are, take no further requests, and close when they are free.
    fn leave_address(&self, key: &Key, address: SocketAddr, count: usize);
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
pub(in crate::pool) struct LookupTask(AbortHandle);

impl Drop for LookupTask {
    fn drop(&mut self) {
        self.0.abort();
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
        task.as_ref().is_some_and(|task| !task.0.is_finished())
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
        if task.as_ref().is_none_or(|task| task.0.is_finished()) {
            let (book, limit) = (Arc::downgrade(self), follow.config.lookup_timeout);
            let again = look_up_again(book, lookup.clone(), limit, wait, resolve);
            *task = Some(LookupTask(runtime.spawn(again).abort_handle()));
        }
    }

    /// The key has neither connections nor callers, so its name need not be followed. The task is for the caller to drop, which
    /// may drop the resolver, without a lock.
    pub(in crate::pool) fn take_task(&self) -> Option<LookupTask> {
        self.follow.as_ref()?.task().take()
    }

    pub(in crate::pool) fn hear(&self, found: &[SocketAddr]) {
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
            book.hear(found.as_slice());
        }
    }
}

#[cfg(all(test, not(tower_keep_alive_loom)))]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::target::key::KeyRef;

    const SECOND: Duration = Duration::from_secs(1);

    /// Counts the lookups that have failed.
    #[derive(Default)]
    struct Pool {
        failed: Mutex<Vec<Option<Duration>>>,
    }

    impl FollowedPool for Pool {
        fn leave_address(&self, _: &Key, _: SocketAddr, _: usize) {}

        fn lookup_failed(&self, _: &Key, answer_age: Option<Duration>) {
            self.failed.lock().unwrap().push(answer_age);
        }
    }

    #[derive(Clone, Copy)]
    enum Resolver {
        Finds(Option<Duration>),
        Fails,
        Hangs,
    }

    struct Name {
        pool: Arc<Pool>,
        book: Arc<AddressBook>,
        resolver: Arc<Mutex<Resolver>>,
        asked: Arc<AtomicUsize>,
    }

    impl Name {
        /// It has an open connection, so that it is followed.
        fn new(config: FollowDns) -> Self {
            let pool = Arc::new(Pool::default());
            let key = KeyRef::new("http", "host.test", None).into();
            let follow = Follow::new(config, key, Arc::downgrade(&pool) as Weak<dyn FollowedPool>);
            let book = Arc::new(AddressBook::new(Spread::InTurn, Some(follow)));
            book.opened(address());
            Self {
                pool,
                book,
                resolver: Arc::new(Mutex::new(Resolver::Finds(None))),
                asked: Arc::default(),
            }
        }

        fn set(&self, resolver: Resolver) {
            *self.resolver.lock().unwrap() = resolver;
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        /// One connect.
        async fn look_up(
            &self,
            patience: Option<Duration>,
        ) -> Result<Vec<SocketAddr>, ConnectError> {
            let lookup = Lookup {
                host: "host.test".to_owned(),
                port: 80,
                has_port: false,
                family: None,
            };
            let (resolver, asked) = (self.resolver.clone(), self.asked.clone());
            let resolve = move || {
                asked.fetch_add(1, Ordering::SeqCst);
                let resolver = *resolver.lock().unwrap();
                async move {
                    let found = ResolvedAddrs::new([address()]);
                    match resolver {
                        Resolver::Finds(Some(ttl)) => Ok(found.with_ttl(ttl)),
                        Resolver::Finds(None) => Ok(found),
                        Resolver::Fails => Err(ConnectError::Lookup("no server".into(), None)),
                        Resolver::Hangs => pending().await,
                    }
                }
            };
            self.book.look_up(&lookup, patience, resolve).await
        }

        fn failed(&self) -> Vec<Option<Duration>> {
            self.pool.failed.lock().unwrap().clone()
        }
    }

    fn address() -> SocketAddr {
        ([192, 0, 2, 1], 80).into()
    }

    fn config() -> FollowDns {
        FollowDns::default()
            .every(100 * SECOND)
            .max_stale(300 * SECOND)
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_again_when_its_ttl_is_over_or_in_the_time_that_is_set() {
        for (ttl, first, last) in [(None, 75, 100), (Some(40 * SECOND), 40, 50)] {
            let name = Name::new(config());
            name.set(Resolver::Finds(ttl));
            name.look_up(None).await.unwrap();
            tokio::time::sleep(first * SECOND - SECOND / 10).await;
            assert_eq!(name.asked(), 1);
            tokio::time::sleep((last - first) * SECOND + SECOND / 5).await;
            assert_eq!(name.asked(), 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_lookups_fail_the_last_answer_is_used_until_it_is_too_old() {
        let name = Name::new(config());
        name.look_up(None).await.unwrap();
        name.set(Resolver::Fails);
        tokio::time::sleep(50 * SECOND).await;
        assert_eq!(name.look_up(None).await.unwrap(), [address()]);
        assert_eq!(name.failed(), [Some(50 * SECOND)]);
        let status = name.book.lookup_status().unwrap().to_string();
        assert_eq!(status, "answer of 50 s ago, lookup failing: no server");
        // The task asks again for the other connects.
        assert_eq!(name.look_up(None).await.unwrap(), [address()]);
        assert_eq!(name.asked(), 2);
        tokio::time::sleep(200 * SECOND).await;
        assert_eq!(name.look_up(None).await.unwrap(), [address()]);
        tokio::time::sleep(50 * SECOND).await;
        let error = name.look_up(None).await.unwrap_err();
        assert!(error.is_dns() && error.to_string() == "no server");
        assert_eq!(name.failed().last(), Some(&None));
        name.set(Resolver::Finds(None));
        name.look_up(None).await.unwrap();
        let status = name.book.lookup_status().unwrap().to_string();
        assert_eq!(status, "answer of 0 s ago");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_without_an_answer_ends_in_time_and_sooner_where_there_is_a_last_answer() {
        let name = Name::new(config().lookup_timeout(6 * SECOND));
        name.set(Resolver::Hangs);
        let begun = Instant::now();
        let error = name.look_up(Some(SECOND)).await.unwrap_err();
        assert_eq!(begun.elapsed(), 6 * SECOND);
        assert_eq!(error.to_string(), "resolve host.test: no answer within 6s");
        name.set(Resolver::Finds(None));
        name.look_up(None).await.unwrap();
        name.set(Resolver::Hangs);
        let begun = Instant::now();
        assert_eq!(name.look_up(Some(SECOND)).await.unwrap(), [address()]);
        assert_eq!(begun.elapsed(), SECOND);
        assert_eq!(name.failed(), [None, Some(SECOND)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lookups_end_with_the_agent_and_begin_again_where_their_task_has_died() {
        let name = Name::new(config());
        let task = |name: &Name| {
            let follow = name.book.follow.as_ref().unwrap();
            follow.task().as_ref().map(|task| task.0.clone()).unwrap()
        };
        name.look_up(None).await.unwrap();
        let first = task(&name);
        first.abort();
        tokio::task::yield_now().await;
        name.look_up(None).await.unwrap();
        let second = task(&name);
        assert!(first.is_finished() && !second.is_finished());
        drop(name.book.take_task());
        tokio::task::yield_now().await;
        assert!(second.is_finished(), "no connection is left");
        name.look_up(None).await.unwrap();
        let third = task(&name);
        drop(name);
        tokio::task::yield_now().await;
        assert!(third.is_finished(), "no agent is left");
    }
}
