//! Deliveries that are not collected, step by step.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::tests::{Conn, ask, at_rest, connect, made, turn, waits};
use super::*;
use crate::connection::close_reason::CloseReason;
use crate::pool::deferred::Deferred;
use crate::pool::key_state::Check;
use crate::target::{Reuse, Target};

const HOST: &str = "http://a/";

#[derive(Default)]
struct Stopped(AtomicBool);

impl Stop for Stopped {
    fn stop(&self, _: CloseReason) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn may_make(pool: &Pool<Conn>) -> ConnPermit<Conn> {
    match ask(pool, HOST, Reuse::Any) {
        Decision::Make(permit, _waiter) => permit,
        _ => panic!("nothing is open"),
    }
}

#[test]
fn who_leaves_a_connect_that_is_over_leaves_no_other_in_its_place() {
    let pool = Pool::<Conn>::new(PoolConfig::new());
    let [over, other] = [(); 2].map(|()| Arc::<Stopped>::default());
    let [as_over, as_other] =
        [&over, &other].map(|it| Arc::downgrade(&(it.clone() as Arc<dyn Stop>)));
    let as_over: Weak<dyn Stop> = as_over;
    let permit = may_make(&pool);
    let (key_pool, place) = (permit.key_pool().clone(), permit.index());
    key_pool.set_connecting(place, as_over.clone(), None);
    drop(permit);
    key_pool.leave_connecting(place, &as_over);
    // By now another connection has its place, and its caller.
    let permit = may_make(&pool);
    assert_eq!(permit.index(), place);
    let key_pool = permit.key_pool().clone();
    key_pool.set_connecting(place, as_other, None);
    key_pool.leave_connecting(place, &as_over);
    key_pool.abandon_all();
    assert!(!other.0.load(Ordering::Relaxed), "it is not left");
    drop(permit);
    at_rest(pool);
}

/// Its caller is gone, and another one waits in its place.
#[test]
fn what_is_made_for_a_caller_who_is_gone_is_nobody_elses_own() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let Decision::Make(permit, gone) = ask(&pool, HOST, Reuse::Any) else {
        panic!("nothing is open");
    };
    let (key_pool, was) = (permit.key_pool().clone(), gone.waiter_id());
    drop(gone);
    let waiter = waits(ask(&pool, HOST, Reuse::Any));
    assert_eq!(waiter.waiter_id().index, was.index);
    key_pool.deliver(was, connect(permit));
    match turn(&waiter) {
        Some(WaitOutcome::Connection(pooled)) => pooled.give_back(),
        _ => panic!("it is returned to the pool, and goes to whoever waits"),
    }
    drop((waiter, key_pool));
    at_rest(pool);
}

#[test]
fn a_connect_is_stopped_by_the_first_check_at_its_end() {
    let pool = Pool::<Conn>::new(PoolConfig::new());
    let permit = may_make(&pool);
    let key_pool = permit.key_pool().clone();
    let stopped = Arc::<Stopped>::default();
    let connect = Arc::downgrade(&(stopped.clone() as Arc<dyn Stop>));
    let due = Instant::now();
    key_pool.set_connecting(permit.index(), connect, Some(due));
    let second = Duration::from_secs(1);
    for (now, is_stopped) in [(due - second, false), (due, true)] {
        let mut deferred = Deferred::new();
        let check = Check {
            now,
            millis: 1,
            close_grace: second,
        };
        key_pool.check_only(&check, &mut deferred);
        key_pool.run_deferred(deferred);
        assert_eq!(stopped.0.load(Ordering::Relaxed), is_stopped);
    }
    drop((permit, key_pool));
    at_rest(pool);
}

/// It cannot be closed from outside. One outside of the limits keeps nobody waiting.
#[test]
fn a_connection_that_does_not_close_in_its_time_counts_as_stuck_if_it_has_a_place() {
    let millis = Duration::from_millis;
    for (reuse, stuck_for) in [(Reuse::Any, Some(millis(50))), (Reuse::Never, None)] {
        let pool = Pool::<Conn>::new(PoolConfig::new());
        let Decision::Make(permit, waiter) = ask(&pool, HOST, reuse) else {
            panic!("there is no limit");
        };
        let key_pool = permit.key_pool().clone();
        let pooled = connect(permit);
        drop(waiter);
        pooled.connection_ref().lifespan().shared().set_orphaned();
        let mut deferred = Deferred::new();
        let mut check = |millis| {
            let check = Check {
                now: Instant::now(),
                millis,
                close_grace: Duration::from_millis(100),
            };
            let result = key_pool.check_only(&check, &mut deferred);
            (result.is_left, result.stuck_for)
        };
        assert_eq!(check(1_000), (true, None), "it has all of its time");
        assert_eq!(check(1_099), (true, None));
        assert_eq!(check(1_100), (false, None), "it is told to close");
        assert_eq!(check(1_150).1, stuck_for, "{reuse:?}");
        key_pool.run_deferred(deferred);
        pooled.give_back();
        drop(key_pool);
        at_rest(pool);
    }
}

