//! The schedules that a pool must handle, step by step: without a runtime, without sockets, and without time that
//! passes by itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use http::Uri;

use super::*;
use crate::agent::EventKind;
use crate::clock::Clock;
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Lifespan;
use crate::pool::addresses::EjectingPool;
use crate::target::key::Key;
use crate::target::{Reuse, Target};

/// A connection whose transport is dropped with it.
pub(super) struct Conn {
    open: Arc<AtomicBool>,
    lifespan: Lifespan,
}

impl Conn {
    pub(super) fn new() -> Self {
        Self {
            open: Arc::new(AtomicBool::new(true)),
            lifespan: Lifespan::new(),
        }
    }
}

impl Poolable for Conn {
    fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    fn poll_free(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn lifespan(&self) -> &Lifespan {
        &self.lifespan
    }

    fn lifespan_mut(&mut self) -> &mut Lifespan {
        &mut self.lifespan
    }
}

pub(super) const A: &str = "http://a/";
const B: &str = "http://b/";

pub(super) fn ask(pool: &Pool<Conn>, host: &'static str, reuse: Reuse) -> Decision<Conn> {
    let ask = CheckoutRequest {
        reuse,
        runtime: None,
        is_retry: false,
    };
    pool.checkout(&Uri::from_static(host).key(), ask, None, Moment::now())
}

pub(super) fn come_back(
    pool: &Pool<Conn>,
    host: &'static str,
    stale: Option<Box<PooledConn<Conn>>>,
) -> Decision<Conn> {
    let ask = CheckoutRequest {
        reuse: Reuse::Any,
        runtime: None,
        is_retry: true,
    };
    let rejected = stale.map(|pooled| Rejected::new(pooled, CloseReason::Stale));
    pool.checkout(&Uri::from_static(host).key(), ask, rejected, Moment::now())
}

pub(super) fn connect(mut permit: ConnPermit<Conn>) -> Box<PooledConn<Conn>> {
    let begun = permit.begin();
    permit.fill(Conn::new(), begun)
}

/// A new connection, requested and made.
pub(super) fn made(pool: &Pool<Conn>, host: &'static str) -> Box<PooledConn<Conn>> {
    match ask(pool, host, Reuse::Any) {
        Decision::Make(permit, _waiter) => connect(permit),
        other => panic!("{}", name(&other)),
    }
}

pub(super) fn waits(decision: Decision<Conn>) -> Waiter<Conn> {
    match decision {
        Decision::Wait(waiter) => waiter,
        other => panic!("{}", name(&other)),
    }
}

pub(super) fn turn(waiter: &Waiter<Conn>) -> Option<WaitOutcome<Conn>> {
    match waiter.poll_outcome(&Context::from_waker(Waker::noop())) {
        Poll::Ready(turn) => Some(turn),
        Poll::Pending => None,
    }
}

pub(super) fn handed_over(waiter: &Waiter<Conn>) -> Box<PooledConn<Conn>> {
    match turn(waiter) {
        Some(WaitOutcome::Connection(pooled)) => pooled,
        Some(WaitOutcome::Make(_)) => panic!("may make one"),
        Some(WaitOutcome::Made(_) | WaitOutcome::Lost | WaitOutcome::Stuck(_)) => {
            panic!("nothing was made for it")
        }
        Some(WaitOutcome::Refused) => panic!("refused"),
        None => panic!("still waits"),
    }
}

pub(super) fn may_make(waiter: &Waiter<Conn>) -> ConnPermit<Conn> {
    match turn(waiter) {
        Some(WaitOutcome::Make(permit)) => permit,
        Some(WaitOutcome::Connection(..)) => panic!("was handed a connection"),
        Some(WaitOutcome::Made(_) | WaitOutcome::Lost | WaitOutcome::Stuck(_)) => {
            panic!("nothing was made for it")
        }
        Some(WaitOutcome::Refused) => panic!("refused"),
        None => panic!("still waits"),
    }
}

fn name(decision: &Decision<Conn>) -> &'static str {
    match decision {
        Decision::Take(..) => "took one",
        Decision::Make(..) => "may make one",
        Decision::Wait(_) => "waits",
        Decision::QueueFull(_) => "refused, the line is full",
        Decision::ShutDown => "refused, shut down",
    }
}

