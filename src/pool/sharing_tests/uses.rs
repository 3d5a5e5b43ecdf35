//! The state of each use, and uses that are gone as soon as they are made.

use std::sync::mpsc;
use std::thread;

use super::*;

#[test]
fn each_exchange_whose_response_has_begun_counts_as_answered() {
    let pool = Pool::new(PoolConfig::new());
    let (first, _) = made(&pool, 3);
    let (second, third) = (take(&pool), take(&pool));
    let answered = || pool.handle().status().answered;
    assert_eq!(answered(), 0);
    for (count, pooled) in [(1, &first), (2, &third)] {
        let lifespan = pooled.connection_ref().lifespan();
        lifespan.shared().activity().answered();
        assert_eq!(answered(), count);
    }
    for (count, pooled) in [(2, second), (1, first), (0, third)] {
        pooled.give_back();
        assert_eq!(answered(), count, "of those under way");
    }
    // Its next use is another exchange.
    let again = take(&pool);
    assert_eq!(answered(), 0);
    again.give_back();
    at_rest(pool);
}

/// The end of a use is noticed at once, and not under a lock that this needs.
fn ends_in_time(test: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let testing = thread::spawn(move || {
        test();
        done.send(()).expect("it is waited for");
    });
    match is_done.recv_timeout(Duration::from_secs(10)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it waits for a lock of its own"),
        _ => testing.join().expect("it passes"),
    }
}

#[test]
fn a_connection_that_carries_nothing_is_waited_for_unless_its_server_may_be_gone() {
    for is_doubted in [false, true] {
        let pool = Pool::new(PoolConfig::new());
        let (first, wire) = made(&pool, 3);
        wire.doubted.store(is_doubted, SeqCst);
        wire.change(0);
        if is_doubted {
            let (other, _) = made(&pool, 3);
            assert_ne!(id(&other), id(&first));
            other.give_back();
        } else {
            let waiter = waits(&pool);
            wire.change(3);
            handed(&waiter).expect("there is room").give_back();
        }
        // It has answered.
        wire.doubted.store(false, SeqCst);
        wire.change(3);
        first.give_back();
        drop(wire);
        at_rest(pool);
    }
}

#[test]
fn a_connection_whose_new_use_is_gone_at_once_has_no_further_ones() {
    ends_in_time(|| {
        let pool = Pool::new(PoolConfig::new());
        let (first, wire) = made(&pool, 3);
        // A use that is over becomes the next one.
        let second = take(&pool);
        wire.fails.store(true, SeqCst);
        drop(wire);
        let (other, _) = made(&pool, 1);
        assert_ne!(id(&other), id(&first));
        first.give_back();
        assert_eq!(pool.handle().status().closed, 0);
        second.give_back();
        assert_eq!(pool.handle().status().closes[&CloseReason::Peer], 1);
        other.give_back();
        at_rest(pool);
    });
}

#[test]
fn a_use_for_the_line_that_is_gone_at_once_is_given_to_nobody() {
    ends_in_time(|| {
        let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
        let (first, wire) = made(&pool, 1);
        let waiter = waits(&pool);
        wire.fails.store(true, SeqCst);
        wire.change(2);
        drop(wire);
        let (other, _) = connect(may_make(&waiter).expect("that one drains"), 1);
        drop(waiter);
        first.give_back();
        other.give_back();
        assert_eq!(pool.handle().status().closes[&CloseReason::Peer], 1);
        at_rest(pool);
    });
}

#[test]
fn a_connection_without_a_use_to_keep_is_closed() {
    ends_in_time(|| {
        let pool = Pool::new(PoolConfig::new());
        let (first, wire) = made(&pool, 1);
        wire.fails.store(true, SeqCst);
        drop(wire);
        drop(first);
        assert_eq!((idle(&pool), open(&pool)), (0, 0));
        assert_eq!(pool.handle().status().closes[&CloseReason::Peer], 1);
        at_rest(pool);
    });
}

#[test]
fn a_connection_whose_first_use_is_gone_at_once_is_for_one_caller() {
    ends_in_time(|| {
        let pool = Pool::new(PoolConfig::new());
        let (mut permit, waiter) = makes(&pool);
        let begun = permit.begin();
        let mut lifespan = Lifespan::new();
        let guard = lifespan.take_transport_guard();
        let wire = Wire {
            open: AtomicBool::new(true),
            capacity: AtomicUsize::new(9),
            changed: Mutex::new(None),
            doubted: AtomicBool::new(false),
            fails: AtomicBool::new(true),
            _guard: Mutex::new(guard),
        };
        let conn = Conn {
            wire: Arc::new(wire),
            is_shared: true,
            lifespan,
        };
        let pooled = permit.fill(conn, begun);
        drop(waiter);
        assert!(
            pooled
                .connection_ref()
                .lifespan()
                .shared()
                .connection()
                .is_none()
        );
        pooled.give_back();
        assert_eq!((idle(&pool), open(&pool)), (1, 1));
        at_rest(pool);
    });
}

