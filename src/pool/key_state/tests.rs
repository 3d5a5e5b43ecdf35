//! The state of a key is driven as data, without a pool, a lock, a task or a runtime.

use std::task::Waker;

use super::{KeyDecision, KeyState, StepCx};
use crate::agent::Mode;
use crate::clock::Moment;
use crate::connection::poolable::Poolable;
use crate::pool::config::PoolConfig;
use crate::pool::deferred::{Deferred, DeferredAction};
use crate::pool::list::SlabIndex;
use crate::pool::pooled_conn::PooledConn;
use crate::pool::tests::Conn;
use crate::pool::wait_queue::CheckoutRequest;
use crate::target::Reuse;

const REQUEST: CheckoutRequest = CheckoutRequest {
    reuse: Reuse::Any,
    runtime: None,
    is_retry: false,
};

#[test]
fn what_follows_from_a_step_is_returned_as_data() {
    let config = PoolConfig::new().max_connections_per_host(1);
    let mut state = KeyState::<Conn>::new(&config);
    let mut deferred = Deferred::new();
    let mut cx = StepCx {
        config: &config,
        mode: Mode::Open,
        now: Moment::now(),
        total: None,
        trials: None,
        deferred: &mut deferred,
    };
    let KeyDecision::Make { index, waiter } = state.take(REQUEST, 0, &mut cx) else {
        panic!("nothing is open");
    };
    let KeyDecision::Wait(second) = state.take(REQUEST, 1, &mut cx) else {
        panic!("the limit is reached");
    };
    assert!(state.collect(second, None, Waker::noop(), &mut cx).is_err());
    let conn = Conn::new();
    state.connected(index, conn.lifespan().shared());
    drop(state.abandon(waiter, &mut cx));
    state.put(
        Box::new(PooledConn::new(SlabIndex::new(index), conn)),
        &mut cx,
    );
    let delivery = state.collect(second, None, Waker::noop(), &mut cx);
    let pooled = delivery
        .ok()
        .and_then(|it| it.connection)
        .expect("delivered");
    drop(state.abandon(second, &mut cx));
    state.put(pooled, &mut cx);
    assert_eq!(state.idle_len(), 1);
    state.close_idle(&mut cx);
    let woken = |it: &DeferredAction<Conn>| matches!(it, DeferredAction::Wake(_));
    let closed = |it: &DeferredAction<Conn>| matches!(it, DeferredAction::Close(..));
    let count = |which: &dyn Fn(&DeferredAction<Conn>) -> bool| {
        deferred.actions.iter().filter(|it| which(it)).count()
    };
    assert_eq!((count(&woken), count(&closed)), (1, 1));
    state.release(
        index,
        None,
        &mut StepCx {
            config: &config,
            mode: Mode::Open,
            now: Moment::now(),
            total: None,
            trials: None,
            deferred: &mut Deferred::new(),
        },
    );
    assert!(state.is_quiet());
}

/// A check of the queue follows soon, in case the connection does not close.
#[test]
fn a_connection_that_is_closed_for_somebodys_room_is_watched() {
    for for_room in [false, true] {
        let config = PoolConfig::new();
        let mut state = KeyState::<Conn>::new(&config);
        let mut deferred = Deferred::new();
        let mut cx = StepCx {
            config: &config,
            mode: Mode::Open,
            now: Moment::now(),
            total: None,
            trials: None,
            deferred: &mut deferred,
        };
        let KeyDecision::Make { index, waiter } = state.take(REQUEST, 0, &mut cx) else {
            panic!("nothing is open");
        };
        let conn = Conn::new();
        state.connected(index, conn.lifespan().shared());
        drop(state.abandon(waiter, &mut cx));
        let pooled = PooledConn::new(SlabIndex::new(index), conn);
        state.put(Box::new(pooled), &mut cx);
        assert!(state.evict(index, for_room, &mut cx));
        let is_alert = |it: &&DeferredAction<Conn>| matches!(it, DeferredAction::Alert);
        let alerts = deferred.actions.iter().filter(is_alert).count();
        assert_eq!(alerts, usize::from(for_room));
    }
}
