//! Connections to several addresses of one name.

use std::net::SocketAddr;

use super::*;
use crate::agent::Spread;
use crate::connection::shared::{Addresses, TransportInfo};
use crate::connection::timings::ConnectTimes;

fn address(last: u8) -> SocketAddr {
    ([192, 0, 2, last], 80).into()
}

/// The first use of a new connection to this address.
fn made_to(pool: &Pool<Conn>, last: u8, capacity: usize) -> (Use, Arc<Wire>) {
    let (permit, _waiter) = makes(pool);
    connected(permit, capacity, true, |lifespan| {
        lifespan.shared().set_transport(TransportInfo {
            addresses: Some(Box::new(Addresses {
                remote: Some(address(last)),
                ..Addresses::default()
            })),
            times: ConnectTimes::NONE,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "http2")]
            streams: None,
        });
    })
}

fn spread(spread: Spread) -> Pool<Conn> {
    Pool::new(PoolConfig::new().spread(spread))
}

fn key_pool(pool: &Pool<Conn>) -> Arc<KeyPool<Conn>> {
    let key = Uri::from_static(A);
    pool.shared().table.find(&key.key()).expect("it has some")
}

#[test]
fn what_drains_already_is_not_taken_out_of_use_once_more() {
    let pool = spread(Spread::FewestOpenFirst);
    let (one, one_wire) = made_to(&pool, 1, 1);
    let (two, two_wire) = made_to(&pool, 1, 1);
    let (three, three_wire) = made_to(&pool, 1, 1);
    one_wire.goes_away();
    drop((one_wire, two_wire, three_wire));
    let key_pool = key_pool(&pool);
    let draining = || -> Vec<_> {
        let now = key_pool.lock().shared_now();
        now.into_values().map(|(_, drains)| drains).collect()
    };
    for count in 1..=3 {
        assert_eq!(draining().iter().filter(|it| **it).count(), count);
        key_pool.leave_address(address(1), 1);
    }
    drop(key_pool);
    for pooled in [one, two, three] {
        pooled.give_back();
    }
    at_rest(pool);
}

/// With as many requests under way at each.
#[test]
fn further_uses_are_taken_of_the_addresses_in_turn() {
    for how in [Spread::InTurn, Spread::FewestOpenFirst] {
        let pool = spread(how);
        let [one, two] = [1, 2].map(|last| made_to(&pool, last, 1));
        let wires = [one.1, two.1];
        wires.iter().for_each(|wire| wire.change(9));
        drop(wires);
        let turns = [(); 4].map(|()| {
            let pooled = take(&pool);
            let to = id(&pooled);
            pooled.give_back();
            to
        });
        assert_ne!(turns[0], turns[1], "{how:?}");
        assert_eq!(turns[..2], turns[2..], "{how:?}");
        for pooled in [one.0, two.0] {
            pooled.give_back();
        }
        at_rest(pool);
    }
}