#[test]
fn who_waits_for_one_that_carries_nothing_may_make_another_when_it_is_closed() {
    let pool = Pool::new(PoolConfig::new());
    let (first, wire) = made(&pool, 0);
    let waiter = waits(&pool);
    first.give_back();
    assert!(turn(&waiter).is_none(), "it may carry something soon");
    pool.handle().close_idle();
    let (second, _) = connect(may_make(&waiter).expect("nothing is on its way"), 1);
    drop((waiter, wire));
    second.give_back();
    at_rest(pool);
}

/// A caller that wants a connection of its own stands behind one that waits for capacity, while a permit is free.
#[test]
fn room_goes_past_a_caller_that_gets_a_permit() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(3));
    let (first, wire) = made(&pool, 5);
    let others: Vec<_> = (1..5).map(|_| take(&pool)).collect();
    let (permit, making) = makes(&pool);
    let Decision::Make(fresh_permit, fresh) = ask_for(&pool, A, Reuse::Fresh) else {
        panic!("there is a permit");
    };
    let request = CheckoutRequest {
        reuse: Reuse::Any,
        runtime: None,
        is_retry: true,
    };
    let key = Uri::from_static(A);
    let Decision::Wait(retry) = pool.checkout(&key.key(), request, None, Moment::now()) else {
        panic!("a connect is on its way");
    };
    let Decision::Wait(second_fresh) = ask_for(&pool, A, Reuse::Fresh) else {
        panic!("there is no permit");
    };
    let last = waits(&pool);
    drop((fresh_permit, fresh));
    wire.change(8);
    let handed: Vec<_> = [&retry, &making, &last].map(handed).into_iter().collect();
    assert!(handed.iter().all(Option::is_some), "room for three");
    let permit_of_fresh = may_make(&second_fresh);
    assert!(permit_of_fresh.is_some());
    drop((permit_of_fresh, permit, second_fresh, making, retry, last));
    drop((handed, others, first, wire));
    at_rest(pool);
}

/// That caller gets the permit that is free, once the caller before it is served.
#[test]
fn a_caller_that_wants_its_own_connection_does_not_hold_up_those_behind_it() {
    let pool = Pool::new(PoolConfig::new().max_connections(2));
    let (permit, maker) = makes(&pool);
    let Decision::Make(other, other_maker) = ask_for(&pool, A, Reuse::Fresh) else {
        panic!("there is room for its own");
    };
    let again = CheckoutRequest {
        reuse: Reuse::Any,
        runtime: None,
        is_retry: true,
    };
    let uri = Uri::from_static(A);
    let waits_for = |decision| match decision {
        Decision::Wait(waiter) => waiter,
        _ => panic!("need not wait"),
    };
    let first = waits_for(pool.checkout(&uri.key(), again, None, Moment::now()));
    let own = waits_for(ask_for(&pool, A, Reuse::Fresh));
    let last = waits(&pool);
    drop((other, other_maker));
    assert!(turn(&own).is_none(), "the first waits for the connect");
    drop(maker);
    let (made, wire) = connect(permit, 3);
    let uses = [&first, &last].map(|it| handed(it).expect("there is room"));
    let permit = may_make(&own).expect("a permit is free");
    drop((first, own, last, wire, permit));
    uses.into_iter()
        .chain([made])
        .for_each(PooledConn::give_back);
    at_rest(pool);
}

/// Nobody is told before the end of the use.
#[test]
fn what_may_have_no_further_uses_is_not_kept_after_this_one() {
    for is_last in [true, false] {
        for is_of_connection in [true, false] {
            let pool = Pool::new(PoolConfig::new());
            let (mut first, wire) = made(&pool, 3);
            let second = (!is_last).then(|| take(&pool));
            match is_of_connection {
                true => wire.open.store(false, SeqCst),
                false => {
                    let lifespan = first.connection().lifespan_mut();
                    lifespan.end(CloseReason::Final);
                }
            }
            drop(wire);
            first.give_back();
            let expected = usize::from(!is_last);
            assert_eq!((idle(&pool), open(&pool)), (0, expected));
            let (other, _) = made(&pool, 3);
            for pooled in second.into_iter().chain([other]) {
                pooled.give_back();
            }
            at_rest(pool);
        }
    }
}

#[test]
fn no_more_are_kept_idle_than_the_limit_allows() {
    let pool = Pool::new(PoolConfig::new().max_idle_per_host(1));
    let (first, _) = made(&pool, 1);
    let (second, _) = made(&pool, 1);
    first.give_back();
    second.give_back();
    assert_eq!((idle(&pool), open(&pool)), (1, 1));
    assert_eq!(pool.handle().status().closes[&CloseReason::Surplus], 1);
    at_rest(pool);
}

#[test]
fn no_more_uses_are_kept_for_the_next_ones_than_a_hundred() {
    let pool = Pool::new(PoolConfig::new());
    let (first, wire) = made(&pool, 150);
    let mut uses: Vec<_> = (1..150).map(|_| take(&pool)).collect();
    uses.push(first);
    uses.into_iter().for_each(PooledConn::give_back);
    // Beside the test and the connection itself; one of them is the use with which it is idle.
    assert_eq!(Arc::strong_count(&wire), 1 + 1 + 100);
    drop(wire);
    at_rest(pool);
}
