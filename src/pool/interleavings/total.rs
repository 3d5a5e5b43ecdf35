//! Callers of several keys under one total limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use loom::thread::spawn;

use crate::pool::interleavings::{A, B, Scene, explore};
use crate::pool::{Decision, PoolConfig};

#[test]
fn no_host_misses_what_another_gives_back() {
    explore("two hosts, a total of one", 3, || {
        let scene = Scene::new(PoolConfig::new().max_connections(1));
        let other = {
            let scene = scene.clone();
            spawn(move || scene.serve(B).give_back())
        };
        scene.serve(A).give_back();
        other.join().expect("served");
        scene.at_rest();
    });
}

#[test]
fn a_put_and_two_in_line() {
    explore("a put, its own host's caller and another's", 2, || {
        let scene = Scene::new(PoolConfig::new().max_connections(1));
        let conn = scene.serve(A);
        let deliver = spawn(move || conn.give_back());
        let other = {
            let scene = scene.clone();
            spawn(move || scene.serve(B).give_back())
        };
        scene.serve(A).give_back();
        deliver.join().expect("delivered");
        other.join().expect("served");
        scene.at_rest();
    });
}

/// While a permit is reserved for a caller that has not collected it, a later caller does not overtake that caller.
#[test]
fn a_slot_set_aside_is_not_overtaken() {
    explore("a permit set aside, and one who comes later", 4, || {
        let config = PoolConfig::new()
            .max_connections(2)
            .max_connections_per_host(1);
        let scene = Scene::new(config);
        let conn = scene.serve(A);
        let waiting = scene.waits(A);
        let close = spawn(move || drop(conn));
        let later = {
            let scene = scene.clone();
            spawn(move || match scene.ask(A, None) {
                Decision::Wait(waiter) => drop(waiter),
                _ => panic!("overtook the one in line"),
            })
        };
        close.join().expect("closed");
        later.join().expect("stood behind");
        drop(scene.turn(waiting).expect("not refused"));
        scene.at_rest();
    });
}

/// While a permit is reserved for a caller that has not collected it, a caller that need not wait may take the last
/// place of their host.
#[test]
fn a_slot_set_aside_does_not_exceed_the_hosts_limit() {
    explore("a permit set aside, and one who is urgent", 2, || {
        let config = PoolConfig::new()
            .max_connections(2)
            .max_connections_per_host(1);
        let scene = Scene::new(config);
        let conn = scene.serve(A);
        let waiting = scene.waits(A);
        let close = spawn(move || drop(conn));
        let urgent = {
            let scene = scene.clone();
            // A caller that is given a permit or a connection returns it, and so the other one is served.
            spawn(move || drop(scene.serve_anew(A)))
        };
        drop(scene.turn(waiting).expect("not refused"));
        close.join().expect("closed");
        urgent.join().expect("served");
        scene.at_rest();
    });
}

#[test]
fn a_slot_set_aside_for_one_who_leaves_comes_back() {
    explore(
        "a permit set aside, its caller gone, another host's",
        2,
        || {
            let scene = Scene::new(PoolConfig::new().max_connections(1));
            let conn = scene.serve(A);
            let (leaves, stays) = (scene.waits(A), scene.waits(B));
            let close = spawn(move || drop(conn));
            let cancel = spawn(move || drop(leaves));
            drop(scene.turn(stays).expect("not refused"));
            close.join().expect("closed");
            cancel.join().expect("left");
            scene.at_rest();
        },
    );
}

/// A caller that has left is no reason to close a connection.
#[test]
fn a_caller_who_leaves_the_total_is_forgotten() {
    explore("another host's caller leaves, and a put", 4, || {
        let scene = Scene::new(PoolConfig::new().max_connections(1));
        let conn = scene.serve(A);
        let leaves = scene.waits(B);
        let left = Arc::new(AtomicBool::new(false));
        let cancel = {
            let left = left.clone();
            spawn(move || {
                drop(leaves);
                left.store(true, Ordering::Relaxed);
            })
        };
        // Not by the status, because the order in which it visits two hosts differs in every execution.
        let had_left = left.load(Ordering::Relaxed);
        conn.give_back();
        cancel.join().expect("left");
        let status = scene.pool.handle().status();
        assert!(!had_left || status.closed == 0, "{status:?}");
        scene.at_rest();
    });
}

#[test]
fn too_many_idle_are_closed_once() {
    explore("two puts and a take, at most one idle", 3, || {
        let config = PoolConfig::new().max_idle(1).max_connections_per_host(2);
        let scene = Scene::new(config);
        let (one, two) = (scene.serve(A), scene.serve(A));
        let puts = [one, two].map(|conn| spawn(move || conn.give_back()));
        if let Decision::Take(pooled) = scene.ask(A, None) {
            pooled.give_back();
        }
        for put in puts {
            put.join().expect("given back");
        }
        let status = scene.pool.handle().status();
        assert!(status.idle.values().sum::<usize>() <= 1, "{status:?}");
        scene.at_rest();
    });
}