/// Between the check that finds it and the actions that follow without a lock.
#[test]
fn what_is_to_be_closed_from_outside_is_not_used_any_more() {
    let pool = Pool::<Conn>::new(PoolConfig::new());
    let pooled = made(&pool, HOST);
    let shared = pooled.connection_ref().lifespan().shared().clone();
    shared.set_finishing(true);
    let uri = http::Uri::from_static(HOST);
    let key_pool = pool.shared().table.find(&uri.key()).expect("it is there");
    let mut deferred = Deferred::new();
    for millis in [1, 60_000] {
        let check = Check {
            now: Instant::now(),
            millis,
            close_grace: Duration::ZERO,
        };
        key_pool.check_only(&check, &mut deferred);
    }
    // Its use ends at this moment.
    shared.set_finishing(false);
    pooled.give_back();
    assert!(pool.handle().status().idle.is_empty());
    key_pool.run_deferred(deferred);
    drop(key_pool);
    at_rest(pool);
}

/// Whatever holds up a caller's task holds up a check as well, so the first check does not take back what was just
/// delivered.
#[test]
fn what_a_look_sees_first_is_not_taken_back_by_it() {
    let pool = Pool::new(
        PoolConfig::new()
            .max_connections_per_host(1)
            .hand_over_timeout(Duration::ZERO),
    );
    let conn = made(&pool, HOST);
    let (first, second) = (
        waits(ask(&pool, HOST, Reuse::Any)),
        waits(ask(&pool, HOST, Reuse::Any)),
    );
    conn.give_back();
    pool.shared().check_overdue(true);
    assert!(turn(&second).is_none());
    let later = Instant::now();
    while Instant::now() <= later {}
    pool.shared().check_overdue(true);
    let Some(WaitOutcome::Connection(pooled)) = turn(&second) else {
        panic!("it is the next one's");
    };
    drop(second);
    // There is no delivery for it yet; as soon as there is one, it is the first.
    assert!(turn(&first).is_none());
    let third = waits(ask(&pool, HOST, Reuse::Any));
    pooled.close(CloseReason::Peer);
    assert!(turn(&third).is_none());
    match turn(&first) {
        Some(WaitOutcome::Make(permit)) => connect(permit).give_back(),
        _ => panic!("it is first in line"),
    }
    drop((first, third));
    at_rest(pool);
}

/// The caller has collected a permit, which a check had seen; the connection that it then makes has all of its own time.
#[test]
fn a_delivery_is_not_taken_back_for_the_age_of_an_earlier_one() {
    let pool = Pool::new(
        PoolConfig::new()
            .max_connections_per_host(2)
            .hand_over_timeout(Duration::ZERO),
    );
    let open = [(); 2].map(|()| made(&pool, HOST));
    let [other, waiter] = [(); 2].map(|()| waits(ask(&pool, HOST, Reuse::Any)));
    for pooled in open {
        pooled.close(CloseReason::Peer);
    }
    pool.shared().check_overdue(true);
    let permit = tests::may_make(&waiter);
    let key_pool = permit.key_pool().clone();
    key_pool.deliver(waiter.waiter_id(), connect(permit));
    let later = Instant::now();
    while Instant::now() <= later {}
    pool.shared().check_overdue(true);
    let Some(WaitOutcome::Made(pooled)) = turn(&waiter) else {
        panic!("the connection is still the waiter's");
    };
    pooled.give_back();
    drop((other, waiter, key_pool));
    at_rest(pool);
}

