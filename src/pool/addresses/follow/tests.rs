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

    fn addresses_updated(&self, _: &Key) {}

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
        let book = Arc::new(AddressBook::new(Spread::InTurn, Some(follow), None));
        book.opened(address(), 1);
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
    async fn look_up(&self, patience: Option<Duration>) -> Result<Vec<SocketAddr>, ConnectError> {
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
        follow
            .task()
            .as_ref()
            .map(|task| task.handle.clone())
            .unwrap()
    };
    name.look_up(None).await.unwrap();
    let first = task(&name);
    let failing = |name: &Name| name.book.lookup_status().unwrap().failing;
    assert_eq!(failing(&name), None);
    first.abort();
    tokio::task::yield_now().await;
    let told = failing(&name).expect("nobody looks it up");
    assert!(told.contains("has ended"), "{told}");
    name.look_up(None).await.unwrap();
    assert_eq!(failing(&name), None);
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

/// The runtime drops the task of the key that was retired after the next connect has begun another.
#[tokio::test(start_paused = true)]
async fn a_task_that_is_ended_on_purpose_is_no_failed_lookup() {
    let name = Name::new(config());
    name.look_up(None).await.unwrap();
    drop(name.book.take_task());
    name.look_up(None).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(name.book.lookup_status().unwrap().failing, None);
    name.look_up(None).await.unwrap();
    assert_eq!(name.asked(), 3, "each connect asks");
}
