//! Callers of one key that take, return and leave, and checks of the queue.

use std::time::Duration;

use loom::thread::spawn;

use crate::pool::interleavings::{A, Scene, explore};
use crate::pool::{Decision, PoolConfig};

fn of_one() -> Scene {
    Scene::new(PoolConfig::new().max_connections_per_host(1))
}

#[test]
fn every_caller_is_served() {
    explore("three callers, one connection", 3, || {
        let scene = of_one();
        let others =
            [scene.clone(), scene.clone()].map(|scene| spawn(move || scene.serve(A).give_back()));
        scene.serve(A).give_back();
        for other in others {
            other.join().expect("served");
        }
        scene.at_rest();
    });
}

#[test]
fn what_a_caller_who_leaves_had_is_the_next_ones() {
    explore("deliver, cancel and look", 4, || {
        let scene = of_one();
        let conn = scene.serve(A);
        let (first, second) = (scene.waits(A), scene.waits(A));
        let deliver = spawn(move || conn.give_back());
        let cancel = {
            let scene = scene.clone();
            spawn(move || {
                let had = scene.look(&first);
                drop(first);
                if let Some(pooled) = had {
                    pooled.give_back();
                }
            })
        };
        let pooled = scene.turn(second).expect("not refused");
        deliver.join().expect("delivered");
        cancel.join().expect("left");
        pooled.give_back();
        assert_eq!(scene.pool.handle().status().created, 1);
        scene.at_rest();
    });
}

#[test]
fn a_slot_passes_on_once() {
    explore(
        "a connection closed, a caller who leaves, and the next",
        4,
        || {
            let scene = of_one();
            let mut conn = scene.serve(A);
            let driver = conn.connection().driver();
            let (first, second) = (scene.waits(A), scene.waits(A));
            let close = spawn(move || {
                drop(conn);
                driver.ends();
            });
            let cancel = {
                let scene = scene.clone();
                spawn(move || {
                    let had = scene.look(&first);
                    drop(first);
                    drop(had);
                })
            };
            let pooled = scene.turn(second).expect("not refused");
            close.join().expect("closed");
            cancel.join().expect("left");
            drop(pooled);
            scene.at_rest();
        },
    );
}

#[test]
fn a_connection_and_a_slot_serve_two() {
    explore("one given back, one closed, two in line", 2, || {
        let scene = Scene::new(PoolConfig::new().max_connections_per_host(2));
        let (one, two) = (scene.serve(A), scene.serve(A));
        let (first, second) = (scene.waits(A), scene.waits(A));
        let deliver = spawn(move || one.give_back());
        let close = spawn(move || drop(two));
        let other = {
            let scene = scene.clone();
            spawn(move || scene.turn(second).expect("not refused").give_back())
        };
        scene.turn(first).expect("not refused").give_back();
        for task in [deliver, close, other] {
            task.join().expect("no panic");
        }
        scene.at_rest();
    });
}

#[test]
fn a_host_that_goes_quiet_is_not_found_again() {
    explore("the last of a host closed, and a caller", 6, || {
        let scene = Scene::new(PoolConfig::new());
        let last = scene.serve(A);
        let close = spawn(move || drop(last));
        let caller = {
            let scene = scene.clone();
            spawn(move || scene.serve(A).give_back())
        };
        close.join().expect("closed");
        caller.join().expect("served");
        // The connection that it returned is where the next caller finds it.
        match scene.ask(A, None) {
            Decision::Take(pooled) => pooled.give_back(),
            _ => panic!("one is idle"),
        }
        scene.at_rest();
    });
}

#[test]
fn status_is_true_at_every_moment() {
    explore("status against take, put and close", 2, || {
        let scene = of_one();
        let reuse = {
            let scene = scene.clone();
            spawn(move || scene.serve(A).give_back())
        };
        let close = {
            let scene = scene.clone();
            spawn(move || drop(scene.serve(A)))
        };
        for _ in 0..2 {
            let status = scene.pool.handle().status();
            let count = |of: &std::collections::BTreeMap<_, usize>| of.values().sum::<usize>();
            assert!(status.open() <= 1, "{status:?}");
            assert!(count(&status.pending) <= 1, "{status:?}");
            assert!(status.created <= 2 && status.closed <= 2, "{status:?}");
            // A caller that waits, waits for something.
            assert!(count(&status.pending) <= status.open(), "{status:?}");
        }
        reuse.join().expect("served");
        close.join().expect("served");
        scene.at_rest();
    });
}

