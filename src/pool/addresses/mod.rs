//! The addresses of one key's name: which of them a connect chooses, and which are skipped for a while.
//!
//! The pool has one [`AddressBook`] for each key if the load is spread, and gives each connect a [`Choice`] from it.
//! The connector orders the resolved addresses by that, and reports the result of each attempt.

mod follow;
mod known;
mod lookups;
mod observer;
mod standing;
mod tally;

use std::fmt;
use std::future::Future;
use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::{Ejection, LookupStatus, Spread};
use crate::connection::close_reason::CloseReason;
use crate::connection::shared::ConnShared;
use crate::error::connect::ConnectError;
use crate::sync::{Mutex, MutexGuard};
use crate::target::lookup::Lookup;
use crate::target::resolved_addrs::ResolvedAddrs;
pub(super) use follow::{Follow, FollowedPool, LookupTask};
use known::Known;
pub(crate) use known::Order;
pub(super) use observer::{EjectingPool, Ejector};
pub(super) use standing::{Admission, Change};

/// How long an attempt that is given up must have been without an answer for its address to be left out.
const ALONE: Duration = Duration::from_millis(200);

/// What is known about the addresses of one key.
///
/// Its lock is taken alone or under a key's lock. Under it only the locks of a [`Choice`] are taken.
pub(crate) struct AddressBook {
    spread: Spread,
    known: Mutex<Known>,
    follow: Option<Follow>,
    /// If addresses are ejected.
    ejector: Option<Ejector>,
}

impl AddressBook {
    pub(super) fn new(spread: Spread, follow: Option<Follow>, ejector: Option<Ejector>) -> Self {
        Self {
            spread,
            known: Mutex::new(Known::new()),
            follow,
            ejector,
        }
    }

    /// This connection to it was made.
    pub(super) fn opened(&self, address: SocketAddr, connection: u64) -> Admission {
        self.known().opened(address, connection, Instant::now())
    }

    /// The connection takes no further requests, for this reason. Its transport may last for hours.
    pub(super) fn drains(&self, connection: &ConnShared, reason: CloseReason, now: Instant) {
        let Some(address) = connection.remote_addr() else {
            return;
        };
        let mut known = self.known();
        if known.drains(address, connection.id()) {
            known.has_served(address, connection, reason.is_of_server(), now);
        }
    }

    /// The connection is gone.
    pub(super) fn closed(&self, address: SocketAddr, connection: &ConnShared) {
        let now = Instant::now();
        let by_server = connection.reason().is_none_or(CloseReason::is_of_server);
        let mut known = self.known();
        if known.closed(address, connection.id(), now) {
            known.has_served(address, connection, by_server, now);
        }
    }

    /// Whether the load is spread, and an address that can be tried has no connection that takes further requests.
    pub(super) fn lacks_connections(&self, now: Instant) -> bool {
        self.spread != Spread::AsResolved && self.known().lacks_connections(now)
    }

    /// How the lookups have ended, if the name is followed.
    pub(super) fn lookup_status(&self) -> Option<LookupStatus> {
        Some(self.follow.as_ref()?.status())
    }

    pub(super) fn follows(&self) -> bool {
        self.follow.is_some()
    }

    /// The addresses that have connections: how many, and how many of these take no further requests.
    #[cfg(test)]
    pub(super) fn open_now(&self) -> std::collections::BTreeMap<SocketAddr, (usize, usize)> {
        self.known().open_now()
    }

    /// Whether addresses to which connects fail are left out.
    fn leaves_out(&self) -> bool {
        self.spread != Spread::AsResolved || self.ejector.is_some()
    }

    /// A connect to the address has failed, which began then.
    fn connect_failed(&self, address: SocketAddr, begun: Instant) {
        self.connect_ended(address, |known, ejection, now| {
            known.connect_failed(address, begun, ejection, now)
        });
    }

    fn connect_ended(
        &self,
        address: SocketAddr,
        how: impl FnOnce(&mut Known, Option<&Ejection>, Instant) -> Option<Change>,
    ) {
        if self.leaves_out() {
            let ejection = self.ejector.as_ref().map(|it| &it.config);
            let change = how(&mut self.known(), ejection, Instant::now());
            self.report(address, change);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AddressBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AddressBook")
    }
}

impl Known {
    /// This connection has had its last request.
    fn has_served(&mut self, address: SocketAddr, of: &ConnShared, by_server: bool, now: Instant) {
        if let Some(born) = of.born() {
            let lived = now.saturating_duration_since(born.mono);
            self.has_lived(address, lived, of.activity().uses(), by_server, now);
        }
    }
}

/// The choice of one connect. The chosen address counts as open until this is dropped.
#[derive(Debug)]
pub(crate) struct Choice {
    book: Arc<AddressBook>,
    reserved: Mutex<Option<Reserved>>,
    /// Attempts that were given up after a while without an answer, and when they began.
    unanswered: Mutex<Vec<(SocketAddr, Instant)>>,
    /// Only addresses without a connection are tried.
    is_to_spread: bool,
}

#[derive(Clone, Copy, Debug)]
struct Reserved {
    address: SocketAddr,
    /// The address was left out, and this is the one connect that tries it again.
    is_trial: bool,
    /// It has accepted the connection, which is not ready yet: when that attempt began.
    accepted: Option<Instant>,
}

impl Reserved {
    fn new(address: SocketAddr, known: &mut Known) -> Self {
        known.give(address);
        Self {
            address,
            is_trial: known.begins_trial(address),
            accepted: None,
        }
    }
}

impl Choice {
    pub(crate) fn new(book: Arc<AddressBook>) -> Self {
        Self {
            book,
            reserved: Mutex::new(None),
            unanswered: Mutex::default(),
            is_to_spread: false,
        }
    }