/// The caller collects a connection, and rejects it after its own has been made and taken back. It is in the queue then,
/// and has missed a turn.
#[test]
fn a_rejection_after_a_missed_turn_loses_no_delivery() {
    let pool = Pool::<Conn>::new(PoolConfig::new());
    let (first, second) = (made(&pool, HOST), made(&pool, HOST));
    let Decision::Make(permit, waiter) = ask(&pool, HOST, Reuse::Any) else {
        panic!("nothing is idle");
    };
    first.give_back();
    let Some(WaitOutcome::Connection(first)) = turn(&waiter) else {
        panic!("it takes whatever comes first");
    };
    let key_pool = permit.key_pool().clone();
    key_pool.deliver(waiter.waiter_id(), connect(permit));
    key_pool.take_back_all();
    waiter.requeue(Rejected::new(first, CloseReason::Stale));
    second.give_back();
    let Some(WaitOutcome::Connection(second)) = turn(&waiter) else {
        panic!("it is delivered");
    };
    let idle = || pool.handle().status().idle.values().sum::<usize>();
    assert_eq!(idle(), 1, "its own");
    second.give_back();
    // If that is taken back as well, its own connect is over all the same.
    key_pool.take_back_all();
    let Some(WaitOutcome::Connection(idle_one)) = turn(&waiter) else {
        panic!("something is idle");
    };
    idle_one.give_back();
    drop((waiter, key_pool));
    at_rest(pool);
}

/// The same, if the second delivery is not collected either, and nothing is idle afterwards.
#[test]
fn a_caller_that_misses_two_deliveries_does_not_wait_for_a_connect_that_is_over() {
    let pool = Pool::<Conn>::new(PoolConfig::new());
    let (first, second) = (made(&pool, HOST), made(&pool, HOST));
    let Decision::Make(permit, waiter) = ask(&pool, HOST, Reuse::Any) else {
        panic!("nothing is idle");
    };
    first.give_back();
    let Some(WaitOutcome::Connection(first)) = turn(&waiter) else {
        panic!("it takes whatever comes first");
    };
    let key_pool = permit.key_pool().clone();
    key_pool.deliver(waiter.waiter_id(), connect(permit));
    key_pool.take_back_all();
    waiter.requeue(Rejected::new(first, CloseReason::Stale));
    second.give_back();
    key_pool.take_back_all();
    pool.handle().close_idle();
    assert!(matches!(turn(&waiter), Some(WaitOutcome::Lost)));
    drop((waiter, key_pool));
    at_rest(pool);
}

#[test]
fn keys_at_which_nothing_happens_are_not_looked_at() {
    let config = PoolConfig::new().max_connections_per_host(1);
    let pool = Pool::<Conn>::new(config);
    for number in 0..1_000 {
        made(&pool, format!("http://h{number}/").leak()).give_back();
    }
    assert_eq!(pool.handle().status().idle.len(), 1_000);
    assert_eq!(pool.shared().watched().len(), 0);
    let conn = made(&pool, HOST);
    let waiter = waits(ask(&pool, HOST, Reuse::Any));
    assert_eq!(pool.shared().watched().len(), 1);
    pool.shared().check_overdue(true);
    assert_eq!(pool.shared().watched().len(), 1);
    conn.give_back();
    pool.shared().check_overdue(true);
    assert_eq!(pool.shared().watched().len(), 1, "it is not come for");
    match turn(&waiter) {
        Some(WaitOutcome::Connection(pooled)) => pooled.give_back(),
        _ => panic!("it was given back"),
    }
    drop(waiter);
    pool.shared().check_overdue(true);
    assert_eq!(pool.shared().watched().len(), 0);
    at_rest(pool);
}

/// What a caller waits for begins without the pool, and a check follows in its usual time.
#[test]
fn who_waits_and_is_given_nothing_raises_no_alarm() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let conn = made(&pool, HOST);
    let waiter = waits(ask(&pool, HOST, Reuse::Any));
    pool.shared().check_overdue(true);
    assert!(!pool.shared().overdue.is_alert());
    drop(waiter);
    conn.give_back();
    at_rest(pool);
}

/// Nothing is ever taken back then, so there is nothing to check for.
#[test]
fn a_hand_over_that_is_kept_raises_no_alarm() {
    for (kept_for, is_alert) in [(Duration::MAX, false), (Duration::from_millis(5), true)] {
        let config = PoolConfig::new().max_connections_per_host(1);
        let pool = Pool::new(config.hand_over_timeout(kept_for));
        let conn = made(&pool, HOST);
        let waiter = waits(ask(&pool, HOST, Reuse::Any));
        conn.give_back();
        pool.shared().check_overdue(true);
        assert_eq!(pool.shared().overdue.is_alert(), is_alert);
        drop(waiter);
        at_rest(pool);
    }
}
