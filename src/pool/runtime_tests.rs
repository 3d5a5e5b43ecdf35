//! Connections and callers of several runtimes.

use http::Uri;

use super::tests::{A, at_rest, connect, handed_over, may_make, waits};
use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::pool::{CheckoutRequest, Decision, Pool, PoolConfig};
use crate::target::{Reuse, Target};

#[test]
fn a_connection_serves_callers_of_its_own_runtime_only() {
    let runtime = || {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().unwrap()
    };
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