/// The last line of every test: all counts agree, and nothing is left over.
pub(super) fn at_rest(pool: Pool<Conn>) {
    pool.handle().close_idle();
    let status = pool.handle().status();
    assert_eq!(status.open(), 0, "{status:?}");
    assert_eq!(status.created, status.closed + status.detached);
    assert!(status.pending.is_empty());
    assert!(pool.shared().table.is_empty());
    if let Some(total) = pool.shared().lock_total() {
        assert!(total.is_at_rest());
    }
}

#[test]
fn a_freed_connection_goes_to_the_first_in_line() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let conn = made(&pool, A);
    let first = waits(ask(&pool, A, Reuse::Any));
    let second = waits(ask(&pool, A, Reuse::Any));
    conn.give_back();
    assert!(turn(&second).is_none());
    // Nobody overtakes waiting callers, not even while the one that was served has not collected its delivery.
    let third = waits(ask(&pool, A, Reuse::Any));
    let conn = handed_over(&first);
    drop(first);
    conn.give_back();
    assert!(turn(&third).is_none());
    handed_over(&second).give_back();
    drop(second);
    handed_over(&third).give_back();
    drop(third);
    assert_eq!(pool.handle().status().created, 1);
    at_rest(pool);
}

#[test]
fn a_closed_connections_slot_goes_to_the_first_in_line() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let conn = made(&pool, A);
    let first = waits(ask(&pool, A, Reuse::Any));
    let second = waits(ask(&pool, A, Reuse::Any));
    conn.close(CloseReason::Peer);
    let permit = may_make(&first);
    assert!(turn(&second).is_none());
    // A connect that fails wakes the next.
    permit.fail(CloseReason::Connect);
    drop(first);
    connect(may_make(&second)).give_back();
    drop(second);
    at_rest(pool);
}

#[test]
fn what_a_caller_who_is_gone_was_given_passes_on() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let conn = made(&pool, A);
    let mut line: VecDeque<_> = (0..4).map(|_| waits(ask(&pool, A, Reuse::Any))).collect();
    conn.give_back();
    // Served, and dropped before it has collected its delivery.
    drop(line.pop_front());
    let conn = handed_over(&line[0]);
    drop(line.pop_front());
    conn.close(CloseReason::Peer);
    // Has a permit to connect, and is dropped before it connects.
    drop(line.pop_front());
    connect(may_make(&line[0])).give_back();
    drop(line);
    assert_eq!(pool.handle().status().created, 2);
    at_rest(pool);
}

#[test]
fn what_nobody_came_for_has_been_idle_all_the_while() {
    let start = Moment::now();
    let millis = Arc::new(AtomicU64::new(0));
    let clock = Clock::new({
        let millis = millis.clone();
        move || {
            let since = Duration::from_millis(millis.load(Ordering::Relaxed));
            start.checked_add(since).unwrap()
        }
    });
    let pool = Pool::new(
        PoolConfig::new()
            .max_connections_per_host(1)
            .clock(clock.clone()),
    );
    let sweep_at = |time| {
        millis.store(time, Ordering::Relaxed);
        pool.shared().sweep();
    };
    // Left to the pool by a caller that is gone, or kept for the caller for too long.
    for (gone_at, idle) in [(19, 1), (20, 0)] {
        millis.store(0, Ordering::Relaxed);
        let mut conn = made(&pool, A);
        let twenty = Duration::from_millis(20);
        conn.connection().lifespan_mut().limit_idle(twenty);
        let waiter = waits(ask(&pool, A, Reuse::Any));
        conn.give_back();
        millis.store(gone_at, Ordering::Relaxed);
        drop(waiter);
        assert_eq!(pool.handle().status().open(), idle);
        sweep_at(20);
        assert_eq!(pool.handle().status().open(), 0);
    }
    assert_eq!(pool.handle().status().closes[&CloseReason::Idle], 2);
    at_rest(pool);
}

