//! How the exchanges with each address end, and what follows from it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::{AddressBook, Admission, Change};
use crate::agent::{Ejection, LeftOut, Outcome};
use crate::connection::outcome_observer::{FailedExchange, OutcomeObserver, Verdict};
use crate::error::Error;
use crate::pool::addresses::tally::Successes;
use crate::target::key::Key;

/// The pool whose addresses are ejected.
pub(in crate::pool) trait EjectingPool: Send + Sync {
    /// The address was ejected, or readmitted.
    fn address_changed(&self, key: &Key, address: SocketAddr, change: Change);
    /// The name was resolved: whether any of its addresses is ejected may have changed.
    fn addresses_listed(&self, key: &Key);
}

/// How the addresses of one key are ejected.
pub(in crate::pool) struct Ejector {
    pub(super) config: Ejection,
    key: Key,
    pool: Weak<dyn EjectingPool>,
}

impl Ejector {
    pub(in crate::pool) fn new(config: Ejection, key: Key, pool: Weak<dyn EjectingPool>) -> Self {
        Self { config, key, pool }
    }
}

impl AddressBook {
    /// Observes the exchanges of one connection to this address, if addresses are ejected.
    pub(in crate::pool) fn observer(
        self: &Arc<Self>,
        address: SocketAddr,
        admission: Admission,
    ) -> Option<Arc<dyn OutcomeObserver>> {
        self.ejector.as_ref()?;
        let successes = self.known().successes(address)?;
        let book = self.clone();
        Some(Arc::new(Observer {
            book,
            address,
            successes,
            may_readmit: AtomicBool::new(admission == Admission::Trial),
            is_over: AtomicBool::new(false),
        }))
    }

    /// Whether this connection is the one that tries an ejected address again.
    pub(in crate::pool) fn is_on_trial(&self, address: SocketAddr, connection: u64) -> bool {
        self.ejector.is_some() && self.known().is_on_trial(address, connection)
    }

    /// Whether a caller is to make a connection now, so that an ejected address is tried again. True for one caller.
    pub(in crate::pool) fn claims_trial(&self, now: Instant) -> bool {
        self.ejector.is_some() && self.known().claims_trial(now)
    }

    pub(in crate::pool) fn is_ejected(&self, address: SocketAddr) -> bool {
        self.ejector.is_some() && self.known().is_ejected(address)
    }

    pub(in crate::pool) fn is_any_ejected(&self) -> bool {
        self.ejector.is_some() && self.known().is_any_ejected()
    }

    /// The addresses of the name that are left out at present.
    pub(in crate::pool) fn left_out(&self) -> Vec<(SocketAddr, LeftOut)> {
        self.known().left_out(Instant::now()).collect()
    }

    /// The name was resolved, and no longer has so many addresses that these stay ejected.
    pub(super) fn listed(&self, readmitted: &[SocketAddr]) {
        let Some(ejector) = &self.ejector else {
            return;
        };
        if let Some(pool) = ejector.pool.upgrade() {
            pool.addresses_listed(&ejector.key);
        }
        for address in readmitted {
            self.report(*address, Some(Change::Readmitted));
        }
    }

    /// Called with neither the book's lock nor a key's. A connect that is being polled has the lock of its own work, which
    /// others only try to take.
    pub(super) fn report(&self, address: SocketAddr, change: Option<Change>) {
        if let (Some(change), Some(ejector)) = (change, &self.ejector)
            && let Some(pool) = ejector.pool.upgrade()
        {
            pool.address_changed(&ejector.key, address, change);
        }
    }
}

/// Observes the exchanges of one connection.
struct Observer {
    book: Arc<AddressBook>,
    address: SocketAddr,
    successes: Arc<Successes>,
    /// The connection tries the address again, and has no result yet.
    may_readmit: AtomicBool,
    /// The connection has ended with an exchange that failed: the others that it took with it count no more.
    is_over: AtomicBool,
}

impl Observer {
    fn judge(&self, outcome: &Outcome<'_>, is_limit_of_caller: bool) -> Verdict {
        let ejector = self.book.ejector.as_ref();
        ejector.map_or(Verdict::Ignore, |it| {
            it.config.judge(outcome, is_limit_of_caller)
        })
    }

    #[inline]
    fn count(&self, connection: u64, verdict: Verdict) {
        let Some(ejector) = &self.book.ejector else {
            return;
        };
        match verdict {
            Verdict::Ignore => {}
            Verdict::Success if !self.may_readmit.load(Ordering::Relaxed) => {
                self.successes.add(&ejector.config);
            }
            Verdict::Success | Verdict::Failure => {
                self.decide(connection, verdict == Verdict::Success, &ejector.config);
            }
        }
    }

    /// Counts a result that may eject or readmit the address.
    #[cold]
    fn decide(&self, connection: u64, succeeds: bool, config: &Ejection) {
        let (address, now) = (self.address, Instant::now());
        let mut known = self.book.known();
        let change = match succeeds {
            true => known.succeeded(address, connection, config, now),
            false => known.failed(address, connection, config, now),
        };
        drop(known);
        self.may_readmit.store(false, Ordering::Relaxed);
        self.book.report(address, change);
    }
}