    /// For a connect to an address that has no connection.
    pub(crate) fn to_spread(book: Arc<AddressBook>) -> Self {
        let mut choice = Self::new(book);
        choice.is_to_spread = true;
        choice
    }

    /// The order in which to try the addresses that were resolved.
    pub(crate) fn order(&self, found: Vec<SocketAddr>) -> Order {
        self.reserve(None);
        let mut known = self.book.known();
        let mut order = known.order(self.book.spread, found, Instant::now());
        if self.is_to_spread {
            known.keep_unconnected(&mut order, Instant::now());
        }
        let reserved = order.first().map(|it| Reserved::new(it, &mut known));
        drop(known);
        *self.reserved() = reserved;
        self.book.listed(&order.readmitted);
        order
    }

    pub(crate) fn follows(&self) -> bool {
        self.book.follows()
    }

    /// The addresses of the name, which `resolve` finds, now and, if the name is followed, again while there are connections.
    /// See [`AddressBook::look_up`].
    pub(crate) async fn look_up<F>(
        &self,
        lookup: &Lookup,
        patience: Option<Duration>,
        resolve: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<Vec<SocketAddr>, ConnectError>
    where
        F: Future<Output = Result<ResolvedAddrs, ConnectError>> + Send + 'static,
    {
        self.book.look_up(lookup, patience, resolve).await
    }

    /// An attempt to connect to this address begins.
    pub(crate) fn attempt(self: &Arc<Self>, address: SocketAddr) -> Attempt {
        let reserved = *self.reserved();
        if reserved.is_some_and(|it| it.address != address) {
            self.reserve(Some(address));
        }
        Attempt {
            choice: self.clone(),
            address,
            begun: Instant::now(),
            is_over: false,
        }
    }

    /// Counts this address as open, and the previous one no longer.
    fn reserve(&self, address: Option<SocketAddr>) {
        let mut known = self.book.known();
        let next = address.map(|it| Reserved::new(it, &mut known));
        let before = mem::replace(&mut *self.reserved(), next);
        if let Some(before) = before {
            known.not_chosen(before.address);
            if before.is_trial {
                known.ends_trial(before.address);
            }
        }
    }

    /// The first attempt has succeeded, which is not always the latest.
    fn accepted_by(&self, address: SocketAddr, begun: Instant) {
        let is_reserved = self.reserved().is_some_and(|it| it.address == address);
        if !is_reserved {
            self.reserve(Some(address));
        }
        if let Some(reserved) = &mut *self.reserved() {
            reserved.accepted = Some(begun);
        }
    }

    /// The connect has failed. If an address had accepted the connection, the failure is its own; otherwise it is that of the
    /// addresses that have not answered until now.
    pub(crate) fn failed(&self) {
        let reserved = *self.reserved();
        if let Some(reserved) = reserved
            && let Some(begun) = reserved.accepted
        {
            return self.book.connect_failed(reserved.address, begun);
        }
        let unanswered = mem::take(&mut *self.unanswered());
        for (address, begun) in unanswered {
            self.book.connect_ended(address, |known, ejection, now| {
                known.connect_counts(address, begun, ejection, now)
            });
        }
    }

    fn unanswered(&self) -> MutexGuard<'_, Vec<(SocketAddr, Instant)>> {
        self.unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn reserved(&self) -> MutexGuard<'_, Option<Reserved>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Choice {
    fn drop(&mut self) {
        self.reserve(None);
    }
}

/// An attempt under way. If it is dropped after a while without an answer, the address gets no new connections for a while:
/// another address was faster, the time was up, or the caller is gone. For its ejection it counts only if the whole connect
/// fails.
#[derive(Debug)]
pub(crate) struct Attempt {
    choice: Arc<Choice>,
    address: SocketAddr,
    begun: Instant,
    is_over: bool,
}

impl Attempt {
    pub(crate) fn ends(mut self, has_succeeded: bool) {
        self.is_over = true;
        let book = &self.choice.book;
        if !has_succeeded {
            book.connect_failed(self.address, self.begun);
            return;
        }
        book.known().connect_succeeded(self.address);
        self.choice.accepted_by(self.address, self.begun);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.is_over && self.begun.elapsed() >= ALONE {
            let address = self.address;
            let book = &self.choice.book;
            let begun = self.begun;
            book.connect_ended(address, |known, ejection, now| {
                known.connect_unanswered(address, begun, ejection, now)
            });
            self.choice.unanswered().push((address, begun));
        }
    }
}

#[cfg(all(test, not(tower_keep_alive_loom)))]
mod tests;
