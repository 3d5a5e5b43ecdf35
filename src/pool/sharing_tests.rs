//! Connections that several uses share, step by step.

mod addresses;
mod draining;
mod uses;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::Uri;

use super::*;
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Lifespan;
use crate::connection::shared::{ChangeHook, TransportGuard};
use crate::target::{Reuse, Target};

const A: &str = "http://a/";
const B: &str = "http://b/";

/// The common part of a connection and its uses: the transport ends with the last of them.
struct Wire {
    open: AtomicBool,
    capacity: AtomicUsize,
    changed: Mutex<Option<ChangeHook>>,
    doubted: AtomicBool,
    /// Its uses are gone as soon as they are made.
    fails: AtomicBool,
    _guard: Mutex<Option<TransportGuard>>,
}

/// The capacity of a connection that has not reported it.
const UNHEARD: usize = usize::MAX;

struct Conn {
    wire: Arc<Wire>,
    is_shared: bool,
    lifespan: Lifespan,
}

impl Wire {
    fn change(&self, capacity: usize) {
        self.capacity.store(capacity, SeqCst);
        self.tell();
    }

    /// As after a GOAWAY.
    fn goes_away(&self) {
        self.open.store(false, SeqCst);
        self.tell();
    }

    fn tell(&self) {
        let hook = self.changed.lock().unwrap().clone();
        hook.expect("it is kept by a pool").run();
    }
}

impl Poolable for Conn {
    const SHARED: bool = true;

    fn is_open(&self) -> bool {
        self.wire.open.load(SeqCst)
    }

    fn capacity(&self) -> Option<usize> {
        Some(self.wire.capacity.load(SeqCst)).filter(|&it| it != UNHEARD)
    }

    fn is_doubted(&self) -> bool {
        self.wire.doubted.load(SeqCst)
    }

    fn another(&mut self) -> Option<Self> {
        let mut lifespan = self.lifespan.another();
        if self.wire.fails.load(SeqCst) {
            drop(lifespan.take_transport_guard());
        }
        self.is_shared.then(|| Self {
            wire: self.wire.clone(),
            is_shared: true,
            lifespan,
        })
    }

    fn on_change(&mut self, hook: ChangeHook) {
        *self.wire.changed.lock().unwrap() = Some(hook);
    }

