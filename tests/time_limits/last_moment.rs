//! A request that is sent in the very moment in which its connection ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Empty;
use tokio::io::DuplexStream;
use tokio::task::yield_now;
use tokio::time::timeout;
use tower::{Layer, ServiceExt, service_fn};
use tower_keep_alive::{
    BoxError,
    layers::{HandshakeLayer, HttpConnection},
};
use tower_service::Service;

/// How many delays are tried, between too early and too late.
const MOMENTS: u32 = 600;

async fn connection() -> (HttpConnection<Empty<Bytes>>, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(64);
    let mut ours = Some(ours);
    let connect = service_fn(move |_: Uri| {
        let ours = ours.take().expect("asked once");
        async { Ok::<_, BoxError>(ours) }
    });
    let handshake = HandshakeLayer::new().layer(connect);
    let uri = Uri::from_static("http://h/");
    let conn = handshake.oneshot(uri).await.expect("no I/O, no failure");
    (conn, theirs)
}

/// Closes what is put into it, with as little delay as can be.
struct Closer {
    doomed: Arc<Mutex<Option<DuplexStream>>>,
    full: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
}

impl Closer {
    fn start() -> Self {
        let closer = Self {
            doomed: Arc::default(),
            full: Arc::default(),
            end: Arc::default(),
        };
        let (doomed, full) = (closer.doomed.clone(), closer.full.clone());
        let end = closer.end.clone();
        std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                if full.swap(false, Ordering::AcqRel) {
                    drop(doomed.lock().unwrap().take());
                }
                std::hint::spin_loop();
            }
        });
        closer
    }

    fn close(&self, stream: DuplexStream) {
        *self.doomed.lock().unwrap() = Some(stream);
        self.full.store(true, Ordering::Release);
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// hyper alone forgets one in some thousands of them; see `Http1Connection::call`.
#[test]
fn a_request_sent_while_its_connection_ends_is_not_forgotten() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let closer = Closer::start();
    let begun = Instant::now();
    let (mut unsent, mut sent, mut moment) = (0, 0, 0);
    while begun.elapsed() < Duration::from_secs(3) {
        runtime.block_on(async {
            let (mut conn, theirs) = connection().await;
            yield_now().await;
            closer.close(theirs);
            // A little longer each time, from the beginning again after that.
            moment = (moment + 7) % MOMENTS;
            for _ in 0..moment {
                std::hint::spin_loop();
            }
            let request = Request::get("/").body(Empty::new()).unwrap();
            let answer = timeout(Duration::from_secs(5), conn.call(request)).await;
            let error = answer.expect("not forgotten").expect_err("nobody is there");
            match error.into_unsent() {
                Some(_) => unsent += 1,
                None => sent += 1,
            }
        });
    }
    // Both sides of the moment were seen, and so the moment itself was.
    assert!(unsent > 0 && sent > 0, "{unsent} unsent, {sent} sent");
}
