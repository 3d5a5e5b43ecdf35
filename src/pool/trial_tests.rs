//! Which connection makes room, at a limit, for one that tries an ejected address again.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, StatusCode, Uri};
use tokio::runtime::Handle;
use tokio::time::advance;

use super::tests::{A, Conn, handed_over, may_make, waits};
use super::*;
use crate::agent::Ejection;
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::connection::shared::TransportInfo;
use crate::target::{Reuse, Target};

const SECOND: Duration = Duration::from_secs(1);

fn address(last: u8) -> SocketAddr {
    ([192, 0, 2, last], 80).into()
}

/// A caller in the runtime of the connections.
fn ask(pool: &Pool<Conn>) -> Decision<Conn> {
    let ask = CheckoutRequest {
        reuse: Reuse::Any,
        runtime: Some(Handle::current().id()),
        is_retry: false,
    };
    pool.checkout(&Uri::from_static(A).key(), ask, None, Moment::now())
}

fn connect_to(address: SocketAddr, mut permit: ConnPermit<Conn>) -> Box<PooledConn<Conn>> {
    let choice = permit.key_pool().choice().expect("addresses are ejected");
    choice.order([1, 2].map(self::address).to_vec());
    drop(choice);
    let begun = permit.begin();
    let conn = Conn::new();
    conn.lifespan()
        .shared()
        .set_transport(TransportInfo::to(address));
    permit.fill(conn, begun)
}

fn made_to(pool: &Pool<Conn>, address: SocketAddr) -> Box<PooledConn<Conn>> {
    match ask(pool) {
        Decision::Make(permit, _waiter) => connect_to(address, permit),
        _ => panic!("no connection is idle, and there is room"),
    }
}

fn answers(pooled: &PooledConn<Conn>, status: StatusCode) {
    let shared = pooled.connection_ref().lifespan().shared();
    let observer = shared.outcome_observer().expect("addresses are ejected");
    let verdict = observer.judge_head(status, &HeaderMap::new());
    observer.on_response(shared.id(), verdict);
}

/// Also where the pool's connections carry one exchange at a time.
#[tokio::test(start_paused = true)]
async fn one_idle_connection_makes_room_for_a_trial_and_no_more() {
    let ejection = Ejection::new().server_errors(true).consecutive(1);
    let config = PoolConfig::new()
        .max_connections_per_host(3)
        .eject(ejection.base_time(SECOND));
    let pool = Pool::<Conn>::new(config);
    let fails = made_to(&pool, address(1));
    let one = made_to(&pool, address(2));
    answers(&fails, StatusCode::BAD_GATEWAY);
    fails.give_back();
    let more = [made_to(&pool, address(2)), made_to(&pool, address(2))];
    for pooled in more.into_iter().chain([one]) {
        pooled.give_back();
    }
    assert_eq!(pool.handle().status().idle.values().sum::<usize>(), 3);
    let before = pool.handle().status().closed;

    advance(2 * SECOND).await;
    let waiter = waits(ask(&pool));
    let status = pool.handle().status();
    assert_eq!(status.idle.values().sum::<usize>(), 2);
    assert_eq!(status.closed, before + 1);
    assert!(!status.closes.contains_key(&CloseReason::Room));
    connect_to(address(1), may_make(&waiter)).give_back();
    drop(waiter);
    pool.handle().close_idle();
    let status = pool.handle().status();
    assert_eq!((status.created, status.open()), (5, 0), "{status:?}");
}

/// All of them are in use, and a caller waits for one of them.
#[tokio::test(start_paused = true)]
async fn a_returned_connection_makes_room_for_a_trial_where_a_caller_waits() {
    let ejection = Ejection::new().server_errors(true).consecutive(1);
    let config = PoolConfig::new()
        .max_connections_per_host(3)
        .eject(ejection.base_time(SECOND));
    let pool = Pool::<Conn>::new(config);
    let fails = made_to(&pool, address(1));
    answers(&fails, StatusCode::BAD_GATEWAY);
    fails.give_back();
    let [one, other, third] = [(); 3].map(|()| made_to(&pool, address(2)));
    let waiter = waits(ask(&pool));

    advance(2 * SECOND).await;
    one.give_back();
    let tried = connect_to(address(1), may_make(&waiter));
    drop(waiter);
    // No trial is due, so the next caller gets what is returned.
    let waiter = waits(ask(&pool));
    other.give_back();
    handed_over(&waiter).give_back();
    for pooled in [tried, third] {
        pooled.give_back();
    }
    drop(waiter);
    pool.handle().close_idle();
    let status = pool.handle().status();
    assert_eq!((status.created, status.open()), (5, 0), "{status:?}");
}
