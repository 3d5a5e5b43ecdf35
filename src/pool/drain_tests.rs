//! The callers that a draining agent serves.

use super::tests::{ask, at_rest, come_back, connect, made};
use super::*;
use crate::target::Reuse;

const HOST: &str = "http://a/";

#[test]
fn who_was_let_in_before_a_drain_is_served_and_nobody_else_is() {
    let pool = Pool::new(PoolConfig::new());
    let stale = made(&pool, HOST);
    let _drained = pool.handle().drain();
    assert!(matches!(ask(&pool, HOST, Reuse::Any), Decision::ShutDown));
    // The connection that it was given had closed, so it has not been served yet.
    match come_back(&pool, HOST, Some(stale)) {
        Decision::Make(permit, _waiter) => connect(permit).give_back(),
        _ => panic!("it is to have another"),
    }
    assert_eq!(pool.handle().status().created, 2);
    at_rest(pool);
}