    fn poll_free(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn lifespan(&self) -> &Lifespan {
        &self.lifespan
    }

    fn lifespan_mut(&mut self) -> &mut Lifespan {
        &mut self.lifespan
    }
}

type Use = Box<PooledConn<Conn>>;

fn ask_for(pool: &Pool<Conn>, host: &'static str, reuse: Reuse) -> Decision<Conn> {
    let ask = CheckoutRequest {
        reuse,
        runtime: None,
        is_retry: false,
    };
    let mut decision = pool.checkout(&Uri::from_static(host).key(), ask, None, Moment::now());
    if let Decision::Take(pooled) = &mut decision {
        pooled.check_out(Moment::now(), None);
    }
    decision
}

fn ask(pool: &Pool<Conn>) -> Decision<Conn> {
    ask_for(pool, A, Reuse::Any)
}

fn take(pool: &Pool<Conn>) -> Use {
    match ask(pool) {
        Decision::Take(pooled) => pooled,
        _ => panic!("there is none with room"),
    }
}

fn waits(pool: &Pool<Conn>) -> Waiter<Conn> {
    match ask(pool) {
        Decision::Wait(waiter) => waiter,
        Decision::Take(_) => panic!("took one"),
        _ => panic!("need not wait"),
    }
}

fn makes(pool: &Pool<Conn>) -> (ConnPermit<Conn>, Waiter<Conn>) {
    match ask(pool) {
        Decision::Make(permit, waiter) => (permit, waiter),
        Decision::Wait(_) => panic!("has to wait"),
        _ => panic!("there is one"),
    }
}

fn connected(
    mut permit: ConnPermit<Conn>,
    capacity: usize,
    is_shared: bool,
    limit: impl Fn(&mut Lifespan),
) -> (Use, Arc<Wire>) {
    let begun = permit.begin();
    let mut lifespan = Lifespan::new();
    limit(&mut lifespan);
    let guard = lifespan.take_transport_guard();
    let wire = Arc::new(Wire {
        open: AtomicBool::new(true),
        capacity: AtomicUsize::new(capacity),
        changed: Mutex::new(None),
        doubted: AtomicBool::new(false),
        fails: AtomicBool::new(false),
        _guard: Mutex::new(guard),
    });
    let conn = Conn {
        wire: wire.clone(),
        is_shared,
        lifespan,
    };
    let mut pooled = permit.fill(conn, begun);
    if is_shared {
        wire.tell();
    }
    pooled.connection().lifespan_mut().check_out(None);
    let wire = Arc::downgrade(&wire);
    (pooled, wire.upgrade().expect("its connection has it"))
}

fn connect(permit: ConnPermit<Conn>, capacity: usize) -> (Use, Arc<Wire>) {
    connected(permit, capacity, true, |_| {})
}

/// The first use of a new connection.
fn made(pool: &Pool<Conn>, capacity: usize) -> (Use, Arc<Wire>) {
    let (permit, _waiter) = makes(pool);
    connect(permit, capacity)
}

fn turn(waiter: &Waiter<Conn>) -> Option<WaitOutcome<Conn>> {
    match waiter.poll_outcome(&Context::from_waker(Waker::noop())) {
        Poll::Ready(turn) => Some(turn),
        Poll::Pending => None,
    }
}

fn handed(waiter: &Waiter<Conn>) -> Option<Use> {
    match turn(waiter) {
        Some(WaitOutcome::Connection(mut pooled)) => {
            pooled.check_out(Moment::now(), None);
            Some(pooled)
        }
        Some(_) => panic!("is given something else"),
        None => None,
    }
}

fn may_make(waiter: &Waiter<Conn>) -> Option<ConnPermit<Conn>> {
    match turn(waiter) {
        Some(WaitOutcome::Make(permit)) => Some(permit),
        Some(_) => panic!("is given something else"),
        None => None,
    }
}

fn id(pooled: &Use) -> u64 {
    pooled.connection_ref().lifespan().shared().id()
}

fn open(pool: &Pool<Conn>) -> usize {
    pool.handle().status().open()
}

fn idle(pool: &Pool<Conn>) -> usize {
    pool.handle().status().idle.values().sum()
}

/// The last line of every test: all counts agree, and nothing is left over.
fn at_rest(pool: Pool<Conn>) {
    pool.handle().close_idle();
    let status = pool.handle().status();
    assert_eq!(status.open(), 0, "{status:?}");
    assert_eq!(status.created, status.closed + status.detached);
    assert!(status.pending.is_empty());
    assert!(pool.shared().table.is_empty());
    if let Some(total) = pool.shared().lock_total() {
        assert!(total.is_at_rest());
    }
}

#[test]
fn a_crowd_makes_as_many_connections_as_it_needs() {
    let pool = Pool::new(PoolConfig::new());
    let (permit, maker) = makes(&pool);
    let crowd: Vec<_> = (1..50).map(|_| waits(&pool)).collect();
    let (first, wire) = connect(permit, UNHEARD);
    drop(maker);
    assert!(
        crowd.iter().all(|it| turn(it).is_none()),
        "it carries one until it says more"
    );
    assert_eq!(open(&pool), 1);
    wire.change(10);
    drop(wire);
    let mut uses = vec![first];
    let mut permits = Vec::new();
    let mut waiting = Vec::new();
    for (place, waiter) in crowd.into_iter().enumerate() {
        match turn(&waiter) {
            Some(WaitOutcome::Connection(pooled)) => {
                assert!(place < 9, "in the order of arrival");
                uses.push(pooled);
            }
            Some(WaitOutcome::Make(permit)) => {
                assert!((9..13).contains(&place));
                permits.push(permit);
            }
            Some(_) => panic!("is given something else"),
            None => waiting.push(waiter),
        }
    }
    uses.extend(permits.into_iter().map(|permit| connect(permit, 10).0));
    for waiter in waiting {
        uses.push(handed(&waiter).expect("another one has room"));
    }
    assert_eq!((uses.len(), open(&pool)), (50, 5));
    for pooled in uses {
        pooled.give_back();
    }
    assert_eq!(pool.handle().status().created, 5);
    at_rest(pool);
}

#[test]
fn no_more_uses_are_out_than_it_carries() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let (first, _wire) = made(&pool, 3);
    let (second, third) = (take(&pool), take(&pool));
    assert_eq!([id(&second), id(&third)], [id(&first); 2]);
    let uses = |it: &Use| it.connection_ref().lifespan().uses();
    assert_eq!([&first, &second, &third].map(uses), [1, 2, 3]);
    let line = [waits(&pool), waits(&pool)];
    second.give_back();
    let fourth = handed(&line[0]).expect("it was first");
    assert!(handed(&line[1]).is_none());
    // Cancelled in the middle: only that use ends.
    drop(fourth);
    let fifth = handed(&line[1]).expect("there is room again");
    drop(line);
    let pooled = [first, third, fifth];
    assert_eq!(idle(&pool), 0);
    pooled.into_iter().for_each(PooledConn::give_back);
    assert_eq!((idle(&pool), open(&pool)), (1, 1));
    take(&pool).give_back();
    assert_eq!(pool.handle().status().created, 1);
    drop(_wire);
    at_rest(pool);
}

