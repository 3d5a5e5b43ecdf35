//! Every order in which a few tasks can take the pool's locks and atomics, tried one by one (trust test 7).
//!
//! The source is the one that is shipped: `crate::sync` gives it the checker's locks. Each model asserts a promise of
//! its own. All of them assert that no transport beyond the limit is alive, that no wake-up is lost (a caller that is
//! never woken is a deadlock, which the checker reports), and that all counts agree at the end.
//!
//! # Bounds
//!
//! Two to four tasks, and as many preemptions (a task interrupted where it could go on) as each model allows. A switch
//! where a task has to wait does not count as one, so every order of uninterrupted steps is tried. Not modelled: the
//! counts of `Arc` (std's), tokio's `Notify` (each call is one step), the sweeper and other timers.
//!
//! The checker is loom and not shuttle: loom tries all orders within the bound, whereas shuttle draws them at random or
//! has no bound, and loom models orderings weaker than `SeqCst`. They are compiled where
//! `--cfg tower_keep_alive_loom` is given: `RUSTC_WORKSPACE_WRAPPER=$PWD/.ci/rustc-interleavings cargo test --lib interleavings::`.

mod ejection;
mod ends;
mod line;
mod total;
mod uses;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use http::Uri;
use loom::sync::{Condvar, Mutex};

use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::Poolable;
use crate::connection::shared::TransportGuard;
use crate::pool::{
    CheckoutRequest, ConnPermit, Decision, Pool, PoolConfig, PooledConn, Rejected, WaitOutcome,
    Waiter,
};
use crate::sync::explore;
use crate::target::{Reuse, Target};

const A: &str = "http://a/";
const B: &str = "http://b/";

/// The pool of one model, and the transports of its connections.
#[derive(Clone)]
struct Scene {
    pool: Pool<Conn>,
    /// std's atomic, because counting is no step of the model.
    alive: Arc<AtomicUsize>,
    limit: usize,
}

/// A connection. Its transport is dropped before its lifespan, and so before its permit passes on.
struct Conn {
    transport: Option<Transport>,
    open: Arc<AtomicBool>,
    lifespan: Lifespan,
}

/// Counted as alive until it is dropped.
struct Transport(Arc<AtomicUsize>);

/// The transport of a connection, in a task of its own.
struct Driver {
    _transport: Transport,
    _guard: TransportGuard,
    open: Arc<AtomicBool>,
}

impl Scene {
    fn new(config: PoolConfig) -> Self {
        let limit = config.max_connections_per_host.min(config.max_connections);
        Self {
            pool: Pool::new(config),
            alive: Arc::default(),
            limit,
        }
    }

    fn ask(&self, host: &'static str, stale: Option<Rejected<Conn>>) -> Decision<Conn> {
        let ask = CheckoutRequest {
            reuse: Reuse::Any,
            runtime: None,
            is_retry: stale.is_some(),
        };
        let key = Uri::from_static(host);
        self.pool.checkout(&key.key(), ask, stale, Moment::now())
    }

    /// A caller's steps until it has an open connection.
    fn serve(&self, host: &'static str) -> Box<PooledConn<Conn>> {
        let mut stale = None;
        loop {
            let pooled = match self.ask(host, stale.take()) {
                Decision::Take(pooled) => pooled,
                Decision::Make(permit, waiter) => {
                    let pooled = self.connect(permit);
                    drop(waiter);
                    return pooled;
                }
                Decision::Wait(waiter) => self.turn(waiter).expect("nobody is refused"),
                Decision::QueueFull(_) => panic!("the line has no limit"),
                Decision::ShutDown => panic!("it is open"),
            };
            if pooled.connection_ref().is_open() {
                return pooled;
            }
            stale = Some(Rejected::new(pooled, CloseReason::Stale));
        }
    }

    /// The same for a caller that wants a new connection, and precedes all others for it.
    fn serve_anew(&self, host: &'static str) -> Box<PooledConn<Conn>> {
        let ask = CheckoutRequest {
            reuse: Reuse::Fresh,
            runtime: None,
            is_retry: false,
        };
        let key = Uri::from_static(host);
        match self.pool.checkout(&key.key(), ask, None, Moment::now()) {
            Decision::Make(permit, _waiter) => self.connect(permit),
            Decision::Wait(waiter) => self.turn(waiter).expect("nobody is refused"),
            Decision::Take(_) => panic!("was used before"),
            Decision::QueueFull(_) => panic!("the line has no limit"),
            Decision::ShutDown => panic!("it is open"),
        }
    }