#[test]
fn a_caller_whose_connect_is_under_way_takes_what_comes_first() {
    let pool = Pool::new(PoolConfig::new());
    let busy = made(&pool, A);
    let Decision::Make(permit, waiter) = ask(&pool, A, Reuse::Any) else {
        panic!("no limit is reached");
    };
    busy.give_back();
    let conn = handed_over(&waiter);
    drop(waiter);
    // The connection that it made meanwhile is for the pool.
    connect(permit).give_back();
    conn.give_back();
    let status = pool.handle().status();
    assert_eq!((status.created, status.open()), (2, 2));
    at_rest(pool);
}

#[test]
fn who_finds_a_stale_connection_keeps_its_place() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    made(&pool, A).give_back();
    let Decision::Take(stale) = ask(&pool, A, Reuse::Any) else {
        panic!("one is idle");
    };
    // Others arrive while the stale connection is probed.
    let other = waits(ask(&pool, A, Reuse::Any));
    let first = waits(come_back(&pool, A, Some(stale)));
    assert!(turn(&other).is_none());
    connect(may_make(&first)).give_back();
    drop(first);
    handed_over(&other).give_back();
    drop(other);
    assert_eq!(pool.handle().status().stale, 1);
    at_rest(pool);
}

#[test]
fn a_stale_one_that_is_gone_says_nothing_of_who_has_its_place() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(2));
    let (busy, mut conn) = (made(&pool, A), made(&pool, A));
    let transport = conn.connection().lifespan_mut().take_transport_guard();
    conn.give_back();
    let Decision::Take(stale) = ask(&pool, A, Reuse::Any) else {
        panic!("one is idle");
    };
    // While it is probed its transport ends, and another caller makes one in its place.
    drop(transport);
    let other = made(&pool, A);
    let first = waits(come_back(&pool, A, Some(stale)));
    let fresh = waits(ask(&pool, A, Reuse::Fresh));
    drop(first);
    other.give_back();
    connect(may_make(&fresh)).give_back();
    drop(fresh);
    busy.give_back();
    at_rest(pool);
}

#[test]
fn who_comes_back_to_a_destroyed_agent_is_refused() {
    let pool = Pool::new(PoolConfig::new());
    let busy = made(&pool, A);
    let Decision::Make(mut permit, waiter) = ask(&pool, A, Reuse::Any) else {
        panic!("no limit is reached");
    };
    permit.begin();
    busy.give_back();
    let stale = handed_over(&waiter);
    // It is not in the queue at that moment.
    pool.handle().destroy();
    let refused = matches!(turn(&waiter), Some(WaitOutcome::Refused));
    waiter.requeue(Rejected::new(stale, CloseReason::Stale));
    assert!(refused);
    assert!(matches!(turn(&waiter), Some(WaitOutcome::Refused)));
    drop((waiter, permit));
    at_rest(pool);
}

#[test]
fn a_stale_pick_under_the_lock_is_first_in_line_for_its_slot() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(2));
    let (mut one, two) = (made(&pool, A), made(&pool, A));
    let open = one.connection().open.clone();
    // Its transport outlives the connection, as the transport of a driver does.
    let transport = one.connection().lifespan_mut().take_transport_guard();
    one.give_back();
    open.store(false, Ordering::Relaxed);
    let first = waits(ask(&pool, A, Reuse::Any));
    let second = waits(ask(&pool, A, Reuse::Any));
    assert_eq!(pool.handle().status().stale, 1);
    drop(transport);
    let permit = may_make(&first);
    assert!(turn(&second).is_none());
    drop(first);
    two.give_back();
    handed_over(&second).give_back();
    drop(second);
    connect(permit).give_back();
    at_rest(pool);
}