#[test]
fn a_capacity_that_falls_ends_no_use_and_one_that_rises_serves_the_line() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let (first, wire) = made(&pool, 3);
    let (second, third) = (take(&pool), take(&pool));
    let line = [waits(&pool), waits(&pool), waits(&pool)];
    wire.change(1);
    first.give_back();
    second.give_back();
    assert!(line.iter().all(|it| turn(it).is_none()));
    wire.change(0);
    third.give_back();
    assert!(line.iter().all(|it| turn(it).is_none()));
    assert_eq!(idle(&pool), 1);
    let fourth = waits(&pool);
    wire.change(3);
    let uses = line.each_ref().map(|it| handed(it).expect("there is room"));
    assert!(handed(&fourth).is_none());
    wire.change(4);
    let last = handed(&fourth).expect("there is room");
    drop((line, fourth, wire));
    uses.into_iter().for_each(PooledConn::give_back);
    last.give_back();
    assert_eq!(pool.handle().status().created, 1);
    at_rest(pool);
}

#[test]
fn one_that_goes_away_takes_no_more_and_ends_with_its_last_use() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let (first, wire) = made(&pool, 100);
    let second = take(&pool);
    let waiting = {
        wire.change(2);
        waits(&pool)
    };
    wire.goes_away();
    drop(wire);
    // Its permit passes on at once, because draining may take long.
    let (other, other_wire) = connect(may_make(&waiting).expect("a permit is free"), 1);
    drop(waiting);
    let third = waits(&pool);
    first.give_back();
    assert_eq!(open(&pool), 2);
    // But no more connections may drain than the limit allows.
    other_wire.goes_away();
    drop(other_wire);
    assert!(turn(&third).is_none());
    second.give_back();
    assert_eq!(open(&pool), 2, "the other one, and the permit of the first");
    other.give_back();
    let (last, _) = connect(may_make(&third).expect("a permit is free"), 1);
    drop(third);
    last.give_back();
    let status = pool.handle().status();
    assert_eq!((status.created, status.closed), (3, 2));
    at_rest(pool);
}

#[test]
fn who_finds_one_gone_is_first_in_line_and_others_go_on() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let (first, wire) = made(&pool, 2);
    let second = take(&pool);
    let other = waits(&pool);
    wire.open.store(false, SeqCst);
    drop(wire);
    let ask = CheckoutRequest {
        reuse: Reuse::Any,
        runtime: None,
        is_retry: true,
    };
    let rejected = Some(Rejected::new(second, CloseReason::Peer));
    let decision = pool.checkout(&Uri::from_static(A).key(), ask, rejected, Moment::now());
    // The waiting caller had the permit before it asked again.
    let Decision::Wait(is_retry) = decision else {
        panic!("there is one permit");
    };
    let (made, _) = connect(may_make(&other).expect("it was there before"), 2);
    drop(other);
    let again = match turn(&is_retry) {
        Some(WaitOutcome::Connection(pooled)) => pooled,
        _ => panic!("there is room"),
    };
    drop(is_retry);
    first.give_back();
    made.give_back();
    again.give_back();
    at_rest(pool);
}

#[test]
fn busy_ones_with_room_come_before_idle_ones() {
    let pool = Pool::new(PoolConfig::new());
    let (first, _) = made(&pool, 1);
    let (second, wire) = made(&pool, 1);
    wire.change(2);
    drop(wire);
    let used = id(&second);
    first.give_back();
    let third = take(&pool);
    assert_eq!(id(&third), used);
    let fourth = take(&pool);
    assert_ne!(id(&fourth), used);
    for pooled in [second, third, fourth] {
        pooled.give_back();
    }
    assert_eq!(idle(&pool), 2);
    at_rest(pool);
}

#[test]
fn one_with_room_comes_before_an_idle_one_wherever_it_stands() {
    let pool = Pool::new(PoolConfig::new().scheduling(Scheduling::Fifo));
    let (permit, _) = makes(&pool);
    let (first, over) = connected(permit, 1, true, |lifespan| lifespan.limit_uses(1));
    let (second, roomy) = made(&pool, 1);
    made(&pool, 1).0.give_back();
    over.change(2);
    roomy.change(2);
    drop((over, roomy));
    let third = take(&pool);
    assert_eq!(id(&third), id(&second));
    [first, second, third]
        .into_iter()
        .for_each(PooledConn::give_back);
    assert_eq!(idle(&pool), 2);
    at_rest(pool);
}

