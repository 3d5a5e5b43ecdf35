//! Connections and callers of several runtimes.

use http::Uri;

use super::tests::{A, ask, at_rest, connect, handed_over, made, may_make, turn, waits};
use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::pool::{CheckoutRequest, Decision, Pool, PoolConfig};
use crate::target::{Reuse, Target};

#[test]
fn a_connection_serves_callers_of_its_own_runtime_only() {
    let (here, there) = (runtime(), runtime());
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let ask_in = |runtime: &tokio::runtime::Runtime| {
        let _entered = runtime.enter();
        let ask = CheckoutRequest {
            reuse: Reuse::Any,
            runtime: crate::pool::pooled_conn::current_runtime(),
            is_retry: false,
        };
        pool.checkout(&Uri::from_static(A).key(), ask, None, Moment::now())
    };
    let connect_in = |runtime: &tokio::runtime::Runtime, permit| {
        let _entered = runtime.enter();
        connect(permit)
    };
    let Decision::Make(permit, waiter) = ask_in(&here) else {
        panic!("nothing is open");
    };
    drop(waiter);
    connect_in(&here, permit).give_back();
    // An idle connection of the other runtime makes room...
    let waiter = waits(ask_in(&there));
    let conn = connect_in(&there, may_make(&waiter));
    drop(waiter);
    // ...and so does one that is returned.
    let waiter = waits(ask_in(&here));
    conn.give_back();
    let conn = connect_in(&here, may_make(&waiter));
    drop(waiter);
    let waiter = waits(ask_in(&here));
    conn.give_back();
    handed_over(&waiter).give_back();
    drop(waiter);
    assert_eq!(pool.handle().status().closes[&CloseReason::Room], 2);
    at_rest(pool);
}

fn runtime() -> tokio::runtime::Runtime {
    let builder = &mut tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap()
}

#[test]
fn a_caller_takes_a_connection_of_the_runtime_in_which_it_was_polled_last() {
    let there = runtime();
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let entered = there.enter();
    let conn = made(&pool, A);
    drop(entered);
    let waiter = waits(ask(&pool, A, Reuse::Any));
    assert!(turn(&waiter).is_none());
    let entered = there.enter();
    assert!(turn(&waiter).is_none());
    drop(entered);
    conn.give_back();
    handed_over(&waiter).give_back();
    drop(waiter);
    at_rest(pool);
}

#[test]
fn one_task_checks_for_a_runtime_however_often_its_callers_come_and_go() {
    let here = runtime();
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let conn = made(&pool, A);
    for _ in 0..10 {
        let waiters = [(); 2].map(|()| waits(ask(&pool, A, Reuse::Any)));
        let entered = here.enter();
        assert!(waiters.iter().all(|it| turn(it).is_none()));
        drop(entered);
    }
    assert_eq!(here.metrics().num_alive_tasks(), 1);
    conn.give_back();
    at_rest(pool);
}

/// Its runtime has ended, and its future has not.
#[test]
fn a_runtime_is_forgotten_with_its_last_caller() {
    let here = runtime();
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let conn = made(&pool, A);
    let [first, last] = [(); 2].map(|()| waits(ask(&pool, A, Reuse::Any)));
    let entered = here.enter();
    assert!(turn(&first).is_none() && turn(&last).is_none());
    drop(entered);
    drop(here);
    drop(first);
    assert_eq!(pool.shared().overdue.runtimes_now(), 1);
    drop(last);
    assert_eq!(pool.shared().overdue.runtimes_now(), 0);
    conn.give_back();
    at_rest(pool);
}