    /// The connection of a waiting caller, whether or not it was made for it; `None` if the caller is refused.
    fn turn(&self, waiter: Waiter<Conn>) -> Option<Box<PooledConn<Conn>>> {
        match wait_for(std::future::poll_fn(|cx| waiter.poll_outcome(cx))) {
            WaitOutcome::Connection(pooled) => Some(pooled),
            WaitOutcome::Make(permit) => Some(self.connect(permit)),
            WaitOutcome::Made(pooled) => Some(pooled),
            WaitOutcome::Refused | WaitOutcome::Lost | WaitOutcome::Stuck(_) => None,
        }
    }

    /// Checks once for a delivery to a waiting caller.
    fn look(&self, waiter: &Waiter<Conn>) -> Option<Box<PooledConn<Conn>>> {
        match waiter.poll_outcome(&Context::from_waker(Waker::noop())) {
            Poll::Ready(WaitOutcome::Connection(pooled)) => Some(pooled),
            Poll::Ready(WaitOutcome::Make(permit)) => Some(self.connect(permit)),
            Poll::Ready(WaitOutcome::Made(pooled)) => Some(pooled),
            Poll::Ready(WaitOutcome::Refused | WaitOutcome::Lost | WaitOutcome::Stuck(_)) => {
                panic!("nobody is refused")
            }
            Poll::Pending => None,
        }
    }

    fn waits(&self, host: &'static str) -> Waiter<Conn> {
        match self.ask(host, None) {
            Decision::Wait(waiter) => waiter,
            _ => panic!("it has to wait"),
        }
    }

    /// Enough time has passed for all uncollected deliveries.
    fn take_back(&self) {
        let table = &self.pool.shared().table;
        table.each(crate::pool::KeyPool::take_back_all);
    }

    fn may_make(&self, host: &'static str) -> ConnPermit<Conn> {
        match self.ask(host, None) {
            Decision::Make(permit, _waiter) => permit,
            _ => panic!("nothing is open"),
        }
    }

    fn connection(&self) -> Conn {
        let others = self.alive.fetch_add(1, Ordering::Relaxed);
        assert!(others < self.limit, "a transport beyond the limit");
        Conn {
            transport: Some(Transport(self.alive.clone())),
            open: Arc::new(AtomicBool::new(true)),
            lifespan: Lifespan::new(),
        }
    }

    fn connect(&self, mut permit: ConnPermit<Conn>) -> Box<PooledConn<Conn>> {
        let begun = permit.begin();
        permit.fill(self.connection(), begun)
    }

    /// The last line of every model: all counts agree, and nothing is left over.
    fn at_rest(self) {
        self.pool.handle().close_idle();
        self.has_nothing();
    }

    fn has_nothing(&self) {
        let status = self.pool.handle().status();
        assert_eq!(self.alive.load(Ordering::Relaxed), 0, "{status:?}");
        assert_eq!(status.open(), 0, "{status:?}");
        assert_eq!(status.created, status.closed + status.detached);
        assert!(status.pending.is_empty());
        assert!(self.pool.shared().table.is_empty());
        if let Some(total) = self.pool.shared().lock_total() {
            assert!(total.is_at_rest());
        }
    }
}

impl Conn {
    fn driver(&mut self) -> Driver {
        Driver {
            _transport: self.transport.take().expect("taken once"),
            _guard: self.lifespan.take_transport_guard().expect("taken once"),
            open: self.open.clone(),
        }
    }
}

impl Driver {
    /// The server closes.
    fn ends(self) {
        self.open.store(false, Ordering::Relaxed);
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Poolable for Conn {
    fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
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

/// Runs a future on this thread, which sleeps until it is woken.
fn wait_for<F: Future>(future: F) -> F::Output {
    let bell = Arc::new(Bell {
        rung: Mutex::new(false),
        heard: Condvar::new(),
    });
    let waker = Waker::from(bell.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let mut rung = bell.rung.lock().expect("no model panics and goes on");
        while !*rung {
            rung = bell.heard.wait(rung).expect("no model panics and goes on");
        }
        *rung = false;
    }
}

struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().expect("no model panics and goes on") = true;
        self.heard.notify_one();
    }
}
