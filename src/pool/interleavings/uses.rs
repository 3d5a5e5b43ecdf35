//! Callers that share a connection: they take and return uses, and the connection changes meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, AtomicUsize as LoomUsize, Ordering::SeqCst};
use loom::thread::spawn;

use super::{A, B, explore, wait_for};
use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::Poolable;
use crate::connection::shared::{ChangeHook, TransportGuard};
use crate::pool::{
    CheckoutRequest, ConnPermit, Decision, Pool, PoolConfig, PooledConn, Rejected, WaitOutcome,
};
use crate::target::{Reuse, Target};

/// The common part of a connection and its uses: the transport ends with the last of them.
struct Wire {
    open: AtomicBool,
    capacity: LoomUsize,
    /// Its uses are not shared, as those of HTTP/1 are not.
    is_exclusive: bool,
    changed: Mutex<Option<ChangeHook>>,
    alive: Arc<AtomicUsize>,
    _guard: TransportGuard,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Relaxed);
    }
}

struct Conn {
    wire: Arc<Wire>,
    lifespan: Lifespan,
}

impl Poolable for Conn {
    const SHARED: bool = true;

    fn is_open(&self) -> bool {
        self.wire.open.load(SeqCst)
    }

    fn capacity(&self) -> Option<usize> {
        Some(self.wire.capacity.load(SeqCst))
    }

    fn another(&mut self) -> Option<Self> {
        (!self.wire.is_exclusive).then(|| Self {
            wire: self.wire.clone(),
            lifespan: self.lifespan.another(),
        })
    }

