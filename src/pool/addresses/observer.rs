//! How the exchanges with each address end, and what follows from it.

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::{AddressBook, Change};
use crate::agent::{EjectedAddress, Ejection, Outcome, Verdict};
use crate::connection::outcome_observer::OutcomeObserver;
use crate::error::Error;
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
    /// Observes the exchanges of connections to this address, if addresses are ejected.
    pub(in crate::pool) fn observer(
        self: &Arc<Self>,
        address: SocketAddr,
    ) -> Option<Arc<dyn OutcomeObserver>> {
        self.ejector.as_ref()?;
        let book = self.clone();
        Some(Arc::new(Observer { book, address }))
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

    /// The addresses that are left out at present.
    pub(in crate::pool) fn left_out(&self) -> Vec<(SocketAddr, EjectedAddress)> {
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

/// Observes the exchanges of connections to one address.
struct Observer {
    book: Arc<AddressBook>,
    address: SocketAddr,
}

impl Observer {
    fn judge(&self, connection: u64, connection_over: bool, outcome: &Outcome<'_>) {
        let Some(ejector) = &self.book.ejector else {
            return;
        };
        let (address, config) = (self.address, &ejector.config);
        // The classifier is foreign code, so it runs without the lock. If it panics, the outcome says nothing: the exchange has
        // to be accounted for all the same, and may end in a drop.
        let verdict = catch_unwind(AssertUnwindSafe(|| config.judge(outcome)));
        let change = match verdict.unwrap_or(Verdict::Nothing) {
            Verdict::Nothing => return,
            Verdict::Success => {
                let now = Instant::now;
                self.book
                    .known()
                    .succeeded(address, connection, config, now)
            }
            Verdict::Failure => {
                let now = Instant::now();
                self.book
                    .known()
                    .failed(address, connection, connection_over, config, now)
            }
        };
        self.book.report(address, change);
    }
}

impl OutcomeObserver for Observer {
    fn on_response(&self, connection: u64, status: StatusCode, headers: &HeaderMap) {
        self.judge(connection, false, &Outcome::Response { status, headers });
    }

    fn on_error(&self, connection: u64, connection_over: bool, error: &(dyn StdError + 'static)) {
        if let Some(error) = error.downcast_ref::<Error>() {
            self.judge(connection, connection_over, &Outcome::Error(error));
        }
    }

    fn on_abandoned(&self, connection: u64, after: Duration) {
        self.judge(connection, false, &Outcome::Abandoned { after });
    }
}