#[test]
fn where_connections_are_for_one_each_caller_makes_its_own() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(3));
    let (permit, waiter) = makes(&pool);
    let mut line: Vec<_> = (0..4).map(|_| waits(&pool)).collect();
    let (first, _) = connected(permit, 1, false, |_| {});
    drop(waiter);
    let permits: Vec<_> = line.iter().map_while(may_make).collect();
    assert_eq!(permits.len(), 2, "as many as the limit leaves");
    line.drain(..2);
    let mut uses: Vec<_> = permits
        .into_iter()
        .map(|it| connected(it, 1, false, |_| {}).0)
        .collect();
    first.give_back();
    uses.push(handed(&line[0]).expect("it is next"));
    uses.pop().expect("pushed").give_back();
    uses.push(handed(&line[1]).expect("it is next"));
    drop(line);
    uses.into_iter().for_each(PooledConn::give_back);
    assert_eq!((pool.handle().status().created, idle(&pool)), (3, 3));
    // And from then on.
    let busy = take(&pool);
    drop([take(&pool), take(&pool)]);
    let permits = [makes(&pool).0, makes(&pool).0];
    drop((permits, busy));
    at_rest(pool);
}

#[test]
fn when_a_connect_fails_the_others_are_made_side_by_side() {
    let pool = Pool::new(PoolConfig::new());
    let (mut permit, waiter) = makes(&pool);
    let line = [waits(&pool), waits(&pool), waits(&pool)];
    permit.begin();
    permit.fail(CloseReason::Connect);
    drop(waiter);
    let mut permits = line
        .each_ref()
        .map(|it| may_make(it).expect("side by side"))
        .into_iter();
    let (first, _) = connect(permits.next().expect("three"), UNHEARD);
    let next = waits(&pool);
    drop(permits);
    drop(line);
    first.give_back();
    handed(&next).expect("there is room").give_back();
    drop(next);
    at_rest(pool);
}

#[test]
fn a_caller_who_leaves_before_its_connect_says_nothing_of_the_next() {
    let pool = Pool::new(PoolConfig::new());
    let (permit, waiter) = makes(&pool);
    let (other, last) = (waits(&pool), waits(&pool));
    drop(waiter);
    drop(permit);
    let permit = may_make(&other).expect("one connect is under way");
    assert!(may_make(&last).is_none());
    drop(other);
    let (first, _) = connect(permit, 2);
    let second = handed(&last).expect("there is room");
    drop(last);
    first.give_back();
    second.give_back();
    at_rest(pool);
}

#[test]
fn limits_of_age_and_uses_end_it_with_its_last_use() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let (permit, _) = makes(&pool);
    let (first, _) = connected(permit, 100, true, |lifespan| lifespan.limit_uses(2));
    let second = take(&pool);
    // It has had its two uses, and drains.
    let (third, _) = made(&pool, 100);
    assert_ne!(id(&third), id(&second));
    first.give_back();
    assert_eq!(pool.handle().status().closed, 0);
    second.give_back();
    assert_eq!(pool.handle().status().closes[&CloseReason::Uses], 1);
    third.give_back();
    at_rest(pool);
}

#[test]
fn a_use_that_was_not_begun_does_not_count() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let (permit, _) = makes(&pool);
    let (first, _) = connected(permit, 1, true, |lifespan| lifespan.limit_uses(2));
    let waiter = waits(&pool);
    first.give_back();
    // Given to a caller that is gone.
    drop(waiter);
    assert_eq!(idle(&pool), 1);
    let second = take(&pool);
    assert_eq!(second.connection_ref().lifespan().uses(), 2);
    second.give_back();
    assert_eq!(pool.handle().status().closes[&CloseReason::Uses], 1);
    at_rest(pool);
}

#[test]
fn a_use_that_came_back_is_none_of_those_before_the_next() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let (permit, _) = makes(&pool);
    let (gone, waiter) = (waits(&pool), waits(&pool));
    let (first, _) = connected(permit, 3, true, |lifespan| lifespan.limit_uses(3));
    drop(gone);
    handed(&waiter).expect("there is room").give_back();
    let third = take(&pool);
    assert_eq!(id(&third), id(&first));
    first.give_back();
    third.give_back();
    assert_eq!(pool.handle().status().closes[&CloseReason::Uses], 1);
    drop(waiter);
    at_rest(pool);
}

