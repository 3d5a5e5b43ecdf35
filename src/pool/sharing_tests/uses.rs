//! The state of each use, and uses that are gone as soon as they are made.

use std::sync::mpsc;
use std::thread;

use super::*;
use crate::clock::Clock;

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

/// A connection with an idle limit of five seconds in its first use, and as many waiters as it will have room for.
fn with_waiters(capacity: usize) -> (Pool<Conn>, Use, Vec<Waiter<Conn>>) {
    waiters_by(Clock::default(), capacity)
}

fn waiters_by(clock: Clock, capacity: usize) -> (Pool<Conn>, Use, Vec<Waiter<Conn>>) {
    let config = PoolConfig::new().max_connections_per_host(1);
    let pool = Pool::new(config.clock(clock));
    let (permit, _) = makes(&pool);
    let limit = |lifespan: &mut Lifespan| lifespan.limit_idle(Duration::from_secs(5));
    let (first, wire) = connected(permit, 1, true, limit);
    let waiters = (0..capacity).map(|_| waits(&pool)).collect();
    // The pool reads it when the first use is returned.
    wire.capacity.store(capacity, SeqCst);
    (pool, first, waiters)
}

fn in_seconds(seconds: u64) -> Moment {
    let time = Duration::from_secs(seconds);
    Moment::now().checked_add(time).expect("soon")
}

fn collected(waiter: &Waiter<Conn>) -> Use {
    match turn(waiter) {
        Some(WaitOutcome::Connection(pooled)) => pooled,
        _ => panic!("is handed no connection"),
    }
}

#[test]
fn hand_overs_that_nobody_collects_expire_as_an_idle_connection_does() {
    let (pool, first, waiters) = with_waiters(2);
    first.give_back();
    for waiter in &waiters {
        let late = collected(waiter);
        assert_eq!(late.close_reason(in_seconds(4)), None);
        assert_eq!(late.close_reason(in_seconds(6)), Some(CloseReason::Idle));
        waiter.requeue(Rejected::new(late, CloseReason::Idle));
    }
    assert_eq!(pool.handle().status().closes[&CloseReason::Idle], 1);
    drop(waiters);
    at_rest(pool);
}

#[test]
fn a_hand_over_beside_a_use_under_way_has_no_idle_limit() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let (permit, _) = makes(&pool);
    let limit = |lifespan: &mut Lifespan| lifespan.limit_idle(Duration::from_secs(5));
    let (first, _) = connected(permit, 2, true, limit);
    let (second, waiter) = (take(&pool), waits(&pool));
    first.give_back();
    let third = collected(&waiter);
    assert!(third.deadline.is_none());
    third.give_back();
    second.give_back();
    drop(waiter);
    at_rest(pool);
}

#[test]
fn a_hand_over_that_passes_to_the_next_waiter_goes_on_ageing() {
    let (pool, first, waiters) = with_waiters(1);
    let next = waits(&pool);
    first.give_back();
    let late = collected(&waiters[0]);
    let times = (late.idle_since, late.deadline);
    assert!(times.1.is_some());
    late.give_back();
    let late = collected(&next);
    assert_eq!((late.idle_since, late.deadline), times);
    late.give_back();
    drop((waiters, next));
    at_rest(pool);
}

/// A clock, and what puts it six seconds forward: past the limit.
fn clock_to_put_forward() -> (Clock, impl Fn()) {
    let late = Arc::new(AtomicBool::new(false));
    let is_late = late.clone();
    let clock = Clock::new(move || in_seconds(if is_late.load(SeqCst) { 6 } else { 0 }));
    (clock, move || late.store(true, SeqCst))
}

#[test]
fn a_waiter_that_collects_in_time_ends_the_idle_time_for_all() {
    let (clock, put_forward) = clock_to_put_forward();
    let (pool, first, waiters) = waiters_by(clock, 1);
    let (wire, next) = (first.connection_ref().wire.clone(), waits(&pool));
    first.give_back();
    let second = handed(&waiters[0]).expect("it is handed over");
    put_forward();
    wire.change(2);
    let third = collected(&next);
    assert_eq!(third.close_reason(in_seconds(6)), None);
    third.give_back();
    second.give_back();
    drop((wire, waiters, next));
    at_rest(pool);
}

