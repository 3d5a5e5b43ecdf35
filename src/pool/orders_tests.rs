//! Every order of a few steps. A step of the pool is one critical section, so these are all schedules of its threads,
//! except for what happens within a lock.

use super::deferred::Deferred;
use super::tests::{Conn, ask, at_rest, connect, made, turn, waits};
use super::wait_queue::{CheckoutRequest, LATER, QueueState, WaitQueue};
use super::*;
use crate::connection::close_reason::CloseReason;
use crate::target::Reuse;

const HOST: &str = "http://a/";

#[derive(Clone, Copy, PartialEq)]
enum Step {
    /// A connection is returned.
    Deliver,
    /// The transport of another connection ends, and its permit passes on.
    Release,
    /// The first waiter checks for its delivery.
    Look,
    /// The first waiter leaves.
    Cancel,
    /// The second waiter checks for its delivery.
    LookAfter,
}

/// All interleavings of the sequences.
fn orders(sequences: &[&[Step]], done: &mut Vec<Step>, each: &mut impl FnMut(&[Step])) {
    if sequences.iter().all(|left| left.is_empty()) {
        return each(done);
    }
    for index in 0..sequences.len() {
        if let Some((step, rest)) = sequences[index].split_first() {
            let mut left = sequences.to_vec();
            left[index] = rest;
            done.push(*step);
            orders(&left, done, each);
            done.pop();
        }
    }
}

/// Collects the delivery; a connection is returned, or made and returned, at once.
fn look(waiter: &Waiter<Conn>) -> bool {
    match turn(waiter) {
        Some(WaitOutcome::Connection(pooled)) => pooled.give_back(),
        Some(WaitOutcome::Make(permit)) => connect(permit).give_back(),
        Some(WaitOutcome::Refused) => panic!("nobody is refused"),
        Some(WaitOutcome::Made(_) | WaitOutcome::Lost | WaitOutcome::Stuck(_)) => {
            panic!("nothing was made for it")
        }
        None => return false,
    }
    true
}

#[test]
fn trust_07_in_every_order_of_deliver_cancel_and_look_each_thing_has_one_owner() {
    use Step::{Cancel, Deliver, Look, LookAfter, Release};
    let mut count = 0;
    let sequences: [&[Step]; 4] = [
        &[Deliver],
        &[Release],
        &[Look, Look, Cancel],
        &[LookAfter, LookAfter],
    ];
    orders(&sequences, &mut Vec::new(), &mut |order| {
        count += 1;
        let pool = Pool::new(PoolConfig::new().max_connections_per_host(2));
        let mut delivered = Some(made(&pool, HOST));
        let mut released = Some(made(&pool, HOST));
        let mut first = Some(waits(ask(&pool, HOST, Reuse::Any)));
        let second = waits(ask(&pool, HOST, Reuse::Any));
        let mut served = false;
        for step in order {
            match step {
                Deliver => delivered.take().expect("once").give_back(),
                Release => released.take().expect("once").close(CloseReason::Peer),
                Look => {
                    look(first.as_ref().expect("not left yet"));
                }
                Cancel => first = None,
                LookAfter => served = look(&second) || served,
            }
            let status = pool.handle().status();
            assert!(status.open() <= 2, "{status}");
        }
        // Whatever the first waiter had, or left, serves the second.
        assert!(served || look(&second), "a wake-up is lost");
        drop(second);
        at_rest(pool);
    });
    assert_eq!(count, 420);
    println!("trust 7: {count} orders, one owner in each");
}

/// A caller that comes back has an old ticket, and an urgent one stands before all others.
#[test]
fn callers_stand_in_the_order_of_their_tickets_in_whichever_order_they_come() {
    let tickets = [1, 2, 3, LATER | 4, LATER | 5, LATER | 6];
    let request = CheckoutRequest {
        reuse: Reuse::Any,
        runtime: None,
        is_retry: false,
    };
    // Every order of six: each digit says which of those that are left comes next.
    for mut order in 0..720 {
        let mut left = tickets.to_vec();
        let mut deferred = Deferred::new();
        let mut queue = WaitQueue::<Conn>::new();
        let now = tokio::time::Instant::now();
        for count in (1..=6).rev() {
            let ticket = left.remove(order % count);
            order /= count;
            queue.join(ticket, request, now, QueueState::Blocked);
        }
        for ticket in tickets {
            let (waiter, first) = queue.first_blocked().expect("nobody is lost");
            assert_eq!(first, ticket);
            queue.abandon(waiter, &mut deferred);
            if ticket == 2 {
                // An urgent one that comes now stands behind the one that is there, and before all others.
                queue.join(4, request, now, QueueState::Blocked);
                let (urgent, _) = queue.first_blocked().expect("nobody is lost");
                queue.abandon(urgent, &mut deferred);
                assert_eq!(queue.first_blocked().map(|it| it.1), Some(4));
                queue.join(3, request, now, QueueState::Blocked);
            }
            if ticket == 3 {
                let (urgent, _) = queue.first_blocked().expect("nobody is lost");
                queue.abandon(urgent, &mut deferred);
            }
        }
        assert!(queue.is_empty() && queue.pending() == 0);
    }
}