#[test]
fn a_fresh_one_at_the_limit_has_an_idle_one_closed() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(2));
    let (one, mut two) = (made(&pool, A), made(&pool, A));
    let transport = two.connection().lifespan_mut().take_transport_guard();
    two.give_back();
    let fresh = waits(ask(&pool, A, Reuse::Fresh));
    assert!(turn(&fresh).is_none(), "not before the transport is gone");
    // A permit is on its way: no second connection is closed for it.
    one.give_back();
    let status = pool.handle().status();
    assert_eq!(status.idle.values().sum::<usize>(), 1);
    drop(transport);
    connect(may_make(&fresh)).give_back();
    drop(fresh);
    let status = pool.handle().status();
    assert_eq!((status.created, status.open()), (3, 2));
    at_rest(pool);
}

#[test]
fn a_fresh_one_at_the_head_has_the_next_one_given_back_closed() {
    let pool = Pool::new(
        PoolConfig::new()
            .max_connections_per_host(1)
            .max_pending_per_host(1),
    );
    let conn = made(&pool, A);
    let patient = waits(ask(&pool, A, Reuse::Any));
    // The queue is full for others, but not for it.
    assert!(matches!(ask(&pool, A, Reuse::Any), Decision::QueueFull(1)));
    let fresh = waits(ask(&pool, A, Reuse::Fresh));
    conn.give_back();
    assert!(turn(&patient).is_none());
    connect(may_make(&fresh)).give_back();
    drop(fresh);
    handed_over(&patient).give_back();
    drop(patient);
    assert_eq!(pool.handle().status().closes[&CloseReason::Room], 1);
    at_rest(pool);
}

#[test]
fn a_fresh_one_that_loses_its_slot_to_an_earlier_one_is_not_forgotten() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(2));
    let (one, two) = (made(&pool, A), made(&pool, A));
    let is_retry = waits(come_back(&pool, A, None));
    let fresh = waits(ask(&pool, A, Reuse::Fresh));
    // The older of the two takes this one as it is...
    one.give_back();
    let one = handed_over(&is_retry);
    drop(is_retry);
    // ...and this one is closed for the younger.
    two.give_back();
    let permit = may_make(&fresh);
    drop(fresh);
    connect(permit).give_back();
    one.give_back();
    at_rest(pool);
}

#[test]
fn the_total_evicts_the_longest_idle_of_another_host() {
    let pool = Pool::new(PoolConfig::new().max_connections(2));
    let (a, b) = (made(&pool, A), made(&pool, B));
    b.give_back();
    a.give_back();
    let c = waits(ask(&pool, "http://c/", Reuse::Any));
    let status = pool.handle().status();
    assert!(
        status
            .idle
            .contains_key(&Key::from(Uri::from_static(A).key()))
    );
    assert!(
        !status
            .idle
            .contains_key(&Key::from(Uri::from_static(B).key()))
    );
    assert_eq!(status.closes[&CloseReason::Room], 1);
    connect(may_make(&c)).give_back();
    drop(c);
    at_rest(pool);
}

#[test]
fn who_has_room_made_for_it_is_not_refused_for_a_full_line() {
    let pool = Pool::new(PoolConfig::new().max_connections(1).max_pending_per_host(0));
    made(&pool, A).give_back();
    let b = waits(ask(&pool, B, Reuse::Any));
    let conn = connect(may_make(&b));
    drop(b);
    // Nothing is idle now: this one would have to wait.
    assert!(matches!(ask(&pool, A, Reuse::Any), Decision::QueueFull(0)));
    conn.give_back();
    at_rest(pool);
}

