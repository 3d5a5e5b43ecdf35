//! What nobody comes for, step by step.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::tests::{Conn, ask, at_rest, connect, made, turn, waits};
use super::*;
use crate::connection::close_reason::CloseReason;
use crate::target::Reuse;

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
    // Another one has its place by now, and its caller.
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

/// Whatever holds up a caller's task holds up a look as well: what has just been given is not taken at the first.
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
    pool.shared().look(true);
    assert!(turn(&second).is_none());
    let later = Instant::now();
    while Instant::now() <= later {}
    pool.shared().look(true);
    let Some(WaitOutcome::Connection(pooled)) = turn(&second) else {
        panic!("it is the next one's");
    };
    drop(second);
    // Nothing for it yet; as soon as there is, it is the first.
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
