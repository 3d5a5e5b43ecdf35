//! Ends of one connection, or of all, while a caller takes it, returns it or makes it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;

use loom::thread::spawn;

use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::connection::shared::{CloseHook, ConnShared, TransportGuard};
use crate::pool::interleavings::{A, Scene, explore, wait_for};
use crate::pool::{Decision, PoolConfig, Stop};

#[derive(Default)]
struct Stopped(AtomicBool);

impl Stop for Stopped {
    fn stop(&self, _: CloseReason) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn of_one() -> Scene {
    Scene::new(PoolConfig::new().max_connections_per_host(1))
}

#[test]
fn close_against_take() {
    explore("an idle connection closed, two callers", 3, || {
        let scene = of_one();
        let mut conn = scene.serve(A);
        let driver = conn.connection().driver();
        conn.give_back();
        let close = spawn(move || driver.ends());
        let other = {
            let scene = scene.clone();
            spawn(move || scene.serve(A).give_back())
        };
        scene.serve(A).give_back();
        close.join().expect("closed");
        other.join().expect("served");
        scene.at_rest();
    });
}

#[test]
fn close_against_hand_over() {
    explore("a connection closed while it is handed over", 4, || {
        let scene = of_one();
        let mut conn = scene.serve(A);
        let driver = conn.connection().driver();
        let close = spawn(move || driver.ends());
        let deliver = spawn(move || conn.give_back());
        scene.serve(A).give_back();
        close.join().expect("closed");
        deliver.join().expect("delivered");
        scene.at_rest();
    });
}

#[test]
fn close_against_make() {
    explore("a transport gone before its permit is filled", 4, || {
        let scene = of_one();
        let mut permit = scene.may_make(A);
        let begun = permit.begin();
        let mut conn = scene.connection();
        let driver = conn.driver();
        let next = scene.waits(A);
        let close = spawn(move || driver.ends());
        let fill = spawn(move || permit.fill(conn, begun).give_back());
        let served = scene.turn(next).expect("not refused");
        close.join().expect("closed");
        fill.join().expect("filled");
        drop(served);
        scene.at_rest();
    });
}

#[test]
fn drain_against_put() {
    explore("drain, a put, and a caller who was let in", 3, || {
        let scene = of_one();
        let conn = scene.serve(A);
        let let_in = scene.waits(A);
        let deliver = spawn(move || conn.give_back());
        let caller = {
            let scene = scene.clone();
            spawn(move || scene.turn(let_in).expect("let in before").give_back())
        };
        wait_for(scene.pool.handle().drain());
        // Not before the last connection is closed, and nobody is admitted any more.
        scene.has_nothing();
        assert!(matches!(scene.ask(A, None), Decision::ShutDown));
        deliver.join().expect("delivered");
        caller.join().expect("served");
        scene.has_nothing();
    });
}

#[test]
fn drain_against_take() {
    explore("drain, and one who comes at that moment", 4, || {
        let scene = of_one();
        let caller = {
            let scene = scene.clone();
            spawn(move || match scene.ask(A, None) {
                Decision::Make(permit, waiter) => {
                    drop(waiter);
                    scene.connect(permit).give_back();
                }
                Decision::ShutDown => {}
                _ => panic!("nothing is open"),
            })
        };
        wait_for(scene.pool.handle().drain());
        // It resolved before that caller came, or when its connection was closed by `caller`, which may not have
        // returned.
        caller.join().expect("served or refused");
        scene.has_nothing();
    });
}

#[test]
fn destroy_against_make_and_wait() {
    explore("destroy, a connect, and a caller in line", 2, || {
        let scene = of_one();
        let permit = scene.may_make(A);
        let waiting = scene.waits(A);
        let make = {
            let scene = scene.clone();
            spawn(move || scene.connect(permit))
        };
        let caller = {
            let scene = scene.clone();
            spawn(move || drop(scene.turn(waiting)))
        };
        scene.pool.handle().destroy();
        let made = make.join().expect("made");
        // In use or not, it has to end now.
        assert!(made.connection_ref().lifespan().shared().is_killed());
        made.give_back();
        caller.join().expect("served or refused");
        scene.has_nothing();
    });
}

#[test]
fn destroy_against_a_connect_without_its_caller() {
    explore("destroy, and a connect left behind", 6, || {
        let scene = of_one();
        let permit = scene.may_make(A);
        let leave = spawn(move || {
            let stopped = Arc::<Stopped>::default();
            let stop: Weak<dyn Stop> = Arc::downgrade(&(stopped.clone() as Arc<dyn Stop>));
            permit
                .key_pool()
                .set_connecting(permit.index(), stop.clone(), None);
            let wanted = permit.key_pool().leave_connecting(permit.index(), &stop);
            (permit, wanted, stopped)
        });
        scene.pool.handle().destroy();
        let (permit, wanted, stopped) = leave.join().expect("left");
        assert!(
            !wanted || stopped.0.load(Ordering::Relaxed),
            "it would go on"
        );
        drop(permit);
        scene.has_nothing();
    });
}

#[test]
fn the_last_owner_against_put() {
    explore("the last owner dropped, and a put", 6, || {
        let scene = of_one();
        let handle = scene.pool.handle();
        let alive = scene.alive.clone();
        let conn = scene.serve(A);
        let deliver = spawn(move || conn.give_back());
        drop(scene);
        deliver.join().expect("delivered");
        let status = handle.status();
        assert_eq!(alive.load(Ordering::Relaxed), 0, "{status:?}");
        assert_eq!((status.open(), status.closed), (0, 1), "{status:?}");
    });
}

#[test]
fn a_hook_runs_once() {
    explore("a transport detached, and gone", 6, || {
        let shared = Arc::new(ConnShared::new());
        let guard = TransportGuard::new(shared.clone());
        let runs = Arc::new(AtomicUsize::new(0));
        let gone = spawn(move || drop(guard));
        let detach = {
            let shared = shared.clone();
            spawn(move || shared.detach())
        };
        let counted = runs.clone();
        shared.on_close(CloseHook::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        }));
        gone.join().expect("gone");
        detach.join().expect("detached");
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_detached_transport_hears_of_its_end() {
    explore("kill, and a detached transport that waits", 6, || {
        let shared = Arc::new(ConnShared::new());
        shared.detach();
        let transport = {
            let shared = shared.clone();
            spawn(move || {
                wait_for(std::future::poll_fn(|cx| {
                    if shared.is_killed() {
                        return Poll::Ready(());
                    }
                    shared.wake_if_killed(cx.waker());
                    Poll::Pending
                }));
            })
        };
        shared.kill(CloseReason::Shutdown);
        transport.join().expect("heard");
    });
}