/// A put and a caller that the total limit blocks, in both orders: neither misses the other.
#[test]
fn total_limit_against_put() {
    for put_first in [true, false] {
        let pool = Pool::new(PoolConfig::new().max_connections(1));
        let a = made(&pool, A);
        let b = if put_first {
            a.give_back();
            waits(ask(&pool, B, Reuse::Any))
        } else {
            let b = waits(ask(&pool, B, Reuse::Any));
            assert!(turn(&b).is_none());
            a.give_back();
            b
        };
        connect(may_make(&b)).give_back();
        drop(b);
        assert_eq!(pool.handle().status().closes[&CloseReason::Room], 1);
        at_rest(pool);
    }
}

#[test]
fn under_one_total_the_oldest_of_all_hosts_is_next() {
    let pool = Pool::new(PoolConfig::new().max_connections(1));
    let mut conn = made(&pool, A);
    let mut line = VecDeque::new();
    let hosts = [B, A, A, B, A, B, B, A];
    for host in hosts {
        line.push_back((host, waits(ask(&pool, host, Reuse::Any))));
    }
    // A queue of constant length: a caller that was served joins at its end again.
    let mut at = A;
    for _ in 0..50 {
        conn.give_back();
        let (host, waiter) = line.pop_front().unwrap();
        conn = if host == at {
            handed_over(&waiter)
        } else {
            connect(may_make(&waiter))
        };
        at = host;
        drop(waiter);
        assert!(line.iter().all(|(_, waiter)| turn(waiter).is_none()));
        line.push_back((host, waits(ask(&pool, host, Reuse::Any))));
    }
    drop(line);
    conn.give_back();
    at_rest(pool);
}

#[test]
fn a_host_at_its_own_limit_does_not_hold_up_the_total() {
    let pool = Pool::new(
        PoolConfig::new()
            .max_connections(3)
            .max_connections_per_host(1),
    );
    let a = made(&pool, A);
    let blocked_by_host = waits(ask(&pool, A, Reuse::Any));
    let b = made(&pool, B);
    assert!(turn(&blocked_by_host).is_none());
    b.give_back();
    a.give_back();
    handed_over(&blocked_by_host).give_back();
    drop(blocked_by_host);
    at_rest(pool);
}

#[test]
fn the_idle_of_all_hosts_are_limited_together() {
    let pool = Pool::new(PoolConfig::new().max_idle(1));
    let (a, b) = (made(&pool, A), made(&pool, B));
    a.give_back();
    b.give_back();
    let status = pool.handle().status();
    assert_eq!(status.idle.len(), 1);
    assert!(
        status
            .idle
            .contains_key(&Key::from(Uri::from_static(B).key()))
    );
    assert_eq!(status.closes[&CloseReason::Surplus], 1);
    at_rest(pool);
}

#[test]
fn scheduling_takes_the_last_or_the_first() {
    for (scheduling, expected) in [
        (Scheduling::Lifo, [2, 2, 2, 2]),
        (Scheduling::Fifo, [0, 1, 2, 0]),
    ] {
        let pool = Pool::new(PoolConfig::new().scheduling(scheduling));
        let mut conns = [made(&pool, A), made(&pool, A), made(&pool, A)];
        let ids = conns
            .each_mut()
            .map(|it| it.connection().lifespan().shared().id());
        conns.into_iter().for_each(|conn| conn.give_back());
        for index in expected {
            let Decision::Take(mut conn) = ask(&pool, A, Reuse::Any) else {
                panic!("three are idle");
            };
            assert_eq!(conn.connection().lifespan().shared().id(), ids[index]);
            conn.give_back();
        }
        at_rest(pool);
    }
}

#[test]
fn a_dead_connection_is_passed_over_wherever_it_is() {
    for scheduling in [Scheduling::Lifo, Scheduling::Fifo] {
        let pool = Pool::new(PoolConfig::new().scheduling(scheduling));
        let mut conns = [made(&pool, A), made(&pool, A), made(&pool, A)];
        let opens = conns.each_mut().map(|it| it.connection().open.clone());
        conns.into_iter().for_each(|conn| conn.give_back());
        opens[0].store(false, Ordering::Relaxed);
        opens[2].store(false, Ordering::Relaxed);
        let Decision::Take(conn) = ask(&pool, A, Reuse::Any) else {
            panic!("one is open");
        };
        conn.give_back();
        assert_eq!(pool.handle().status().stale, 1);
        at_rest(pool);
    }
}