/// Either the caller or the check that takes back gets the delivery; the other caller is served in the next turn.
#[test]
fn what_is_taken_back_is_not_come_for_too() {
    explore("deliver, come for it, and take it back", 2, || {
        let scene = of_one();
        let conn = scene.serve(A);
        let (first, second) = (scene.waits(A), scene.waits(A));
        let deliver = spawn(move || conn.give_back());
        let take_back = {
            let scene = scene.clone();
            spawn(move || scene.take_back())
        };
        let other = {
            let scene = scene.clone();
            spawn(move || scene.turn(second).expect("not refused").give_back())
        };
        scene.turn(first).expect("not refused").give_back();
        for task in [deliver, take_back, other] {
            task.join().expect("no panic");
        }
        assert_eq!(scene.pool.handle().status().created, 1);
        scene.at_rest();
    });
}

#[test]
fn a_slot_that_is_taken_back_serves_the_next() {
    explore("a permit, come for, and taken back", 2, || {
        let scene = of_one();
        let conn = scene.serve(A);
        let (first, second) = (scene.waits(A), scene.waits(A));
        let close = spawn(move || drop(conn));
        let take_back = {
            let scene = scene.clone();
            spawn(move || scene.take_back())
        };
        let other = {
            let scene = scene.clone();
            spawn(move || drop(scene.turn(second).expect("not refused")))
        };
        drop(scene.turn(first).expect("not refused"));
        for task in [close, take_back, other] {
            task.join().expect("no panic");
        }
        scene.at_rest();
    });
}

#[test]
fn what_is_made_for_a_caller_who_does_not_come_is_the_next_ones() {
    explore("delivered, come for, and taken back", 2, || {
        let scene = of_one();
        let (permit, maker) = match scene.ask(A, None) {
            Decision::Make(permit, waiter) => (permit, waiter),
            _ => panic!("nothing is open"),
        };
        let next = scene.waits(A);
        let key_pool = permit.key_pool().clone();
        let waiter_id = maker.waiter_id();
        let deliver = {
            let scene = scene.clone();
            spawn(move || key_pool.deliver(waiter_id, scene.connect(permit)))
        };
        let take_back = {
            let scene = scene.clone();
            spawn(move || scene.take_back())
        };
        let other = {
            let scene = scene.clone();
            spawn(move || scene.turn(next).expect("not refused").give_back())
        };
        // It may have lost it.
        if let Some(pooled) = scene.turn(maker) {
            pooled.give_back();
        }
        for task in [deliver, take_back, other] {
            task.join().expect("no panic");
        }
        assert_eq!(scene.pool.handle().status().created, 1);
        scene.at_rest();
    });
}

/// The pool's own checks, with their alert and their list of keys.
#[test]
fn a_look_against_a_claim_and_who_leaves() {
    explore("two looks, a claim, and a caller who leaves", 3, || {
        let config = PoolConfig::new().max_connections_per_host(1);
        let scene = Scene::new(config.hand_over_timeout(Duration::ZERO));
        let conn = scene.serve(A);
        let (first, second) = (scene.waits(A), scene.waits(A));
        conn.give_back();
        let looks = {
            let scene = scene.clone();
            spawn(move || {
                scene.pool.shared().check_overdue(true);
                scene.pool.shared().check_overdue(true);
            })
        };
        let leaves = {
            let scene = scene.clone();
            spawn(move || {
                let had = scene.look(&first);
                drop(first);
                if let Some(pooled) = had {
                    pooled.give_back();
                }
            })
        };
        let pooled = scene.turn(second).expect("not refused");
        leaves.join().expect("left");
        looks.join().expect("looked");
        pooled.give_back();
        assert_eq!(scene.pool.handle().status().created, 1);
        scene.at_rest();
    });
}
