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
mod tests {
    use super::standing::{FIRST_PAUSE, LONGEST_PAUSE};
    use super::*;
    use crate::clock::Moment;
    use crate::connection::lifespan::Lifespan;
    use crate::connection::shared::{Addresses, TransportInfo};
    use crate::connection::timings::ConnectTimes;
    use crate::target::Target;
    use crate::target::key::Key;

    fn address(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 80).into()
    }

    fn firsts(book: &Arc<AddressBook>, found: &[SocketAddr], count: usize) -> Vec<Choice> {
        let choice = |_| {
            let choice = Choice::new(book.clone());
            choice.order(found.to_vec());
            choice
        };
        (0..count).map(choice).collect()
    }

    fn reserved(choice: &Choice) -> SocketAddr {
        choice.reserved().expect("an order was given").address
    }

    #[test]
    fn connects_at_the_same_time_go_to_addresses_of_their_own() {
        let book = Arc::new(AddressBook::new(Spread::FewestOpenFirst, None, None));
        let found = [1, 2, 3].map(address);
        let choices = firsts(&book, &found, 6);
        for one in found {
            let to_it = choices.iter().filter(|it| reserved(it) == one).count();
            assert_eq!(to_it, 2, "{one}");
        }
        // Those that are given up count no more.
        let gone = reserved(&choices[0]);
        drop(choices.into_iter().skip(1).collect::<Vec<_>>());
        book.opened(gone, 1);
        let again = firsts(&book, &found, 1);
        assert_ne!(reserved(&again[0]), gone);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_is_given_up_without_an_answer_leaves_its_address_out() {
        let book = Arc::new(AddressBook::new(Spread::FewestOpenFirst, None, None));
        let found = [1, 2].map(address);
        for (waits, is_left_out) in [(ALONE / 2, false), (ALONE, true)] {
            let choice = Arc::new(Choice::new(book.clone()));
            choice.order(found.to_vec());
            let first = reserved(&choice);
            let attempt = choice.attempt(first);
            tokio::time::advance(waits).await;
            drop(attempt);
            let left_out = choice.order(found.to_vec()).left_out;
            assert_eq!(left_out.contains(&first), is_left_out, "after {waits:?}");
        }
    }

    struct NoPool;

    impl observer::EjectingPool for NoPool {
        fn address_changed(&self, _: &Key, _: SocketAddr, _: Change) {}
        fn addresses_listed(&self, _: &Key) {}
    }

    fn ejecting(ejection: Ejection) -> Arc<AddressBook> {
        let key = Key::from(http::Uri::from_static("http://host.test/").key());
        let pool = std::sync::Weak::<NoPool>::new();
        let ejector = Some(Ejector::new(ejection, key, pool));
        Arc::new(AddressBook::new(Spread::FewestOpenFirst, None, ejector))
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_without_an_answer_counts_for_ejection_only_if_its_connect_fails() {
        let book = ejecting(Ejection::new().consecutive(1));
        let found = [1, 2, 3, 4].map(address);
        for fails in [false, true] {
            let choice = Arc::new(Choice::new(book.clone()));
            choice.order(found.to_vec());
            let first = reserved(&choice);
            let attempt = choice.attempt(first);
            tokio::time::advance(ALONE).await;
            drop(attempt);
            if fails {
                choice.failed();
            }
            assert!(choice.order(found.to_vec()).left_out.contains(&first));
            assert_eq!(book.is_ejected(first), fails);
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Failure {
        Refused,
        NoAnswer,
        /// As of the handshake of TLS.
        AfterAccept,
    }

    /// However far apart they fail.
    #[tokio::test(start_paused = true)]
    async fn connects_that_are_under_way_at_a_time_count_as_one_failure() {
        for failure in [Failure::Refused, Failure::NoAnswer, Failure::AfterAccept] {
            let hour = Duration::from_secs(3600);
            let ejection = Ejection::new().base_time(hour).max_time(hour);
            let book = ejecting(ejection.consecutive(3));
            let found = [1, 2, 3, 4].map(address);
            Choice::new(book.clone()).order(found.to_vec());
            for burst in 1..=3 {
                let begin = |_| Arc::new(Choice::new(book.clone())).attempt(address(1));
                let attempts: Vec<_> = (0..5).map(begin).collect();
                for attempt in attempts {
                    tokio::time::advance(LONGEST_PAUSE).await;
                    let choice = attempt.choice.clone();
                    match failure {
                        Failure::Refused => attempt.ends(false),
                        Failure::NoAnswer => drop(attempt),
                        Failure::AfterAccept => attempt.ends(true),
                    }
                    choice.failed();
                    assert_eq!(book.is_ejected(address(1)), burst == 3, "{failure:?}");
                }
            }
            let [(_, left_out)] = book.left_out()[..] else {
                panic!("it is the only one");
            };
            assert_eq!(left_out.times, 1, "{failure:?}");
        }
    }

    /// While there is one: another connect may have come first.
    #[test]
    fn a_connect_that_spreads_the_load_goes_to_addresses_without_a_connection_alone() {
        let book = Arc::new(AddressBook::new(Spread::InTurn, None, None));
        let found = [1, 2, 3].map(address);
        assert!(!book.lacks_connections(Instant::now()), "none is known");
        drop(firsts(&book, &found, 1));
        for (open, lacking) in [(3, vec![1, 2]), (1, vec![2])] {
            book.opened(address(open), 1);
            assert!(book.lacks_connections(Instant::now()));
            let choice = Choice::to_spread(book.clone());
            let mut order = choice.order(found.to_vec());
            order.good.sort_unstable();
            let lacking: Vec<_> = lacking.into_iter().map(address).collect();
            assert_eq!((order.good, order.left_out), (lacking, vec![]));
        }
        let choice = Choice::to_spread(book.clone());
        choice.order(found.to_vec());
        assert!(!book.lacks_connections(Instant::now()), "it is being made");
        let next = Choice::to_spread(book.clone()).order(found.to_vec());
        assert_eq!(next.good.len(), 3);
    }

    /// Those that are left out are tried again in time; those that are ejected by callers.
    #[test]
    fn an_address_lacks_a_connection_while_it_may_be_tried() {
        let ejection = &Ejection::new().consecutive(1);
        for (ejection, is_tried_again) in [(None, true), (Some(ejection), false)] {
            let mut known = Known::new();
            let now = Instant::now();
            known.order(Spread::FewestOpenFirst, [1, 2].map(address).to_vec(), now);
            known.opened(address(1), 1, now);
            assert!(known.lacks_connections(now));
            known.connect_failed(address(2), now, ejection, now);
            assert!(!known.lacks_connections(now));
            let later = now + Duration::from_secs(3600);
            assert_eq!(known.lacks_connections(later), is_tried_again);
            known.resolved(&[address(1)], 1, true, later);
            assert!(!known.lacks_connections(later), "the name has it no longer");
        }
    }

    /// Each time for longer: its server accepts connections and closes them.
    #[test]
    fn an_address_whose_connections_end_at_once_is_reached_for_less_and_less_often() {
        let mut known = Known::new();
        let mut now = Instant::now();
        let found = [1, 2, 3].map(address);
        known.order(Spread::FewestOpenFirst, found.to_vec(), now);
        let ends = |known: &mut Known, lived, requests, now| {
            known.opened(address(2), 2, now);
            known.closed(address(2), 2, now);
            known.has_lived(address(2), lived, requests, true, now);
        };
        known.opened(address(1), 1, now);
        let millis = Duration::from_millis;
        for pause in [1, 2, 4, 8, 16, 32, 60, 60].map(Duration::from_secs) {
            ends(&mut known, millis(1), 1, now);
            let mut order = known.order(Spread::FewestOpenFirst, found.to_vec(), now);
            known.keep_unconnected(&mut order, now);
            assert_eq!(order.good, [address(3)], "others do not wait");
            known.opened(address(3), 3, now);
            assert!(!known.lacks_connections(now + pause - millis(1)));
            assert!(known.lacks_connections(now + pause));
            known.closed(address(3), 3, now);
            now += pause;
        }
        known.opened(address(3), 3, now);
        for (lived, requests) in [(millis(1000), 1), (millis(1), 100)] {
            ends(&mut known, lived, requests, now);
            assert!(known.lacks_connections(now), "it was of use");
            known.has_lived(address(2), millis(1), 1, false, now);
            assert!(known.lacks_connections(now), "a limit of ours ended it");
            ends(&mut known, millis(999), 99, now);
            assert!(!known.lacks_connections(now));
            assert!(
                known.lacks_connections(now + millis(1000)),
                "from the start"
            );
        }
    }

    #[test]
    fn only_an_end_by_the_server_makes_the_spread_wait() {
        for (reason, waits) in [
            (CloseReason::Uses, false),
            (CloseReason::Idle, false),
            (CloseReason::Age, false),
            (CloseReason::Room, false),
            (CloseReason::Final, false),
            (CloseReason::Abandoned, false),
            (CloseReason::Shutdown, false),
            (CloseReason::Peer, true),
            (CloseReason::Stale, true),
            (CloseReason::Error, true),
            (CloseReason::Silence, true),
            (CloseReason::GoAway, true),
        ] {
            let book = AddressBook::new(Spread::FewestOpenFirst, None, None);
            let now = Instant::now();
            book.known()
                .order(Spread::FewestOpenFirst, [1, 2].map(address).to_vec(), now);
            book.opened(address(1), 0);
            let lifespan = Lifespan::new();
            let shared = lifespan.shared();
            shared.begin(Moment::now());
            book.opened(address(2), shared.id());
            shared.set_close_reason(reason);
            book.closed(address(2), shared);
            assert_eq!(!book.lacks_connections(Instant::now()), waits, "{reason}");
        }
    }

    /// The last requests of each may take hours: what it was worth is known from the moment on from which it takes no others.
    #[tokio::test(start_paused = true)]
    async fn an_address_whose_connections_drain_lacks_one_and_waits_only_if_its_server_ended_them_at_once()
     {
        for (reason, requests, lives, waits) in [
            (CloseReason::GoAway, 1, Duration::ZERO, true),
            (CloseReason::GoAway, 100, Duration::ZERO, false),
            (CloseReason::GoAway, 1, Duration::from_secs(1), false),
            (CloseReason::Uses, 1, Duration::ZERO, false),
            (CloseReason::Moved, 1, Duration::ZERO, false),
        ] {
            let book = AddressBook::new(Spread::FewestOpenFirst, None, None);
            let found = [1, 2].map(address);
            book.known()
                .order(Spread::FewestOpenFirst, found.to_vec(), Instant::now());
            let lacks = || book.lacks_connections(Instant::now());
            let connection = leads_to(address(2), requests);
            book.opened(address(1), 0);
            book.opened(address(2), connection.id());
            tokio::time::advance(lives).await;
            assert!(!lacks());
            book.drains(&connection, reason, Instant::now());
            assert_eq!(!lacks(), waits, "{reason} after {requests} in {lives:?}");
            tokio::time::advance(FIRST_PAUSE).await;
            assert!(lacks(), "for a second");
            // It ends hours later, which says nothing more.
            tokio::time::advance(FIRST_PAUSE * 3600).await;
            let next = leads_to(address(2), 1);
            book.opened(address(2), next.id());
            book.closed(address(2), &connection);
            assert!(!lacks());
            book.drains(&next, CloseReason::GoAway, Instant::now());
            let pause = FIRST_PAUSE * if waits { 2 } else { 1 };
            tokio::time::advance(pause - Duration::from_millis(1)).await;
            assert!(!lacks());
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(lacks(), "{pause:?}");
        }
    }

    fn leads_to(address: SocketAddr, requests: u64) -> Arc<ConnShared> {
        let shared = Lifespan::new().shared().clone();
        shared.begin(Moment::now());
        shared.set_transport(TransportInfo {
            addresses: Some(Box::new(Addresses {
                remote: Some(address),
                ..Addresses::default()
            })),
            times: ConnectTimes::NONE,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "http2")]
            streams: None,
        });
        shared.activity().begin_use(requests);
        shared
    }

    /// The one that was dialled first failed: it is the next that counts as open.
    #[test]
    fn the_address_that_is_tried_counts_as_open() {
        let book = Arc::new(AddressBook::new(Spread::FewestOpenFirst, None, None));
        let found = [1, 2, 3].map(address);
        let choice = Arc::new(Choice::new(book.clone()));
        let order = choice.order(found.to_vec());
        choice.attempt(order.good[0]).ends(false);
        choice.attempt(order.good[1]).ends(true);
        let next = firsts(&book, &found, 1);
        assert_eq!(reserved(&next[0]), order.good[2]);
    }
}