/// A task that is kept by its wakers, and dropped with the last of them.
struct Task(#[expect(dead_code, reason = "it is here to be dropped")] Waiter<Conn>);

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_waker_may_leave_the_line_when_it_is_dropped() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let conn = made(&pool, A);
    let wait = || waits(ask(&pool, A, Reuse::Any));
    let poll = |waiter: &Waiter<Conn>, waker: Waker| {
        let turn = waiter.poll_outcome(&Context::from_waker(&waker));
        assert!(turn.is_pending());
    };
    let waiter = wait();
    poll(&waiter, Arc::new(Task(wait())).into());
    poll(&waiter, Arc::new(Task(wait())).into());
    let pending = || pool.handle().status().pending.values().sum::<usize>();
    assert_eq!(pending(), 2);
    drop(waiter);
    assert_eq!(pending(), 0);
    conn.give_back();
    at_rest(pool);
}

#[test]
fn leaving_a_long_line_touches_two_neighbours() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let conn = made(&pool, A);
    let mut line: Vec<_> = (0..100_000)
        .map(|_| waits(ask(&pool, A, Reuse::Any)))
        .collect();
    let key_pool = {
        let key = Uri::from_static(A);
        pool.shared()
            .table
            .find_or_insert(&key.key(), |_| unreachable!("it is there"))
    };
    assert_eq!(
        pool.handle().status().pending.values().sum::<usize>(),
        100_000
    );
    // A shuffle that is the same every time.
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    while line.len() > 1 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let index = state as usize % line.len();
        let before = key_pool.touched();
        drop(line.swap_remove(index));
        assert!(key_pool.touched() - before <= 2);
    }
    conn.give_back();
    handed_over(&line[0]).give_back();
    drop(line);
    drop(key_pool);
    at_rest(pool);
}

#[test]
fn a_slot_that_was_never_used_counts_nothing() {
    let pool = Pool::<Conn>::new(PoolConfig::new().max_connections_per_host(1));
    let Decision::Make(permit, waiter) = ask(&pool, A, Reuse::Any) else {
        panic!("nothing is open");
    };
    assert_eq!(pool.handle().status().open(), 1);
    drop((permit, waiter));
    assert_eq!(pool.handle().status(), crate::agent::Status::default());
    at_rest(pool);
}

#[test]
fn hosts_gone_quiet_leave_the_table() {
    let pool = Pool::new(PoolConfig::new());
    for number in 0..10_000 {
        let uri: Uri = format!("http://host-{number}/").parse().unwrap();
        let ask = CheckoutRequest {
            reuse: Reuse::Any,
            runtime: None,
            is_retry: false,
        };
        let Decision::Make(permit, _) = pool.checkout(&uri.key(), ask, None, Moment::now()) else {
            panic!("no limit");
        };
        connect(permit).give_back();
    }
    assert_eq!(pool.handle().status().idle.len(), 10_000);
    pool.handle().close_idle();
    assert!(pool.shared().table.is_empty());
    at_rest(pool);
}

#[test]
fn a_key_without_connections_tells_of_its_ejected_addresses_too() {
    let pool = Pool::<Conn>::new(PoolConfig::new());
    let told = Arc::new(AtomicU64::new(0));
    let count = told.clone();
    pool.handle().on_event(move |_, event| {
        if matches!(event.kind, EventKind::AddressReadmitted { .. }) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let key = Key::from(Uri::from_static(A).key());
    let address = ([192, 0, 2, 1], 80).into();
    pool.shared()
        .address_changed(&key, address, addresses::Change::Readmitted);
    assert_eq!(told.load(Ordering::Relaxed), 1);
}