#[test]
fn a_poisoned_one_takes_no_more_uses() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let (first, _) = made(&pool, 3);
    let second = take(&pool);
    second.connection_ref().lifespan().shared().poison();
    let (third, _) = made(&pool, 1);
    first.give_back();
    second.give_back();
    assert_eq!(pool.handle().status().closes[&CloseReason::Poisoned], 1);
    let shared = third.connection_ref().lifespan().shared().clone();
    third.give_back();
    // Without a use it ends now.
    shared.poison();
    assert!(shared.connection().expect("of a use").is_killed());
    at_rest(pool);
}

#[test]
fn one_shots_are_not_shared() {
    let pool = Pool::new(PoolConfig::new());
    let Decision::Make(permit, waiter) = ask_for(&pool, A, Reuse::Never) else {
        panic!("it makes its own");
    };
    drop(waiter);
    let (one_shot, _) = connect(permit, 100);
    // Other callers do not wait for it either.
    let (other, _) = made(&pool, 100);
    one_shot.give_back();
    other.give_back();
    assert_eq!(pool.handle().status().closes[&CloseReason::Final], 1);
    at_rest(pool);
}

#[test]
fn a_total_counts_connections_and_evicts_those_without_uses() {
    let pool = Pool::new(PoolConfig::new().max_connections(1));
    let (first, wire) = made(&pool, 2);
    let second = take(&pool);
    let Decision::Wait(other) = ask_for(&pool, B, Reuse::Any) else {
        panic!("the total is reached");
    };
    // A use that ends makes no room for another host.
    second.give_back();
    assert!(turn(&other).is_none());
    assert!(matches!(ask(&pool), Decision::Take(_)));
    first.give_back();
    drop(wire);
    let (first, wire) = connect(may_make(&other).expect("it was idle"), 2);
    drop(other);
    let here = waits(&pool);
    wire.goes_away();
    drop(wire);
    let (second, wire) = connect(
        may_make(&here).expect("the one that drains counts no more"),
        2,
    );
    drop(here);
    let Decision::Wait(other) = ask_for(&pool, B, Reuse::Any) else {
        panic!("the total is reached");
    };
    wire.goes_away();
    drop(wire);
    assert!(turn(&other).is_none(), "one drains already");
    first.give_back();
    second.give_back();
    drop(may_make(&other).expect("nothing is left"));
    drop(other);
    at_rest(pool);
}

#[test]
fn what_is_given_and_not_come_for_is_the_next_ones() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let (first, wire) = made(&pool, 1);
    let line = [waits(&pool), waits(&pool)];
    first.give_back();
    pool.shared().table.each(KeyPool::take_back_all);
    let second = handed(&line[1]).expect("the first did not come");
    wire.change(2);
    drop(wire);
    let third = handed(&line[0]).expect("it stands where it stood");
    drop(line);
    second.give_back();
    third.give_back();
    at_rest(pool);
}

#[test]
fn destroy_ends_all_of_it() {
    let pool = Pool::new(PoolConfig::new().max_connections_per_host(1));
    let (first, _) = made(&pool, 2);
    let second = take(&pool);
    let waiter = waits(&pool);
    pool.handle().destroy();
    assert!(matches!(turn(&waiter), Some(WaitOutcome::Refused)));
    let shared = first.connection_ref().lifespan().shared();
    assert!(shared.connection().expect("of a use").is_killed());
    assert_eq!(shared.reason(), Some(CloseReason::Shutdown));
    first.give_back();
    drop((second, waiter));
    at_rest(pool);
}

#[test]
fn the_time_idle_is_counted_from_the_last_use() {
    let pool = Pool::new(PoolConfig::new());
    let (permit, _) = makes(&pool);
    let limit = |lifespan: &mut Lifespan| lifespan.limit_idle(Duration::from_secs(5));
    let (first, _) = connected(permit, 2, true, limit);
    let second = take(&pool);
    first.give_back();
    assert_eq!(idle(&pool), 0);
    second.give_back();
    let mut third = take(&pool);
    let lifespan = third.connection().lifespan();
    assert!(lifespan.is_reused() && lifespan.idle_for() < Duration::from_secs(1));
    third.give_back();
    let later = Moment::now()
        .checked_add(Duration::from_secs(6))
        .expect("soon");
    let host = pool
        .shared()
        .table
        .find(&Uri::from_static(A).key())
        .expect("one is idle");
    host.sweep(later);
    drop(host);
    assert_eq!(pool.handle().status().closes[&CloseReason::Idle], 1);
    at_rest(pool);
}
