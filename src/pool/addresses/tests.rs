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

/// The attempt beside it is dropped.
#[test]
fn the_address_that_accepts_counts_as_open_and_not_one_that_was_tried_later() {
    let book = Arc::new(AddressBook::new(Spread::FewestOpenFirst, None, None));
    let choice = Arc::new(Choice::new(book.clone()));
    let order = choice.order([1, 2].map(address).to_vec());
    let [first, second] = [0, 1].map(|at| choice.attempt(order.good[at]));
    assert_eq!(reserved(&choice), order.good[1]);
    first.ends(true);
    drop(second);
    assert_eq!(reserved(&choice), order.good[0]);
}