    fn on_change(&mut self, hook: ChangeHook) {
        *self
            .wire
            .changed
            .lock()
            .expect("no model panics and goes on") = Some(hook);
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

impl Wire {
    fn tell(&self) {
        let hook = self
            .changed
            .lock()
            .expect("no model panics and goes on")
            .clone();
        if let Some(hook) = hook {
            hook.run();
        }
    }
}

/// A pool whose connections have this capacity, and the number of uses that are given out. std's atomic, because
/// counting is no step of the model.
#[derive(Clone)]
struct Scene {
    pool: Pool<Conn>,
    capacity: usize,
    is_exclusive: bool,
    alive: Arc<AtomicUsize>,
    out: Arc<AtomicUsize>,
}

/// How long a connection may be idle. No model takes as long.
const IDLE: Duration = Duration::from_secs(3_600);

impl Scene {
    fn new(config: PoolConfig, capacity: usize) -> Self {
        Self {
            pool: Pool::new(config),
            capacity,
            is_exclusive: false,
            alive: Arc::default(),
            out: Arc::default(),
        }
    }

    fn ask(&self, host: &'static str, rejected: Option<Rejected<Conn>>) -> Decision<Conn> {
        let request = CheckoutRequest {
            reuse: Reuse::Any,
            runtime: None,
            is_retry: rejected.is_some(),
        };
        let key = Uri::from_static(host);
        self.pool
            .checkout(&key.key(), request, rejected, Moment::now())
    }

    fn serve(&self) -> Box<PooledConn<Conn>> {
        self.serve_at(A)
    }

    /// A caller's steps until it has a use of an open connection.
    fn serve_at(&self, host: &'static str) -> Box<PooledConn<Conn>> {
        let mut rejected = None;
        loop {
            let mut pooled = match self.ask(host, rejected.take()) {
                Decision::Take(pooled) => pooled,
                Decision::Make(permit, waiter) => {
                    let pooled = self.connect(permit);
                    drop(waiter);
                    pooled
                }
                Decision::Wait(waiter) => {
                    match wait_for(std::future::poll_fn(|cx| waiter.poll_outcome(cx))) {
                        WaitOutcome::Connection(pooled) | WaitOutcome::Made(pooled) => pooled,
                        WaitOutcome::Make(permit) => {
                            let pooled = self.connect(permit);
                            drop(waiter);
                            pooled
                        }
                        WaitOutcome::Refused | WaitOutcome::Lost | WaitOutcome::Stuck(_) => {
                            panic!("nobody is refused")
                        }
                    }
                }
                Decision::QueueFull(_) => panic!("the line has no limit"),
                Decision::ShutDown => panic!("it is open"),
            };
            if pooled.connection_ref().is_open() {
                pooled.check_out(Moment::now(), None);
                return pooled;
            }
            rejected = Some(Rejected::new(pooled, CloseReason::Stale));
        }
    }

    /// All steps of a caller.
    fn exchange(&self, most: usize) {
        let pooled = self.serve();
        let others = self.out.fetch_add(1, Relaxed);
        assert!(others < most, "more uses than it carries");
        self.out.fetch_sub(1, Relaxed);
        pooled.give_back();
    }

    fn connect(&self, mut permit: ConnPermit<Conn>) -> Box<PooledConn<Conn>> {
        self.alive.fetch_add(1, Relaxed);
        let begun = permit.begin();
        let mut lifespan = Lifespan::new();
        lifespan.limit_idle(IDLE);
        let guard = lifespan.take_transport_guard().expect("taken once");
        let wire = Arc::new(Wire {
            open: AtomicBool::new(true),
            capacity: LoomUsize::new(self.capacity),
            is_exclusive: self.is_exclusive,
            changed: Mutex::new(None),
            alive: self.alive.clone(),
            _guard: guard,
        });
        let pooled = permit.fill(
            Conn {
                wire: wire.clone(),
                lifespan,
            },
            begun,
        );
        // As its driver does: from now on its capacity is known.
        wire.tell();
        pooled
    }

    /// The idle timer, after the time for which a connection may be idle.
    fn sweep(&self) {
        let now = Moment::now();
        let late = Moment::new(now.mono + 2 * IDLE, now.wall + 2 * IDLE);
        self.pool.shared().table.each(|key_pool| {
            key_pool.sweep(late);
        });
    }

    fn at_rest(self) {
        self.pool.handle().close_idle();
        let status = self.pool.handle().status();
        assert_eq!(self.alive.load(Relaxed), 0, "{status:?}");
        assert_eq!(status.open(), 0, "{status:?}");
        assert_eq!(status.created, status.closed + status.detached);
        assert!(status.pending.is_empty());
        assert!(self.pool.shared().table.is_empty());
    }
}

fn of_one(capacity: usize) -> Scene {
    Scene::new(PoolConfig::new().max_connections_per_host(1), capacity)
}

fn wire_of(pooled: &PooledConn<Conn>) -> Arc<Wire> {
    pooled.connection_ref().wire.clone()
}

#[test]
fn three_callers_share_a_connection_for_two() {
    explore("three callers, one connection for two", 2, || {
        let scene = of_one(2);
        scene.serve().give_back();
        let others = [scene.clone(), scene.clone()].map(|scene| spawn(move || scene.exchange(2)));
        scene.exchange(2);
        for other in others {
            other.join().expect("served");
        }
        assert_eq!(scene.pool.handle().status().created, 1);
        scene.at_rest();
    });
}

#[test]
fn going_away_against_take_and_hand_over() {
    explore("a connection goes away, two callers", 3, || {
        let scene = of_one(1);
        let pooled = scene.serve();
        let wire = wire_of(&pooled);
        let goes = spawn(move || {
            wire.open.store(false, SeqCst);
            wire.tell();
        });
        let other = {
            let scene = scene.clone();
            spawn(move || scene.serve().give_back())
        };
        pooled.give_back();
        goes.join().expect("gone");
        other.join().expect("served");
        scene.at_rest();
    });
}

#[test]
fn a_capacity_that_changes_against_the_line() {
    explore(
        "capacity to none and back, a caller, a use that ends",
        3,
        || {
            let scene = of_one(1);
            let pooled = scene.serve();
            let wire = wire_of(&pooled);
            let changes = spawn(move || {
                wire.capacity.store(0, SeqCst);
                wire.tell();
                wire.capacity.store(2, SeqCst);
                wire.tell();
            });
            let other = {
                let scene = scene.clone();
                spawn(move || scene.exchange(2))
            };
            pooled.give_back();
            changes.join().expect("changed");
            other.join().expect("served");
            assert_eq!(scene.pool.handle().status().created, 1);
            scene.at_rest();
        },
    );
}

#[test]
fn the_last_use_against_a_caller_and_one_that_is_dropped() {
    explore(
        "two uses, one given back and one dropped, a caller",
        3,
        || {
            let scene = of_one(2);
            let (first, second) = (scene.serve(), scene.serve());
            let drops = spawn(move || drop(first));
            let other = {
                let scene = scene.clone();
                spawn(move || scene.exchange(2))
            };
            second.give_back();
            drops.join().expect("dropped");
            other.join().expect("served");
            assert_eq!(scene.pool.handle().status().created, 1);
            scene.at_rest();
        },
    );
}

#[test]
fn the_last_use_against_the_idle_timer_and_a_caller() {
    explore("the last use ends, the idle timer, a caller", 3, || {
        let scene = of_one(2);
        let last = scene.serve();
        let timer = {
            let scene = scene.clone();
            spawn(move || scene.sweep())
        };
        let other = {
            let scene = scene.clone();
            spawn(move || {
                let pooled = scene.serve();
                // Closed only if it was idle, and so not while it is used.
                assert_eq!(pooled.connection_ref().lifespan().shared().reason(), None);
                pooled.give_back();
            })
        };
        last.give_back();
        timer.join().expect("swept");
        other.join().expect("served");
        scene.at_rest();
    });
}

#[test]
fn the_last_use_against_a_caller_of_its_host_and_one_of_another() {
    let name = "the last use ends, a caller of its host and one of another, room for one";
    explore(name, 2, || {
        let scene = Scene::new(PoolConfig::new().max_connections(1), 2);
        let last = scene.serve();
        let others = [A, B].map(|host| {
            let scene = scene.clone();
            spawn(move || scene.serve_at(host).give_back())
        });
        last.give_back();
        for other in others {
            other.join().expect("served");
        }
        scene.at_rest();
    });
}

#[test]
fn going_away_with_a_use_out_against_a_caller() {
    explore("a connection goes away, its use ends, a caller", 3, || {
        let scene = of_one(2);
        let pooled = scene.serve();
        let wire = wire_of(&pooled);
        let goes = spawn(move || {
            wire.open.store(false, SeqCst);
            wire.tell();
        });
        let other = {
            let scene = scene.clone();
            // What drains counts in no limit, so the caller does not wait for the use.
            spawn(move || scene.serve())
        };
        goes.join().expect("gone");
        let served = other.join().expect("served");
        pooled.give_back();
        served.give_back();
        assert!(scene.pool.handle().status().created <= 2);
        scene.at_rest();
    });
}

#[test]
fn a_capacity_below_what_is_out_against_the_line() {
    explore("two uses, room for one, a caller", 3, || {
        let scene = of_one(2);
        let (first, second) = (scene.serve(), scene.serve());
        let wire = wire_of(&first);
        let shrinks = spawn(move || {
            wire.capacity.store(1, SeqCst);
            wire.tell();
        });
        let is_served = Arc::new(AtomicUsize::new(0));
        let other = {
            let (scene, is_served) = (scene.clone(), is_served.clone());
            spawn(move || {
                let pooled = scene.serve();
                is_served.store(1, Relaxed);
                pooled.give_back();
            })
        };
        shrinks.join().expect("changed");
        first.give_back();
        assert_eq!(is_served.load(Relaxed), 0, "beyond the capacity");
        second.give_back();
        other.join().expect("served");
        assert_eq!(scene.pool.handle().status().created, 1);
        scene.at_rest();
    });
}

#[test]
fn a_connect_that_makes_a_connection_for_one_use_against_the_line() {
    let name = "three callers of a new host, connections for one use, room for two";
    explore(name, 2, || {
        let mut scene = Scene::new(PoolConfig::new().max_connections_per_host(2), 1);
        scene.is_exclusive = true;
        let others = [scene.clone(), scene.clone()].map(|scene| spawn(move || scene.exchange(2)));
        // The two in line need not wait for whoever came first.
        let first = scene.serve();
        for other in others {
            other.join().expect("served");
        }
        assert!(scene.pool.handle().status().created <= 2);
        first.give_back();
        scene.at_rest();
    });
}