#[test]
fn a_use_that_ends_leaves_nothing_of_the_idle_time_before_it() {
    let (clock, put_forward) = clock_to_put_forward();
    let (pool, first, waiters) = waiters_by(clock, 2);
    first.give_back();
    let second = handed(&waiters[0]).expect("it is handed over");
    put_forward();
    // The other waiter has not collected its use.
    second.give_back();
    take(&pool).give_back();
    assert!(pool.handle().status().closes.is_empty());
    drop(waiters);
    at_rest(pool);
}

/// What a caller is given that asks so many seconds from now, if there is a connection for it.
fn taken_in(pool: &Pool<Conn>, seconds: u64) -> Option<Use> {
    let ask = CheckoutRequest {
        reuse: Reuse::Any,
        runtime: None,
        is_retry: false,
    };
    let key = Uri::from_static(A);
    match pool.checkout(&key.key(), ask, None, in_seconds(seconds)) {
        Decision::Take(pooled) => Some(pooled),
        _ => None,
    }
}

#[test]
fn a_caller_that_takes_an_idle_connection_ends_its_idle_time_for_all() {
    let pool = Pool::new(PoolConfig::new());
    let (permit, _) = makes(&pool);
    let limit = |lifespan: &mut Lifespan| lifespan.limit_idle(Duration::from_secs(5));
    let (first, _) = connected(permit, 2, true, limit);
    // The connection is idle without one of its uses having been returned.
    drop(first);
    let second = take(&pool);
    let third = taken_in(&pool, 6).expect("the connection is in use");
    third.give_back();
    second.give_back();
    at_rest(pool);
}

/// Whether a caller at this time gets a further use of a connection that was handed over; the waiter may have collected it.
#[test]
fn a_connection_that_was_only_handed_over_expires_for_other_callers_too() {
    for (seconds, is_collected, is_taken) in [(4, false, true), (6, false, false), (6, true, true)]
    {
        let (pool, first, waiters) = with_waiters(1);
        let wire = first.connection_ref().wire.clone();
        first.give_back();
        wire.change(2);
        drop(wire);
        let used = is_collected.then(|| handed(&waiters[0]).expect("it is handed over"));
        let further = taken_in(&pool, seconds);
        assert_eq!(further.is_some(), is_taken, "{seconds} s, {is_collected}");
        for it in further.into_iter().chain(used) {
            it.give_back();
        }
        drop(waiters);
        at_rest(pool);
    }
}

/// A layer above the pool sees one use of many.
#[test]
fn a_limit_that_one_use_is_given_is_a_limit_of_the_connection() {
    for is_last in [false, true] {
        let pool = Pool::new(PoolConfig::new());
        let (first, _) = made(&pool, 2);
        let mut uses = [first, take(&pool)];
        let limited = uses[usize::from(is_last)].connection();
        limited.lifespan_mut().limit_idle(Duration::from_secs(5));
        for it in uses {
            it.give_back();
        }
        assert_eq!(idle(&pool), 1);
        let host = pool.shared().table.find(&Uri::from_static(A).key());
        host.expect("one is idle").sweep(in_seconds(6));
        assert_eq!(idle(&pool), 0, "the last use was given it: {is_last}");
        at_rest(pool);
    }
}

#[test]
fn a_use_that_is_over_is_the_next_one_of_whoever_waits() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let (first, wire) = made(&pool, 2);
    drop(wire);
    let second = take(&pool);
    let waiter = waits(&pool);
    let of_use = |pooled: &Use| Arc::downgrade(pooled.connection_ref().lifespan().shared());
    let over = of_use(&second);
    second.give_back();
    let next = handed(&waiter).expect("there is room");
    assert!(of_use(&next).ptr_eq(&over), "no other one was made");
    drop(waiter);
    for pooled in [first, next] {
        pooled.give_back();
    }
    at_rest(pool);
}
