//! How many connections drain without counting in the limits.

use tokio::runtime;

use super::*;

/// With a limit over all keys that is not reached: whoever cannot use this connection may make one.
#[test]
fn a_total_limit_that_has_room_makes_nothing_drain() {
    let elsewhere = runtime::Builder::new_current_thread().build().unwrap();
    for config in [
        PoolConfig::new().max_idle(10),
        PoolConfig::new().max_connections(2),
    ] {
        let pool = Pool::new(config);
        let (permit, maker) = makes(&pool);
        let request = CheckoutRequest {
            reuse: Reuse::Any,
            runtime: Some(elsewhere.handle().id()),
            is_retry: false,
        };
        let target = Uri::from_static(A);
        let decision = pool.checkout(&target.key(), request, None, Moment::now());
        let Decision::Wait(waiter) = decision else {
            panic!("a connect is under way");
        };
        let (first, _) = connect(permit, 10);
        drop(maker);
        let (other, _) = connect(may_make(&waiter).expect("there is room"), 1);
        drop(waiter);
        let second = take(&pool);
        assert_eq!(id(&second), id(&first), "it takes further uses");
        for pooled in [first, second, other] {
            pooled.give_back();
        }
        at_rest(pool);
    }
}

#[test]
fn when_one_has_ended_another_that_drains_gives_its_permit_on() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let (first, wire) = made(&pool, 1);
    wire.goes_away();
    drop(wire);
    let (second, wire) = made(&pool, 1);
    let waiter = waits(&pool);
    wire.goes_away();
    drop(wire);
    assert!(turn(&waiter).is_none(), "as many drain as may be open");
    first.give_back();
    let (third, _) = connect(may_make(&waiter).expect("fewer drain"), 1);
    drop(waiter);
    for pooled in [second, third] {
        pooled.give_back();
    }
    at_rest(pool);
}

#[test]
fn the_same_where_the_limit_is_over_all_keys() {
    let pool = Pool::new(PoolConfig::new().max_connections(1));
    let made_for = |host| match ask_for(&pool, host, Reuse::Any) {
        Decision::Make(permit, _waiter) => connect(permit, 1),
        _ => panic!("there is a permit"),
    };
    let (first, wire) = made_for(A);
    wire.goes_away();
    drop(wire);
    let (second, wire) = made_for(B);
    let Decision::Wait(waiter) = ask_for(&pool, B, Reuse::Any) else {
        panic!("there is one permit");
    };
    wire.goes_away();
    drop(wire);
    assert!(turn(&waiter).is_none(), "as many drain as may be open");
    first.give_back();
    let (third, _) = connect(may_make(&waiter).expect("fewer drain"), 1);
    drop(waiter);
    for pooled in [second, third] {
        pooled.give_back();
    }
    at_rest(pool);
}

/// One caller, of another runtime, has waited for the connect and takes the last permit; the next wants a connection of its own.
#[test]
fn an_idle_connection_is_closed_for_a_caller_whom_the_last_permit_has_passed_by() {
    let elsewhere = runtime::Builder::new_current_thread().build().unwrap();
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(2));
    let (permit, maker) = makes(&pool);
    let Decision::Make(other, other_maker) = ask_for(&pool, A, Reuse::Fresh) else {
        panic!("there is room for its own");
    };
    let ask = CheckoutRequest {
        reuse: Reuse::Any,
        runtime: Some(elsewhere.handle().id()),
        is_retry: true,
    };
    let uri = Uri::from_static(A);
    let Decision::Wait(first) = pool.checkout(&uri.key(), ask, None, Moment::now()) else {
        panic!("a connect is under way");
    };
    let Decision::Wait(own) = ask_for(&pool, A, Reuse::Fresh) else {
        panic!("there is no room");
    };
    drop((other, other_maker, maker));
    let (made, wire) = connect(permit, UNHEARD);
    made.give_back();
    assert_eq!(idle(&pool), 1);
    wire.change(3);
    drop(wire);
    let permits = [&first, &own].map(|it| may_make(it).expect("there is room for it"));
    drop((permits, first, own));
    at_rest(pool);
}

/// The caller is of another runtime. Its permit is on its way if the first connection closes; if that drains, its last use may
/// take hours.
#[test]
fn one_connection_makes_room_for_one_caller_unless_that_takes_another_ones_time() {
    let elsewhere = runtime::Builder::new_current_thread().build().unwrap();
    for uses in [1, 2] {
        let pool = Pool::new(PoolConfig::new().max_connections_per_host(2));
        let (first, first_wire) = made(&pool, uses);
        let further = (uses == 2).then(|| take(&pool));
        let (second, second_wire) = made(&pool, 1);
        let ask = CheckoutRequest {
            reuse: Reuse::Any,
            runtime: Some(elsewhere.handle().id()),
            is_retry: false,
        };
        let uri = Uri::from_static(A);
        let Decision::Wait(waiter) = pool.checkout(&uri.key(), ask, None, Moment::now()) else {
            panic!("there is no room");
        };
        first.give_back();
        second.give_back();
        let (makes_room, other) = match &further {
            None => (first_wire, second_wire),
            Some(_) => (second_wire, first_wire),
        };
        assert_eq!(idle(&pool), 2 - uses, "the second, unless it makes room");
        assert!(turn(&waiter).is_none(), "no transport is gone");
        drop(makes_room);
        drop(may_make(&waiter).expect("a transport is gone"));
        drop((further, waiter, other));
        at_rest(pool);
    }
}

/// It could serve the younger caller, of its own key.
#[test]
fn a_connection_without_uses_is_closed_for_an_older_caller_of_another_key() {
    let pool = Pool::new(PoolConfig::new().max_connections(1));
    let (first, _) = made(&pool, 1);
    let Decision::Wait(older) = ask_for(&pool, B, Reuse::Any) else {
        panic!("there is one permit");
    };
    let younger = waits(&pool);
    first.give_back();
    let (second, _) = connect(may_make(&older).expect("it came first"), 1);
    drop(older);
    second.give_back();
    let (third, _) = connect(may_make(&younger).expect("nobody else waits"), 1);
    drop(younger);
    third.give_back();
    assert_eq!(pool.handle().status().closes[&CloseReason::Room], 2);
    at_rest(pool);
}