impl OutcomeObserver for Observer {
    fn judge_head(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        self.judge(&Outcome::Response { status, headers }, false)
    }

    fn on_response(&self, connection: u64, verdict: Verdict) {
        self.count(connection, verdict);
    }

    fn on_error(&self, connection: u64, end: &FailedExchange<'_>) {
        let Some(error) = end.error.downcast_ref::<Error>() else {
            return;
        };
        let verdict = self.judge(&Outcome::Error { error }, end.is_limit_of_caller);
        let is_counted = verdict == Verdict::Failure
            && end.is_connection_over
            && self.is_over.swap(true, Ordering::Relaxed);
        if !is_counted {
            self.count(connection, verdict);
        }
    }

    fn on_abandoned(&self, connection: u64, after: Duration) {
        self.count(connection, self.judge(&Outcome::Abandoned { after }, false));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use crate::agent::Spread;
    use crate::error::Kind;
    use crate::target::Target;

    struct NoPool;

    impl EjectingPool for NoPool {
        fn addresses_listed(&self, _: &Key) {}

        fn address_changed(&self, _: &Key, _: SocketAddr, _: Change) {}
    }

    /// A book of two addresses that ejects after so many failures in a row.
    fn book(consecutive: u32) -> (Arc<AddressBook>, [SocketAddr; 2]) {
        let pool: Weak<NoPool> = Weak::new();
        let key = Key::from(http::Uri::from_static("http://host.test").key());
        let ejector = Ejector::new(Ejection::new().consecutive(consecutive), key, pool);
        let book = Arc::new(AddressBook::new(Spread::InTurn, None, Some(ejector)));
        let addresses = [1, 2].map(|last| SocketAddr::from(([192, 0, 2, last], 80)));
        book.known()
            .order(Spread::InTurn, addresses.to_vec(), Instant::now());
        (book, addresses)
    }

    fn succeed(observer: &dyn OutcomeObserver, connection: u64) {
        observer.on_response(connection, Verdict::Success);
    }

    fn fail(observer: &dyn OutcomeObserver, connection: u64) {
        observer.on_response(connection, Verdict::Failure);
    }

    /// Whether a success does without the lock of the book.
    fn takes_no_lock(book: &AddressBook, observer: &dyn OutcomeObserver, connection: u64) -> bool {
        let known = book.known();
        let (tell, told) = channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                succeed(observer, connection);
                tell.send(()).expect("it is waited for");
            });
            let is_done = told.recv_timeout(Duration::from_secs(5)).is_ok();
            drop(known);
            is_done
        })
    }

    #[test]
    fn a_success_takes_no_lock_and_starts_the_failures_in_a_row_over() {
        let (book, addresses) = book(3);
        let observer = book.observer(addresses[0], Admission::Any).expect("ejects");
        for _ in 0..2 {
            fail(&*observer, 1);
            fail(&*observer, 1);
            assert!(takes_no_lock(&book, &*observer, 1));
        }
        assert_eq!(book.left_out().len(), 0);
        for _ in 0..3 {
            fail(&*observer, 1);
        }
        assert_eq!(book.left_out().len(), 1);
    }

    #[test]
    fn only_the_connection_that_tries_an_ejected_address_readmits_it() {
        let (book, [address, _]) = book(2);
        let before = book.observer(address, Admission::Any).expect("ejects");
        fail(&*before, 1);
        fail(&*before, 1);
        book.known().begins_trial(address);
        let admission = book.opened(address, 2);
        assert_eq!(admission, Admission::Trial);
        let trial = book.observer(address, admission).expect("ejects");
        let is_ejected = || book.is_ejected(address);
        succeed(&*before, 1);
        assert!(is_ejected());
        assert!(!takes_no_lock(&book, &*trial, 2));
        assert!(!is_ejected());
        // It is a connection like any other from now on.
        assert!(takes_no_lock(&book, &*trial, 2));
        // What began before the ejection says nothing of the time after it.
        fail(&*trial, 2);
        assert!(!is_ejected());
        fail(&*trial, 2);
        assert!(is_ejected());
    }

    #[test]
    fn the_exchanges_of_each_connection_that_ends_count_as_one_failure() {
        let (book, addresses) = book(3);
        let observer = || book.observer(addresses[0], Admission::Any).expect("ejects");
        let connections = [1, 2, 3].map(|id| (id, observer()));
        let fail = |of: usize| {
            let (id, observer) = &connections[of];
            let end = FailedExchange {
                error: &Error::new(Kind::Exchange),
                is_connection_over: true,
                is_limit_of_caller: false,
            };
            observer.on_error(*id, &end);
        };
        // Two are cut at once, and their callers see it in turn.
        for _ in 0..10 {
            fail(0);
            fail(1);
        }
        assert_eq!(book.left_out().len(), 0);
        fail(2);
        assert_eq!(book.left_out().len(), 1);
    }
}
