//! Spare connections that a limit does not allow.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use http::Uri;

use super::tests::{A, Conn};
use super::*;
use crate::target::{Reuse, Target};

fn permit(pool: &Pool<Conn>, host: &'static str) -> ConnPermit<Conn> {
    let ask = CheckoutRequest {
        reuse: Reuse::Any,
        runtime: None,
        is_retry: false,
    };
    match pool.checkout(&Uri::from_static(host).key(), ask, None, Moment::now()) {
        Decision::Make(permit, _waiter) => permit,
        _ => panic!("there is room"),
    }
}

/// Who looks for them waits until there may be too few. If its own look said so, it would look for ever, without a pause.
#[test]
fn a_look_for_spare_connections_that_are_not_allowed_causes_no_other() {
    let config = || PoolConfig::new().min_idle_per_host(1);
    for config in [config().max_idle_per_host(0), config().max_connections(1)] {
        let pool = Pool::<Conn>::new(config);
        let of_a = permit(&pool, A);
        let spares = of_a.key_pool().spares().expect("some are wanted");
        let is_short = || {
            let mut cx = Context::from_waker(Waker::noop());
            pin!(spares.short()).poll(&mut cx).is_ready()
        };
        drop(of_a);
        assert!(is_short(), "the key has lost a connection");
        // With a total limit, no other is allowed beside this one.
        let _of_b = permit(&pool, "http://b/");
        for _ in 0..3 {
            let spare = pool.spare(&Uri::from_static(A).key(), true);
            let (permits, until) = spare.expect("the pool is open");
            assert!(permits.is_empty() && until.is_some());
            assert!(!is_short());
        }
    }
}
